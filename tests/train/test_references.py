"""References that move, against the sum written out; and rows that were measured before the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from preference_cases import DPO, MOVING, preference_batch
from safetensors.torch import load_file, save_file
from training_cases import (
    TEMPERATURE,
    fixed_batch,
    identical,
    role_of,
    tiny_lm,
    tiny_policy,
    train,
    weights_of,
    with_lora,
)

from llmrl.errors import RecipeError, RunStopped
from llmrl.ops.shared.head_kl import Predictor
from llmrl.train.measured_rows import MeasuredRows
from llmrl.train.references import MovingWeights

MADE_WITH = {"reference model": "a", "dtype": "fp32"}


def moving_role(lora: bool, **settings: Any) -> Any:
    return role_of(MOVING | settings, lm=with_lora(tiny_lm()) if lora else None)


def kept(role: Any) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in role.moving.kept.items()}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_move_mixes_the_policy_in(lora):
    role = moving_role(lora, reference={"every": 2, "mix": 0.25})
    start = kept(role)
    train(role, preference_batch())
    role.moving.after(1)
    assert identical(kept(role), start)  # not due
    role.moving.after(2)
    policy = role.learner.engine.trained_weights() if lora else weights_of(role.learner.engine)
    for name, weight in kept(role).items():
        assert torch.allclose(weight, 0.25 * policy[name] + 0.75 * start[name], atol=1e-6), name
    assert not identical(kept(role), start)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_after_a_whole_move_the_reference_says_what_the_policy_says(lora):
    role, batch = moving_role(lora, reference={"every": 1}), preference_batch()
    metrics = train(role, batch)
    assert lora == (metrics["preference_margin"] == 0.0)  # an adapter's reference starts as the adapter does
    before = role.learner.engine.trained_weights()
    role.moving.after(1)
    reference = role.models["reference"].measure(batch, "logprobs")["logprobs"]
    assert torch.equal(reference, role.learner.measure(batch, "logprobs")["logprobs"])
    assert identical(role.learner.engine.trained_weights(), before)  # the policy's adapter is back in its place
    metrics = train(role, batch, 1)
    assert (metrics["preference_margin"], metrics["preference_ties"]) == (0, 1)


def test_an_adapters_reference_is_the_merged_model():
    """A frozen copy of the whole model that the adapter started as, with the policy elsewhere since."""
    role, batch = moving_role(True, reference={"every": 5}), preference_batch()
    copy = tiny_policy(with_lora(tiny_lm()).merge_and_unload()).eval()
    train(role, batch)
    found = role.models["reference"].measure(batch, "logprobs")["logprobs"]
    expected = copy(batch.token_ids, batch.attention_mask, batch.response_mask)["logprobs"].detach()
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_a_loaded_role_goes_on_bit_for_bit(lora, tmp_path):
    first, second = moving_role(lora), moving_role(lora)
    train(first, preference_batch())
    first.moving.after(1)
    first.save(tmp_path)
    second.load(tmp_path)
    found = [train(role, preference_batch(), 1) for role in (first, second)]
    assert found[0] == found[1]
    for role in (first, second):
        role.moving.after(2)
    assert identical(kept(first), kept(second)) and not identical(kept(first), kept(moving_role(lora)))


def test_small_moves_are_not_lost_in_bf16():
    role = role_of(MOVING | {"reference": {"every": 1, "mix": 0.001}}, dtype="bf16")
    start = kept(role)
    for step in range(3):
        role.moving.after(step + 1)
    policy = weights_of(role.learner.engine)
    for name, weight in kept(role).items():
        expected = policy[name].float() + (start[name] - policy[name].float()) * 0.999**3
        assert weight.dtype == torch.float32 and torch.allclose(weight, expected, atol=1e-6), name


def test_a_reference_of_another_shape_cannot_move():
    role = role_of(DPO)
    with pytest.raises(RecipeError, match=r"reference\.every: .* reference\.model has other weights .*lm_head"):
        MovingWeights(role.learner, 1, 0.5, tiny_policy(tiny_lm(tied=False)))


# measured beforehand


def measured(role: Any, batch: Any) -> MeasuredRows:
    found = MeasuredRows(MADE_WITH)
    assert found.lacks(batch)
    found.add(batch, role.models["reference"].measure(batch, "logprobs")["logprobs"])
    assert not found.lacks(batch)
    return found


def test_measured_rows_train_like_the_model_that_measured_them_which_is_not_run(tmp_path):
    """In another order and another padding than they were measured in, after a file."""
    batch = preference_batch()
    expected = train(role_of(DPO), batch)
    role = role_of(DPO)
    measured(role, batch.rows(torch.tensor([6, 5, 4, 3, 2, 1, 0]))).save(tmp_path / "rows.safetensors")
    role.measured = MeasuredRows(MADE_WITH)
    role.measured.load(tmp_path / "rows.safetensors")
    assert len(role.measured) == 7
    role.reference.register_forward_hook(lambda *given: pytest.fail("the reference has run"))
    assert train(role, batch) == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_row_that_was_not_measured_is_never_zero():
    role, batch = role_of(DPO), preference_batch()
    role.measured = measured(role, batch)
    other = batch.with_(token_ids=torch.where(batch.response_mask, 5, batch.token_ids))
    with pytest.raises(RunStopped, match=r"reference\.precompute: the source gave a row that was not there before"):
        train(role, other)
    with pytest.raises(RunStopped, match="keeps log-probabilities alone, but a piece reads entropy"):
        role.measured.measure(batch, "entropy")


def test_stale_foreign_and_damaged_files_are_refused_by_name(tmp_path):
    file = tmp_path / "rows.safetensors"
    measured(role_of(DPO), fixed_batch()).save(file)
    with pytest.raises(RecipeError, match=r"rows\.safetensors: .* another reference model and tokenizer than"):
        MeasuredRows({"reference model": "b", "dtype": "fp32", "tokenizer": "t"}).load(file)
    tensors, whole = load_file(file), file.read_bytes()
    place = whole.rindex(tensors["logprobs"].numpy().tobytes()[:64])
    file.write_bytes(whole[:place] + b"\0\0\0\0" + whole[place + 4 :])
    with pytest.raises(RecipeError, match=r"rows\.safetensors: is damaged"):
        MeasuredRows(MADE_WITH).load(file)
    file.write_bytes(whole[:-9])
    with pytest.raises(RecipeError, match=r"rows\.safetensors: is no file of a reference's log-probabilities"):
        MeasuredRows(MADE_WITH).load(file)
    save_file(tensors, file)  # as another program writes it
    with pytest.raises(RecipeError, match=r"rows\.safetensors: is no file of a reference's log-probabilities"):
        MeasuredRows(MADE_WITH).load(file)


def test_both_divergences_from_a_reference_are_those_of_all_logits():
    """Blocks of the vocabulary for a plain head, slices of tokens for any other; column t speaks of token t."""
    policy, reference, batch = tiny_policy().eval(), tiny_policy(tiny_lm(seed=3)).eval(), fixed_batch()
    inputs = batch.token_ids, batch.attention_mask, batch.response_mask
    hidden = reference(*inputs, wanted=frozenset({"hidden"}))["hidden"].detach()
    policy.compare_with(reference)
    asked = frozenset({"ref_kl", "policy_kl"})
    found = policy(*inputs, wanted=asked, known={"ref_hidden": hidden})
    both = [one.lm(*inputs[:2]).logits.float() / TEMPERATURE for one in (policy, reference)]
    log_p, log_q = (logits.log_softmax(-1).detach() for logits in both)
    expected = {
        "policy_kl": (log_p.exp() * (log_p - log_q)).sum(-1),
        "ref_kl": (log_q.exp() * (log_q - log_p)).sum(-1),
    }
    mask = batch.response_mask[:, 1:]
    for name, values in expected.items():
        assert torch.allclose(found[name][:, 1:][mask], values[:, :-1][mask], atol=1e-5), name
        assert (found[name][~batch.response_mask] == 0).all() and found[name].requires_grad
    rows = policy(*inputs, wanted=frozenset({"hidden"}))["hidden"][batch.response_mask]
    head = reference.lm.get_output_embeddings()
    predictor = Predictor(hidden[batch.response_mask], head.weight.detach(), None)
    targets = batch.token_ids[batch.response_mask][:, None]
    sliced = policy._head._sliced(
        rows, targets, predictor, sorted(asked), entropy=False, most_likely=0, partition=False
    )
    for name in asked:
        assert torch.allclose(sliced[name], found[name][batch.response_mask], atol=1e-5), name
