from __future__ import annotations

import json
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest
import reasoning_gym as library
from reasoning_gym.factory import DATASETS

from llmrl.rewards.reasoning_gym import reasoning_gym
from llmrl.types import Score

NO_GOLD = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
TASKS = sorted(set(DATASETS) - {"composite"})


def entries(task: str, count: int = 3, **settings) -> list[dict]:
    made = library.create_dataset(task, size=count, seed=3, **settings)
    return [made[index] for index in range(count)]


def through_json(row: dict) -> dict:
    return json.loads(json.dumps(row))


@pytest.mark.parametrize("task", TASKS)
def test_every_tasks_own_answers_are_correct_also_after_json(task):
    for entry in entries(task, 2):
        if task in NO_GOLD:
            assert entry["answer"] is None
            assert reasoning_gym("I don't know.", entry).correct is False
            continue
        assert reasoning_gym(f"Some thoughts.\n\n{entry['answer']}\n", entry) == Score(1.0, True)
        assert reasoning_gym(f"```\n{entry['answer']}\n```", through_json(entry)) == Score(1.0, True)


@pytest.mark.parametrize("task", ["chain_sum", "basic_arithmetic", "spell_backward", "letter_counting", "gcd"])
def test_other_answers_are_not_correct(task):
    for entry in entries(task):
        wrong = reasoning_gym("Some thoughts.\nzzz", entry)
        assert wrong.value < 1.0
        assert wrong.correct is False


GRIDS = (
    "binary_matrix futoshiki kakurasu manipulate_matrix mini_sudoku modulo_grid n_queens pool_matrix rotate_matrix "
    "sudoku survo tower_of_hanoi"
)


@pytest.mark.parametrize("task", GRIDS.split())
def test_a_grid_is_read_whole_and_its_last_line_alone_is_wrong(task):
    grid = next(entry for entry in entries(task, 8) if "\n" in entry["answer"].strip())
    assert reasoning_gym(grid["answer"], grid).correct
    assert not reasoning_gym(grid["answer"], grid, extract="last_line").correct
    assert not reasoning_gym(grid["answer"].strip().rpartition("\n")[2], grid).correct


@pytest.mark.parametrize("task", ["arc_agi", "rearc"])
def test_tuples_that_json_or_parquet_made_lists_are_restored(task, tmp_path):
    # the library's own scorer gives the gold 0.05 then
    rows = entries(task, 2)
    for row in rows:
        assert library.create_dataset(task, size=1).score_answer(answer=row["answer"], entry=through_json(row)) == 0.05
        assert reasoning_gym(row["answer"], row | {"metadata": json.dumps(row["metadata"])}).correct
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    for row in pyarrow.parquet.read_table(tmp_path / "rows.parquet").to_pylist():
        assert reasoning_gym(row["answer"], row).correct
        assert not reasoning_gym("0", row).correct


def made_with(task: str, **settings) -> dict:
    return entries(task, 1, **settings)[0] | {"task_settings": json.dumps(settings)}


def test_the_scorer_has_the_settings_that_the_row_was_made_with():
    ladder = made_with("word_ladder", min_word_length=5, max_word_length=5)
    assert reasoning_gym(ladder["answer"], through_json(ladder)).correct
    # with the task's own settings its words are too long
    assert {len(word) for word in ladder["answer"].split(",")} == {5}
    with pytest.raises(ValueError, match="the scorer of word_ladder fails on the row's own answer: 5"):
        reasoning_gym(ladder["answer"], ladder | {"task_settings": None})


@pytest.mark.parametrize(("places", "off", "correct"), [(2, 0.009, True), (2, 0.02, False), (8, 0.009, False)])
def test_decimals_are_compared_to_the_places_of_the_settings(places, off, correct):
    row = made_with("decimal_arithmetic", min_num_decimal_places=places, max_num_decimal_places=places)
    assert reasoning_gym(str(Decimal(row["answer"]) + Decimal(str(off))), row).correct is correct


@pytest.mark.parametrize(
    ("task", "text"),
    [("prime_factorization", "I don't know"), ("prime_factorization", "2 x 2"), ("boxnet", "0")],
)
def test_a_text_that_a_scorer_fails_on_is_wrong(task, text):
    entry = entries(task, 1)[0]
    with pytest.raises((ValueError, TypeError)):
        library.create_dataset(task, size=1).score_answer(answer=text, entry=entry)
    assert reasoning_gym(text, entry) == Score(0.0, False)


EVALUATING = (
    "binary_matrix countdown intermediate_integration n_queens polynomial_multiplication puzzle24 simple_integration "
    "spiral_matrix string_insertion"
)


