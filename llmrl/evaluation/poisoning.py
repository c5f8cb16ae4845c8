"""Signs of poisoned pairs: labels that a trusted model contradicts, and what their prompts have in common.

Source of the procedure: Is poisoning a real threat to LLM alignment?, arXiv 2406.12091.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LONGEST = 3
"""The tokens of the longest sequence that is counted in prompts."""
SHOWN = 10
LEAST_Z = 4.0
"""Sequences with a smaller z-score are not shown: chance gives such scores too."""


@dataclass(frozen=True)
class Telling:
    """A sequence of tokens that flagged prompts have more often than others: in how many of each, and the z-score."""

    token_ids: tuple[int, ...]
    flagged: int
    others: int
    z: float


@dataclass(frozen=True)
class Audit:
    """The audit of pairs.

    margins: the implicit reward of the chosen completion less that of the rejected one, by pair. flagged: the places of
    the pairs of the lowest margins, among those below 0. sequences: what the flagged prompts have in common, the most
    telling first. swapped: the places of pairs that another pair with the same prompt contradicts.
    """

    margins: list[float]
    flagged: list[int]
    sequences: list[Telling]
    swapped: list[int]

    @property
    def contradicted(self) -> float:
        """The share of pairs whose label the model contradicts."""
        return sum(margin < 0 for margin in self.margins) / len(self.margins)

    def data(self) -> dict[str, Any]:
        """The audit as plain data."""
        return {**asdict(self), "contradicted": self.contradicted}


def audit(
    margins: Sequence[float],
    prompts: Sequence[Sequence[int]],
    texts: Sequence[tuple[str, str, str]],
    *,
    share: float = 0.05,
) -> Audit:
    """The audit of pairs by their margins under a trusted model.

    prompts: each one's tokens; texts: its prompt, chosen and rejected completion; share: the most that are flagged.
    """
    lowest = sorted(range(len(margins)), key=lambda place: margins[place])[: math.ceil(share * len(margins))]
    flagged = sorted(place for place in lowest if margins[place] < 0)
    others = sorted(set(range(len(margins))) - set(flagged))
    given = set(texts)
    swapped = [place for place, (prompt, chosen, rejected) in enumerate(texts) if (prompt, rejected, chosen) in given]
    return Audit([*margins], flagged, _telling(prompts, flagged, others), swapped)


def association(flagged: int, flagged_all: int, others: int, others_all: int) -> float:
    """The z-score of how much more often something is in flagged prompts than in others: the signed root of the G-test.

        sign sqrt(2 sum_ij O_ij ln(O_ij / E_ij))        O: prompts that are flagged or not, with it or without it

    E is what O would be if both were independent. Unlike a log-odds ratio over its error, it is largest for what is in
    all flagged prompts and in no other.
    """
    observed = [[flagged, flagged_all - flagged], [others, others_all - others]]
    columns, total = [sum(column) for column in zip(*observed, strict=True)], flagged_all + others_all
    terms = [
        count * math.log(count * total / (sum(row) * columns[place]))
        for row in observed
        for place, count in enumerate(row)
        if count
    ]
    more = flagged * others_all > others * flagged_all
    return math.copysign(math.sqrt(2 * max(math.fsum(terms), 0.0)), 1 if more else -1)


def _telling(prompts: Sequence[Sequence[int]], flagged: Sequence[int], others: Sequence[int]) -> list[Telling]:
    """The sequences that tell flagged prompts from others, of equal scores the longest first."""
    of_flagged, of_others = (_counts(prompts[place] for place in places) for places in (flagged, others))
    found = [
        Telling(one, count, of_others[one], association(count, len(flagged), of_others[one], len(others)))
        for one, count in of_flagged.items()
    ]
    found = sorted((one for one in found if one.z >= LEAST_Z), key=lambda one: (-one.z, -len(one.token_ids)))
    return found[:SHOWN]


def _counts(prompts: Iterable[Sequence[int]]) -> Counter[tuple[int, ...]]:
    """In how many prompts each sequence of up to LONGEST tokens is."""
    found: Counter[tuple[int, ...]] = Counter()
    for prompt in prompts:
        lengths = range(1, LONGEST + 1)
        found.update({tuple(prompt[at : at + n]) for n in lengths for at in range(len(prompt) - n + 1)})
    return found
