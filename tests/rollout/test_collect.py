"""Collecting: order, keeping and refilling, failures, deadlines, several ranks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from scripted import PARAMS, PROMPTS, EchoSampler, Verdicts, asked_of, collect, ids, make, on_two_ranks, piece

from llmrl.envs.base import Step
from llmrl.errors import RunStopped
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.selection import best_of, everything, mixed_outcomes
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, Trajectory


def test_groups_stay_in_the_prompts_order():
    collector = make()
    groups = collector.sample(PROMPTS, group_size=3, params=PARAMS)
    assert ids(groups) == [f"p{n}" for n in range(10)]
    trajectories = [t for group in groups for t in group.trajectories]
    assert len(trajectories) == 30
    # every completion has a seed of its own
    assert len({params.seed for _, params in asked_of(collector)}) == 30
    # and the place in a group depends on the seed alone, not on which came back first
    again = make().sample(PROMPTS, group_size=3, params=PARAMS)
    assert [[t.text for t in g.trajectories] for g in again] == [[t.text for t in g.trajectories] for g in groups]
    [turn] = trajectories[0].turns
    assert (turn.author, turn.policy_version) == (ACTOR, 2)
    assert turn.rollout_logprobs == [-token / 10 for token in turn.token_ids]


def test_a_prompt_given_twice_is_sampled_anew():
    first, second = make().sample([PROMPTS[0], PROMPTS[0]], group_size=2, params=PARAMS)
    assert len({t.text for group in (first, second) for t in group.trajectories}) == 4


def test_rewards_run_while_others_are_sampled():
    scored = asyncio.Event()

    class WaitsForAReward(EchoSampler):
        async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
            if token_ids[0] == 4:  # p1 is not answered before p0 has its reward
                await scored.wait()
            return await super().sample(token_ids, params)

    class Tells(Verdicts):
        async def begin(self, group: Group) -> None: ...

        async def score(self, group: Group) -> None:
            await super().score(group)
            scored.set()

    groups = make(WaitsForAReward(), Tells(), deadline_seconds=5.0).sample(PROMPTS[:2], group_size=2, params=PARAMS)
    assert [t.reward for group in groups for t in group.trajectories] == [1.5, 0.5, 1.5, 0.5]


def test_a_micro_group_is_the_most_of_a_group_that_is_in_flight():
    """Of each prompt by itself, and with the completions that the whole group at once has."""

    class Counting(EchoSampler):
        def __init__(self) -> None:
            super().__init__()
            self.running, self.most = Counter[int](), Counter[int]()

        async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
            prompt = token_ids[0]
            self.running[prompt] += 1
            self.most[prompt] = max(self.most[prompt], self.running[prompt])
            completion = await super().sample(token_ids, params)
            self.running[prompt] -= 1
            return completion

    found = {}
    for micro_group in (None, 1, 3):
        sampler = Counting()
        groups = make(sampler, micro_group=micro_group).sample(PROMPTS[:4], group_size=8, params=PARAMS)
        assert [*sampler.most.values()] == [micro_group or 8] * 4
        found[micro_group] = [[t.text for t in group.trajectories] for group in groups]
    assert found[1] == found[3] == found[None]


# Keeping and refilling


def test_dropped_prompts_are_replaced_by_the_next_ones():
    # mixed: p0, p4, p5; all right: p1, p3; all wrong: p2
    mixed = {0, 4, 5, 6, 7, 8, 9}
    scorer = Verdicts(lambda n, place: place == 0 if n in mixed else n in {1, 3})
    collector = make(scorer=scorer)
    collected, taken = collect(collector, piece(mixed_outcomes), count=3, max_refills=8)
    # p0 p1 p2 leave p0; p3 p4 leave p4; p5 stays: six prompts for three groups, and none beyond
    assert (ids(collected.groups), taken) == (["p0", "p4", "p5"], 6)
    counts = {name: collected.metrics[name] for name in ("groups_sampled", "groups_kept", "groups_mixed", "accuracy")}
    # right: 1 of 2 for three groups, 2 of 2 for p1 and p3, 0 of 2 for p2: 7 of 12
    assert counts == {
        "groups_sampled": 6.0,
        "groups_kept": 3.0,
        "groups_mixed": 0.5,
        "accuracy": pytest.approx(7 / 12),
    }
    assert len({params.seed for _, params in asked_of(collector)}) == 12


def test_refilling_ends_after_max_refills():
    scorer = Verdicts(lambda n, place: n != 0 or place == 0)
    collected, taken = collect(make(scorer=scorer), piece(mixed_outcomes), count=3, max_refills=2)
    assert (ids(collected.groups), taken) == (["p0"], 3 + 2 + 2)


def test_keep_may_leave_part_of_a_group():
    collected, taken = collect(make(), piece(best_of, count=1, min_reward=1.0), count=4, group_size=3)
    assert [len(group.trajectories) for group in collected.groups] == [1] * 4
    assert all(group.trajectories[0].reward == 1.5 for group in collected.groups)
    assert taken == 4
    # metrics are of everything sampled: rewards 1.5 0.5 1.5 in each group
    assert collected.metrics["reward"] == pytest.approx(3.5 / 3)


def test_nothing_kept_stops_the_run():
    message = r"nothing to train on after 3 rounds of 2 prompts; `keep: mixed_outcomes` dropped every group"
    with pytest.raises(RunStopped, match=message):
        collect(make(scorer=Verdicts(lambda n, place: True)), piece(mixed_outcomes), count=2, max_refills=2)


# Failures


def slow(n: int, place: int) -> bool | Failure:
    """Of three: the last of each group times out, and all of p1."""
    return Failure("verifier", "timeout", "too slow") if place == 2 or n == 1 else place == 0


def test_failures_are_dropped_and_counted_and_never_zero():
    collected, _ = collect(make(scorer=Verdicts(slow)), piece(everything), count=2, group_size=3)
    assert ids(collected.groups) == ["p0"]
    assert [t.reward for t in collected.groups[0].trajectories] == [1.5, 0.5]
    metrics = collected.metrics
    assert {name: value for name, value in metrics.items() if "rollout_" not in name} == {
        "reward": 1.0,  # (1.5 + 0.5) / 2, not / 6
        "reward_std": 0.5,
        "reward/verifier": 0.5,
        "reward/length": 0.5,
        "accuracy": 0.5,
        "completion_tokens": 3.0,
        "completion_tokens_max": 3.0,
        "truncated": 0.0,
        "groups_mixed": 0.5,
        "groups_sampled": 2.0,
        "groups_kept": 1.0,
        "failures": 4.0,
        "failures/verifier/timeout": 4.0,
    }
    assert metrics["rollout_tokens_per_second"] == pytest.approx(6 / metrics["rollout_seconds"])


def test_outcomes_are_shares_of_the_trajectories_that_have_one():
    """Of each group of four the first passes, the second and third time out, the last is not told; p1's last failed."""
    ends = ["passed", "timeout", "timeout", None]

    class Told(Verdicts):
        async def begin(self, group: Group) -> None: ...

        async def score(self, group: Group) -> None:
            await super().score(group)
            for trajectory, outcome in zip(group.trajectories, ends, strict=True):
                trajectory.scores["verifier"] = Score(0.0, outcome=outcome)
                trajectory.scores["other"] = Score(0.0, outcome="wrong" if outcome is None else None)

    failing = Told(lambda n, place: Failure("verifier", "crash", "") if (n, place) == (1, 1) else True)
    collected, _ = collect(make(scorer=failing), piece(everything), count=2, group_size=4)
    shares = {name: value for name, value in collected.metrics.items() if name.startswith("outcome/")}
    assert shares == {
        "outcome/verifier/passed": 2 / 5,  # p0: passed, timeout, timeout; p1: passed, timeout
        "outcome/verifier/timeout": 3 / 5,
        "outcome/other/wrong": 1.0,
    }


