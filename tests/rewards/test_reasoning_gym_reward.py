from __future__ import annotations

import json

import pytest
import reasoning_gym as library

from llmrl.rewards.reasoning_gym import reasoning_gym
from llmrl.types import Score


@pytest.mark.parametrize("task", ["chain_sum", "basic_arithmetic", "spell_backward", "letter_counting", "gcd"])
def test_the_tasks_own_answers_are_correct_and_others_are_not(task):
    for entry in library.create_dataset(task, size=5, seed=3):
        assert reasoning_gym(f"Some thoughts.\n{entry['answer']}", entry) == Score(1.0, True)
        wrong = reasoning_gym("Some thoughts.\nzzz", entry)
        assert wrong.value < 1.0
        assert wrong.correct is False


ROW = {"question": "2 + 2 =", "answer": "4", "metadata": {"source_dataset": "chain_sum"}}


@pytest.mark.parametrize(
    ("completion", "settings", "correct"),
    [
        ("3\n4\n\n", {}, True),
        ("4\n3", {}, False),
        ("4", {"extract": "all"}, True),
        ("4\n4", {"extract": "all"}, False),
        ("<answer> 4 </answer>", {"extract": "tag"}, True),
        ("<final>4</final>", {"extract": "tag", "tag": "final"}, True),
        ("<answer>4", {"extract": "tag"}, False),
        ("4", {"extract": "tag"}, False),
        ("2 + 2 = 4", {"after": "="}, True),
        ("2 = 4 = 5", {"after": "="}, False),
        ("4", {"after": "="}, False),
        ("2 + 2 =", {"after": "="}, False),
        ("", {}, False),
    ],
)
def test_extraction(completion, settings, correct):
    result = reasoning_gym(completion, ROW, **settings)
    assert result.correct is correct
    assert (result.value == 1.0) is correct


def test_no_answer_scores_exactly_zero():
    assert reasoning_gym("4", ROW, after="=") == Score(0.0, False)


def test_partial_credit_is_not_correct():
    entry = library.create_dataset("spell_backward", size=1, seed=1)[0]
    almost = entry["answer"][:-1] + "#"
    result = reasoning_gym(almost, entry)
    assert 0.0 < result.value < 1.0
    assert result.correct is False


def test_metadata_may_be_json():
    assert reasoning_gym("4", ROW | {"metadata": json.dumps(ROW["metadata"])}).correct


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "4"}, "no 'metadata'"),
        ({"metadata": {"source_dataset": "chain_sum"}}, "no 'answer'"),
        ({"answer": "4", "metadata": {}}, "no 'source_dataset'"),
        ({"answer": "4", "metadata": "{"}, "Expecting"),
        ({"answer": "4", "metadata": {"source_dataset": "no_such_task"}}, "no_such_task"),
    ],
)
def test_a_row_of_no_known_task_is_invalid(row, message):
    with pytest.raises(ValueError, match=message):
        reasoning_gym("4", row)
