r"""Conversations through a model's chat template: the prompt that asks for an answer, and the answer that follows it.

What follows a prompt is the template's own text where the conversation starts with the prompt and keeps what the answer
says. Templates that open or close thoughts in the prompt, or drop them from the conversation, are imitated:

    prompt                                conversation                  what follows the prompt
    <user>3+4<assistant>                  ...<assistant>7<eos>          7<eos>
    <user>3+4<assistant><think>\n         ...<assistant>7<eos>          8?\n</think>\n7<eos>
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

from llmrl.data.messages import SYSTEM, Message, Messages, calls_of
from llmrl.errors import first_line
from llmrl.rewards.thoughts import TAGS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PROBE = "qq0qq"  # a content that no template changes
_PROBES = (_PROBE, "zz1zz")  # of two texts without a common beginning or end, one begins unlike any third
_SHOWN = 60
ASKING = (*SYSTEM, "user")
_TAG = re.compile("|".join(re.escape(tag) for pair in TAGS.items() for tag in pair))
_OPENING = re.compile("|".join(re.escape(tag) for tag in TAGS.values()))


class Conversation:
    """Messages that the assistant answers, through the tokenizer's chat template.

    tools: schemas of the functions that the assistant may call. Every method raises ValueError if the template refuses
    the messages or does not show a tool call.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Sequence[Any] | None = None):
        self.tokenizer, self.messages, self.tools = tokenizer, messages, tools

    @cached_property
    def prompt(self) -> str:
        """The text that asks for an answer."""
        return self._rendered(self.messages, asks=True)

    @property
    def dropped(self) -> Message | None:
        """The first message of the system or the user whose content the template does not show."""
        for place, message in enumerate(self.messages):
            changed = [*self.messages]
            changed[place] = message | {"content": f"{message['content']} {_PROBE}"}
            if message["role"] in ASKING and self._applied(changed, True) == self._applied(self.messages, True):
                return message
        return None

    @property
    def unopened(self) -> str:
        """The text that opens the assistant's turn, if the template does not write it where it asks for an answer.

        Empty if the prompt opens the turn, or if answers follow questions directly.
        """
        if self._applied(self.messages, False) != self.prompt:
            return ""
        whole = self._rendered([*self.messages, {"role": "assistant", "content": _PROBE}])
        return _untagged(whole.removeprefix(self.prompt).partition(_PROBE)[0]) if whole.startswith(self.prompt) else ""

    def answer(self, said: Message) -> str:
        """Return the text that follows the prompt when the assistant says `said`, up to the end of its turn or further.

        Raises ValueError, with the texts of prompt and conversation from where they part, if that is not clear.
        """
        prompt, whole = self.prompt, self._rendered([*self.messages, said])
        rest = whole.removeprefix(prompt) if whole.startswith(prompt) else None
        if said.keys() - {"role", "content"}:  # its form is the template's alone
            if rest is None or not _says(rest, said):
                raise ValueError(f"the chat template drops a part of what is said; {_parting(prompt, whole)}")
            return rest
        content = said["content"]
        opened, closed = _tag_at_end(prompt, TAGS.values()), _tag_at_end(prompt, TAGS)
        if opened:
            content = self._continued(content, opened)
            closing = next(closing for closing, opening in TAGS.items() if opening == opened)
            if closing in content:
                return content + self._around(whole)[1]
            if rest is None or closing not in rest.partition(content.strip())[0] or not _keeps(rest, content):
                raise ValueError(
                    f"the prompt opens a thought with '{opened}' and the completion does not close it: write "
                    f"'{closing}' into the completion, or set what makes the template not think in "
                    f"model.chat_template_kwargs; {_parting(prompt, whole)}"
                )
            return rest
        thinks = _OPENING.match(content.lstrip())
        if closed and (thinks or closed in content):
            fault = f"the completion has a thought of its own where the prompt has just closed one with '{closed}'"
            raise ValueError(f"{fault}; {_parting(prompt, whole)}")
        if rest is not None and _keeps(rest, content):
            return rest
        header, end = self._around(whole)
        return ("" if thinks and _OPENING.search(header) else header) + content + end

    def turns(self, said: Messages, ends: Collection[str]) -> list[tuple[str, bool]]:
        """Return the text that follows the prompt when these messages follow, in parts, each with whether it is the
        assistant's: its turns, up to the first of the texts `ends` in each, and what the template writes between them.

        The template renders beginnings of the conversation, so it needs no marks. said begins and ends with messages of
        the assistant's. Raises ValueError if the conversation does not begin with the prompt, or if a part is empty.
        """
        messages, asked = [*self.messages, *said], len(self.messages)
        whole = self._rendered(messages)
        if not whole.startswith(self.prompt):
            fault = "the chat template changes the prompt once answers follow it, so they cannot be trained at once"
            raise ValueError(f"{fault}; {_parting(self.prompt, whole)}")
        parts: list[tuple[str, bool]] = []
        place = len(self.prompt)
        for number in range(asked, len(messages)):
            if messages[number]["role"] != "assistant":
                continue
            start = self._turn_start(whole, messages, number)
            if number > asked:
                parts.append((whole[place:start], False))
            place = self._turn_end(whole, messages, number, start, ends)
            parts.append((whole[start:place], True))
            if any(not text.strip() for text, _ in parts[-2:]):
                raise ValueError(f"the chat template shows nothing of message {number}, or of what stands before it")
        return parts

    def _turn_start(self, whole: str, messages: Messages, number: int) -> int:
        """Where the assistant's message begins in the conversation: behind what asks for it."""
        before = self._rendered(messages[:number], asks=True)
        if whole.startswith(before):
            return len(before)
        _, asked = self._region(messages[:number], number - 1, asks=True)
        _, told = self._region(messages, number - 1)
        return told + _shared(before[asked:], whole[told:])

    def _turn_end(self, whole: str, messages: Messages, number: int, start: int, ends: Collection[str]) -> int:
        """Where the assistant's message ends in the conversation: behind its end of turn, before the next content."""
        after = self._rendered(messages[: number + 1])
        limits = [len(after)] if whole.startswith(after) else []
        if number + 1 < len(messages):
            limits.append(self._region(messages, number + 1)[0])
        for limit in limits:
            found = [place + len(end) for end in ends if (place := whole.find(end, start, limit)) >= 0]
            if found:
                return min(found)
        return start + len(whole[start : limits[0]].rstrip())

    def _region(self, messages: Messages, number: int, *, asks: bool = False) -> tuple[int, int]:
        """Where the content of one message begins and ends in the template's text."""
        text = self._rendered(messages, asks=asks)
        starts, ends = [], []
        for probe in _PROBES:
            changed = [*messages]
            changed[number] = messages[number] | {"content": probe}
            other = self._rendered(changed, asks=asks)
            starts.append(_shared(text, other))
            ends.append(len(text) - _shared(text[::-1], other[::-1]))
        if min(starts) == len(text):
            raise ValueError(f"the chat template does not show message {number}, of the {messages[number]['role']}")
        return min(starts), max(ends)

    def _continued(self, content: str, opened: str) -> str:
        """The content of a thought that the prompt has opened: without an opening tag, and space, of its own."""
        text, written = content.lstrip(), self.prompt[self.prompt.rindex(opened) :]
        if not text.startswith(opened):
            return content
        return text.removeprefix(written) if text.startswith(written) else text.removeprefix(opened).lstrip("\n")

    def _around(self, whole: str) -> tuple[str, str]:
        """The texts that the template writes between the prompt and a plain answer, and after the answer.

        Raises ValueError if, but for thoughts, the template writes something else before the answer than the prompt;
        whole: the conversation that the fault shows.
        """
        prompt, asked = self.prompt, self.messages[-1]["content"].strip()
        probed = self._rendered([*self.messages, {"role": "assistant", "content": _PROBE}])
        before, found, end = probed.rpartition(_PROBE)
        start = prompt.rfind(asked) + len(asked)
        same_question = found and asked in prompt and _shared(prompt, before) >= start
        if not same_question or not _untagged(before[start:]).startswith(_untagged(prompt[start:])):
            fault = "the chat template does not render the prompt as the start of its conversation"
            if not found and whole.startswith(prompt):
                fault = "the chat template drops or changes the answer"
            raise ValueError(f"{fault}; {_parting(prompt, whole)}")
        return before.removeprefix(prompt) if before.startswith(prompt) else "", end

    def _rendered(self, messages: Messages, *, asks: bool = False) -> str:
        """The template's text. Some templates lose tool calls beside a content that is empty and not null."""
        text = self._applied(messages, asks)
        lost = self._lost_call(messages, asks)
        if lost is None:
            return text
        messages = [one | {"content": one["content"] or None} for one in messages]
        if self._lost_call(messages, asks) is not None:
            raise ValueError(f"the chat template does not show the call of the tool '{lost}'")
        return self._applied(messages, asks)

    def _lost_call(self, messages: Messages, asks: bool) -> str | None:
        """The name of the first called tool that leaves no trace in the text; the tools' own list may name it too."""
        calls = [call for message in messages for call in calls_of(message)]
        if not calls:
            return None
        probed = copy.deepcopy(messages)
        for number, call in enumerate(call for message in probed for call in calls_of(message)):
            call["name"] = f"{_PROBE}{number}q"
        try:
            text = self._applied(probed, asks)
        except ValueError:
            return calls[0]["name"]
        return next((call["name"] for number, call in enumerate(calls) if f"{_PROBE}{number}q" not in text), None)

    def _applied(self, messages: Messages, asks: bool) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                messages, tools=cast(Any, self.tools), tokenize=False, add_generation_prompt=asks
            )
        except Exception as error:  # a template's own errors, and Python's on values that it does not expect
            raise ValueError(f"the chat template refuses these messages: {first_line(error)}") from None
        return cast(str, text)