def test_a_group_that_failed_is_replaced_and_keep_never_sees_it():
    seen = []

    def watches(group: Group) -> list[Trajectory]:
        seen.append(len(group.trajectories))
        return group.trajectories

    collected, taken = collect(make(scorer=Verdicts(slow)), piece(watches), count=2, group_size=3, max_refills=1)
    assert (ids(collected.groups), taken) == (["p0", "p2"], 3)
    assert seen == [2, 2]


def test_all_failed_stops_the_run_with_the_commonest_reason():
    def failing(n: int, place: int) -> Failure:
        return Failure("judge", "crash", "no answer") if place else Failure("verifier", "invalid", "no gold")

    message = r"nothing to train on after 2 rounds of 3 prompts; most common failure: judge crash: no answer"
    with pytest.raises(RunStopped, match=message):
        collect(make(scorer=Verdicts(failing)), piece(everything), count=3, group_size=3, max_refills=1)


# Deadlines and errors


class Hangs(EchoSampler):
    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        if token_ids[0] == 4:  # p1
            await asyncio.sleep(3600)
        return await super().sample(token_ids, params)


class HangingVerdicts(Verdicts):
    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        if group.prompt.id in {"p2", "p3"}:
            await asyncio.sleep(3600)
        await super().score(group)


class HangingEnv:
    def __init__(self, prompt: Prompt):
        self.prompt = prompt

    async def reset(self) -> list[int]:
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        if self.prompt.id == "p4":
            await asyncio.sleep(3600)
        return Step([])


