"""Rows from saved datasets and reasoning-gym; every fault names what is wrong and what was meant."""

from __future__ import annotations

import json

import datasets
import huggingface_hub.constants
import pyarrow
import pyarrow.parquet
import pytest

from llmrl.data.datasets import load_rows
from llmrl.errors import RecipeError
from llmrl.recipe_rows import Rows
from llmrl.rewards.reasoning_gym import reasoning_gym

ROWS = [{"question": "1+1=", "answer": "2"}, {"question": "2+3=", "answer": "5"}, {"question": "4+4=", "answer": "8"}]


def fault(source: Rows, part: str = "train") -> str:
    with pytest.raises(RecipeError) as caught:
        load_rows(source, part)
    return str(caught.value)


def test_saved_dataset_and_saved_splits(tmp_path):
    table = datasets.Dataset.from_list(ROWS)
    table.save_to_disk(tmp_path / "one")
    assert load_rows(Rows(dataset=str(tmp_path / "one"), limit=1)) == ROWS[:1]
    datasets.DatasetDict({"train": table, "test": table.select([2])}).save_to_disk(tmp_path / "two")
    assert load_rows(Rows(dataset=str(tmp_path / "two"), split="test")) == [ROWS[2]]
    message = fault(Rows(dataset=str(tmp_path / "two"), split="tset"), "eval")
    assert message.startswith("data.eval.split: no split of") and "did you mean 'test'?" in message


def test_folder_of_files_is_read_by_load_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rows"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "train.parquet")
    assert load_rows(Rows(dataset=str(folder))) == ROWS


def test_task_rows_are_the_task_s_entries():
    source = Rows(task="chain_sum", settings={"min_terms": 2, "max_terms": 2, "max_digits": 1}, size=5, seed=3)
    rows = load_rows(source)
    assert len(rows) == 5
    for row in rows:
        # "... 4 + 3 =" : the expression in the metadata is what the answer must evaluate to
        assert int(row["answer"]) == eval(row["metadata"]["expression"])
        assert row["metadata"]["expression"] in row["question"]
    assert load_rows(source) == rows
    assert load_rows(source.model_copy(update={"limit": 2})) == rows[:2]
    assert load_rows(source.model_copy(update={"seed": 4})) != rows


def test_a_task_s_own_prints_do_not_reach_the_console(capsys):
    assert len(load_rows(Rows(task="bf", size=1))) == 1
    assert capsys.readouterr().out == ""


def test_no_rows(tmp_path):
    for name, text in (("a.jsonl", "\n"), ("a.csv", "question,answer\n")):
        (tmp_path / name).write_text(text)
        assert fault(Rows(path=str(tmp_path / name))).endswith(f"{name} has no rows")


def test_unknown_task_and_setting_name_the_nearest():
    assert fault(Rows(task="chain_sums")) == (
        "data.train.task: no reasoning-gym task named 'chain_sums'; did you mean 'chain_sum'?"
    )
    message = fault(Rows(task="chain_sum", settings={"max_term": 3, "seed": 1}), "eval")
    assert "data.eval.settings: no setting of chain_sum named 'max_term'; did you mean 'max_terms'?" in message
    assert "data.eval.settings.seed: write data.eval.seed instead" in message


def test_setting_that_the_task_refuses():
    message = fault(Rows(task="chain_sum", settings={"min_terms": 5, "max_terms": 2}))
    assert message.startswith("data.train.settings: chain_sum refuses {'min_terms': 5, 'max_terms': 2}: ")


