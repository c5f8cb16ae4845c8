"""TorchEngine on the tiny model: what it computes does not depend on how the work was cut, and it goes on exactly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from training_cases import (
    fixed_batch,
    identical,
    largest_difference,
    make_training,
    tiny_lm,
    tiny_policy,
    weights_of,
    with_lora,
)

from llmrl.engines.engine import make_optimizer
from llmrl.engines.torch_engine import TorchEngine
from llmrl.errors import RunStopped

CPU = torch.device("cpu")


def make_engine(lm: Any = None, **settings: Any) -> TorchEngine:
    return TorchEngine(tiny_policy(lm), make_training(**settings), CPU)


def row_losses(engine: TorchEngine, rows: list[int]) -> Tensor:
    """A sum over tokens, each of a different weight: 1, 2, ... per column."""
    batch = fixed_batch().rows(torch.tensor(rows))
    found = engine.forward(batch.token_ids, batch.attention_mask, batch.response_mask, wanted=frozenset({"entropy"}))
    logprobs, entropy = found["logprobs"], found["entropy"]
    return ((entropy - logprobs) * torch.arange(1, logprobs.shape[1] + 1)).sum() / 500


def accumulate(engine: TorchEngine, cuts: list[list[int]]) -> None:
    for index, rows in enumerate(cuts):
        engine.backward(row_losses(engine, rows), last=index == len(cuts) - 1)


def train(engine: TorchEngine, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        accumulate(engine, [[0, 1, 2], [3, 4, 6]])
        rates.append(engine.step().learning_rate)
    return rates


def trained_copy(engine: TorchEngine) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in engine.model.lm.named_parameters()}


@pytest.mark.parametrize(
    "cuts", [[[0], [1], [2], [3], [4], [5], [6]], [[6, 2, 0], [5], [1, 3, 4]], [[4], [0, 1, 2, 3, 5, 6]]]
)
def test_any_cut_into_micro_batches_gives_one_gradient(cuts):
    whole, cut = make_engine(), make_engine()
    accumulate(whole, [[0, 1, 2, 3, 4, 5, 6]])
    accumulate(cut, cuts)
    assert largest_difference(cut.full_gradients(), whole.full_gradients()) < 1e-5


@pytest.mark.parametrize("max_grad_norm", [0.01, 1e9])
def test_step_clips_to_the_norm_and_then_is_adamw(max_grad_norm):
    """The reference: the same gradients scaled by hand, and torch's AdamW on a plain model."""
    engine = make_engine(max_grad_norm=max_grad_norm, weight_decay=0.1)
    plain = tiny_lm()
    accumulate(engine, [[0, 1, 2, 3, 4]])
    gradients = engine.full_gradients()
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in gradients.values()))
    scale = min(1.0, max_grad_norm / (norm + 1e-6))
    assert (scale < 1) == (max_grad_norm == 0.01)
    for name, parameter in plain.named_parameters():
        parameter.grad = gradients[name] * scale
    groups = [
        {"params": [p for p in plain.parameters() if p.dim() == 2], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.dim() == 1], "weight_decay": 0.0},
    ]
    torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.95)).step()
    done = engine.step()
    assert done.grad_norm == pytest.approx(norm, rel=1e-5)
    assert done.learning_rate == 1e-2
    assert largest_difference(trained_copy(engine), dict(plain.named_parameters())) < 1e-6
    assert engine.full_gradients() == {}  # the next step starts from none


def test_norms_and_frozen_weights_are_not_decayed():
    lm = with_lora(tiny_lm())
    groups = make_optimizer(lm.parameters(), make_training(weight_decay=0.1)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1]  # adapters are matrices, all else is frozen
    assert len(groups[0]["params"]) == sum(p.requires_grad for p in lm.parameters())


