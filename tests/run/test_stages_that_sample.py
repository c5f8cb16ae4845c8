"""Stages that sample and train nothing: what they record is what later stages learn from, and what figures are of."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from checking import checked
from rich.console import Console
from safetensors.torch import load_file

from llmrl.errors import RecipeError
from llmrl.overoptimization.command import run as show
from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

RECIPE = """
name: sampled
model:
  build:
    config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 1,
      num_key_value_heads: 1, head_dim: 32, initializer_range: 0.3, tie_word_embeddings: true,
      max_position_embeddings: 64}
    characters: "0123456789+="
data: {train: {path: sums.jsonl}, eval: {path: sums.jsonl, limit: 4}}
rollout: {engine: transformers, max_prompt_tokens: 8, max_completion_tokens: 6, prompts_per_step: 6, group_size: 4}
training: {threads: 1, learning_rate: 1.0e-3, steps: 2}
stages:
  samples:
    trained: false
    data: {train: {path: asked.jsonl}, eval: null}
    rewards: {"sampled_rewards:digits": {}, "sampled_rewards:low": {weight: 0.0}}
  dpo:
    method: dpo
    data: {train: {path: "${run_dir}/rollouts/samples-*.parquet"}}
    rewards: {"sampled_rewards:digits": {}, "sampled_rewards:low": {weight: 0.0}}
    evaluation: {samples: 4, every: 1}
"""
REWARDS = """
async def digits(completion: str) -> float:
    return float(sum(c.isdigit() for c in completion))


async def low(completion: str) -> float:
    return float(sum(c in "01234" for c in completion))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunReader:
    folder, threads = tmp_path_factory.mktemp("sampled"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        Path("sampled_rewards.py").write_text(REWARDS)
        sums = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(4)]
        for name, rows in {"sums": sums[:4], "asked": sums[4:]}.items():
            Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Path("recipe.yaml").write_text(RECIPE)
        plan = load_plan("recipe.yaml", [f"run_dir={folder}/run"])
        faults, said = checked(plan)
        assert faults == [] and "they are rollouts that stage samples will write" in said
        assert run_plan(plan, resume=False, console=Console(quiet=True)) == 0
    torch.set_num_threads(threads)
    return RunReader(folder / "run")


def test_a_stage_that_samples_leaves_the_weights_as_they_are(run):
    start = load_file(run.path / "origin" / "model.safetensors")
    after = load_file(run.stage_model("samples") / "model.safetensors")
    assert start.keys() == after.keys() and all(torch.equal(start[name], after[name]) for name in start)


def test_its_groups_are_scored_and_recorded_whole(run):
    table = run.rollouts(stage="samples", kind="train").to_pylist()
    assert len(table) == 2 * 6 * 4
    assert {row["step"] for row in table} == {1, 2}
    for row in table:
        scores = json.loads(row["scores"])
        assert row["reward"] == scores["sampled_rewards:digits"] >= scores["sampled_rewards:low"]
    rows = [row for row in run.metrics if row["stage"] == "samples" and row["step"]]
    assert [row["reward"] for row in rows] == [
        pytest.approx(sum(r["reward"] for r in table if r["step"] == step) / 24) for step in (1, 2)
    ]


def test_the_next_stage_compares_its_whole_completions(run):
    """Those that ended by themselves, of groups in which two rewards differ."""
    groups: dict = {}
    for row in run.rollouts(stage="samples", kind="train").to_pylist():
        if row["stop_reason"] == "stop":
            groups.setdefault((row["step"], row["prompt_id"]), []).append(row["reward"])
    pairs = [len(set(rewards)) > 1 for rewards in groups.values()]
    last = [row for row in run.metrics if row["stage"] == "dpo"][-1]
    assert any(pairs)
    assert last["epoch"] == pytest.approx(2 * 6 / sum(pairs))


def test_evaluations_tell_the_divergence_from_the_reference(run):
    first, *_, last = [row for row in run.metrics if row["stage"] == "dpo"]
    assert first["eval/kl"] == pytest.approx(0.0, abs=1e-4)  # the policy is its reference
    assert last["eval/kl"] != first["eval/kl"]
    assert {
        "eval/sampled_reward",
        "eval/sampled_audit/sampled_rewards:low",
        "eval/audit_error/sampled_rewards:low",
    } <= last.keys()


def test_curves_of_both_stages_are_drawn(run, tmp_path):
    page = tmp_path / "page.md"
    show([run.path], write=page, audit=None, console=Console(quiet=True))
    text = page.read_text()
    assert "## samples\n\n| n | KL | proxy | gold |" in text and "## dpo\n\n| step | KL | proxy | gold |" in text
    table = run.rollouts(stage="samples", kind="train").to_pylist()
    mean = sum(row["reward"] for row in table) / len(table)
    assert f"| 1 | 0.000 | {mean:.3f} |" in text and "| 4 | 0.636 |" in text  # log 4 - 3/4
    figure = page.with_suffix(".svg").read_bytes()
    assert figure.startswith(b"<?xml") and page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    show([run.path], write=page, audit=None, console=Console(quiet=True))
    assert page.with_suffix(".svg").read_bytes() == figure


def test_a_run_without_an_audit_has_no_curve(run, tmp_path):
    with pytest.raises(
        RecipeError, match="--audit: no reward of weight 0 in stage samples named 'sampled_rewards:lo'; did"
    ):
        show([run.path], write=None, audit="sampled_rewards:lo", console=Console(quiet=True))
    with pytest.raises(RecipeError, match="holds no run"):
        show([tmp_path], write=None, audit=None, console=Console(quiet=True))
