from __future__ import annotations

import json

import pytest

from llmrl.data.critiques import critiques_of_drafts, merged_critiques
from llmrl.data.forms import DEMONSTRATIONS
from llmrl.data.transforms import read_rows
from llmrl.errors import RecipeError
from llmrl.recipe_rows import Rows

ASK = "{question}\n{draft}\nReview:"


class TestCritiquesOfDrafts:
    def test_one_problem_has_a_demonstration_for_each_critique_of_each_draft(self):
        row = {"question": "1+1?", "answer": "2", "drafts": ["3", "2"], "critiques": [["no, 2", "wrong"], ["yes"]]}
        assert critiques_of_drafts([row], ask=ASK) == [
            {"question": "1+1?", "answer": "2", "prompt": "1+1?\n3\nReview:", "completion": "no, 2"},
            {"question": "1+1?", "answer": "2", "prompt": "1+1?\n3\nReview:", "completion": "wrong"},
            {"question": "1+1?", "answer": "2", "prompt": "1+1?\n2\nReview:", "completion": "yes"},
        ]
        assert critiques_of_drafts([{name: json.dumps(value) for name, value in row.items()}], ask="{draft}")

    def test_one_critique_of_one_draft_may_be_plain_texts(self):
        rows = [{"query": "1+1?", "noisy": {"student": "3"}, "review": "no"}]
        settings = {"drafts": "noisy.student", "critiques": "review"}
        [made] = critiques_of_drafts(rows, ask="{query}{draft}", **settings)
        assert made == {"query": "1+1?", "prompt": "1+1?3", "completion": "no"}
        digits = [{"query": "1+1?", "noisy": {"student": "3"}, "review": "2"}]  # a number's text, which JSON reads too
        assert critiques_of_drafts(digits, ask="{query}{draft}", **settings)[0]["completion"] == "2"

    @pytest.mark.parametrize(
        ("critiques", "words"),
        [
            (["a"], "row 0: critiques: 1 for 2 drafts; expected one for each"),
            (["a", 3], "row 0: critiques: expected a text or a list of texts, got 3"),
        ],
    )
    def test_rows_of_another_form_are_refused(self, critiques, words):
        with pytest.raises(ValueError, match=words):
            critiques_of_drafts([{"question": "q", "drafts": ["x", "y"], "critiques": critiques}], ask=ASK)

    def test_a_recipe_reads_them_to_imitate(self):
        transform: dict = {"critiques_of_drafts": {"ask": "{question}{draft}?"}}
        source = Rows(path="rows.jsonl", transform=transform)
        rows = [{"question": "1+1=", "answer": "2", "drafts": ["3"], "critiques": ["no"]}]
        found = read_rows(source, rows, "train", DEMONSTRATIONS)
        assert (found.source.prompt, found.source.completion) == ("prompt", "completion")
        assert [(row["prompt"], row["completion"]) for row in found.rows] == [("1+1=3?", "no")]
        with pytest.raises(RecipeError, match=r"data.train.transform: critiques_of_drafts: no column 'drafts'"):
            read_rows(source, [{"question": "1+1=", "draft": "3"}], "train", DEMONSTRATIONS)


def unit(text: str, quality: str, severity: float, critiquer: str = "a") -> dict:
    return {"text": text, "critiquer": critiquer, "quality": quality, "severity": severity}


class TestMergedCritiques:
    ROW = {  # noqa: RUF012
        "question": "1+1?",
        "draft": "3",
        "units": [
            unit("no working is shown", "good", 2),
            unit("the sum is 2", "good", 5, "b"),
            unit("it is rude", "wrong", 9, "b"),
            unit("No working is shown ", "good", 3, "c"),
            unit("too short", "vague", 1, "c"),
        ],
    }

    def test_the_good_units_of_all_critiquers_are_one_critique_the_severest_first(self):
        [made] = merged_critiques([self.ROW], ask="{question}{draft}", unit="- {text}")
        assert made == {
            "question": "1+1?", "draft": "3", "prompt": "1+1?3",
            "completion": "- the sum is 2\n- No working is shown",
        }  # fmt: skip
        [made] = merged_critiques([self.ROW], ask="{draft}", good=("good", "vague"), most=1, separator=" ")
        assert made["completion"] == "the sum is 2"
        [made] = merged_critiques([self.ROW], ask="{draft}", good=("good", "vague"), unit="{text} ({severity})")
        assert made["completion"].splitlines() == ["the sum is 2 (5)", "No working is shown (3)", "too short (1)"]

    def test_an_answer_without_a_good_unit_has_no_critique(self):
        assert merged_critiques([self.ROW], ask="{draft}", good=("excellent",)) == []

    def test_a_unit_of_another_form_is_refused(self):
        with pytest.raises(ValueError, match=r"row 0: units.0: expected a unit with text, quality and severity"):
            merged_critiques([{"draft": "3", "units": [{"text": "bad", "quality": "good"}]}], ask="{draft}")
