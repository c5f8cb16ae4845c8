"""One measurement of many live environments; run as a process.

Its argument is JSON: how many episodes are live, and the config of a model that samples for real, or none for answers
from a script. It prints its figures as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from llmrl.data.packing import pack
from llmrl.envs.games.game import Game
from llmrl.envs.games.maze import maze
from llmrl.envs.world import Outcome
from llmrl.models.loading import character_tokenizer
from llmrl.models.origins import materialize
from llmrl.pieces import bind
from llmrl.recipe import Model
from llmrl.recipe_turns import Invalid, Turns
from llmrl.rollout.collect import Collector
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, Sampler, SamplingParams
from llmrl.run.models import Origin
from llmrl.run.sampling import author_text
from llmrl.spans import recording
from llmrl.types import ACTOR, Group, Prompt

MOST, TURN_TOKENS = 24, 16
"""An episode's turns, and the most tokens of a turn."""
MOVES = "udlr"
CHARACTERS = "0123456789udlr.!"
GROUP, EOS = 8, 1


class Timed:
    """A game and the seconds that all such games have taken."""

    seconds = 0.0

    def __init__(self, game: Game):
        self._game = game

    async def reset(self, seed: int) -> Outcome:
        """The game's opening."""
        started = time.perf_counter()
        outcome = await self._game.reset(seed)
        Timed.seconds += time.perf_counter() - started
        return outcome

    async def act(self, action: str) -> Outcome:
        """The game's answer."""
        started = time.perf_counter()
        outcome = await self._game.act(action)
        Timed.seconds += time.perf_counter() - started
        return outcome


class Script:
    """Answers each observation with a random move, as if it had been sampled."""

    policy_version = 0

    moves = tuple(3 + CHARACTERS.index(move) for move in MOVES)

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        """A move by the seed, after all others that are asked at the same time."""
        await asyncio.sleep(0)
        return Completion([self.moves[params.seed % len(self.moves)], EOS], [-1.4, -0.1], "stop", 0)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


def main() -> None:
    """Measure, and print what was found."""
    given = json.loads(sys.argv[1])
    sampler = Script() if given.get("model") is None else _engine(given["model"], given["live"])
    collector = collector_of(sampler)
    _collected(collector, GROUP)  # the first steps of an engine are slow
    print(json.dumps(measured(collector, given["live"])))
    collector.close()
    sampler.close()


def collector_of(sampler: Any) -> Collector:
    """The collector of an actor with this sampler, who plays mazes."""
    return Collector(
        {ACTOR: Author(sampler, None, author_text(Origin(Path(), character_tokenizer(CHARACTERS), (EOS,))))},
        make_env=bind("maze", lambda: Timed(maze(size=9, brief=True)), {}, key="env"),
        turns=Turns(most=MOST, max_tokens=TURN_TOKENS, invalid=Invalid(most_in_a_row=MOST)),
        deadline_seconds=600,
    )


def measured(collector: Collector, live: int) -> dict[str, float]:
    """The figures of `live` episodes at once."""
    with recording() as spans:
        started = time.perf_counter()
        _collected(collector, live)
        recorded = time.perf_counter() - started
    Timed.seconds, started = 0.0, time.perf_counter()
    groups = _collected(collector, live)
    collected = time.perf_counter() - started
    pack(groups, ACTOR)
    packed = time.perf_counter() - started
    turns = sum(len(one.own_turns) for group in groups for one in group.trajectories)
    return {
        "turns_per_second": turns / collected,
        "packed_turns_per_second": turns / packed,
        "tokens_per_second": sum(one.completion_tokens for group in groups for one in group.trajectories) / collected,
        "game_share": Timed.seconds / collected,
        "waiting_share": 1 - sum(one for path, one in spans.seconds.items() if path[-1] == "engine") / recorded,
    }


def _collected(collector: Collector, live: int) -> list[Group]:
    prompts = [Prompt(f"train:{n}", (EOS,), "", {"seed": n}) for n in range(live // GROUP)]
    return collector.sample(prompts, group_size=GROUP, params=SamplingParams(512, stop_token_ids=(EOS,), seed=1))


def _engine(config: dict[str, int], live: int) -> Sampler:
    """vLLM with a model of random weights, which writes any token with about the same probability."""
    from llmrl.rollout.vllm_sampler import VllmSampler

    longest = MOST * (TURN_TOKENS + 8)
    shape = {**config, "max_position_embeddings": longest}
    folder = materialize(Model.model_validate({"build": {"config": shape, "characters": CHARACTERS}}), Path("model"), 0)
    tokenizer = character_tokenizer(CHARACTERS)
    return VllmSampler(folder, tokenizer, dtype="fp32", max_model_len=longest, max_concurrent=live, options={})


if __name__ == "__main__":
    main()
