"""The examples of docs/pieces.md, taken from the page as they are, train together in one run."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from rich.console import Console

from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

PAGE = (Path(__file__).parent.parent / "docs" / "pieces.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder, threads = tmp_path_factory.mktemp("pieces"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        Path("my_pieces.py").write_text("\n\n".join(blocks("python")))
        Path("recipe.yaml").write_text(blocks("yaml")[0])
        first, second = map(json.loads, blocks("json")[0].splitlines())
        sums = [first | {"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
        doubles = [second | {"question": f"{a}=", "answer": f"{a}{a}"} for a in range(10)]
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*sums, *doubles]))
        said = io.StringIO()
        code = run_plan(load_plan("recipe.yaml", ["run_dir=run"]), resume=False, console=Console(file=said))
    torch.set_num_threads(threads)
    assert code == 0, said.getvalue()
    return folder / "run"


def test_every_function_of_the_page_is_in_its_recipe():
    functions = set(re.findall(r"^def (\w+)\(", "\n".join(blocks("python")), re.MULTILINE))
    assert functions == set(re.findall(r"my_pieces:(\w+)", blocks("yaml")[0]))


def test_each_piece_takes_part_in_the_run(run):
    rows = [row for row in RunReader(run).metrics if row["step"] > 0]
    assert len(rows) == 2 and all(row["failures"] == 0 and row["grad_norm"] > 0 for row in rows)
    written = set().union(*rows)
    rewards = yaml.safe_load(blocks("yaml")[0])["rewards"]
    assert {f"reward/{name}" for name in rewards} <= written
    assert {"reward/my_pieces:compute_score/characters", "left_bounds", "my_pieces:certainty", "turn_reward"} <= written
    # the controller starts at 0.01; an entropy over 13 characters and 3 special tokens is above its target of 2 nats
    assert [row["control/strength"] for row in rows] == pytest.approx([0.01 * 0.9, 0.01 * 0.81])


def test_rows_of_each_task_have_the_scores_of_their_own_rewards(run):
    table = [row for path in sorted((run / "rollouts").glob("train-*")) for row in pq.read_table(path).to_pylist()]
    for row in table:
        own, other = ("last_digit", "doubled") if "+" in row["prompt"] else ("doubled", "last_digit")
        scores = json.loads(row["scores"])
        assert f"my_pieces:{own}" in scores and f"my_pieces:{other}" not in scores
        assert {"my_pieces:compute_score", "my_pieces:distinct"} < set(scores)
        assert all(len(turn["token_ids"]) <= 4 for turn in row["turns"])
    assert {turn["text"] for row in table for turn in row["turns"] if turn["author"] == "environment"} == {"?"}