def hanging(prompt: Prompt) -> HangingEnv:
    return HangingEnv(prompt)


def test_a_deadline_names_who_was_waited_for():
    collector = make(Hangs(), HangingVerdicts(), hanging, deadline_seconds=0.3)
    with pytest.raises(RunStopped) as caught:
        collect(collector, piece(everything), count=5, group_size=3)
    message = str(caught.value)
    assert message.startswith("rank 0: sampling and scoring 5 prompts passed its deadline of 0.3 s")
    named = dict(reversed(part.split(" x ")) for part in message.partition("waiting for ")[2].split(", "))
    # three completions of p1, three steps of p4, and the groups of p2 and p3
    assert named == {"sampler": "3", "environment": "3", "rewards": "2"}


def test_a_sampler_that_fails_stops_the_run_and_what_was_under_way():
    ended: Counter[str] = Counter()

    class Fails(EchoSampler):
        async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
            if token_ids[0] == 5:
                raise RuntimeError("vLLM failed: out of memory")
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                ended["cancelled"] += 1
                raise
            raise AssertionError

    with pytest.raises(RuntimeError, match="out of memory"):
        make(Fails()).sample(PROMPTS[:4], group_size=2, params=PARAMS)
    assert ended["cancelled"] == 6


# Ranks


def test_two_ranks_bring_what_one_would():
    mixed = {0, 2, 3, 5, 6}
    scorer = Verdicts(lambda n, place: place == 0 if n in mixed else True)
    expected, taken = collect(make(scorer=scorer), piece(mixed_outcomes), count=3, max_refills=3)

    def run(rank: int, gather: Callable[[Any, str], list[Any]]) -> tuple[Any, int, int]:
        collector = make(scorer=scorer, rank=rank, ranks=2, gather=gather)
        return *collect(collector, piece(mixed_outcomes), count=3, max_refills=3), len(asked_of(collector))

    found = on_two_ranks(run)
    assert ids(expected.groups) == ["p0", "p2", "p3"]
    for collected, also_taken, _ in found:
        assert collected.groups == expected.groups
        assert also_taken == taken == 4
        same = {name: value for name, value in collected.metrics.items() if "rollout_" not in name}
        assert same == {name: value for name, value in expected.metrics.items() if "rollout_" not in name}
    # p0 p2 and then p3 on rank 0, p1 on rank 1: two completions each
    assert [asked for _, _, asked in found] == [6, 2]