def test_schedule_counts_optimizer_steps():
    """2 warmup steps of 2 x 1 updates: 4 optimizer steps up from 0, then linearly to 0 at 5 x 2 = 10."""
    engine = make_engine(schedule="linear", warmup_steps=2, steps=5, updates_per_step=2, learning_rate=0.12)
    expected = [0.0, 0.03, 0.06, 0.09, 0.12, 0.10, 0.08, 0.06, 0.04, 0.02]
    assert train(engine, 10) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_numbers_stop_before_the_weights_change(bad):
    engine = make_engine(weight_decay=0.1)
    train(engine, 1)  # moments that would move the weights
    before = trained_copy(engine)
    engine.backward(row_losses(engine, [0, 1]), last=False)
    engine.backward(row_losses(engine, [2]) * bad, last=True)
    with pytest.raises(RunStopped, match="gradient's norm is nan: stopped before the update"):
        engine.step()
    assert identical(trained_copy(engine), before)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_loaded_engine_goes_on_bit_for_bit(lora, dtype, tmp_path):
    def make() -> TorchEngine:
        lm = with_lora(tiny_lm()) if lora else tiny_lm()
        return make_engine(lm, schedule="cosine", warmup_steps=3, dtype=dtype)

    engine, fresh = make(), make()
    train(engine, 4)
    engine.save(tmp_path)
    rates = train(engine, 3)
    fresh.load(tmp_path)
    assert train(fresh, 3) == rates and len(set(rates)) == 3
    assert identical(trained_copy(fresh), trained_copy(engine))
    assert not identical(trained_copy(fresh), trained_copy(make()))


def test_a_run_may_go_on_with_other_settings(tmp_path):
    """Moments come from the checkpoint, settings from the recipe: 6 steps are done, of 10 and then of 20."""
    engine = make_engine(schedule="linear", steps=10, learning_rate=0.1)
    train(engine, 6)
    engine.save(tmp_path)
    longer = make_engine(schedule="linear", steps=20, learning_rate=0.2, weight_decay=0.3)
    longer.load(tmp_path)
    assert identical(trained_copy(longer), trained_copy(engine))
    assert train(longer, 2) == pytest.approx([0.2 * 14 / 20, 0.2 * 13 / 20])
    assert [group["weight_decay"] for group in longer._optimizer.param_groups] == [0.3, 0.0]


def test_load_refuses_other_weights(tmp_path):
    engine = make_engine(with_lora(tiny_lm()))
    engine.save(tmp_path)
    with pytest.raises(RunStopped, match=r"holds other weights than are trained here: .*lora_A"):
        make_engine(tiny_lm()).load(tmp_path)


def test_bf16_computes_in_bf16_and_updates_fp32_masters(tmp_path):
    engines = {dtype: make_engine(dtype=dtype) for dtype in ("fp32", "bf16")}
    seen: list[torch.dtype] = []
    lm = engines["bf16"].model.lm
    lm.model.layers[0].mlp.down_proj.register_forward_hook(lambda module, given, result: seen.append(result.dtype))
    for engine in engines.values():
        accumulate(engine, [[0, 1, 2], [3, 4]])
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in lm.parameters()} == {torch.bfloat16}
    assert lm.model.rotary_emb.inv_freq.dtype == torch.float32  # rounded positions would be another model
    exact, rough = (engines[dtype].full_gradients() for dtype in ("fp32", "bf16"))
    for name, gradient in exact.items():
        assert rough[name].dtype == torch.float32
        # bf16 has 8 bits: a few parts in a hundred
        assert float((rough[name] - gradient).norm() / gradient.norm()) < 0.05, name
        assert not torch.equal(rough[name], gradient)
    engines["bf16"].step()
    engines["bf16"].save(tmp_path)
    masters = torch.load(tmp_path / "engine.pt")["weights"]
    for name, parameter in lm.named_parameters():
        assert masters[name].dtype == torch.float32
        assert torch.equal(masters[name].bfloat16(), parameter)  # the model is the masters, rounded
    assert any(not torch.equal(masters[name], p.float()) for name, p in lm.named_parameters())


def test_bf16_masters_keep_updates_too_small_for_bf16():
    # 1e-5 on weights of about 0.1 is under half a bf16 step (0.1 x 2^-9 = 2e-4): a model without masters would
    # stand still; here 30 such updates of one sign add up to 3e-4 and show
    engine = make_engine(dtype="bf16", learning_rate=1e-5, steps=40)
    before = trained_copy(engine)
    for _ in range(30):
        accumulate(engine, [[0, 1]])
        engine.step()
    after = trained_copy(engine)
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_weights_have_hugging_face_names_and_adapters_merged():
    lm = with_lora(tiny_lm())
    found = weights_of(make_engine(lm))
    expected = dict(lm.merge_and_unload().named_parameters())
    assert "model.layers.0.self_attn.q_proj.weight" in found
    assert largest_difference(found, expected) < 1e-6
