"""Token-level DPO on a fixed batch, against the whole vocabulary's distributions token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_close, log_p_of, naive_gradients, tokens_of
from peft import LoraConfig, get_peft_model
from torch.nn.functional import logsigmoid
from training_cases import LAYOUTS, fixed_batch, record_gradients, role_of, tiny_lm

from llmrl.train.provide import provide
from llmrl.train.step import update

DATA = {"train": {"path": "unused", "chosen": "good", "rejected": "bad"}}
OFFLINE = {"learn_from": "preferences", "data": DATA, "rollout": {"group_size": 2}}
PAIR = (2, 0)
"""The chosen row and the rejected one; the others have no pair."""


def batch_of_a_pair() -> Any:
    batch = fixed_batch()
    rewards = torch.zeros_like(batch.rewards)
    rewards[PAIR[0], tokens_of(LAYOUTS[PAIR[0]])[-1]] = 1.0
    group_ids = torch.tensor([0, 1, 0, 3, 4, 5, 6])
    return batch.with_(rewards=rewards, rollout_logprobs=torch.zeros_like(rewards), group_ids=group_ids)


def of_rows(lm: Any, reference: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The log ratio and the summed KL(reference || policy) of the chosen, then of the rejected completion."""
    batch, found = batch_of_a_pair(), []
    for row in PAIR:
        token_ids = batch.token_ids[row, : len(LAYOUTS[row])].tolist()
        log_p, log_q = log_p_of(lm, token_ids), log_p_of(reference, token_ids).detach()
        at = [t - 1 for t in tokens_of(LAYOUTS[row])]
        ratio = sum((log_p - log_q)[t, token_ids[t + 1]] for t in at)
        found.append((ratio, (log_q.exp() * (log_q - log_p))[at].sum()))
    return found


def naive(name: str, lm: Any, reference: Any) -> torch.Tensor:
    (u_w, k_w), (u_l, k_l) = of_rows(lm, reference)
    gap = k_l - k_w if name == "tdpo1" else 0.7 * (k_l - k_w.detach())
    return -logsigmoid(0.4 * (u_w - u_l - gap))


def recipe(name: str) -> dict[str, Any]:
    alpha = {"alpha": 0.7} if name == "tdpo2" else {}
    return OFFLINE | {"preference_loss": {name: {"weight": 1.0, "beta": 0.4} | alpha}}


@pytest.mark.parametrize("padding_free", [True, False])
@pytest.mark.parametrize("name", ["tdpo1", "tdpo2"])
def test_the_loss_and_its_gradient_are_those_of_all_logits(name, padding_free):
    role = role_of(recipe(name), padding_free=padding_free)
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, batch_of_a_pair()), seed=0)
    lm = tiny_lm()
    expected = naive(name, lm, tiny_lm(seed=3))
    assert_close(gradients[-1], naive_gradients(lm, expected))
    assert metrics["preference_loss"] == pytest.approx(expected.item(), abs=1e-5)


def test_the_base_of_an_adapted_head_is_the_reference():
    """An adapter on the head too, whose logits run in slices of tokens."""
    torch.manual_seed(1)
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    lm = get_peft_model(tiny_lm(tied=False), config)
    for parameter in (one for name, one in lm.named_parameters() if "lora_B" in name):
        parameter.data.normal_(std=0.1)
    role = role_of(recipe("tdpo1"), lm=lm)
    expected = naive("tdpo1", lm, tiny_lm(tied=False))
    assert abs(of_rows(lm, tiny_lm(tied=False))[0][1].item()) > 0.01
    named = {name: one for name, one in lm.named_parameters() if one.requires_grad}
    wanted = dict(zip(named, torch.autograd.grad(expected, list(named.values())), strict=True))
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, batch_of_a_pair()), seed=0)
    assert metrics["preference_loss"] == pytest.approx(expected.item(), abs=1e-5)
    found = gradients[-1]
    assert len(found) == len(wanted)
    for name, gradient in wanted.items():
        [ours] = [value for key, value in found.items() if key.endswith(name)]
        assert torch.allclose(ours, gradient, atol=1e-5)
