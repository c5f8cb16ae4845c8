"""Rows of real files in every form, and the files that a path names; every fault names what is wrong and meant."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from llmrl.data.files import Row, data_files, read_files
from llmrl.errors import RecipeError

KEY = "data.train.path"
ROWS: list[Row] = [{"question": "1+1=", "answer": "2"}, {"question": "2+3=", "answer": "5"}]


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return str(path)


def fault(path: str | list[str]) -> str:
    with pytest.raises(RecipeError) as caught:
        read_files(path, KEY)
    return str(caught.value)


def named(path: str | list[str], folder: Path) -> list[str]:
    return [str(file.relative_to(folder)) for file in data_files(path, KEY)]


def test_jsonl_keeps_columns_and_skips_blank_lines(tmp_path):
    source = write(tmp_path / "a.jsonl", '{"question": "é?", "answer": 7, "tags": ["x"]}\n\n{"question": "b"}\n')
    assert read_files(source, KEY) == [{"question": "é?", "answer": 7, "tags": ["x"]}, {"question": "b"}]


def test_csv_values_stay_text_and_may_hold_commas_and_newlines(tmp_path):
    source = write(tmp_path / "a.csv", 'question,answer\n"one, two\nthree",007\n')
    assert read_files(source, KEY) == [{"question": "one, two\nthree", "answer": "007"}]


def test_parquet_and_limit(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    assert read_files(str(path), KEY) == ROWS
    assert read_files(str(path), KEY, 1) == ROWS[:1]


def test_limit_stops_before_a_bad_line(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\nnot json\n')
    assert read_files(str(path), KEY, 2) == [{"a": 1}, {"a": 2}]


def test_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "train.jsonl").write_text("{}")
    message = fault(str(tmp_path / "trian.jsonl"))
    assert message == (f"data.train.path: no file '{tmp_path}/trian.jsonl'; did you mean '{tmp_path}/train.jsonl'?")


def test_unknown_ending(tmp_path):
    message = fault(write(tmp_path / "a.txt", "x"))
    assert message.endswith(
        "ends in '.txt', expected one of .jsonl, .json, .csv, .parquet, and all but .parquet also with .gz"
    )


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": }\n', "a.jsonl:2: not valid JSON: Expecting value (column 7)"),
        ("a.jsonl", '{"a": 1}\n\n[1]\n', "a.jsonl:3: expected an object, got list"),
        ("a.csv", "a,b\n1,2\n3\n", "a.csv:3: expected 2 values, as the header has"),
        ("a.csv", "a,b\n1,2,3\n", "a.csv:2: expected 2 values, as the header has"),
        ("a.csv", 'a,b\n1,"2\n', "a.csv:2: not valid CSV: unexpected end of data"),
        ("a.parquet", "not parquet", "as parquet: "),
        ("a.json", '[{"a": 1},\n {"a": }]', "a.json:2: not valid JSON: Expecting value (column 8)"),
        ("a.json", "[1, 2]", "a.json' holds [1, 2]; expected a list of objects, an object that holds one such list"),
        (
            "a.json",
            '{"train": [{"a": 1}], "test": [{"a": 2}]}',
            "a.json' holds an object with 'train', 'test'; expected",
        ),
        ("a.jsonl.gz", '{"a": 1}\nnot json', "a.jsonl.gz:2: not valid JSON: Expecting value (column 1)"),
    ],
)
def test_bad_content_names_file_and_line(tmp_path, name, text, expected):
    message = fault(write(tmp_path / name, text))
    assert message.startswith("data.train.path: ") and expected in message


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "\xff"}\n')
    assert "is not UTF-8 text" in fault(str(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS, indent=2),
        json.dumps({"version": "1.1", "data": ROWS}),
        "\n".join(map(json.dumps, ROWS)),
        json.dumps(ROWS[0], indent=2) + "\n" + json.dumps(ROWS[1]),
    ],
)
@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_json_is_a_list_an_object_with_one_or_an_object_in_each_line(tmp_path, name, text):
    path = write(tmp_path / name, text)
    if "\n  " in text and text.startswith("{"):  # objects over several lines are neither
        assert "not valid JSON" in fault(path)
    else:
        assert (read_files(path, KEY), read_files(path, KEY, 1)) == (ROWS, ROWS[:1])


def test_compressed_files_are_read_as_the_others(tmp_path):
    assert read_files(write(tmp_path / "a.jsonl.gz", '{"a": 1}\n'), KEY) == [{"a": 1}]
    assert read_files(write(tmp_path / "A.CSV.GZ", "a\n007\n"), KEY) == [{"a": "007"}]
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:30])
    assert "cut.jsonl.gz': Compressed file ended" in fault(str(tmp_path / "cut.jsonl.gz"))
    (tmp_path / "no.jsonl.gz").write_text('{"a": 1}')
    assert "no.jsonl.gz': Not a gzipped file" in fault(str(tmp_path / "no.jsonl.gz"))


def test_a_folder_a_pattern_and_a_list_name_files_in_a_fixed_order(tmp_path):
    for number, name in enumerate(["b/2.jsonl", "b/1.jsonl", "a.jsonl", "b/.3.jsonl", "b/notes.md"]):
        write(tmp_path / name, json.dumps({"n": number}))
    assert named(str(tmp_path / "b"), tmp_path) == ["b/1.jsonl", "b/2.jsonl"]
    assert named(str(tmp_path / "b/[12].jsonl"), tmp_path) == ["b/1.jsonl", "b/2.jsonl"]
    assert named(str(tmp_path / "**/*.jsonl"), tmp_path) == ["a.jsonl", "b/1.jsonl", "b/2.jsonl"]
    both = [str(tmp_path / "b/2.jsonl"), str(tmp_path / "*.jsonl")]
    assert named(both, tmp_path) == ["b/2.jsonl", "a.jsonl"]
    assert read_files(both, KEY) == [{"n": 0}, {"n": 2}]
    assert read_files(both, KEY, 1) == [{"n": 0}]
    assert fault([str(tmp_path / "b"), str(tmp_path / "b/2.jsonl")]).startswith(
        f"{KEY}: '{tmp_path}/b/2.jsonl' is named twice"
    )
    assert fault([]) == f"{KEY}: an empty list names no file"
    write(tmp_path / "odd[1].jsonl", '{"n": 5}')
    assert named(str(tmp_path / "odd[1].jsonl"), tmp_path) == ["odd[1].jsonl"]  # a file of that name goes first


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rows/*.json", "no file matches '{0}/rows/*.json'; did you mean '{0}/rows/a.jsonl'?"),
        ("rows/x-*", "no file matches '{0}/rows/x-*'; did you mean '{0}/rows/a.jsonl'?"),
        ("rws/*.jsonl", "no file matches '{0}/rws/*.jsonl'; did you mean '{0}/rows'?"),
        ("rws/a.jsonl", "no file '{0}/rws/a.jsonl'; did you mean '{0}/rows'?"),
        ("rows/*", "'{0}/rows/readme.md' ends in '.md', expected one of .jsonl, .json, .csv, .parquet, and"),
        (
            "up",
            "no file in '{0}/up' ends in one of .jsonl, .json, .csv, .parquet, and all but .parquet also with .gz; ",
        ),
        ("mixed", "'{0}/mixed' holds 2 .csv and 1 .jsonl files; name one kind, such as '{0}/mixed/*.csv'"),
        (
            "splits",
            "holds the files of several splits (test, train); name those of one, such as '{0}/splits/*test*.jsonl'",
        ),
        ("saved", "'{0}/saved' was made by save_to_disk; name it as data.train.dataset"),
    ],
)
def test_paths_that_name_no_rows_say_what_would(tmp_path, path, expected):
    for name in ["rows/a.jsonl", "rows/readme.md", "up/low/a.csv", "mixed/a.csv", "mixed/b.csv.gz", "mixed/c.jsonl"]:
        write(tmp_path / name, "")
    for name in ["splits/train-0.jsonl", "splits/train-1.jsonl", "splits/test-0.jsonl", "saved/state.json"]:
        write(tmp_path / name, "")
    assert expected.format(tmp_path) in fault(str(tmp_path / path))
