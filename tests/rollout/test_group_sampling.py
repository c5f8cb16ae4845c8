"""How completions are spread over prompts: budgets, rounds, the episodes of a joined group, several ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from scripted import PARAMS, PROMPTS, ByRound, Verdicts, asked_of, author, ids, make, on_two_ranks, piece, texts
from torch import Tensor

from llmrl.data.stream import PromptStream
from llmrl.envs.base import Step
from llmrl.ops.allocation import gvm, xrpo
from llmrl.pieces import Piece
from llmrl.providers.questions import greedy_rewards, static_values
from llmrl.rollout.collect import Collector, SampleGroups
from llmrl.rollout.group_sampling import Allocated, Evenly, Provided
from llmrl.rollout.sampler import Completion
from llmrl.rollout.selection import mixed_outcomes
from llmrl.types import ACTOR, Failure, Group, Prompt


def allocated(
    collector: Collector, allocate: Piece, *, group_size: int, first: int, rounds: int = 1, **providers: Any
) -> Allocated:
    return Allocated(collector, allocate, group_size, first, rounds, providers)


def scripted(*counts: Sequence[int]) -> tuple[Piece, list[dict[str, Any]]]:
    """An allocation that hands out these counts, round by round, and a list of what it was told."""
    told: list[dict[str, Any]] = []

    def script(samples: Tensor, successes: Tensor, means: Tensor, stds: Tensor, budget: int) -> Tensor:
        known = {"samples": samples, "successes": successes, "means": means, "stds": stds}
        told.append({name: values.tolist() for name, values in known.items()} | {"budget": budget})
        return torch.tensor(counts[len(told) - 1])

    return piece(script), told


def sizes(groups: Sequence[Group]) -> list[int]:
    return [len(group.trajectories) for group in groups]


def seeds(collector: Collector) -> list[int]:
    return [params.seed for _, params in asked_of(collector)]


# Evenly


def test_evenly_samples_each_prompt_as_often_as_the_collector_is_asked():
    groups = Evenly(make(), 3)(PROMPTS[:4], PARAMS)
    assert (ids(groups), sizes(groups)) == (["p0", "p1", "p2", "p3"], [3] * 4)
    assert groups == make().sample(PROMPTS[:4], group_size=3, params=PARAMS)


# Allocated


def test_the_rounds_share_the_budget_to_the_last_completion():
    """Three prompts of 6: 18 in all, 2 each first, and the other 12 in rounds of 2, 2, 2, 3, 3."""
    allocate, told = scripted([2, 0, 0], [0, 2, 0], [1, 1, 0], [0, 0, 3], [3, 0, 0])
    collector = make()
    groups = allocated(collector, allocate, group_size=6, first=2, rounds=5)(PROMPTS[:3], PARAMS)
    assert [round_["budget"] for round_ in told] == [2, 2, 2, 3, 3]
    assert [round_["samples"] for round_ in told] == [[2, 2, 2], [4, 2, 2], [4, 4, 2], [5, 5, 2], [5, 5, 5]]
    assert (ids(groups), sizes(groups)) == (["p0", "p1", "p2"], [8, 5, 5])
    assert len(set(seeds(collector))) == 18


def test_a_later_round_comes_after_and_leaves_the_earlier_ones_as_they_were():
    once, _ = scripted([2, 0, 1])
    twice, _ = scripted([2, 0, 1], [0, 3, 3])
    before = allocated(make(), once, group_size=3, first=2)(PROMPTS[:3], PARAMS)
    after = allocated(make(), twice, group_size=5, first=2, rounds=2)(PROMPTS[:3], PARAMS)
    assert (sizes(before), sizes(after)) == ([4, 2, 3], [4, 5, 6])
    assert [group[:size] for group, size in zip(texts(after), sizes(before), strict=True)] == texts(before)
    assert all(t.prompt == group.prompt for group in after for t in group.trajectories)


def test_the_first_round_may_take_it_all():
    allocate, told = scripted([0, 0])
    groups = allocated(make(), allocate, group_size=2, first=2)(PROMPTS[:2], PARAMS)
    assert (told[0]["budget"], sizes(groups)) == (0, [2, 2])


def test_an_allocation_is_told_what_was_scored_and_failures_say_nothing():
    """Rewards: p0 1.5 0.5 0.5, p1 1.5 0.5 and a failure, p2 a failure, 0.5 and a failure, p3 failures."""
    failed = Failure("verifier", "timeout", "too slow")
    verdicts = [[True, False, False], [True, False, failed], [failed, False, failed], [failed] * 3]
    allocate, told = scripted([0, 0, 0, 0])
    collector = make(scorer=Verdicts(lambda n, place: verdicts[n][place]))
    groups = allocated(collector, allocate, group_size=3, first=3)(PROMPTS[:4], PARAMS)
    assert sizes(groups) == [3] * 4
    assert told[0]["samples"] == [3, 2, 1, 0]
    assert told[0]["successes"] == [1, 1, 0, 0]
    assert told[0]["means"] == pytest.approx([2.5 / 3, 1.0, 0.5, 0.0])
    # p0: deviations 2/3, -1/3, -1/3: sqrt((4 + 1 + 1) / 9 / 2); p1: sqrt((1/4 + 1/4) / 1)
    assert told[0]["stds"] == pytest.approx([math.sqrt(1 / 3), math.sqrt(1 / 2), 0.0, 0.0])


def test_gvm_sends_the_budget_where_gradients_and_failures_are():
    """p = 1/4, 1, 0 and G = 1, 2, 5: shares 1/sqrt(1/4) = 2, 2/sqrt(1) = 2, and 0 without a success; of 12: 6, 6, 0."""
    right = {0: {0}, 1: {0, 1, 2, 3}, 2: set()}
    collector = make(scorer=Verdicts(lambda n, place: place in right[n]))
    seen: list[list[int]] = []

    def norms(groups: Sequence[Group]) -> Tensor:
        seen.append(sizes(groups))
        return torch.tensor([1.0, 2.0, 5.0])

    sample = allocated(collector, piece(gvm, alpha=1e-12), group_size=8, first=4, gradient_norms=norms)
    groups = sample(PROMPTS[:3], PARAMS)
    assert seen == [[4, 4, 4]]
    assert sizes(groups) == [10, 10, 4]


@pytest.mark.parametrize("rounds", [1, 2, 6])
def test_xrpo_sends_the_budget_to_the_uncertain_and_first_to_the_unknown(rounds):
    """p0's rewards are mixed, p1's and p3's are not, p2's failed: it has no interval until it has two rewards."""
    failed = Failure("judge", "crash", "no answer")
    scorer = ByRound(lambda n, number, place: failed if (n, number) == (2, 0) else n == 0 and place == 0)
    collector = make(scorer=scorer)
    sample = allocated(collector, piece(xrpo, exploration=0.0), group_size=4, first=2, rounds=rounds)
    groups = sample(PROMPTS[:4], PARAMS)
    # 16 in all, 2 each first; of the other 8 p2 gets 2 and p0, the only one with a spread, 6
    assert sizes(groups) == [8, 2, 4, 2]
    assert [t.failure is None for t in groups[2].trajectories] == [False, False, True, True]
    assert len(set(seeds(collector))) == 16


def test_a_group_of_several_rounds_is_kept_as_one():
    """Right are the second round's: p0 has contrast only over both; p1, which got no more, has none and is replaced."""
    allocate, told = scripted([2, 0], [1])
    collector = make(scorer=ByRound(lambda n, number, place: number == 1))
    collected = collector.collect(
        PromptStream(PROMPTS, 0, False),
        sample_groups=allocated(collector, allocate, group_size=3, first=2),
        keep={ACTOR: piece(mixed_outcomes)},
        count=2,
        max_refills=1,
        params=PARAMS,
    )
    assert [round_["budget"] for round_ in told] == [2, 1]
    assert (ids(collected.groups), sizes(collected.groups)) == (["p0", "p2"], [4, 3])
    assert sizes(collected.sampled) == [4, 2, 3]
    assert len(set(seeds(collector))) == 9