@pytest.mark.parametrize("task", EVALUATING.split())
def test_a_scorer_that_evaluates_text_runs_no_code_of_the_model(task, tmp_path):
    entry, file = entries(task, 1)[0], tmp_path / "written"
    code = f"__import__('pathlib').Path('{file}').touch()"
    library.create_dataset(task, size=1).score_answer(answer=code, entry=entry)
    assert file.exists()  # without a guard
    file.unlink()
    assert reasoning_gym(code, entry).correct is False
    assert not file.exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("text", ["9**9**9", "99999999999!", "factorial(factorial(50))", "(9**999)**999"])
@pytest.mark.parametrize("task", ["binary_matrix", "countdown", "polynomial_multiplication"])
def test_a_text_that_would_take_forever_is_wrong_at_once(task, text):
    assert reasoning_gym(text, entries(task, 1)[0]).correct is False


def test_a_row_whose_own_answer_the_scorer_fails_on_is_invalid():
    entry = entries("prime_factorization", 1)[0] | {"answer": "none"}
    with pytest.raises(ValueError, match="the scorer of prime_factorization fails on the row's own answer"):
        reasoning_gym("2 x 2", entry)


@pytest.mark.parametrize(
    ("completion", "prompt", "settings", "correct"),
    [
        ("<think>\n5\n</think>\n4", "", {}, True),
        ("<think>\n4", "", {}, False),
        ("4", "2 + 2 =<think>", {}, False),
        ("so 4</think>4", "2 + 2 =<think>", {"extract": "all"}, True),
        ("5 [end] 4", "", {"thoughts_end": "[end]", "extract": "all"}, True),
        ("4</answer>", "2 + 2 =<answer>", {"extract": "tag"}, True),
    ],
)
def test_thoughts_are_no_answer(completion, prompt, settings, correct):
    assert reasoning_gym(completion, ROW, prompt, **settings).correct is correct


def test_what_is_read_is_the_answer_alone():
    reading = vars(reasoning_gym)["reading"]
    assert reading.read("<think>5</think>\nIt is\n4\n", "") == "4"
    assert reading.read("<answer>4</answer>", "", extract="tag") == "4"
    assert reading.read("4</think>", "<think>", extract="tag") is None
    assert reading.same("4", "4") and not reading.same("4", "5")


ROW = {"question": "2 + 2 =", "answer": "4", "metadata": {"source_dataset": "chain_sum"}}


@pytest.mark.parametrize(
    ("completion", "settings", "correct"),
    [
        ("3\n4\n\n", {}, True),
        ("4\n3", {}, False),
        ("4", {"extract": "all"}, True),
        ("4\n4", {"extract": "all"}, False),
        ("<answer> 4 </answer>", {"extract": "tag"}, True),
        ("<final>4</final>", {"extract": "tag", "tag": "final"}, True),
        ("<answer>4", {"extract": "tag"}, False),
        ("4", {"extract": "tag"}, False),
        ("2 + 2 = 4", {"after": "="}, True),
        ("2 = 4 = 5", {"after": "="}, False),
        ("4", {"after": "="}, False),
        ("2 + 2 =", {"after": "="}, False),
        ("", {}, False),
    ],
)
def test_extraction(completion, settings, correct):
    result = reasoning_gym(completion, ROW, **settings)
    assert result.correct is correct
    assert (result.value == 1.0) is correct


def test_no_answer_scores_exactly_zero():
    assert reasoning_gym("4", ROW, after="=") == Score(0.0, False)


def test_partial_credit_is_not_correct():
    entry = library.create_dataset("spell_backward", size=1, seed=1)[0]
    almost = entry["answer"][:-1] + "#"
    result = reasoning_gym(almost, entry)
    assert 0.0 < result.value < 1.0
    assert result.correct is False


def test_metadata_may_be_json():
    assert reasoning_gym("4", ROW | {"metadata": json.dumps(ROW["metadata"])}).correct


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": "4"}, "no 'metadata'"),
        ({"metadata": {"source_dataset": "chain_sum"}}, "no 'answer'"),
        ({"answer": "4", "metadata": {}}, "no 'source_dataset'"),
        ({"answer": "4", "metadata": "{"}, "Expecting"),
        ({"answer": "4", "metadata": {"source_dataset": "chain_sun"}}, "did you mean 'chain_sum'?"),
        (ROW | {"task_settings": '{"min_term": 2}'}, "chain_sum cannot be made with the settings .*min_term"),
    ],
)
def test_a_row_of_no_known_task_is_invalid(row, message):
    with pytest.raises(ValueError, match=message):
        reasoning_gym("4", row)
