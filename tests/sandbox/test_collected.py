"""Tests that need pytest: fixtures, parameters and marks; and texts that call their own check."""

from __future__ import annotations

from grading_without_sandbox import invalid, results

SOURCE = """
    import os
    def hello(): print('hi')
    def double(x): return 2 * x
    def asked(): return input(), os.environ.get('KEY')
    class Solution:
        def g(self, x): return 2 * x
    """
FIXTURES = """
import pytest

@pytest.fixture
def three():
    yield 3

@pytest.fixture(params=[1, 2])
def number(request, three):
    return request.param + three

def test_prints(capsys):
    hello()
    assert capsys.readouterr().out == "hi\\n"

def test_replaces(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda: "z")
    monkeypatch.setenv("KEY", "1")
    assert asked() == ("z", "1")

@pytest.mark.parametrize("x", [1, pytest.param(2, id="two")])
@pytest.mark.parametrize("y", [3, 4], ids=str)
def test_stacked(x, y):
    assert double(x) + y == 2 * x + y

@pytest.mark.parametrize("x, y", [(1, 2), (2, 5)])
def test_second_is_wrong(x, y):
    assert double(x) == y

class TestMethods:
    @pytest.fixture(autouse=True)
    def prepared(self):
        self.one = 1

    def setup_method(self):
        self.two = 2

    def test_prepared(self, number):
        assert double(number) == 2 * number and (self.one, self.two) == (1, 2)

@pytest.mark.skip
def test_left_out():
    1 / 0

@pytest.mark.xfail
def test_fails_as_marked():
    assert double(1) == 3

@pytest.mark.asyncio
async def test_waits():
    assert double(1) == 2
"""


def test_pytest_gives_fixtures_parameters_and_marks():
    expected = ["passed", "passed", "passed", "wrong", "passed", "passed", "passed", "passed"]
    names = ("prints", "replaces", "stacked", "second", "left_out", "marked", "waits", "prepared")
    assert len(names) == len(expected)
    order = ["passed", "passed", "passed", "wrong", "passed", "passed", "passed", "passed"]
    assert results(SOURCE, FIXTURES, apart=True) == order
    assert results("def double(x): return x", FIXTURES, apart=True)[:2] == ["error", "error"]


def test_a_program_that_does_not_load_fails_each_test():
    assert results("1 / 0", "def test_f(capsys):\n    f()\ndef test_g():\n    f()", apart=True) == ["error", "error"]


def test_faults_of_collected_tests():
    missing = "def test_it(nothing):\n    assert double(1) == nothing"
    assert "fixture 'nothing' not found" in invalid(SOURCE, missing, apart=True)
    unused = "import pytest\n@pytest.mark.parametrize('z', [1])\ndef test_it():\n    assert double(1) == 2"
    assert "uses no argument 'z'" in invalid(SOURCE, unused, apart=True)


def test_a_text_that_calls_its_check_needs_no_entry_point():
    check = "def check(candidate):\n    assert candidate(2) == {}\n\n{}"
    assert results(SOURCE, check.format(4, "check(double)")) == ["passed"]
    assert results(SOURCE, check.format(5, "check(double)")) == ["wrong"]
    assert results(SOURCE, check.format(4, "check(Solution().g)")) == ["passed"]
    assert results(SOURCE, check.format(4, "for f in [double]:\n    check(f)")) == ["passed"]
    assert "no entry_point" in invalid(SOURCE, check.format(4, "def more():\n    check(double)"))
    assert "no entry_point" in invalid(SOURCE, check.format(4, "if __name__ == '__main__':\n    check(double)"))
