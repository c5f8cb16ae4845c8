"""The weights that a sampler is sent: an adapter alone once its base is there, or both merged and measured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training_cases import GRPO, role_of, tiny_lm, with_lora

from llmrl.models.weights import PREFIX, adapter_weights, base_weights, merged_weights
from llmrl.run.weight_sync import send


class Taking:
    takes_adapter = True


def sent(learner: Any, sampler: Any, *, first: bool) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    taken: dict[str, torch.Tensor] = {}

    def transport(weights: Any, to: Any, version: int) -> None:
        assert (to, version) == (sampler, 7)
        taken.update(weights)

    return taken, send(learner, sampler, transport, 7, first=first)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_an_adapter_is_sent_alone_or_merged(dtype):
    learner = role_of(GRPO, lm=with_lora(tiny_lm()), dtype=dtype).learner
    lm = learner.engine.model.lm
    base, adapter = dict(base_weights(lm)), dict(adapter_weights(lm))
    taken, metrics = sent(learner, Taking(), first=True)
    assert taken.keys() == base.keys() | adapter.keys() and metrics == {}
    taken, metrics = sent(learner, Taking(), first=False)
    assert taken.keys() == adapter.keys() and metrics == {}
    assert all(name.startswith(PREFIX) and torch.equal(taken[name], adapter[name]) for name in taken)
    taken, metrics = sent(learner, object(), first=False)
    expected = dict(merged_weights(lm))
    assert all(torch.equal(taken[name], weight) for name, weight in expected.items()) and taken.keys() == base.keys()
    assert metrics["adapter_kept"] == pytest.approx(1.0, abs=1e-6 if dtype == "fp32" else 0.05)


def test_what_rounding_undoes_is_measured():
    learner = role_of(GRPO, lm=with_lora(tiny_lm()), dtype="bf16").learner
    for name, factor in learner.engine.model.lm.named_parameters():
        if "lora_B" in name:
            factor.data.mul_(1e-4)
    assert sent(learner, object(), first=True)[1]["adapter_kept"] < 0.3


def test_without_an_adapter_all_weights_are_sent():
    learner = role_of(GRPO).learner
    taken, metrics = sent(learner, Taking(), first=False)
    assert taken.keys() == dict(learner.engine.model.lm.named_parameters()).keys() and metrics == {}
