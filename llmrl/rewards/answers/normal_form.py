r"""The normal form of an answer's text: one spelling for answers that differ in typesetting alone.

A unit that the text sets upright, as `5\text{ cm}` does, stays marked as one: `5\unit{cm}`. All other text groups lose
their command.
"""

from __future__ import annotations

import functools
import re
import unicodedata

from llmrl.rewards.answers.tokens import FUNCTIONS
from llmrl.rewards.answers.units import read_unit

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ", "0123456789-n")
_SUPERSCRIPT_RUN = re.compile(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻ⁿ]+")
_SUBSCRIPTS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_SUBSCRIPT_RUN = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
_VULGAR_AFTER_DIGIT = re.compile(r"(?<=\d)(?=[¼½¾⅐-⅞])")
_THIN_SPACE = re.compile(r"(?<=\d)[\u2009\u202f\u00a0](?=\d{3}(?!\d))")
_CHARACTERS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "⁄": "/", "∕": "/", "÷": "/", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ",  # noqa: RUF001
        "π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "±": r"\pm ", "∪": r"\cup ", "≤": r"\le ", "≥": r"\ge ",  # noqa: RUF001
        "°": r"^\circ", "∅": r"\emptyset ", "“": '"', "”": '"', "’": "'", "‘": "'", "′": "'", "″": "''",  # noqa: RUF001
        "≈": r"\approx ", "≠": r"\ne ", "∈": r"\in ", "ℝ": r"\mathbb{R}", "∩": r"\cap ", "⟨": r"\langle ",  # noqa: RUF001
        "⟩": r"\rangle ", "∀": r"\forall ", "θ": r"\theta ", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
        "⌉": r"\rceil ", "∠": r"\angle ", "¬": r"\neg ",
        "∨": r"\lor ", "∧": r"\land ", "→": r"\to ", "∖": r"\setminus ",  # noqa: RUF001
        "，": ",", "；": ";", "：": ":",  # noqa: RUF001
    }
)  # fmt: skip

_END = r"(?![a-zA-Z])"
_JOINED_DIGITS = re.compile(r"(?<=\d)(?:\\[,;: !]|\{,\}|,\\[!,]\s*|\{\\[,;: ]\})(?=\d{3}(?!\d))")
_WITH_ARGUMENT = re.compile(
    rf"\\(?:color|hspace\*?|vspace\*?|phantom|hphantom|vphantom|label|tag\*?|fontsize|raisebox){_END}\s*\{{[^{{}}]*\}}"
)
_COLOURED = re.compile(rf"\\textcolor{_END}\s*\{{[^{{}}]*\}}")
_LAYOUT = re.compile(
    r"(?<!\\)\\[,!;: >/]|~|\\(?:q?quad|enspace|thinspace|(?:neg)?(?:thin|med|thick)space|left|right|middle"
    r"|[bB]igg?[lrm]?"
    r"|(?:display|text|script|scriptscript)style|(?:no)?limits|(?:math)?strut|checkmark|blacksquare|no(?:number|indent)|hfill|allowbreak"
    r"|tiny|scriptsize|footnotesize|small|normalsize|large|Large|LARGE|huge|Huge|bf|it|rm|sf|tt|cal|boldmath|limits)"
    + _END
)
_WRAPPERS = re.compile(
    rf"\\(?:textcolor|mathbf|mathit|mathsf|mathtt|boldsymbol|bm|pmb|underline|mathop|mathrel|mathord|mathbin|ensuremath"
    rf"|boxed|fbox|hbox|vcenter|underbrace|cancel|emph){_END}\s*\{{([^{{}}]*)\}}"
)
_TEXT_GROUP = re.compile(
    rf"(?P<before>\S?)(?P<space>\s*)\\(?:text|textbf|textit|textrm|textsf|textnormal|mathrm|rm|operatorname\*?|mbox"
    rf"|si){_END}\s*\{{(?P<text>[^{{}}]*(?:\^\s*\{{[^{{}}]*\}}[^{{}}]*)*)\}}(?P<power>\s*\^\s*(?:\{{\s*-?\d+\s*\}}|\d))?"
    r"(?P<goes_on>(?=\s*[\w(]))?"
)
_ENDS_VALUE = re.compile(r"[\w)\]}!%]")
_REAL_LINE = re.compile(r"\\(?:mathbf|mathds|Bbb|mathrm)\s*\{\s*R\s*\}(?!\s*[\^_\w])")
_ALIGNED = re.compile(r"\\(?:begin|end)\s*\{(?:aligned|align\*?|gathered|equation\*?|split|displaymath|math)\}")
_NAMED_FUNCTIONS = FUNCTIONS | {"det"}

