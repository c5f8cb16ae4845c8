"""Policy against a naive reference: each trajectory alone through the model's own forward, the whole softmax."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from llmrl.errors import RecipeError
from llmrl.models import head as head_module
from llmrl.models.loading import attention_of, character_tokenizer, export
from llmrl.models.policy import Policy
from llmrl.models.weights import merged_weights

VOCABULARY = 29
TEMPERATURE = 0.6
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "attention_dropout": 0.0,
}
# each has its own way to logits: plain, capped, multiplied, divided
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen3": {"tie_word_embeddings": True},
    "llama": {"tie_word_embeddings": False},
    # its window is shorter than the longest trajectory
    "gemma2": {"final_logit_softcapping": 3.0, "sliding_window": 4, "query_pre_attn_scalar": 8},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 4.0},
}

# P prompt, A the actor's, E the environment's, . padding
LAYOUT = ["PPAAA.....", "PAAEEAAEAA", "PPPPPPA...", "PP........", "PAA......."]


def make_lm(architecture: str = "qwen3", **settings: Any) -> Any:
    config = AutoConfig.for_model(architecture, **{**SHAPE, **ARCHITECTURES.get(architecture, {}), **settings})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention_of(config), dtype=torch.float32)


def make_lora(lm: Any, **settings: Any) -> Any:
    """Adapters that already do something: peft starts them at zero."""
    few = {"r": 3, "lora_alpha": 5, "target_modules": "all-linear"}
    torch.manual_seed(1)
    adapted = get_peft_model(lm, LoraConfig(**{**few, **settings}, task_type="CAUSAL_LM"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            parameter.data.normal_(std=0.2)
    return adapted


def inputs(layout: list[str] = LAYOUT) -> tuple[Tensor, Tensor, Tensor]:
    """token_ids, attention_mask, response_mask; the padding holds tokens that must not matter."""
    generator = torch.Generator().manual_seed(3)
    token_ids = torch.randint(0, VOCABULARY, (len(layout), len(layout[0])), generator=generator)
    attention_mask = torch.tensor([[mark != "." for mark in row] for row in layout])
    response_mask = torch.tensor([[mark == "A" for mark in row] for row in layout])
    return token_ids, attention_mask, response_mask


def naive(lm: Any, token_ids: Tensor, attention_mask: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
    logprobs, entropy = torch.zeros(token_ids.shape), torch.zeros(token_ids.shape)
    for row in range(len(token_ids)):
        length = int(attention_mask[row].sum())
        logits = lm(input_ids=token_ids[row : row + 1, :length], use_cache=False).logits[0]
        for t in range(1, length):
            if response_mask[row, t]:
                log_p = torch.log_softmax(logits[t - 1].float() / TEMPERATURE, dim=-1)
                logprobs[row, t] = log_p[token_ids[row, t]]
                entropy[row, t] = -(log_p.exp() * log_p).sum()
    return logprobs, entropy


def both(policy: Policy) -> Callable[..., tuple[Tensor, Tensor]]:
    """The policy's log-probabilities and entropies."""

    def forward(*batch: Tensor) -> tuple[Tensor, Tensor]:
        found = policy(*batch, wanted=frozenset({"entropy"}))
        assert found.keys() == {"logprobs", "entropy"}
        return found["logprobs"], found["entropy"]

    return forward