def test_hub_name_that_cannot_be_reached(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    message = fault(Rows(dataset="no-such-owner/no-such-data", subset="main"))
    assert message.startswith("data.train.dataset: cannot load 'no-such-owner/no-such-data' (subset main, split train)")
    assert message.endswith("expected a dataset's name on the hub or a folder made by save_to_disk")


def test_rows_carry_the_settings_of_their_scorer():
    words = {"min_word_length": 5, "max_word_length": 5}
    rows = [json.loads(json.dumps(row)) for row in load_rows(Rows(task="word_ladder", settings=words, size=2))]
    assert [json.loads(row["task_settings"]) for row in rows] == [words, words]
    assert all(reasoning_gym(row["answer"], row).correct for row in rows)


def test_a_mixture_of_tasks_is_graded_by_each_tasks_own_scorer():
    words = {"min_word_length": 5, "max_word_length": 5}
    parts = [{"name": "word_ladder", "weight": 2, "config": words}, {"name": "gcd"}]
    rows = load_rows(Rows(task="composite", settings={"datasets": parts}, size=12, seed=1))
    settings = {row["metadata"]["source_dataset"]: json.loads(row["task_settings"]) for row in rows}
    assert settings == {"word_ladder": words, "gcd": {}}
    assert all(reasoning_gym(row["answer"], row).correct for row in rows)


@pytest.mark.parametrize(
    ("datasets_", "message"),
    [
        (None, "data.train.settings.datasets: expected a list of {name, weight, config}, got None"),
        (["gcd"], "data.train.settings.datasets[0]: expected {name, weight, config}, got 'gcd'"),
        ([{"name": "gcd", "wieght": 1}], "datasets[0]: no key named 'wieght'; did you mean 'weight'?"),
        ([{"name": "gdc"}], "datasets[0].name: no reasoning-gym task named 'gdc'; did you mean 'gcd'?"),
        ([{"name": "gcd", "config": [1]}], "datasets[0].config: expected the task's settings by name, got [1]"),
        ([{"name": "gcd", "config": {"min_numbers": 9}}], "composite refuses"),
        ([{"name": "gcd", "config": {"min_numbrs": 2}}], "no setting of gcd named 'min_numbrs'; did you mean"),
        ([{"name": "gcd", "weight": "much"}], "composite refuses"),
    ],
)
def test_faults_of_a_mixture_name_the_part(datasets_, message):
    assert message in fault(Rows(task="composite", settings={"datasets": datasets_}))


def squares(size: int, seed: int, *, power: int = 2) -> list[dict[str, int]]:
    if power < 0:
        raise ValueError("power must not be negative")
    return [{"question": seed + i, "answer": (seed + i) ** power} for i in range(size)]


def loose_numbers(size: int, seed: int) -> list[int]:
    return list(range(size))


def needs_more(size: int, prompt: str) -> list[dict[str, int]]:
    return []


class TestFunctionAsTask:
    def rows(self, name: str, **given: object) -> list[dict[str, object]]:
        return load_rows(Rows.model_validate({"task": f"{__name__}:{name}", **given}))

    def test_gets_size_seed_and_settings(self):
        # seed 3: 3^3 = 27, 4^3 = 64
        assert self.rows("squares", size=2, seed=3, settings={"power": 3}) == [
            {"question": 3, "answer": 27},
            {"question": 4, "answer": 64},
        ]

    def test_limit_cuts_what_size_asked_for(self):
        assert len(self.rows("squares", size=5, limit=2)) == 2

    @pytest.mark.parametrize(
        ("name", "settings", "message"),
        [
            ("squares", {"powr": 3}, "did you mean 'power'"),
            ("squares", {"power": -1}, "power must not be negative"),
            ("loose_numbers", {}, "gave a row of type int, expected dict"),
            ("needs_more", {}, "takes prompt; expected size and seed"),
        ],
    )
    def test_faults_name_the_task_and_what_was_expected(self, name: str, settings: dict[str, object], message: str):
        with pytest.raises(RecipeError, match=message):
            self.rows(name, settings=settings)


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"question": "1+1="}\n{"question": "\\ud800"}', "row 1: column 'question' holds half of a surrogate pair"),
        ('{"a": "b", "meta": {"tags": ["x", "\\udfff y"]}}', "row 0: column 'meta' holds half of a surrogate pair"),
        ('{"a": "\\ud83d\\ude00"}', None),  # a whole pair is one character
        (f'{{"a": {"9" * 4300}}}', None),
        (f'{{"a": {"9" * 5000}}}', "rows.jsonl:1: holds an integer of more than 4300 digits; write it in quotes"),
        (f'{{"a": {"[" * 60}{"]" * 60}}}', "data.train: row 0: column 'a' holds values nested deeper than 50 levels"),
        (f'{{"a": {"[" * 90_000}', "rows.jsonl:1: holds values nested deeper than 50 levels"),
    ],
)  # fmt: skip
def test_values_that_nothing_could_be_done_with_are_faults_of_their_row(tmp_path, line, fault):
    file = tmp_path / "rows.jsonl"
    file.write_text(line)
    if fault is None:
        assert len(load_rows(Rows(path=str(file)))) == 1
        return
    with pytest.raises(RecipeError) as caught:
        load_rows(Rows(path=str(file)))
    assert fault in str(caught.value) and len(str(caught.value)) < 250


def test_a_long_integer_in_json_is_a_fault(tmp_path):
    file = tmp_path / "rows.json"
    file.write_text(f'[{{"a": {"9" * 5000}}}]')
    with pytest.raises(RecipeError, match=r"rows\.json: holds an integer of more than 4300 digits"):
        load_rows(Rows(path=str(file)))


def test_a_field_of_csv_may_be_longer_than_python_allows_at_first(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text(f'question,answer\n"{"x" * 300_000}",1\n')
    assert len(load_rows(Rows(path=str(file)))[0]["question"]) == 300_000
