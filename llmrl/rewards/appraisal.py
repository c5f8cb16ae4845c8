"""The reward of appraisers, who write what an unfinished answer is worth."""

from __future__ import annotations

from llmrl.marks import settings_checked_by
from llmrl.rewards.critiques import worth
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import UnreadableError, check_range, rated
from llmrl.types import UNREADABLE, Failure, Score, Trajectory


@settings_checked_by(check_range)
async def appraisal(
    completion: str,
    trajectory: Trajectory,
    prompt: str = "",
    *,
    low: float = 0.0,
    high: float = 10.0,
    unreadable: float = 0.0,
    score: str | None = None,
    thoughts_end: str | None = None,
) -> Score | Failure:
    """How well a written number, as [[7]], foretells the outcome of the answer that it follows.

        v = (number - low) / (high - low)        value = 1 - (v - outcome)^2

    outcome: the verdict of the answer's verifier, 1 or 0, or the value of its reward `score`. The expected reward is
    largest where v is the expected outcome, so that an appraiser of prefixes (a move's `prefixes`) learns a value
    function. The provider appraised_values reads v as the metric `value`. unreadable: the value without a number from
    low to high. Raises ValueError where the answer lacks the outcome that is read. thoughts_end: see `after_thoughts`.
    Source: GenAC, arXiv 2604.10701; the squared error is a reconstruction.
    """
    answer = trajectory.parent
    if answer is None:
        return Failure("appraisal", "invalid", "an appraisal follows an answer; name its move's `of`")
    if answer.failure is not None:
        return answer.failure
    said = after_thoughts(completion, prompt, thoughts_end=thoughts_end) or ""
    try:
        value = rated(said, low, high)
    except UnreadableError:
        return Score(unreadable, outcome=UNREADABLE, metrics={"parse_failures": 1.0})
    error = (value - worth(answer, score)) ** 2
    return Score(1 - error, metrics={"value": value, "squared_error": error, "parse_failures": 0.0})
