"""Metrics of critiques and refinements, from finished trees of trajectories.

    draft, right or wrong ──> critique, with a verdict on the draft ──> refinement, right or wrong

A critique is a trajectory with a score that has a verdict. An answer is one without, of which a verifier says whether
it is right. An answer refines the nearest answer above it in the tree, its draft; an answer without one above is a
draft. Failed trajectories are left out. Everything is a ratio of sums over questions, so a Tally holds the sums of one
question, tallies add up, and intervals come from drawing questions anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmrl.evaluation.pass_at_k import maj_at_k, powers_up_to
from llmrl.types import RIGHT, UNREADABLE, VERDICTS, WRONG, Trajectory

BINS = 10
LARGEST_VOTE = 16
LEVEL = 0.95

Tally = Mapping[str, float]
"""Sums over the trees of a question, by name."""
AnswerOf = Callable[[Trajectory], Hashable | None]
"""The answer that a trajectory gives, equal for equal answers; None for none."""

Measure = Callable[[Mapping[str, Any]], dict[str, np.ndarray]]
"""Metrics of sums, each a number or an array of draws."""


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


def is_answer(trajectory: Trajectory) -> bool:
    """Whether a verifier judged the trajectory, and it is no critique."""
    return trajectory.failure is None and trajectory.correct is not None and trajectory.verdict is None


def draft_of(answer: Trajectory) -> Trajectory | None:
    """The nearest answer above; None for a draft, and below a trajectory that failed."""
    for above in reversed(answer.path[:-1]):
        if above.failure is not None:
            return None
        if is_answer(above):
            return above
    return None


def outcome_of(answer: Trajectory) -> str | None:
    """The outcome of a refinement, such as "wrong_to_right"; None for what is none."""
    draft = draft_of(answer) if is_answer(answer) else None
    return None if draft is None else f"{_truth(draft)}_to_{_truth(answer)}"


def tally(trajectories: Iterable[Trajectory], answer_of: AnswerOf | None = None) -> dict[str, float]:
    """The sums over trajectories of one question, or of several where no interval is wanted.

    answer_of: tells refinements that give another answer than their draft; without it changes are not counted.
    """
    found: Counter[str] = Counter()
    given = [one for one in trajectories if one.failure is None]
    critiques = [one for one in given if one.verdict is not None and one.parent and one.parent.correct is not None]
    found.update(f"{one.verdict} of {_truth(_parent(one))}" for one in critiques)
    found.update(_trust(critiques))
    refinements = [(one, draft) for one in given if is_answer(one) and (draft := draft_of(one))]
    found.update(f"{_truth(draft)} to {_truth(one)}" for one, draft in refinements)
    found.update(_utility(refinements))
    if answer_of is not None:
        found["changed"] = sum(answer_of(one) != answer_of(draft) for one, draft in refinements)
        found["compared"] = len(refinements)
    return dict(found)


def vote_tally(drafts: Sequence[Trajectory], answer_of: AnswerOf) -> dict[str, float]:
    """The sums of maj@k and filtered_maj@k over one question's drafts, for k = 1, 2, 4 ... 16, as far as there are.

    The vote of k is the mean over the disjoint parts of k drafts, in their order. The filtered vote leaves out drafts
    that more of their readable critiques call wrong than right; where all are left out it is the plain vote.
    """
    drafts = [one for one in drafts if is_answer(one)]
    found: dict[str, float] = {}
    for k in powers_up_to(min(len(drafts), LARGEST_VOTE)) if drafts else ():
        parts = [drafts[start : start + k] for start in range(0, len(drafts) - k + 1, k)]
        passed = [[one for one in part if not judged_wrong(one)] or part for part in parts]
        found[f"maj@{k}"] = sum(_vote(part, answer_of) for part in parts) / len(parts)
        found[f"filtered_maj@{k}"] = sum(_vote(part, answer_of) for part in passed) / len(parts)
        found[f"voted@{k}"] = 1.0
    return found


def judged_wrong(draft: Trajectory) -> bool:
    """Whether more of the draft's critiques say wrong than right."""
    said = Counter(one.verdict for one in draft.children if one.failure is None)
    return said[WRONG] > said[RIGHT]


def total(tallies: Iterable[Tally]) -> dict[str, float]:
    """The sum of tallies."""
    found: Counter[str] = Counter()
    for one in tallies:
        found.update(one)  # pyright: ignore[reportArgumentType]: a Counter adds floats as well
    return dict(found)


