"""What a program prints, reads, waits for and calls is what its tests capture and replace, as in one process."""

from __future__ import annotations

import pytest
from grading_without_sandbox import called, invalid, report, results

VALUES = """
    import array, collections, enum, numpy as np
    from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
    from datetime import date
    from decimal import Decimal
    Point = namedtuple('Point', 'x y')
    class Color(enum.IntEnum):
        RED = 1
        BLUE = 2
    def counts(text): return Counter(text)
    def lists(): return defaultdict(list, {1: [2]})
    def point(): return Point(1, 2)
    def is_point(p): return isinstance(p, Point)
    def red(): return Color.RED
    def is_red(color): return color is Color.RED
    def double(x): return 2 * x
    def kind(x): return type(x).__name__
    def table(): return np.arange(6, dtype=np.int32).reshape(2, 3)
    def first(items): items[0] = 9
    def push(items): items.append(5)
    def add(counts): counts['z'] += 1
    def last(table): table.move_to_end('a')
    """


def test_values_of_the_library_are_the_same_on_both_sides():
    assert (
        results(
            VALUES,
            "from collections import Counter\nassert counts('aab').most_common(1) == [('a', 2)]",
            "d = lists(); d[5].append(1); assert d == {1: [2], 5: [1]}",
            "assert point() == (1, 2) and point().x == 1 and point() == Point(1, 2) and isinstance(point(), Point)",
            "assert is_point(point()) and is_point(Point(5, 6)) and not is_point((1, 2))",
            "assert red() is Color.RED and red() == 1 and red().name == 'RED' and is_red(red()) and Color(1) is red()",
            "from fractions import Fraction\nassert double(Fraction(1, 2)) == 1 and kind(Fraction(1)) == 'Fraction'",
            "from datetime import timedelta\nassert double(timedelta(hours=1)) == timedelta(hours=2)",
            "Q = namedtuple('Q', 'u v')\nassert double(Q(1, 2)) == (1, 2, 1, 2) and kind(Q(1, 2)) == 'Q'",
            "assert (table() == np.arange(6).reshape(2, 3)).all() and table().dtype == np.int32",
            "assert (double(np.array([1, 2])) == [2, 4]).all() and kind(np.float32(1)) == 'float32'",
            setup="import numpy as np\nfrom collections import namedtuple",
        )
        == ["passed"] * 10
    )
    assert (
        results(
            VALUES,
            "from collections import Counter\nassert counts('aab') == Counter('abb')",
            "assert (table() == np.ones((2, 3))).all()",
            "assert Color.RED is not red()",
            setup="import numpy as np",
        )
        == ["wrong"] * 3
    )


def test_library_values_are_changed_in_place():
    assert (
        results(
            VALUES,
            "a = np.zeros(3); b = a; first(a); assert b[0] == 9 and a is b",
            "import array\nnumbers = array.array('i', [1, 2]); first(numbers); assert numbers[0] == 9",
            "d = collections.deque([1], maxlen=2); push(d); push(d); assert list(d) == [5, 5]",
            "c = collections.Counter('a'); add(c); assert c == {'a': 1, 'z': 1} and type(c) is collections.Counter",
            "o = collections.OrderedDict(a=1, b=2); last(o); assert list(o) == ['b', 'a'] and o.popitem() == ('a', 1)",
            "n = [np.zeros(2)]; m = n[0]; first(n[0]); assert m[0] == 9",
            setup="import collections\nimport numpy as np",
        )
        == ["passed"] * 6
    )


def test_calls_compare_library_values_as_plain_ones():
    source = "import numpy as np, collections\ndef f(x): return {}"
    assert called(source.format("np.int64(x)"), "f", (3, 3), (3, 4)) == ["passed", "wrong"]
    assert called(source.format("np.array([[x, 2]])"), "f", (1, [[1, 2]]), (1, [[1, 3]])) == ["passed", "wrong"]
    assert called(source.format("collections.Counter(x)"), "f", ("aab", {"a": 2, "b": 1})) == ["passed"]


def test_calls_take_arguments_by_name():
    call = {"name": "f", "args": [1], "kwargs": {"b": 5}, "expected": [[1, 5]]}
    lines = report("def f(a, b=2, *, c=0): return [a, b]", calls=[call, {**call, "kwargs": {"d": 1}}])
    assert [line["result"] for line in lines[1:]] == ["passed", "error"]


TALKING = """
    import datetime, os, sys, time, random
    from time import sleep
    def hello(): print('hi')
    def both(): sys.stderr.write('err'); print('x', end='', flush=True); sys.stdout.buffer.write(b'raw')
    def double(): return 2 * int(input())
    def prompt(): return input('name? ')
    def words(): return sys.stdin.read().split()
    def lines(): return [line.strip() for line in sys.stdin]
    def late(): time.sleep(100); return time.time()
    def later(): sleep(50); return 'done'
    def dice(): return random.randint(1, 6)
    def key(): return os.environ.get('KEY')
    def today(): return datetime.date.today()
    def helper(): return 1
    def helped(): return helper() + 1
    class Clock:
        def now(self): return time.time()
    def asked(): return Clock().now()
    def called_back(f): print('before'); f(); print('after')
    """


