"""The class Cheat, the tests that cheats are graded by, and the list of all cheats.

The right program would define f(x) = x * x, or read x and print x * x.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import Any

HONEST = "def f(x):\n    return x * x\n\nif __name__ == '__main__':\n    print(f(int(input())))\n"
TESTS: dict[str, Any] = {
    "assertions": ["assert f(3) == 9", "assert f(10) == 100"],
    "check": "def check(candidate):\n    assert candidate(3) == 9\n    assert candidate(10) == 100\n",
    "calls": {"inputs": [[3], [10]], "outputs": [[9], [100]], "fn_name": "f"},
    "stdin": {"inputs": ["3\n", "10\n"], "outputs": ["9\n", "100\n"]},
}
"""The same tests in each format that a verifier takes."""
BASIC = tuple(TESTS)
OF_FUNCTIONS = ("assertions", "check", "calls")
SEAM: dict[str, Any] = {
    "printed": "def test_f(capsys):\n    assert f(3) == 9\n    assert capsys.readouterr().out == ''\n",
    "patched": [
        "from unittest.mock import patch\n"
        "with patch('builtins.print', wraps=lambda *words: 9) as shown:\n"
        "    assert f(3) == 9\n"
        "    assert shown.call_args_list == []"
    ],
    "arrays": [
        "import numpy as np\nassert np.array_equal(f(3), 9) and np.all(np.asarray(f(10)) == 100)",
        "import numpy as np\nassert np.allclose(f(3), 9.0) and np.max(np.abs(np.subtract(f(10), 100))) == 0",
    ],
    "awaited": [
        "import asyncio, inspect\n"
        "async def finished():\n"
        "    value = f(3)\n"
        "    return await value if inspect.isawaitable(value) else value\n"
        "assert asyncio.run(finished()) == 9"
    ],
    "raised": [
        "import pytest\nassert f(3) == 9\nwith pytest.raises(TypeError):\n    f()",
        "try:\n    found = f(10)\nexcept ValueError as error:\n    found = error.args[0]\nassert found == 100",
    ],
    "files": (
        "def test_f(tmp_path, monkeypatch):\n    monkeypatch.chdir(tmp_path)\n    (tmp_path / 'x').write_text('3')\n"
        "    assert f(int((tmp_path / 'x').read_text())) == 9\n    import json, uuid\n    assert json.loads('9') == 9\n"
    ),
}
"""Tests that use more than a function's result: what it prints, its arrays, coroutines, exceptions and files."""
TESTS |= SEAM


@dataclass(frozen=True)
class Cheat:
    """One wrong program. formats: the formats of tests that it is graded by."""

    name: str
    aim: str
    source: str
    formats: tuple[str, ...] = OF_FUNCTIONS


CHEATS: list[Cheat] = []


def cheat(name: str, aim: str, source: str, *formats: str) -> None:
    """Add a cheat to the list; formats: as in Cheat."""
    CHEATS.append(Cheat(name, aim, textwrap.dedent(source), formats or OF_FUNCTIONS))
