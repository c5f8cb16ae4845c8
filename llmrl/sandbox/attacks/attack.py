"""What an attack is, and the list of all."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmrl.sandbox.limits import Execution, Limits

QUICK = Limits(cpu_seconds=1.0, wall_seconds=40.0, memory_mb=192, processes=8, open_files=32, output_kb=256, disk_mb=8)
HOSTILE = Path(__file__).parent / "hostile.py"
TEMPLATE = "# what hostile.py calls TOLD is put in below"
OURS = ("llmrl", "__future__")

Judge = Callable[[Execution], str]
"""What went wrong, given how the attack ended; "" if nothing did."""


@dataclass(frozen=True)
class Attack:
    """One attack. `aim`: what it tries to reach.

    source: its program, or the template of one, which the bait is put into. before: a program that runs to its end
    first; beside: one that runs meanwhile. judge: looks at how it ended, beside what is looked at after every attack.
    real: outside of the sandbox it reaches its aim, and does no harm there. weak: why the process tier cannot stop it.
    """

    name: str
    aim: str
    source: str
    limits: Limits = QUICK
    before: str = ""
    beside: str = ""
    judge: Judge | None = None
    real: bool = False
    weak: str = ""

    def program(self, bait: Mapping[str, Any]) -> str:
        """Its source with what it needs to know about the place."""
        return _complete(self.source, bait, self.limits)


ATTACKS: dict[str, Attack] = {}


def attack(
    *,
    cpu_seconds: float | None = None,
    wall_seconds: float | None = None,
    before: Callable[[], object] | None = None,
    beside: Callable[[], object] | None = None,
    **settings: Any,
) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Makes an attack of a function: its body is the program, its docstring the aim."""
    given = {"cpu_seconds": cpu_seconds, "wall_seconds": wall_seconds}
    limits = replace(QUICK, **{name: value for name, value in given.items() if value is not None})

    def made(function: Callable[[], object]) -> Callable[[], object]:
        add(
            Attack(
                name=function.__name__.replace("_", " "),
                aim=(inspect.getdoc(function) or "").rstrip("."),
                source=as_program(function),
                before=as_program(before) if before else "",
                beside=as_program(beside) if beside else "",
                limits=limits,
                **settings,
            )
        )
        return function

    return made


def add(one: Attack) -> None:
    """Put an attack into the list."""
    if one.name in ATTACKS:
        raise ValueError(f"two attacks named {one.name!r}")
    ATTACKS[one.name] = one


def ended_by(*causes: str) -> Judge:
    """The judge of an attack that one of these is to end, and nothing else."""
    return lambda execution: "" if execution.ended in causes else f"ended as {execution.ended}"


def as_program(function: Callable[[], object]) -> str:
    """The template of a program that calls this function."""
    lines = inspect.getsource(function).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("def "))
    body = "\n".join(lines[start:])
    return f"{TEMPLATE}\n{HOSTILE.read_text()}\n{_imports(function)}\n\n{body}\n\n\n{function.__name__}()\n"


def _imports(function: Callable[[], object]) -> str:
    """What its module imports, but for what is ours."""
    module = sys.modules[function.__module__]
    nodes = ast.parse(inspect.getsource(module)).body
    plain = [node for node in nodes if isinstance(node, ast.Import)]
    named = [node for node in nodes if isinstance(node, ast.ImportFrom) and not f"{node.module}".startswith(OURS)]
    return "\n".join(ast.unparse(node) for node in (*plain, *named))


def _complete(template: str, bait: Mapping[str, Any], limits: Limits) -> str:
    """A program that is no template (it starts otherwise) stays as it is."""
    if not template.startswith(TEMPLATE):
        return template
    told = json.dumps({**bait, "limits": asdict(limits)})
    return template.removeprefix(TEMPLATE + "\n").replace('TOLD: str = "{}"', f"TOLD: str = {told!r}", 1)
