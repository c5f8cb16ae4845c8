"""Groups in which others than the policy write: who is asked, what is written down, what is scored together."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scripted import PARAMS, PROMPTS, EchoSampler, Verdicts, author, make, piece, texts

from llmrl.data.packing import pack
from llmrl.data.written import Span, Written
from llmrl.envs.single_turn import single_turn
from llmrl.errors import RecipeError
from llmrl.recipe import Rollout
from llmrl.recipe_file import method_recipe
from llmrl.resolve import resolve_pieces
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.selection import best_and_worst, dataset_and_worst, own_completions
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn


class SaysNine(EchoSampler):
    policy_version = 0

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        await super().sample(token_ids, params)
        return Completion([9, 9], [-1.0, -1.0], "stop", self.policy_version)


class ByPlace(Verdicts):
    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        for place, trajectory in enumerate(group.trajectories):
            trajectory.reward = float(place)


def collector(**written: list[Written]) -> tuple[Collector, SaysNine]:
    reference = SaysNine()
    actor = replace(author(scorer=ByPlace()), writers={"reference": reference})
    return Collector({ACTOR: actor}, make_env=piece(single_turn), deadline_seconds=20.0, written=written), reference


def test_the_others_complete_the_group_that_is_scored_as_a_whole():
    rows = [Written([Span([7])], 0.0), Written([Span([8, 8])], 1.0)]
    made, reference = collector(p0=rows, p1=rows)
    groups = Evenly(made, 2, ["dataset", "reference"])(PROMPTS[:2], PARAMS)
    alone = Evenly(make(), 2)(PROMPTS[:2], PARAMS)
    assert [one[:2] for one in texts(groups)] == texts(alone)  # the policy's own depend on nobody else
    for group in groups:
        policy, reference_s, row = group.trajectories[1:]
        assert [one.writer for one in group.trajectories] == ["policy", "policy", "reference", "dataset"]
        assert [one.reward for one in group.trajectories] == [0.0, 1.0, 2.0, 3.0]
        assert (reference_s.text, row.text) == ("9 9", "8 8")  # the row's better one
        assert policy.turns[0].rollout_logprobs and not reference_s.turns[0].rollout_logprobs
        assert [one.episode.number for one in group.trajectories if one.episode] == [0, 1, 2, 3]
    assert len(reference.asked) == 2
    batch = pack(groups, ACTOR)
    assert batch.from_policy.tolist() == [True, True, False, False] * 2
    assert batch.rollout_logprobs[2:4].abs().sum() == 0


def test_a_row_that_has_too_few_completions_leaves_places_empty():
    made, _ = collector(p0=[Written([Span([7])], 1.0)])
    groups = Evenly(made, 1, ["dataset", "dataset"])(PROMPTS[:2], PARAMS)
    assert [[one.writer for one in group.trajectories] for group in groups] == [["policy", "dataset"], ["policy"]]


def scored(*rewards: tuple[str, float]) -> Group:
    prompt = Prompt("p", (1,), "?", {})
    made = [
        Trajectory(prompt, [Turn(ACTOR, [place])], "stop", text=str(place), reward=reward, writer=writer)
        for place, (writer, reward) in enumerate(rewards)
    ]
    return Group(prompt, made)


def kept(trajectories: list[Trajectory]) -> str:
    return "".join(one.text for one in trajectories)


def test_own_completions_leave_the_opponents():
    assert kept(own_completions(scored(("policy", 1), ("reference", 2), ("dataset", 3), ("policy", 0)))) == "03"


@pytest.mark.parametrize(
    ("rewards", "min_gap", "pair"),
    [
        ([("policy", 0.5), ("policy", 0.2), ("dataset", 0.6)], 0.0, "21"),
        ([("policy", 0.5), ("policy", 0.2), ("dataset", 0.2)], 0.0, ""),  # no sample is worse
        ([("policy", 0.5), ("dataset", 0.9)], 0.5, ""),
        ([("policy", 0.5), ("dataset", 0.9)], 0.3, "10"),
        ([("policy", 0.5), ("policy", 0.9)], 0.0, ""),
        ([("dataset", 0.5), ("reference", 0.1)], 0.0, ""),
    ],
)
def test_the_dataset_against_the_worst_sample(rewards, min_gap, pair):
    assert kept(dataset_and_worst(scored(*rewards), min_gap=min_gap)) == pair


def test_a_sample_that_says_what_the_dataset_says_is_no_pair():
    group = scored(("policy", 0.0), ("dataset", 1.0))
    group.trajectories[0].turns[0].token_ids = [1]
    assert dataset_and_worst(group) == []


def test_no_place_of_a_group_wins_ties():
    """Of equal rewards each place is chosen about as often, whatever the tokens; the same group twice is the same."""
    best = [0, 0, 0]
    for number in range(300):
        group = scored(("policy", 1.0), ("policy", 1.0), ("reference", 1.0), ("policy", 0.0))
        for place, one in enumerate(group.trajectories):
            one.turns[0].token_ids = [(number * 7 + place * 5) % 11, number % 13]
        chosen = best_and_worst(group)
        assert chosen == best_and_worst(group) and chosen[1] is group.trajectories[3]
        assert chosen == best_and_worst(Group(group.prompt, group.trajectories[::-1]))
        best[group.trajectories.index(chosen[0])] += 1
    assert min(best) > 70


@pytest.mark.parametrize(
    ("written_by", "words"),
    [
        ({"referense": 1}, "written_by: no writer of completions named 'referense'; did you mean 'reference'?"),
        ({"reference": 3}, "written_by has 3 completions, more than group_size 2"),
        ({"dataset": {"share": 0.5}}, "written_by.dataset.share: a row has no distribution to mix"),
        ({"reference": {"share": 1.5}}, "less than or equal to 1"),
    ],
)
def test_unknown_and_too_many_writers_are_refused(written_by, words):
    with pytest.raises(ValueError, match=words):
        Rollout(group_size=2, written_by=written_by)


def test_what_each_writes_is_counted():
    rollout = Rollout.model_validate({"group_size": 5, "written_by": {"reference": 2, "past_2": {"count": 1}}})
    assert (rollout.own_completions, rollout.writers) == (2, ["reference", "reference", "past_2"])
    assert rollout.past_writers == [2]


def test_an_opponent_that_nobody_writes_is_a_fault_before_anything_runs():
    settings = {"opinion": "llmrl.tasks.duels:prefers", "against": {"policy": 1.0, "past_2": 1.0}}
    fragment = {"rewards": {"win_rate": settings}}
    with pytest.raises(RecipeError, match=r"rewards\.win_rate\.against\.past_2: .* add rollout\.written_by\.past_2"):
        resolve_pieces(method_recipe("online_dpo").model_copy(update=fragment))
