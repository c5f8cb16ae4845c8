"""How completions are spread over prompts: budgets, rounds, greedy ones besides, static values, several ranks."""

from __future__ import annotations

import math
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from scripted import PARAMS, PROMPTS, EchoSampler, Verdicts, ids, make, piece
from torch import Tensor

from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.ops.allocation import gvm, xrpo
from llmrl.pieces import Piece
from llmrl.rollout.collect import Collector, Draw
from llmrl.rollout.group_sampling import Allocated, Evenly, WithGreedy, WithStaticValues
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.selection import everything, mixed_outcomes, triage
from llmrl.types import ACTOR, Failure, Group


def no_norms(groups: Sequence[Group]) -> list[float]:
    raise AssertionError("nothing reads gradient norms")


def allocated(
    collector: Collector,
    allocate: Piece,
    *,
    group_size: int,
    first: int,
    rounds: int = 1,
    norms: Callable[[Sequence[Group]], list[float]] = no_norms,
) -> Allocated:
    return Allocated(collector, allocate, group_size, first, rounds, norms)


def scripted(*counts: Sequence[int]) -> tuple[Piece, list[dict[str, Any]]]:
    """An allocation that hands out these counts, round by round, and a list of what it was told."""
    told: list[dict[str, Any]] = []

    def script(samples: Tensor, successes: Tensor, means: Tensor, stds: Tensor, budget: int) -> Tensor:
        known = {"samples": samples, "successes": successes, "means": means, "stds": stds}
        told.append({name: values.tolist() for name, values in known.items()} | {"budget": budget})
        return torch.tensor(counts[len(told) - 1])

    return piece(script), told


class ByRound(Verdicts):
    """Says it by a prompt's number, how often the prompt was scored before, and the place in the group."""

    def __init__(self, verdict: Callable[[int, int, int], bool | Failure]):
        self._by_round = verdict
        self._scored: Counter[int] = Counter()

    async def score(self, group: Group) -> None:
        n = group.prompt.row["n"]
        number = self._scored[n]
        self._scored[n] += 1
        self._verdict = lambda n, place: self._by_round(n, number, place)
        await super().score(group)


def sizes(groups: Sequence[Group]) -> list[int]:
    return [len(group.trajectories) for group in groups]


def texts(groups: Sequence[Group]) -> list[list[str]]:
    return [[t.text for t in group.trajectories] for group in groups]


def seeds(collector: Collector) -> list[int]:
    assert isinstance(collector.sampler, EchoSampler)
    return [params.seed for _, params in collector.sampler.asked]


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

    def norms(groups: Sequence[Group]) -> list[float]:
        seen.append(sizes(groups))
        return [1.0, 2.0, 5.0]

    draw = allocated(collector, piece(gvm, alpha=1e-12), group_size=8, first=4, norms=norms)
    groups = draw(PROMPTS[:3], PARAMS)
    assert seen == [[4, 4, 4]]
    assert sizes(groups) == [10, 10, 4]


@pytest.mark.parametrize("rounds", [1, 2, 6])
def test_xrpo_sends_the_budget_to_the_uncertain_and_first_to_the_unknown(rounds):
    """p0's rewards are mixed, p1's and p3's are not, p2's failed: it has no interval until it has two rewards."""
    failed = Failure("judge", "crash", "no answer")
    scorer = ByRound(lambda n, number, place: failed if (n, number) == (2, 0) else n == 0 and place == 0)
    collector = make(scorer=scorer)
    draw = allocated(collector, piece(xrpo, exploration=0.0), group_size=4, first=2, rounds=rounds)
    groups = draw(PROMPTS[:4], PARAMS)
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
        draw=allocated(collector, allocate, group_size=3, first=2),
        keep=piece(mixed_outcomes),
        count=2,
        max_refills=1,
        params=PARAMS,
    )
    assert [round_["budget"] for round_ in told] == [2, 1]
    assert (ids(collected.groups), sizes(collected.groups)) == (["p0", "p2"], [4, 3])
    assert sizes(collected.sampled) == [4, 2, 3]
    assert len(set(seeds(collector))) == 9


# WithGreedy


def test_greedy_completions_are_scored_and_kept_apart():
    collector = make(scorer=Verdicts(lambda n, place: n == 1))
    sampled = Evenly(make(scorer=Verdicts(lambda n, place: n == 1)), 3)(PROMPTS[:2], PARAMS)
    shaped = SamplingParams(
        max_tokens=6, temperature=0.7, top_p=0.9, top_k=5, stop=("x",), stop_token_ids=(1,), seed=11
    )
    groups = WithGreedy(Evenly(collector, 3), collector)(PROMPTS[:2], shaped)
    assert sizes(groups) == [3, 3]
    assert texts(groups) == texts(sampled)  # as without it
    assert isinstance(collector.sampler, EchoSampler)
    asked = [params for _, params in collector.sampler.asked]
    greedy = [params for params in asked if params.temperature == 0.0]
    assert [(p.top_p, p.top_k, p.max_tokens, p.stop, p.stop_token_ids) for p in greedy] == [
        (1.0, None, 6, ("x",), (1,))
    ] * 2
    assert {(p.temperature, p.top_p, p.top_k) for p in asked if p not in greedy} == {(0.7, 0.9, 5)}
    for group, reward in zip(groups, (0.5, 1.5), strict=True):
        assert group.greedy is not None
        assert (group.greedy.reward, group.greedy.prompt) == (reward, group.prompt)
        assert all(trajectory is not group.greedy for trajectory in group.trajectories)


