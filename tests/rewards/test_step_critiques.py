"""The reward of answers that criticize their own steps: verdicts, their places, and what is never silently wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import torch

from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.ops.advantages.turns import step_grpo
from llmrl.rewards.base import Rewards
from llmrl.rewards.respondents import Question
from llmrl.rewards.reward import verdict_faults
from llmrl.rewards.step_critiques import verdicts_on_steps
from llmrl.rewards.verdicts import Reply
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Score, StopReason, Trajectory, Turn

STOP = 9


@dataclass
class Characters:
    """A role whose tokens are characters; STOP ends a text."""

    name: str = "role actor"

    def decode(self, token_ids) -> str:
        return "".join(chr(token) for token in token_ids if token != STOP)

    async def reply(self, question: Question) -> Reply:
        raise NotImplementedError


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


async def last_is_seven(completion):
    return "7" in completion


async def unknown(completion):
    return Score(0.5)


def answered(text: str, stop_reason: StopReason = "stop") -> Trajectory:
    tokens = [*map(ord, text), STOP]
    return Trajectory(Prompt("train:0", (1,), "?", {}), [Turn(ACTOR, tokens, text=text)], stop_reason, text)


def scored(workers, *answers: Trajectory, verifier: str = "last_is_seven", **settings) -> Group:
    group = Group(answers[0].prompt, list(answers))
    specs = {f"{__name__}:{verifier}": {}, "step_critiques": {"right": "+", "wrong": "-", **settings}}
    asyncio.run(Rewards.from_specs(specs, workers=workers, authors={ACTOR: Characters()}).score(group))
    return group


def test_the_last_verdict_agrees_with_the_outcome_and_each_pays_its_step(workers):
    [one] = scored(workers, answered("1[[+]]7[[+]]"), well_formed=0.25).trajectories
    score = one.scores["step_critiques"]
    assert (score.value, score.token_values, score.outcome) == (
        1.25,
        {0: 1.0, 6: 1.0},
        "right",
    )  # on the tokens 1 and 7
    assert score.metrics == {"steps": 2, "well_formed": 1, "parse_failures": 0, "agreement": 1}
    assert score.correct is None  # the answer's accuracy is the verifier's alone
    assert (one.reward, one.correct) == (2.25, True)


@pytest.mark.parametrize(
    ("text", "settings", "value", "tokens"),
    [
        ("1[[-]]7[[+]]", {}, 1.0, {0: 0.0, 6: 1.0}),
        ("1[[-]]7[[+]]", {"step_right": 0.5, "step_wrong": -1.0}, 1.0, {0: -1.0, 6: 0.5}),
        ("1[[+]]6[[-]]", {}, 1.0, {0: 1.0, 6: 0.0}),  # wrong, and it says so
        ("1[[+]]6[[+]]", {"disagree": -0.5}, -0.5, {}),  # praise of a wrong answer pays nothing
        ("1[[+]]6[[+]]", {"trusted": False}, 0.0, {0: 1.0, 6: 1.0}),
        ("1[[+]]7[[-]]", {}, 0.0, {}),
        ("[[+]]7[[+]]", {}, 1.0, {5: 1.0}),  # there is no step before the first verdict
        ("1 Check: fine. [[+]] 7 Check: [[+]]", {"critique_begins": "Check:"}, 1.0, {0: 1.0, 21: 1.0}),
    ],
)
def test_values_by_hand(workers, text, settings, value, tokens):
    [one] = scored(workers, answered(text), **settings).trajectories
    score = one.scores["step_critiques"]
    assert (score.value, score.token_values) == (value, tokens)


@pytest.mark.parametrize("text", ["7", "7 +", "7[+]", "7[[x]]", "<think>7[[+]]</think>7", "<think>7[[+]]"])
def test_an_answer_without_a_verdict_is_counted_and_scored_as_the_recipe_says(workers, text):
    [one] = scored(workers, answered(text), unreadable=-2.0, well_formed=1.0).trajectories
    score = one.scores["step_critiques"]
    assert (score.value, score.token_values, score.outcome) == (-2.0, {}, "unreadable")
    assert score.metrics["parse_failures"] == 1
    assert one.failure is None


def test_labels_in_another_case_are_none():
    assert verdicts_on_steps("a [[correct]]", "Correct", "Wrong") == ([], False)


@pytest.mark.parametrize(
    ("text", "formed"),
    [
        ("1[[+]]7[[+]]", True),
        ("1[[+]] 7\n[[+]] ", True),
        ("1[[+]][[+]]", False),  # a verdict given twice
        ("[[+]]7[[+]]", False),
        ("1[[+]]7", False),  # the last step has no critique
        ("7", False),
    ],
)
def test_every_verdict_of_a_well_formed_answer_follows_a_text(text, formed):
    assert verdicts_on_steps(text, "+", "-")[1] is formed


def test_an_answer_that_is_cut_short_is_not_well_formed(workers):
    [one] = scored(workers, answered("7[[+]]", "length"), well_formed=0.5).trajectories
    assert one.scores["step_critiques"].value == 1.0


def test_steps_behind_thoughts_have_their_own_tokens(workers):
    [one] = scored(workers, answered("<think>7[[+]]</think>7[[+]]")).trajectories
    assert one.scores["step_critiques"].token_values == {len("<think>7[[+]]</think>"): 1.0}


def test_credit_of_outcome_and_steps(workers):
    """Two answers: 7 with one step called right, 6 with a wrong one called wrong."""
    group = scored(workers, answered("7[[+]]"), answered("6[[-]]"))
    assert [one.reward for one in group.trajectories] == [2.0, 1.0]
    batch = pack([group], ACTOR)
    credit = step_grpo(
        batch.reward_components, batch.turn_rewards, batch.response_mask, batch.group_ids, normalize_std=False
    )
    # outcome: +-0.5 everywhere; steps: 1 and 0 about their mean, on the step's token and not on its critique
    first = torch.tensor([0.0, 1.0, *[0.5] * 6])
    assert torch.allclose(credit.advantages, torch.stack([first, -first]))


def test_a_verdict_of_another_reward_is_needed(workers):
    [one] = scored(workers, answered("7[[+]]"), verifier="unknown").trajectories
    assert one.failure
    assert one.failure.message == "no other reward says whether the answer is right"
    alone = Rewards.from_specs({"step_critiques": {}}, workers=workers)
    [fault] = verdict_faults(alone.rewards)
    assert fault.startswith("rewards.step_critiques: reads the verdict of another reward, and none gives any")
    with pytest.raises(RecipeError, match="no setting 'rigth'"):
        Rewards.from_specs({"step_critiques": {"rigth": "+"}}, workers=workers)
