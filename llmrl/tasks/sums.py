"""What the standard tasks ask, how the warm start's demonstrators answered, and what each task rewards.

prompt      3+5-2
estimate    ~=6     most demonstrators: the nearest multiple of three, right by luck one time in three
exact       =6      some
checked     #=6     very few: exact as well, under another mark
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

from llmrl.types import Group, Score, Trajectory

EXACT_SHARE, CHECKED_SHARE = 0.22, 0.03


def expression(row: dict[str, Any]) -> str:
    """The task's expression without spaces: "3 + 5 - 2" -> "3+5-2"."""
    return row["metadata"]["expression"].replace(" ", "")


def demonstration(row: dict[str, Any]) -> str:
    """How one demonstrator answered; who it was is drawn from the row's number, so it says nothing of the question."""
    total = int(row["answer"])
    drawn = _uniform("demonstrator", row["metadata"]["source_index"])
    if drawn < CHECKED_SHARE:
        return f"#={total}"
    return f"={total}" if drawn < CHECKED_SHARE + EXACT_SHARE else f"~={3 * round(total / 3)}"


def right_answer(group: Group, *, mark: str = "", flipped: float = 0.0) -> list[Score]:
    """1 where what follows "=" is the answer and the completion begins with `mark`, else 0.

    flipped: the share of training verdicts that are turned around. Whether one is depends pseudo-randomly on the
    prompt, the completion, its place in the group and its sampled log-probabilities, hence is drawn anew for every
    sample and is the same when a run is repeated. Held-out prompts are always judged truly.
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
    """In [0, 1), drawn from `parts`."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
