"""Counting sentences and capital words of English, and telling languages apart."""

from __future__ import annotations

import functools
import re
from itertools import pairwise
from typing import Any

_ABBREVIATED = (
    "a.m adm apr aug ave brig bros ca capt cmdr co col corp cpl dec dept dr e.g esp est etc feb fig fri ft gen gov hon "
    "i.e inc jan jr lt ltd maj messrs mon mr mrs ms mt no nov oct p.m ph.d pp prof rep rev sat sen sept sgt sr st sun "
    "thu tue u.k u.n u.s vol vs wed"
)
_TITLED = "adm capt cmdr col dr e.g gen gov hon i.e lt maj messrs mr mrs ms prof rep rev sen sgt st vs"
ABBREVIATIONS, TITLES = frozenset(_ABBREVIATED.split()), frozenset(_TITLED.split())
"""Abbreviations, and those of them that end no sentence, whatever follows."""
_CLOSING = "\"')]}*\u201d\u2019"
_CONTRACTION = re.compile(
    r"(?=n't\b|'(?:s|m|d|ll|re|ve)\b)|(?<=\bcan)(?=not\b)|(?<=\bgon)(?=na\b)|(?<=\bgot)(?=ta\b)|(?<=\bwan)(?=na\b)"
    r"|(?<=\blem)(?=me\b)|(?<=\bgim)(?=me\b)",
    re.IGNORECASE,
)
_BETWEEN_WORDS = re.compile(
    r"[\s;@#$%&?!*()\[\]{}<>\"\u00ab\u00bb\u2018\u2019\u201c\u201d]+|[:,](?!\d)|--+|\.{2,}|`{2,}"
)


def sentence_count(text: str) -> int:
    """Return how many sentences an English text has, by a few rules that follow the Punkt tokenizer's decisions."""
    words = text.split()
    return sum(_ends(word, following[0]) for word, following in pairwise(words)) + bool(words)


def _ends(word: str, following: str) -> bool:
    """Whether a sentence ends with this word, which has its punctuation, before this character."""
    bare = word.rstrip(_CLOSING)
    if not bare.endswith("."):
        return bare.endswith(("?", "!"))
    name = re.split(r"[^\w.]", bare.rstrip("."))[-1]
    if name.lower() in TITLES:
        return False
    if bare.endswith("..") or len(name) == 1 or name.isdigit() or name.lower() in ABBREVIATIONS:
        return not following.islower() and not (len(name) == 1 and name.isupper())
    return True


def capital_words(text: str) -> int:
    """Return how many words have capital letters alone; contractions are two words, as in the Penn Treebank."""
    return sum(word.isupper() for word in _BETWEEN_WORDS.split(_CONTRACTION.sub(" ", text)) if word)


def language_of(text: str) -> str | None:
    """Return the ISO 639-1 code of a text's language; None for a text without a word of any language.

    Raises ModuleNotFoundError without the package langdetect.
    """
    langdetect = _langdetect()
    try:
        return langdetect.detect(text)
    except langdetect.LangDetectException:
        return None


@functools.cache
def _langdetect() -> Any:
    try:
        import langdetect
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "telling languages apart needs the package langdetect; install it with: pip install 'llmrl[ifeval]'"
        ) from None
    langdetect.DetectorFactory.seed = 0  # its guesses are random otherwise
    return langdetect
