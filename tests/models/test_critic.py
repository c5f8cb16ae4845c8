"""Value heads, and critics with a backbone of their own."""

from __future__ import annotations

import copy

import pytest
import torch
from test_policy import inputs, make_lm, make_lora
from torch import Tensor, nn

from llmrl.models.critic import Critic, ValueHead
from llmrl.models.policy import Policy

both_layouts = pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])


def outputs(critic: Critic) -> Tensor:
    return critic(*inputs())["value_outputs"]


def test_a_head_by_hand():
    # W = [[1, 2], [0, -1]], b = [0.5, 1], h = [3, -1]:  3 - 2 + 0.5 = 1.5;  1 + 1 = 2
    head = ValueHead(2, 2, seed=0)
    head.load_state_dict({"weight": torch.tensor([[1.0, 2.0], [0.0, -1.0]]), "bias": torch.tensor([0.5, 1.0])})
    assert head(torch.tensor([3.0, -1.0])).tolist() == [1.5, 2.0]
    # with the norm h is [1, -1], its mean 1 and its standard deviation 2:  1 - 2 + 0.5 = -0.5;  1 + 1 = 2
    head.layer_norm = True
    assert head(torch.tensor([3.0, -1.0])).tolist() == pytest.approx([-0.5, 2.0], abs=1e-5)


def test_heads_begin_small_apart_and_by_the_seed():
    head = ValueHead(399, 50, seed=1)
    assert not head.bias.any()
    # 50 * 399 draws: the standard error of their deviation from 1 / 20 is 0.05 / sqrt(2 * 19950) = 2.5e-4
    assert head.weight.std().item() == pytest.approx(0.05, abs=1e-3)
    correlations = torch.corrcoef(head.weight.detach()) - torch.eye(50)
    assert correlations.abs().max() < 0.3  # +-0.05 each
    assert torch.equal(head.weight, ValueHead(399, 50, seed=1).weight)
    assert not torch.equal(head.weight, ValueHead(399, 50, seed=2).weight)
    state = torch.random.get_rng_state()
    ValueHead(3, 3, seed=0)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_head_computes_in_fp32_whatever_holds_its_weights(layer_norm):
    head = ValueHead(64, 4, seed=0, layer_norm=layer_norm).bfloat16()
    hidden = torch.randn(10, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    found = head(hidden)
    wide = copy.deepcopy(head).double()
    normed = nn.functional.layer_norm(hidden.double(), (64,)) if layer_norm else hidden.double()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), normed @ wide.weight.T + wide.bias, atol=1e-5, rtol=1e-5)


