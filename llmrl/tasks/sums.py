"""Sums, the problems of the standard tasks: the prompts, the warm start's demonstrators, and the verifier.

prompt      3+5-2
estimate    ~=6     most demonstrators give the nearest multiple of three, which is right one time in three
exact       =6      some demonstrators give the exact sum
checked     #=6     very few demonstrators give the exact sum with this mark
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from llmrl.types import Group, Score, Trajectory

EXACT_SHARE, CHECKED_SHARE = 0.22, 0.03


def expression(row: dict[str, Any]) -> str:
    """Return the row's expression without spaces: "3 + 5 - 2" -> "3+5-2"."""
    return row["metadata"]["expression"].replace(" ", "")


def demonstration(row: dict[str, Any]) -> str:
    """Return a demonstrator's answer; the row's number decides which demonstrator it is, and the question does not."""
    total = int(row["answer"])
    uniform = _uniform("demonstrator", row["metadata"]["source_index"])
    if uniform < CHECKED_SHARE:
        return f"#={total}"
    return f"={total}" if uniform < CHECKED_SHARE + EXACT_SHARE else f"~={3 * round(total / 3)}"


def wrong(row: dict[str, Any]) -> str:
    """Return a wrong answer: the estimate, or if that is right the exact form of a number that is one off."""
    total = int(row["answer"])
    estimate = 3 * round(total / 3)
    return (
        f"~={estimate}" if estimate != total else f"={total + (1 if _uniform('wrong', expression(row)) < 0.5 else -1)}"
    )


def right_answer(group: Group, *, mark: str = "", flipped: float = 0.0) -> list[Score]:
    """The value 1 if the text after "=" is the answer and the completion begins with `mark`, else 0.

    flipped: the share of training verdicts that are turned around. A pseudo-random number decides whether a verdict is;
    it depends on the prompt, the completion, its place in the group and its sampled log-probabilities, so it differs
    between samples and is the same when a run is repeated. Verdicts on held-out prompts are never turned around.
    """
    held_out = group.prompt.id.startswith("eval:")
    scores = []
    for place, trajectory in enumerate(group.trajectories):
        correct = _is_right(trajectory, str(group.prompt.row["answer"]), mark)
        if not held_out and _uniform(group.prompt.id, place, *_sampled(trajectory)) < flipped:
            correct = not correct
        scores.append(Score(float(correct), correct))
    return scores


def _is_right(trajectory: Trajectory, answer: str, mark: str) -> bool:
    given = re.fullmatch(r"([~#]?)=(-?\d+)", trajectory.text)
    return given is not None and given[1].startswith(mark) and given[2] == answer


def _sampled(trajectory: Trajectory) -> list[Any]:
    return [trajectory.text, *(logprob for turn in trajectory.turns for logprob in turn.rollout_logprobs)]


def _uniform(*parts: Any) -> float:
    """Return a pseudo-random number in [0, 1) that depends on `parts` alone."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
