"""Rewards for texts that are like the row's: shared word sequences (ROUGE) and edit distance; none is a verdict."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from llmrl.rewards.extraction import last_tag
from llmrl.rewards.golds import gold_texts
from llmrl.rewards.thoughts import after_thoughts
from llmrl.types import Score

_WORD = re.compile(r"[a-z0-9]+")
Kind = Literal["1", "2", "L"]
Kinds = Annotated[tuple[Kind, ...], Field(min_length=1)]


def rouge(
    completion: str,
    answer: Any,
    prompt: str = "",
    *,
    kinds: Kinds = ("1", "2", "L"),
    tag: str | None = None,
    thoughts_end: str | None = None,
) -> Score:
    """The mean of ROUGE's F1 over `kinds`, the best over several answers.

        F1 = 2 * shared / (of one + of the other)

    1 and 2 count shared words and pairs of neighbouring words; L counts the words of the longest common subsequence.
    Words are runs of ASCII letters and digits in lower case, without stemming. Where a text has nothing to count, F1
    is 0. tag: compare the last `<tag>...</tag>` alone, and nothing without one. answer, thoughts_end: as for `f1`.
    Source: ROUGE, Lin 2004.
    """
    text = _said(completion, prompt, tag, thoughts_end)
    if text is None:
        return Score(0.0)
    return Score(max(_rouge(_words(text), _words(gold), kinds) for gold in gold_texts(answer)))


def edit_similarity(
    completion: str,
    answer: Any,
    prompt: str = "",
    *,
    words: bool = False,
    tag: str | None = None,
    thoughts_end: str | None = None,
) -> Score:
    """1 - Levenshtein distance / length of the longer text, in characters or in words, the best over several answers.

    It is 1 for equal texts alone; blank space around a text does not count. words: count words between blank space.
    Other parameters are as for `rouge`. Source: RL4F, arXiv 2305.08844.
    """
    text = _said(completion, prompt, tag, thoughts_end)
    if text is None:
        return Score(0.0)
    split = str.split if words else str.strip
    return Score(max(_alike(split(text), split(gold)) for gold in gold_texts(answer)))


def jaccard(one: Collection[Hashable], other: Collection[Hashable]) -> float:
    """|A and B| / |A or B| of two sets; 1 for two empty ones."""
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else 1.0


def _said(completion: str, prompt: str, tag: str | None, thoughts_end: str | None) -> str | None:
    text = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    return text if text is None or tag is None else last_tag(text, tag, prompt)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _rouge(one: Sequence[str], other: Sequence[str], kinds: Sequence[Kind]) -> float:
    return sum(_of_kind(one, other, kind) for kind in kinds) / len(kinds)


def _of_kind(one: Sequence[str], other: Sequence[str], kind: Kind) -> float:
    if kind == "L":
        return _f1(_common_subsequence(one, other), len(one), len(other))
    length = int(kind)
    ours, theirs = (Counter(zip(*(words[n:] for n in range(length)), strict=False)) for words in (one, other))
    return _f1((ours & theirs).total(), ours.total(), theirs.total())


def _f1(shared: int, of_one: int, of_other: int) -> float:
    return 2.0 * shared / (of_one + of_other) if shared else 0.0


def _common_subsequence(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(other) + 1)
    for item in one:
        before = best
        best = [0]
        for place, against in enumerate(other):
            best.append(before[place] + 1 if item == against else max(before[place + 1], best[place]))
    return best[-1]


def _alike(one: Sequence[Hashable], other: Sequence[Hashable]) -> float:
    return 1.0 - _edits(one, other) / max(len(one), len(other), 1)


def _edits(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The least number of insertions, deletions and replacements that make one sequence of the other."""
    fewest = list(range(len(other) + 1))
    for row, item in enumerate(one, 1):
        before, fewest = fewest, [row]
        for place, against in enumerate(other):
            fewest.append(min(before[place] + (item != against), before[place + 1] + 1, fewest[place] + 1))
    return fewest[-1]
