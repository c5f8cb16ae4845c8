"""Weights by name: merging equals peft's own, in every architecture, and rounding is measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import ParamWrapper
from transformers import AutoConfig, AutoModelForCausalLM

from llmrl.models.weights import Rounding, adapter_weights, base_weights, merged_weights

SMALL = {
    "vocab_size": 24,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
EXPERTS = {"num_experts": 3, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3": {"tie_word_embeddings": True},
    "llama": {},
    "mistral": {},
    "gemma2": {"head_dim": 8},
    "gemma3_text": {"head_dim": 8},
    "phi3": {},
    "gpt2": {},
    "gpt_neox": {},
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 32},
    "olmo2": {},
    "falcon": {},
    "starcoder2": {},
    "granite": {},
    "stablelm": {},
    "cohere": {},
    "bloom": {},
    "qwen3_moe": EXPERTS,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 24},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 2},
    "olmoe": {"num_experts": 3, "num_experts_per_tok": 2},
    "deepseek_v3": EXPERTS
    | LATENT
    | {"n_routed_experts": 4, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1},
    "gpt_oss": {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": 8},
}
OF_EXPERTS = {"qwen3_moe", "mixtral", "olmoe", "deepseek_v3"}
"""The architectures whose fused experts peft adapts under all-linear."""


def adapted(architecture: str, **settings: Any) -> Any:
    """A random model whose adapter already does something: peft starts it at zero."""
    config = AutoConfig.for_model(architecture, **SMALL | ARCHITECTURES[architecture])
    torch.manual_seed(0)
    lm = AutoModelForCausalLM.from_config(config)
    few = {"r": 3, "lora_alpha": 5, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    adapted = get_peft_model(lm, LoraConfig(**few | settings))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            parameter.data.normal_(std=0.2)
    return adapted


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_form_of_the_weights_is_pefts(architecture):
    lm = adapted(architecture)
    assert any(isinstance(module, ParamWrapper) for module in lm.modules()) is (architecture in OF_EXPERTS)
    merged = dict(merged_weights(lm))
    factors, base = dict(adapter_weights(lm)), {name: weight.clone() for name, weight in base_weights(lm)}
    files = get_peft_model_state_dict(lm)
    assert factors.keys() == files.keys() and all(torch.equal(factors[name], files[name]) for name in files)
    expected: dict[str, torch.Tensor] = {}
    for name, weight in lm.merge_and_unload().state_dict().items():
        if all(weight.data_ptr() != other.data_ptr() for other in expected.values()):  # a tied head is no weight more
            expected[name] = weight
    assert merged.keys() == base.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, atol=1e-6, rtol=0.0)
    assert any(not torch.equal(merged[name], base[name]) for name in base)


def test_rounding_is_measured_along_the_true_change():
    """bf16 has steps of 2^-7 from 1 to 2: of 0.25 nothing is lost, of 2^-9 all, and 3 x 2^-9 is rounded up to 2^-7."""
    rounding = Rounding(torch.bfloat16)
    assert repr((rounding.kept, rounding.error)) == "(nan, nan)"
    rounding.see(torch.tensor([1.0]), torch.tensor([0.25]))
    assert (rounding.kept, rounding.error) == (1.0, 0.0)
    rounding = Rounding(torch.bfloat16)
    rounding.see(torch.tensor([1.0, 1.0]), torch.tensor([2.0**-9, 3 * 2.0**-9]))
    # in units of 2^-9: wanted (1, 3), left (0, 4)
    assert rounding.kept == pytest.approx(12 / 10)
    assert rounding.error == pytest.approx((2 / 10) ** 0.5)


def test_what_bf16_leaves_of_a_small_adapter():
    lm = adapted("llama")
    for name, parameter in lm.named_parameters():
        if "lora_B" in name:
            parameter.data.mul_(1e-4)
    kept = {}
    for dtype in (torch.float32, torch.bfloat16):
        rounding = Rounding(dtype)
        for _ in merged_weights(lm.bfloat16(), rounding=rounding):
            pass
        kept[dtype] = rounding.kept
    assert kept[torch.float32] == pytest.approx(1.0, abs=1e-3) and kept[torch.bfloat16] < 0.5
