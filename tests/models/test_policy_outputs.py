"""What a policy says beside log-probabilities, against each trajectory alone through the model's own forward."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_policy import LAYOUT, TEMPERATURE, VOCABULARY, inputs, make_lm, make_lora
from torch import Tensor

from llmrl.errors import RecipeError
from llmrl.models import head as head_module
from llmrl.models.critic import ValueHead
from llmrl.models.policy import Policy
from llmrl.ops.shared import head_logprobs

ENTROPY = frozenset({"entropy"})
TOP = frozenset({"old_top_ids", "old_top_logprobs"})
CHOICES = frozenset({"old_router_ids", "old_router_logprobs"})
DRIFT = frozenset({"router_drift"})
NORMS = frozenset({"head_gradient_norms"})
GRADIENTS = frozenset({"head_gradients"})
VALUES = frozenset({"value_outputs"})
EXPERTS: dict[str, Any] = {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 16}
MIXTURES: dict[str, dict[str, Any]] = {
    "qwen3_moe": EXPERTS,
    "qwen2_moe": EXPERTS | {"shared_expert_intermediate_size": 16},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 3},
}

both_layouts = pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])


def in_slices_of(tokens: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices, and blocks of 10 vocabulary entries, for so many tokens."""
    monkeypatch.setattr(head_module, "LOGIT_BYTES_PER_SLICE", 4 * VOCABULARY * tokens)
    monkeypatch.setattr(head_logprobs, "CPU_BLOCK_BYTES", 4 * 10 * tokens)
    monkeypatch.setattr(head_logprobs, "LEAST_WIDTH", 10)


def each_alone(lm: Any) -> Iterator[tuple[int, int, Any]]:
    """(row, t, the model's own outputs on the row's tokens alone) for every response token."""
    token_ids, attention_mask, response_mask = inputs()
    for row in range(len(token_ids)):
        length = int(attention_mask[row].sum())
        found = lm(input_ids=token_ids[row : row + 1, :length], use_cache=False, output_hidden_states=True)
        yield from ((row, t, found) for t in range(1, length) if response_mask[row, t])


def log_p_before(found: Any, t: int) -> Tensor:
    return torch.log_softmax(found.logits[0, t - 1].float() / TEMPERATURE, dim=-1)


def assert_zero_off_the_response(values: Tensor) -> None:
    response_mask = inputs()[2]
    assert not values[~response_mask].any()
    assert values[response_mask].any()


# the most likely tokens


@both_layouts
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("tokens", [1, 5, 100])
def test_most_likely_tokens(tokens, adapted, padding_free, monkeypatch):
    in_slices_of(tokens, monkeypatch)
    lm = make_lora(make_lm()) if adapted else make_lm()
    found = Policy(lm, temperature=TEMPERATURE, padding_free=padding_free)(*inputs(), wanted=TOP)
    ids, logprobs = found["old_top_ids"], found["old_top_logprobs"]
    assert ids.shape == logprobs.shape == (5, 10, 8) and ids.dtype == torch.int64
    assert not logprobs.requires_grad
    for row, t, alone in each_alone(lm):
        log_p = log_p_before(alone, t)
        assert ids[row, t].tolist() == sorted(range(VOCABULARY), key=lambda v: -log_p[v].item())[:8]
        torch.testing.assert_close(logprobs[row, t], log_p[ids[row, t]].detach(), atol=1e-5, rtol=1e-5)
    assert_zero_off_the_response(ids)
    assert_zero_off_the_response(logprobs)


def test_a_small_vocabulary_is_given_whole():
    found = Policy(make_lm(vocab_size=5))(inputs()[0] % 5, *inputs()[1:], wanted=frozenset({"old_top_ids"}))
    response_mask = inputs()[2]
    assert found["old_top_ids"].shape == (5, 10, 5)
    assert (found["old_top_ids"][response_mask].sort().values == torch.arange(5)).all()
    assert found["old_top_logprobs"][response_mask].exp().sum(-1).tolist() == pytest.approx([1.0] * 12)