def outcome(lm: Any, forward: Any, batch: Any = None) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Both results, and the gradient of a sum in which every token counts differently."""
    lm.zero_grad()
    logprobs, entropy = forward(*(batch or inputs()))
    weights = torch.linspace(-1.0, 2.0, logprobs.numel()).reshape(logprobs.shape)
    (weights * logprobs + weights.flip(0) * entropy).sum().backward()
    gradients = {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}
    return logprobs.detach(), entropy.detach(), gradients


def assert_same(found: Any, expected: Any) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], expected[1], atol=1e-5, rtol=1e-5)
    assert found[2].keys() == expected[2].keys()
    for name, gradient in expected[2].items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(found[2][name], gradient, atol=1e-5 * max(largest, 1.0), rtol=0.0)


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_each_trajectory_alone(architecture, padding_free):
    lm = make_lm(architecture)
    policy = Policy(lm, temperature=TEMPERATURE, padding_free=padding_free)
    expected = outcome(lm, lambda *batch: naive(lm, *batch))
    found = outcome(lm, both(policy))
    assert_same(found, expected)
    response_mask = inputs()[2]
    assert (found[0][~response_mask] == 0).all() and (found[1][~response_mask] == 0).all()
    assert (found[0][response_mask] < 0).all() and (found[1][response_mask] > 0).all()


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])
def test_trajectories_do_not_see_each_other(padding_free):
    """Other tokens in one row, or in the padding, change nothing elsewhere, bit for bit."""
    policy = Policy(make_lm(), temperature=TEMPERATURE, padding_free=padding_free)
    token_ids, attention_mask, response_mask = inputs()
    before = policy(token_ids, attention_mask, response_mask)["logprobs"]
    changed = torch.where(attention_mask, token_ids, 7)
    changed[1] = (changed[1] + 1) % VOCABULARY
    after = policy(changed, attention_mask, response_mask)["logprobs"]
    others = torch.tensor([0, 2, 3, 4])
    assert torch.equal(after[others], before[others])
    assert (after[1] != before[1]).any()


def test_prefix_counts_and_future_does_not():
    """An environment's token moves the log-probability of what follows it, and of nothing before."""
    policy = Policy(make_lm(), temperature=TEMPERATURE)
    token_ids, attention_mask, response_mask = inputs()
    before = policy(token_ids, attention_mask, response_mask)["logprobs"]
    token_ids[1, 3] = (token_ids[1, 3] + 1) % VOCABULARY  # P A A E E A A E A A: the first E
    after = policy(token_ids, attention_mask, response_mask)["logprobs"]
    assert torch.equal(after[1, :3], before[1, :3])
    assert ((after[1] - before[1])[response_mask[1]][2:].abs() > 1e-4).all()


def adapted_head(architecture: str) -> Any:
    return make_lora(make_lm(architecture, tie_word_embeddings=False), target_modules=["q_proj", "lm_head"])


@pytest.mark.parametrize("tokens", [1, 2, 5, 11])
@pytest.mark.parametrize("architecture", ["qwen3", "gemma2"])
def test_slices_of_an_adapted_head_change_nothing(architecture, tokens, monkeypatch):
    """12 response tokens, in 12, 6, 3 and 2 slices."""
    lm = adapted_head(architecture)
    policy = Policy(lm, temperature=TEMPERATURE)
    runs: list[int] = []
    policy.inner.get_output_embeddings().register_forward_hook(lambda module, given, result: runs.append(len(result)))
    whole = outcome(lm, both(policy))
    assert runs == [12]
    assert_same(whole, outcome(lm, lambda *batch: naive(lm, *batch)))
    runs.clear()
    monkeypatch.setattr(head_module, "LOGIT_BYTES_PER_SLICE", 4 * VOCABULARY * tokens)
    assert_same(outcome(lm, both(policy)), whole)
    assert len(runs) == 2 * -(-12 // tokens) and max(runs) <= tokens  # forward, and again for the backward pass


def test_more_slices_than_tokens_change_nothing():
    """Under ZeRO-3 a rank runs as many slices as the rank that needs most."""
    lm = adapted_head("qwen3")
    policy = Policy(lm, temperature=TEMPERATURE)
    whole = outcome(lm, both(policy))
    policy.agree_on_slices = lambda count: count + 20
    assert_same(outcome(lm, both(policy)), whole)


def test_a_plain_head_is_called_once_and_left_as_it_was():
    """Engines that divide weights collect the head's in its call, on all ranks together."""
    lm = make_lm()
    policy = Policy(lm, temperature=TEMPERATURE)
    policy.agree_on_slices = lambda count: pytest.fail("one call needs no agreement")
    head, runs = lm.get_output_embeddings(), []
    head.register_forward_hook(lambda module, given, result: runs.append(len(given[0])))
    outcome(lm, both(policy))
    assert runs == [12]
    assert head(torch.zeros(3, 32)).shape == (3, VOCABULARY)


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])
def test_no_response_tokens_give_zeros_and_zero_gradients(padding_free):
    """A spare micro-batch still runs every layer, forward and backward."""
    lm = make_lm()
    policy = Policy(lm, temperature=TEMPERATURE, padding_free=padding_free)
    token_ids, attention_mask, response_mask = inputs()
    logprobs, entropy = both(policy)(token_ids, attention_mask, torch.zeros_like(response_mask))
    assert not logprobs.any() and not entropy.any()
    (logprobs.sum() + entropy.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in lm.parameters())


