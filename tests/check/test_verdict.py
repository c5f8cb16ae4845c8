"""What grades say about a reward: which rows are named, what is a fault, and what wrong answers earn."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from llmrl.check import writing
from llmrl.check.report import Report
from llmrl.check.verdict import Graded, judge
from llmrl.pieces import Piece
from llmrl.rewards.results import NO_REWARD
from llmrl.rewards.reward import Reward
from llmrl.types import Failure, Prompt, Score, Trajectory


def verifier(completion: str) -> bool:
    return bool(completion)


REWARD = Reward("verifier", Piece("verifier", verifier))


def answer(text: str, value: float | None, correct: bool | None = None, failure: Failure | None = None) -> Trajectory:
    scores = {} if value is None else {"verifier": Score(value, correct)}
    return Trajectory(Prompt("", (), "", {}), [], "stop", text, scores=scores, failure=failure)


def right(text: str = "5") -> Trajectory:
    return answer(text, 1.0, True)


def wrong(text: str, value: float = 0.0) -> Trajectory:
    return answer(text, value, value == 1.0)


def row(number: int, golds: list[Trajectory], **earned: float) -> Graded:
    names = {"other": writing.OTHER_GOLD, "same": writing.SAME_GOLD, "zero": writing.ZERO, "unknown": writing.UNKNOWN}
    paid = {names[name]: wrong(f"text of {name}", value) for name, value in earned.items()}
    nothing = {name: wrong(name) for name in (writing.UNKNOWN, writing.GARBAGE)}
    return Graded(
        Prompt(f"train:{number}", (), "", {"answer": "5"}), {"boxed": golds} if golds else {}, [], nothing | paid
    )


def told(graded: list[Graded], rows: int | None = None) -> tuple[list[str], list[str], str]:
    out = io.StringIO()
    report = Report(Console(file=out, width=300))
    judge(REWARD, graded, rows or len(graded), report)
    return report.faults, report.warnings, out.getvalue()


def test_a_sound_verifier_is_told_in_numbers():
    faults, warnings, text = told([row(i, [right()], other=0.0, zero=float(i == 0)) for i in range(10)])
    assert faults == warnings == []
    assert "verifier, weight 1: accepts their own answers, refuses garbage (10 rows)" in text
    assert "golds accepted: boxed 10" in text
    assert (
        "the gold 1, \"I don't know.\" 0, 'qqq zzz qqq' 0, another row's gold 0, '0' 0.1 (right in 1 of 10 rows)"
        in text
    )


def test_golds_that_are_not_accepted_name_the_first_three_rows():
    some = [row(i, [right() if i < 6 else wrong("box 5")]) for i in range(10)]
    faults, warnings, _ = told(some)
    refused = "rewards.verifier: does not accept the row's own gold answer '5'; graded 'box 5'"
    assert (faults, warnings) == ([], [f"{refused} (4 of 10 rows, the first are train:6, train:7, train:8)"])
    assert told(some[6:7])[0] == [f"{refused} (1 of 1 rows, the first is train:6)"]


def test_one_of_several_golds_that_is_refused_counts():
    faults, _, text = told([row(0, [right("5"), wrong("five")])])
    assert faults and "1 rows graded" in text


def test_failures_are_told_by_kind_and_are_not_refusals():
    failed = answer("5", None, failure=Failure("verifier", "invalid", "no gold"))
    faults, warnings, _ = told([row(0, [failed]), row(1, [right()])])
    assert (faults, warnings) == (
        [],
        ["rewards.verifier: failed (invalid) on '5': no gold (1 of 2 rows, the first is train:0)"],
    )


def test_a_failure_of_verls_form_says_which_column_the_data_lacks():
    def compute_score(data_source, solution_str, ground_truth): ...

    reward = Reward("verifier", Piece("verifier", compute_score, {}, ("data_source", "solution_str", "ground_truth")))
    failed = answer("5", None, failure=Failure("verifier", "crash", "NotImplementedError: "))
    report = Report(Console(file=io.StringIO()))
    judge(reward, [row(0, [failed])], 1, report)
    assert report.faults == [
        "rewards.verifier: failed (crash) on '5': NotImplementedError: ; the data has no column 'data_source', so the "
        "function was given '': name one in columns: {data_source: ...} (1 of 1 rows, the first is train:0)"
    ]


@pytest.mark.parametrize(
    ("earned", "shown"),
    [
        ({"zero": 1.0}, "'0' earns 1 on average and is right in 10 of 10 rows"),
        ({"same": 1.0}, "one row's gold on every row, 'text of same', earns 1 on average and is right in 10 of 10"),
        ({"other": 0.9}, "another row's gold earns 0.9 on average and is right in 0 of 10 rows"),
    ],
)
def test_a_wrong_answer_that_earns_much_is_a_warning(earned: dict[str, Any], shown):
    _, warnings, _ = told([row(i, [right()], **earned) for i in range(10)])
    assert len(warnings) == 1 and warnings[0].startswith(f"rewards.verifier: {shown}")
    assert told([row(i, [right()], **earned) for i in range(7)])[1] == []  # too few rows to tell


def test_a_wrong_answer_that_earns_half_is_none():
    rows = [row(i, [right()], zero=float(i < 5), other=0.5) for i in range(10)]
    assert told(rows)[1] == []
    assert len(told([*rows, row(10, [right()], zero=1.0)])[1]) == 1


def test_a_verifier_that_pays_any_sentence_is_a_fault():
    faults, warnings, _ = told([row(i, [right()], unknown=1.0) for i in range(10)])
    assert faults == [
        'rewards.verifier: accepts "I don\'t know." as a right answer '
        "(10 of 10 rows, the first are train:0, train:1, train:2)"
    ]
    assert len(warnings) == 1


def test_rows_without_a_gold_are_warned_of():
    _, warnings, text = told([row(0, []), row(1, [right()])])
    assert warnings == ["rewards.verifier: 1 of 2 rows have no gold answer, so what a right answer earns is not known"]
    assert "accepts their own answers, refuses garbage (2 rows)" in text
    assert "verifier, weight 1: refuses garbage (1 rows)" in told([row(0, [])])[2]


def test_rows_of_another_task_are_left_out_and_rows_that_were_not_graded_are_counted():
    other = Graded(Prompt("train:9", (), "", {"answer": "5"}), {"boxed": [answer("5", None, failure=NO_REWARD)]})
    faults, warnings, text = told([row(0, [right()]), other], rows=40)
    assert faults == warnings == []
    assert "(1 of 40 rows)" in text
