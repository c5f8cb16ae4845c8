"""math-verify, for expressions that llmrl/rewards/answers/expressions.py does not read: integrals, limits, cases.

math-verify reads all letters in lower case and takes numbers that differ by less than 1e-15 as equal, so it is asked
only where one of the two answers needs it, and never where letters differ in case.
"""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from llmrl.rewards.answers.brackets import nesting

MAX_CHARACTERS = 600
MAX_NESTING = 12
MAX_POWERS = 12
_NEEDED = re.compile(r"\\(?:int|iint|lim|begin|det|cup|cap|setminus)(?![a-zA-Z])")
_CALCULATED = re.compile(r"\\(?:begin|cup|cap|setminus)(?![a-zA-Z])")
"""What a plain gold may be equal to."""

_ENVIRONMENT = re.compile(r"\\(?:begin|end)\s*\{\w+\}")
_NOT_WORKED_OUT = re.compile(r"\\(?:int|iint|oint|lim|sum|prod|det)(?![a-zA-Z])")
_LETTER = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z]")
_EXPLODES = re.compile(
    r"\^\s*[{(]*\s*-?\s*\d[\d,]{4}"  # 2^{100000}
    r"|\d\s*[)}]*\s*\^\s*[{(]*\s*-?\s*\d+\s*[)}]*\s*(?:\^|\*\*)"  # 9^9^9, (9^9)^9
    r"|\*\*|\d{5,}\s*[)}]*\s*!|!\s*[)}]*\s*!|\^\s*[{(]*\s*\d+\s*!"  # 99999!, 10!!, 2^{9!}
    r"|\d{401}"
)


def equal(gold: str, found: str) -> bool:
    """Return whether math-verify takes two expressions in normal form as equal."""
    # such answers may take sympy hours
    if _NOT_WORKED_OUT.search(found) or nesting(found) > MAX_NESTING or found.count("^") > MAX_POWERS:
        return False
    plain = not _NEEDED.search(gold)
    if plain and (not _CALCULATED.search(found) or _LETTER.search(_ENVIRONMENT.sub(" ", found))):
        return False
    letters = set(_LETTER.findall(gold)) | set(_LETTER.findall(found))
    if len(letters) > len({letter.lower() for letter in letters}):
        return False
    expected, given = parsed(gold), parsed(found)
    if not expected or not given:
        return False
    from math_verify import verify

    return verify(expected, given, timeout_seconds=None)


@functools.lru_cache(maxsize=4096)
def parsed(text: str) -> list[Any]:
    """Parse one expression with math-verify; returns [] if math-verify cannot read it or could never finish.

    math-verify's own time limits are off: they use SIGALRM, which only a main thread may set. The deadline of the
    worker pool replaces them.
    """
    if len(text) > MAX_CHARACTERS or nesting(text) > MAX_NESTING or _EXPLODES.search(text):
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
