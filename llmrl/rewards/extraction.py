"""Extraction of the answer from a completion. Every function searches from the end, at any length of text.

Each function returns None if the completion has no such answer, and never guesses one.
"""

from __future__ import annotations

import re

_BOX_OR_BRACE = re.compile(
    r"\\+(?:boxed|fbox)\s*(?:(?P<box>\{)|(?P<bare>-?\d+(?:[.,]\d+)*|\\frac\s*\{\d+\}\s*\{\d+\}|\\frac\d\d))"
    r"|\\.|[{}]",
    re.DOTALL,
)
_ANSWER_LINE = re.compile(
    r"[\s>*_#`-]*(?:the\s+)?(?:final\s+|correct\s+)?(?:answer|ans)\b[\s*_`]*(?:is\b[\s*_`]*)?[:=\uff1a][\s*_`]*"
    r"(?P<answer>[^\n]*?[^\s*_`.])[\s*_`.]*",
    re.IGNORECASE,
)
_ANSWER_HEADING = re.compile(r"\s*(?:#+\s*|\*\*)(?:the\s+)?(?:final\s+|correct\s+)?answer[\s*_`:]*", re.IGNORECASE)
_SAID = re.compile(r"\b(?:answer|choice|option)\s+(?:is|must be|should be|would be)\b:?\s*", re.IGNORECASE)
_SAID_LETTER = re.compile(r"[\s*_`$]*(?P<option>\(?[A-J]\)?|\([A-J]\)\s[^\n]*?)[\s*_`$.!]*")
_BRIEF = re.compile(r"[\s*_`$#]*(?P<answer>[^\s*_`$#.!]{1,20})[\s*_`$.]*")

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    r"(?P<sign>-\s?)?(?P<currency>\\?[$€£¥₹]\s?-?)?"
    rf"(?:\\[dt]?frac\s*\{{\s*-?(?:{_DIGITS})\s*\}}\s*\{{\s*(?:{_DIGITS})\s*\}}"
    rf"|(?:{_DIGITS})(?:\s*/\s*(?:{_DIGITS})|\s*\\[dt]?frac\s*\{{\d+\}}\s*\{{\d+\}}|\s\d+/\d+)?)"
    r"(?:[eE][+-]?\d{1,3}(?!\w)|\s*(?:\\times|×|\*)\s*10\s*\^\s*\{?-?\d{1,3}\}?)?"  # noqa: RUF001
    r"(?P<percent>\s*\\?%)?(?:\s+(?:hundred|thousand|million|billion|trillion)\b)?"
)
_LETTER = r"[_a-zA-Z\u00c0-\u024f\u0370-\u058f]"  # of scripts that put spaces between words and numbers
_IN_WORD = re.compile(rf"(?:{_LETTER}|\d\.?|[\w.)}}\]][_^]\{{?-?)$")
_IN_ROOT = re.compile(r"(?:\\sqrt\s*(?:\[\d*\])?\s*\{?|√\s*)$")
_FACTOR_FOLLOWS = re.compile(r"\s*(?:\\sqrt|√|\\pi|π|!|\^|_|\\cdot|[xyzabnpqrt](?!\w))")
_ASIDE = re.compile(
    r"\((?:see|from|by|cf\.?|as in|using|in|per|check|compare|note|recall)?\s*(?:the\s+)?"
    r"(?:steps?|eq(?:uation)?s?\.?|parts?|fig(?:ure)?s?\.?|sections?|lines?|pages?|rules?|tables?|cases?|examples?|method)\b"
    r"[^()\n]{0,40}\)",
    re.IGNORECASE,
)
"""A remark that points elsewhere, as "(see step 2)" does; its number is no answer."""
_FORMULA = re.compile(
    r"\$\$([^$]+)\$\$|(?<![\\$])\$(?=[^\s$]|[^$\n]*\\)((?:[^$\\\n]|\\.)+)(?<![$])\$(?![\d$])|\\\((.+?)\\\)|\\\[(.+?)\\\]",
    re.DOTALL,
)
_DASHES = str.maketrans("\u2212\u2013", "--")
_NEGATIVE = re.compile(r"(?<!\w)(?:negative|minus)\s+(?=[\d$])", re.IGNORECASE)
_SAID_BEFORE = re.compile(r"(?:\b(?:is|are|be|get|equals|answer)|:)\s*[*_`$\\]*\s?$")
_EXCLAIMED = re.compile(r"[*_`$]*!(?![!\d])")
_FIRST_LOOK_CHARACTERS = 2000


