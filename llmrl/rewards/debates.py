"""Debate: each debater stands for one answer, and a judge who reads what they say decides for one of the answers."""

from __future__ import annotations

from collections.abc import Mapping

from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import written_label
from llmrl.types import Failure, Score, Trajectory


async def wins_debate(
    trajectory: Trajectory, *, sides: dict[str, str], judgement: str = "verdict", thoughts_end: str | None = None
) -> Score | Failure:
    """1 if the judge decides for the debater's side, -1 for the other one: a game of zero sum.

    sides: by move the label of the answer that it stands for, as in {first: A, second: B}. judgement: the move whose
    texts decide; of several after one statement the mean counts, and one without a label counts 0. Raises ValueError
    for a statement of no side. Source: AI safety via debate, arXiv 1805.00899.
    """
    if trajectory.move not in sides:
        raise ValueError(f"sides: no side for the move {trajectory.move}; sides: {', '.join(sides)}")
    judged = [one for one in trajectory.below if one.move == judgement]
    failed = next((one.failure for one in judged if one.failure), None)
    if failed or not judged:
        return failed or Failure("wins_debate", "invalid", f"no text of the move {judgement} follows the statement")
    values = [_won(one, sides, trajectory.move, thoughts_end) for one in judged]
    return Score(sum(values) / len(values), metrics={"undecided": values.count(0.0) / len(values)})


def _won(judged: Trajectory, sides: Mapping[str, str], move: str, thoughts_end: str | None) -> float:
    part = after_thoughts(judged.text, judged.prompt.text, thoughts_end=thoughts_end)
    label = written_label(part or "", set(sides.values()))
    return 0.0 if label is None else 1.0 if label == sides[move] else -1.0
