r"""The verifier of mathematical answers: it compares the completion's final answer with the gold answer.

completion ──extraction──> one answer ──normal_form──> compared with the gold, first rule that applies:
    identical text                       \dfrac12 = \frac{1}{2}
    both exact numbers                   1,200.50 = 1200.5;  50% by the `percent` setting
    x = 5 and 5                          the value, if the names do not differ
    sets, tuples, intervals, lists       element by element, as many as the gold has
    words                                the same words
    expressions                          symbolically (math-verify)
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any, Literal

from llmrl.rewards.answers import (
    Collection,
    Quantity,
    collection,
    interval,
    known_unit,
    nesting,
    normal_form,
    quantity,
    terminates,
)
from llmrl.rewards.extraction import has_box, last_boxed, last_number, last_tag
from llmrl.types import Score

Extract = Literal["boxed_or_last", "boxed", "last_number", "tag"]
Percent = Literal["unit", "ratio", "either"]

MAX_ANSWER_CHARACTERS = 5000
MAX_EXPRESSION_CHARACTERS = 600
MAX_NESTING = 30
_AGREEMENT = 1_000_000  # a decimal stands for 1/3 when it agrees to one part in a million

_ASSIGNMENT = re.compile(
    r"(\\?[^\W\d][\w']*(?:_\{?\w+\}?)?(?:\^\{-1\})?(?:\s*\(\s*[^\W\d]\w*\s*\))?)\s*(?:=|\\in(?![a-z]))\s*(.+)",
    re.DOTALL,
)
_RELATION = re.compile(r"[<>=]|\\(?:[lg]e|ne)(?![a-z])")
_WORDS_ALONE = re.compile(r"[^\\\d^_=+*/<>{}]*[^\W\d_]{2}[^\\\d^_=+*/<>{}]*")
_PHRASE = re.compile(r"(?<!\\)\b[^\W\d_]{2,}\s+[^\W\d_]{3,}")
_CLOCK_OR_RATIO = re.compile(r"\d+(?:\s*:\s*\d+)+(?:\s*[AaPp]\.?[Mm])?")
_CHOICE = re.compile(r"\(?([A-Ea-e])\)?")
_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]")  # outside LaTeX commands
_SPACE_NOT_BETWEEN_DIGITS = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_EXPLODES = re.compile(
    r"\^\s*[{(]*\s*-?\s*\d[\d,]{4}"  # 2^{100000}
    r"|\d\s*[)}]*\s*\^\s*[{(]*\s*-?\s*\d+\s*[)}]*\s*(?:\^|\*\*)"  # 9^9^9, (9^9)^9
    r"|\*\*|\d{5,}\s*[)}]*\s*!|!\s*[)}]*\s*!|\^\s*[{(]*\s*\d+\s*!"  # 99999!, 10!!, 2^{9!}
    r"|\d{401}"
)


def math_verifier(
    completion: str,
    answer: str | int | float,
    *,
    extract: Extract = "boxed_or_last",
    tag: str = "answer",
    percent: Percent = "unit",
) -> Score:
    r"""The value 1 if the completion's final answer equals the gold `answer`, else 0.

    extract: the place of the final answer. "boxed": the last `\boxed{}`; "last_number": the last number of the text;
    "boxed_or_last": the last `\boxed{}`, or the last number if nothing is boxed; "tag": the last `<tag>...</tag>`. A
    box or tag left open is no answer, and a completion without an answer is wrong. percent: the meaning of 50%. "unit":
    50, since the sign is a unit like any other; "ratio": 0.5; "either": both. A unit or currency on one side only is
    ignored ("5 cm" = 5); two different known units are unequal. Raises ValueError if the gold answer cannot be read.
    """
    gold = _gold(str(answer))
    found = _extracted(completion, extract, tag)
    correct = found is not None and _correct(gold, found, percent)
    return Score(float(correct), correct)


def warm_up() -> None:
    """Import math-verify and build its parser before the first grading."""
    equal(r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}", percent="unit")


def equal(gold: str, found: str, *, percent: Percent) -> bool:
    """Return whether two answers in normal form are equal; no text in `found` raises an exception."""
    if not found:
        return False
    if _typeset(gold) == _typeset(found):
        return True
    gold_number, found_number = quantity(gold), quantity(found)
    if gold_number and found_number:
        return _equal_quantities(gold_number, found_number, percent)
    gold_name, gold_value = _assignment(gold)
    found_name, found_value = _assignment(found)
    if found_name and (gold_name == found_name or not (gold_name or "=" in gold)):
        return equal(gold_value, found_value, percent=percent)
    if gold_name and not found_name and "=" not in found:
        return equal(gold_value, found, percent=percent)
    gold_many, found_many = collection(gold), collection(found)
    if gold_many or found_many:
        gold_many = gold_many or interval(gold) or Collection((gold,))
        found_many = found_many or interval(found) or Collection((found,))
        return _equal_collections(gold_many, found_many, percent)
    if "=" in found and "=" not in gold:
        return _derives(found) and equal(gold, found.rpartition("=")[2].strip(), percent=percent)
    if is_text(gold) or is_text(found):
        return False
    return _equal_expressions(gold, found)


def is_text(text: str) -> bool:
    """Return whether the answer is words, which are compared as text: a parser would read "no" as n times o."""
    return bool(_WORDS_ALONE.fullmatch(text) or _PHRASE.search(text) or _CLOCK_OR_RATIO.fullmatch(text))


def _correct(gold: str, found: str, percent: Percent) -> bool:
    if len(found) > max(MAX_ANSWER_CHARACTERS, 2 * len(gold)):
        return False
    found = normal_form(found)
    if nesting(found) > MAX_NESTING:
        return _typeset(gold) == _typeset(found)
    return equal(gold, found, percent=percent)


def _extracted(completion: str, extract: Extract, tag: str) -> str | None:
    if extract == "tag":
        inside = last_tag(completion, tag)
        return last_boxed(inside) if inside is not None and has_box(inside) else inside
    if extract == "last_number" or (extract == "boxed_or_last" and not has_box(completion)):
        return last_number(completion)
    return last_boxed(completion)


@functools.lru_cache(maxsize=4096)
def _gold(answer: str) -> str:
    """Return the gold answer in normal form; raises ValueError if no answer could be compared with it."""
    boxed = last_boxed(answer)
    gold = normal_form(answer if boxed is None else boxed)
    if not _readable(gold):
        raise ValueError(f"the gold answer {answer[:200]!r} cannot be read")
    return gold


def _readable(gold: str) -> bool:
    if not gold:
        return False
    _, value = _assignment(gold)
    if quantity(gold) or quantity(value) or is_text(gold):
        return True
    many = collection(value)
    if many:
        return all(_readable(element) for element in many.elements)
    return bool(_parsed(gold))


def _typeset(text: str) -> str:
    """Return the text without spaces, the case of words and brackets round a choice's letter, for comparison."""
    if is_text(text):
        text = text.casefold()
    choice = _CHOICE.fullmatch(text)
    return choice[1].upper() if choice else _SPACE_NOT_BETWEEN_DIGITS.sub("", text)


