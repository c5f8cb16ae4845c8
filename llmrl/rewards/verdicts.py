"""Verdicts in a judge's reply: read from its text, or as an expectation over the tokens that it might have written.

A verdict stands in double brackets, as in [[A]] or [[7]]; the last one counts. A reply that is nothing but the verdict
needs no brackets. Verdicts on parts of an answer stand at the beginnings of lines, as in "[[Good]] the part".
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrl.errors import short
from llmrl.rewards.services import ReplyError

LABELS: Mapping[str, float] = {"A": 1.0, "B": 0.0, "C": 0.5}
"""What each label says of the chance that the first answer is the better one."""
NUMBER = r"-?\d+(?:\.\d+)?"
AROUND = " \t\r\n[]"


class UnreadableError(Exception):
    """A reply without a verdict."""


@dataclass(frozen=True)
class Token:
    """A token of a reply, and the log-probabilities of the likeliest ones in its place."""

    text: str
    likeliest: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Reply:
    """A judge's reply; tokens: None unless log-probabilities were asked for."""

    text: str
    tokens: tuple[Token, ...] | None = None


def reply_of(body: Any, *, logprobs: bool) -> Reply:
    """The reply in the body of a chat completion.

    Raises ReplyError for a body of another form, and for one without the log-probabilities that were asked for.
    """
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"] or ""
        if not isinstance(text, str):
            raise TypeError
        if not logprobs:
            return Reply(text)
        listed = (choice.get("logprobs") or {}).get("content")
        if not listed:
            raise ReplyError("the server gives no log-probabilities; set logprobs: false")
        return Reply(text, tuple(_token(one) for one in listed))
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError):
        raise ReplyError(f"the reply is {short(body)}, expected a chat completion") from None


def _token(entry: Mapping[str, Any]) -> Token:
    return Token(
        str(entry["token"]), tuple((str(one["token"]), float(one["logprob"])) for one in entry["top_logprobs"])
    )


def preference(reply: Reply) -> float:
    """The chance that the first answer is the better one: (P(A) + P(C) / 2) / (P(A) + P(B) + P(C)).

    Without log-probabilities one of them is 1. Raises UnreadableError.
    """
    return _expectation(reply, f"[{''.join(LABELS)}]", LABELS.get, "[[A]], [[B]] or [[C]]")


def labelled(reply: Reply, labels: Mapping[str, float]) -> float:
    """The value of the label that was written, or its expectation over the labels that a single token might have said.

    Raises UnreadableError.
    """
    return _expectation(reply, _any_of(labels), labels.get, " or ".join(f"[[{label}]]" for label in labels))


def written_label(text: str, labels: Collection[str]) -> str | None:
    """The label that a text gives as its verdict; None without one."""
    match = _last_verdict(text, _any_of(labels))
    return match and match[match.lastindex or 1]


def written_labels(text: str, labels: Collection[str]) -> list[tuple[str, int, int]]:
    """Every label in double brackets in a text, in order, with the places where it begins and where it is over."""
    found = re.finditer(rf"\[\[\s*({_any_of(labels)})\s*\]\]", text)
    return [(one[1], *one.span()) for one in found]


def labelled_lines(text: str, labels: Collection[str]) -> list[tuple[str, str]]:
    """The lines of a text that begin with a label, as in "[[Good]] a line", each as the label and what follows it."""
    line = re.compile(
        rf"^[ \t]*(?:[-*][ \t]+)?\[\[[ \t]*({_any_of(labels)})[ \t]*\]\][ \t]*(\S.*?)[ \t]*$", re.MULTILINE
    )
    return [(found[1], found[2]) for found in line.finditer(text)]


def _any_of(labels: Collection[str]) -> str:
    return "|".join(map(re.escape, sorted(labels, key=len, reverse=True)))


def score(reply: Reply, low: float, high: float) -> float:
    """The score in the range, or its expectation over the scores that a single token might have said.

    Raises UnreadableError, also for a score outside of the range.
    """

    def value(text: str) -> float | None:
        number = float(text) if re.fullmatch(NUMBER, text, re.ASCII) else math.nan
        return number if low <= number <= high else None

    return _expectation(reply, NUMBER, value, f"[[n]] with n from {low:g} to {high:g}")


def rated(text: str, low: float, high: float) -> float:
    """The score in a text as a share of the range from `low` to `high`: (score - low) / (high - low).

    Raises UnreadableError.
    """
    return (score(Reply(text), low, high) - low) / (high - low)


def check_range(low: float, high: float, **others: Any) -> None:
    """Raises ValueError unless low < high."""
    if not low < high:
        raise ValueError(f"low {low:g}, high {high:g}: expected low < high")


def _expectation(reply: Reply, pattern: str, value: Any, expected: str) -> float:
    tokens = reply.tokens
    text = reply.text if tokens is None else "".join(one.text for one in tokens)
    match = _last_verdict(text, pattern)
    found = None if match is None else value(match[match.lastindex or 1])
    if match is None or found is None:
        raise UnreadableError(f"{short(text[-60:])}, expected {expected}")
    if tokens is None:
        return found
    token = _token_at(tokens, match.start(match.lastindex or 1))
    if token.text.strip(AROUND) != match[match.lastindex or 1]:
        raise UnreadableError(f"{short(token.text)} is no whole verdict; set logprobs: false")
    weights = [
        (known, math.exp(logprob))
        for text, logprob in token.likeliest
        if (known := value(text.strip(AROUND))) is not None
    ]
    total = math.fsum(weight for _, weight in weights)
    return math.fsum(known * weight for known, weight in weights) / total if total > 0 else found


def _last_verdict(text: str, pattern: str) -> re.Match[str] | None:
    forms = re.compile(rf"\[\[\s*({pattern})\s*\]\]|\A\s*({pattern})\s*\Z", re.ASCII)
    return next(iter(reversed(list(forms.finditer(text)))), None)


def _token_at(tokens: Sequence[Token], place: int) -> Token:
    """The token that has the character at `place` of the tokens' text."""
    for token in tokens:
        if place < len(token.text):
            return token
        place -= len(token.text)
    raise IndexError(place)
