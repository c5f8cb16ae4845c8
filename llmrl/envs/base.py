"""The Env protocol: an environment answers completions. A single question is the one-step case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from llmrl.data.tool_calls import FORMS, CallReader
from llmrl.envs.following import Following
from llmrl.rollout.sampler import Completion
from llmrl.types import StopReason


class Encode(Protocol):
    """Text -> token ids; the name of a special token is plain text unless `special` is set."""

    def __call__(self, text: str, *, special: bool = False) -> list[int]: ...


def _no_prompts(text: str) -> list[int]:
    raise ValueError("this author reads no plain prompts")


def _no_template(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> Any:
    raise ValueError("this author's tokenizer has no chat template")


@dataclass(frozen=True)
class AuthorText:
    """The conversions between one author's tokens and text.

    decode: token ids -> text, special tokens included, without the stop token that ends it (llmrl/models/text.py).
    written: the same with the stop token. render: messages, and the schemas of tools if there are some -> the text of a
    prompt that asks for an answer; chat: its tokens. plain: the tokens of a prompt that is no chat. calls: reads the
    tool calls in a turn. following: what the chat template was seen to write after turns.
    vocabulary: how many tokens there are, where that is known. end: the tokens that end an answer.
    """

    encode: Encode
    decode: Callable[[list[int]], str]
    chat: Callable[..., list[int]] = _no_template
    vocabulary: int | None = None
    plain: Callable[[str], list[int]] = _no_prompts
    end: tuple[int, ...] = ()
    render: Callable[..., str] = _no_template
    written: Callable[[list[int]], str] | None = None
    calls: CallReader = field(default=CallReader(FORMS["hermes"]), compare=False)
    following: Following = field(default_factory=Following, compare=False)


@dataclass(frozen=True)
class Step:
    """An environment's answer to the turn just taken.

    observation: tokens appended to the next author's context. An empty one that is not done lets the author go on with
    the turn. restarts: the observation stands in place of everything before, and the trajectory goes on: as where a
    chat template drops earlier thoughts. reward: of the turn just taken, or None; a piece that compares turns skips a
    turn without a reward. rewards: of other authors' last turns. done: whether that was the last turn; stop_reason:
    why, unless the author ended the answer. author: who answers next; default: the same one. context: tokens that the
    next author reads in place of all before, as the prompt of a new trajectory; `compared` names the set of the
    question's trajectories that the new one is compared with; with `restarts`, the trajectory of this name goes on.

    action, valid: the action that was found in the turn just taken, and whether it was one. state: the name of the
    state in which the next turn is taken. solved: the environment's verdict on the episode so far; None: it has none.
    hidden: what a critic may know and the authors may not; None: as before. metrics: numbers of the episode. answer:
    what rewards read of the first author's trajectories in place of the last turn's text. episode_reward: added to the
    reward of the last turn of every trajectory.
    """

    observation: list[int]
    reward: float | None = None
    done: bool = True
    author: str | None = None
    context: list[int] | None = None
    compared: str = ""
    rewards: Mapping[str, float] = field(default_factory=dict)
    stop_reason: StopReason | None = None
    restarts: bool = False
    action: str | None = None
    valid: bool = True
    state: str | None = None
    solved: bool | None = None
    hidden: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    answer: str | None = None
    episode_reward: float | None = None

    def followed_by(self, last: Step) -> Step:
        """The step with what the environment adds to it once the episode is over: rewards, numbers, its verdict."""
        names = {**self.rewards, **last.rewards}
        return replace(
            self,
            reward=_sum(self.reward, last.reward),
            rewards={name: _sum(self.rewards.get(name), last.rewards.get(name)) for name in names},
            solved=self.solved if last.solved is None else last.solved,
            hidden=self.hidden if last.hidden is None else last.hidden,
            metrics={**self.metrics, **last.metrics},
            answer=self.answer if last.answer is None else last.answer,
            episode_reward=_sum(self.episode_reward, last.episode_reward),
        )


def _sum(one: float | None, other: float | None) -> float | None:
    """The sum of the numbers that are given; None if there are none."""
    given = [number for number in (one, other) if number is not None]
    return sum(given) if given else None


class Env(Protocol):
    """One episode's environment: made for one question, used once.

    The function that makes it takes, by name, any of

        prompt             the Prompt
        row, seed          its row, and the row's seed, which is the same in all of the prompt's episodes
        encode, decode     the first author's Encode, and AuthorText.decode
        authors            every role's AuthorText, by name

    An environment may have an attribute `stop`, a tuple of strings that end a completion besides those of the recipe.
    The matching text, up to the end of its last token, is part of the completion. It may have `turn_tokens`, the most
    tokens of a turn, `adjusted(params)`, the SamplingParams of the next completion given those of the recipe, `async
    def cut(self) -> Step | None`, which is asked for a last reward where a limit of the recipe's ends the episode, and
    `async def close(self)`, which is always called once. All environments of a process run in one event loop: work that
    takes long belongs into a thread or a process, since it would hold up every other episode and every deadline. An
    environment that speaks text is a World (llmrl/envs/world.py), which becomes one of these.
    """

    async def reset(self) -> list[int] | Step:
        """The first observation: the tokens that the first author answers, or a Step that is not done with these as
        `observation`, whose `author` answers them."""
        ...

    async def step(self, completion: Completion) -> Step:
        """The environment's answer to `completion`, which holds the whole current turn so far."""
        ...
