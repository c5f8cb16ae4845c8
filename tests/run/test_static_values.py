"""The starting policy's mean reward per prompt: measured once, kept, and read again when a run goes on."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from llmrl.run_folder.folder import RunFolder

from llmrl.data.stream import PromptStream
from llmrl.envs.single_turn import single_turn
from llmrl.errors import RunStopped
from llmrl.pieces import bind
from llmrl.recipe import Rollout
from llmrl.rollout import selection
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.train.sources import Rollouts, StaticValues
from llmrl.types import Failure, Group, Prompt

PROMPTS = [Prompt(f"p{n}", (n, n + 1), f"question {n}", {"n": n}) for n in range(10)]


class SeedSampler:
    """Answers with one token made from the seed."""

    policy_version = 0

    def __init__(self) -> None:
        self.asked: list[tuple[int, SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        self.asked.append((token_ids[0], params))
        return Completion([params.seed % 97], [-1.0], "stop", 0)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class TokenReward:
    """The reward is the prompt's number plus a hundredth of the sampled token; multiples of 7, and prompt 3, fail."""

    async def score(self, group: Group) -> None:
        n = group.prompt.row["n"]
        for trajectory in group.trajectories:
            token = trajectory.turns[0].token_ids[0]
            trajectory.reward = n + token / 100
            if token % 7 == 0 or n == 3:
                trajectory.failure = Failure("reward", "crash", "")


def make(folder: Path, *, count: int = 2, writes: bool = True, **settings: Any) -> tuple[StaticValues, SeedSampler]:
    sampler = SeedSampler()
    collector = Collector(
        sampler,
        TokenReward(),
        make_env=bind("single_turn", single_turn, {}, key="env"),
        encode=lambda text, *, special=False: [],
        decode=str,
        deadline_seconds=20.0,
    )
    keep = bind("everything", selection.everything, {}, key="keep")
    rollout = Rollout(prompts_per_step=count, group_size=3, static_samples=5, temperature=0.7, **settings)
    stream = PromptStream(PROMPTS, 0, False)
    rollouts = Rollouts(stream, collector, Evenly(collector, 3), keep, rollout, (1,))
    return StaticValues(rollouts, folder / "static_values" / "rl.json", writes), sampler


def prepared(folder: Path, *, steps: int = 2, seed: int = 4, **settings: Any) -> tuple[StaticValues, SeedSampler]:
    found, sampler = make(folder, **settings)
    found.prepare(steps=steps, seed=seed, first_policy=True)
    return found, sampler


def test_values_are_means_over_what_was_scored(tmp_path):
    """Two steps of two prompts and a refill of each: p0 ... p7, five samples each, at the recipe's temperature."""
    recorded: list[Group] = []
    found, sampler = make(tmp_path)
    found.prepare(steps=2, seed=4, first_policy=True, record=recorded.extend)
    assert [n for n, _ in sampler.asked] == [n for n in range(8) for _ in range(5)]
    assert {(params.temperature, params.stop_token_ids) for _, params in sampler.asked} == {(0.7, (1,))}
    assert len({params.seed for _, params in sampler.asked}) == 40
    expected = {}
    for n in (0, 1, 2, 4, 5, 6, 7):  # all of prompt 3 failed
        tokens = [params.seed % 97 for asked, params in sampler.asked if asked == n]
        rewards = [n + token / 100 for token in tokens if token % 7]
        expected[f"p{n}"] = sum(rewards) / len(rewards)
    assert found.values == pytest.approx(expected)
    assert any(params.seed % 97 % 7 == 0 for _, params in sampler.asked)
    assert [group.prompt.id for group in recorded] == [f"p{n}" for n in range(8)]


def test_the_stream_stays_where_it_is_and_an_epoch_is_enough(tmp_path):
    found, sampler = make(tmp_path, count=4)
    found.rollouts.stream.take(3)
    found.prepare(steps=5, seed=4, first_policy=True)
    assert [n for n, _ in sampler.asked[::5]] == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]  # 40 prompts are wanted, there are 10
    assert [prompt.id for prompt in found.rollouts.stream.take(2)] == ["p3", "p4"]


def test_groups_carry_their_prompts_value(tmp_path):
    found, sampler = prepared(tmp_path, steps=1)  # p0 ... p3
    sampler.asked.clear()
    collected = found.rollouts.collect(seed=1)
    assert [group.static_value for group in collected.groups] == [found.values["p0"], found.values["p1"]]
    again = found.rollouts.draw([PROMPTS[2], PROMPTS[3], PROMPTS[9]], SamplingParams(max_tokens=4))
    assert again[0].static_value == found.values["p2"]
    assert all(math.isnan(group.static_value) for group in again[1:])  # it failed; it was not measured


def test_values_are_measured_once_and_kept(tmp_path):
    first, _ = prepared(tmp_path)
    assert json.loads((tmp_path / "static_values/rl.json").read_text()) == first.values
    assert [file.name for file in (tmp_path / "static_values").iterdir()] == ["rl.json"]
    for first_policy in (True, False):  # as after a kill before step 1, and after it
        found, sampler = make(tmp_path)
        found.prepare(steps=2, seed=4, first_policy=first_policy)
        assert found.values == first.values and sampler.asked == []  # bit for bit
        group = found.rollouts.draw(PROMPTS[:1], SamplingParams(max_tokens=4))[0]
        assert group.static_value == first.values["p0"]


def test_only_the_first_policy_can_be_measured(tmp_path):
    prepared(tmp_path)
    (tmp_path / "static_values/rl.json").unlink()
    found, sampler = make(tmp_path)
    with pytest.raises(RunStopped, match=r"static_values/rl.json is gone: .* once the policy was trained"):
        found.prepare(steps=2, seed=4, first_policy=False)
    assert sampler.asked == []


def test_what_was_sampled_for_them_stays_when_the_first_steps_are_done_again(tmp_path):
    folder = RunFolder(tmp_path, writes=True)
    folder.start("name: small\n")
    found, _ = make(tmp_path)
    found.prepare(steps=1, seed=4, first_policy=True, record=partial(folder.rollouts, "rl-000000-static"))
    folder.rollouts("rl-000001", found.rollouts.collect(seed=1).sampled)
    folder.rewind(["rl"], "rl", None)
    assert [file.name for file in (tmp_path / "rollouts").iterdir()] == ["rl-000000-static.parquet"]


def test_the_seed_decides_and_one_rank_writes(tmp_path):
    first, other, third = (prepared(tmp_path / str(n), seed=4 + n // 2, writes=False)[0] for n in range(3))
    assert first.values == other.values != third.values
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_stops_the_run(tmp_path):
    (tmp_path / "static_values").write_text("in the way")
    with pytest.raises(RunStopped, match="the static values could not be written"):
        prepared(tmp_path)
