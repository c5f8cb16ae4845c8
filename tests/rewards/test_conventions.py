"""Reward functions of TRL, verl and OpenRLHF, called through real worker processes as they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, ENVIRONMENT, Group, Prompt, Score, Trajectory, Turn

PEERS = "peer_rewards:"
CHAT = ({"role": "system", "content": "be brief"}, {"role": "user", "content": "2+3?"})
GSM8K = {
    "data_source": "openai/gsm8k",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"index": 0, "level": 4},
}


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


def made(workers: Workers, **specs: Any) -> Rewards:
    return Rewards.from_specs({PEERS + name: settings for name, settings in specs.items()}, workers=workers)


def group(row: dict, *texts: str, messages: Any = None) -> Group:
    prompt = Prompt("p0", (1, 2), "2+3=", row, messages)
    turns = [[Turn(ACTOR, list(range(len(text))), text=text)] for text in texts]
    return Group(prompt, [Trajectory(prompt, one, "stop", text) for one, text in zip(turns, texts, strict=True)])


def scored(rewards: Rewards, row: dict, *texts: str, messages: Any = None) -> list[Trajectory]:
    found = group(row, *texts, messages=messages)
    asyncio.run(rewards.score(found))
    return found.trajectories


def values(rewards: Rewards, row: dict, *texts: str, messages: Any = None) -> list[float]:
    trajectories = scored(rewards, row, *texts, messages=messages)
    assert [one.failure for one in trajectories] == [None] * len(texts)
    return [one.reward for one in trajectories]


# TRL


def test_columns_are_lists_by_name(workers):
    assert values(made(workers, accuracy_reward=None), {"answer": 5, "level": 1}, "5", " 5 ", "6") == [1, 1, 0]


def test_a_chat_is_lists_of_messages_and_a_bool_a_verdict(workers):
    rewards = made(workers, format_reward={"weight": 0.5}, question_repeated=None)
    both = scored(rewards, {}, "<think>2</think>5", "2+3? 5", messages=CHAT)
    assert [one.reward for one in both] == [0.5, 1.0]
    assert [one.correct for one in both] == [True, False]


def test_a_conversation_with_an_environment_has_its_messages(workers):
    found = group({}, "2+3? tool", messages=CHAT)
    found.trajectories[0].turns += [Turn(ENVIRONMENT, [1], text="output"), Turn(ACTOR, [2], text="5")]
    found.trajectories[0].text = "5"
    assert made(workers, format_reward=None).rewards[0].call(found, {}, {})[1][1]["completions"] == [
        [
            {"role": "assistant", "content": "2+3? tool"},
            {"role": "tool", "content": "output"},
            {"role": "assistant", "content": "5"},
        ]
    ]


def test_kwargs_have_every_column_but_prompt_and_completion(workers):
    row = {"prompt": "2+3", "completion": "5", "level": 1, "answer": 5}
    assert values(made(workers, what_it_gets=None), row, "5", "six") == [2.1, 2.3]  # level and answer; tokens / 10


def test_a_column_may_be_named_group(workers):
    rewards = made(workers, of_group=None)
    assert values(rewards, {"group": 3}, "a", "b") == [3.0, 3.0] and rewards.rewards[0].columns == ("group",)


def test_parameters_with_a_default_are_columns_if_there_are_any_and_may_be_set(workers):
    assert values(made(workers, only_keywords=None), {}, "a") == [3.0]
    assert values(made(workers, only_keywords={"level": 7}), {"level": 5}, "a") == [7.0]
    rewards = made(workers, compute_score_scaled={"score": 2.5, "method": "flexible"})
    assert values(rewards, {"ground_truth": "5", "score": 9}, "it is 5", "it is 6") == [2.5, 0.0]


def test_none_leaves_the_sum_of_a_row_alone(workers):
    rewards = made(workers, of_maths={"weight": 2.0}, of_letters={"weight": 3.0}, longest_first=None)
    maths = scored(rewards, {"task": "math", "answer": "5", "letter": None}, "5", "55")
    assert [one.reward for one in maths] == [2.0, 1.0]
    assert [sorted(one.scores) for one in maths] == [[PEERS + "longest_first", PEERS + "of_maths"]] * 2
    assert values(rewards, {"task": "letters", "answer": None, "letter": "x"}, "x", "yx") == [3.0, 1.0]
    other = scored(made(workers, of_maths=None), {"task": "letters", "answer": None}, "5")
    assert other[0].failure is not None and "no reward applies to this row" in other[0].failure.message


def test_what_a_function_logs_becomes_numbers_of_each_score(workers):
    one, two = scored(made(workers, logging_reward=None), {}, "a", "abc")
    assert one.scores[PEERS + "logging_reward"] == Score(0.5, metrics={"shortest": 1.0, "length": 1.0})
    assert two.scores[PEERS + "logging_reward"] == Score(0.5, metrics={"shortest": 1.0, "length": 3.0})


def test_async_functions_arrays_and_tensors(workers):
    assert values(made(workers, async_reward=None), {}, "a", "abc") == [1.0, 3.0]
    assert values(made(workers, as_tensor=None), {}, "a", "abc") == [1.0, 3.0]
    assert [one.correct for one in scored(made(workers, as_array=None), {}, "a", "abc")] == [False, True]


def test_a_call_that_fails_is_a_failure_of_its_group_alone(workers):
    rewards = made(workers, fails_on_bad={"retries": 1}, longest_first=None)
    bad, good = group({}, "bad", "a"), group({}, "b")

    async def both() -> None:
        await asyncio.gather(rewards.score(bad), rewards.score(good))

    asyncio.run(both())
    failures = [one.failure for one in bad.trajectories]
    assert [(f.kind, f.message) if f else f for f in failures] == [("crash", "KeyError: 'bad'")] * 2
    assert [(one.failure, one.reward) for one in good.trajectories] == [(None, 2.0)]


@pytest.mark.parametrize(("name", "returned"), [("one_too_few", "[1.0]"), ("no_list", "1.0")])
def test_a_result_that_is_not_one_for_each_is_told(workers, name, returned):
    both = scored(made(workers, **{name: {"retries": 0}}), {}, "a", "b")
    message = f"returned {returned}, expected a list of 2, one result per trajectory"
    assert [(one.failure.kind, one.failure.message) for one in both if one.failure] == [("invalid", message)] * 2


def test_a_batched_function_reads_no_verdicts_and_may_give_some(workers):
    [reward] = made(workers, longest_first=None).rewards
    assert reward.per_group and reward.may_give_verdicts
    assert not (reward.reads_verdicts or reward.needs_verdicts or reward.reads_group)


# verl


def test_verls_columns_are_found_where_verl_keeps_them(workers):
    assert values(made(workers, compute_score=None), GSM8K, "so #### 5", "#### 6") == [1.0, 0.0]
    [other] = scored(made(workers, compute_score={"retries": 0}), GSM8K | {"data_source": "x"}, "5")
    assert other.failure is not None and other.failure.message == "NotImplementedError: no reward for 'x'"


def test_a_mapping_has_a_score_a_verdict_and_numbers(workers):
    right, wrong = scored(made(workers, compute_score_dict=None), GSM8K, "5", "6")
    assert right.scores[PEERS + "compute_score_dict"] == Score(1.0, True, metrics={"acc": 1.0, "level": 4.0})
    assert (wrong.reward, wrong.correct) == (-1.0, False)


def test_rows_of_another_form(workers):
    assert values(made(workers, compute_score_dict=None), {"answer": "7"}, "7") == [1.0]
    named = made(workers, compute_score_dict={"columns": {"ground_truth": "solution.final", "extra_info": "more"}})
    row = {"solution": {"final": "8"}, "answer": "7", "more": {"level": 2}}
    [one] = scored(named, row, "8")
    assert one.reward == 1.0 and one.scores[PEERS + "compute_score_dict"].metrics["level"] == 2.0


def test_verls_batches_and_async_functions(workers):
    assert values(made(workers, compute_score_batched=None), GSM8K, "5", "6") == [1.0, 0.0]
    assert [one.correct for one in scored(made(workers, compute_score_async=None), GSM8K, "5", "6")] == [True, False]


# OpenRLHF


def test_queries_are_prompts_with_answers(workers):
    right, wrong = scored(made(workers, reward_func=None), {"label": "5"}, "5", "66")
    assert right.scores[PEERS + "reward_func"] == Score(1.0, metrics={"scores": 1.0, "characters": 1.0})
    assert wrong.scores[PEERS + "reward_func"] == Score(0.0, metrics={"scores": 0.0, "characters": 2.0})


# Faults


@pytest.mark.parametrize(
    ("name", "settings", "row", "fault"),
    [
        ("accuracy_reward", {}, {"answr": 5}, "the data has no column 'answer'; did you mean 'answr'?"),
        (
            "compute_score",
            {},
            {"question": "?"},
            "the data has no column 'reward_model.ground_truth' or 'ground_truth' or 'answer'; columns: question; "
            "name it, as in rewards.peer_rewards:compute_score.columns: {ground_truth: COLUMN}",
        ),
        (
            "compute_score",
            {"columns": {"ground_truth": "gold"}},
            {"golds": 5},
            "the data has no column 'gold'; did you mean 'golds'?",
        ),
        (
            "compute_score",
            {"columns": {"ground_truth": "meta.fianl"}},
            {"meta": {"final": 5}},
            "the data has no column 'meta.fianl'; did you mean 'meta.final'?",
        ),
        (
            "compute_score",
            {"columns": {"data_source": "sorce", "extra_info": "notes"}},
            {"source": "gsm8k", "answer": 5, "notes": {}},
            "the data has no column 'sorce'; did you mean 'source'?",
        ),
    ],
)
def test_a_missing_column_is_named_before_anything_runs(workers, name, settings, row, fault):
    with pytest.raises(RecipeError) as caught:
        made(workers, **{name: settings}).check_rows([row])
    assert caught.value.faults == [f"rewards.{PEERS}{name}: {fault}"]


@pytest.mark.parametrize(
    ("name", "settings", "fault"),
    [
        ("compute_score", {"columns": {"ground_thruth": "gold"}}, "did you mean 'ground_truth'?"),
        ("compute_score", {"solution_str": "5"}, "no setting 'solution_str'"),
        ("accuracy_reward", {"wieght": 2}, "no setting 'wieght' (value 2); did you mean 'weight'?"),
    ],
)
def test_settings_that_there_are_not(workers, name, settings, fault):
    with pytest.raises(RecipeError) as caught:
        made(workers, **{name: settings})
    assert fault in str(caught.value)


def test_a_native_function_may_name_its_columns_too(workers):
    rewards = Rewards.from_specs({"exact_match": {"columns": {"answer": "gold.text"}}}, workers=workers)
    assert rewards.rewards[0].columns == ("gold.text",)
    assert [one.correct for one in scored(rewards, {"gold": '{"text": "five"}'}, "Five.", "six")] == [True, False]
