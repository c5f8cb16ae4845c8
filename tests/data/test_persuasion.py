from __future__ import annotations

import json

import pytest

from llmrl.data.forms import COMPARISONS
from llmrl.data.persuasion import persuasion_pairs, right_turns
from llmrl.data.transforms import read_rows
from llmrl.errors import RecipeError
from llmrl.recipe_rows import Rows


def turn(text: str, correct: bool, *turns: dict) -> dict:
    return {"text": text, "correct": correct, "turns": list(turns)}


# 1+1? A says 2 (right); B says 3; A stays (2, and B then agrees) or gives way (3)
RESISTS = turn("2", True, turn("no, 3", False, turn("still 2", True, turn("ok, 2", True)), turn("fine, 3", False)))
# A says 3 (wrong); B says 2; A accepts or insists
ACCEPTS = turn("3", False, turn("no, 2", True, turn("yes, 2", True), turn("still 3", False)))
# both were right: no persuasion; and two turns that are both right
AGREES = turn("2", True, turn("2 indeed", True, turn("so 2", True), turn("3 then", False)))
ALIKE = turn("2", True, turn("3", False, turn("2, surely", True), turn("2", True)))


def test_right_turns_are_summed_up_the_tree():
    assert right_turns(RESISTS) == 3
    assert right_turns(ACCEPTS) == 2
    assert [right_turns(one) for one in RESISTS["turns"][0]["turns"]] == [2, 0]


def test_a_model_is_taught_to_resist_bad_reasons_and_to_accept_good_ones():
    [one, other] = persuasion_pairs([{"question": "1+1?", "turns": [RESISTS, ACCEPTS, AGREES, ALIKE], "id": 7}])
    assert one == {
        "question": "1+1?",
        "id": 7,
        "prompt": [
            {"role": "user", "content": "1+1?"},
            {"role": "assistant", "content": "2"},
            {"role": "user", "content": "no, 3"},
        ],
        "chosen": "still 2",
        "rejected": "fine, 3",
        "completion": "still 2",
        "kind": "resist",
    }
    assert (other["kind"], other["chosen"], other["rejected"]) == ("accept", "yes, 2", "still 3")


def test_the_second_speaker_is_the_assistant_of_its_own_turns():
    """B (2) hears A insist on 3 and stays with 2, or does not."""
    dialogue = turn("3", False, turn("2", True, turn("3, really", False, turn("no, 2", True), turn("well, 3", False))))
    [made] = persuasion_pairs([{"question": "1+1?", "turns": [dialogue]}], balanced=False)
    assert made["kind"] == "resist"
    assert [(one["role"], one["content"]) for one in made["prompt"]] == [
        ("user", "1+1?\n\n3"), ("assistant", "2"), ("user", "3, really"),
    ]  # fmt: skip
    [made] = persuasion_pairs([{"question": "1+1?", "turns": [dialogue]}], balanced=False, dialogue="text")
    assert made["prompt"] == "1+1?\n3\n2\n3, really\n"


def test_kinds_are_balanced():
    rows = [{"question": f"{n}?", "turns": json.dumps([RESISTS])} for n in range(5)]
    rows += [{"question": "x?", "turns": [ACCEPTS]}, {"question": "y?", "turns": [ACCEPTS]}]
    kinds = [row["kind"] for row in persuasion_pairs(rows)]
    assert kinds == ["resist"] * 2 + ["accept"] * 2
    assert len(persuasion_pairs(rows, balanced=False)) == 7
    assert persuasion_pairs(rows) == persuasion_pairs(rows)
    with pytest.raises(ValueError, match="no pair is of the kind accept; set balanced: false"):
        persuasion_pairs(rows[:5])


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ("2", "row 0: turns: expected a list of turns, got '2'"),
        ([turn("2", True, {"text": "3"})], r"row 0: turns.0.turns.0: expected a turn with text, correct"),
        ([AGREES], "no turn accepts a good reason or resists a bad one"),
    ],
)
def test_a_tree_of_another_form_is_refused(turns, words):
    source = Rows(path="rows.jsonl", transform="persuasion_pairs", chat=True)
    with pytest.raises(RecipeError, match=words):
        read_rows(source, [{"question": "1+1?", "turns": turns}], "train", COMPARISONS)


def test_the_pairs_are_read_as_pairs():
    source = Rows(path="rows.jsonl", transform="persuasion_pairs", chat=True)
    found = read_rows(source, [{"question": "1+1?", "turns": [RESISTS, ACCEPTS]}], "train", COMPARISONS)
    assert found.source.compares
    assert (found.source.prompt, found.source.chosen, found.source.completion) == ("prompt", "chosen", None)
    assert found.form == "made by persuasion_pairs"