def boxes(text: str) -> list[str | None]:
    r"""Return the texts in all `\boxed{...}`, in the order in which they end; None for a box that is left open.

    `\boxed 8` is a box too. A bare mention of `\boxed`, or an empty `\boxed{}`, is none.
    """
    first = min((place for place in (text.find(r"\boxed"), text.find(r"\fbox")) if place >= 0), default=-1)
    if first < 0:
        return []
    found: list[str | None] = []
    depth = 0
    opened: list[tuple[int, int, int]] = []  # where the content begins, its depth, and the boxes found before it
    for match in _BOX_OR_BRACE.finditer(text, first):
        if match["bare"]:
            found.append(match["bare"])
        elif match["box"]:
            depth += 1
            opened.append((match.end(), depth, len(found)))
        elif match.group() == "{":
            depth += 1
        elif match.group() == "}":
            if opened and opened[-1][1] == depth:
                begin, _, before = opened.pop()
                if len(found) == before and text[begin : match.start()].strip():
                    found.append(text[begin : match.start()])
            depth -= 1
    return [*found, None] if opened else found


def last_boxed(text: str) -> str | None:
    r"""Return the text in the last `\boxed{...}`; a box left open holds no answer, nor does any before it."""
    found = boxes(text)
    return found[-1] if found else None


def has_box(text: str) -> bool:
    r"""Return whether the text has a `\boxed` with a content, closed or not."""
    return bool(boxes(text))


def answer_line(text: str) -> tuple[int, str] | None:
    """Return the place and the answer of the last line such as "**Answer: D**"."""
    lower = text.lower()
    place = len(text)
    while (place := lower.rfind("ans", 0, place)) >= 0:
        start, end = text.rfind("\n", 0, place) + 1, text.find("\n", place)
        line = _ANSWER_LINE.fullmatch(text, start, len(text) if end < 0 else end)
        if line:
            return start, line["answer"].strip()
        below = text[end:].strip().partition("\n")[0] if end >= 0 else ""
        if below and _ANSWER_HEADING.fullmatch(text, start, end):
            return start, below.strip("*_` ")
        place = start
    return None


def has_stated(text: str) -> bool:
    """Return whether the text has a box, closed or not, or a line such as "Answer: D"."""
    return has_box(text) or answer_line(text) is not None


def last_stated(text: str) -> str | None:
    r"""Return the text of the last `\boxed{}` or of the "Answer: ..." line behind it; None if the last box is open."""
    line = answer_line(text)
    if line and not has_box(text[line[0] :]):
        return line[1]
    return last_boxed(text)


def last_formula(text: str) -> str | None:
    """Return the last formula between dollar signs or LaTeX's brackets, if no number follows it."""
    tail = text[-_FIRST_LOOK_CHARACTERS:]
    found = list(_FORMULA.finditer(tail)) if "$" in tail or "\\" in tail else []
    if not found or re.search(r"\d", tail[found[-1].end() :]):
        return None
    insides = [next(part for part in one.groups() if part is not None).strip(" .;,\n") for one in found]
    # the exponent of cm$^2$ belongs to the text before it
    return next((inside for inside in reversed(insides) if inside and inside[0] not in "^_"), None)


def last_said(text: str) -> str | None:
    """Return what follows the last "the answer is" on its line."""
    ends = [match.end() for match in _SAID.finditer(text)]
    return text[ends[-1] :].split("\n", 1)[0].strip(" *_`.!") or None if ends else None


def only_word(text: str) -> str | None:
    """Return the text, without markdown, if it is one word."""
    brief = _BRIEF.fullmatch(text)
    return brief and brief["answer"]


def last_letter(text: str) -> str | None:
    """Return the letter, or "(B) and its text", of "the answer is (B)." at the end of a text."""
    said = last_said(text)
    if said is None or said not in text.rstrip().rpartition("\n")[2]:
        return None
    letter = _SAID_LETTER.fullmatch(said)
    return letter and letter["option"].strip()


def last_tag(text: str, tag: str, prompt: str = "") -> str | None:
    """Return the text in the last `<tag>...</tag>`; a tag left open holds no answer. The prompt may end in `<tag>`."""
    if prompt.rstrip().endswith(f"<{tag}>"):
        text = f"<{tag}>{text}"
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
    text = _ASIDE.sub("", text) if "(" in text else text
    text = _NEGATIVE.sub("-", text.translate(_DASHES)) if not text.isascii() or "in" in text or "neg" in text else text
    while True:  # the tail almost always holds a number; a longer look costs time only when it does not
        window = text[-width:]
        whole = len(text) <= width
        for match in reversed(list(_NUMBER.finditer(window))):
            if match.start() == 0 and not whole:  # the window's edge may cut this number
                continue
            start = match.start() + len(match.group("sign") or "")
            if not match.group("currency") and _IN_WORD.search(window, max(0, start - 8), start):
                continue
            exclaimed = _EXCLAIMED.match(window, match.end()) and _SAID_BEFORE.search(window, max(0, start - 12), start)
            if _IN_ROOT.search(window, max(0, start - 16), start):
                return None
            if _FACTOR_FOLLOWS.match(window, match.end()) and not exclaimed:
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
    subtraction = (
        operand.isdigit()
        or operand in tuple(")}]")
        or (re.match(_LETTER, operand) is not None and (adjacent or sign != "-"))
    )
    return number if subtraction else "-" + number
