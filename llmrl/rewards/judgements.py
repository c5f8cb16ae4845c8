"""Rewards that an answer and its judgements share: the outcome and the judges' votes in one number.

answer ──┬─> judgement      integrated: the answer's reward, from the final outcome and all its judgements
         ├─> judgement      consistency: a judgement's reward, by its agreement with the answer's
         └─> next answer of the same author ──> ...
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from llmrl.rewards.critiques import verdict_of, worth
from llmrl.types import RIGHT, UNREADABLE, WRONG, Failure, Score, Trajectory

SIGNS = {RIGHT: 1.0, WRONG: -1.0, UNREADABLE: 0.0}
"""What a judgement adds to the mean of a step's judgements."""


async def integrated(
    trajectory: Trajectory, *, right: str = "Correct", wrong: str = "Wrong", thoughts_end: str | None = None
) -> Score | Failure | None:
    """The final outcome, and the mean of what the judgements that follow an answer say of the answer.

        z + mean_l s_l        s_l = 1 for `right`, -1 for `wrong`, 0 for an unreadable judgement

    z: the verdict, 1 or 0, of the answer's author's last answer in the same line of answers, or the mean of several; an
    answer that none of its author's follows is the last. right, wrong: the labels, written as [[Correct]].
    thoughts_end: see `after_thoughts`. None for an answer that nobody judges. Source: RLAnything, arXiv 2602.02488.
    """
    return _integrated(trajectory, right, wrong, thoughts_end)


async def consistency(
    trajectory: Trajectory,
    *,
    right: str = "Correct",
    wrong: str = "Wrong",
    unreadable: float = -2.0,
    thoughts_end: str | None = None,
) -> Score | Failure | None:
    """The integrated reward of the answer that is judged, with the judgement's sign.

        (z + mean_l s_l) * s        see `integrated`, whose settings these are

    unreadable: the value of an unreadable judgement. Score.verdict says how the judgement was read, and Score.correct
    whether it agrees with the answer's own verdict, if there is one. None for a text that follows no answer.
    Source: RLAnything, arXiv 2602.02488.
    """
    judged = trajectory.parent
    if judged is None:
        return None
    found = _integrated(judged, right, wrong, thoughts_end)
    if not isinstance(found, Score):
        return found
    said = verdict_of(trajectory.text, trajectory.prompt.text, right=right, wrong=wrong, thoughts_end=thoughts_end)
    agrees = None if judged.correct is None else said == (RIGHT if judged.correct else WRONG)
    return Score(unreadable if said == UNREADABLE else found.value * SIGNS[said], agrees, verdict=said)


def _integrated(answer: Trajectory, right: str, wrong: str, thoughts_end: str | None) -> Score | Failure | None:
    """An answer's final outcome and the mean sign of its judgements."""
    judgements = [one for one in answer.children if one.author != answer.author]
    read = [one for one in judgements if one.failure is None]
    if not read:
        return next((one.failure for one in judgements), None)
    ends = _last_answers(answer)
    scored = [one for one in ends if one.failure is None]
    if not scored:
        return ends[0].failure
    said = [verdict_of(one.text, one.prompt.text, right=right, wrong=wrong, thoughts_end=thoughts_end) for one in read]
    return Score(fmean(worth(one) for one in scored) + fmean(SIGNS[one] for one in said))


def _last_answers(answer: Trajectory) -> Sequence[Trajectory]:
    """The ends of the line of answers in which the same author goes on."""
    own = [one for one in answer.children if one.author == answer.author]
    return [end for one in own for end in _last_answers(one)] or [answer]
