"""Data of several tasks: rewards that leave the rows of other tasks alone."""

from __future__ import annotations

import asyncio
import math

import pytest

from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.rewards.base import Rewards
from llmrl.rewards.results import NO_REWARD
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn

HOSTILE = "hostile_rewards:"
MATHS = {"data_source": "gsm8k", "answer": "8"}
CODE = {"data_source": "apps", "program": "pass", "answer": None}
BY_SOURCE = {"of_maths": {"rows": {"data_source": "gsm8k"}}, "of_code": {"rows": {"data_source": ["apps", "mbpp"]}}}


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


def made(workers: Workers, specs: dict) -> Rewards:
    return Rewards.from_specs({HOSTILE + name: settings for name, settings in specs.items()}, workers=workers)


def scored(rewards: Rewards, row: dict, *texts: str) -> list[Trajectory]:
    prompt = Prompt("p0", (1,), "", row)
    turns = [Turn(ACTOR, [3], [-0.5])]
    group = Group(prompt, [Trajectory(prompt, turns, "stop", text) for text in texts])
    asyncio.run(rewards.score(group))
    return group.trajectories


def test_a_reward_that_returns_none_adds_nothing_and_has_no_score(workers):
    rewards = made(workers, {"of_code": {"weight": 4.0}, "length": {"weight": 2.0}})
    [one] = scored(rewards, MATHS, "abc")
    assert (one.failure, one.reward) == (None, 6.0)
    assert one.scores == {HOSTILE + "length": Score(3.0)}
    assert one.components == {HOSTILE + "of_code": 0.0, HOSTILE + "length": 6.0}


def test_a_group_reward_may_return_none_for_one_and_for_all(workers):
    both = scored(made(workers, {"group_of_maths": None, "length": None}), MATHS, "none", "ab")
    assert [one.reward for one in both] == [4.0, 3.0]
    assert list(both[0].scores) == [HOSTILE + "length"]
    assert [one.reward for one in scored(made(workers, {"of_no_row": None, "length": None}), MATHS, "a")] == [1.0]


def test_a_row_that_no_reward_scores_is_a_failure_and_not_a_zero(workers):
    [none, right] = scored(made(workers, {"of_maths": None}), MATHS, "none", "8")
    assert none.failure == NO_REWARD and math.isnan(none.reward) and none.components == {}
    assert (right.failure, right.reward) == (None, 1.0)
    [none] = scored(made(workers, BY_SOURCE), {"data_source": "other", "answer": "8"}, "8")
    assert none.failure == NO_REWARD


def test_rows_of_two_tasks_are_scored_by_their_own_rewards_and_packed_together(workers):
    rewards = made(workers, BY_SOURCE)
    trajectories = [*scored(rewards, MATHS, "8", "9"), *scored(rewards, CODE, "pass", "8")]
    assert [one.reward for one in trajectories] == [1.0, 0.0, 1.0, 0.0]
    groups = [Group(part[0].prompt, part) for part in (trajectories[:2], trajectories[2:])]
    assert pack(groups, ACTOR).reward_components.tolist() == [[1, 0], [0, 0], [0, 1], [0, 0]]


def test_rows_are_chosen_by_a_path_and_by_all_columns_named(workers):
    rows = {"extra.task": "sum", "level": [1, 2]}
    rewards = made(workers, {"length": {"rows": rows}, "is_yes": None})
    [both] = scored(rewards, {"extra": '{"task": "sum"}', "level": 2}, "yes")
    [other] = scored(rewards, {"extra": '{"task": "sum"}', "level": 3}, "yes")
    assert (both.reward, other.reward) == (4.0, 1.0)


