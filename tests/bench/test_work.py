"""The cases of the benchmark: what both sides of a comparison are given."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrl.bench.alone import micro_batches
from llmrl.bench.work import CASES, lay_out
from llmrl.recipe_file import load_plan


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    return lay_out(CASES["tiny"], folder), folder


def test_a_completion_ends_with_probability_one_sixteenth_at_each_token(tiny):
    model, folder = tiny
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    rows = [json.loads(line)["question"] for line in (folder / "rows.jsonl").read_text().splitlines()]
    tokens = torch.tensor([tokenizer.encode(row) for row in rows])
    assert tokens.shape == (16, CASES["tiny"].prompt_tokens)
    with torch.no_grad():
        ends = lm(tokens).logits.softmax(-1)[..., tokenizer.eos_token_id]
    assert torch.allclose(ends, torch.tensor(1 / 16), atol=0.005)
    before = (model / "model.safetensors").stat().st_mtime_ns
    lay_out(CASES["tiny"], folder)  # the head is shrunk once
    assert (model / "model.safetensors").stat().st_mtime_ns == before


def test_the_small_model_has_the_size_that_is_said():
    from transformers import Qwen3Config

    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(Qwen3Config(vocab_size=16, **CASES["small"].build))
    assert 3.1e6 < sum(p.numel() for p in lm.parameters()) < 3.2e6


def test_the_recipe_is_the_work_that_is_said(tiny, monkeypatch):
    monkeypatch.chdir(tiny[1])
    [stage] = load_plan(tiny[1] / "recipe.json", []).stages.values()
    assert stage.trajectories_per_step == CASES["tiny"].completions == 8
    assert stage.training.dtype == "fp32" and stage.training.updates_per_step == 1
    assert list(stage.regularizers) == ["kl_k3"]


def test_plain_micro_batches_predict_each_completion_token_once():
    rows = [([5, 6], [7]), ([5, 6, 8], [9, 10])]
    [(tokens, targets, positions, mask)] = micro_batches(rows, 2)
    assert tokens.tolist() == [[5, 6, 8, 9, 10], [5, 6, 7, 0, 0]]
    assert targets.tolist() == [[-1, -1, 9, 10, -1], [-1, 7, -1, -1, -1]]
    assert positions[0].tolist() == [0, 1, 2, 3, 4] and mask.tolist() == [[1] * 5, [1, 1, 1, 0, 0]]
    [(tokens, targets, positions, mask)] = micro_batches(rows, 0)
    assert tokens.tolist() == [[5, 6, 8, 9, 10, 5, 6, 7]] and mask is None
    assert targets.tolist() == [[-1, -1, 9, 10, -1, -1, 7, -1]]
    assert positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
