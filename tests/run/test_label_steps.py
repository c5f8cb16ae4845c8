"""`llmrl label-steps` with a tiny model: its rows, going on with them, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmrl.cli import app
from llmrl.data.forms import SOLUTIONS
from llmrl.data.prompts import load_prompts
from llmrl.ending import ended
from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rows import Data, Rows

RECIPE = """
method: grpo
model:
  build:
    config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 1,
      num_key_value_heads: 1, head_dim: 32, initializer_range: 0.05, max_position_embeddings: 64}
    characters: "01="
data: {train: {path: sums.jsonl}}
rewards: {exact_match: {}}
rollout: {engine: transformers, prompts_per_step: 2, group_size: 4, max_prompt_tokens: 8, max_completion_tokens: 8}
training: {threads: 1, steps: 1}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"{n:b}=", "answer": str(n % 2)} for n in range(4)]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def label(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["llmrl", "label-steps", "recipe.yaml", "--out", "steps.jsonl", *arguments])
    return ended(app)


def test_rows_are_written_and_gone_on_with(folder, monkeypatch, capsys):
    given = ["--delimiter", "=", "--solutions", "2", "--continuations", "3"]
    assert label(monkeypatch, *given) == 0
    assert "2 of 4 prompts: 4 solutions of " in " ".join(capsys.readouterr().out.split())
    whole = (folder / "steps.jsonl").read_text()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert [row["id"] for row in rows] == [f"train:{n}" for n in range(4) for _ in range(2)]
    assert any(len(row["completions"]) > 1 for row in rows)
    for row in rows:
        assert row["samples"] == [3] * (len(row["completions"]) - 1) + [1] and not any(row["failures"])
        for label_, soft, right, samples in zip(
            row["labels"], row["soft_labels"], row["successes"], row["samples"], strict=True
        ):
            assert label_ == (right > 0) and soft == right / samples

    (folder / "steps.jsonl").write_text("\n".join(whole.splitlines()[:5]) + '\n{"id": "trai')  # as a kill leaves it
    assert label(monkeypatch, *given) == 0
    assert "2 of 4 prompts already" in " ".join(capsys.readouterr().out.split())
    assert (folder / "steps.jsonl").read_text() == whole
    assert label(monkeypatch, *given[:-1], "4") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "llmrl: --out: 'steps.jsonl' has rows that were made with other continuations; go on with the same" in told

    train = Rows(path=str(folder / "steps.jsonl"), prompt="prompt", steps="completions", step_labels="soft_labels")
    found = load_prompts(character_tokenizer("01=\n"), Data(train=train), 8, gives=SOLUTIONS)
    assert len(found.solutions) == 8 and found.train[0].text == "0="


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (
            ("{exact_match: {}}", "{length_penalty: {target_tokens: 4}}"),
            "rewards: none says whether an answer is right",
        ),
        (("training:", "env: python_tool\ntraining:"), "env: python_tool, but steps are continued within an answer of"),
    ],
)
def test_recipes_that_cannot_label_steps(folder, monkeypatch, capsys, change, fault):
    (folder / "recipe.yaml").write_text(RECIPE.replace(*change))
    assert label(monkeypatch) == 2
    assert fault in " ".join(capsys.readouterr().err.split())
