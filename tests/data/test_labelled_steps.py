"""Solutions with labelled steps: public rows, what they become, and the tokens that carry the labels."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmrl.data.forms import SOLUTIONS
from llmrl.data.packing import pack
from llmrl.data.prompts import UNLABELLED, LoadedPrompts, load_prompts
from llmrl.data.steps import solution_of, step_tokens
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rows import Data, Rows
from llmrl.types import Group

CHARACTERS = "abcdefghijklmnopqrstuvwxyzS0123456789 ?:+=.\n"
SHEPHERD = "How many? Step 1: a+b ки\nStep 2: The {} ки"


@pytest.fixture
def load(tmp_path):
    def made(rows: list[dict[str, Any]], *, limit: int = 100, **settings: Any) -> LoadedPrompts:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        data = Data(train=Rows(path=str(path), **settings))
        return load_prompts(tokenizer(), data, limit, max_completion_tokens=limit, gives=SOLUTIONS)

    return made


def tokenizer() -> Any:
    return character_tokenizer(CHARACTERS + "HTymw")


def shown(loaded: LoadedPrompts, index: int = 0) -> tuple[str, list[list[tuple[str, float | None]]]]:
    """A prompt and its solutions, each step with its label, as text."""
    prompt = loaded.train[index]
    solutions = loaded.solutions[prompt.id]
    texts = [[(tokenizer().decode(span.token_ids), span.reward) for span in one.spans] for one in solutions]
    return tokenizer().decode(list(prompt.token_ids)), texts


def rated(*ratings: int | None, chosen: int | None, written: str | None = None) -> dict[str, Any]:
    """A step of PRM800K: a completion for each rating, named by its place."""
    return {
        "completions": [{"text": "abcd"[n], "rating": rating} for n, rating in enumerate(ratings)],
        "human_completion": written and {"text": written, "rating": None},
        "chosen_completion": chosen,
    }


def prm800k(*steps: dict[str, Any], finish_reason: str = "solution") -> dict[str, Any]:
    question = {"problem": "x?", "ground_truth_answer": "1"}
    return {"labeler": "l", "question": question, "label": {"steps": list(steps), "finish_reason": finish_reason}}


@pytest.mark.parametrize(
    ("row", "form", "prompt", "solutions"),
    [
        ({"prompt": "x?", "completions": ["a", "b"], "labels": [True, False]}, "TRL text, stepwise", "x?",
         [[("a\n", 1), ("b\n", 0)]]),
        # chances of Monte-Carlo continuations, and a step that nobody labelled
        ({"prompt": "x?", "completions": ["a", "b", "c"], "labels": [0.75, None, 0]}, "TRL text, stepwise", "x?",
         [[("a\n", 0.75), ("b\n", None), ("c\n", 0)]]),
        ({"input": SHEPHERD.format("end"), "label": "How many? Step 1: a+b +\nStep 2: The end -", "task": "m"},
         "Math-Shepherd", "How many?", [[("Step 1: a+b\n", 1), ("Step 2: The end\n", 0)]]),
        # the path of the chosen steps, then one solution for each step that was rated and not chosen
        (prm800k(rated(1, -1, None, chosen=0), rated(-1, chosen=None, written="w"), rated(1, chosen=0)), "PRM800K",
         "x?", [[("a\n", 1), ("w\n", None), ("a\n", 1)], [("b\n", 0)], [("a\n", None), ("a\n", 0)]]),
        # nothing was chosen where the labeller ended the sample at an error
        (prm800k(rated(1, chosen=0), rated(-1, chosen=None), finish_reason="found_error"), "PRM800K", "x?",
         [[("a\n", 1)], [("a\n", None), ("a\n", 0)]]),
        ({"id": "g-1", "problem": "x?", "steps": ["a", "b", "c"], "label": 1}, "ProcessBench", "x?",
         [[("a\n", 1), ("b\n", 0), ("c\n", None)]]),
        ({"problem": "x?", "steps": ["a", "b"], "label": -1}, "ProcessBench", "x?", [[("a\n", 1), ("b\n", 1)]]),
    ],
)  # fmt: skip
def test_forms(load, row, form, prompt, solutions):
    loaded = load([row])
    assert loaded.forms == {"train": form}
    assert shown(loaded) == (prompt, solutions)


@pytest.mark.parametrize(("neutral", "label"), [("right", 1), ("wrong", 0), ("drop", None)])
def test_neutral_steps_are_what_the_recipe_says(load, neutral, label):
    row = prm800k(rated(0, chosen=0), rated(1, chosen=0))
    assert shown(load([row], neutral=neutral))[1] == [[("a\n", label), ("a\n", 1)]]
    with pytest.raises(RecipeError) as caught:
        load([row])
    assert str(caught.value) == (
        "data.train.step_labels: train:0: a neutral step, which public converters call right (OpenR) or wrong (TRL); "
        "set neutral to right, wrong, or drop for a step without a label"
    )


def test_problems_without_a_rated_step_are_dropped_and_counted(load):
    rows = [prm800k(rated(1, chosen=0)), prm800k(rated(1, chosen=0), finish_reason="give_up"), prm800k()]
    loaded = load(rows)
    assert list(loaded.solutions) == ["train:0"] and loaded.dropped["train"] == {UNLABELLED: 2}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"prompt": "x", "completions": ["a"], "labels": [1, 1]}, "step_labels: train:0: 2 labels for 1 steps"),
        ({"prompt": "x", "completions": ["a"], "labels": [-1]}, "expected a chance from 0 to 1, got -1; ratings"),
        ({"prompt": "x", "completions": ["a"], "labels": ["perhaps"]}, "expected a label that says good or bad"),
        ({"prompt": "x", "completions": "a", "labels": [1]}, "data.train.steps: train:0: expected a list, got 'a'"),
        ({"input": SHEPHERD.format("end"), "label": SHEPHERD.format("end")}, "with + or - for each 'ки'"),
        ({"input": SHEPHERD.format("end") + " more", "label": "How many? Step 1: a+b +\nStep 2: The end + more"},
         "expected 'ки' after the last step, got 'more' behind it"),
        ({"prompt": "x", "completions": ["aX"], "labels": [1]}, "characters that the vocabulary lacks: 'X'"),
        (prm800k(rated(2, chosen=0)), "rating: expected -1, 0, 1 or null, got 2"),
        ({"problem": "x", "steps": ["a"], "label": 1}, "label: expected -1 or the place of one of 1 steps, got 1"),
    ],
)  # fmt: skip
def test_rows_that_are_not_of_their_form(load, row, fault):
    with pytest.raises(RecipeError) as caught:
        load([row])
    assert fault in str(caught.value)


def test_keys_name_columns_and_the_last_step_alone(load):
    rows = [{"q": "x?", "solution": ["a", "b"], "soft": [0.5, 0.25], "hard": [1, 1]}]
    named = {"prompt": "q", "steps": "solution", "step_labels": "soft", "separator": "..", "last_step_only": True}
    assert shown(load(rows, **named)) == ("x?", [[("a..", None), ("b..", 0.25)]])


def test_a_step_ends_with_tokens_of_the_separator_alone(load):
    """The tokenizer would merge the end of a step with a newline; a newline of the step's own is not repeated."""
    words = {word: n for n, word in enumerate(["[unk]", "<eos>", "a", "b", ".", "\n", ".\n"])}
    merging = Tokenizer(models.BPE(vocab=words, merges=[(".", "\n")], unk_token="[unk]"))
    merging.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    found = PreTrainedTokenizerFast(tokenizer_object=merging, eos_token="<eos>", unk_token="[unk]")
    assert found.encode("a.\nb") == [2, 6, 3]
    assert step_tokens(found, ["a.", "b.\n"], "\n") == [[2, 4, 5], [3, 4, 5]]


def test_each_step_is_a_turn_whose_reward_is_its_label(load):
    loaded = load([{"prompt": "x?", "completions": ["ab", "c"], "labels": [1, 0.25]}])
    prompt = loaded.train[0]
    one = solution_of(tokenizer(), ["ab", "c"], [None, True]).trajectory(prompt, "actor")
    batch = pack([Group(prompt, [loaded.solutions[prompt.id][0].trajectory(prompt, "actor"), one])], "actor")
    nan = "nan"
    told = [[f"{value:g}" for value in row] for row in batch.turn_rewards.tolist()]
    assert told == [[nan, nan, nan, nan, "1", nan, "0.25"], [nan, nan, nan, nan, nan, nan, "1"]]
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1, 1, 1, 1]] * 2
    assert batch.turn_ids.tolist() == [[-1, -1, 0, 0, 0, 1, 1]] * 2