@both_layouts
@pytest.mark.parametrize("tokens", [1, 5, 100])
def test_known_tokens_are_given_their_log_probabilities_now(tokens, padding_free, monkeypatch):
    """Other weights chose them; what lies off the response has no influence."""
    in_slices_of(tokens, monkeypatch)
    known = dict(Policy(make_lm("llama"))(*inputs(), wanted=TOP))
    known["old_top_ids"][~inputs()[2]] = -(2**60)
    lm = make_lm("qwen3")
    found = Policy(lm, temperature=TEMPERATURE, padding_free=padding_free)(
        *inputs(), wanted=frozenset({"top_logprobs"}), known=known
    )
    weights = torch.linspace(-1.0, 2.0, found["top_logprobs"].numel()).reshape(found["top_logprobs"].shape)
    (found["top_logprobs"] * weights).sum().backward()
    gradients = {name: p.grad.clone() for name, p in lm.named_parameters() if p.grad is not None}
    lm.zero_grad()
    expected = torch.zeros(5, 10, 8)
    for row, t, alone in each_alone(lm):
        expected[row, t] = log_p_before(alone, t)[known["old_top_ids"][row, t]]
    torch.testing.assert_close(found["top_logprobs"], expected, atol=1e-5, rtol=1e-5)
    (expected * weights).sum().backward()
    for name, parameter in lm.named_parameters():
        atol = 1e-5 * max(1.0, float(parameter.grad.abs().max()))
        torch.testing.assert_close(gradients[name], parameter.grad, atol=atol, rtol=0)


def test_what_is_wanted_besides_changes_no_log_probability(monkeypatch):
    in_slices_of(5, monkeypatch)
    policy = Policy(make_lm("qwen3_moe", **EXPERTS), temperature=TEMPERATURE, value_head=ValueHead(32, 2, seed=0))
    plain = policy(*inputs())
    known = policy(*inputs(), wanted=TOP | CHOICES) | {"coefficients": torch.ones(5, 10, 1)}
    everything = ENTROPY | TOP | CHOICES | DRIFT | NORMS | GRADIENTS | VALUES | {"top_logprobs"}
    found = policy(*inputs(), wanted=everything, known=known)
    assert found.keys() == everything | {"logprobs"} and plain.keys() == {"logprobs"}
    assert torch.equal(found["logprobs"], plain["logprobs"])
    torch.testing.assert_close(found["top_logprobs"], found["old_top_logprobs"], atol=0, rtol=0)


def test_a_spare_micro_batch_gives_zeros_and_zero_gradients():
    """Without response tokens every layer is run all the same, forward and backward."""
    policy = Policy(make_lm("qwen3_moe", **EXPERTS), value_head=ValueHead(32, 2, seed=0))
    token_ids, attention_mask, response_mask = inputs()
    batch = (token_ids, attention_mask, torch.zeros_like(response_mask))
    known = policy(*batch, wanted=TOP | CHOICES) | {"coefficients": torch.ones(5, 10, 3)}
    found = policy(*batch, wanted=TOP | CHOICES | DRIFT | NORMS | GRADIENTS | VALUES | {"top_logprobs"}, known=known)
    assert found["old_router_ids"].shape == (5, 10, 2, 3) and found["value_outputs"].shape == (5, 10, 2)
    assert found["head_gradients"].shape == (3, VOCABULARY, 32) and found["head_gradient_norms"].shape == (5,)
    assert not any(values.any() for values in found.values())
    sum(values.sum() for values in found.values() if values.requires_grad).backward()
    named = dict(policy.named_parameters())
    assert not any(p.grad.any() for p in named.values() if p.grad is not None)
    # router and experts of no token included
    assert named["value_head.weight"].grad is not None and named["lm.model.embed_tokens.weight"].grad is not None


@pytest.mark.parametrize("wanted", ["old_top_id", "values"])
def test_an_unknown_name_is_refused(wanted):
    with pytest.raises(ValueError, match=f"no output named {wanted}"):
        Policy(make_lm())(*inputs(), wanted=frozenset({wanted}))


# routers


@both_layouts
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "lora"])
@pytest.mark.parametrize("architecture", MIXTURES)
def test_routers_choices_are_those_of_each_trajectory_alone(architecture, adapted, padding_free):
    lm = make_lm(architecture, **MIXTURES[architecture])
    lm = make_lora(lm, target_modules=["q_proj", "v_proj"]) if adapted else lm
    found = Policy(lm, padding_free=padding_free)(*inputs(), wanted=CHOICES)
    ids, logprobs = found["old_router_ids"], found["old_router_logprobs"]
    assert ids.shape == logprobs.shape == (5, 10, 2, 3) and ids.dtype == torch.int64
    assert not logprobs.requires_grad
    taken: dict[int, tuple[Tensor, ...]] = {}  # what the routers themselves give out: logits, scores, choices
    inner = lm.get_base_model() if adapted else lm
    for index, layer in enumerate(inner.model.layers):
        layer.mlp.gate.register_forward_hook(lambda module, given, result, i=index: taken.update({i: result}))
    for row, t, _ in each_alone(lm):
        for index in range(2):
            logits, _, choices = (part[t - 1] for part in taken[index])
            assert ids[row, t, index].tolist() == choices.tolist()
            expected = torch.log_softmax(logits.float(), dim=-1)[choices].detach()
            torch.testing.assert_close(logprobs[row, t, index], expected, atol=1e-5, rtol=1e-5)
    assert_zero_off_the_response(ids)
    assert_zero_off_the_response(logprobs)


