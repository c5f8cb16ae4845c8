from __future__ import annotations

import pytest

from llmrl.rewards.found_faults import found_faults

FAULTS = ["The car is red.", "There are three dogs", "It rains"]


def test_the_faults_listed_are_matched_with_those_of_the_answer():
    critique = "Two claims are false:\n- the car is red\n- there are two cats\n- it rains\n"
    # two matches of 3 listed and 3 there: 2 / (3 + 3 - 2)
    score = found_faults(critique, FAULTS)
    assert score.value == pytest.approx(0.5)
    assert score.metrics == pytest.approx({"precision": 2 / 3, "recall": 2 / 3})
    assert score.correct is None


def test_what_is_said_twice_finds_one_fault():
    assert found_faults("- it rains\n- It rains!", ["It rains", "x"]).value == pytest.approx(1 / 3)


def test_descriptions_that_share_half_their_words_are_of_one_fault():
    # {there, are, dogs} and {there, are, three, dogs}: 3/4; {dogs} and the latter: 1/4
    assert found_faults("- there are dogs", FAULTS[1:2]).value == 1.0
    assert found_faults("- dogs", FAULTS[1:2]).value == 0.0
    assert found_faults("- dogs", FAULTS[1:2], same=0.25).value == 1.0
    # the second is the more alike, and is the one that is matched
    both = found_faults("- there are dogs\n- there are three dogs", [*FAULTS[1:2], "dogs there are"])
    assert both.value == 1.0


def test_an_answer_without_faults_wants_an_empty_list():
    assert found_faults("All is well.", []).value == 1.0
    assert found_faults("All is well.", [], "", marker="").value == 0.0
    assert found_faults("All is well.", FAULTS).value == 0.0
    assert found_faults("All is well.", FAULTS).metrics == {"recall": 0.0}


def test_the_list_is_read_as_the_recipe_says_and_after_the_thoughts():
    assert found_faults("9,1", '["1", "9"]', separator=",", marker="").value == 1.0
    assert found_faults("<think>\n- it rains\n</think>\n- no", FAULTS, thoughts_end="</think>").value == 0.0
    with pytest.raises(ValueError, match="faults: expected a list of texts, got 'it rains'"):
        found_faults("- it rains", "it rains")
