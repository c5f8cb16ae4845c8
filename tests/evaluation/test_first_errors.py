"""Critiques that name the first wrong step, in the numbers of ProcessBench."""

from __future__ import annotations

import json

import pytest

from llmrl.errors import RecipeError
from llmrl.evaluation.critique import intervals, rates, total
from llmrl.evaluation.first_errors import (
    ASK,
    Solution,
    check_template,
    first_error_rates,
    first_error_tally,
    load_solutions,
)


def test_the_f1_is_the_harmonic_mean_of_both_kinds_of_solutions():
    solutions = [Solution("?", ("a", "b", "c"), wrong) for wrong in (0, 1, 2, 2, -1, -1)]
    said = [0, 2, 2, None, -1, None]  # two of four errors are found at their step, one of two solutions is called right
    tallies = [first_error_tally(*pair) for pair in zip(solutions, said, strict=True)]
    found = rates(total(tallies), first_error_rates)
    assert found == {
        "first_error_accuracy": 1 / 2,
        "error_free_accuracy": 1 / 2,
        "first_error_f1": 1 / 2,
        "verdicts_unreadable": pytest.approx(2 / 6),
    }
    assert rates(total(tallies[:5]), first_error_rates)["first_error_f1"] == pytest.approx(2 * 0.5 * 1 / 1.5)
    assert rates(total(tallies[:4]), first_error_rates).keys() == {"first_error_accuracy", "verdicts_unreadable"}
    nothing = [first_error_tally(one, None) for one in solutions]
    assert rates(total(nothing), first_error_rates)["first_error_f1"] == 0.0
    low, high = intervals(tallies, first_error_rates)["first_error_accuracy"]
    assert 0.0 <= low < 0.5 < high <= 1.0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Step 1 has 3+4=8. [[1]]", 1),
        ("[[0]] or rather [[-1]]", -1),
        ("2", 2),
        ("[[3]]", None),  # there are three steps
        ("<think>[[1]]", None),
        ("<think>[[1]]</think> [[2]]", 2),
        ("all is right", None),
    ],
)
def test_a_critique_names_a_step_as_judges_name_their_verdict(text, said):
    assert Solution("?", ("a", "b", "c"), 1).said(text) == said


def test_a_template_shows_steps_with_their_numbers():
    solution = Solution("3+4=", ("3+4=8", "so 8"), 0)
    filled = check_template(ASK).fill(solution.values)
    assert "3+4=\n\nA solution, step by step:\n[0] 3+4=8\n[1] so 8\n\n" in filled
    assert check_template("{solution}|{last}").fill(solution.values) == "3+4=8\nso 8|1"
    with pytest.raises(RecipeError, match=r"--template: no column 'stps'; did you mean 'steps'\?"):
        check_template("{stps}")


def test_solutions_are_read_in_every_form_of_labelled_steps(tmp_path):
    def rows(*given: dict) -> str:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
        return str(tmp_path / "rows.jsonl")

    bench = rows({"problem": "q", "steps": ["a", "b", "c"], "label": 1}, {"problem": "r", "steps": ["d"], "label": -1})
    assert load_solutions(bench, None, "drop") == [Solution("q", ("a", "b", "c"), 1), Solution("r", ("d",), -1)]
    assert len(load_solutions(bench, 1, "drop")) == 1
    soft = rows({"prompt": "q", "completions": ["a", "b", "c"], "labels": [0.9, None, 0.25]})
    assert load_solutions(soft, None, "drop") == [Solution("q", ("a", "b", "c"), 2)]
    steps = [{"completions": [{"text": text, "rating": rating}], "chosen_completion": 0}
             for text, rating in (("a", 1), ("b", 0), ("c", -1))]  # fmt: skip
    rated = {"question": {"problem": "q"}, "label": {"steps": steps, "finish_reason": "found_error"}}
    assert [load_solutions(rows(rated), None, neutral)[0].wrong for neutral in ("drop", "right", "wrong")] == [2, 2, 1]


def test_files_that_hold_no_labelled_steps_are_named(tmp_path):
    file = tmp_path / "rows.jsonl"
    with pytest.raises(RecipeError, match=f"--steps: no file '{file}'"):
        load_solutions(str(file), None, "drop")
    file.write_text('{"question": "1+1", "answer": "2"}\n')
    with pytest.raises(RecipeError, match="--steps: the columns question, answer are of no form"):
        load_solutions(str(file), None, "drop")
    file.write_text('{"prompt": "q", "completions": ["a"], "labels": [null]}\n')
    with pytest.raises(RecipeError, match=f"--steps: no solution in '{file}' has a step with a label"):
        load_solutions(str(file), None, "drop")