def _equal_quantities(gold: Quantity, found: Quantity, percent: Percent) -> bool:
    gold_unit, found_unit = known_unit(gold.unit), known_unit(found.unit)
    if gold_unit and found_unit and gold_unit != found_unit:
        return False
    if gold.percent == found.percent or percent == "unit":
        return _close(gold.value, found.value)
    ratios = (gold.value / (100 if gold.percent else 1), found.value / (100 if found.percent else 1))
    return _close(*ratios) or (percent == "either" and _close(gold.value, found.value))


def _close(gold: Any, found: Any) -> bool:
    """Return whether the numbers are equal, or one is a decimal that approximates the other, as 0.333333 does 1/3."""
    if gold == found or terminates(gold) == terminates(found):
        return gold == found
    return abs(gold - found) * _AGREEMENT <= abs(gold)


def _assignment(text: str) -> tuple[str, str]:
    """Return the name and value of "x = 5", or ("", text) for any other text."""
    match = _ASSIGNMENT.fullmatch(text)
    if match is None or _RELATION.search(match[2]):
        return "", text
    return "".join(match[1].split()), match[2].strip()


def _derives(text: str) -> bool:
    """Return whether a chain of equalities derives its last part, as A = 2 + 3 = 5 does and x^2 - 4 = 0 does not."""
    first, *rest = (part.strip() for part in text.split("="))
    named = _assignment(f"{first} = 0")[0] != ""
    return named or not any(_LETTER.search(part) for part in (first, *rest[:-1]))


def _equal_collections(gold: Collection, found: Collection, percent: Percent) -> bool:
    if len(gold.elements) != len(found.elements) or not gold.comparable(found):
        return False
    if gold.ordered or found.ordered:
        pairs = zip(gold.elements, found.elements, strict=True)
        return all(equal(one, other, percent=percent) for one, other in pairs)
    left = list(found.elements)
    for one in gold.elements:
        other = next((other for other in left if equal(one, other, percent=percent)), None)
        if other is None:
            return False
        left.remove(other)
    return True


def _equal_expressions(gold: str, found: str) -> bool:
    expected, given = _parsed(gold), _parsed(found)
    if not expected or not given:
        return False
    from math_verify import verify

    return verify(expected, given, timeout_seconds=None)


@functools.lru_cache(maxsize=4096)
def _parsed(text: str) -> list[Any]:
    """Parse one expression with math-verify; returns [] if math-verify cannot read it or could never finish.

    math-verify's own time limits are off: they use SIGALRM, which only a main thread may set. The deadline of the
    worker pool replaces them.
    """
    if len(text) > MAX_EXPRESSION_CHARACTERS or nesting(text) > MAX_NESTING or _EXPLODES.search(text):
        return []
    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, parse

    latex = text.replace(r"\$", "").replace("$", "")
    config = LatexExtractionConfig(boxed_match_priority=-1)
    return parse(
        f"${latex}$",
        [config],
        fallback_mode="no_fallback",
        parsing_timeout=None,  # pyright: ignore[reportArgumentType]
    )
