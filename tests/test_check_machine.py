"""What a stage asks of memory and disk, against arithmetic by hand and against a model's own count."""

from __future__ import annotations

import io
import time
from dataclasses import replace
from typing import Any

import pytest
import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from llmrl.check import bf16, machine
from llmrl.check.model import Shape, check_model
from llmrl.check.report import Report
from llmrl.models.loading import DTYPES
from llmrl.models.lora import add_lora
from llmrl.models.outputs import run_backbone
from llmrl.recipe import Recipe
from llmrl.recipe_layers import merge
from llmrl.resolve import resolve_pieces

SIZES = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 128}
BUILD = {"characters": "0123456789+=", "config": SIZES | HEADS}
SHAPE = Shape(
    parameters=1000, trained=100, layers=3, hidden=10, intermediate=20, queries=6, key_value=8, vocabulary=2**20
)


def machine_recipe(**changes: Any) -> Recipe:
    rollout = {"engine": "vllm", "prompts_per_step": 6, "group_size": 2}
    sound = {
        "name": "r",
        "run_dir": "runs/r",
        "model": {"path": "m"},
        "data": {"train": {"path": "rows.jsonl"}},
        "rewards": {"math_verifier": {}},
        "policy_loss": "nll",
        "rollout": rollout | {"max_prompt_tokens": 30, "max_completion_tokens": 70},
        "training": {"tokens_per_micro_batch": 100},
    }
    return Recipe.model_validate(merge(sound, changes))


def test_state_of_plain_torch():
    # weights 1000 x 4; gradients 100 x 4; Adam 100 x 8
    assert [i.bytes for i in machine.trained_state(machine_recipe(), SHAPE, 1)] == [4000, 400, 800]


@pytest.mark.parametrize(
    ("stage", "expected"),
    [(0, [2000, 200, 1200]), (1, [2000, 200, 300]), (2, [2000, 50, 300]), (3, [500, 50, 300])],
)
def test_zero_divides_state_among_four(stage, expected):
    training = {"strategy": "deepspeed", "zero_stage": stage, "dtype": "bf16"}
    # bf16: weights 1000 x 2, gradients 100 x 2, Adam with fp32 weights 100 x 12
    assert [i.bytes for i in machine.trained_state(machine_recipe(training=training), SHAPE, 4)] == expected


def test_a_critic_with_its_own_backbone_is_trained_state_too():
    critic = replace(SHAPE, parameters=700, trained=70)
    names = ["critic weights", "critic gradients", "critic Adam"]
    found = machine.critic_state(machine_recipe(), replace(SHAPE, critic=critic), 1)
    # weights 700 x 4; gradients 70 x 4; Adam 70 x 8
    assert [(i.name, i.bytes) for i in found] == list(zip(names, [2800, 280, 560], strict=True))
    divided = machine_recipe(training={"strategy": "deepspeed", "zero_stage": 3, "dtype": "bf16"})
    # 700 x 2 / 4, 70 x 2 / 4, 70 x 12 / 4
    assert [i.bytes for i in machine.critic_state(divided, replace(SHAPE, critic=critic), 4)] == [350, 35, 210]
    # one that is never trained is its weights alone; one that shares the policy's backbone is nothing
    frozen = machine_recipe(critic={"frozen": True, "model": "v"})
    assert [i.bytes for i in machine.critic_state(frozen, replace(SHAPE, critic=critic), 1)] == [2800]
    warmed = machine_recipe(critic={"frozen": True, "warmup_steps": 3})
    assert len(machine.critic_state(warmed, replace(SHAPE, critic=critic), 1)) == 3
    assert machine.critic_state(machine_recipe(), SHAPE, 1) == []


