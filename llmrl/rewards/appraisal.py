"""The reward of appraisers, who write what an unfinished answer is worth."""

from __future__ import annotations

from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import Reply, UnreadableError, score
from llmrl.types import UNREADABLE, Failure, Score, Trajectory


async def appraisal(
    completion: str,
    trajectory: Trajectory,
    prompt: str = "",
    *,
    low: float = 0.0,
    high: float = 10.0,
    unreadable: float = 0.0,
    thoughts_end: str | None = None,
) -> Score | Failure:
    """How well a written number, as [[7]], foretells the outcome of the answer that it follows.

        v = (number - low) / (high - low)        value = 1 - (v - outcome)^2

    outcome: the verdict of the answer's verifier, or without one the sum of its rewards. The expected reward is largest
    where v is the expected outcome, so that an appraiser of prefixes (a move's `prefixes`) learns a value function. The
    provider appraised_values reads v as the metric `value`. unreadable: the value without a number from low to high.
    Raises ValueError unless low < high. thoughts_end: see `after_thoughts`. Source: GenAC, arXiv 2604.10701; the
    squared error is a reconstruction.
    """
    if not low < high:
        raise ValueError(f"low {low:g}, high {high:g}: expected low < high")
    answer = trajectory.parent
    if answer is None:
        return Failure("appraisal", "invalid", "an appraisal follows an answer; name its move's `of`")
    if answer.failure is not None:
        return answer.failure
    said = after_thoughts(completion, prompt, thoughts_end=thoughts_end) or ""
    try:
        value = (score(Reply(said), low, high) - low) / (high - low)
    except UnreadableError:
        return Score(unreadable, outcome=UNREADABLE, metrics={"parse_failures": 1.0})
    outcome = sum(one.value for one in answer.scores.values()) if answer.correct is None else float(answer.correct)
    error = (value - outcome) ** 2
    return Score(1 - error, metrics={"value": value, "squared_error": error, "parse_failures": 0.0})
