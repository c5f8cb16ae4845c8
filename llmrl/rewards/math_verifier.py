r"""The verifier of mathematical answers: it compares the completion's final answer with the gold answer.

completion ──thoughts──> ──extraction──> one answer ──normal_form──> compared with the gold (llmrl/rewards/answers)
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

from llmrl.marks import reads_answers
from llmrl.rewards.answers.brackets import nesting
from llmrl.rewards.answers.collections import LIST, SET, collection
from llmrl.rewards.answers.equality import Equality, Percent
from llmrl.rewards.answers.expressions import read
from llmrl.rewards.answers.fallback import parsed
from llmrl.rewards.answers.normal_form import normal_form
from llmrl.rewards.answers.understanding import understood
from llmrl.rewards.answers.words import is_text, typeset
from llmrl.rewards.extraction import (
    boxes,
    has_box,
    has_stated,
    last_boxed,
    last_formula,
    last_letter,
    last_number,
    last_said,
    last_stated,
    last_tag,
    only_word,
)
from llmrl.rewards.golds import gold_texts
from llmrl.rewards.thoughts import after_thoughts
from llmrl.types import Score

Extract = Literal["boxed_or_last", "boxed", "last_number", "tag"]

MAX_ANSWER_CHARACTERS = 5000
MAX_SAID_CHARACTERS = 60
MAX_NESTING = 30
_PLAIN = re.compile(r"-?\d{1,30}(?:\.\d{1,30})?")
_DOUBLED = re.compile(
    r"(?<!\\)\\\\(?=(?:[dt]?frac|sqrt|left|right|text|begin|end|pi|cdot|times|boxed|infty|circ|math[a-z]+|cup|cap|[lg]eq?|pm"
    r"|sum|int|theta|alpha|beta|sin|cos|tan|ln|log|angle|overline|langle|rangle|quad|dots|binom)(?![a-z]))"
    r"|(?<!\\)\\\\\(.*\\\\\)"
)


def final_answer(
    completion: str,
    prompt: str = "",
    *,
    extract: Extract = "boxed_or_last",
    tag: str = "answer",
    thoughts_end: str | None = None,
    **settings: Any,
) -> str | None:
    """Return the text of the completion's final answer; None for a completion without an answer."""
    part = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    if part is None:
        return None
    if extract == "tag":
        inside = last_tag(part, tag, prompt)
        return inside if inside is None or not boxes(inside) else last_boxed(inside)
    if extract == "boxed":
        return last_boxed(part)
    if extract == "last_number":
        return last_number(part)
    return _boxed_or_last(part)


def _boxed_or_last(part: str) -> str | None:
    """Return the last box or the answer line behind it, of words their number; else the last formula or number."""
    if not has_stated(part):
        said = last_said(part) or only_word(part)
        if said and said.isascii() and len(said) <= MAX_SAID_CHARACTERS and read(normal_form(said)):
            return said
        return last_letter(part) or last_formula(part) or last_number(part) or said
    stated = last_stated(part)
    number = last_number(stated) if stated and not has_box(part) and is_text(normal_form(stated)) else None
    return number or stated


def same_answer(one: str, other: str, *, percent: Percent = "unit", **settings: Any) -> bool:
    """Return whether two final answers are equal, whichever of them is taken as the gold."""
    left, right = normal_form(one), normal_form(other)
    return _equal(left, right, percent) or _equal(right, left, percent)


def gold_answers(answer: Any) -> tuple[str, ...]:
    """Return the gold answers of a row in normal form, any of which is right; raises ValueError if it has none."""
    return tuple(_gold(text) for text in gold_texts(answer))


def is_understood(answer: Any) -> bool:
    """Return whether spellings other than its own can equal the gold; raises ValueError if it is no gold."""
    return all(understood(gold) for gold in gold_answers(answer))