# The episodes of a group of several rounds


def numbers(groups: Sequence[Group]) -> list[list[int]]:
    return [[t.episode.number for t in group.trajectories if t.episode] for group in groups]


def test_episodes_are_numbered_by_their_place_in_the_whole_group():
    allocate, _ = scripted([2, 0], [0, 1], [3, 1])
    groups = allocated(make(), allocate, group_size=5, first=2, rounds=3)(PROMPTS[:2], PARAMS)
    assert numbers(groups) == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3]]
    assert all(t.episode and t.episode.trajectories == [t] for group in groups for t in group.trajectories)


class Discussed:
    """The first author's answer is discussed by the second, whose context names how long the answer is."""

    def __init__(self, prompt: Prompt):
        self.prompt, self.answered = prompt, False

    async def reset(self) -> list[int]:
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        if self.answered:
            return Step([])
        self.answered = True
        odd = sum(completion.token_ids) % 2
        return Step([], done=False, author="critic", context=[*self.prompt.token_ids, 9], compared=str(odd))


def test_rounds_are_joined_author_by_author_and_an_allocation_counts_the_first_ones_completions():
    allocate, told = scripted([2, 4])
    collector = make(env=Discussed, others={"critic": author()})
    groups = allocated(collector, allocate, group_size=6, first=3)(PROMPTS[:2], PARAMS)
    assert told[0]["samples"] == [3, 3]
    of_actor, of_critic = ([g for g in groups if g.author == name] for name in (ACTOR, "critic"))
    assert (ids(of_actor), sizes(of_actor), numbers(of_actor)) == (["p0", "p1"], [5, 7], [[*range(5)], [*range(7)]])
    assert [group.place for group in groups] == sorted(group.place for group in groups)
    # one group of critiques for each value of `compared`, whatever the round; every episode has one of them
    kinds = [(group.place, {t.compared for t in group.trajectories}) for group in of_critic]
    assert all(len(compared) == 1 for _, compared in kinds)
    assert len({(place, *compared) for place, compared in kinds}) == len(kinds) > 2
    for place, count in ((0, 5), (1, 7)):
        found = [number for group in of_critic if group.place == place for number in numbers([group])[0]]
        assert sorted(found) == list(range(count))


