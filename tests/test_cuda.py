"""The same work on a GPU as on the CPU; without a GPU skipped, unless LLMRL_TEST_DEVICE=cpu tries them there."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import actor_critic_cases as actor_critic
import pytest
import torch
from torch import Tensor
from training_cases import (
    CPU,
    GRPO,
    GSPO_KL,
    engines_of,
    fixed_batch,
    identical,
    largest_difference,
    record_gradients,
    role_of,
    tiny_lm,
    tiny_policy,
    train,
    value_head,
    with_lora,
)

from llmrl.axes import AXES, BY_KEY
from llmrl.engines.ranks import Ranks
from llmrl.models.loading import character_tokenizer
from llmrl.models.weights import merged_weights
from llmrl.pieces import bind
from llmrl.probe import tiny
from llmrl.rollout.sampler import SamplingParams
from llmrl.rollout.transformers_sampler import TransformersSampler
from llmrl.rollout.weight_transport import by_file, by_name
from llmrl.run.checkpoint import random_state, set_random_state

DEVICE = torch.device(os.environ.get("LLMRL_TEST_DEVICE", "cuda"))
pytestmark = pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no GPU")

OUTPUTS = frozenset({"old_top_ids", "old_top_logprobs", "value_outputs", "head_gradient_norms"})
WITH_THE_LOSS = ("log_ratio", "policy_loss", "token_weights", "regularizers", "value", "value_loss")
NEEDED: dict[str, dict[str, Any]] = {
    "drpo": {"max_tokens": 4},
    "subtrajectory_balance": {"temperature": 0.1},
    "trajectory_balance": {"temperature": 0.1},
    "expectation": {"low": 0.0, "high": 1.0},
    "categorical": {"low": 0.0, "high": 1.0},
}
"""Settings of pieces that have no default."""


def on_device(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value.detach().to(DEVICE) if isinstance(value, Tensor) else value for name, value in data.items()}


@pytest.mark.parametrize(
    ("key", "name"), [(axis.key, name) for axis in AXES if axis.key in WITH_THE_LOSS for name in axis.pieces]
)
def test_a_piece_gives_the_same(key, name):
    piece = bind(name, BY_KEY[key].pieces[name], NEEDED.get(name, {}), key=key)
    data = tiny(2, 2)
    expected, found = piece(data), piece(on_device(data))
    expected, found = (getattr(one, "loss", one) for one in (expected, found))
    assert found.device.type == DEVICE.type
    assert torch.allclose(found.cpu(), expected, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("padding_free", [False, True])
def test_a_policys_outputs_are_the_same(padding_free):
    policy = tiny_policy(padding_free=padding_free, value_head=value_head())
    batch = fixed_batch()
    inputs = batch.token_ids, batch.attention_mask, batch.response_mask
    expected = policy(*inputs, wanted=OUTPUTS)
    found = policy.to(DEVICE)(*(tensor.to(DEVICE) for tensor in inputs), wanted=OUTPUTS)
    assert found.keys() == expected.keys() >= OUTPUTS
    # equally likely tokens may come in another order
    for name in expected.keys() - {"old_top_ids"}:
        assert torch.allclose(found[name].cpu().float(), expected[name].float(), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize(
    ("pieces", "settings"),
    [
        (GRPO, {"updates_per_step": 2, "epochs_per_step": 2, "learning_rate": 1e-3}),
        (GSPO_KL, {}),
        (GSPO_KL, {"gradient_checkpointing": True}),
        (GSPO_KL, {"padding_free": False}),
        (GSPO_KL, {"lora": True}),
        (GSPO_KL, {"dtype": "bf16"}),
        (GSPO_KL, {"dtype": "bf16", "lora": True}),
    ],
)
def test_a_training_steps_gradients_are_the_same(pieces, settings):
    settings = dict(settings)
    lora = settings.pop("lora", False)
    seen = []
    for device in (CPU, DEVICE):
        role = role_of(pieces, lm=with_lora(tiny_lm()) if lora else None, device=device, **settings)
        gradients = record_gradients(role.learner.engine)
        seen.append((gradients, train(role, fixed_batch())))
    (expected, of_cpu), (found, of_device) = seen
    bf16 = settings.get("dtype") == "bf16"
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        for name, gradient in other.items():
            error = float((one[name].cpu().float() - gradient.float()).norm() / gradient.float().norm().clamp(min=1e-3))
            assert error < (0.1 if bf16 else 1e-3), name
    assert of_device == pytest.approx(of_cpu, **({"rel": 0.05, "abs": 0.02} if bf16 else {"rel": 1e-3, "abs": 1e-4}))


@pytest.mark.parametrize("name", actor_critic.CASES)
def test_a_critics_gradients_are_the_same(name):
    expected, found = (
        actor_critic.run(actor_critic.CASES[name], {"device": device}, Ranks()) for device in (CPU, DEVICE)
    )
    for model, steps in expected["gradients"].items():
        for one, other in zip(found["gradients"][model], steps, strict=True):
            on_cpu = {parameter: gradient.cpu() for parameter, gradient in one.items()}
            assert largest_difference(on_cpu, other) < 1e-3
    for one, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


def test_what_is_measured_at_the_head_is_the_same():
    expected, found = (actor_critic.measured_at_the_head({"device": device}, Ranks()) for device in (CPU, DEVICE))
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("here", "there"), [(DEVICE, CPU), (CPU, DEVICE)])
def test_a_checkpoint_goes_on_exactly_and_loads_on_another_device(dtype, here, there, tmp_path):
    role, fresh, elsewhere = (role_of(GRPO, device=device, dtype=dtype) for device in (here, here, there))
    train(role, fixed_batch())
    role.save(tmp_path)
    fresh.load(tmp_path)
    elsewhere.load(tmp_path)
    saved = role.learner.engine.trained_weights()
    assert identical(fresh.learner.engine.trained_weights(), saved)
    moved = {name: weight.to(there) for name, weight in saved.items()}
    assert identical(elsewhere.learner.engine.trained_weights(), moved)
    for one in (role, fresh, elsewhere):
        train(one, fixed_batch(), 1)
    again = [engines_of(one)["policy"].trained_weights() for one in (role, fresh)]
    assert largest_difference(*again) < 1e-6


def test_the_devices_random_stream_is_saved_with_the_others():
    state = random_state()
    first = torch.rand(8, device=DEVICE)
    torch.rand(8, device=DEVICE)
    set_random_state(state)
    assert torch.equal(torch.rand(8, device=DEVICE), first)


@pytest.mark.parametrize("transport", [by_name, by_file])
def test_the_sampler_says_the_trainers_logprobs(transport):
    policy = tiny_policy(tiny_lm(seed=3)).to(DEVICE)
    policy.temperature = 1.0
    tokenizer = character_tokenizer("".join(map(chr, range(48, 48 + 38))))
    sampler = TransformersSampler(tiny_lm(seed=9).to(DEVICE), tokenizer)
    transport(merged_weights(policy.lm), sampler, 5)
    prompts = [[3, 7, 11], [4], [5, 6, 7, 8, 9]]

    def sampled() -> list[Any]:
        async def all_prompts() -> list[Any]:
            asked = [SamplingParams(12, seed=seed, stop_token_ids=(1,)) for seed in range(len(prompts))]
            return await asyncio.gather(*map(sampler.sample, prompts, asked))

        return asyncio.run(all_prompts())

    found = sampled()
    assert sampled() == found
    for prompt, completion in zip(prompts, found, strict=True):
        assert completion.policy_version == 5
        token_ids = torch.tensor([prompt + completion.token_ids], device=DEVICE)
        response = torch.arange(token_ids.shape[1], device=DEVICE)[None] >= len(prompt)
        own = policy(token_ids, torch.ones_like(response), response)["logprobs"][0, len(prompt) :]
        assert completion.logprobs == pytest.approx(own.tolist(), abs=1e-4)
