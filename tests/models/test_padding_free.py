"""Rows beside each other against each row alone, for architectures of every kind that transformers has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_policy import assert_same, both, naive, outcome
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from llmrl.errors import RecipeError
from llmrl.models.critic import Critic, ValueHead
from llmrl.models.loading import character_tokenizer, export, load_language_model
from llmrl.models.packed_rows import IMPLEMENTATION, PackedRows, attention
from llmrl.models.padding_free import try_padding_free
from llmrl.models.policy import Policy

TEMPERATURE = 0.6
COMMON = {"vocab_size": 29, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1, "initializer_range": 0.2}
WIDE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = WIDE | {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
# the layers of both kinds, whose window is shorter than most rows
WINDOW = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}

APART: dict[str, dict[str, Any]] = {
    "llama": HEADS,
    "gpt2": GPT2 | {"attn_pdrop": 0.0},
    "mistral": HEADS | {"sliding_window": 4},
    "gemma3_text": HEADS | WINDOW | {"query_pre_attn_scalar": 16},
    "cohere2": HEADS | WINDOW,
    "gemma2": HEADS | WINDOW | {"query_pre_attn_scalar": 16, "attn_logit_softcapping": 2.0},
    "granitemoe": HEADS | EXPERTS,
    "gpt_oss": HEADS | EXPERTS | WINDOW,
    "opt": HEADS | {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "deepseek_v3": HEADS | {
        "head_dim": 8, "num_key_value_heads": 2, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8, "v_head_dim": 16, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
        "topk_group": 1, "moe_intermediate_size": 16, "first_k_dense_replace": 1,
    },
}  # fmt: skip
"""Architectures whose packed rows do not see each other; windows are shorter than most rows."""

MIXED: dict[str, dict[str, Any]] = {
    # state-space layers
    "mamba": WIDE | {"state_size": 4, "time_step_rank": 2},
    "mamba2": WIDE | {"state_size": 4, "num_heads": 4, "head_dim": 16, "expand": 2, "n_groups": 1, "chunk_size": 4},
    "nemotron_h": HEADS | {
        "layers_block_type": ["mamba", "attention", "mlp"], "num_hidden_layers": 3, "mamba_num_heads": 4,
        "mamba_head_dim": 16, "n_groups": 1, "ssm_state_size": 4, "chunk_size": 4,
    },
    "granitemoehybrid": HEADS | EXPERTS | {
        "layer_types": ["mamba", "attention"], "shared_intermediate_size": 16, "mamba_n_heads": 4, "mamba_d_head": 16,
        "mamba_n_groups": 1, "mamba_d_state": 4, "mamba_chunk_size": 4,
    },
    # linear attention, recurrences, convolutions
    "qwen3_next": HEADS | LINEAR | {
        "layer_types": ["linear_attention", "full_attention"], "num_experts": 4, "num_experts_per_tok": 2,
        "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16,
    },
    "qwen3_5_text": HEADS | LINEAR | {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2": HEADS | {"layer_types": ["conv", "full_attention"], "block_ff_dim": 48, "block_auto_adjust_ff_dim": False},
    # ALiBi
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2, "max_seq_len": 64},
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "alibi": True},
}  # fmt: skip
"""Architectures whose packed rows see each other."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A function from an architecture to the folder of a small model of it."""
    root = tmp_path_factory.mktemp("models")

    def folder(architecture: str) -> Any:
        if not (root / architecture).is_dir():
            torch.manual_seed(0)
            config = AutoConfig.for_model(architecture, **COMMON, **(APART | MIXED)[architecture])
            lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            for weight in lm.parameters():
                if weight.dim() > 1:
                    weight.data.normal_(std=0.2)
            export(lm, character_tokenizer("0123456789+="), root / architecture)
        return root / architecture

    return folder


@pytest.mark.parametrize("architecture", APART | MIXED)
def test_padded_rows_are_each_trajectory_alone(architecture, folders):
    """Log-probabilities, entropies and gradients, as loaded for training."""
    lm = load_language_model(folders(architecture))
    expected = outcome(lm, lambda *batch: naive(lm, *batch))
    assert_same(outcome(lm, both(Policy(lm, temperature=TEMPERATURE, padding_free=False))), expected)


FAMILY = [
    "aaaaaaaaaaaaaaaaaaaBBBB",
    "aaaaaaaaaaaaaaaaaaaC",
    "aaaaaaaaaaaaaaaaaaaDDDDDDDDDDDDDDDDDDEE",
    "aaaaaaaaaaaaaaaaaaaDDDDDDDDDDDDDDDDDDFffG",
    "hhhH",
    "a",
]
"""Rows with shared beginnings at two depths: equal letters stand for equal tokens, upper case for the response."""


def family() -> tuple[torch.Tensor, ...]:
    """token_ids, attention_mask, response_mask; the padding holds tokens that must not matter."""
    width = max(map(len, FAMILY))
    drawn = {letter: torch.randint(2, 29, (width,)) for letter in "abcdefgh"}
    token_ids = torch.stack(
        [torch.stack([drawn[m.lower()][t] for t, m in enumerate(f"{r:a<{width}}")]) for r in FAMILY]
    )
    attention_mask = torch.tensor([[t < len(row) for t in range(width)] for row in FAMILY])
    response_mask = torch.tensor([[row[t : t + 1].isupper() for t in range(width)] for row in FAMILY])
    return token_ids, attention_mask, response_mask


@pytest.mark.parametrize("architecture", APART)
def test_packed_rows_are_each_trajectory_alone(architecture, folders):
    """Log-probabilities, entropies and gradients of rows whose shared beginnings are computed once."""
    lm = load_language_model(folders(architecture))
    batch = family()
    assert PackedRows.of(*batch[:2]).token_ids.numel() < int(batch[1].sum()) - 3 * 18
    expected = outcome(lm, lambda *batch: naive(lm, *batch), batch)
    policy = Policy(lm, temperature=TEMPERATURE)
    assert policy.packs and try_padding_free(lm.config, None)
    assert_same(outcome(lm, both(policy), batch), expected)
    assert_same(outcome(lm, lambda *batch: naive(lm, *batch), batch), expected)  # unpacked rows as before


@pytest.mark.parametrize("architecture", MIXED)
def test_packed_rows_that_see_each_other_are_refused(architecture, folders):
    why = "(let packed rows see each other|have an attention of their own|cannot run packed rows)"
    message = f"training.padding_free: true, but '{architecture}' models {why}.*=false"
    lm = load_language_model(folders(architecture))
    with pytest.raises(RecipeError, match=message):
        Policy(lm, padding_free=True)
    with pytest.raises(RecipeError, match=message):
        Critic(lm, ValueHead(32, 1, seed=0), padding_free=True)
    with pytest.raises(RecipeError, match=message):
        try_padding_free(lm.config, True)
    assert try_padding_free(lm.config, None) is False
    expected = outcome(lm, lambda *batch: naive(lm, *batch))
    assert_same(outcome(lm, both(Policy(lm, temperature=TEMPERATURE))), expected)


def test_a_window_that_packed_attention_ignores_is_found_though_no_row_leaves_it(folders, monkeypatch):
    """The trial's rows are shorter than real windows, so a small model with a short window is tried too."""
    lm = load_language_model(folders("mistral"))
    lm.config.sliding_window = 1000
    assert Policy(lm).packs
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS._global_mapping,
        IMPLEMENTATION,
        lambda *tensors, sliding_window=None, **given: attention(*tensors, **given),
    )
    assert not Policy(lm).packs
    with pytest.raises(RecipeError, match="'mistral' models let packed rows see each other"):
        Policy(lm, padding_free=True)
