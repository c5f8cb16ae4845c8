import pytest

from llmrl.prove.results import Result, Run, read_results, write_result
from llmrl.prove.table import read_notes, render, rows_of


def result(method: str, seed: int, after: float, *, task: str = "arithmetic", before: float = 0.4, **fields):
    measured = {"greedy": 0.3, "pass@8": 0.8}
    return Result(
        Run(task, method, seed),
        before={"accuracy": before} | measured,
        after={"accuracy": after} | {"greedy": 0.9, "pass@8": 0.95},
        **({"entropy": (0.2, 0.1), "kl": 0.25, "tokens": 15_000, "cpu_seconds": 12.0} | fields),
    )


def document(results, notes=None):
    return render(results, notes or {}, date="1 May 2026", command="llmrl prove")


def line(text: str, method: str):
    found = [line for line in text.splitlines() if line.startswith((f"| {method} ", f"| [{method}]"))]
    assert len(found) == 1
    return [cell.strip() for cell in found[0].strip("|").split("|")]


GRPO = [result("grpo", 0, 0.7), result("grpo", 1, 0.8)]


def test_a_line_in_hand_arithmetic():
    own = [
        result("rloo", 0, 0.5, before=0.38, kl=0.2, tokens=14_000, cpu_seconds=10.0, entropy=(0.2, 0.5)),
        result("rloo", 1, 0.62, before=0.42, kl=0.3, tokens=17_000, cpu_seconds=11.0, entropy=(0.3, 0.1)),
    ]
    cells = line(document([*GRPO, *own]), "rloo")
    # accuracy (0.38 + 0.42)/2 = 0.40 -> (0.5 + 0.62)/2 = 0.56; grpo's is 0.75, so 56 - 75 = -19 points;
    # entropy 0.25 -> 0.30; KL 0.25; tokens 15,500; 10.5 s
    assert cells[0] == "[rloo](https://arxiv.org/abs/2402.14740)"
    assert cells[1:] == [
        "2", "40.0 -> 56.0 (50.0-62.0)", "-19.0", "30.0 -> 90.0",
        "80.0 -> 95.0", "0.25 -> 0.30", "0.250", "15,500", "10.5"
    ]  # fmt: skip
    assert line(document(GRPO), "grpo")[3] == ""


def test_order_yardstick_first_then_by_accuracy():
    results = [result("a", 0, 0.5), result("b", 0, 0.9), result("grpo", 0, 0.6), result("c", 0, 0.7)]
    assert [row.method for row in rows_of(results, "grpo")] == ["grpo", "b", "c", "a"]


@pytest.mark.parametrize("after, gains", [((0.5, 0.41), True), ((0.5, 0.4), False), ((0.9, 0.39), False)])
def test_no_gain_is_where_a_seed_did_not_rise(after, gains):
    results = [*GRPO, *(result("other", seed, value) for seed, value in enumerate(after))]
    text = document(results, {"other": {"arithmetic": "its reasons", "sparse": "other reasons"}})
    assert ("**no gain**" in line(text, "other")[2]) is not gains
    assert ("- other: no gain: its reasons" in text) is not gains
    assert "other reasons" not in text
    assert "- grpo" not in text


def test_an_unexplained_row_says_so():
    assert "- other: no gain: not explained yet" in document([*GRPO, result("other", 0, 0.1)])


def test_a_fault_is_shown_and_the_other_seeds_still_count():
    broken = Result(Run("arithmetic", "other", 1), fault="needs a critic\nand more")
    text = document([*GRPO, result("other", 0, 0.6), broken])
    assert line(text, "other")[2] == "40.0 -> 60.0 (60.0-60.0)"
    assert "- other: did not finish: needs a critic\n" in text
    alone = document([*GRPO, broken])
    assert "| other" not in alone and "- other: did not finish: needs a critic" in alone


def test_the_introduction_counts():
    text = document([*GRPO, result("rloo", 2, 0.5, task="noisy")])
    # 3 runs of 12 s = 36 s = 0.01 hours
    assert "2 methods on 2 small tasks, seeds 0, 1, 2" in text
    assert "36 steps of 16 prompts x 8 completions, updates in each: 2; from the checkpoint `warm_start`." in text
    assert "1 May 2026, 0.01 CPU-hours of training, by\n`llmrl prove`" in text
    assert text.count("\n## ") == 2
    assert "## Noisy reward" in text and "## Sparse" not in text


def test_without_the_yardstick_there_is_no_difference():
    assert line(document([result("rloo", 0, 0.5)]), "rloo")[3] == ""


def test_notes_name_methods_and_tasks_that_exist():
    from llmrl.prove.catalogue import TASKS
    from llmrl.recipe_file import methods

    notes = read_notes()
    assert set(notes) <= set(methods())
    assert {task for own in notes.values() for task in own} <= set(TASKS)


def test_results_come_back_as_they_were_written(tmp_path):
    results = [*GRPO, Result(Run("sparse", "grpo", 0), fault="why")]
    for one in results:
        write_result(tmp_path, one)
    assert read_results(tmp_path) == results
    assert (tmp_path / "results" / "arithmetic" / "grpo" / "seed-1.json").is_file()
    assert list(tmp_path.rglob("*.partial")) == []