@functools.lru_cache(maxsize=4096)
def _gold(answer: str) -> str:
    found = boxes(answer)
    gold = normal_form(", ".join(box for box in found if box) if found else answer)
    if _DOUBLED.search(answer) and "\\\\\\" not in answer:
        raise ValueError(f"the gold answer {answer[:200]!r} has doubled backslashes: its data was escaped twice")
    if (
        not gold.strip("$")
        or None in found
        or gold.count("{") - gold.count(r"\{") != gold.count("}") - gold.count(r"\}")
    ):
        raise ValueError(f"the gold answer {answer[:200]!r} cannot be read")
    return gold


@reads_answers(final_answer, same=same_answer, golds=gold_answers, understands=is_understood)
def math_verifier(
    completion: str,
    answer: str | float | Sequence[str | float],
    prompt: str = "",
    *,
    extract: Extract = "boxed_or_last",
    tag: str = "answer",
    percent: Percent = "unit",
    thoughts_end: str | None = None,
) -> Score:
    r"""The value 1 if the completion's final answer equals the gold `answer`, or one of several golds, else 0.

    extract: the place of the final answer after the thoughts. "boxed": the last `\boxed{}`; "last_number": the last
    number; "boxed_or_last": the last `\boxed{}` or the line "Answer: ..." behind it, or, if there is neither, the last
    formula (`$...$`) or number; "tag": the last `<tag>...</tag>`. A box or tag left open is no answer, and a completion
    without an answer is wrong. Several boxes are a list where the gold is one. percent: the meaning of 50%. "unit": 50,
    since the sign is a unit like any other; "ratio": 0.5; "either": both. A unit or currency on one side only is
    ignored ("5 cm" = 5); known units are converted, and two that do not convert are unequal. thoughts_end: the tag that
    ends the thoughts; default: that of any public model (llmrl/rewards/thoughts.py). Raises ValueError if `answer` is
    no gold answer.
    """
    golds = gold_answers(answer)
    found = final_answer(completion, prompt, extract=extract, tag=tag, thoughts_end=thoughts_end)
    correct = found is not None and any(_correct(gold, found, percent) for gold in golds)
    if not correct and found is not None and extract.startswith("boxed") and completion.count("boxed") > 1:
        correct = _lists(golds, completion, prompt, percent, thoughts_end)
    return Score(float(correct), correct)


def warm_up() -> None:
    """Import math-verify and build its parser before the first grading."""
    parsed(r"\frac{\sqrt{2}}{2}")
    math_verifier(r"\boxed{\frac{\sqrt{2}}{2}}", r"\frac{1}{\sqrt{2}}")


def _correct(gold: str, found: str, percent: Percent) -> bool:
    if gold == found:
        return True
    if _PLAIN.fullmatch(gold) and _PLAIN.fullmatch(found):
        return Fraction(gold) == Fraction(found)
    if len(found) > max(MAX_ANSWER_CHARACTERS, 2 * len(gold)):
        return False
    return _equal(gold, normal_form(found), percent)


def _equal(gold: str, found: str, percent: Percent) -> bool:
    """Return whether two answers in normal form are equal; an exception is the fault of a text that cannot be read."""
    if max(nesting(found), nesting(gold)) > MAX_NESTING:
        return typeset(gold) == typeset(found)
    try:
        return Equality(percent)(gold, found)
    except Exception:  # the gold is equal to itself, so the other text is at fault; sympy raises anything
        return False


def _lists(golds: Sequence[str], completion: str, prompt: str, percent: Percent, thoughts_end: str | None) -> bool:
    """Return whether all boxes together are a gold that is a list or a set."""
    part = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    found = list(dict.fromkeys(boxes(part or "")))
    if len(found) < 2 or None in found or sum(map(len, filter(None, found))) > MAX_ANSWER_CHARACTERS:
        return False
    together = ", ".join(normal_form(box) for box in found if box)
    many = [gold for gold in golds if (of := collection(gold)) and (of.names or of.brackets in (LIST, SET))]
    return any(_equal(gold, together, percent) for gold in many)
