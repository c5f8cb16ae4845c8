"""What a check says of an adapter: how it reaches the sampler, and what it leaves out."""

from __future__ import annotations

import io
import sys
from types import ModuleType

import pytest
from rich.console import Console
from transformers import AutoConfig

from llmrl.check.adapter import check_adapter
from llmrl.check.report import Report
from llmrl.recipe import Recipe

SMALL = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 2, "num_attention_heads": 1}
EXPERTS = {"num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2}
RECIPE = {
    "name": "check",
    "run_dir": "runs/check",
    "data": {"train": {"path": "rows.jsonl"}},
    "rewards": {"math_verifier": {}},
    "policy_loss": "ppo_clip",
}


def checked(architecture: str, *, engine: str, dtype: str = "fp32", **lora: object) -> Report:
    settings = {"rollout": {"engine": engine}, "training": {"dtype": dtype}, "model": {"path": ".", "lora": lora}}
    config = AutoConfig.for_model(architecture, **SMALL, **(EXPERTS if architecture != "llama" else {}))
    report = Report(Console(file=io.StringIO(), width=400))
    check_adapter(Recipe.model_validate(RECIPE | settings), config, report)
    return report


def printed(report: Report) -> str:
    return " ".join(report.console.file.getvalue().split())  # type: ignore[attr-defined]


@pytest.fixture
def merging(monkeypatch) -> str:
    """A sampler that takes no adapter."""
    module = ModuleType("own_sampler")
    module.merging = lambda folder, tokenizer: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return "own_sampler:merging"


def test_the_way_to_the_sampler_is_said(merging):
    assert printed(checked("llama", engine="transformers")) == "adapter of rank 16, given to the sampler as it is"
    report = checked("llama", engine=merging, rank=4)
    assert printed(report) == f"adapter of rank 4, merged for the sampler, because {merging} does not name adapters"
    [warning] = checked("llama", engine=merging, dtype="bf16").warnings
    assert warning.startswith(
        "model.lora: the sampler gets the adapter merged and rounded to bf16, because own_sampler"
    )


def test_experts_that_peft_leaves_out_are_said_where_all_was_asked_for():
    [warning] = checked("gpt_oss", engine="transformers").warnings
    # two layers of three experts: gate and up 8 x 16, down 8 x 8
    assert warning == (
        "model.lora.target_modules: all-linear, but peft adapts no experts of gpt_oss; their 1.2K parameters stay as "
        "they are"
    )
    assert checked("gpt_oss", engine="transformers", target_modules=["q_proj"]).warnings == []
    assert checked("mixtral", engine="transformers").warnings == []
