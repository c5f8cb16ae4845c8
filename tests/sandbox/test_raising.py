"""Exceptions of a program are caught by their classes, and have their arguments, text and attributes."""

from __future__ import annotations

from grading_without_sandbox import results

SOURCE = r"""
    import decimal, json
    class Missing(Exception):
        level = 'low'
        def __init__(self, code, text='bad'):
            super().__init__(text)
            self.code = code
        def shown(self): return f'E{self.code}'
    class Both(Missing, ValueError): pass
    class Worded(Exception):
        def __str__(self): return 'own words'
    def missing(code): raise Missing(code)
    def both(): raise Both(3)
    def worded(): raise Worded()
    def leave(): raise SystemExit(3)
    def parse(): json.loads('{')
    def read(): open('/nonexistent')
    def look(): {}['a']
    def text(): b'\xff'.decode()
    def number(): decimal.Decimal('x')
    def coded():
        error = ValueError('x')
        error.code = 5
        raise error
    def must(x): assert x > 0, 'must be positive'
    def chained():
        try: 1 / 0
        except ZeroDivisionError as error: raise RuntimeError('r') from error
    def found(): return ValueError('z')
    def caught(f):
        try: f()
        except Missing as error: return error.code
    def through(f): f()
    """


def test_classes_of_the_program_are_caught():
    assert results(
        SOURCE,
        "with pytest.raises(Missing) as e:\n    missing(7)\nassert e.type is Missing and str(e.value) == 'bad'\n"
        "assert (e.value.code, e.value.shown(), e.value.level, Missing.level) == (7, 'E7', 'low', 'low')",
        "try:\n    solution.missing(4)\n    assert False\n"
        "except solution.Missing as error:\n    assert error.code == 4",
        "with pytest.raises(ValueError) as e:\n    both()\nassert isinstance(e.value, Missing)\n"
        "assert issubclass(Both, Missing) and issubclass(Both, ValueError) and not issubclass(Missing, ValueError)",
        "with pytest.raises(Worded, match='own words'):\n    worded()",
        "assert Missing(5).code == 5",
        "def f():\n    raise Missing(9)\nassert caught(f) == 9",
        "class Own(Exception):\n    pass\ndef g():\n    raise Own('q')\n"
        "try:\n    through(g)\n    assert False\nexcept Own as error:\n    assert str(error) == 'q'",
        "with pytest.raises(ValueError):\n    missing(1)",
        setup="import pytest, solution",
    ) == ["passed"] * 7 + ["error"]


def test_exceptions_of_libraries_have_their_classes_and_attributes():
    assert results(
        SOURCE,
        "with pytest.raises(SystemExit) as e:\n    leave()\nassert e.value.code == 3",
        "with pytest.raises(json.JSONDecodeError) as e:\n    parse()\nassert (e.value.pos, e.value.lineno) == (1, 1)",
        "with pytest.raises(FileNotFoundError) as e:\n    read()\n"
        "assert (e.value.errno, e.value.filename) == (2, '/nonexistent')",
        "with pytest.raises(KeyError) as e:\n    look()\nassert e.value.args == ('a',) and str(e.value) == \"'a'\"",
        "with pytest.raises(UnicodeDecodeError) as e:\n    text()\nassert e.value.start == 0",
        "with pytest.raises(decimal.InvalidOperation):\n    number()",
        "with pytest.raises(ValueError) as e:\n    coded()\nassert e.value.code == 5 and e.type is ValueError",
        "with pytest.raises(AssertionError, match='positive'):\n    must(0)",
        "assert type(found()) is ValueError and str(found()) == 'z'",
        "with pytest.raises(RuntimeError) as e:\n    chained()\nassert type(e.value.__cause__) is ZeroDivisionError",
        "must(0)",
        setup="import decimal, json, pytest",
    ) == ["passed"] * 10 + ["error"]


def test_how_tests_fail_is_not_told_to_the_program():
    source = """
        def words(f):
            try: f()
            except BaseException as error: return type(error).__name__, str(error), error.args, vars(error)
        """
    tests = (
        "def f():\n    assert 1 == 2, 'expected 2'\nassert words(f)[:2] == ('AssertionError', '')",
        "import pytest\ndef g():\n    pytest.fail('expected 2')\nassert words(g)[:2] == ('AssertionError', '')",
        "def h():\n    raise ValueError('other')\nassert words(h)[:3] == ('ValueError', 'other', ('other',))",
    )
    assert results(source, *tests) == ["passed"] * 3
