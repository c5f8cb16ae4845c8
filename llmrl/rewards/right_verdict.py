"""The verifier of judges: whether the verdict in a completion is the right one."""

from __future__ import annotations

from llmrl.marks import reads_answers
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import written_label
from llmrl.types import Score

LABELS = ("A", "B", "C")


def _read(
    completion: str, prompt: str = "", *, labels: tuple[str, ...] = LABELS, thoughts_end: str | None = None
) -> str | None:
    return written_label(after_thoughts(completion, prompt, thoughts_end=thoughts_end) or "", labels)


@reads_answers(_read)
def right_verdict(
    completion: str,
    answer: str,
    prompt: str = "",
    *,
    labels: tuple[str, ...] = LABELS,
    thoughts_end: str | None = None,
) -> Score:
    """1 for the right verdict, as [[A]], else 0: the reward that trains a judge on pairs whose better answer is known.

    answer: the label that is right, as the transforms pair_verdicts and answer_verdicts give it. labels: all of them.
    The verdict itself, or "unreadable", is the outcome, so its share in a run's metrics shows a judge that prefers a
    place. thoughts_end: see `after_thoughts`.
    """
    said = _read(completion, prompt, labels=labels, thoughts_end=thoughts_end)
    right = said is not None and said == answer
    return Score(float(right), right, outcome=said or "unreadable", metrics={"parse_failures": float(said is None)})