def test_columns_are_asked_of_the_rows_that_a_reward_scores(workers):
    rewards = made(workers, {"of_maths": {"rows": {"data_source": "gsm8k"}}, "of_code": None})
    rewards.check_rows([MATHS, {"data_source": "apps"}])
    with pytest.raises(RecipeError) as caught:
        made(workers, {"of_maths": None}).check_rows([MATHS, {"data_source": "apps", "answr": "1"}])
    assert caught.value.faults == [
        f"rewards.{HOSTILE}of_maths: 1 of the 2 rows that it scores have no column 'answer'; did you mean 'answr'?; "
        f"to score the others alone, set rewards.{HOSTILE}of_maths.rows"
    ]


def test_a_needed_verdict_is_asked_of_each_row(workers):
    code = {"data_source": "apps", "answer": "1"}
    specs = {"math_verifier": {"rows": {"data_source": "gsm8k"}}, "tag_count": None, "cosine_length": None}
    with pytest.raises(RecipeError) as caught:
        Rewards.from_specs(specs, workers=workers).check_rows([MATHS, code, code])
    assert caught.value.faults == [
        "rewards.cosine_length: reads verdicts, and no other reward gives one in 2 of its 3 rows, the first with "
        "data_source 'apps'"
    ]
    specs["cosine_length"] = {"rows": {"data_source": "gsm8k"}}
    Rewards.from_specs(specs, workers=workers).check_rows([MATHS, code])
    specs["exact_match"] = specs["cosine_length"] = None
    Rewards.from_specs(specs, workers=workers).check_rows([MATHS, code])


def test_rows_that_no_reward_scores_are_a_fault_before_training(workers):
    with pytest.raises(RecipeError, match="rewards: 2 of 3 rows are scored by none, the first with data_source 'new'"):
        made(workers, BY_SOURCE).check_rows([MATHS, {"data_source": "new"}, {}])


def test_rows_are_not_said_to_be_unscored_where_the_recipe_has_no_reward(workers):
    made(workers, {}).check_rows([MATHS])


def test_a_misspelt_rows_setting_names_the_nearest(workers):
    with pytest.raises(RecipeError, match=r"no setting 'row' .*; did you mean 'rows'"):
        made(workers, {"length": {"row": {"level": 1}}})
    with pytest.raises(RecipeError, match=r"rows: 'gsm8k' is not valid"):
        made(workers, {"length": {"rows": "gsm8k"}})


def test_a_numpy_verdict_of_a_worker_is_a_verdict(workers):
    yes, no = scored(made(workers, {"numpy_verdict": None}), {}, "yes", "no")
    assert (yes.correct, no.correct) == (True, False)


def test_a_reward_may_read_the_verdict_of_the_others(workers):
    rewards = made(workers, {"says_verdict": {"weight": 10.0}, "is_yes": None, "verdicts_of_group": {"weight": 100.0}})
    yes, no = scored(rewards, {}, "yes", "no")
    assert list(yes.components.values()) == [10.0, 1.0, 100.0]
    assert list(no.components.values()) == [-10.0, 0.0, -100.0]
    [silent] = scored(made(workers, {"says_verdict": None}), {"correct": "a column"}, "yes")
    assert silent.reward == 0.0


def test_what_failed_before_is_not_shown_to_a_group_reward(workers):
    failing = {"verdicts_of_group": None, "fails_on_bad": {"retries": 0}}
    bad, good = scored(made(workers, failing), {}, "bad", "good")
    assert bad.failure is not None and bad.failure.kind == "crash"
    assert bad.scores == {}  # verdicts_of_group gave its list of one to the other alone
    assert (good.failure, good.reward) == (None, 2.0)


def test_the_sampled_tokens_of_all_turns_are_data(workers):
    rewards = Rewards.from_specs({"token_repetition_penalty": {"ngram": 1}}, workers=workers)
    prompt = Prompt("p0", (1,), "", {})
    turns = [Turn(ACTOR, [7, 8]), Turn("environment", [7]), Turn(ACTOR, [8, 9])]
    group = Group(prompt, [Trajectory(prompt, turns, "stop", "x")])
    asyncio.run(rewards.score(group))
    assert group.trajectories[0].reward == -0.25  # of 7 8 8 9 one has been there
