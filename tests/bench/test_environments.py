"""The benchmark of live environments: the turns that it counts are played through the real collector."""

from __future__ import annotations

import pytest

from llmrl.bench.environments_worker import MOST, Script, collector_of, measured
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import ACTOR, Prompt


def test_scripted_turns_are_counted_and_games_take_a_part_of_the_time():
    collector = collector_of(Script())
    try:
        found = measured(collector, live=16)
        [group] = collector.sample(
            [Prompt("p", (1,), "", {"seed": 5})], group_size=2, params=SamplingParams(512, seed=3)
        )
    finally:
        collector.close()
    assert found["tokens_per_second"] == pytest.approx(2 * found["turns_per_second"])  # a move and its end
    assert 0 < found["packed_turns_per_second"] < found["turns_per_second"]
    assert 0 < found["game_share"] < 1 and found["waiting_share"] == 1  # there is no engine
    for one in group.trajectories:
        assert not one.failure and len(one.own_turns) <= MOST and all(turn.valid for turn in one.own_turns)
        assert one.author == ACTOR and one.solved is not None
