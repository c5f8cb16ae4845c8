"""Rows of seeds: no two alike, and compared with other rows by question and seed."""

from __future__ import annotations

import pytest

from llmrl.data.datasets import load_rows
from llmrl.data.prompts import load_prompts
from llmrl.data.seeds import seeds
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rows import Data, Rows

ASK = {"task": "seeds", "settings": {"question": "go"}}


def test_no_two_rows_share_a_seed_whatever_the_tasks_seed():
    parts = [seeds(500, seed, question="go") for seed in (0, 1, 2, 2**31 - 1)]
    found = [row["seed"] for part in parts for row in part]
    assert len(set(found)) == len(found) and all(0 <= one < 2**62 for one in found)
    assert parts[1] == seeds(500, 1, question="go") and parts[1][:3] == seeds(3, 1, question="go")
    assert sum(one >> 61 for one in found) in range(900, 1100)  # half of the seeds are in the upper half


def test_rows_of_one_question_are_told_apart_by_their_seeds():
    tokenizer = character_tokenizer("go")
    data = Data(train=Rows(**ASK, size=6, seed=1), eval=Rows(**ASK, size=3, seed=2))
    apart = load_prompts(tokenizer, data, 8)
    assert (len(apart.train), len(apart.eval)) == (6, 3)
    data = Data(train=Rows(**ASK, size=6, seed=1), eval=Rows(**ASK, size=3, seed=1))
    shared = load_prompts(tokenizer, data, 8)
    assert [prompt.id for prompt in shared.train] == ["train:3", "train:4", "train:5"]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"task": "seeds"}, "setting 'question' has no default"),
        ({"task": "seeds", "settings": {"qestion": "go"}}, "did you mean 'question'?"),
        ({"task": "seed"}, "did you mean 'seeds'?"),
        ({**ASK, "seed": 2**31}, r"expected less than 2\^31"),
    ],
)
def test_faulty_rows_of_seeds_are_one_message(given, fault):
    with pytest.raises(RecipeError, match=fault):
        load_rows(Rows(**given))