def test_prints_reach_whoever_the_tests_print_to():
    assert results(
        TALKING,
        """
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                hello(); both()
            assert (out.getvalue(), err.getvalue()) == ('hi\\nxraw', 'err')
            """,
        """
            with contextlib.redirect_stdout(io.StringIO()) as out:
                called_back(lambda: print('between'))
            assert out.getvalue().split() == ['before', 'between', 'after']
            """,
        """
            with contextlib.redirect_stdout(io.StringIO()) as out:
                hello()
            assert out.getvalue() == 'ho\\n'
            """,
        setup="import contextlib, io",
    ) == ["passed", "passed", "wrong"]


def test_tests_replace_what_a_program_calls():
    assert (
        results(
            TALKING,
            "with patch('builtins.input', side_effect=['4', '5']):\n    assert (double(), double()) == (8, 10)",
            "with patch('builtins.print') as shown:\n    hello()\nshown.assert_called_once_with('hi')",
            "with patch('time.sleep') as slept, patch('time.time', return_value=5.0):\n    assert late() == 5.0\n"
            "slept.assert_called_with(100)",
            "with patch.object(random, 'randint', side_effect=[2, 4]):\n    assert [dice(), dice()] == [2, 4]",
            "random.seed(3); first = dice(), dice(); random.seed(3); assert first == (dice(), dice()) == (2, 5)",
            "with patch.dict('os.environ', {'KEY': 'v'}):\n    assert key() == 'v'\nassert key() is None",
            "with patch('sys.stdin', io.StringIO('1 2\\n3')):\n    assert words() == ['1', '2', '3']",
            "with patch('sys.stdin', io.StringIO('7\\n8')):\n    assert lines() == ['7', '8']",
            "with patch('sys.stdin', io.StringIO('Bo\\n')), patch('sys.stdout', new_callable=io.StringIO) as out:\n"
            "    assert prompt() == 'Bo'\nassert out.getvalue() == 'name? '",
            "with patch('builtins.input', return_value='4'):\n    pass\ntry:\n    double()\nexcept EOFError:\n    pass",
            setup="import io, os, random, time\nfrom unittest.mock import patch",
        )
        == ["passed"] * 10
    )


def test_tests_replace_names_of_the_program():
    assert (
        results(
            TALKING,
            "with patch('solution.helper', return_value=5):\n    assert helped() == 6\nassert helped() == 2",
            "with patch('solution.sleep') as slept:\n    assert later() == 'done'\nslept.assert_called_once_with(50)",
            "with patch('solution.random.randint', return_value=3):\n    assert dice() == 3",
            "with patch.object(solution.Clock, 'now', return_value=10):\n    assert asked() == 10\nassert asked() > 10",
            "with patch('solution.datetime.date', Frozen):\n    assert today() == datetime.date(2020, 1, 1)\n"
            "assert today() > datetime.date(2020, 1, 1)",
            "with patch.object(main, 'helper', lambda: 10):\n    assert main.helped() == 11\nassert helped() == 2",
            setup="import datetime, main, solution\nfrom unittest.mock import patch\n"
            "class Frozen(datetime.date):\n    @classmethod\n    def today(cls):\n        return cls(2020, 1, 1)",
        )
        == ["passed"] * 6
    )


COROUTINES = """
    import asyncio
    async def double(x):
        await asyncio.sleep(0)
        return 2 * x
    async def upto(n):
        for i in range(n):
            yield i
    async def fail(): raise KeyError('k')
    async def call(f): return await f(1)
    class Managed:
        async def __aenter__(self): return 5
        async def __aexit__(self, *error): return False
    def echo(n):
        got = yield n
        yield got
        return 7
    def shaped(x: int, y='a', *, z=None) -> str:
        'The words.'
    """


def test_coroutines():
    assert results(
        COROUTINES,
        "assert asyncio.run(double(2)) == 4",
        "assert await double(2) == 4",
        "async def many():\n    return await asyncio.gather(double(1), double(2))\n"
        "assert asyncio.run(many()) == [2, 4]",
        "async def each():\n    return [x async for x in upto(3)]\nassert asyncio.run(each()) == [0, 1, 2]",
        "async def inside():\n    async with Managed() as found:\n        return found\n"
        "assert asyncio.run(inside()) == 5",
        "async def more(x):\n    return x + 1\nassert asyncio.run(call(more)) == 2",
        "try:\n    asyncio.run(fail())\n    assert False\nexcept KeyError as error:\n    assert error.args == ('k',)",
        "assert asyncio.run(double(2)) == 5",
        setup="import asyncio",
    ) == ["passed"] * 7 + ["wrong"]
    test = "async def test_double():\n    assert await double(3) == {}\n"
    assert results(COROUTINES, test.format(6), test.format(7)) == ["passed", "wrong"]


