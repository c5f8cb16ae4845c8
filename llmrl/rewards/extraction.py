"""Extraction of the answer from a completion. Every function searches from the end, at any length of text.

Each function returns None if the completion has no such answer, and never guesses one.
"""

from __future__ import annotations

import re

_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    r"(?P<sign>-\s?)?(?P<currency>\\?[$€£¥₹]\s?-?)?"
    rf"(?:\\[dt]?frac\s*\{{\s*-?(?:{_DIGITS})\s*\}}\s*\{{\s*(?:{_DIGITS})\s*\}}"
    rf"|(?:{_DIGITS})(?:\s*/\s*(?:{_DIGITS})|\s*\\[dt]?frac\s*\{{\d+\}}\s*\{{\d+\}}|\s\d+/\d+)?)"
    r"(?:[eE][+-]?\d{1,3}(?!\w)|\s*(?:\\times|×|\*)\s*10\s*\^\s*\{?-?\d{1,3}\}?)?"  # noqa: RUF001
    r"(?P<percent>\s*\\?%)?"
)
_IN_WORD = re.compile(r"(?:[^\W\d]|\d\.?|[\w.)}\]][_^]\{?-?)$")
_IN_ROOT = re.compile(r"(?:\\sqrt\s*(?:\[\d*\])?\s*\{?|√\s*)$")
_FACTOR_FOLLOWS = re.compile(r"\s*(?:\\sqrt|√|\\pi|π|!|\^|_|\\cdot|[xyzabnpqrt](?!\w))")
_FIRST_LOOK_CHARACTERS = 2000


def last_boxed(text: str) -> str | None:
    r"""Return the text in the last `\boxed{...}`, with its nested braces; a box left open holds no answer."""
    start = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if start < 0:
        return None
    opening = re.compile(r"\\(?:boxed|fbox)\s*\{").match(text, start)
    if opening is None:
        return None
    depth = 1
    for brace in _BRACE.finditer(text, opening.end()):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if depth == 0:
            return text[opening.end() : brace.start()]
    return None


def has_box(text: str) -> bool:
    r"""Return whether the text has a `\boxed`, closed or not."""
    return r"\boxed" in text or r"\fbox" in text


def last_tag(text: str, tag: str) -> str | None:
    """Return the text in the last `<tag>...</tag>`; a tag left open holds no answer."""
    start = text.rfind(f"<{tag}>")
    if start < 0:
        return None
    end = text.find(f"</{tag}>", start)
    return None if end < 0 else text[start + len(tag) + 2 : end]


def last_line(text: str) -> str | None:
    """Return the last line that is not blank."""
    lines = text.rstrip().rsplit("\n", 1)
    return lines[-1].strip() or None


def text_after(text: str, marker: str) -> str | None:
    """Return the text after the last occurrence of `marker`."""
    start = text.rfind(marker)
    return None if start < 0 else text[start + len(marker) :]


def last_number(text: str) -> str | None:
    r"""Return the last number that stands on its own, with its sign, currency and percent sign.

    "so 48 + 24 = 72." -> 72; "is $-1,250.50" -> $-1,250.50; "\frac{1}{2}" -> itself. Exponents, subscripts
    and digits inside words (25 cm^2, H2O) are skipped. If the last number is a part of a larger expression
    (3\sqrt{2}, 10!, 2^8), the answer is no number, and the function returns None.
    """
    text = text.replace("{,}", ",").replace(r",\!", ",")
    width = _FIRST_LOOK_CHARACTERS
    while True:  # the tail almost always holds a number; a longer look costs time only when it does not
        window = text[-width:]
        whole = len(text) <= width
        for match in reversed(list(_NUMBER.finditer(window))):
            if match.start() == 0 and not whole:  # the window's edge may cut this number
                continue
            start = match.start() + len(match.group("sign") or "")
            if not match.group("currency") and _IN_WORD.search(window, max(0, start - 8), start):
                continue
            if _IN_ROOT.search(window, max(0, start - 16), start) or _FACTOR_FOLLOWS.match(window, match.end()):
                return None
            return _signed(window, match)
        if whole:
            return None
        width *= 8


def _signed(text: str, match: re.Match[str]) -> str:
    """Return the number without a minus sign that is a subtraction: "10-5" and "10 - 5" end in 5."""
    sign = match.group("sign")
    if not sign:
        return match.group()
    number = match.group()[len(sign) :]
    before = text[: match.start()].rstrip()
    adjacent = len(before) == match.start()
    operand = before[-1:]
    subtraction = operand.isdigit() or operand in tuple(")}]") or (operand.isalpha() and (adjacent or sign != "-"))
    return number if subtraction else "-" + number
