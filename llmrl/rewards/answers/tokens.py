"""Tokens of an expression, in LaTeX or in plain text."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Kind = Literal["number", "name", "command", "function", "sign"]

FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc",
    "sinh", "cosh", "tanh", "coth", "arcsinh", "arccosh", "arctanh", "ln", "log", "lg", "exp",
    "gcd", "lcm", "min", "max", "abs", "floor", "ceil", "sqrt", "cbrt",
})  # fmt: skip
_SPELT = {
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "arsinh": "arcsinh", "asinh": "arcsinh",
    "acosh": "arccosh", "atanh": "arctanh", "ceiling": "ceil", "cosec": "csc", "cotg": "cot", "tg": "tan",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau upsilon phi chi psi omega"
)
_GREEK_NAMES = frozenset(_GREEK.split()) | frozenset(word.capitalize() for word in _GREEK.split())
_CONSTANTS = {"pi": "\\pi", "infinity": "\\infty", "inf": "\\infty", "oo": "\\infty"}
_PLAIN_WORDS = sorted((*FUNCTIONS, *_SPELT, *_GREEK_NAMES, *_CONSTANTS), key=len, reverse=True)
_MEANING = {
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "\\colon": ":", "\\{": "(",
    "\\}": ")", "\\lbrack": "(", "\\rbrack": ")", "[": "(", "]": ")", "\\lparen": "(", "\\rparen": ")",
}  # fmt: skip

_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|\.\d+)(?:[eE](?P<exponent>[-+]?\d{1,4})(?![\w(]))?"
    r"|\\operatorname\*?\s*\{(?P<operator>\w+)\}"
    r"|\\(?:mathrm|text|mathbf)\s*\{(?P<upright>\w+)\}"
    rf"|(?P<word>{'|'.join(_PLAIN_WORDS)})"
    r"|(?P<command>\\[a-zA-Z]+|\\.)|(?P<letter>[^\W\d_])|(?P<sign>[^\s\w]|_))\s*"
)
_REPEATING = re.compile(r"\s*\d*\.\d*\\overline\s*\{\s*\d+\s*\}\s*")


class UnreadableError(ValueError):
    """The text is no expression that can be read."""


class Token(NamedTuple):
    """A token of a text."""

    kind: Kind
    text: str


def tokens(text: str) -> list[Token]:
    """Return the tokens of a text in normal form; raises UnreadableError for a character that begins none."""
    found: list[Token] = []
    text = text.strip()
    place = 0
    while place < len(text):
        repeating = _REPEATING.match(text, place)
        match = repeating or _TOKEN.match(text, place)
        if match is None:
            raise UnreadableError(f"{text[place]!r} in {text[:80]!r}")
        found.append(Token("number", match.group().strip()) if repeating else _token(match))
        place = match.end()
    return found


def _token(match: re.Match[str]) -> Token:
    if match["number"] is not None:
        exponent = f"e{match['exponent']}" if match["exponent"] else ""
        return Token("number", match["number"].replace(",", "") + exponent)
    word = match["word"] or match["operator"] or match["upright"]
    if word is None and match["command"] and match["command"][1:].isalpha():
        command = match["command"][1:]
        word = command if command in FUNCTIONS or command in _SPELT else None
    if word is not None:
        word = _SPELT.get(word, word)
        if word in FUNCTIONS:
            return Token("function", word)
        if word in _CONSTANTS:
            return Token("command", _CONSTANTS[word])
        return Token("name", word)
    if match["letter"] is not None:
        return Token("name", match["letter"])
    text = match["command"] or match["sign"]
    text = _MEANING.get(text, text)
    if text.startswith("\\") and text[1:] in _GREEK_NAMES:
        return Token("name", text[1:])
    return Token("command" if text.startswith("\\") else "sign", text)


def is_word(letters: str) -> bool:
    """Return whether the letters are one name that expressions know: a function, a Greek letter or a constant."""
    return letters in FUNCTIONS or letters in _SPELT or letters in _GREEK_NAMES or letters in _CONSTANTS