@both_layouts
@pytest.mark.parametrize("adapted", [False, True], ids=["whole", "lora"])
def test_outputs_are_of_the_prefix_before_the_token(adapted, padding_free):
    lm = make_lora(make_lm("llama")) if adapted else make_lm("llama")
    head = ValueHead(32, 3, seed=0)
    found = outputs(Critic(lm, head, padding_free=padding_free))
    token_ids, _, response_mask = inputs()
    assert found.shape == (5, 10, 3) and found.dtype == torch.float32
    for row, t in response_mask.nonzero().tolist():
        hidden = lm(input_ids=token_ids[row : row + 1, :t], output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(found[row, t], head.weight @ hidden[0, -1], atol=1e-5, rtol=1e-5)
    assert not found[~response_mask].any() and found[response_mask].all()


@both_layouts
def test_outputs_after_are_of_the_prefix_that_ends_with_the_token(padding_free):
    lm, head = make_lm("llama"), ValueHead(32, 3, seed=0)
    wanted = frozenset({"value_outputs", "value_outputs_after"})
    found = Critic(lm, head, padding_free=padding_free)(*inputs(), wanted=wanted)
    token_ids, _, response_mask = inputs()
    for row, t in response_mask.nonzero().tolist():
        hidden = lm(input_ids=token_ids[row : row + 1, : t + 1], output_hidden_states=True).hidden_states[-1]
        expected = head.weight @ hidden[0, -1]
        torch.testing.assert_close(found["value_outputs_after"][row, t], expected, atol=1e-5, rtol=1e-5)
    after, before = found["value_outputs_after"], found["value_outputs"]
    assert not after[~response_mask].any()
    torch.testing.assert_close(after[1, 1], before[1, 2])  # of one turn: P A A E E A A
    shared = Policy(lm, value_head=head)(*inputs(), wanted=wanted)["value_outputs_after"]
    torch.testing.assert_close(shared, after, atol=1e-5, rtol=1e-5)


@both_layouts
def test_the_token_itself_and_what_follows_do_not_count(padding_free):
    """Golden rule of a baseline: it may not know the action that it is the baseline of."""
    critic = Critic(make_lm(), ValueHead(32, 1, seed=0), padding_free=padding_free)
    token_ids, attention_mask, response_mask = inputs()
    before = critic(token_ids, attention_mask, response_mask)["value_outputs"]
    changed = token_ids.clone()
    changed[1, 5] = (changed[1, 5] + 1) % 29  # P A A E E A A E A A: the third A
    after = critic(changed, attention_mask, response_mask)["value_outputs"]
    assert torch.equal(after[1, :6], before[1, :6])
    assert ((after - before)[1, [6, 8, 9], 0].abs() > 1e-5).all()
    assert torch.equal(after[[0, 2, 3, 4]], before[[0, 2, 3, 4]])


def test_the_shared_backbone_says_the_same():
    lm, head = make_lm("llama"), ValueHead(32, 2, seed=0)
    shared = Policy(lm, value_head=head)(*inputs(), wanted=frozenset({"value_outputs"}))["value_outputs"]
    assert torch.equal(shared, outputs(Critic(lm, head)))


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_lm_head_is_left_behind(architecture):
    lm = make_lm(architecture)
    critic = Critic(lm, ValueHead(32, 1, seed=0))
    parameters = dict(critic.named_parameters())
    unnamed = len(list(lm.parameters())) - (0 if lm.config.tie_word_embeddings else 1)
    assert len(parameters) == unnamed + 2
    assert not any("lm_head" in name for name in parameters)
    outputs(critic).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in parameters.values())


def test_of_a_lora_critic_adapters_and_head_are_trained():
    critic = Critic(make_lora(make_lm()), ValueHead(32, 1, seed=0))
    outputs(critic).square().sum().backward()
    trained = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert {"head.weight", "head.bias"} < trained
    assert all("lora_" in name for name in trained - {"head.weight", "head.bias"})
    assert all(p.grad.any() for name, p in critic.named_parameters() if name in trained)


def test_no_response_tokens_give_zeros_and_zero_gradients():
    critic = Critic(make_lm(), ValueHead(32, 2, seed=0))
    token_ids, attention_mask, response_mask = inputs()
    found = critic(token_ids, attention_mask, torch.zeros_like(response_mask))["value_outputs"]
    assert found.shape == (5, 10, 2) and not found.any()
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in critic.parameters())


def test_gradient_checkpointing_changes_nothing():
    lm = make_lm()
    critic = Critic(lm, ValueHead(32, 1, seed=0)).train()
    outputs(critic).square().sum().backward()
    plain = {name: p.grad.clone() for name, p in critic.named_parameters()}
    critic.zero_grad()
    lm.gradient_checkpointing_enable({"use_reentrant": False})
    outputs(critic).square().sum().backward()
    for name, parameter in critic.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[name], atol=1e-5, rtol=1e-5)


def test_it_learns_what_a_prefix_says():
    """The value of a prefix that holds token 7 is 1, of others 0: learnt from the prefix alone."""
    token_ids = torch.randint(8, 29, (64, 5), generator=torch.Generator().manual_seed(0))
    token_ids[::2, 1] = 7
    response_mask = torch.zeros(64, 5, dtype=torch.bool)
    response_mask[:, 3:] = True
    target = (torch.arange(64) % 2 == 0).float()[:, None].expand(64, 2)
    critic = Critic(make_lm(), ValueHead(32, 1, seed=0))
    optimizer = torch.optim.Adam(critic.parameters(), lr=3e-3)
    for _ in range(40):
        found = critic(token_ids, torch.ones_like(response_mask), response_mask)["value_outputs"][:, 3:, 0]
        loss = (found - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.02
