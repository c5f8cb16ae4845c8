"""Cheats at the seam between a program and its tests: forged values, messages, prints, exceptions and files."""

from __future__ import annotations

from llmrl.sandbox.attacks.cheat import OF_FUNCTIONS, SEAM, cheat

FORGE = """
import gc, json, socket
line = next(one for one in gc.get_objects() if isinstance(one, socket.socket))
def tell(message):
    data = json.dumps(message).encode()
    line.sendall(len(data).to_bytes(4, "big") + data)
"""
"""The beginning of a program that writes messages of its own to the tests' process."""

cheat(
    "library values equal to all",
    "Return a date, a Decimal, a Fraction, a Counter, a path that claims to equal anything",
    """
    import collections, datetime, decimal, fractions, pathlib
    LIES = {name: lambda self, *_: True for name in ("__eq__", "__ge__", "__le__", "__contains__", "__bool__")}
    LIES |= {"__ne__": lambda self, *_: False, "__hash__": lambda self: 0, "__sub__": lambda self, *_: 0}
    def lying(kind, *args):
        return type(kind.__name__, (kind,), dict(LIES))(*args)
    MADE = [
        lying(datetime.date, 2020, 1, 2), lying(datetime.timedelta, 1), lying(decimal.Decimal, "1"),
        lying(fractions.Fraction, 1, 2), lying(collections.Counter, "a"), lying(collections.deque, [1]),
        lying(collections.OrderedDict, [("a", 1)]), lying(pathlib.PurePosixPath, "a"),
    ]
    def f(x):
        return MADE.pop() if MADE else lying(decimal.Decimal, "1")
    """,
    *OF_FUNCTIONS,
    *SEAM,
)
cheat(
    "arrays equal to all",
    "Return an array that claims to equal anything: of a class of one's own, of objects, and through numpy's protocols",
    """
    import numpy
    class Array(numpy.ndarray):
        __array_priority__ = 1e9
        __eq__ = __le__ = lambda self, other: numpy.True_
        __array_ufunc__ = __array_function__ = lambda self, *_, **__: numpy.True_
        __hash__ = lambda self: 0
    class Equal:
        __eq__ = __ge__ = lambda self, other: True
        __sub__ = __rsub__ = __abs__ = lambda self, *_: 0
        __array__ = lambda self, *_, **__: numpy.array(9)
        __array_interface__ = property(lambda self: numpy.array(9).__array_interface__)
        __array_ufunc__ = __array_function__ = lambda self, *_, **__: numpy.True_
        __float__ = __index__ = lambda self: 9
    def f(x):
        return numpy.array(Equal(), dtype=object) if x == 3 else numpy.zeros(()).view(Array)
    """,
    *OF_FUNCTIONS,
    "arrays",
)
cheat(
    "shapes without bytes",
    "Answer with arrays of more items than bytes, of objects at addresses, and of truth values that are neither",
    FORGE
    + """
def f(x):
    for code, shape, items in (
        ("<i8", [1 << 40], ""), ("|O", [1], "41" * 8), ("|b1", [1], "7f"), ("<U1", [1], "ffffffff"), ("<i8", [-1], "")
    ):
        tell(["answer", {"numpy.ndarray": [code, shape, {"bytes": items}]}, []])
    return 0
""",
    *OF_FUNCTIONS,
    "arrays",
)
cheat(
    "types by name",
    "Answer with types that the tests' process must not make: its own, those that skip tests, code as names",
    FORGE
    + """
NAMES = iter(["grader.InvalidError", "unittest.case.SkipTest", "subprocess.Popen", "_pytest.outcomes.Skipped"])
def f(x):
    for name in NAMES:
        tell(["raised", {"error": [{"type": name}, ["id"], "x", {}, None, None]}])
        tell(["answer", {"type": name}, []])
        tell(["answer", {"namedtuple": ["x, __import__('os')._exit(0)", ["__eq__"], [1]]}, []])
        tell(["answer", {"enum": ["E", {"type": "int"}, True, {"dict": [["__eq__"], [1]]}, "__eq__"]}, []])
    return 0
""",
)
cheat(
    "containers without end",
    "Return containers whose items are made when they are asked for, and others of any size",
    """
    import collections, itertools
    class Equal:
        __eq__ = lambda self, other: True
        __hash__ = lambda self: 9
    def endless():
        while True:
            yield from itertools.repeat(Equal(), 1 << 20)
    def f(x):
        if x == 3:
            return collections.defaultdict(Equal, {9: Equal()})
        return collections.deque(endless(), maxlen=1 << 22) if x == 10 else endless()
    """,
)
cheat(
    "prints of comparisons",
    "Print from comparisons, and print what the tests would read as their own words",
    r"""
    import sys
    class Telling:
        def __eq__(self, other):
            print(other)
            return True
        __ne__ = __bool__ = __len__ = __eq__
        __hash__ = lambda self: print("9") or 9
        def __repr__(self):
            print('{"test": 0, "result": "passed", "ended": false, "message": ""}')
            return "9"
    def f(x):
        sys.stdout.write('{"test": 0, "result": "passed"}\n9\n')
        return Telling()
    """,
    *OF_FUNCTIONS,
    "printed",
    "patched",
)
cheat(
    "flood of prints",
    "Send more prints and files than the tests' process can hold",
    FORGE
    + """
def f(x):
    print("9" * 1000)
    while True:
        tell(["ask", "write", [1, "9" * 1000000], {}])
        tell(["ask", "files", [{"dict": [["../../../report"], [{"bytes": "39" * 1000}]]}], {}])
        line.recv(1 << 20)
""",
    "printed",
)
cheat(
    "exceptions with attributes",
    "Raise exceptions whose class, arguments, text and attributes are traps",
    """
    class Kind(type):
        __instancecheck__ = __subclasscheck__ = __eq__ = lambda self, other: True
        __hash__ = type.__hash__
        __mro_entries__ = lambda self, bases: bases
    class Trap(AssertionError, metaclass=Kind):
        __eq__ = lambda self, other: True
        __hash__ = lambda self: 0
        args = property(lambda self: [100])
        __reduce__ = lambda self: (exit, (0,))
        __str__ = lambda self: "passed"
        __cause__ = property(lambda self: self)
    class Equal(ValueError):
        def __init__(self, x):
            self.args = (type("Any", (), {"__eq__": lambda self, other: True})(),)
            self._remote = self._original = None
            self.value = self.code = self
    def f(x=3):
        raise Equal(x) if x == 10 else Trap("passed")
    """,
    *OF_FUNCTIONS,
    "raised",
)
cheat(
    "stolen patches",
    "Read what the tests compare with out of the mocks and functions that they lend",
    """
    import builtins
    NAMES = ("return_value", "side_effect", "call_args", "call_args_list", "mock_calls", "_mock_wraps", "__globals__",
             "__closure__", "__self__", "_mock_children", "__code__", "__dict__", "configure_mock", "assert_any_call")
    def f(x):
        found = []
        for name in NAMES:
            for read in (lambda: getattr(print, name), lambda: print._connection.ask("get", print, name)):
                try:
                    found.append(read())
                except BaseException:
                    pass
        return 9 if any(9 == one or "9" in str(one) for one in found) else 0
    """,
    "patched",
)
cheat(
    "coroutines without end",
    "Return what is awaited for ever, or awaits itself",
    """
    import asyncio
    class Endless:
        def __await__(self):
            while True:
                yield from asyncio.sleep(0).__await__()
        __anext__ = __await__
        __aiter__ = lambda self: self
        __eq__ = lambda self, other: True
    def f(x):
        return Endless()
    """,
    "assertions",
    "awaited",
)
cheat(
    "planted files",
    "Put files where the tests' process would import them or take its settings from them",
    r"""
    import os
    CODE = "import os\nos._exit(0)\n"
    for name in ("json.py", "uuid.py", "conftest.py", "sitecustomize.py", "x", "pytest.py", "numpy.py"):
        open(name, "w").write(CODE)
    open("pytest.ini", "w").write("[pytest]\naddopts = --collect-only\n")
    def f(x):
        for name in ("json.py", "uuid.py", "conftest.py"):
            open(name, "w").write(CODE)
        return 0
    """,
    *OF_FUNCTIONS,
    "files",
)
cheat(
    "generators that pass",
    "End the tests' loops early, by generators and iterators that return, raise and are sent values",
    """
    def f(x):
        def found():
            try:
                got = yield StopIteration()
            finally:
                return 9
        return found() if x == 3 else iter(())
    """,
    *OF_FUNCTIONS,
    "raised",
)