def test_policy_and_critic_are_trained_one_after_the_other(monkeypatch):
    monkeypatch.setattr(machine, "_memory", lambda: (1e12, 1e12, "the machine"))
    recipe = machine_recipe(policy_loss="ppo_clip", advantage="gae")
    for layers, name in ((3, "activations"), (30_000, "critic activations")):
        out = io.StringIO()
        shape = replace(SHAPE, critic=replace(SHAPE, layers=layers))
        held = machine.Sized("actor", recipe, resolve_pieces(recipe), shape)
        machine.check_machine([held], 1, Report(Console(file=out, width=200)))
        kept = [line for line in out.getvalue().splitlines() if "activations" in line]
        assert len(kept) == 1 and kept[0].split("memory")[1].strip().startswith(name)


def test_a_reference_costs_its_weights_unless_lora_has_its_base():
    frozen = {"regularizers": {"kl_k3": {"weight": 0.1}}}
    for changes, expected in (({}, []), (frozen, [4000]), (frozen | {"model": {"lora": {}}}, [])):
        recipe = machine_recipe(**changes)
        assert [i.bytes for i in machine.reference(recipe, resolve_pieces(recipe).algorithm, SHAPE)] == expected


def test_earlier_policies_cost_their_weights_and_a_model_that_computes_with_them():
    anchored = {"regularizers": {"past_kl": {"weight": 0.1}}, "history": {"kept": 3}}
    momentum = {"regularizers": {"kl_k3": {"weight": 0.1}}, "reference": {"every": 1, "momentum": 0.5}}
    lora = {"model": {"path": "m", "lora": {}}}
    parameters, trained = SHAPE.parameters * 4, SHAPE.trained * 4
    for changes, expected in (
        ({}, []),
        (anchored, [4 * parameters]),
        (anchored | lora, [3 * trained]),
        (momentum, [2 * parameters]),  # besides the reference, which computes with them
    ):
        recipe = machine_recipe(**changes)
        found = machine.earlier_policies(recipe, resolve_pieces(recipe).algorithm, SHAPE)
        assert [item.bytes for item in found] == expected


def test_activations_of_a_micro_batch():
    # a layer keeps 2 x (4 + 4 + 4) x 10 + 4 x 4 x (6 + 20) = 656 bytes a token, of 100 tokens in 3 layers
    # all logits, 100 x 2^20 x 4 bytes, are more than the 32 MiB that are kept and than a block of 4 MiB
    assert [i.bytes for i in machine.activations(machine_recipe(), SHAPE)] == [196800, (32 + 4 * 4) * 2**20]
    # of 11 entries all logits are 100 x 11 x 4 bytes: kept, and in four blocks
    assert machine.activations(machine_recipe(), replace(SHAPE, vocabulary=11))[1].bytes == 5 * 4400
    # norms of 6 queries and 4 keys add (4 + 4) x 10; with LoRA the norms keep 4 fewer of each number
    normed = replace(SHAPE, head_norms=True)
    assert machine.layer_bytes(machine_recipe(), normed) == 656 + 80
    assert machine.layer_bytes(machine_recipe(model={"lora": {}}), normed) == 656 + 80 - 80 - 40
    # in bf16 2 x (4 + 2 + 2) x 10 + 4 x 2 x 26 = 368; with checkpointing of one layer, and 3 x 10 x 2 of all
    lean = machine_recipe(training={"gradient_checkpointing": True, "dtype": "bf16"})
    assert machine.activations(lean, SHAPE)[0].bytes == 100 * (60 + 368)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("architecture", ["qwen3", "llama"])
