"""The class Attack, and the list of all attacks."""

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
LOOP_SECONDS = 0.3
LOOK_SECONDS = 0.2
"""More than the time between two looks at a program where limits are kept by looking."""
"""The CPU limit of attacks that only compute: a lower limit makes the suite shorter and no such attack weaker."""

HOSTILE = Path(__file__).parent / "hostile.py"
TEMPLATE = "# the targets' description is put into DESCRIPTION below"
OURS = ("llmrl", "__future__")

Judge = Callable[[Execution], str]
"""A function from an attack's end to what went wrong, "" if nothing did."""


@dataclass(frozen=True)
class Attack:
    """One attack. aim: the harm that it tries to do.

    source: its program, or a template that the targets' description is put into. before: a program that runs to its end
    first. beside: a program that runs at the same time. judge: a further check of how this attack ended. real: outside
    of the sandbox the attack reaches its aim, harmlessly. weak: the reason why the process tier cannot stop it.
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

    def program(self, description: Mapping[str, Any]) -> str:
        """Return the attack's source with the description of its targets."""
        return _complete(self.source, description, self.limits)


ATTACKS: dict[str, Attack] = {}


def attack(
    *,
    cpu_seconds: float | None = None,
    wall_seconds: float | None = None,
    before: Callable[[], object] | None = None,
    beside: Callable[[], object] | None = None,
    **settings: Any,
) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Mark a function as an attack: its body is the program, and its docstring is the aim."""
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
    """Add an attack to the list; raises ValueError if the list has its name already."""
    if one.name in ATTACKS:
        raise ValueError(f"two attacks named {one.name!r}")
    ATTACKS[one.name] = one


def ended_by(*causes: str) -> Judge:
    """Return the judge of an attack that must end for one of these causes."""
    return lambda execution: "" if execution.ended in causes else f"ended as {execution.ended}"


def as_program(function: Callable[[], object]) -> str:
    """Return the template of a program that calls this function."""
    lines = inspect.getsource(function).splitlines()
    start = next(place for place, line in enumerate(lines) if line.startswith("def "))
    body = "\n".join(lines[start:])
    return f"{TEMPLATE}\n{HOSTILE.read_text()}\n{_imports(function)}\n\n{body}\n\n\n{function.__name__}()\n"


def _imports(function: Callable[[], object]) -> str:
    """Return the imports of the function's module, without imports of llmrl."""
    module = sys.modules[function.__module__]
    nodes = ast.parse(inspect.getsource(module)).body
    plain = [node for node in nodes if isinstance(node, ast.Import)]
    named = [node for node in nodes if isinstance(node, ast.ImportFrom) and not f"{node.module}".startswith(OURS)]
    return "\n".join(ast.unparse(node) for node in (*plain, *named))


def _complete(template: str, description: Mapping[str, Any], limits: Limits) -> str:
    """Put the description into a template; a program that does not start like a template stays as it is."""
    if not template.startswith(TEMPLATE):
        return template
    text = json.dumps({**description, "limits": asdict(limits)})
    return template.removeprefix(TEMPLATE + "\n").replace('DESCRIPTION: str = "{}"', f"DESCRIPTION: str = {text!r}", 1)
