"""Answers in words, which are compared as text."""

from __future__ import annotations

import functools
import re

from llmrl.rewards.answers.tokens import FUNCTIONS, is_word

_WORDS_ALONE = re.compile(r"[^\\\d^_=+*/<>{}]*[^\W\d_]{2}[^\\\d^_=+*/<>{}]*")
_PHRASE = re.compile(r"(?<!\\)\b[^\W\d_]{2,}\s+[^\W\d_]{3,}")
_CLOCK_OR_RATIO = re.compile(r"\d+(?:\s*:\s*\d+)+(?:\s*[AaPp]\.?\s?[Mm]\.?)?")
_RUN = re.compile(r"(?<!\\)[^\W\d_]{2,}")
_CHOICE = re.compile(r"\(?([A-Ea-e])\)?")
_SPACE_NOT_BETWEEN_DIGITS = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_SHORT_WORDS = frozenset({
    "no", "on", "or", "is", "at", "in", "to", "of", "it", "as", "by", "we", "up", "so", "he", "me", "my", "an", "am",
    "be", "do", "go", "if", "us", "ok",
})  # fmt: skip
_MAX_PRODUCT = 4


def is_text(text: str) -> bool:
    """Return whether the answer is words, which are compared as text: a parser would read "no" as n times o."""
    if _CLOCK_OR_RATIO.fullmatch(text):
        return True
    if not (_WORDS_ALONE.fullmatch(text) or _PHRASE.search(text)):
        return False
    return any(_reads_as_word(run) for run in _RUN.findall(text))


def _reads_as_word(run: str) -> bool:
    """Return whether letters in a row are a word, and no function, no Greek letter and no product such as xy."""
    if is_word(run):
        return False
    if len(run) == 2:
        return run.lower() in _SHORT_WORDS
    if any(run.startswith(name) and len(run) <= len(name) + 1 for name in FUNCTIONS):  # sinx
        return False
    return len(run) > _MAX_PRODUCT or any(letter in "aeiouAEIOU" for letter in run[1:]) or not run.isascii()


@functools.lru_cache(maxsize=8192)
def typeset(text: str) -> str:
    """Return the text without spaces, the case of words and brackets round a choice's letter, for comparison."""
    if len(text) < 4:
        choice = _CHOICE.fullmatch(text)
        if choice:
            return choice[1].upper()
    if is_text(text):
        text = text.casefold().removesuffix("s")
        return text.replace(".", "").replace(" ", "") if _CLOCK_OR_RATIO.fullmatch(text) else text
    return _SPACE_NOT_BETWEEN_DIGITS.sub("", text)
