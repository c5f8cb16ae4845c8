"""One author's context: what it reads before each of its turns, extended by the exact tokens that were sampled.

    prompt    what the author said, sampled    what the template writes next, encoded    what the author said ...
    P P P P   A A A <eot>                      E E E E                                   A A <eot>

Only text that no author wrote is encoded. Where the chat template shows an earlier turn otherwise than it was said, as
where it drops thoughts, the context begins anew; turns keep their tokens there as far as their text is kept.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Protocol

from llmrl.data.messages import Message
from llmrl.envs.base import AuthorText
from llmrl.envs.kept_tokens import Said, Stretch, encoded, kept, located, tokens_of
from llmrl.rewards.thoughts import TAGS
from llmrl.types import Prompt

Messages = Sequence[Mapping[str, Any]]
_TAG = re.compile(r"<[^\s<=\d]|\[/?[A-Za-z]")
"""The beginning of every special token's text, and of every tag that a template may look for."""
_THOUGHTS = tuple(tag for pair in TAGS.items() for tag in pair)
_LONG = 4
"""Turns after which a conversation is as any longer one."""


class Context(Protocol):
    """The conversation of one author."""

    def begin(self, told: Messages) -> list[int]:
        """The tokens before the author's first turn."""
        ...

    def said(self, token_ids: list[int], text: str) -> None:
        """The author's turn."""
        ...

    def follow(self, told: Messages) -> tuple[list[int], bool]:
        """The tokens before the author's next turn, and whether they stand in place of all before.

        A first message of the assistant's is the turn just taken in another form than its text, as with tool calls.
        """
        ...


def context_of(text: AuthorText, prompt: Prompt, *, asked: bool) -> Context:
    """The context of an author of an episode; asked: the author is the one whom the row's prompt asks."""
    if prompt.messages is None:
        return PlainContext(text, prompt.token_ids if asked else ())
    return ChatContext(text, prompt.messages, prompt.tools, prompt) if asked else ChatContext(text)


class PlainContext:
    """A text that grows: the prompt, and after each turn what the author is told."""

    def __init__(self, text: AuthorText, token_ids: Sequence[int]):
        self._text, self._start = text, list(token_ids)

    def begin(self, told: Messages) -> list[int]:
        words = _words(told)
        return self._start + self._text.encode(words) if self._start else self._text.plain(words)

    def said(self, token_ids: list[int], text: str) -> None: ...

    def follow(self, told: Messages) -> tuple[list[int], bool]:
        return self._text.encode(_words([one for one in told if one["role"] != "assistant"])), False


