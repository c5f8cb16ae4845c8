from __future__ import annotations

import pytest

from llmrl.data.forms import COMPARISONS, DEMONSTRATIONS, QUESTIONS
from llmrl.data.transforms import Comparison, answer_verdicts, pair_verdicts, read_rows
from llmrl.errors import RecipeError
from llmrl.recipe_rows import Rows

PAIR = {"prompt": "Largest of 3 and 8?", "chosen": "8", "rejected": "3", "why": "8 > 3."}
CHAT = {
    "chosen": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}],
    "rejected": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "3"}],
}


def rows(transform, **keys) -> Rows:
    return Rows(path="rows.jsonl", transform=transform, **keys)


def test_a_pair_is_asked_in_both_orders_with_the_right_label():
    pair = Comparison("q", (("good", 1.0), ("bad", 0.0)), {"n": 7})
    one, other = sorted(pair_verdicts([pair], rubric="{prompt} {a}|{b} {n}"), key=lambda row: row["answer"])
    assert one == {"n": 7, "prompt": "q good|bad 7", "completion": "[[A]]", "answer": "A"}
    assert other == {"n": 7, "prompt": "q bad|good 7", "completion": "[[B]]", "answer": "B"}


def test_of_a_list_all_pairs_that_differ_are_asked_and_the_best_is_imitated():
    listed = Comparison("q", (("x", 2.0), ("y", 5.0), ("z", 2.0)), {})
    made = pair_verdicts([listed], rubric="{prompt}{a}{b}", verdict="{label}", demonstrations=True)
    assert made[-1]["prompt"] == "q"
    assert sorted((row["prompt"], row["completion"]) for row in made) == [
        ("q", "y"), ("qxy", "B"), ("qyx", "A"), ("qyz", "A"), ("qzy", "B"),
    ]  # fmt: skip


def test_no_place_among_the_rows_tells_the_verdict():
    """Every second row, or every fourth, has as many of each label as any."""
    many = [Comparison(f"q{number}", (("x", 1.0), ("y", 0.0)), {}) for number in range(400)]
    labels = [row["answer"] for row in pair_verdicts(many, rubric="{prompt}{a}{b}")]
    assert labels.count("A") == 400
    for start, stride in ((0, 2), (1, 2), (0, 4), (3, 4)):
        part = labels[start::stride]
        assert 0.4 < part.count("A") / len(part) < 0.6


def test_an_answer_is_good_above_the_threshold():
    listed = Comparison("q", (("x", 0.5), ("y", 0.6)), {"why": "because"})
    made = answer_verdicts([listed], rubric="{prompt}{completion}", verdict="{why} [[{label}]]", demonstrations=True)
    assert sorted((row["prompt"], row["completion"], row["answer"] or "") for row in made) == [
        ("q", "y", ""), ("qx", "because [[No]]", "No"), ("qy", "because [[Yes]]", "Yes"),
    ]  # fmt: skip


def test_rows_of_any_form_become_questions_and_the_source_reads_what_it_needs():
    spec = {"pair_verdicts": {"rubric": "{prompt} {a} or {b}?"}}
    found = read_rows(rows(spec), [CHAT], "train", DEMONSTRATIONS)
    assert sorted(row["prompt"] for row in found.rows) == ["1+1? 2 or 3?", "1+1? 3 or 2?"]
    assert (found.source.prompt, found.source.completion, found.source.chosen) == ("prompt", "completion", None)
    assert found.source.chat
    assert found.form == "TRL conversational, implicit prompt, made by pair_verdicts"
    asked = read_rows(rows(spec), [PAIR], "eval", QUESTIONS)
    assert (asked.source.completion, asked.source.answer, asked.source.chat) == (None, "answer", False)
    named = rows({"answer_verdicts": {"rubric": "{completion}?{prompt}"}}, prompt="q", completion="said", label="fine")
    found = read_rows(named, [{"q": "2?", "said": "3", "fine": False}], "train", None)
    assert [(row["prompt"], row["answer"]) for row in found.rows] == [("3?2?", "No")]
    ranked = {"prompt": "q", "completions": ["u", "v"], "scores": [1, 3]}
    found = read_rows(rows(spec), [ranked], "train", DEMONSTRATIONS)
    assert {row["prompt"]: row["answer"] for row in found.rows} == {"q u or v?": "B", "q v or u?": "A"}


def shouted(rows, *, mark="!"):
    return [{**row, "prompt": row["prompt"] + mark} for row in rows]


def needs_tokens(tokens):
    return []


@pytest.mark.parametrize(
    ("transform", "read", "words"),
    [
        ("pair_verdict", DEMONSTRATIONS, "transform: no transform named 'pair_verdict'; did you mean 'pair_verdicts'"),
        ({"pair_verdicts": {"rubric": "{prompt}{a}"}}, DEMONSTRATIONS, r"does not have \{b\}"),
        ({"pair_verdicts": {"rubric": "{prompt}{a}{b}{c}"}}, DEMONSTRATIONS, "pair_verdicts: .*no column 'c'"),
        ({"pair_verdicts": {"rubric": "{prompt}{a}{b}"}}, COMPARISONS, "pair_verdicts gives no chosen"),
        (f"{__name__}:needs_tokens", QUESTIONS, "needs_tokens takes tokens; expected comparisons or rows"),
    ],
)
def test_a_transform_that_cannot_work_is_refused(transform, read, words):
    with pytest.raises(RecipeError, match=words) as fault:
        read_rows(rows(transform), [PAIR], "train", read)
    assert fault.value.faults[0].startswith("data.train.transform")


def test_a_function_of_a_users_own_makes_rows_of_rows():
    found = read_rows(rows({f"{__name__}:shouted": {"mark": "?!"}}), [PAIR], "train", COMPARISONS)
    assert found.rows == [{**PAIR, "prompt": "Largest of 3 and 8??!"}]
    assert found.source.compares
