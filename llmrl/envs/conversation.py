"""One author's context: what it reads before each of its turns, extended by the exact tokens that were sampled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from llmrl.envs.base import AuthorText
from llmrl.types import Prompt

Messages = Sequence[Mapping[str, Any]]


class Context(Protocol):
    """What an author reads and has said."""

    def begin(self, told: Messages) -> list[int]:
        """The tokens before the author's first turn."""
        ...

    def said(self, token_ids: list[int], text: str) -> None:
        """The author's turn."""
        ...

    def follow(self, told: Messages) -> tuple[list[int], bool]:
        """The tokens before the author's next turn, and whether they stand in place of all before."""
        ...


def context_of(text: AuthorText, prompt: Prompt, *, asked: bool) -> Context:
    """The context of an author of an episode; asked: the author is the one whom the row's prompt asks."""
    if prompt.messages is None:
        return PlainContext(text, prompt.token_ids if asked else ())
    return ChatContext(text, prompt.messages if asked else ())


class PlainContext:
    """A text that grows: the prompt, and after each turn what the author is told."""

    def __init__(self, text: AuthorText, token_ids: Sequence[int]):
        self._text, self._start = text, list(token_ids)

    def begin(self, told: Messages) -> list[int]:
        words = _words(told)
        return self._start + self._text.encode(words) if self._start else self._text.plain(words)

    def said(self, token_ids: list[int], text: str) -> None: ...

    def follow(self, told: Messages) -> tuple[list[int], bool]:
        return self._text.encode(_words(told)), False


class ChatContext:
    """A conversation through the author's chat template.

    Where the template writes what was said as it was said, the rest of the rendered text is what follows; where it
    drops or changes a part, as thoughts of earlier turns, the whole is read anew.
    """

    def __init__(self, text: AuthorText, messages: Messages):
        self._text = text
        self._messages = [dict(message) for message in messages]
        self._shown = ""
        self._turn: tuple[list[int], str] = [], ""

    def begin(self, told: Messages) -> list[int]:
        self._messages = _joined(self._messages, told)
        self._shown = self._text.render(self._messages)
        return self._text.chat(self._messages)

    def said(self, token_ids: list[int], text: str) -> None:
        self._turn = token_ids, text

    def follow(self, told: Messages) -> tuple[list[int], bool]:
        token_ids, said = self._turn
        self._messages += [{"role": "assistant", "content": said}, *map(dict, told)]
        before, self._shown = self._shown, self._text.render(self._messages)
        written = self._text.written(token_ids) if self._text.written else said
        for whole in (before + written, before + said):  # the template ends a turn where the author did not
            if self._shown.startswith(whole):
                return self._text.encode(self._shown[len(whole) :], special=True), False
        return self._text.chat(self._messages), True


def _words(messages: Messages) -> str:
    return "".join(str(message["content"]) for message in messages)


def _joined(messages: Messages, told: Messages) -> list[dict[str, Any]]:
    """Both, where a user's message that follows a user's goes on with it: templates refuse two in a row."""
    found = [dict(message) for message in messages]
    for message in map(dict, told):
        if found and found[-1]["role"] == message["role"] == "user":
            found[-1]["content"] = f"{found[-1]['content']}\n\n{message['content']}"
        else:
            found.append(message)
    return found
