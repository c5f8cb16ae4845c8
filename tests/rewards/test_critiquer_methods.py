"""The rewards of the methods that train critiquers, as their recipes weigh them, on texts whose reward is known."""

from __future__ import annotations

import asyncio

import pytest
import torch

from llmrl.errors import RecipeError
from llmrl.ops.advantages.group import grpo, rloo
from llmrl.recipe_file import method_recipe, methods
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import Group, Prompt, Score, Trajectory, Turn

QUESTION = Prompt("1", (1,), "1+1=", {"answer": "2"})
RIGHT, WRONG = "it is 2: [[Correct]]", "carry: [[Wrong]]"


@pytest.fixture(scope="module")
def workers():
    with Workers(1, memory_gb=1.0) as pool:
        yield pool


def scored(method: str, texts: list[Trajectory], workers: Workers, **changed: dict) -> list[float]:
    """The rewards of texts by what the method itself brings, with changed settings."""
    recipe = method_recipe(method)
    specs = {name: (recipe.rewards[name] or {}) | changed.get(name, {}) for name in methods()[method]["rewards"]}
    asyncio.run(Rewards.from_specs(specs, workers=workers).score(Group(texts[0].prompt, texts)))
    return [one.reward for one in texts]


def rewards_of(method: str, row: dict, texts: list[str], workers: Workers) -> list[float]:
    prompt = Prompt("1", (1,), "which is better?", row)
    return scored(method, [Trajectory(prompt, [Turn("actor", [1])], "stop", text) for text in texts], workers)


def critique(said: str, draft: Trajectory, *after: float, tests: bool = False) -> Trajectory:
    """A critique of a draft, and the scores of the refinements after it; tests: scores are shares of passed tests."""
    found = follow(draft, said, "critiquer")
    for score in after:
        refinement = follow(found, "2", "actor")
        verifier = "code_verifier" if tests else "math_verifier"
        refinement.scores[verifier] = Score(float(score), score == 1)
    return found


def follow(before: Trajectory, said: str, author: str) -> Trajectory:
    found = Trajectory(QUESTION, [Turn(author, [1])], "stop", said, author=author, move=author, parent=before)
    before.children.append(found)
    return found


def draft(score: float, verifier: str = "math_verifier") -> Trajectory:
    scores = {verifier: Score(score, score == 1)}
    return Trajectory(QUESTION, [Turn("actor", [1])], "stop", "3", move="draft", scores=scores)


def credit_of(rewards: list[float], advantage) -> list[float]:
    one_token = torch.tensor(rewards)[:, None], torch.ones(len(rewards), 1, dtype=torch.bool)
    return advantage(*one_token, torch.zeros(len(rewards), dtype=torch.long)).advantages[:, 0].tolist()


def test_a_judge_of_pairs_is_paid_for_its_choice_and_a_tenth_for_its_form(workers):
    said = ["<think>a is short</think> [[B]]", "[[B]]", "<think>b is short</think> [[A]]", "A or B"]
    assert rewards_of("llava_critic_r1", {"answer": "B"}, said, workers) == pytest.approx([1.0, 0.9, 0.1, 0.0])


def test_a_critiquer_of_actions_is_paid_for_its_verdict_its_form_and_its_suggestion(workers):
    row = {"answer": "Incorrect", "suggestion": "open the menu"}
    said = [
        "<thinking>no menu</thinking>[[Incorrect]]<suggestion>open the menu</suggestion>",
        "<thinking>no menu</thinking>[[Incorrect]]<suggestion>close it</suggestion>",
        "[[Incorrect]] <suggestion>open the menu</suggestion>",
        "<thinking>a menu</thinking>[[Correct]]<suggestion></suggestion>",
    ]
    assert rewards_of("gui_critic_r1", row, said, workers) == pytest.approx([1.0, 0.9, 0.9, 0.1])


def test_stage_one_pays_the_verdict_alone(workers):
    wrong = draft(0)
    said = [critique(WRONG, wrong, 0), critique(RIGHT, wrong, 1), critique("hm", wrong, 1), critique(WRONG, wrong, 1)]
    rewards = scored("critique_rl1", said, workers)
    assert rewards == [1.0, -1.0, -1.0, 1.0]
    # against the mean of the three others: 1 - (-1/3), -1 - 1/3
    assert credit_of(rewards, rloo) == pytest.approx([4 / 3, -4 / 3, -4 / 3, 4 / 3])


