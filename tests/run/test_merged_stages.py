"""Stages that start from sums of other stages' models, and stages of no step, which measure a model and hand it on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from checking import checked, shared_workers
from rich.console import Console
from safetensors.torch import load_file
from small_run import lay_out

from llmrl.errors import RecipeError
from llmrl.recipe_file import Plan, load_plan
from llmrl.run.run import run_plan

STAGES = """
run_dir: run
learn_from: demonstrations
policy_loss: nll
data: {train: {completion: answer}}
rollout: {prompts_per_step: 8, group_size: 1}
stages:
  start: {training: {steps: 0}}
  first: {training: {steps: 1, learning_rate: 1.0e-2}}
  other:
    model: {path: "${run_dir}/stages/start"}
    seed: 8
    training: {steps: 1, learning_rate: 1.0e-2}
  sum:
    model:
      merge:
        base: ${run_dir}/stages/start
        vectors:
          first: {plus: "${run_dir}/stages/first/adapter", weight: 0.5}
          second: {plus: "${run_dir}/stages/other", minus: "${run_dir}/stages/first", weight: -2.0}
    training: {steps: 0}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = lay_out(tmp_path_factory.mktemp("sums"))
    common = (folder / "small.yaml").read_text().partition("stages:")[0]
    (folder / "common.yaml").write_text(common)
    (folder / "sums.yaml").write_text(f"include: common.yaml\n{STAGES}")
    return folder


def plan(*overrides: str) -> Plan:
    return load_plan("sums.yaml", list(overrides))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_stage_of_no_step_measures_a_sum_and_hands_it_on(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert run_plan(plan(), resume=False, console=Console(quiet=True)) == 0
    run = Path("run")
    start, first, other, found = (weights(run / "stages" / name) for name in ("start", "first", "other", "sum"))
    assert all(torch.equal(weight, start[name]) for name, weight in weights(run / "origin").items())
    assert any(not torch.equal(first[name], start[name]) for name in start)
    for name, weight in found.items():
        expected = start[name] + 0.5 * (first[name] - start[name]) - 2.0 * (other[name] - first[name])
        torch.testing.assert_close(weight, expected, rtol=0, atol=3e-7)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["stage"] == "sum"] == [0]
    assert "eval/accuracy" in rows[-1]
    assert weights(run / "final").keys() == found.keys()
    said = io.StringIO()
    assert run_plan(plan(), resume=True, console=Console(file=said)) == 0
    assert "this run is finished" in said.getvalue()


def test_the_check_knows_the_models_of_earlier_stages(folder, monkeypatch):
    monkeypatch.chdir(folder)
    with shared_workers(folder):
        faults, report = checked(plan("run_dir=unborn"), width=400)
        assert not faults
        assert "model    unborn/stages/start +0.5 first, -2 second: qwen3" in " ".join(
            report.replace("  ", " ").split("\n")
        )
    with pytest.raises(RecipeError, match=r"stage sum: model.merge.vectors.first.plus: .* 'unborn/stages/first'\?$"):
        plan("run_dir=unborn", "stages.sum.model.merge.vectors.first.plus=unborn/stages/frist")
