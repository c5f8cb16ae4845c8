"""Curves of over-optimization, read from the folders of runs.

A curve is of one stage, over all runs. A stage that samples and trains nothing gives one of best-of-n, from its
recorded groups; a trained one gives one of its evaluations. Both need a reward of weight 0, which audits the others.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrl.errors import RecipeError, unknown_name
from llmrl.evaluation.best_of_n import best_of_n, divergence_of_best_of_n
from llmrl.evaluation.pass_at_k import powers_up_to
from llmrl.overoptimization.laws import BEST_OF_N, TRAINING, Fit, Law, fit
from llmrl.run_folder.reader import RunReader

PROXY, GOLD = "proxy", "gold"
"""The reward that is optimized, and the reward that audits it."""


@dataclass(frozen=True)
class Point:
    """The gains of both rewards over the start, at a number n of samples or after a step, in one run.

    run: the run's place among the runs. kl: the divergence from the start, in nats a completion. gains: by PROXY, GOLD.
    """

    run: int
    place: int
    kl: float
    gains: Mapping[str, float]

    @property
    def distance(self) -> float:
        return math.sqrt(max(self.kl, 0.0))


@dataclass(frozen=True)
class Curve:
    """The points of one stage. place: the name of what the points are counted in. starts: by run, the means of both
    rewards where the gains are 0."""

    name: str
    place: str
    law: Law
    points: list[Point] = field(default_factory=list)
    starts: dict[int, Mapping[str, float]] = field(default_factory=dict)

    def start(self, reward: str) -> float:
        """The reward's mean over the runs' starts."""
        return sum(one[reward] for one in self.starts.values()) / len(self.starts)

    def value(self, point: Point, reward: str) -> float:
        """The reward itself at a point."""
        return self.starts[point.run][reward] + point.gains[reward]

    @property
    def places(self) -> dict[int, list[Point]]:
        """The points of every run, by number of samples or step, in order."""
        found: dict[int, list[Point]] = {}
        for point in sorted(self.points, key=lambda point: point.place):
            found.setdefault(point.place, []).append(point)
        return found

    def fitted(self, reward: str) -> Fit | None:
        """The law fitted to the points of all runs."""
        return fit(self.law, [point.distance for point in self.points], [point.gains[reward] for point in self.points])


def curves_of(runs: Sequence[RunReader], audit: str | None = None) -> list[Curve]:
    """The curves of all stages with an audited reward, in the order of the recipe.

    audit: which reward of weight 0 is the gold one; default: the only one. Raises RecipeError if there is no curve, or
    if a stage has several rewards of weight 0 and `audit` names none of them.
    """
    found: dict[str, Curve] = {}
    for number, run in enumerate(runs):
        for name, stage in run.recipe.get("stages", {}).items():
            gold = _audit(name, stage, audit)
            if gold is None:
                continue
            trained = stage.get("trained", True)
            curve = found.setdefault(name, Curve(name, "step", TRAINING) if trained else Curve(name, "n", BEST_OF_N))
            measured = _evaluations(run, name, gold) if trained else _best_of_n(run, name, gold)
            _add(curve, number, list(measured))
    curves = [curve for curve in found.values() if curve.points]
    if not curves:
        raise RecipeError(
            f"RUN: no stage of {', '.join(str(run.path) for run in runs)} has a curve: expected a reward of weight 0 "
            "beside one that is trained on, and evaluation.samples, or a stage that samples alone (trained: false)"
        )
    return curves


def _audit(name: str, stage: Mapping[str, Any], asked: str | None) -> str | None:
    """The gold reward of a stage; None if nothing audits its rewards."""
    weights = {reward: (settings or {}).get("weight", 1.0) for reward, settings in (stage.get("rewards") or {}).items()}
    audits = [reward for reward, weight in weights.items() if weight == 0]
    if not audits or len(audits) == len(weights):
        return None
    if asked is None and len(audits) > 1:
        raise RecipeError(f"--audit: stage {name} has several rewards of weight 0; name one of {', '.join(audits)}")
    if asked is not None and asked not in audits:
        raise RecipeError(unknown_name("--audit", asked, audits, f"reward of weight 0 in stage {name}"))
    return asked or audits[0]


Measured = tuple[int, float, dict[str, float]]
"""A place on a curve, its divergence, and the means of both rewards there."""


def _add(curve: Curve, run: int, measured: Sequence[Measured]) -> None:
    if measured:
        start = measured[0][2]
        curve.starts[run] = start
        for place, kl, means in measured:
            curve.points.append(Point(run, place, kl, {name: means[name] - start[name] for name in means}))


def _evaluations(run: RunReader, stage: str, gold: str) -> Iterator[Measured]:
    """The means over the samples of each evaluation that measured the divergence."""
    audit = f"eval/sampled_audit/{gold}"
    for row in run.metrics:
        if row["stage"] == stage and "eval/kl" in row and audit in row:
            yield row["step"], row["eval/kl"], {PROXY: row["eval/sampled_reward"], GOLD: row[audit]}


def _best_of_n(run: RunReader, stage: str, gold: str) -> Iterator[Measured]:
    """The means over the stage's questions of the best of n of each question's samples, as the reward sees it."""
    table = run.rollouts(stage=stage, kind="train", columns=["step", "prompt_id", "reward", "scores", "failure"])
    groups: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for row in table.to_pylist():
        if row["failure"] is None:
            pair = row["reward"], json.loads(row["scores"])[gold]
            groups.setdefault((row["step"], row["prompt_id"]), []).append(pair)
    most = max(map(len, groups.values()), default=0)
    for n in powers_up_to(most) if most else ():
        whole = [list(zip(*group, strict=True)) for group in groups.values() if len(group) >= n]
        proxy = sum(best_of_n(scores, scores, n) for scores, _ in whole) / len(whole)
        audit = sum(best_of_n(scores, golds, n) for scores, golds in whole) / len(whole)
        yield n, divergence_of_best_of_n(n), {PROXY: proxy, GOLD: audit}


def readers(folders: Sequence[Path]) -> list[RunReader]:
    """The readers of run folders; raises RecipeError for a folder that holds no run."""
    found = [RunReader(folder) for folder in folders]
    faults = [f"RUN: '{one.path}' holds no run; expected the folder of one" for one in found if not one.in_use]
    if faults:
        raise RecipeError(*faults)
    return found