def _says(rest: str, said: Message) -> bool:
    """Whether the text has all that the message says, apart from space around it."""
    texts = [said[key].strip() for key in said if isinstance(said[key], str) and key != "role"]
    return all(text in rest for text in texts) and all(str(call["name"]) in rest for call in calls_of(said))


def _keeps(rest: str, content: str) -> bool:
    """Whether the text has the content, apart from space around it and around its tags, and no more thoughts."""
    parts = [re.escape(part.strip()) for part in re.split(f"({_TAG.pattern})", content)]
    found = re.search(r"\s*".join(parts), rest)
    thinks = _OPENING.match(content.lstrip())
    return found is not None and not (thinks and _OPENING.search(rest[: found.start()]))


def _tag_at_end(prompt: str, tags: Iterable[str]) -> str | None:
    return next((tag for tag in tags if prompt.rstrip().endswith(tag)), None)


def _parting(prompt: str, whole: str) -> str:
    """The texts of prompt and conversation side by side, from where they part."""
    length = _shared(prompt, whole)
    shared, asked, told = prompt[max(0, length - _SHOWN) : length], prompt[length:], whole[length:]
    return f"after {shared!r} the prompt has {asked[:_SHOWN]!r}, the conversation {told[:_SHOWN]!r}"


def _untagged(text: str) -> str:
    """The text without the tags of thoughts and without space."""
    return "".join(_TAG.sub("", text).split())


def _shared(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(one), len(other)))
