from __future__ import annotations

import pytest

from llmrl.rewards.similarity import edit_similarity, rouge


def test_rouge_counts_shared_words_pairs_and_the_longest_common_subsequence():
    said, gold = "the cat sat on a mat", "The cat is on the mat."
    # shared words: the, cat, on, mat; pairs: (the, cat); subsequence: the cat on mat
    of_each = {"1": 2 * 4 / 12, "2": 2 * 1 / 10, "L": 2 * 4 / 12}
    for kind, value in of_each.items():
        assert rouge(said, gold, kinds=(kind,)).value == pytest.approx(value)
    assert rouge(said, gold).value == pytest.approx(sum(of_each.values()) / 3)


def test_the_order_of_words_counts_for_the_subsequence_and_not_for_single_words():
    assert rouge("b a", "a b", kinds=("1",)).value == 1
    assert rouge("b a", "a b", kinds=("L",)).value == pytest.approx(2 * 1 / 4)


@pytest.mark.parametrize("function", [rouge, edit_similarity])
def test_the_best_of_several_answers_counts_and_only_what_follows_the_thoughts(function):
    assert function("<think>no no</think> yes you may", ["never", "yes you may"]).value == 1
    assert function("<think>yes you may", "yes you may").value == 0


@pytest.mark.parametrize("function", [rouge, edit_similarity])
def test_a_tag_is_compared_alone(function):
    said = "It is wrong. <suggestion>open the menu</suggestion> That is all."
    assert function(said, "open the menu", tag="suggestion").value == 1
    assert function("open the menu", "open the menu", tag="suggestion").value == 0


@pytest.mark.parametrize(
    ("said", "gold", "words", "value"),
    [
        ("kitten", "sitting", False, 1 - 3 / 7),
        ("ant cow bee", "ant bee cow", True, 1 - 2 / 3),  # one word is taken out and put in elsewhere
        ("", "ab", False, 0.0),
        (" ab ", "ab", False, 1.0),
    ],
)
def test_edit_similarity_is_one_less_the_share_of_edits(said, gold, words, value):
    assert edit_similarity(said, gold, words=words).value == pytest.approx(value)
