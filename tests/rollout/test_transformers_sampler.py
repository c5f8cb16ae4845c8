"""The transformers sampler on a tiny model: the contract, and what is its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sampler_contract import (
    ADAPTERS,
    PROMPTS,
    TOLERANCE,
    SamplerContract,
    adapted,
    check_adapters,
    check_shared_base,
    mismatch,
    sample_all,
)
from transformers import GenerationConfig

from llmrl.models.loading import load_language_model
from llmrl.models.lora import add_adapters
from llmrl.models.weights import base_weights, merged_weights
from llmrl.recipe import Lora
from llmrl.rollout.sampler import SamplingParams
from llmrl.rollout.transformers_sampler import TransformersSampler


def make(folder: Any, tokenizer: Any, **settings: Any) -> TransformersSampler:
    model: Any = load_language_model(folder)
    return TransformersSampler(model, tokenizer, **settings)


@pytest.fixture(scope="module")
def sampler(folder, tokenizer):
    made = make(folder, tokenizer)
    yield made
    made.close()


def out_of_memory(*args: Any, **kwargs: Any) -> None:
    raise MemoryError("out of memory")


class TestContract(SamplerContract):
    def break_engine(self, sampler, monkeypatch):
        monkeypatch.setattr(sampler._model, "forward", out_of_memory)


def test_only_the_new_token_goes_through_the_model(sampler, monkeypatch):
    widths = []
    forward = sampler._model.model.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        widths.append(kwargs["input_ids"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(sampler._model.model, "forward", watched)
    sample_all(sampler, PROMPTS, SamplingParams(max_tokens=4))
    assert widths == [100, 1, 1, 1]  # the longest prompt, then a token at a time: keys and values are kept


def test_a_models_own_generation_settings_are_not_used(folder, tokenizer, lm):
    model: Any = load_language_model(folder)
    model.generation_config = GenerationConfig(
        repetition_penalty=1.8, suppress_tokens=[5, 6, 7], max_length=20, eos_token_id=[3, 4], no_repeat_ngram_size=2
    )
    sampler = TransformersSampler(model, tokenizer)
    sampler.load_weights(merged_weights(lm), 0)
    completions = sample_all(sampler, PROMPTS, SamplingParams(max_tokens=40))
    assert mismatch(lm, PROMPTS, completions, 1.0) < TOLERANCE
    assert all(len(c.token_ids) == 40 for c in completions)


def test_more_requests_than_a_batch(folder, tokenizer, lm):
    small, large = make(folder, tokenizer, max_batch=4), make(folder, tokenizer)
    for sampler in (small, large):
        sampler.load_weights(merged_weights(lm), 0)
    params = SamplingParams(max_tokens=9)
    found = [[c.token_ids for c in sample_all(sampler, PROMPTS * 3, params)] for sampler in (small, large)]
    assert found[0] == found[1]


def test_a_weight_that_is_not_given_is_an_error(folder, tokenizer, lm):
    sampler = make(folder, tokenizer)
    weights = [(name, weight) for name, weight in merged_weights(lm) if "q_proj" not in name]
    with pytest.raises(RuntimeError, match=r"2 weights were not given, model.layers.0.self_attn.q_proj.weight"):
        sampler.load_weights(weights, 1)
    assert sampler.policy_version == -1


def test_bf16_stays_near_the_trainer(folder, tokenizer, lm):
    model: Any = load_language_model(folder, "bf16")
    sampler = TransformersSampler(model, tokenizer)
    sampler.load_weights(merged_weights(lm), 0)
    found = mismatch(lm, PROMPTS, sample_all(sampler, PROMPTS, SamplingParams(max_tokens=40)), 1.0)
    print(f"bf16 mismatch {found:.1e}")
    assert 1e-3 < found < 0.3  # bf16 has 8 bits: it is not fp32, and not far from it


def test_an_adapter_is_sampled_from_unmerged(folder, tokenizer):
    lm = adapted(folder)
    model: Any = load_language_model(folder, lora=Lora(rank=3, alpha=5.0))
    sampler = TransformersSampler(model, tokenizer)
    with pytest.raises(RuntimeError, match=r"weights were not given, base_model\.model\.model\.layers\.0\.mlp"):
        sampler.load_weights(base_weights(lm), 0)
    check_adapters(sampler, lm)


def test_adapters_share_a_base(folder, tokenizer):
    model = add_adapters(load_language_model(folder), ADAPTERS)
    check_shared_base(TransformersSampler(model, tokenizer), folder, tokenizer)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_mixture_draws_from_both_models_at_each_token(folder, tokenizer, lm, other_lm, share):
    """Prompts of unequal length in one batch, each token against both models' logits for the unpadded sequence."""
    own, other = make(folder, tokenizer), make(folder, tokenizer)
    mixture = own.mixed_with(other, share)
    own.load_weights(base_weights(lm), 4)
    mixture.load_weights(base_weights(other_lm), 3)  # the other's
    params = SamplingParams(max_tokens=12, temperature=0.8)
    completions = sample_all(mixture, PROMPTS, params)
    assert {one.policy_version for one in completions} == {3}
    for ids, found in zip(PROMPTS, completions, strict=True):
        token_ids = torch.tensor([ids + found.token_ids])
        with torch.no_grad():
            logits = [model(input_ids=token_ids).logits[0, len(ids) - 1 : -1].double() for model in (lm, other_lm)]
        mixed = (1 - share) * logits[0].log_softmax(-1) + share * logits[1].log_softmax(-1)
        expected = (mixed / 0.8).log_softmax(-1).gather(1, torch.tensor(found.token_ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(found.logprobs).double(), expected, atol=3e-5)
    if share in (0.0, 1.0):  # then it is one of them, token for token
        assert [one.token_ids for one in completions] == [
            one.token_ids for one in sample_all(other if share else own, PROMPTS, params)
        ]