def test_the_estimate_of_activations_is_near_what_a_model_keeps(architecture, lora, dtype, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 6, "num_attention_heads": 4}
    heads = {"num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 128}
    build = BUILD | {"architecture": architecture, "config": sizes | heads}
    recipe = machine_recipe(
        model={"build": build, "path": None, "lora": lora}, training={"tokens_per_micro_batch": 8 * 64, "dtype": dtype}
    )
    found = check_model(recipe, tmp_path, None, Report(Console(quiet=True)))
    model = AutoModelForCausalLM.from_config(found.config, attn_implementation="sdpa", dtype=DTYPES[dtype])
    if recipe.model.lora:
        add_lora(model, recipe.model.lora)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    token_ids = torch.zeros(8, 64, dtype=torch.long)
    mask = torch.arange(64) < torch.tensor([[64]] * 7 + [[60]])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run_backbone(model.base_model, token_ids, mask)
    measured = sum(storage.nbytes() for storage in kept.values())
    assert machine.activations(recipe, found.shape)[0].bytes == pytest.approx(measured, rel=0.1)


def test_the_sampler_holds_weights_and_a_cache(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # 6 prompts on 4 processes: 2 prompts x 2 completions x 100 tokens x 3 layers x 8 x 4 bytes = 38400
    assert [i.bytes for i in machine.sampler(machine_recipe(), SHAPE, 4)] == [4000, 38400]
    assert machine.sampler(machine_recipe(rollout={"micro_group": 1}), SHAPE, 4)[1].bytes == 19200
    given = machine_recipe(rollout={"engine_options": {"kv_cache_memory_bytes": 777}})
    assert machine.sampler(given, SHAPE, 1)[1].bytes == 777
    # a share of the GPU: 0.4 x 80000 less 1000 weights x 4 bytes
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (70000, 80000))
    given = machine_recipe(rollout={"engine_options": {"gpu_memory_utilization": 0.4}})
    assert machine.sampler(given, SHAPE, 1)[1].bytes == 28000
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.sampler(machine_recipe(), SHAPE, 1)[1].bytes == 64 * 2**20  # vLLM's least on a CPU


def test_checkpoints_on_disk_at_once():
    # 100 steps, one every 10: the last 2, and the one being written; each 100 x 12 + 1000 x 4
    kept = machine_recipe(checkpoint={"every": 10, "keep_last": 2})
    assert machine.checkpoint_bytes(kept, SHAPE) == (3, 5200, 4000)
    # a critic's weights and moments, 50 x 12, but no exported model of it
    with_critic = replace(SHAPE, critic=replace(SHAPE, trained=50))
    assert machine.checkpoint_bytes(kept, with_critic) == (3, 5800, 4000)
    # with held-out rows the best one is kept as well
    best = machine_recipe(checkpoint={"every": 10}, data={"eval": {"path": "rows.jsonl"}})
    assert machine.checkpoint_bytes(best, SHAPE)[0] == 4
    assert machine.checkpoint_bytes(machine_recipe(checkpoint={"every": 60}), SHAPE)[0] == 2  # one at the end


def test_bf16_is_a_warning_on_a_cpu_that_computes_it_slowly(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for dtype, ratio, count in (("bf16", 40.0, 1), ("bf16", 1.5, 0), ("fp32", 40.0, 0)):
        monkeypatch.setattr(bf16, "bf16_slowdown", lambda ratio=ratio: ratio)
        report = Report(Console(quiet=True))
        bf16.check_bf16(machine_recipe(training={"dtype": dtype}), report)
        assert len(report.warnings) == count
        assert not count or "takes 40 times as long in bf16 as in fp32" in report.warnings[0]


def test_the_slowdown_of_bf16_is_measured_in_less_than_a_second():
    started = time.process_time()
    assert 0.05 < bf16.bf16_slowdown() < 1000
    assert time.process_time() - started < 5.0  # CPU time of all threads, on a machine that does other things too


def test_a_process_on_a_cpu_has_its_libraries_and_workers(monkeypatch):
    monkeypatch.setattr(machine.os, "cpu_count", lambda: 6)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    imitated = machine_recipe(learn_from="demonstrations", data={"train": {"completion": "answer"}})
    demonstrations = imitated.model_copy(update={"rewards": {}})
    sampled = machine_recipe(policy_loss="ppo_clip", advantage="grpo", training={"strategy": "deepspeed"})
    for recipe, ranks, expected in (
        (demonstrations, 1, [460]),
        (sampled, 1, [460 + 300 + 400, 6 * 65]),
        (sampled, 2, [460 + 300 + 400, 3 * 65]),
    ):
        held = machine.Sized("actor", recipe, resolve_pieces(recipe), SHAPE)
        assert [item.bytes / 2**20 for item in machine.libraries([held], ranks)] == expected
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert machine.libraries([held], 1) == []
