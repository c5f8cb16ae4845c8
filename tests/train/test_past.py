"""Earlier policies: what is kept, what they say of a batch, and references that lie beyond them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from preference_cases import DPO, preference_batch
from training_cases import identical, role_of, tiny_lm, tiny_policy, train, with_lora

from llmrl.errors import RunStopped
from llmrl.models.weights import merged_weights
from llmrl.providers.models import past_logprobs, past_moves

MNPO = DPO | {
    "preference_loss": {"mnpo": {"weight": 1.0, "weights": [0.75, 0.25]}},
    "history": {"every": 2, "kept": 2},
}


def said_by(role: Any, batch: Any) -> torch.Tensor:
    return role.learner.measure(batch, "logprobs")["logprobs"]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_each_earlier_policy_says_what_it_said_then(lora, tmp_path):
    role, batch = role_of(MNPO, lm=with_lora(tiny_lm()) if lora else None), preference_batch()
    said = [said_by(role, batch)]
    for step in range(1, 7):
        train(role, batch, step - 1)
        role.after(step)
        if step % 2 == 0:
            said.append(said_by(role, batch))
            found = past_logprobs(batch, role.past)
            assert past_moves(role.past) == step // 2
            assert torch.equal(found[..., 0], said[-1]) and torch.equal(found[..., 1], said[-2])
            assert torch.equal(said_by(role, batch), said[-1])  # the policy's weights are back in their place
        else:
            assert past_moves(role.past) == step // 2 and not torch.equal(said_by(role, batch), said[-1])
    role.save(tmp_path)
    again = role_of(MNPO, lm=with_lora(tiny_lm()) if lora else None)
    again.load(tmp_path)
    assert torch.equal(past_logprobs(batch, again.past), past_logprobs(batch, role.past)) and again.past.moves == 3
    fewer = role_of(MNPO | {"preference_loss": {"mnpo": {"weight": 1.0}}, "history": {"kept": 1}})
    with pytest.raises(RunStopped, match="the earlier policies in it are others than those of this run"):
        fewer.past.load(tmp_path, "actor")


def test_the_first_policy_stands_for_those_that_are_missing():
    role, batch = role_of(MNPO), preference_batch()
    start = said_by(role, batch)
    train(role, batch)
    assert all(torch.equal(one, start) for one in past_logprobs(batch, role.past).unbind(-1))
    assert role.past.kept[0] is role.past.kept[1]  # held once


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_writer_gets_the_weights_of_its_policy(lora):
    """As a whole model, that says what the policy said when it was kept."""
    role, batch = role_of(MNPO, lm=with_lora(tiny_lm()) if lora else None), preference_batch()
    first = said_by(role, batch)
    train(role, batch)
    role.after(2)
    train(role, batch, 1)
    for writer, step, version, said in (("past_1", 3, 2, None), ("past_2", 3, 0, first), ("past_2", 1, 0, first)):
        found, weights = role.written_by(writer, step)
        assert found == version
        if said is not None:
            lm = tiny_lm(seed=9)
            lm.load_state_dict(dict(weights()), strict=False)
            given = tiny_policy(lm).eval()(batch.token_ids, batch.attention_mask, batch.response_mask)["logprobs"]
            assert torch.allclose(given.detach(), said, atol=1e-5)
    assert identical(dict(role.learner.weights()), dict(merged_weights(role.learner.engine.model.lm)))


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_reference_with_momentum_lies_beyond_the_last_move(lora):
    role = role_of(DPO | {"reference": {"every": 1, "momentum": 0.5}}, lm=with_lora(tiny_lm()) if lora else None)
    batch = preference_batch()
    said = [said_by(role, batch)]
    assert torch.allclose(role.models["reference"].measure(batch, "logprobs")["logprobs"], said[0], atol=1e-6)
    for step in (1, 2):
        train(role, batch, step - 1)
        role.after(step)
        said.append(said_by(role, batch))
    found = role.models["reference"].measure(batch, "logprobs")["logprobs"]
    assert torch.allclose(found, 1.5 * said[2] - 0.5 * said[1], atol=1e-5)
    with pytest.raises(RunStopped, match=r"reference\.momentum: extrapolates log-probabilities, but a piece reads hid"):
        role.models["reference"].measure(batch, "hidden")
