from __future__ import annotations

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.majority import majority_answer
from llmrl.rewards.reward import Reward
from llmrl.types import Group
from tests.support.plain_trees import PROMPT, text


def group(*texts: str) -> Group:
    return Group(PROMPT, [text("answer", said=one) for one in texts], "answer")


def test_the_most_frequent_answer_is_paid_however_it_is_spelt():
    found = majority_answer(group(r"\boxed{\frac{1}{2}}", r"\boxed{3}", r"so \boxed{0.5}", "no idea"))
    assert [one.value for one in found] == [1.0, 0.0, 1.0, 0.0]
    assert [one.correct for one in found] == [None] * 4  # the majority may be wrong
    assert [one.outcome for one in found] == [None, None, None, "no_answer"]
    assert {one.metrics["agreement"] for one in found} == {0.5}


def test_a_completion_without_an_answer_never_wins():
    assert [one.value for one in majority_answer(group(*["let us see"] * 3, r"\boxed{3}"))] == [0.0, 0.0, 0.0, 1.0]
    assert [one.value for one in majority_answer(group("let us see"))] == [0.0]


def test_of_equally_frequent_answers_the_first_counts():
    assert [one.value for one in majority_answer(group("4", "5", "5", "4"))] == [1.0, 0.0, 0.0, 1.0]


def test_a_recipe_may_name_another_reader():
    reward = Reward.from_spec("majority_answer", {"reader": {"math_verifier": {"extract": "last_number"}}})
    found = reward.piece({"group": group("6 or 7", "7", r"\boxed{6}")})
    assert [one.value for one in found] == [1.0, 1.0, 0.0]
    with pytest.raises(RecipeError, match="did you mean 'exact_match'"):
        Reward.from_spec("majority_answer", {"reader": "exact_mach"})
