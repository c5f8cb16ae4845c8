"""The figure of over-optimization: gains against the distance from the start, measured and fitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from llmrl.overoptimization.curves import GOLD, PROXY, Curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's, told apart by all eyes
TITLES = {PROXY: "the reward that is optimized", GOLD: "the gold reward, which audits it"}
STEPS = 200


def draw(curves: Sequence[Curve], files: Sequence[Path]) -> None:
    """Write the figure to each file, in the format of its ending; equal curves give equal files."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes: Any = figure.subplots(1, 2)
    for panel, (reward, title) in zip(axes, TITLES.items(), strict=True):
        for curve, colour in zip(curves, COLOURS * len(curves), strict=False):
            _curve(panel, curve, reward, colour)
        panel.axhline(0.0, color="0.7", linewidth=0.8, zorder=0)
        panel.set(title=title, xlabel="sqrt(KL(policy || start))", ylabel="gain over the start")
        panel.spines[["top", "right"]].set_visible(False)
    axes[1].legend(frameon=False)
    with matplotlib.rc_context({"svg.hashsalt": "llmrl"}):
        for file in files:
            nothing = {"Date": None} if file.suffix == ".svg" else {}
            figure.savefig(file, dpi=150, metadata=nothing)


def _curve(panel: Any, curve: Curve, reward: str, colour: str) -> None:
    """Every run's points, their means and the fitted law."""
    panel.plot(
        [point.distance for point in curve.points],
        [point.gains[reward] for point in curve.points],
        "o", color=colour, markersize=3, alpha=0.3, markeredgewidth=0,
    )  # fmt: skip
    places = list(curve.places.values())
    panel.plot(
        [sum(point.distance for point in points) / len(points) for points in places],
        [sum(point.gains[reward] for point in points) / len(points) for points in places],
        "o-", color=colour, markersize=4, linewidth=0.8, label=curve.name,
    )  # fmt: skip
    if found := curve.fitted(reward):
        furthest = max(point.distance for point in curve.points)
        distances = [furthest * step / STEPS for step in range(STEPS + 1)]
        panel.plot(distances, [found.gain(d) for d in distances], "--", color=colour, linewidth=1.2)
