"""Trajectories played from a script, with tokens that are pieces of text and a tool that is one too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llmrl.envs.base import AuthorText
from llmrl.pieces import bind
from llmrl.rollout.collect import Collector
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.types import ACTOR, Group, Prompt, Score

EOS = "<eos>"


class Words:
    """A vocabulary that grows: a token is whatever text somebody gave an id to; one character where nobody did."""

    def __init__(self) -> None:
        self.known: list[str] = []
        self.encoded: list[tuple[str, bool]] = []

    def id(self, text: str) -> int:
        if text not in self.known:
            self.known.append(text)
        return self.known.index(text)

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        self.encoded.append((text, special))
        return [self.id(character) for character in text]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.known[token] for token in token_ids).replace(EOS, "")


class Says:
    """Samples the next tokens of a prompt's script: up to the limit, EOS or a stop string, wherever it ends in a token.

    scripts: of each prompt's trajectory, by the prompt's first token. A new trajectory begins the script anew.
    """

    policy_version = 4

    def __init__(self, words: Words, scripts: dict[int, list[str]]):
        self.words, self.scripts = words, scripts
        self.place: dict[int, int] = {}
        self.asked: list[tuple[list[int], SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        self.asked.append((list(token_ids), params))
        first = token_ids[0]
        place = 0 if len(token_ids) == 1 else self.place[first]
        said: list[str] = []
        for token in self.scripts[first][place : place + params.max_tokens]:
            said.append(token)
            ended = token == EOS or any(stop in "".join(said) for stop in params.stop)
            if ended:
                break
        self.place[first] = place + len(said)
        logprobs = [-(place + at) / 10 for at in range(len(said))]
        reason = "stop" if ended else "length"
        return Completion([self.words.id(token) for token in said], logprobs, reason, self.policy_version)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class Right:
    """Scores 1 what ends with the answer."""

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        for one in group.trajectories:
            correct = one.text.strip().endswith("42")
            one.scores["right"] = Score(float(correct), correct)
            one.components = {"right": float(correct)}
            one.reward = float(correct)


def play(
    scripts: list[list[str]],
    env: Callable[..., Any],
    *,
    max_tokens: int = 200,
    words: Words | None = None,
    sampler: Any = None,
    **settings: Any,
) -> tuple[list[Group], Says]:
    """A group of one trajectory for each script, with `env` bound to `settings`, and the sampler that said it."""
    words = words or Words()
    starts = [words.id(f"question {n}: ") for n in range(len(scripts))]
    sampler = sampler or Says(words, dict(zip(starts, scripts, strict=True)))
    collector = Collector(
        {ACTOR: Author(sampler, Right(), AuthorText(words.encode, lambda token_ids: words.decode(token_ids)))},
        make_env=bind("env", env, settings, key="env"),
        deadline_seconds=60.0,
    )
    prompts = [Prompt(f"p{start}", (start,), "", {}) for start in starts]
    try:
        return collector.sample(prompts, group_size=1, params=SamplingParams(max_tokens, seed=3)), sampler
    finally:
        collector.close()