_SPELT_OTHERWISE = {
    r"\frac": "dfrac tfrac cfrac", r"\binom": "dbinom tbinom", r"\le ": "leq leqslant leqq",
    r"\ge ": "geq geqslant geqq",
    r"\ne ": "neq", "<": "lt", ">": "gt", ":": "colon", r"\emptyset ": "varnothing oslash",
    r"\mathbb{R}": "R Reals reals", r"^\circ ": "degree", "...": "dots ldots cdots", "(": "langle", ")": "rangle",
    r"\lor ": "vee", r"\land ": "wedge", r"\to ": "rightarrow longrightarrow", r"\neg ": "lnot",
    r"\overline": "bar", r"\dot ": "dot", r"\setminus ": "backslash smallsetminus",
    r"\approx ": "simeq approxeq thickapprox doteq", r"\{": "lbrace", r"\}": "rbrace", "|": "lvert rvert vert",
    r"\epsilon ": "varepsilon", r"\phi ": "varphi", r"\Rightarrow ": "implies therefore",
}  # fmt: skip
_MEANING = {command: meaning for meaning, commands in _SPELT_OTHERWISE.items() for command in commands.split()}
_BASE_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "sixteen": 16,
}  # fmt: skip
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_RENAMED = tuple(
    (needle, re.compile(pattern), replacement)
    for needle, pattern, replacement in (
        ("frac", r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        ("frac", r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        ("<", r"<=", r"\\le "),
        ("=<", r"=<", r"\\le "),
        (">=", r">=", r"\\ge "),
        ("!=", r"!=", r"\\ne "),
        (r"\not", r"\\not\s*=", r"\\ne "),
        (r"\mathbb", r"\\mathbb\s*\{?\s*R\s*\}?", r"\\mathbb{R}"),
        (r"\mathbf", r"\\mathbf\s*\{?\s*R\s*\}?", r"\\mathbb{R}"),
        (r"\circ", r"\^\s*\{\s*\\circ\s*\}", r"^\\circ"),
        (
            r"\prime",
            r"\^\s*\{\s*(\\prime(?:\s*\\prime)*)\s*\}|\^\s*(\\prime)" + _END,
            lambda match: "'" * match[0].count("prime"),
        ),
        ("'", r"\^\s*\{\s*('+)\s*\}", r"\1"),
        (r"\sqrt", r"\\sqrt\s+(\d+|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"\sqrt", r"\\sqrt\s*(\d)", r"\\sqrt{\1}"),
        ("…", "…", "..."),
        (r"\}", r"\\\{\s*\\\}", r"\\emptyset "),
        (
            r"\in",  # x = 2k, k \in \mathbb{Z}
            r"[,;]\s*\(?\s*[a-zA-Z](?:\s*,\s*[a-zA-Z])*\s*\\in\s*\\mathbb\s*\{?\s*[ZN]\s*\}?(?:\^\+|_\+)?\s*\)?\s*$",
            "",
        ),
        (r"\lor", r"\\lor(?![a-zA-Z])(?=.*(?:[<>=\d]|\\[lgn]e))", " or "),
        (r"\land", r"\\land(?![a-zA-Z])(?=.*(?:[<>=\d]|\\[lgn]e))", " and "),
        (")_", r"\((\d+)\)_", r"\1_"),
        (
            "_",
            r"_\{?\s*(two|three|four|five|six|seven|eight|nine|ten|sixteen)\b\s*\}?",
            lambda m: f"_{{{_BASE_WORDS[m[1]]}}}",
        ),
        ("/d", r"(?<![a-zA-Z\\])d([a-zA-Z])/d([a-zA-Z])(?![a-zA-Z])", r"\\frac{d\1}{d\2}"),
        (" to ", r"(?<=\d) to (?=\d)", ":"),
        ("**", r"\*\*", "^"),
        ("{:}", r"\{:\}", ":"),
        (r"\unit", r"(:\s*\d\d)\\unit\{([^{}]*)\}", r"\1 \2"),  # 4:30\unit{pm}
    )
)
_MATH_MODE = re.compile(r"(?<!\\)\\[()\[\]]|(?<!\\)\$\$")
_MATH_MODE_PAIR = re.compile(r"(?<!\\)\$([^$]*(?:\\\$[^$]*)*)(?<!\\)\$")
_STRAY_DOLLAR = re.compile(r"(?<=[^\s\\])\$(?!\s*[\d.])")
_QUOTES = ("**", "__", "`", '"', "'")
_LABEL = re.compile(
    r"(?:the\s+)?(?:final\s+|correct\s+)?(?:answers?|ans\.?|result|solutions?|value)\s*(?:(?:is|are)\b\s*:?|[:=])\s*",
    re.IGNORECASE,
)
_WORDS_BEFORE = re.compile(r"[A-Za-z]{3,15}(?: [a-z]{2,15}){0,3}\s?:\s+(?=[^\s])")
_APPROXIMATELY = re.compile(r"(?:\\approx(?![a-zA-Z])|\\sim(?![a-zA-Z])|approximately\b|approx\.?|about\b)\s*")
_FOR_ALL = re.compile(
    r"[,;:]?\s*\(?\s*(?:\\forall(?![a-zA-Z])|\b(?:for|with)\s+(?:all|any|every|each|some)\b|\bwhere\b).*", re.DOTALL
)
_NO_SOLUTION = re.compile(r"(?i)(?:there (?:is|are) )?no (?:real )?solutions?|the empty set|empty set")
_CONDITION = re.compile(r"[^:]*(?:[<>]|\\[lg]e(?![a-zA-Z]))[^:]*:\s*([(\[].*[)\]])\s*", re.DOTALL)


@functools.lru_cache(maxsize=8192)
def normal_form(text: str) -> str:
    r"""Return one spelling for answers that differ only in typesetting, such as `$\dfrac12$.` and `\frac{1}{2}`."""
    if text.isascii() and text.isalnum():
        return text
    text = _characters(text)
    text = _JOINED_DIGITS.sub("", text)
    if "\\" in text or "~" in text:
        text = _LAYOUT.sub(" ", _COLOURED.sub(r"\\emph", _WITH_ARGUMENT.sub(" ", text)))
    text = _MATH_MODE_PAIR.sub(r" \1 ", _MATH_MODE.sub(" ", text)).strip()
    text = _STRAY_DOLLAR.sub("", text).strip() if "$" in text else text
    for quote in _QUOTES:
        if text.startswith(quote) and text.rstrip(".").endswith(quote) and len(text) > 2 * len(quote):
            text = text.rstrip(".")[len(quote) : -len(quote)]
    return _trimmed(_commands(text) if "\\" in text else _renamed(text))


def _characters(text: str) -> str:
    if text.isascii():
        return text
    text = _THIN_SPACE.sub("", _VULGAR_AFTER_DIGIT.sub(" ", text))
    text = _SUPERSCRIPT_RUN.sub(lambda run: "^{" + run.group().translate(_SUPERSCRIPTS) + "}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: "_{" + run.group().translate(_SUBSCRIPTS) + "}", text)
    return unicodedata.normalize("NFKC", text.translate(_CHARACTERS)).translate(_CHARACTERS)


def _commands(text: str) -> str:
    text = _REAL_LINE.sub(r"\\mathbb{R}", text)
    for _ in range(4):  # groups may nest
        text, count = _TEXT_GROUP.subn(_upright, text)
        text, wrapped = _WRAPPERS.subn(r" \1 ", text)
        if not count + wrapped:
            break
    return _renamed(_ALIGNED.sub(" ", text))


def _upright(match: re.Match[str]) -> str:
    """Return an upright group's text; a unit behind a value keeps a mark, a function's name becomes a command."""
    before, space, text = match["before"], match["space"], match["text"]
    power = match["power"] or ""
    stripped = text.strip().strip("()") if text.strip().startswith("(") else text.strip()
    follows = bool(before) and bool(_ENDS_VALUE.match(before)) and "operatorname" not in match[0]
    unit = read_unit(stripped) if follows and stripped and match["goes_on"] is None else None
    if unit and (unit.measures is not None or len(stripped) > 2):
        return f"{before}\\unit{{{stripped}{power.replace(' ', '')}}}".replace("{^{", "^{")
    if stripped in _NAMED_FUNCTIONS:
        return f"{before}{space}\\{stripped} {power}"
    if len(stripped) == 1 and power:
        return f"{before}{space}{stripped}{power}"
    return f"{before}{space} {text} {power}"


def _renamed(text: str) -> str:
    text = _COMMAND.sub(lambda match: _MEANING.get(match[1], match[0]), text)
    for needle, pattern, replacement in _RENAMED:
        if needle in text:
            text = pattern.sub(replacement, text)
    return text


def _trimmed(text: str) -> str:
    """Return the text without a label before it, an "about" before it and a "for all x" behind it."""
    text = " ".join(text.split()).rstrip(" .;,:").lstrip(" :=")
    text = text.rstrip("\\ ") if text.endswith("\\") else text
    label = _LABEL.match(text)
    if label and label.end() < len(text):
        text = text[label.end() :].lstrip(" :=")
    label = _WORDS_BEFORE.match(text) if ": " in text else None
    if label and label.end() < len(text):
        text = text[label.end() :]
    nearly = _APPROXIMATELY.match(text)
    if nearly and nearly.end() < len(text):
        text = text[nearly.end() :]
    if "for" in text or "with" in text or "where" in text:
        tail = _FOR_ALL.search(text)
        if tail and tail.start() > 0 and re.search(r"[\d=)}\]]", text[: tail.start()]):
            text = text[: tail.start()].rstrip(" .;,:")
    if _NO_SOLUTION.fullmatch(text):
        return r"\emptyset"
    condition = _CONDITION.fullmatch(text) if ":" in text else None  # x > 1: (1, 2)
    return condition[1] if condition else text