# Ranks


def everything_at_once(collector: Collector) -> SampleGroups:
    """xrpo over two rounds, with greedy completions and static values besides."""
    inner = allocated(collector, piece(xrpo, exploration=0.3), group_size=5, first=2, rounds=2)
    providers = [piece(greedy_rewards), piece(static_values)]
    return Provided(inner, collector, providers, {"static_values": {"p1": 0.5}})


def test_several_ranks_deal_the_same():
    verdicts = Verdicts(lambda n, place: (n + place) % (n + 2) == 0)
    alone = everything_at_once(make(scorer=verdicts))(PROMPTS[:5], PARAMS)
    assert sum(sizes(alone)) == 25 and len(set(sizes(alone))) > 1

    def run(rank: int, gather: Callable[[Any, str], list[Any]]) -> tuple[list[Group], int]:
        collector = make(scorer=verdicts, rank=rank, ranks=2, gather=gather)
        return everything_at_once(collector)(PROMPTS[:5], PARAMS), len(seeds(collector))

    (first, asked), (second, asked_too) = on_two_ranks(run)
    for groups in (first, second):
        assert comparable(groups) == comparable(alone)
    assert asked + asked_too == 25 + 5  # every completion once, the greedy ones too


def comparable(groups: Sequence[Group]) -> list[Any]:
    """All of the groups but nan, which equals nothing, and with the numbers of their episodes."""
    without = [replace(group, known={name: str(value) for name, value in group.known.items()}) for group in groups]
    return [without, numbers(groups)]
