"""Blocks of a head's logits against all of them at once, differentiated by autograd."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from llmrl.ops.shared import head_logprobs as module
from llmrl.ops.shared.head_logprobs import Scaling, head_logprobs
from llmrl.ops.shared.logprobs import entropies, log_probabilities

SCALINGS = [Scaling(), Scaling(0.5, 2.0), Scaling(0.7, 0.5, 3.0)]
WAYS: dict[str, dict[str, int]] = {
    "one_block": {},
    "computed_again": {"KEPT_BYTES": 0},
    # 13 x 4 logits in a block: the vocabulary and the tokens are both divided
    "many_blocks": {"CPU_BLOCK_BYTES": 4 * 13 * 4, "LEAST_WIDTH": 13, "KEPT_BYTES": 0},
    "some_kept": {"CPU_BLOCK_BYTES": 4 * 13 * 4, "LEAST_WIDTH": 13, "KEPT_BYTES": 4 * 13 * 25},
}


def plain(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, scaling: Scaling
) -> tuple[Tensor, Tensor]:
    x = nn.functional.linear(hidden, weight, bias)
    log_p = torch.log_softmax(scaling(x), dim=-1)
    return log_p.gather(1, targets), entropies(log_p)


def case(tokens: int, *, targets: int = 1, vocabulary: int = 31, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    ids = torch.randint(0, vocabulary, (tokens, targets), generator=generator)
    return {"hidden": draw(tokens, 8), "weight": draw(vocabulary, 8), "bias": draw(vocabulary), "targets": ids}


def outcome(logprobs: Tensor, entropy: Tensor, inputs: dict[str, Any], *, of_entropy: bool) -> dict[str, Tensor]:
    """Values, and gradients of a sum in which every token counts differently and every third not at all."""
    weights = torch.linspace(-1.0, 2.0, logprobs.numel()).reshape(logprobs.shape)
    weights[::3] = 0
    loss = (weights * logprobs).sum()
    if of_entropy:
        loss = loss + (weights[:, 0] * entropy).sum()
    trained = {name: x for name, x in inputs.items() if x is not None and x.requires_grad}
    gradients = torch.autograd.grad(loss, list(trained.values()))
    return {"logprobs": logprobs.detach(), "entropy": entropy.detach()} | dict(zip(trained, gradients, strict=True))


@pytest.mark.parametrize("of_entropy", [False, True], ids=["logprobs", "entropy"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
@pytest.mark.parametrize("bias", ["none", "finite", "forbids"])
@pytest.mark.parametrize("scaling", SCALINGS, ids=["plain", "scaled", "capped"])
@pytest.mark.parametrize("way", WAYS)
def test_equals_all_logits_at_once(way, scaling, bias, frozen, of_entropy, monkeypatch):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(module, name, value)
    for tokens, targets in ((0, 1), (1, 3), (25, 1), (25, 4)):
        inputs = case(tokens, targets=targets)
        if bias == "forbids":
            inputs["targets"] = inputs["targets"] // 3 * 3
            inputs["bias"].data[1::3] = -math.inf
        inputs["bias"] = None if bias == "none" else inputs["bias"]
        for name in ("weight", "bias"):
            if frozen and inputs[name] is not None:
                inputs[name].requires_grad_(False)
        expected = outcome(*plain(*inputs.values(), scaling), inputs, of_entropy=of_entropy)
        found = head_logprobs(*inputs.values(), scaling=scaling)
        found = outcome(found["logprobs"], found["entropy"], inputs, of_entropy=of_entropy)
        for name, values in expected.items():
            atol = 1e-5 * max([1.0, *values.abs().flatten().tolist()])
            torch.testing.assert_close(found[name], values, atol=atol, rtol=0, msg=lambda text, name=name: name + text)


@pytest.mark.parametrize("scaling", SCALINGS, ids=["plain", "scaled", "capped"])
@pytest.mark.parametrize("frozen", [False, True], ids=["trained", "frozen"])
def test_gradients_are_those_of_finite_differences(scaling, frozen, monkeypatch):
    for name, value in WAYS["many_blocks"].items():
        monkeypatch.setattr(module, name, value)
    inputs = case(5, targets=2, dtype=torch.float64)
    targets = inputs.pop("targets")
    if frozen:
        inputs["weight"].requires_grad_(False)
        inputs["bias"].requires_grad_(False)

    def both(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        found = head_logprobs(*tensors, targets, scaling=scaling)
        return found["logprobs"], found["entropy"]

    assert torch.autograd.gradcheck(both, tuple(inputs.values()))
    assert torch.autograd.gradcheck(lambda *tensors: both(*tensors)[0], tuple(inputs.values()))


def test_two_tokens_by_hand():
    # outputs [0, ln 9] at temperature 2 are [0, ln 3]: p = [1/4, 3/4]; H = ln4/4 + (3/4) ln(4/3) = 0.562335
    hidden, weight = torch.ones(2, 1), torch.tensor([[0.0], [math.log(9)]])
    found = head_logprobs(hidden, weight, None, torch.tensor([[0], [1]]), scaling=Scaling(2.0), most_likely=2)
    torch.testing.assert_close(found["logprobs"], torch.tensor([[math.log(0.25)], [math.log(0.75)]]))
    torch.testing.assert_close(found["entropy"], torch.tensor([0.562335, 0.562335]))
    assert found["old_top_ids"].tolist() == [[1, 0], [1, 0]]
    torch.testing.assert_close(found["old_top_logprobs"][0], torch.tensor([math.log(0.75), math.log(0.25)]))


def test_a_forbidden_token_has_no_probability():
    """The two others share it: log 1/2, entropy ln 2."""
    hidden, weight, bias = torch.zeros(1, 1), torch.zeros(3, 1), torch.tensor([1.0, -math.inf, 1.0])
    found = head_logprobs(hidden, weight, bias, torch.tensor([[0, 1]]), most_likely=3)
    assert found["logprobs"].tolist() == [[pytest.approx(math.log(0.5)), -math.inf]]
    assert found["entropy"].tolist() == [pytest.approx(math.log(2))]
    assert found["old_top_logprobs"][0, 2] == -math.inf and found["old_top_ids"][0, 2] == 1


@pytest.mark.parametrize("way", WAYS)
def test_most_likely_tokens_are_those_of_the_whole_vocabulary(way, monkeypatch):
    for name, value in WAYS[way].items():
        monkeypatch.setattr(module, name, value)
    inputs = case(25)
    best = log_probabilities(nn.functional.linear(inputs["hidden"], inputs["weight"], inputs["bias"])).topk(4)
    found = head_logprobs(*inputs.values(), entropy=False, most_likely=4)
    assert found.keys() == {"logprobs", "old_top_ids", "old_top_logprobs"}
    assert torch.equal(found["old_top_ids"], best.indices) and not found["old_top_logprobs"].requires_grad
    torch.testing.assert_close(found["old_top_logprobs"], best.values.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("trained", "targets"), [(True, 1), (False, 1), (False, 3)])
def test_bf16_logits_are_rounded_as_a_heads_and_reduced_in_fp32(trained, targets, monkeypatch):
    for name, value in WAYS["many_blocks"].items():
        monkeypatch.setattr(module, name, value)
    inputs = case(25, targets=targets, dtype=torch.bfloat16)
    with torch.no_grad():  # the first targets are likely: p is nearly 1
        inputs["hidden"] += 3 * inputs["weight"][inputs["targets"][:, 0]]
    for name in ("weight", "bias"):
        inputs[name].requires_grad_(trained)
    expected = outcome(*plain(*inputs.values(), Scaling()), inputs, of_entropy=False)
    found = head_logprobs(*inputs.values())
    found = outcome(found["logprobs"], found["entropy"], inputs, of_entropy=False)
    for name in ("logprobs", "entropy"):
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], expected[name], atol=1e-5, rtol=0)
    for name in ("hidden", "weight", "bias") if trained else ("hidden",):
        assert found[name].dtype == torch.bfloat16
        error = (found[name].float() - expected[name].float()).norm() / expected[name].float().norm()
        assert error < 1e-2, name


class Largest(TorchDispatchMode):
    """The number of bytes of the largest tensor that is made."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.bytes = max(self.bytes, result.untyped_storage().nbytes())
        return result


def test_no_tensor_is_larger_than_a_block(monkeypatch):
    for name, value in {"CPU_BLOCK_BYTES": 2**16, "KEPT_BYTES": 2**17}.items():
        monkeypatch.setattr(module, name, value)
    inputs = case(100, vocabulary=4000)  # 1.6 MB of logits; the weight has 128 KB
    with Largest() as largest:
        found = head_logprobs(*inputs.values())
        (found["logprobs"].sum() + found["entropy"].sum()).backward()
    assert largest.bytes <= 4 * 100 * 512


def test_tokens_that_the_loss_leaves_out_cost_no_backward_pass():
    inputs = case(25)
    found = head_logprobs(*inputs.values())
    with Largest() as largest:
        (found["logprobs"][3:4].sum() + found["entropy"][3:4].sum()).backward()
    assert 4 * 31 <= largest.bytes < 4 * 31 * 25
    assert inputs["hidden"].grad[3].any() and not inputs["hidden"].grad[[0, 1, 2, 4, 24]].any()


def test_temperature_zero_is_refused():
    with pytest.raises(ValueError, match=r"temperature: 0\.0"):
        Scaling(0.0)
