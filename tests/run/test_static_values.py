"""The starting policy's mean reward per prompt: measured once, kept, and read again when a run goes on."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from llmrl.data.stream import PromptStream
from llmrl.envs.base import AuthorText
from llmrl.envs.single_turn import single_turn
from llmrl.errors import RunStopped
from llmrl.pieces import bind
from llmrl.providers.questions import static_values
from llmrl.recipe import Rollout
from llmrl.rollout import selection
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly, Provided
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams, sampling_params
from llmrl.run.measured_once import MeasuredOnce
from llmrl.run_folder.writer import RunFolder
from llmrl.train.sources import Rollouts
from llmrl.types import ACTOR, Failure, Group, Prompt

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

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        n = group.prompt.row["n"]
        for trajectory in group.trajectories:
            token = trajectory.turns[0].token_ids[0]
            trajectory.reward = n + token / 100
            if token % 7 == 0 or n == 3:
                trajectory.failure = Failure("reward", "crash", "")


class Measured:
    """What measures static values in a folder, and the rollouts that carry them."""

    def __init__(self, folder: Path, *, count: int = 2, writes: bool = True):
        self.sampler, self.stream = SeedSampler(), PromptStream(PROMPTS, 0, False)
        text = AuthorText(lambda text, *, special=False: [], str, lambda messages: [])
        authors = {ACTOR: Author(self.sampler, TokenReward(), text)}
        environment = bind("single_turn", single_turn, {}, key="env")
        collector = Collector(authors, make_env=environment, deadline_seconds=20.0)
        rollout = Rollout(prompts_per_step=count, group_size=3, temperature=0.7)
        provider = bind("static_values", static_values, {"samples": 5}, key="providers")

        def params(seed: int) -> SamplingParams:
            return sampling_params(rollout, (1,), seed)

        self.measured_once = MeasuredOnce(
            folder / "measured_once", "rl", [provider], collector, params, rollout, writes
        )
        self.sample_groups = Provided(Evenly(collector, 3), collector, [provider], self.measured_once.values)
        keep = {ACTOR: bind("everything", selection.everything, {}, key="keep")}
        self.rollouts = Rollouts(self.stream, collector, self.sample_groups, keep, rollout, params)

    def measure(self, *, steps: int = 2, seed: int = 4, first_policy: bool = True, **settings: Any) -> Measured:
        self.measured_once.measure(self.stream, steps=steps, seed=seed, first_policy=first_policy, **settings)
        return self

    @property
    def values(self) -> dict[str, float]:
        return self.measured_once.values["static_values"]


def known(groups: list[Group]) -> list[float]:
    return [group.known["static_values"] for group in groups]


def test_values_are_means_over_what_was_scored(tmp_path):
    """Two steps of two prompts and a refill of each: p0 ... p7, five samples each, at the recipe's temperature."""
    recorded: list[Group] = []
    found = Measured(tmp_path).measure(record=recorded.extend)
    asked = found.sampler.asked
    assert [n for n, _ in asked] == [n for n in range(8) for _ in range(5)]
    assert {(params.temperature, params.stop_token_ids) for _, params in asked} == {(0.7, (1,))}
    assert len({params.seed for _, params in asked}) == 40
    expected = {}
    for n in (0, 1, 2, 4, 5, 6, 7):  # all of prompt 3 failed
        tokens = [params.seed % 97 for number, params in asked if number == n]
        rewards = [n + token / 100 for token in tokens if token % 7]
        expected[f"p{n}"] = sum(rewards) / len(rewards)
    assert found.values == pytest.approx(expected)
    assert any(params.seed % 97 % 7 == 0 for _, params in asked)
    assert [group.prompt.id for group in recorded] == [f"p{n}" for n in range(8)]


def test_the_stream_stays_where_it_is_and_an_epoch_is_enough(tmp_path):
    found = Measured(tmp_path, count=4)
    found.stream.take(3)
    found.measure(steps=5)
    # 40 prompts are wanted, there are 10
    assert [n for n, _ in found.sampler.asked[::5]] == [3, 4, 5, 6, 7, 8, 9, 0, 1, 2]
    assert [prompt.id for prompt in found.stream.take(2)] == ["p3", "p4"]


def test_groups_carry_their_prompts_value(tmp_path):
    found = Measured(tmp_path).measure(steps=1)  # p0 ... p3
    collected = found.rollouts.collect(seed=1)
    assert known(collected.groups) == [found.values["p0"], found.values["p1"]]
    again = found.sample_groups([PROMPTS[2], PROMPTS[3], PROMPTS[9]], SamplingParams(max_tokens=4))
    assert known(again[:1]) == [found.values["p2"]]
    assert all(map(math.isnan, known(again[1:])))  # p3 failed; p9 was not measured


def test_values_are_measured_once_and_kept(tmp_path):
    first = Measured(tmp_path).measure()
    assert [file.name for file in (tmp_path / "measured_once").iterdir()] == ["rl-static_values.json"]
    assert json.loads((tmp_path / "measured_once/rl-static_values.json").read_text()) == first.values
    for first_policy in (True, False):  # as after a kill before step 1, and after it
        found = Measured(tmp_path).measure(first_policy=first_policy)
        assert found.values == first.values and found.sampler.asked == []  # bit for bit
        assert known(found.sample_groups(PROMPTS[:1], SamplingParams(max_tokens=4))) == [first.values["p0"]]


def test_only_the_first_policy_can_be_measured(tmp_path):
    Measured(tmp_path).measure()
    (tmp_path / "measured_once/rl-static_values.json").unlink()
    found = Measured(tmp_path)
    with pytest.raises(RunStopped, match=r"rl-static_values.json is gone: .* once the policy was trained"):
        found.measure(first_policy=False)
    assert found.sampler.asked == []


def test_what_was_sampled_for_them_stays_when_the_first_steps_are_done_again(tmp_path):
    folder = RunFolder(tmp_path, writes=True)
    folder.start("name: small\n", {"command": ["llmrl"], "python": "3", "packages": {}})
    record = partial(folder.save_rollouts, stage="rl", step=0, kind="once")
    found = Measured(tmp_path).measure(steps=1, record=record)
    folder.save_rollouts(found.rollouts.collect(seed=1).sampled, stage="rl", step=1)
    folder.rewind(["rl"], "rl", None)
    assert [file.name for file in (tmp_path / "rollouts").iterdir()] == ["rl-000000-once.parquet"]


def test_the_seed_decides_and_one_rank_writes(tmp_path):
    found = [Measured(tmp_path / str(n), writes=False).measure(seed=4 + n // 2) for n in range(3)]
    first, other, third = (one.values for one in found)
    assert first == other != third
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_cannot_be_written_stops_the_run(tmp_path):
    (tmp_path / "measured_once").write_text("in the way")
    with pytest.raises(RunStopped, match="what static_values measured could not be written"):
        Measured(tmp_path).measure()
