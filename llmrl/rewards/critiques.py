"""Rewards of critiques: whether the verdict is right, and what the texts that follow the critique make of it."""

from __future__ import annotations

from llmrl.marks import reads_answers
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import written_label
from llmrl.types import RIGHT, UNREADABLE, WRONG, Failure, Score, Trajectory


def _read(
    completion: str, prompt: str = "", *, right: str = "Correct", wrong: str = "Wrong", thoughts_end: str | None = None
) -> str | None:
    return written_label(after_thoughts(completion, prompt, thoughts_end=thoughts_end) or "", (right, wrong))


@reads_answers(_read)
async def discrimination(
    completion: str,
    trajectory: Trajectory,
    prompt: str = "",
    *,
    right: str = "Correct",
    wrong: str = "Wrong",
    agree: float = 1.0,
    disagree: float = 0.0,
    unreadable: float = 0.0,
    thoughts_end: str | None = None,
) -> Score | Failure:
    """Whether a critique's verdict, as [[Correct]], agrees with the verifier of the text that it follows.

    agree, disagree, unreadable: the values of a verdict that agrees, of one that does not, and of none. The verifier is
    a reward of the role that wrote the text, and gives a verdict. right, wrong: the two labels. thoughts_end: see
    `after_thoughts`. Source: the discriminability of Critique-RL, arXiv 2510.24320.
    """
    about = trajectory.parent
    if about is None:
        return Failure("discrimination", "invalid", "a critique follows a text; name its move's `of`")
    if about.failure is not None:
        return about.failure
    if about.correct is None:
        return Failure("discrimination", "invalid", f"no reward of {about.author} says whether {about.move} is right")
    said = _read(completion, prompt, right=right, wrong=wrong, thoughts_end=thoughts_end)
    verdict = UNREADABLE if said is None else RIGHT if said == right else WRONG
    agrees = verdict == (RIGHT if about.correct else WRONG)
    value = unreadable if said is None else agree if agrees else disagree
    return Score(value, agrees, outcome=verdict, verdict=verdict, metrics={"parse_failures": float(said is None)})


async def refined(trajectory: Trajectory) -> Score | Failure:
    """How right the texts are that follow a critique: the mean of their verdicts, or of their rewards without verdicts.

    Texts that failed are left out; if all did, so did the critique. Source: the refinement reward of Critique-RL,
    arXiv 2510.24320; with several texts a critique, RefCritic, arXiv 2507.15024.
    """
    if not trajectory.children:
        return Failure("refined", "invalid", "nothing follows this text; name a move that does")
    scored = [one for one in trajectory.children if one.failure is None]
    if not scored:
        failure = trajectory.children[0].failure
        assert failure is not None
        return failure
    return Score(sum(_success(one) for one in scored) / len(scored))


def _success(trajectory: Trajectory) -> float:
    """A text's verdict, or the sum of its scores where no verifier gave one."""
    if trajectory.correct is not None:
        return float(trajectory.correct)
    return sum(score.value for score in trajectory.scores.values())
