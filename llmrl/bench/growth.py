"""Growth: the time of a token as groups, completions and ranks grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median

from llmrl.bench.measure import Bar, Figure, Setting, in_turn
from llmrl.bench.peer import ours
from llmrl.bench.work import CASES, Case, lay_out

RISES = Bar(most=1.05)
"""The time of a token at the largest over that at the smallest; what is over 1 is noise."""
LONG = CASES["long"]
ACCELERATE = "training.strategy=accelerate"
SERIES: Mapping[str, Sequence[tuple[str, Case, Sequence[str]]]] = {
    "group size": [(str(size), replace(LONG, group_size=size), ()) for size in (4, 16)],
    "completion tokens": [(str(most), replace(LONG, completion_tokens=most), ()) for most in (64, 256)],
    "ranks": [(str(count), LONG, (ACCELERATE, f"--nproc={count}")) for count in (1, 2)],
}
"""What grows: for each size a case and arguments of `llmrl train`."""


def measure(setting: Setting) -> list[Figure]:
    """The microseconds of a token at each size, and by how much they rise; the ranks share the threads."""
    found: list[Figure] = []
    for name, sizes in SERIES.items():
        if setting.quick and name != "group size":
            continue
        jobs = {
            size: lambda size=size, case=case, given=given: _token(name, size, case, given, setting)  # noqa: B023
            for size, case, given in sizes
        }
        taken = in_turn(jobs, setting.rounds)
        first, *_, last = taken
        ratios = [large / small for small, large in zip(taken[first], taken[last], strict=True)]
        found.append(Figure(f"{name}: {last} over {first}", ratios, "x", None if setting.quick else RISES))
        found += [Figure(f"{name} {size}: a token", values, "us") for size, values in taken.items()]
    return found


def _token(name: str, size: str, case: Case, given: Sequence[str], setting: Setting) -> float:
    """The microseconds of a trained token in a run."""
    case = replace(case, build=CASES["tiny"].build, steps=2, dropped=1) if setting.quick else case
    folder = setting.folder / "growth" / name.replace(" ", "_") / size
    lay_out(case, folder)
    ranks = int(size) if name == "ranks" else 1
    own = replace(setting, threads=max(1, setting.threads // ranks))
    ran = ours(case, folder, own, *given)
    return 1e6 * median(ran.seconds) / (case.completions * ran.tokens)