def test_gradient_checkpointing_changes_nothing():
    lm = make_lm()
    policy = Policy(lm, temperature=TEMPERATURE).train()
    plain = outcome(lm, both(policy))
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(outcome(lm, both(policy)), plain)


def test_temperature_sharpens():
    """At a temperature near 0 the most likely token has log-probability 0 and the entropy is 0."""
    lm = make_lm()
    token_ids, attention_mask, response_mask = inputs(["PPA"])
    token_ids[0, 2] = lm(input_ids=token_ids[:, :2]).logits[0, -1].argmax()
    with torch.no_grad():
        logprobs, entropy = both(Policy(lm, temperature=1e-3))(token_ids, attention_mask, response_mask)
    assert float(logprobs[0, 2]) == pytest.approx(0.0, abs=1e-6)
    assert float(entropy[0, 2]) == pytest.approx(0.0, abs=1e-6)


def test_refuses_logits_it_does_not_know():
    """HyperCLOVAX multiplies by what Granite divides by."""
    with pytest.raises(RecipeError, match="'hyperclovax' models change their logits"):
        Policy(make_lm("hyperclovax", logits_scaling=4.0))


# LoRA


def test_without_adapter_is_the_base():
    base = make_lm()
    policy = Policy(make_lora(copy.deepcopy(base)), temperature=TEMPERATURE)
    plain = Policy(base, temperature=TEMPERATURE)(*inputs())["logprobs"]
    adapted = policy(*inputs())["logprobs"]
    with policy.without_adapter():
        assert torch.equal(policy(*inputs())["logprobs"], plain)
    assert (adapted - plain).abs().max() > 1e-2
    assert torch.equal(policy(*inputs())["logprobs"], adapted)
    trained = [name for name, p in policy.lm.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)


def test_only_lora_has_a_base_to_fall_back_on():
    with pytest.raises(ValueError, match="only a LoRA policy"):
        Policy(make_lm()).without_adapter()


def gpt2() -> Any:
    """Its layers keep their weights transposed."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=1, n_head=2))


@pytest.mark.parametrize(
    "adapted",
    [
        lambda: make_lora(make_lm("qwen3")),
        lambda: make_lora(make_lm("llama"), target_modules=["q_proj", "lm_head"]),
        lambda: make_lora(make_lm("llama"), target_modules=["embed_tokens", "down_proj"]),
        lambda: make_lora(gpt2(), target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
    ],
    ids=["tied", "head", "embedding", "transposed"],
)
def test_merged_weights_are_those_of_peft(adapted):
    lm = adapted()
    before = {name: p.detach().clone() for name, p in lm.named_parameters()}
    found = {name: weight.clone() for name, weight in merged_weights(lm)}
    assert all(torch.equal(p, before[name]) for name, p in lm.named_parameters())
    expected = dict(lm.merge_and_unload().named_parameters())
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-6)
    assert any(
        not torch.equal(weight, before.get(f"base_model.model.{name}", weight * 0)) for name, weight in found.items()
    )


def test_adapters_in_bf16_are_merged_in_fp32():
    lm = make_lora(make_lm()).to(torch.bfloat16)
    found = {name: weight.clone() for name, weight in merged_weights(lm)}
    layer = lm.get_base_model().model.layers[0].mlp.down_proj
    factors = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
    exact = layer.base_layer.weight.double() + factors * 5 / 3  # lora_alpha / r
    torch.testing.assert_close(found["model.layers.0.mlp.down_proj.weight"], exact.float(), rtol=1e-6, atol=1e-7)
    assert found["model.embed_tokens.weight"].dtype == torch.bfloat16  # which no adapter changes


def test_the_exported_merged_model_gives_the_same_logprobs(tmp_path):
    lm = make_lora(make_lm())
    policy = Policy(lm, temperature=TEMPERATURE)
    expected = policy(*inputs())["logprobs"]
    export(lm, character_tokenizer("abc"), tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, attn_implementation="sdpa")
    found = Policy(plain, temperature=TEMPERATURE)(*inputs())["logprobs"]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(policy(*inputs())["logprobs"], expected)