class GreedyIsShort(EchoSampler):
    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        if params.temperature == 0.0:
            return Completion([7], [], "stop", self.policy_version)
        return await super().sample(token_ids, params)


def collect_greedily(verdict: Callable[[int, int], bool | Failure]) -> Any:
    collector = make(GreedyIsShort(), Verdicts(verdict))
    return collector.collect(
        PromptStream(PROMPTS, 0, False),
        draw=WithGreedy(Evenly(collector, 2), collector),
        keep=piece(everything),
        count=2,
        max_refills=0,
        params=PARAMS,
    )


def test_a_greedy_completion_is_not_trained_on_and_not_counted():
    collected = collect_greedily(lambda n, place: n == 1)
    batch = pack(collected.groups, ACTOR)
    assert batch.response_mask.sum(dim=1).tolist() == [3, 3, 3, 3]  # and not the greedy one's single token
    assert batch.greedy_rewards is not None
    assert batch.greedy_rewards.tolist() == [0.5, 0.5, 1.5, 1.5]
    assert collected.metrics["completion_tokens"] == 3.0
    assert collected.metrics["accuracy"] == 0.5


def test_a_greedy_completion_that_failed_gives_no_reward_and_no_zero():
    """Greedy ones are sampled first; p0's cannot be scored."""
    failed = Failure("verifier", "crash", "broken")
    collector = make(scorer=ByRound(lambda n, number, place: failed if (n, number) == (0, 0) else True))
    groups = WithGreedy(Evenly(collector, 2), collector)(PROMPTS[:2], PARAMS)
    assert [group.greedy is not None and group.greedy.failure for group in groups] == [failed, None]
    batch = pack(groups, ACTOR)
    assert batch.greedy_rewards is not None
    assert [str(reward) for reward in batch.greedy_rewards.tolist()] == ["nan", "nan", "1.5", "1.5"]


# WithStaticValues


def test_static_values_go_to_their_prompts_groups():
    draw = WithStaticValues(Evenly(make(), 2), {"p2": 0.25, "p0": 1.0})
    groups = draw([PROMPTS[2], PROMPTS[1], PROMPTS[0]], PARAMS)
    assert [str(group.static_value) for group in groups] == ["0.25", "nan", "1.0"]
    assert texts(groups) == texts(Evenly(make(), 2)([PROMPTS[2], PROMPTS[1], PROMPTS[0]], PARAMS))


def test_a_prompt_that_triage_drops_is_replaced():
    collector = make()
    values: dict[str, float] = {}
    draw = WithStaticValues(Evenly(collector, 2), values)
    values |= {"p0": 1.0, "p1": 0.5}  # measured after the draw was made, as a run does
    collected = collector.collect(
        PromptStream(PROMPTS, 0, False), draw=draw, keep=piece(triage), count=2, max_refills=1, params=PARAMS
    )
    assert ids(collected.groups) == ["p1", "p2"]
    assert [str(group.static_value) for group in collected.groups] == ["0.5", "nan"]


# Ranks


def on_two_ranks(run: Callable[[int, Callable[[Any, str], list[Any]]], Any]) -> list[Any]:
    """What `run` gives as rank 0 and as rank 1, which exchange things through the function that it is given."""
    meeting, given, found = threading.Barrier(2), [None, None], [None, None]

    def as_rank(rank: int) -> None:
        def gather(thing: Any, phase: str) -> list[Any]:
            given[rank] = thing
            meeting.wait(20)
            everyone = list(given)
            meeting.wait(20)  # nobody gives the next thing before all have read this one
            return everyone

        found[rank] = run(rank, gather)

    threads = [threading.Thread(target=as_rank, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return found


def everything_at_once(collector: Collector) -> Draw:
    """xrpo over two rounds, with greedy completions and static values besides."""
    inner = allocated(collector, piece(xrpo, exploration=0.3), group_size=5, first=2, rounds=2)
    return WithStaticValues(WithGreedy(inner, collector), {"p1": 0.5})


def test_several_ranks_deal_the_same():
    verdicts = Verdicts(lambda n, place: (n + place) % (n + 2) == 0)
    alone = everything_at_once(make(scorer=verdicts))(PROMPTS[:5], PARAMS)
    assert sum(sizes(alone)) == 25 and len(set(sizes(alone))) > 1

    def run(rank: int, gather: Callable[[Any, str], list[Any]]) -> tuple[list[Group], int]:
        collector = make(scorer=verdicts, rank=rank, ranks=2, gather=gather)
        return everything_at_once(collector)(PROMPTS[:5], PARAMS), len(seeds(collector))

    (first, asked), (second, asked_too) = on_two_ranks(run)
    assert first == second == alone
    assert asked + asked_too == 25 + 5  # every completion once, the greedy ones too
