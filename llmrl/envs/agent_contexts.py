"""Conversations that an agent has led with the policy: each request extends exact tokens, or is read as a whole.

request 1  [user]                            tokens of the rendered request                    -> answer 1
request 2  [user, answer 1, tool]            exact tokens so far + tokens of the rest          -> answer 2
request 3  [user, a summary]                 tokens of the rendered request, a new part        -> answer 3
request 4  [other system prompt, user]       tokens of the rendered request, a trajectory of its own
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmrl.data.messages import Messages, calls_of, messages_of
from llmrl.envs.base import AuthorText
from llmrl.envs.chat_requests import AgentRequest, Answer
from llmrl.request_fields import RequestError


@dataclass
class Context:
    """One conversation of an agent with the policy, from its last request on.

    asked: the last request's messages as the agent has them; read: the same with earlier answers as they were sampled.
    shown: the text, and token_ids the tokens, that the policy read before its last answer. said: this answer's tokens;
    told: the answer as the agent was told. conversation: the name of its trajectory, empty for the episode's first one.
    """

    author: str
    conversation: str
    asked: Messages
    read: Messages
    shown: str
    token_ids: list[int]
    said: list[int] = field(default_factory=list)
    told: Answer | None = None

    def continued_by(self, request: AgentRequest) -> bool:
        """Whether the request repeats this conversation, with its last answer, and goes on with it."""
        if self.told is None or request.messages is None:
            return False
        known = [*self.asked, *messages_of([self.told.message])]
        given = request.messages[: len(known)]
        return len(request.messages) > len(known) and all(map(_same, known, given)) and len(given) == len(known)


@dataclass(frozen=True)
class Placed:
    """A request's place: its context, and the tokens that the policy reads.

    tail: those of them that follow the exact tokens of the context `follows`, None if the whole is read anew. begins:
    whether the conversation is new to the episode.
    """

    context: Context
    tail: list[int] | None = None
    follows: Context | None = None
    begins: bool = False


class Contexts:
    """The conversations of an episode."""

    def __init__(self, authors: Mapping[str, AuthorText]):
        self._authors = authors
        self._contexts: list[Context] = []
        self._names: dict[str, str] = {}

    def place(self, request: AgentRequest, author: str) -> Placed:
        """The place of a request; raises RequestError for messages that the chat template refuses."""
        text = self._authors[author]
        if request.messages is None:
            return self._of_text(request.prompt, author, text)
        own = [one for one in self._contexts if one.author == author and one.continued_by(request)]
        earlier = max(own, key=lambda one: len(one.asked), default=None)
        if earlier is not None:
            read = [*earlier.read, {"role": "assistant", "content": text.decode(earlier.said)}]
            read += request.messages[len(earlier.asked) + 1 :]
            shown = _rendered(text, read, request)
            if tail := self._tail(earlier, shown, text):
                before = earlier.token_ids + earlier.said
                context = Context(author, earlier.conversation, request.messages, read, shown, before + tail)
                return self._kept(Placed(context, tail, earlier))
        shown = _rendered(text, request.messages, request)
        name, begins = self._conversation(author, _opening(request.messages))
        token_ids = text.encode(shown, special=True)
        context = Context(author, name, request.messages, request.messages, shown, token_ids)
        return self._kept(Placed(context, begins=begins))

    def _of_text(self, prompt: str, author: str, text: AuthorText) -> Placed:
        """The place of a plain prompt, which continues the longest text that it begins with."""
        written = text.written or text.decode
        own = [one for one in self._contexts if one.author == author and one.told is not None and not one.asked]
        earlier = [one for one in own if prompt.startswith(one.shown + written(one.said))]
        if earlier and (tail := self._tail(longest := max(earlier, key=lambda one: len(one.shown)), prompt, text)):
            token_ids = longest.token_ids + longest.said + tail
            context = Context(author, longest.conversation, [], [], prompt, token_ids)
            return self._kept(Placed(context, tail, longest))
        name, begins = self._conversation(author, "text")
        context = Context(author, name, [], [], prompt, text.plain(prompt))
        return self._kept(Placed(context, begins=begins))

    def _tail(self, earlier: Context, shown: str, text: AuthorText) -> list[int] | None:
        """The tokens of what follows the exact tokens of an earlier answer; None where the text does not begin so."""
        endings = [text.decode(earlier.said)]
        if text.written is not None:
            endings.insert(0, text.written(earlier.said))
        for ending in endings:  # the template ends a turn where the policy did not
            if shown.startswith(earlier.shown + ending):
                return text.encode(shown[len(earlier.shown + ending) :], special=True)
        return None

    def _conversation(self, author: str, opening: str) -> tuple[str, bool]:
        """The name of a conversation that begins so, and whether it is new."""
        key = f"{author} {opening}"
        if known := key in self._names:
            return self._names[key], not known
        self._names[key] = f"conversation {len(self._names) + 1}" if self._names else ""
        return self._names[key], True

    def _kept(self, placed: Placed) -> Placed:
        self._contexts.append(placed.context)
        return placed


def _rendered(text: AuthorText, messages: Messages, request: AgentRequest) -> str:
    try:
        return text.render(messages, list(request.tools)) if request.tools else text.render(messages)
    except ValueError as error:
        raise RequestError("messages", messages, f"messages for the chat template: {error}") from None


def _opening(messages: Messages) -> str:
    """The beginning of a conversation: all up to the first message of a user."""
    users = [place for place, message in enumerate(messages) if message["role"] == "user"]
    return repr(messages[: users[0] + 1 if users else len(messages)])


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two messages say the same; agents need not keep other keys, such as the ids of calls."""
    said = [(m["role"], m["content"], [(c["name"], str(c.get("arguments"))) for c in calls_of(dict(m))])
            for m in (one, other)]  # fmt: skip
    return said[0] == said[1]