def test_stage_two_adds_the_refinement_to_a_right_verdict_and_vetoes_the_others(workers):
    wrong, right = draft(0), draft(1)
    said = [critique(WRONG, wrong, 1), critique(RIGHT, wrong, 1), critique(RIGHT, right, 0), critique("hm", right, 1)]
    assert scored("critique_rl2", said, workers) == pytest.approx([1.2, -1.0, 0.2, -1.0])
    by_change = scored("critique_rl2", said, workers, refined={"gain": "improvement"})
    assert by_change == pytest.approx([1.2, -1.0, -0.8, -1.0])
    assert said[1].scores["refined"].value == 1.0  # measured, and not added
    assert said[1].components == {"discrimination": -1.0, "refined": 0.0}
    kept = critique(RIGHT, right, 1)
    assert scored("critique_rl2", [kept], workers, refined={"gain": "transition"}) == pytest.approx([0.4])


def test_refcritic_adds_the_share_of_right_refinements(workers):
    wrong = draft(0)
    said = [critique(WRONG, wrong, 1, 1, 0, 1), critique(RIGHT, wrong, 1, 0, 0, 0)]
    assert scored("refcritic", said, workers) == pytest.approx([1.75, 0.25])
    assert scored("refcritic", said, workers, refined={"weight": 0.5}) == pytest.approx([1.375, 0.125])
    assert scored("refcritic", [critique(WRONG, wrong)], workers) == [1.0]  # a phase without refinements


def test_ctrl_pays_the_share_of_passed_tests_to_critiques_that_have_a_verdict(workers):
    wrong = draft(0.25, "code_verifier")
    said = [critique(one, wrong, 0.75, tests=True) for one in (WRONG, RIGHT, "x+1?")]
    assert scored("ctrl", said, workers) == [0.75, 0.75, 0.0]
    assert [one.correct for one in said] == [True, False, False]  # measured alone


def test_rl4f_pays_likeness_or_its_change(workers):
    before = draft(0.5, "rouge")
    said = [follow(before, "say more", "critiquer")]
    follow(said[0], "2", "actor").scores["rouge"] = Score(0.75)
    assert scored("rl4f", said, workers) == [0.75]
    assert scored("rl4f", said, workers, refined={"gain": {"improvement": {"solved": 1.0}}}) == [0.25]


def test_echo_pays_the_same_step_more_near_the_top(workers):
    low, high = draft(0.0, "code_verifier"), draft(0.5, "code_verifier")
    said = [critique(WRONG, low, 0.5, tests=True), critique(WRONG, high, 1.0, tests=True)]
    score = {"refined": {"score": "code_verifier"}}
    # log(1.1 / 0.6), log(0.6 / 0.1)
    assert scored("echo", said, workers, **score) == pytest.approx([0.60614, 1.79176], abs=1e-5)


def test_rlanything_pays_answers_and_votes_by_outcome_and_votes(workers):
    """z = 1 and s = 1, 1, -1: R = 4/3, votes 4/3, 4/3, -4/3, whose mean is 4/9 and whose std is 1.5396 (n - 1)."""
    answer = draft(1)
    votes = [follow(answer, said, "critiquer") for said in (RIGHT, RIGHT, WRONG)]
    assert scored("rlanything", [answer], workers) == pytest.approx([4 / 3])
    rewards = scored("rlanything_judge", votes, workers)
    assert rewards == pytest.approx([4 / 3, 4 / 3, -4 / 3])
    population = [0.7071, 0.7071, -1.4142]  # as published, with n in place of n - 1
    assert credit_of(rewards, grpo) == pytest.approx([one * (2 / 3) ** 0.5 for one in population], abs=1e-4)
    assert scored("rlanything_judge", [follow(answer, "hm", "critiquer")], workers) == [-2.0]


def test_a_reward_counts_only_if_others_that_there_are_do(workers):
    with pytest.raises(RecipeError, match="did you mean 'discrimination'"):
        Rewards.from_specs({"discrimination": {}, "refined": {"only_if": "discriminaton"}}, workers=workers)
    with pytest.raises(RecipeError, match=r"refined\.only_if: no other reward named 'refined'"):
        Rewards.from_specs({"discrimination": {}, "refined": {"only_if": ["refined"]}}, workers=workers)
