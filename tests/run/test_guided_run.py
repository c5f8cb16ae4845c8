"""Q# from samples to guided and searched answers: the policy is never trained, and answers get better."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.console import Console

from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

RECIPE = """
name: guided
model:
  build:
    config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 1,
      num_key_value_heads: 1, head_dim: 32, initializer_range: 0.3, tie_word_embeddings: true,
      max_position_embeddings: 64}
    characters: "0123456789"
rewards: {"guided_rewards:low": {}}
rollout:
  {engine: transformers, max_prompt_tokens: 8, max_completion_tokens: 2, prompts_per_step: 16, group_size: 16,
    stop: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]}
training: {threads: 1, steps: 1}
evaluation: {samples: 8}
stages:
  samples:
    trained: false
    data: &asked {train: {path: sums.jsonl}, eval: {path: held_out.jsonl}}
  values:
    method: q_sharp
    model: "${run_dir}/stages/samples"
    data: {train: {path: "${run_dir}/rollouts/samples-*.parquet"}}
    rollout: {prompts_per_step: 8, group_size: 16}
    training: {steps: 30, learning_rate: 1.0e-2}
  guided:
    trained: false
    model: "${run_dir}/stages/samples"
    data: *asked
    rollout:
      prompts_per_step: 16
      group_size: 4
      guide: &guide {model: "${run_dir}/stages/values", reading: {success: {inverse_temperature: 20}}, top_k: 13}
    evaluation: {guide: *guide}
  searched:
    trained: false
    model: "${run_dir}/stages/samples"
    data: *asked
    rollout: {prompts_per_step: 16, group_size: 1, search: &search {model: "${run_dir}/stages/values", samples: 6}}
    evaluation: {samples: 0, search: *search}
"""
REWARDS = """
from llmrl.types import Score


async def low(completion: str) -> Score:
    return Score(float(completion[-1:] in set("01234")), completion[-1:] in set("01234"))
"""


def test_a_value_model_guides_answers_to_rewards(tmp_path, monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("guided_rewards.py").write_text(REWARDS)
    rows = [{"question": f"{a}{b}", "answer": str(a)} for a in range(6) for b in range(4)]
    for name, part in {"sums": rows[:16], "held_out": rows[16:]}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    Path("recipe.yaml").write_text(RECIPE)
    assert (
        run_plan(load_plan("recipe.yaml", [f"run_dir={tmp_path}/run"]), resume=False, console=Console(quiet=True)) == 0
    )
    torch.set_num_threads(threads)
    run = RunReader(tmp_path / "run")
    found = {row["stage"]: row["eval/pass@1"] for row in run.metrics if "eval/pass@1" in row}
    assert found["samples"] < 0.75 and found["guided"] > found["samples"] + 0.15
    earned = {row["stage"]: row["reward"] for row in run.metrics if "reward" in row}
    assert earned["guided"] > earned["samples"] + 0.15
    assert earned["searched"] > earned["samples"] + 0.15
    assert all(not row["rollout_logprobs"] for row in run.rollouts(stage="searched", kind="train").to_pylist())
