"""Rewards for short answers in words: equality and shared words, both after SQuAD's normalization."""

from __future__ import annotations

import re
import string
from collections import Counter
from typing import Any

from llmrl.marks import reads_answers
from llmrl.rewards.extraction import last_said, last_stated, last_tag
from llmrl.rewards.golds import gold_texts
from llmrl.rewards.thoughts import after_thoughts
from llmrl.types import Score

_LATEX_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mbox)\s*\{([^{}]*)\}")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def stated_answer(text: str, prompt: str = "") -> str | None:
    r"""Return what a text gives as its answer, by the first of these that it has, the last one of its kind.

    `<answer>Paris</answer>`, `\boxed{\text{Paris}}` or a line `Answer: Paris`, the words `the answer is Paris`.
    """
    found = (last_tag(text, "answer", prompt), last_stated(text), last_said(text))
    answer = next((one for one in found if one is not None), None)
    return None if answer is None else _LATEX_TEXT.sub(r"\1", answer).strip()


def normalized(text: str) -> str:
    """Return the text in lower case without punctuation, articles and needless blanks, as SQuAD compares answers."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def _read(completion: str, prompt: str = "", *, thoughts_end: str | None = None) -> str | None:
    text = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    if text is None:
        return None
    answer = stated_answer(text, prompt)
    return (text.strip() if answer is None else answer) or None


def _same(one: str, other: str, *, thoughts_end: str | None = None) -> bool:
    return normalized(one) == normalized(other)


@reads_answers(_read, same=_same)
def exact_match(completion: str, answer: Any, prompt: str = "", *, thoughts_end: str | None = None) -> bool:
    """Whether the completion's answer and one of the row's are equal after SQuAD's normalization.

    The completion's answer is what `stated_answer` finds after its thoughts, else all of that part. answer: text, or a
    list of texts of which any is right; raises ValueError for anything else. thoughts_end: see `after_thoughts`.
    The normalization drops signs and decimal points, so that -5 equals 5; numbers belong to `math_verifier`.
    Source: SQuAD, arXiv 1606.05250.
    """
    golds = gold_texts(answer)
    found = _read(completion, prompt, thoughts_end=thoughts_end)
    return found is not None and any(_same(found, gold) for gold in golds)


@reads_answers(_read, same=_same)
def f1(completion: str, answer: Any, prompt: str = "", *, thoughts_end: str | None = None) -> Score:
    """The F1 of the words that the completion's answer shares with the row's, the best over several; no verdict.

        2 * shared / (words of one + words of the other)

    Where one has no words after normalization, it is 1 if neither has, else 0. Parameters are as for `exact_match`.
    Source: SQuAD, arXiv 1606.05250 and 1806.03822.
    """
    golds = gold_texts(answer)
    found = _read(completion, prompt, thoughts_end=thoughts_end)
    return Score(0.0 if found is None else max(_shared(found, gold) for gold in golds))


def _shared(one: str, other: str) -> float:
    words, others = normalized(one).split(), normalized(other).split()
    if not words or not others:
        return float(words == others)
    return 2.0 * (Counter(words) & Counter(others)).total() / (len(words) + len(others))
