"""The Env protocol: an environment answers completions. A single question is the one-step case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from llmrl.rollout.sampler import Completion
from llmrl.types import StopReason


class Encode(Protocol):
    """Text -> token ids; the name of a special token is plain text unless `special` is set."""

    def __call__(self, text: str, *, special: bool = False) -> list[int]: ...


def _no_prompts(text: str) -> list[int]:
    raise ValueError("this author reads no plain prompts")


def _no_template(messages: Sequence[Mapping[str, Any]]) -> list[int]:
    raise ValueError("this author's tokenizer has no chat template")


@dataclass(frozen=True)
class AuthorText:
    """The conversions between one author's tokens and text.

    decode: token ids -> text, special tokens included, without the stop token that ends it (llmrl/models/text.py).
    chat: messages -> the tokens of a prompt that asks for an answer. plain: the same of a text that is no chat.
    vocabulary: how many tokens there are, where that is known. end: the tokens that end an answer.
    """

    encode: Encode
    decode: Callable[[list[int]], str]
    chat: Callable[[Sequence[Mapping[str, Any]]], list[int]] = _no_template
    vocabulary: int | None = None
    plain: Callable[[str], list[int]] = _no_prompts
    end: tuple[int, ...] = ()


@dataclass(frozen=True)
class Step:
    """An environment's answer to the turn just taken.

    observation: tokens appended to the next author's context. An empty one that is not done lets the author go on with
    the turn. reward: of the turn just taken, or None; a piece that compares turns skips a turn without a reward.
    rewards: of other authors' last turns. done: whether that was the last turn; stop_reason: why, unless the author
    ended the answer. author: who answers next; default: the same one. context: tokens that the next author reads in
    place of all before, as the prompt of a new trajectory; `compared` names the set of the question's trajectories
    that the new one is compared with.
    """

    observation: list[int]
    reward: float | None = None
    done: bool = True
    author: str | None = None
    context: list[int] | None = None
    compared: str = ""
    rewards: Mapping[str, float] = field(default_factory=dict)
    stop_reason: StopReason | None = None


class Env(Protocol):
    """One episode's environment: made for one question, used once.

    The function that makes it takes, by name, any of

        prompt             the Prompt
        encode, decode     the first author's Encode, and AuthorText.decode
        authors            every role's AuthorText, by name

    An environment may have an attribute `stop`, a tuple of strings that end a completion besides those of the recipe.
    The matching text, up to the end of its last token, is part of the completion. An environment may also have
    `async def close(self)`, which is always called once. All environments of a process run in one event loop: work
    that takes long belongs into a thread or a process, since it would hold up every other episode and every deadline.
    """

    async def reset(self) -> list[int]:
        """The first observation: the tokens that the first author answers."""
        ...

    async def step(self, completion: Completion) -> Step:
        """The environment's answer to `completion`, which holds the whole current turn so far."""
        ...