def test_functions_and_generators_show_what_they_are():
    assert (
        results(
            COROUTINES,
            "assert inspect.iscoroutinefunction(double) and not inspect.iscoroutinefunction(shaped)",
            "assert inspect.isgeneratorfunction(echo) and inspect.isasyncgenfunction(upto)",
            "s = inspect.signature(shaped); assert list(s.parameters) == ['x', 'y', 'z']\n"
            "assert s.parameters['y'].default == 'a' and s.return_annotation is str",
            "assert (shaped.__doc__, shaped.__name__, shaped.__defaults__) == ('The words.', 'shaped', ('a',))",
            "assert shaped.__annotations__ == {'x': int, 'return': str}",
            "g = echo(5); assert isinstance(g, types.GeneratorType) and (next(g), g.send(9)) == (5, 9)\n"
            "try:\n    next(g)\nexcept StopIteration as end:\n    assert end.value == 7",
            setup="import inspect, types",
        )
        == ["passed"] * 6
    )


def test_objects_that_tests_make_are_operands():
    source = """
        class Vector:
            def __init__(self, *items): self.items = list(items)
            def __mul__(self, factor): return Vector(*[item * factor for item in self.items])
            __rmul__ = __mul__
            def __add__(self, other): return Vector(*self.items, other)
            def __iadd__(self, other): self.items.append(other); return self
            def __contains__(self, item): return item in self.items
            def __eq__(self, other): return self.items == other.items
            def __hash__(self): return hash(tuple(self.items))
            def __round__(self, digits): return Vector(*[round(item, digits) for item in self.items])
        def made(*items): return Vector(*items)
        """
    tests = [
        "v = Vector(1, 2); assert 2 * v == v * 2 == Vector(2, 4); assert v * 2 + 1 == Vector(2, 4, 1)",
        "v = Vector(1, 2); assert 1 in v and 5 not in v",
        "v = w = Vector(1); v += 7; assert v is w and 7 in w",
        "assert round(Vector(1.26), 1) == Vector(1.3)",
        "assert len({Vector(1), Vector(1), Vector(2)}) == 2 and hash(Vector(1)) == hash(Vector(1))",
        "assert not Vector(1) == 1",
        "assert 1 in made(1)",
    ]
    assert results(source, *tests) == ["passed"] * 6 + ["wrong"]


@pytest.mark.parametrize("value", ["__import__('threading').Lock()", "__import__('socket').socket()", "object()"])
def test_a_value_that_cannot_cross_makes_the_tests_unusable(value):
    assert "cannot be sent" in invalid("def f(x): return x", f"assert f({value}) is not None")


def test_a_preamble_that_fails_makes_the_tests_unusable(monkeypatch):
    import grading_without_sandbox

    def start(name, payload, channel, begin=grading_without_sandbox.start):
        return begin(name, {**payload, "preamble": preamble} if name == "serve" else payload, channel)

    monkeypatch.setattr(grading_without_sandbox, "start", start)
    preamble = "from typing import *\nfrom math import gcd"
    source = "from __future__ import annotations\ndef f(x: List[Never]): return gcd(x[0], 6)"
    assert results(source, "assert f([4]) == 2") == ["passed"]
    preamble = "import nothing_like_this"
    assert "preamble fails: ModuleNotFoundError: No module named" in invalid(source, "assert f([4]) == 2")


def test_the_type_of_an_object_is_the_programs_class():
    source = "class P: pass\nclass Q(P): pass\ndef f(): return 5"
    tests = [
        "assert type(P()) is P and type(Q()) is Q and type(Q()) is not P",
        "assert type(P()).__name__ == 'P'",
        "assert type(f()) is int and type('') is str and isinstance(int, type) and type(5) == int",
        "assert type('R', (), {'x': 1})().x == f() - 4",
        "assert type(Q()) is P",
    ]
    assert results(source, *tests) == ["passed"] * 4 + ["wrong"]


def test_seeds_of_numpys_random_numbers_reach_the_program():
    source = "import numpy as np\ndef f(): return np.random.rand()"
    tests = [
        "import numpy as np\nnp.random.seed(3)\nnumber = f()\nnp.random.seed(3)\nassert f() == number",
        "import numpy as np\nnp.random.seed(3)\nnumber = np.random.rand()\nnp.random.seed(3)\nassert f() == number",
    ]
    assert results(source, *tests) == ["passed"] * 2
