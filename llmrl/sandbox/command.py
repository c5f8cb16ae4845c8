"""The command `llmrl sandbox`: prints this machine's tiers, the results of attacks on one tier, and its speed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from llmrl.errors import RecipeError, unknown_name
from llmrl.sandbox.attacks import cheats, suite
from llmrl.sandbox.attacks.cheats import GradeProgram
from llmrl.sandbox.attacks.suite import Result
from llmrl.sandbox.limits import SandboxError
from llmrl.sandbox.sandbox import Sandbox
from llmrl.sandbox.speed import RUN, counts, measured
from llmrl.sandbox.tiers import TIERS, Tier, tiers


def run(
    *,
    tier: str | None,
    attack: bool,
    bench: bool,
    markdown: bool,
    at_once: int,
    grade: GradeProgram,
    works: Mapping[str, str],
    console: Console,
) -> int:
    """Print what the flags ask for; returns the exit code, which is 1 if an attack breached or no tier works here.

    grade: the function that grades programs, which the cheats attack. works: further kinds of work for `bench`, as
    name: "module:function". Raises RecipeError for a tier that is unknown or does not work here.
    """
    if tier is not None and tier not in TIERS:
        raise RecipeError(unknown_name("--tier", tier, TIERS, "tier"))
    wanted = TIERS[tier] if tier else None
    if not (attack or bench):
        return _show_tiers(wanted, console)
    try:
        with Sandbox(wanted, allow_weak=True) as sandbox:
            found = sandbox.tier
        breached = _attack(found, at_once, grade, markdown, console) if attack else False
        if bench:
            _bench(found, {"a program that prints a line": RUN, **works}, markdown, console)
    except SandboxError as error:
        raise RecipeError(f"sandbox: {error}") from None
    return int(breached)


def _show_tiers(wanted: Tier | None, console: Console) -> int:
    """Print each tier, whether it works and what it lacks; the first one that works is the one in use."""
    used = None
    for tier in (wanted,) if wanted else tiers():
        lines = [f"[bold]{tier.name}[/bold]: {tier.summary}"]
        try:
            with Sandbox(tier) as sandbox:
                used = used or tier
                state = "used" if used is tier else "works"
                lines.append(f"{state}{'' if tier.strong else ', where allow_weak is set'}")
                lines += [f"lacks {lack}" for lack in sandbox.missing]
        except SandboxError as error:
            lines.append(f"cannot be had: {error}".replace("no sandbox can be had here: ", ""))
        console.print("\n  ".join(lines), highlight=False, soft_wrap=True)
    if wanted and used is None:
        raise RecipeError(f"--tier: {wanted.name} cannot be had on this machine")
    return 0 if used else 1


def _attack(tier: Tier, at_once: int, grade: GradeProgram, markdown: bool, console: Console) -> bool:
    """Run all attacks and cheats and print their results; returns whether any of them breached."""
    console.print(f"attacks on the tier {tier.name}: {tier.summary}\n", highlight=False, soft_wrap=True)

    def show(result: Result) -> None:
        if not markdown:
            console.print(_line(result), markup=False, highlight=False, soft_wrap=True)

    results = suite.run(tier, at_once=at_once, on_result=show)
    with Sandbox(tier) as sandbox:
        for cheat in cheats.CHEATS:
            results.append(cheats.run_one(sandbox, cheat, grade))
            show(results[-1])
    if markdown:
        rows = [(one.name, one.aim, one.ended, _verdict(one)) for one in results]
        print(_markdown(("attack", "aim", "how it ended", "verdict"), rows))
    breached = [one for one in results if not one.held]
    verdict = f"{len(results)} attacks, {len(breached) or 'none'} breached"
    console.print(f"\n{verdict}", style="bold red" if breached else "bold green", highlight=False)
    return bool(breached)


def _line(result: Result) -> str:
    return f"{result.name:<34} {result.aim}\n{'':<34} {result.ended or 'done'}: {_verdict(result)}"


def _verdict(result: Result) -> str:
    return "held" if result.held else f"BREACHED: {'; '.join(result.breaches)}"


def _bench(tier: Tier, works: Mapping[str, str], markdown: bool, console: Console) -> None:
    """Print how many times a second each kind of work is done, by one process and by several at once."""
    load = os.getloadavg()[0]
    header = ["per second, at once:", *(str(count) for count in counts()), "bound by"]
    rows = []
    for name, work in works.items():
        speeds = list(measured(tier, work, counts()))
        best = max(speeds, key=lambda speed: speed.per_second)
        rows.append([name, *(f"{speed.per_second:.0f}" for speed in speeds), f"{best.bound} ({best.busy:.0%} busy)"])
    processors = len(os.sched_getaffinity(0))
    console.print(
        f"\nspeed of the tier {tier.name} on {processors} processors, each with its own sandbox; "
        f"load before: {load:.1f}\n",
        highlight=False,
        soft_wrap=True,
    )
    if markdown:
        print(_markdown(header, rows))
        return
    table = Table(*header, box=None)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [list(header), ["---"] * len(header), *(list(row) for row in rows)]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
