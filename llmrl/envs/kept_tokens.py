"""The tokens of a rendered conversation in which what was sampled keeps its own tokens.

Messages are found in the rendered text by marks: characters of no language, put into the middle of a message's words,
where no template trims or parses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmrl.envs.base import AuthorText
from llmrl.rewards.thoughts import TAGS

Messages = Sequence[Mapping[str, Any]]
_MARK, _FIRST = "\ue000", 0xE100
_MARKS = re.compile("\ue000([\ue100-\uf8ff])")
_MOST = 0xF8FF - _FIRST
_CLOSING = re.compile("|".join(re.escape(tag) for tag in TAGS))


@dataclass(frozen=True)
class Said:
    """A turn of the author's. place: of its message; text: of its tokens; written: the same with the stop token."""

    place: int
    token_ids: list[int]
    text: str
    written: str

    @property
    def end(self) -> str:
        """The text of the stop token that was sampled; empty where there was none."""
        return self.written[len(self.text) :]


@dataclass(frozen=True)
class Stretch:
    """A part of a rendered text with tokens of its own: those that were sampled, or its text's without special ones."""

    start: int
    stop: int
    token_ids: list[int]


def located(
    render: Callable[[Messages], str], messages: Messages, shown: str, places: Iterable[int]
) -> dict[int, tuple[int, str]]:
    """Where the words of messages begin in the rendered text, and these words: those after thoughts, without space
    around them. Messages that the template does not show as they are stand for nothing and are left out."""
    marked, words = [dict(message) for message in messages], {}
    for number, place in enumerate(places):
        content = str(messages[place]["content"])
        thoughts = [found.end() for found in _CLOSING.finditer(content)]
        part = content[thoughts[-1] if thoughts else 0 :].strip()
        if not part or number > _MOST:
            continue
        middle = content.rindex(part) + len(part) // 2
        marked[place]["content"] = content[:middle] + _MARK + chr(_FIRST + number) + content[middle:]
        words[number] = place, part
    text = render(marked) if words else ""
    if _MARKS.sub("", text) != shown:
        return {}
    found: dict[int, tuple[int, str]] = {}
    for before, mark in enumerate(_MARKS.finditer(text)):
        place, part = words[ord(mark[1]) - _FIRST]
        start = mark.start() - 2 * before - len(part) // 2
        if place not in found and shown.startswith(part, max(start, 0)):
            found[place] = start, part
    return found


def kept(shown: str, turns: Iterable[Said], found: Mapping[int, tuple[int, str]], text: AuthorText) -> list[Stretch]:
    """The stretches of the turns in a rendered text: of each as many of its tokens as the text shows in one piece."""
    stretches: list[Stretch] = []
    cursor = 0
    for turn in turns:
        if turn.place in found and found[turn.place][1] in turn.text:
            at, part = found[turn.place]
            own = turn.text.rindex(part)
        else:  # no words, as in a message of calls alone
            part, own = turn.text.strip(), 0
            at = shown.find(part, cursor) if part else -1
            own = turn.text.find(part)
        if at < cursor:
            continue
        left = _shared(shown[cursor:at][::-1], turn.written[:own][::-1])
        right = _shared(shown[at:], turn.written[own:])
        stretch = _aligned(turn, at - own, own - left, own + right, text)
        if stretch is not None:
            stretches.append(stretch)
            cursor = stretch.stop
    return stretches


def _aligned(turn: Said, origin: int, first: int, last: int, text: AuthorText) -> Stretch | None:
    """The stretch of the tokens that lie within the characters `first` to `last` of a turn that begins at `origin`."""
    read = text.written or text.decode

    def length(count: int) -> int:
        return len(read(turn.token_ids[:count])) if count else 0

    def whole(count: int) -> bool:  # not so in the middle of a character of several tokens
        return count == 0 or turn.written.startswith(read(turn.token_ids[:count]))

    count = len(turn.token_ids)
    begin = 0 if first == 0 else _least(count, lambda one: length(one) >= first)
    end = count if last == len(turn.written) else _least(count, lambda one: length(one) > last) - 1
    while begin < end and not whole(begin):
        begin += 1
    while begin < end and not whole(end):
        end -= 1
    if begin >= end:
        return None
    stop = len(turn.written) if end == count else length(end)
    return Stretch(origin + length(begin), origin + stop, turn.token_ids[begin:end])


def _least(count: int, holds: Callable[[int], bool]) -> int:
    """The least number up to `count` for which a monotone condition holds, or count + 1."""
    low, high = 0, count + 1
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def tokens_of(shown: str, stretches: Sequence[Stretch], text: AuthorText) -> list[int]:
    """The tokens of a rendered text: those of the stretches, and the encoded text between them."""
    token_ids: list[int] = []
    cursor = 0
    for stretch in sorted(stretches, key=lambda one: one.start):
        if stretch.start < cursor:
            continue
        token_ids += encoded(shown[cursor : stretch.start], text, token_ids)
        token_ids += stretch.token_ids
        cursor = stretch.stop
    return token_ids + encoded(shown[cursor:], text, token_ids)


def encoded(words: str, text: AuthorText, before: Sequence[int], end: str | None = None) -> list[int]:
    """The tokens of a text that the template wrote.

    end: the text of the special token before it; a tokenizer that begins every text with a space of its own adds none
    behind that token.
    """
    if not words:
        return []
    if end is None and before and text.written is not None:
        end = text.written([before[-1]])
    if end and before:
        both = text.encode(end + words, special=True)
        if both[:1] == [before[-1]]:
            return both[1:]
    return text.encode(words, special=True)


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
