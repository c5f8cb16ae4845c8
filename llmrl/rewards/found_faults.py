"""The reward of critiques that list faults, on answers whose faults are known because somebody put them there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from llmrl.columns import as_json
from llmrl.errors import short
from llmrl.rewards.similarity import jaccard
from llmrl.rewards.text_answers import normalized
from llmrl.rewards.thoughts import after_thoughts
from llmrl.types import Score

Share = Annotated[float, Field(gt=0.0, le=1.0)]


def found_faults(
    completion: str,
    faults: Sequence[str],
    prompt: str = "",
    *,
    separator: Annotated[str, Field(min_length=1)] = "\n",
    marker: str = "- ",
    same: Share = 0.5,
    thoughts_end: str | None = None,
) -> Score:
    """The Jaccard index of the faults that a critique lists and those that an answer has.

        J = m / (|listed| + |faults| - m)        m: the listed faults that are one of the answer's, each counted once

    faults: the column with those that were put into the answer. Listed are the parts of the critique between
    separators that begin with the marker. Two descriptions are of one fault if the Jaccard index of their words, in
    lower case without punctuation and articles, is at least `same`; the most alike are matched first. No fault listed
    of an answer without faults gives 1. thoughts_end: see `after_thoughts`. The metrics are the precision and the
    recall of the list, where they are defined. Source: the rule-based reward of Critic-V, arXiv 2411.18203.
    """
    said = after_thoughts(completion, prompt, thoughts_end=thoughts_end) or ""
    parts = [part.strip() for part in said.split(separator)]
    listed = [part[len(marker) :] for part in parts if part.startswith(marker) and part != marker.strip()]
    known = _listed(faults)
    found = _matches(listed, known, same)
    total = len(listed) + len(known) - found
    shares = {"precision": (found, len(listed)), "recall": (found, len(known))}
    return Score(found / total if total else 1.0, metrics={name: a / b for name, (a, b) in shares.items() if b})


def _listed(faults: Any) -> list[str]:
    given = as_json(faults)
    if not isinstance(given, Sequence) or isinstance(given, str) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"faults: expected a list of texts, got {short(faults)}")
    return list(given)


def _matches(listed: Sequence[str], known: Sequence[str], same: float) -> int:
    """How many of the texts of the two lists can be matched, the most alike ones first."""
    alike = sorted(
        ((_alike(a, b), place, other) for place, a in enumerate(listed) for other, b in enumerate(known)), reverse=True
    )
    left, right = set(range(len(listed))), set(range(len(known)))
    for index, place, other in alike:
        if index >= same and place in left and other in right:
            left.remove(place)
            right.remove(other)
    return len(listed) - len(left)


def _alike(one: str, other: str) -> float:
    """The Jaccard index of the words of two texts."""
    return jaccard(normalized(one).split(), normalized(other).split())