@both_layouts
@pytest.mark.parametrize("recompute", [False, True], ids=["stored", "recomputed"])
def test_drift_is_the_mean_over_layers_and_old_choices(recompute, padding_free):
    lm = make_lm("qwen3_moe", **EXPERTS)
    if recompute:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    policy = Policy(lm, padding_free=padding_free).train()
    known = dict(policy(*inputs(), wanted=CHOICES))
    same = policy(*inputs(), wanted=DRIFT, known=known)["router_drift"]
    assert not same.any()
    with torch.no_grad():
        for layer in lm.model.layers:
            layer.mlp.gate.weight.add_(torch.linspace(-0.3, 0.3, 32).roll(5))
            layer.mlp.gate.weight[0].mul_(1.5)
    for name in known:
        known[name] = torch.where(inputs()[2].reshape(5, 10, *[1] * (known[name].dim() - 2)), known[name], -(2**60))
    found = policy(*inputs(), wanted=DRIFT, known=known)
    drift = found["router_drift"]
    assert not drift.requires_grad
    taken: dict[int, Tensor] = {}
    for index, layer in enumerate(lm.model.layers):
        layer.mlp.gate.register_forward_hook(lambda module, given, result, i=index: taken.update({i: result[0]}))
    for row, t, _ in each_alone(lm):
        distances = []
        for index in range(2):
            now = torch.log_softmax(taken[index][t - 1], dim=-1)
            for place in range(3):
                expert = int(known["old_router_ids"][row, t, index, place])
                distances.append(abs(now[expert].item() - known["old_router_logprobs"][row, t, index, place].item()))
        assert float(drift[row, t]) == pytest.approx(sum(distances) / 6, abs=1e-5)
    assert_zero_off_the_response(drift)
    found["logprobs"].sum().backward()  # with recomputed layers
    assert lm.model.layers[0].mlp.gate.weight.grad.any()


@pytest.mark.parametrize("wanted", [*CHOICES, *DRIFT])
def test_a_model_without_routers_is_refused(wanted):
    policy = Policy(make_lm())
    with pytest.raises(RecipeError, match=f"{wanted} needs a mixture-of-experts model, 'qwen3' has no routers"):
        policy.check(frozenset({wanted}))
    with pytest.raises(RecipeError, match="has no routers"):
        policy(*inputs(), wanted=frozenset({wanted}))


# values on shared hidden states


def test_values_are_read_before_the_token():
    lm = make_lm()
    head = ValueHead(32, 3, seed=4)
    found = Policy(lm, value_head=head)(*inputs(), wanted=VALUES)["value_outputs"]
    for row, t, alone in each_alone(lm):
        expected = head.weight @ alone.hidden_states[-1][0, t - 1] + head.bias
        torch.testing.assert_close(found[row, t], expected, atol=1e-5, rtol=1e-5)
    assert_zero_off_the_response(found)


@pytest.mark.parametrize("detach", [False, True])
def test_detached_values_train_the_head_alone(detach):
    policy = Policy(make_lm(), value_head=ValueHead(32, 2, seed=0), detach_values=detach)
    found = policy(*inputs(), wanted=VALUES)
    found["value_outputs"].square().sum().backward(retain_graph=True)
    reached = {name for name, p in policy.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"value_head.weight", "value_head.bias"} <= reached
    assert any(name.startswith("lm.") for name in reached) != detach
    found["logprobs"].sum().backward()  # the policy's own gradient is never cut
    assert all(p.grad is not None and p.grad.any() for p in policy.lm.parameters())


def test_values_without_a_value_head_are_refused():
    with pytest.raises(ValueError, match="no value head"):
        Policy(make_lm())(*inputs(), wanted=VALUES)


# gradients of the head's weight


def expected_gradients(lm: Any, coefficients: Tensor) -> Tensor:
    """Autograd's gradient of sum c logprobs to the head's weight, the hidden states held: [V, d]."""
    total: Any = 0.0
    token_ids = inputs()[0]
    inner = lm.get_base_model() if hasattr(lm, "get_base_model") else lm
    weight = inner.get_output_embeddings().weight.detach().requires_grad_()
    config = inner.config
    for row, t, alone in each_alone(lm):
        logits = weight @ alone.hidden_states[-1][0, t - 1].detach()
        if config.model_type == "granite":
            logits = logits / config.logits_scaling
        if config.model_type == "gemma2":
            logits = torch.tanh(logits / config.final_logit_softcapping) * config.final_logit_softcapping
        total = total + coefficients[row, t] * torch.log_softmax(logits / TEMPERATURE, dim=-1)[token_ids[row, t]]
    return torch.autograd.grad(total, weight)[0]


