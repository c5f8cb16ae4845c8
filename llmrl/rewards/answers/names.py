r"""Names before an answer: "x = 5", "f(x) = 3x", "(x, y) = (3, 7)", "AD : DB = 3 : 8", "the area = 12"."""

from __future__ import annotations

import functools
import re

from llmrl.rewards.answers.expressions import read

_SUBSCRIPT = r"(?:_(?:\{[^{}]*\}|\w))?"
_NAME = rf"\\?[^\W\d][\w']*?{_SUBSCRIPT}'*(?:\^\{{-1\}}|\^\{{\(\d+\)\}})?(?:\s*\(\s*-?\w+(?:\s*,\s*-?\w+)*\s*\))?"
_MARKED = (
    r"(?:\\(?:angle|triangle|overline|widehat|vec|hat|bar|overrightarrow|arc|widetilde|tilde|dot)\s*\{?\s*|m\s*)*"
    rf"{_NAME}\s*\}}?"
)
_NAMED = re.compile(
    rf"{_MARKED}|\|\s*{_MARKED}\s*\||\(\s*{_NAME}(?:\s*,\s*{_NAME})+\s*\)|{_MARKED}(?:\s*:\s*{_MARKED})+"
    r"|[A-Za-z][A-Za-z ]{2,40}[A-Za-z]|\\frac\s*\{\s*[A-Z]{1,3}\s*\}\s*\{\s*[A-Z]{1,3}\s*\}"
    r"|(?:[PE]|\\Pr|\\mathbb\s*\{?[PE]\}?)\s*[(\[][^()=<>]{1,40}[)\]]"
)
_SIGN = re.compile(r"=|\\(?:approx|in|equiv)(?![a-zA-Z])")
MAX_NAME_CHARACTERS = 60
_RELATION = re.compile(r"[<>=]|\\(?:[lg]e|ne|approx)(?![a-z])")
_DERIVED_NAME = re.compile(r"(?P<function>[^\W\d])'+\Z")


@functools.lru_cache(maxsize=8192)
def assignment(text: str) -> tuple[str, str]:
    """Return the name and value of "x = 5", or ("", text) for any other text.

    The y' of y' = 3y names no value, since the value speaks of y itself: that is a differential equation.
    """
    if "=" not in text and "\\" not in text:
        return "", text
    sign = _SIGN.search(text, 0, MAX_NAME_CHARACTERS)
    if sign is None or not _NAMED.fullmatch(text[: sign.start()].strip()):
        return "", text
    name, value = "".join(text[: sign.start()].split()), text[sign.end() :].strip()
    if not value or _RELATION.search(value) or (sign.group() == r"\in" and value[0] not in "([{\\"):
        return "", text
    derived = _DERIVED_NAME.match(name)
    if derived:
        expression = read(value)
        if expression is None or {derived["function"], name} & expression.symbols:
            return "", text
    return name, value
