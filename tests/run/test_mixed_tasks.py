"""A whole small run on the rows of two tasks, each with rewards of its own, one of which always fails."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

OWN = """
from llmrl.marks import reads_answers

def _read(completion, prompt=""):
    return completion[:1] or None

@reads_answers(_read)
def sum_of(completion, answer, prompt=""):
    return completion[:1] == answer[-1]

def always_fails(completion, program):
    raise KeyError(program)

def long(completion):
    return float(len(completion) > 2)
"""
RECIPE: dict[str, Any] = {
    "method": "grpo",
    "model": {
        "build": {
            "characters": "0123456789+-=",
            "config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
            | {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "initializer_range": 0.1},
        }
    },
    "data": {"train": {"path": "rows.jsonl"}, "eval": {"path": "held_out.jsonl"}},
    "rewards": {
        "mixed_rewards:sum_of": {"rows": {"data_source": "sums"}},
        "mixed_rewards:always_fails": {"rows": {"data_source": ["code", "tools"]}, "retries": 0},
        "mixed_rewards:long": {"rows": {"data_source": "sums"}},
    },
    "rollout": {"engine": "transformers", "max_prompt_tokens": 8, "max_completion_tokens": 6}
    | {"prompts_per_step": 8, "group_size": 4},
    "evaluation": {"samples": 4},
    "training": {"steps": 2, "learning_rate": 1e-2, "threads": 1},
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("mixed_rewards.py").write_text(OWN)
    sums = [{"data_source": "sums", "question": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(4)]
    code = [{"data_source": "code", "question": f"{a}-1=", "answer": None, "program": "p"} for a in range(9)]
    lines = [json.dumps(row) + "\n" for row in (*sums, *code)]
    Path("held_out.jsonl").write_text("".join(lines[::7]))
    Path("rows.jsonl").write_text("".join(lines[n] for n in range(len(lines)) if n % 7))
    return tmp_path


def run(recipe: dict[str, Any]) -> tuple[int, str]:
    Path("mixed.yaml").write_text(json.dumps(recipe))
    out = io.StringIO()
    return run_plan(load_plan("mixed.yaml"), resume=False, console=Console(file=out, width=300)), out.getvalue()


def test_a_task_whose_rows_all_fail_is_named_while_the_other_trains(folder):
    code, said = run(RECIPE)
    assert code == 0
    lost = [line for line in said.splitlines() if line.startswith("warning: all ")]
    assert [line.split()[3:5] for line in lost] == [["evaluation", "trajectories"], ["training", "trajectories"]]
    assert all("data_source 'code' failed" in line and "always_fails crash: KeyError: 'p'" in line for line in lost)
    table = [
        row for path in sorted(Path("runs/mixed/rollouts").glob("train-*")) for row in pq.read_table(path).to_pylist()
    ]
    failed = [row for row in table if row["failure"]]
    assert failed and {row["prompt"][1] for row in failed} == {"-"}
    scored = [json.loads(row["scores"]) for row in table if not row["failure"]]
    assert scored and all(list(one) == ["mixed_rewards:sum_of", "mixed_rewards:long"] for one in scored)
    last = RunReader(Path("runs/mixed")).metrics[-1]
    assert last["trajectories"] == last["trajectories"] // 4 * 4 > 0 and 0 <= last["eval/maj@4"] <= 1


def test_rows_without_a_reward_and_columns_that_are_missing_are_faults_before_training(folder):
    only_sums = {"mixed_rewards:sum_of": {"rows": {"data_source": "sums"}}, "mixed_rewards:always_fails": {}}
    with pytest.raises(RecipeError, match=r"always_fails: \d+ of the \d+ rows that it scores have no column 'program'"):
        run(RECIPE | {"rewards": only_sums})
    only_sums.pop("mixed_rewards:always_fails")
    with pytest.raises(
        RecipeError, match="rewards: 9 of 29 rows are scored by none, the first with data_source 'code'"
    ):
        run(RECIPE | {"rewards": only_sums, "name": "other"})