HEADS = {
    "untied": lambda: make_lm("llama"),
    "tied": lambda: make_lm("qwen3"),
    "divided": lambda: make_lm("granite"),
    "capped": lambda: make_lm("gemma2"),
    "narrow": lambda: make_lm("llama", hidden_size=4),  # trajectories have up to 6 tokens: more than dimensions
    "lora": lambda: make_lora(make_lm("llama")),
}


@both_layouts
@pytest.mark.parametrize("tokens", [1, 2, 100])
@pytest.mark.parametrize("kind", HEADS)
def test_head_gradients_are_autograds(kind, tokens, padding_free, monkeypatch):
    in_slices_of(tokens, monkeypatch)
    lm = HEADS[kind]()
    policy = Policy(lm, temperature=TEMPERATURE, padding_free=padding_free)
    coefficients = torch.randn(5, 10, 2, generator=torch.Generator().manual_seed(7))
    coefficients[~inputs()[2]] = float("nan")
    found = policy(*inputs(), wanted=NORMS | GRADIENTS, known={"coefficients": coefficients})
    assert not found["head_gradients"].requires_grad and not found["head_gradient_norms"].requires_grad
    for k in range(2):
        expected = expected_gradients(lm, coefficients[..., k])
        atol = 1e-5 * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(found["head_gradients"][k], expected, atol=atol, rtol=0)
    for row in range(5):
        if "A" not in LAYOUT[row]:
            assert found["head_gradient_norms"][row] == 0
            continue
        alone = torch.zeros(5, 10)
        alone[row] = 1.0
        norm = float(expected_gradients(lm, alone).norm())
        assert float(found["head_gradient_norms"][row]) == pytest.approx(norm, rel=1e-4)


def test_head_gradients_are_those_of_training_where_the_head_is_a_weight_of_its_own():
    lm = make_lm("llama")
    policy = Policy(lm, temperature=TEMPERATURE)
    coefficients = torch.randn(5, 10, 1, generator=torch.Generator().manual_seed(7))
    found = policy(*inputs(), wanted=GRADIENTS, known={"coefficients": coefficients})
    (found["logprobs"] * coefficients[..., 0]).sum().backward()
    torch.testing.assert_close(found["head_gradients"][0], lm.lm_head.weight.grad, atol=1e-5, rtol=1e-5)


def test_head_gradients_of_micro_batches_add_up():
    policy = Policy(make_lm(), temperature=TEMPERATURE)
    coefficients = torch.randn(5, 10, 2, generator=torch.Generator().manual_seed(7))
    whole = policy(*inputs(), wanted=NORMS | GRADIENTS, known={"coefficients": coefficients})
    parts = [
        policy(*(x[rows] for x in inputs()), wanted=NORMS | GRADIENTS, known={"coefficients": coefficients[rows]})
        for rows in (torch.tensor([3, 0]), torch.tensor([4, 2, 1]))
    ]
    added = parts[0]["head_gradients"] + parts[1]["head_gradients"]
    torch.testing.assert_close(added, whole["head_gradients"], atol=1e-5, rtol=1e-5)
    norms = torch.cat([part["head_gradient_norms"] for part in parts])
    torch.testing.assert_close(norms, whole["head_gradient_norms"][[3, 0, 4, 2, 1]], atol=1e-5, rtol=1e-5)


def test_all_ranks_run_the_head_equally_often(monkeypatch):
    """Under ZeRO-3 each run of the head collects its weights, so what one rank runs more all have to run."""
    in_slices_of(2, monkeypatch)
    lm = make_lm("qwen3_moe", **EXPERTS)
    policy = Policy(lm, temperature=TEMPERATURE)
    known = copy.copy(policy(*inputs(), wanted=TOP)) | {"coefficients": torch.ones(5, 10, 2)}
    wanted = TOP | NORMS | GRADIENTS | {"top_logprobs"}
    expected = policy(*inputs(), wanted=wanted, known=known)
    asked: list[int] = []
    runs: list[int] = []
    lm.get_output_embeddings().register_forward_hook(lambda module, given, result: runs.append(len(given[0])))

    def as_others(count: int) -> int:
        assert len(runs) == 1 + sum(asked), "agreed on before it is run"
        asked.append(count + 20)
        return count + 20

    policy.agree_on_slices = as_others
    with torch.no_grad():
        found = policy(*inputs(), wanted=wanted, known=known)
    # of the trajectories' 3, 6, 1, 0 and 2 tokens 2, 3, 1, 1 and 1 slices; all 12 tokens are 6
    assert asked == [28, 26]
    assert len(runs) == 1 + sum(asked)  # log-probabilities are had in one run on every rank
    assert found.keys() == expected.keys()
    for name, values in found.items():
        torch.testing.assert_close(values, expected[name], atol=1e-5, rtol=1e-5)
