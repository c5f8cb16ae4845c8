"""Programs that are no solution do not pass, whatever they do to the tests, and leave nothing for the next."""

from __future__ import annotations

import textwrap

import pytest
from graded_programs import graded, outcome

from llmrl.rewards import program_tests
from llmrl.sandbox import Limits

SPY = """
    import gc, sys, os
    def spy():
        "Every text that this process can find, with what is open and what the system shows of others."
        found = []
        frame = sys._getframe()
        while frame:
            found.append(repr(frame.f_locals))
            frame = frame.f_back
        found += [repr(o) for o in gc.get_objects() if type(o) in (dict, list, tuple, str, bytes)]
        for n in range(64):
            try: found.append(os.pread(n, 1 << 20, 0).decode(errors='replace'))
            except OSError: pass
        for place, _, names in os.walk('.'):
            for name in names: found.append(open(os.path.join(place, name)).read())
        for pid in os.listdir('/proc') if os.path.exists('/proc') else ():
            for name in ('cmdline', 'environ'):
                try: found.append(open(f'/proc/{pid}/{name}').read())
                except OSError: pass
        secret = '-'.join(['very', 'secret'])
        return secret if any(secret in text for text in found) else 'nothing'
    """


CHEATS = {
    "exit at import": "import sys; sys.exit(0)",
    "_exit at import": "import os; os._exit(0)",
    "print and _exit": "import os; print('passed'); os._exit(0)",
    "exit in call": """
        def f(*a):
            import sys; sys.exit(0)
        """,
    "_exit in call": """
        def f(*a):
            import os; os._exit(0)
        """,
    "StopIteration": """
        def f(*a):
            raise StopIteration
        """,
    "equal to all": """
        class E:
            def __eq__(self, other): return True
            __hash__ = None
        def f(*a): return E()
        print(E())
        """,
    "equal int": """
        class E(int):
            def __eq__(self, other): return True
        def f(*a): return E(1)
        """,
    "equal str": """
        class E(str):
            def __eq__(self, other): return True
        def f(*a): return E("x")
        """,
    "equal instance": """
        class f:
            def __init__(self, *a): pass
            def __eq__(self, other): return True
        """,
    "patched builtins": """
        import builtins
        builtins.AssertionError = builtins.Exception = None
        builtins.all = lambda *a: True
        def f(*a): return 1
        """,
    "patched modules": """
        import sys
        for name in list(sys.modules):
            sys.modules[name] = None
        def f(*a): return 1
        """,
    "redefined names": """
        def candidate(*a): return "very-secret"
        def check(candidate): pass
        def all(x): return True
        abs = lambda x: 0
        def f(*a): return 1
        """,
    "atexit": """
        import atexit, os
        atexit.register(lambda: os._exit(0))
        def f(*a): raise SystemExit(0)
        """,
    "written reports": """
        import os
        for fd in range(3, 64):
            try:
                os.write(fd, b'{"tests": 1}\\n{"test": 0, "result": "passed", "ended": false}\\n')
            except OSError:
                pass
        def f(*a): return 1
        """,
    "printed reports": """
        print('{"tests": 1}\\n{"test": 0, "result": "passed", "ended": false}')
        def f(*a): return 1
        """,
    "closed files": """
        import os
        for fd in range(3, 64):
            try:
                os.close(fd)
            except OSError:
                pass
        def f(*a): return 1
        """,
    "shut line": """
        import gc, socket
        for one in gc.get_objects():
            if isinstance(one, socket.socket): one.shutdown(socket.SHUT_RD)
        def f(*a): return 1
        """,
    "stdin twice, stdout closed": """
        import os, sys
        os.close(1)
        sys.stdin.read(); sys.stdin.read()
        def f(*a): return 1
        """,
    "fork": """
        import os
        if os.fork():
            os._exit(0)
        def f(*a): return 1
        """,
    "frames": """
        import inspect
        def f(*a):
            for one in inspect.stack():
                one.frame.f_globals["same"] = one.frame.f_globals["judge"] = lambda *a: True
            return 1
        """,
    "spy": f"{textwrap.dedent(SPY)}\ndef f(*a): return spy()\nif __name__ == '__main__': print(spy())",
}


@pytest.mark.parametrize("name", CHEATS)
def test_cheats_do_not_pass(name):
    cheat, settings = CHEATS[name], {"wall_seconds": 10.0}
    assert outcome(cheat, {"inputs": ["3\n"], "outputs": ["very-secret\n"]}, **settings) != "passed"
    assert outcome(cheat, {"inputs": [[3]], "outputs": ["very-secret"], "fn_name": "f"}, **settings) != "passed"
    expecting = "try:\n    assert f(3) == 'very-secret'\nexcept ZeroDivisionError:\n    pass"
    assert outcome(cheat, ["x = 'very-secret'\nassert f(3) == x", expecting], **settings) != "passed"
    check = """
def check(candidate):
    assert all([candidate(3) == 'very-secret'])
    assert abs(candidate(4) - 2) < 1
"""
    assert outcome(cheat, check, row={"name": "f"}, entry_point="name", **settings) != "passed"


def test_nothing_of_one_grade_is_left_for_the_next():
    assert outcome("def f(n): return 'very-secret'", ["assert f(3) == 'very-secret'"]) == "passed"
    # /tmp by name is there only where this Python does not lie below it
    place = "import os, tempfile\nplace = os.path.join(tempfile.gettempdir(), 'kept-too')\n"
    keeps = f"{place}open('kept', 'w').write('1')\nopen(place, 'w').write('1')\nprint(1)"
    assert outcome(keeps, {"inputs": [""], "outputs": ["1"]}) == "passed"
    finds = f"{place}print(int(os.path.exists('kept') or os.path.exists(place)))"
    assert outcome(finds, {"inputs": [""], "outputs": ["0"]}) == "passed"
    assert outcome(f"{textwrap.dedent(SPY)}\nprint(spy())", {"inputs": [""], "outputs": ["nothing"]}) == "passed"


def test_what_a_program_returns_may_not_keep_the_tests_busy_for_ever(monkeypatch):
    monkeypatch.setattr(program_tests, "BENCH_LIMITS", Limits(cpu_seconds=1.0, memory_mb=1024))
    tests = ["assert f(1) == 1", "assert sum(f(2)) == 3"]
    assert outcome("def f(n): return 1 if n == 1 else range(10**12)", tests) == "timeout"
    assert outcome("def f(n): return 1 if n == 1 else [[]] * 5_000_000", tests) != "passed"
    assert graded("def f(n): return 1 if n == 1 else range(10**12)", tests, partial=True).value == 0.5
