"""Rewards of critiques: whether the verdict is right, and what the texts that follow the critique make of it."""

from __future__ import annotations

from statistics import fmean

from llmrl.marks import reads_answers, settings_checked_by
from llmrl.pieces import Piece
from llmrl.rewards.gains import SUCCESS, Gain
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import written_label
from llmrl.types import RIGHT, UNREADABLE, WRONG, Failure, Score, Trajectory


def _read(
    completion: str, prompt: str = "", *, right: str = "Correct", wrong: str = "Wrong", thoughts_end: str | None = None
) -> str | None:
    return written_label(after_thoughts(completion, prompt, thoughts_end=thoughts_end) or "", (right, wrong))


def verdict_of(completion: str, prompt: str = "", *, right: str, wrong: str, thoughts_end: str | None = None) -> str:
    """A critique's verdict, one of VERDICTS; right, wrong: its labels."""
    said = _read(completion, prompt, right=right, wrong=wrong, thoughts_end=thoughts_end)
    return UNREADABLE if said is None else RIGHT if said == right else WRONG


def _check_labels(right: str, wrong: str, **others: object) -> None:
    if right.strip() == wrong.strip():
        raise ValueError(f"right and wrong are both {right!r}; expected two labels")


@settings_checked_by(_check_labels)
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
    verdict = verdict_of(completion, prompt, right=right, wrong=wrong, thoughts_end=thoughts_end)
    agrees = verdict == (RIGHT if about.correct else WRONG)
    read = verdict != UNREADABLE
    value = (agree if agrees else disagree) if read else unreadable
    return Score(value, agrees, outcome=verdict, verdict=verdict, metrics={"parse_failures": float(not read)})


async def refined(trajectory: Trajectory, *, gain: Gain = None, score: str | None = None) -> Score | Failure | None:
    """The mean gain of the texts that follow a critique, over those that were scored.

    gain: how the score of a text after the critique and that of the text before it make a gain, one of
    llmrl/rewards/gains.py: success (the default), improvement, transition, log_headroom, relative_headroom, or
    `module:function` of before, after, or both. score: the reward of these texts' author whose value is read, such as
    a share of passed tests; default: the verdict, as 1 or 0. None for a critique that nothing follows. A failure of all
    texts after the critique, or of the one before it where the gain reads its score, is the critique's. Raises
    ValueError where a text lacks what is read. Source: Critique-RL, arXiv 2510.24320; with several texts a critique,
    RefCritic, arXiv 2507.15024; with other gains, RL4F, arXiv 2305.08844, and ECHO, arXiv 2601.06794.
    """
    piece = gain if isinstance(gain, Piece) else SUCCESS
    available = {}
    if "before" in piece.data:
        about = trajectory.parent
        if about is None or about.failure is not None:
            return about and about.failure
        available["before"] = worth(about, score)
    scored = [one for one in trajectory.children if one.failure is None]
    if not scored:
        return next((one.failure for one in trajectory.children), None)
    return Score(fmean(piece(available | {"after": worth(one, score)}) for one in scored))


def worth(trajectory: Trajectory, score: str | None = None) -> float:
    """The value of a text's named score, or its verdict as 1 or 0; raises ValueError if it has none."""
    name = trajectory.move or "a text"
    if score is not None:
        if score not in trajectory.scores:
            raise ValueError(f"reads the score '{score}' of {name}, which has {', '.join(trajectory.scores) or 'none'}")
        return trajectory.scores[score].value
    if trajectory.correct is None:
        raise ValueError(
            f"reads the verdict of {name}, and no reward of {trajectory.author} gives one; add a verifier, or name a "
            "reward whose value is read (score)"
        )
    return float(trajectory.correct)