def rates(sums: Tally, measure: Measure | None = None) -> dict[str, float]:
    """The metrics of a tally, without those that divide by nothing; measure: of sums, in place of the metrics here.

    "wrong" is the positive class of verdict_precision, verdict_recall and verdict_f1. An unreadable verdict agrees with
    nothing: it counts against accuracy and recall. verdict_calibration_error and verdict_brier_score are those of the
    share of a draft's readable critiques that say right, as the chance that the draft is right. critique_utility is the
    accuracy of refinements that read a critique, less that of answers that follow the draft without one, over drafts
    that have both; where no draft has both, less the draft's own.
    """
    found = {name: float(value) for name, value in (measure or _rates)(sums).items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def intervals(
    tallies: Sequence[Tally], measure: Measure | None = None, *, resamples: int = 1000, seed: int = 0
) -> dict[str, Interval]:
    """The intervals that hold each metric with a chance of LEVEL, by the bootstrap over questions.

    tallies: one of each question; answers to one question depend on each other, and so are drawn together. A single
    question has no intervals.
    """
    if len(tallies) < 2:
        return {}
    names = list(dict.fromkeys(name for one in tallies for name in one))
    sums = np.array([[one.get(name, 0.0) for name in names] for one in tallies])
    draws = np.random.default_rng(seed).multinomial(len(tallies), np.full(len(tallies), 1 / len(tallies)), resamples)
    found: dict[str, Interval] = {}
    for name, values in (measure or _rates)(dict(zip(names, (draws @ sums).T, strict=True))).items():
        values = values[np.isfinite(values)]
        if len(values):
            found[name] = Interval(*map(float, np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])))
    return found


def _rates(sums: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The metrics of sums, each a number or an array of draws; nan or infinite where one divides by nothing."""

    nothing = np.zeros_like(next(iter(sums.values()), 0.0), dtype=float)

    def of(name: str) -> np.ndarray:
        return nothing + sums.get(name, 0.0)

    cells = {said: (of(f"{said} of {RIGHT}"), of(f"{said} of {WRONG}")) for said in VERDICTS}
    verdicts = sum((right + wrong for right, wrong in cells.values()), nothing)
    hits, wrong_drafts = cells[WRONG][1], sum((wrong for _, wrong in cells.values()), nothing)
    gaps = sum((np.abs(of(f"gap {place}")) for place in range(BINS)), nothing)
    kept, spoilt, mended, missed = (of(f"{a} to {b}") for a in (RIGHT, WRONG) for b in (RIGHT, WRONG))
    refinements = kept + spoilt + mended + missed
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (mended - spoilt) / refinements
        found = {
            "verdict_accuracy": (cells[RIGHT][0] + hits) / verdicts,
            "verdict_precision": hits / sum(cells[WRONG]),
            "verdict_recall": hits / wrong_drafts,
            "verdict_f1": 2 * hits / (sum(cells[WRONG]) + wrong_drafts),
            "verdicts_unreadable": sum(cells[UNREADABLE]) / verdicts,
            "verdicts_alike": np.max([right + wrong for right, wrong in cells.values()], axis=0) / verdicts,
            "verdict_calibration_error": gaps / of("judged drafts"),
            "verdict_brier_score": of("squared gaps") / of("judged drafts"),
            "accuracy_before": (kept + spoilt) / refinements,
            "accuracy_after": (kept + mended) / refinements,
            "refinement_gain": gain,
            "right_to_right": kept / refinements,
            "right_to_wrong": spoilt / refinements,
            "wrong_to_right": mended / refinements,
            "wrong_to_wrong": missed / refinements,
            "refinements_changed": of("changed") / of("compared"),
            "critique_utility": np.where(of("both") > 0, of("utility") / of("both"), gain),
        }
        for k in [name.removeprefix("voted@") for name in sums if name.startswith("voted@")]:
            found |= {name: of(name) / of(f"voted@{k}") for name in (f"maj@{k}", f"filtered_maj@{k}")}
    return found


def _trust(critiques: Sequence[Trajectory]) -> dict[str, float]:
    """The sums of calibration over drafts with a readable critique: the truth less the share that says right."""
    of_draft: dict[int, list[Trajectory]] = {}
    for one in critiques:
        if one.verdict != UNREADABLE:
            of_draft.setdefault(id(one.parent), []).append(one)
    found: Counter[str] = Counter()
    for own in of_draft.values():
        share = sum(one.verdict == RIGHT for one in own) / len(own)
        gap = float(bool(_parent(own[0]).correct)) - share
        sums = {f"gap {min(int(share * BINS), BINS - 1)}": gap, "squared gaps": gap * gap, "judged drafts": 1.0}
        found.update(sums)  # pyright: ignore[reportArgumentType]
    return dict(found)


def _utility(refinements: Sequence[tuple[Trajectory, Trajectory]]) -> dict[str, float]:
    """The sums over drafts that were answered anew both after a critique and without one."""
    outcomes: dict[int, tuple[list[float], list[float]]] = {}
    for one, draft in refinements:
        outcomes.setdefault(id(draft), ([], []))[one.parent is draft].append(float(bool(one.correct)))
    both = [pair for pair in outcomes.values() if all(pair)]
    gains = [sum(guided) / len(guided) - sum(alone) / len(alone) for guided, alone in both]
    return {"both": float(len(both)), "utility": sum(gains)} if both else {}


def _vote(drafts: Sequence[Trajectory], answer_of: AnswerOf) -> float:
    return maj_at_k([answer_of(one) for one in drafts], [bool(one.correct) for one in drafts])


def _truth(answer: Trajectory) -> str:
    return RIGHT if answer.correct else WRONG


def _parent(trajectory: Trajectory) -> Trajectory:
    assert trajectory.parent is not None
    return trajectory.parent
