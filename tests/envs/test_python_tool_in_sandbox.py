"""The Python tool with programs that really run."""

from __future__ import annotations

import pytest
from dialogue import EOS, Words, play

from llmrl.envs.python_tool import python_tool
from llmrl.sandbox import Execution, Program, shared

CALL = "```python\n{}\n```"


def outputs(*programs: str, **settings) -> list[tuple[str, float | None]]:
    """What is told of each program of one trajectory, and what its turn earns."""
    words = Words()
    script = [CALL.format(program) for program in programs] + ["Ok", EOS]
    given = {"reward_ran": 1.0, "reward_failed": 0.0, "max_calls": len(programs), "allow_weak": True}
    [group], _ = play([script], python_tool, words=words, max_tokens=10_000, **(given | settings))
    [trajectory] = group.trajectories
    assert trajectory.failure is None
    assert trajectory.text == "Ok"
    turns = trajectory.turns
    told = [words.decode(turn.token_ids) for turn in turns[1::2]]
    told = [text.removeprefix("\n```output\n").removesuffix("\n```\n") for text in told]
    return list(zip(told, [turn.reward for turn in turns[:-1:2]], strict=True))


def run(source: str) -> Execution:
    return shared(allow_weak=True).run(Program({"source": source}, runner="notebook"))


def test_output_errors_and_time():
    found = outputs(
        "print(6 * 7)",
        "for n in range(3):\n    print(n)",
        "1 / 0",
        "print('before')\nraise KeyError('x')",
        "def f(:\n    pass",
        "print('é €')",
        "while True:\n    pass",
        "import time\ntime.sleep(60)",
        "input()",
        "x = 1",
        "print('x' * 3000)",
        cpu_seconds=1,
        wall_seconds=4,
    )
    assert found == [
        ("42", 1.0),
        ("0\n1\n2", 1.0),
        ("ZeroDivisionError: division by zero", 0.0),
        ("before\nKeyError: 'x'", 0.0),
        ("SyntaxError: invalid syntax", 0.0),
        ("é €", 1.0),
        ("timed out after 1 s of CPU", 0.0),
        ("timed out after 4 s", 0.0),
        ("EOFError: EOF when reading a line", 0.0),
        ("(no output)", 0.0),
        ("x" * 1000 + " ... " + "x" * 1000, 1.0),
    ]


def test_each_program_is_a_fresh_one():
    first, second = outputs("x = 7\nopen('note', 'w').write('7')", "import os\nprint('x' in globals(), os.listdir())")
    assert first == ("1", 1.0)
    assert second == ("False []", 1.0)


def test_a_program_that_prints_what_opens_a_program_opens_none():
    [found] = outputs("print('`' * 3 + 'python\\n1\\n' + '`' * 3)")
    assert found == ("```python\n1\n```", 1.0)


@pytest.mark.parametrize(
    ("source", "stdout"),
    [
        ("x = 3\nx * 2", "6\n"),
        ("'text'", "'text'\n"),
        ("print(1)\n2", "1\n2\n"),
        ("1, 2", "(1, 2)\n"),
        ("*[1, 2], 3", "(1, 2, 3)\n"),
        ("x = 1; x", "1\n"),
        ("x = 1\nx  # a remark\n\n", "1\n"),
        ("f'''{1 + 1}\n'''", "'2\\n'\n"),
        ("[1,\n 2]", "[1, 2]\n"),
        ("from __future__ import annotations\n3", "3\n"),
        ("None", ""),
        ("print(5)", "5\n"),
        ("x = 5", ""),
        ("if True:\n    7", ""),  # as in a notebook, only of the last line itself
        ("", ""),
        ("# nothing", ""),
        ("if __name__ == '__main__':\n    print('main')", "main\n"),
    ],
)
def test_the_value_of_a_last_expression_is_shown(source, stdout):
    execution = run(source)
    assert (execution.ended, execution.exit_code) == ("exited", 0)
    assert execution.stdout.decode() == stdout
    assert execution.report == b"compiled\n"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("x = ", "SyntaxError: invalid syntax"),
        ("return 3", "SyntaxError: 'return' outside function"),
        ("  indented", "IndentationError: unexpected indent"),
        ("(" * 5000 + ")" * 5000, "SyntaxError: too many nested parentheses"),
        ("-" * 200_000 + "1", ""),  # however the parser dies of it, it is not here
        ("\0", "null bytes"),
        ("'\ud800'", "surrogates not allowed"),
    ],
)
def test_what_does_not_compile_is_an_error_of_the_program(source, error):
    execution = run(source)
    assert execution.exit_code != 0
    assert execution.report == b""
    assert error in execution.stderr.decode().splitlines()[-1] if error else True


def test_a_program_may_end_itself():
    assert outputs("print(1)\nraise SystemExit", "print(1, flush=True)\nimport os\nos._exit(3)") == [
        ("1", 1.0),
        ("1\nexited with code 3", 0.0),
    ]