class ChatContext:
    """A conversation through the author's chat template.

    messages: of the prompt. tools: the schemas that stand in it. prompt: the same as it was rendered from the data.
    """

    def __init__(self, text: AuthorText, messages: Messages = (), tools: Messages = (), prompt: Prompt | None = None):
        self._prompt = prompt
        self._text, self._shown_tools = text, ([tools] if tools else [])
        self._messages: list[Message] = [dict(message) for message in messages]
        self._shown = ""
        self._turns: list[Said] = []
        self._plain: list[int] = []  # places of messages with words that look like special tokens

    def begin(self, told: Messages) -> list[int]:
        if self._prompt is not None and not told:
            self._shown = self._prompt.text
            return list(self._prompt.token_ids)
        self._messages = _joined(self._messages, told)
        self._shown = self._rendered(self._messages)
        return self._text.chat(self._messages, *self._shown_tools)

    def said(self, token_ids: list[int], text: str) -> None:
        written = self._text.written(token_ids) if self._text.written else text
        self._turns.append(Said(len(self._messages), token_ids, text, written))

    def follow(self, told: Messages) -> tuple[list[int], bool]:
        turn = self._turns[-1]
        given = dict(told[0]) if told and told[0]["role"] == "assistant" else None
        new = _joined([], told if given is None else told[1:])
        special = [number for number, one in enumerate(new, turn.place + 1) if self._looks_special(one)]
        self._plain += special
        forms = _forms(turn.text, given, self._shown)
        form, rest = self._following(turn, forms, new)
        self._messages += [forms[form], *new]
        if rest is None:
            return self._anew(), True
        before = len(self._shown) + len(turn.written)
        self._shown += turn.written + rest
        if not special:
            return encoded(rest, self._text, turn.token_ids, turn.end), False
        stretches = [Stretch(one.start - before, one.stop - before, one.token_ids) for one in self._named(special)]
        return tokens_of(rest, stretches, self._text), False

    def _following(self, turn: Said, forms: Messages, new: Messages) -> tuple[int, str | None]:
        """The form in which the template shows a turn as it was said, and what follows; None where none does so."""
        kind, words = self._kind(turn, new, len(forms)), [str(message["content"]) for message in new]
        expected = None if kind is None else self._text.following.expected(kind, words)
        if expected is not None:
            return expected
        form, rest = self._compared(turn, forms, new)
        if kind is not None:

            def probe(others: Sequence[str]) -> str | None:
                told = [{**message, "content": other} for message, other in zip(new, others, strict=True)]
                return self._compared(turn, forms[form : form + 1], told)[1]

            self._text.following.learn(kind, words, form, rest, probe)
        return form, rest

    def _kind(self, turn: Said, new: Messages, forms: int) -> Hashable | None:
        """Everything but words that decides what follows a turn; None for words that a template may change or read."""
        words = [str(message["content"]) for message in new]
        if any(not one or one != one.strip() or _TAG.search(one) for one in words):
            return None
        if not turn.text or turn.text != turn.text.strip() or any(tag in turn.text for tag in _THOUGHTS):
            return None
        told = tuple((one["role"], one.get("name")) for one in new)
        return told, turn.end, min(len(self._turns), _LONG), forms, bool(self._shown_tools)

    def _compared(self, turn: Said, forms: Messages, new: Messages) -> tuple[int, str | None]:
        """The same, by rendering the conversation with each form; raises ValueError if the template refuses them all.

        Where none is shown as it was said, the form is the one that names calls, or else the first.
        """
        whole, accepted, fault = self._shown + turn.written, None, ""
        for number, form in enumerate(forms):
            try:
                shown = self._rendered([*self._messages, form, *new])
            except ValueError as error:
                fault = str(error)
                continue
            if shown.startswith(whole):
                return number, shown[len(whole) :]
            if accepted is None or "tool_calls" in form:
                accepted = number
        if accepted is None:
            raise ValueError(fault)
        return accepted, None

    def _anew(self) -> list[int]:
        """The tokens of the whole conversation, in which turns keep theirs as far as the template shows them."""
        self._shown = self._rendered(self._messages)
        found = located(self._rendered, self._messages, self._shown, [turn.place for turn in self._turns])
        stretches = [*kept(self._shown, self._turns, found, self._text), *self._named(self._plain)]
        return tokens_of(self._shown, stretches, self._text)

    def _named(self, places: Sequence[int]) -> list[Stretch]:
        """The words of messages in which the name of a special token is plain text."""
        found = located(self._rendered, self._messages, self._shown, places) if places else {}
        return [Stretch(start, start + len(words), self._text.encode(words)) for start, words in found.values()]

    def _looks_special(self, message: Mapping[str, Any]) -> bool:
        words = str(message["content"])
        if not _TAG.search(words):
            return False
        return self._text.encode(words) != self._text.encode(words, special=True)

    def _rendered(self, messages: Messages) -> str:
        return self._text.render(messages, *self._shown_tools)


def _forms(said: str, given: Message | None, before: str) -> list[Message]:
    """The messages as which a turn may stand in the conversation: its text, behind a thought that the prompt `before`
    opened, and the form that the environment gives."""
    opened = next((before[before.rindex(tag) :] for tag in TAGS.values() if before.rstrip().endswith(tag)), "")
    contents = [opened + said, said] if opened else [said]
    forms: list[Message] = [{"role": "assistant", "content": content} for content in contents]
    if given is not None:
        thoughts = max((said.rfind(tag) + len(tag) for tag in TAGS if tag in said), default=0)
        words = str(given.get("content", ""))
        forms.append(given | {"content": opened + said[:thoughts] + words if thoughts else words})
    return forms


def _words(messages: Messages) -> str:
    return "".join(str(message["content"]) for message in messages)


def _joined(messages: Messages, told: Messages) -> list[Message]:
    """Both, where a user's message that follows a user's goes on with it: templates refuse two in a row."""
    found = [dict(message) for message in messages]
    for message in map(dict, told):
        if found and found[-1]["role"] == message["role"] == "user":
            found[-1]["content"] = f"{found[-1]['content']}\n\n{message['content']}"
        else:
            found.append(message)
    return found
