from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import pad

from llmrl.ops.policy_losses.coupled import drpo, pacs, soft_choice

LIMIT = 20


def right_or_wrong(rows) -> torch.Tensor:
    """Verdicts of random rows, some unknown."""
    noise = rows.noise()[:, 0]
    return torch.where(noise > 1.0, math.nan, (noise > -0.2).float())


def pacs_of(rows, logprobs, old, correct, **settings):
    return pacs(logprobs, old, correct, rows.mask, rows.group_ids, **settings)


def drpo_of(rows, logprobs, old, correct, **settings):
    return drpo(logprobs, old, correct, rows.mask, rows.group_ids, max_tokens=LIMIT, **settings)


def of_sequences(scores: list[float], lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of rows whose tokens all have the given score, and their mask."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.where(mask, torch.tensor(scores)[:, None], 0.0), mask


def test_pacs_golden():
    # s [.2, -.1, 0, -.3]: psi_1 = .2 - (-.1 + 0 - .3) / 3 = .333333, ...; weights 4 / (2 * 1) and 4 / (2 * 3);
    # softplus(psi) - y psi = [.540307 .660369 .727035 .540307]; weighted mean .591438, plain mean .617004
    logprobs, mask = of_sequences([0.2, -0.1, 0.0, -0.3], [1, 1, 1, 1])
    correct, groups = torch.tensor([1.0, 0, 0, 0]), torch.full((4,), 7)
    loss = pacs(logprobs, torch.zeros(4, 1), correct, mask, groups)
    assert loss.loss.sum().item() == pytest.approx(0.591438, abs=1e-6)
    expected = torch.tensor([[0.333333], [0.066667], [-0.066667], [0.333333]])
    torch.testing.assert_close(loss.stats["score_margin"], expected, atol=1e-5, rtol=0)
    plain = pacs(logprobs, torch.zeros(4, 1), correct, mask, groups, balanced=False)
    assert plain.loss.sum().item() == pytest.approx(0.617004, abs=1e-6)


def test_pacs_at_the_first_step():
    # all scores 0: loss log 2; dl/dpsi = w (1/2 - y) / n = [-1/4, 1/4] and through psi = s - s_other it is
    # [-1/4 - 1/4, 1/4 + 1/4] on every token of the two answers, long or short
    old, mask = of_sequences([-0.5, -1.5], [3, 1])
    logprobs = old.clone().requires_grad_()
    loss = pacs(logprobs, old, torch.tensor([1.0, 0.0]), mask, torch.tensor([4, 4])).loss
    assert loss.sum().item() == pytest.approx(math.log(2))
    torch.testing.assert_close(loss[0].detach(), torch.full((3,), math.log(2) / 6))
    loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, torch.tensor([[-0.5, -0.5, -0.5], [0.5, 0, 0]]))


def test_pacs_gives_no_gradient_where_nothing_can_be_compared():
    # a group of one, and at the first step a group of equal verdicts, whose common shift cancels
    old, mask = of_sequences([-0.5, -1.5, -1.0], [3, 1, 2])
    logprobs = old.clone().requires_grad_()
    pacs(logprobs, old, torch.tensor([1.0, 1.0, 0.0]), mask, torch.tensor([4, 4, 9])).loss.sum().backward()
    assert logprobs.grad is not None and not logprobs.grad.any()


def test_drpo_golden():
    # lengths 2 and 6 of 10 at .1: softmax(-2, -6) = [.982014, .017986]; .982014 * -.3 + .017986 * -.5 = -.303597;
    # 10 log(e^-.04 + e^-.08) = 6.333472; J = -6.637069, and a second group without wrong answers halves the mean
    logprobs, mask = of_sequences([-0.3, -0.5, -0.4, -0.8, -1.0], [2, 6, 3, 5, 2])
    logprobs.requires_grad_()
    correct = torch.tensor([1.0, 1, 0, 0, 1])
    loss = drpo(logprobs, logprobs.detach(), correct, mask, torch.tensor([5, 5, 5, 5, 1]), max_tokens=10).loss
    assert loss.sum().item() == pytest.approx(6.637069 / 2, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    gradient = gradient.sum(dim=1) * 2
    torch.testing.assert_close(gradient, torch.tensor([-0.982014, -0.017986, 0.509999, 0.490001, 0.0]))
    assert not loss[4].any()


def test_drpo_trust_region():
    # one group without wrong answers leaves the divergence: (.3 + .3 - .1) / 3 = 1/6 over the limit of 1e-4;
    # the coefficient is fixed, so each of 3 tokens has -1000 (1/6 - 1e-4) / 3, and the sum is that times KL
    old, mask = of_sequences([-0.5, -0.4], [2, 1])
    logprobs = (old - torch.tensor([[0.3], [-0.1]]) * mask).requires_grad_()
    result = drpo(logprobs, old, torch.tensor([1.0, math.nan]), mask, torch.tensor([1, 2]), max_tokens=10)
    coefficient = 1000 * (1 / 6 - 1e-4)
    assert result.loss.sum().item() == pytest.approx(coefficient / 6, rel=1e-5)
    result.loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, -coefficient / 3 * mask.float())
    torch.testing.assert_close(result.stats["kl"], torch.tensor([[0.3, 0.3], [-0.1, 0.0]]))
    torch.testing.assert_close(result.stats["kl_coefficient"], coefficient * mask.float())
    near = drpo(logprobs, old, torch.tensor([1.0, 1.0]), mask, torch.tensor([1, 2]), max_tokens=10, kl_limit=0.2)
    assert not near.loss.any()


def test_drpo_never_lowers_a_right_answer_however_long():
    old, mask = of_sequences([-0.3, -0.5, -0.4], [1, 12, 3])
    logprobs = old.clone().requires_grad_()
    loss = drpo(logprobs, old, torch.tensor([1.0, 1, 0]), mask, torch.zeros(3), max_tokens=12).loss
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    assert (gradient[:2][mask[:2]] < 0).all() and (gradient[2][mask[2]] > 0).all()


def naive_pacs(rows, logprobs, old, correct, scale=1.0, balanced=True):
    kept = [i for i in range(len(old)) if rows.mask[i].any() and not correct[i].isnan()]
    scores = {i: scale * (logprobs[i] - old[i])[rows.mask[i]].sum() for i in kept}
    total = torch.zeros((), dtype=torch.float64)
    for i in kept:
        members = [j for j in kept if rows.group_ids[j] == rows.group_ids[i]]
        alike = [j for j in members if correct[j] == correct[i]]
        others = [scores[j] for j in members if j != i]
        score = scores[i] - sum(others) / len(others) if others else 0 * scores[i]
        weight = len(members) / (2 * len(alike)) if balanced and len(alike) < len(members) else 1.0
        probability = torch.sigmoid(score)
        total = total - weight * torch.log(probability if correct[i] == 1 else 1 - probability)
    return total / max(len(kept), 1)


def naive_drpo(rows, logprobs, old, correct, tau=10.0, length_temperature=0.1, kl_weight=1e3, kl_limit=1e-4):
    kept = [i for i in range(len(old)) if rows.mask[i].any() and not correct[i].isnan()]
    questions = {int(rows.group_ids[i]) for i in kept}
    total = torch.zeros((), dtype=torch.float64)
    for question in questions:
        members = [i for i in kept if rows.group_ids[i] == question]
        scores = {i: logprobs[i][rows.mask[i]].mean() for i in members}
        right, wrong = ([i for i in members if correct[i] == verdict] for verdict in (1, 0))
        if right and wrong:
            weights = {i: math.exp((1 - int(rows.mask[i].sum()) / LIMIT) / length_temperature) for i in right}
            level = tau * torch.stack([torch.exp(scores[j] / tau) for j in wrong]).sum().log()
            gain = sum(weights[i] * (scores[i] - level) for i in right) / sum(weights.values())
            total = total - gain / len(questions)
    divergence = (old - logprobs)[rows.mask].mean()
    return total + kl_weight * max(divergence.item() - kl_limit, 0.0) * divergence


CASES = [
    (pacs_of, naive_pacs, {}),
    (pacs_of, naive_pacs, {"scale": 0.3, "balanced": False}),
    (drpo_of, naive_drpo, {}),
    (drpo_of, naive_drpo, {"tau": 0.7, "length_temperature": 2.0, "kl_weight": 3.0, "kl_limit": 0.05}),
]


def objective(loss, rows, logprobs, old, correct, **settings):
    """Value of the objective and its gradient."""
    logprobs = logprobs.detach().requires_grad_()
    value = loss(rows, logprobs, old, correct, **settings)
    value = value if isinstance(value, torch.Tensor) else value.loss.sum()
    return value.double(), torch.autograd.grad(value, logprobs)[0].double()


@pytest.mark.parametrize(("loss", "naive", "settings"), CASES)
@given(seed=st.integers(0, 10_000))
def test_value_and_gradient_are_those_of_the_naive_loop(ragged, loss, naive, settings, seed):
    rows = ragged(seed)
    logprobs, old, correct = rows.logprobs(), rows.logprobs(), right_or_wrong(rows)
    found = objective(loss, rows, logprobs, old, correct, **settings)
    expected = objective(naive, rows, logprobs.double(), old.double(), correct, **settings)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [pacs_of, drpo_of])
@given(seed=st.integers(0, 10_000))
def test_order_padding_and_group_names_change_nothing(ragged, loss, seed):
    rows = ragged(seed)
    logprobs, old, correct = rows.logprobs(), rows.logprobs(), right_or_wrong(rows)
    value, gradient = objective(loss, rows, logprobs, old, correct)

    order = torch.randperm(len(old), generator=rows.generator)
    junk = math.nan * torch.ones(len(old), 3)
    moved = ragged(seed)
    moved.mask, moved.group_ids = pad(rows.mask[order], (0, 3)), -7 * rows.group_ids[order]
    logprobs, old = (torch.cat([torch.where(rows.mask, x, math.inf)[order], junk], dim=1) for x in (logprobs, old))
    value_after, gradient_after = objective(loss, moved, logprobs, old, correct[order])
    torch.testing.assert_close(value_after, value, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient_after, pad(gradient[order], (0, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("loss", [pacs_of, drpo_of])
def test_an_unknown_verdict_is_as_if_the_row_were_not_there(ragged, loss):
    rows = ragged(4)
    logprobs, old, correct = rows.logprobs(), rows.logprobs(), (rows.noise()[:, 0] > 0).float()
    correct[:3] = math.nan
    value, gradient = objective(loss, rows, logprobs, logprobs, correct)  # divergence 0: it counts every row
    without = ragged(4)
    without.mask[:3] = False
    value_without, gradient_without = objective(loss, without, logprobs, logprobs, correct)
    torch.testing.assert_close(value, value_without, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, gradient_without, atol=1e-6, rtol=1e-6)
    nothing = objective(loss, rows, logprobs, logprobs, torch.full((len(old),), math.nan))
    assert not nothing[0].any() and not nothing[1].any()


@pytest.mark.parametrize("loss", [pacs_of, drpo_of])
def test_distant_policies_stay_finite(ragged, loss):
    rows = ragged(5)
    value, gradient = objective(loss, rows, 1000 * rows.logprobs(), rows.logprobs(), right_or_wrong(rows))
    assert value.isfinite() and gradient.isfinite().all()
    assert gradient.abs().max() < 1e7


@pytest.mark.parametrize(("loss", "step", "settings"), [(pacs, 0.3, {}), (drpo, 0.03, {"max_tokens": 1})])
def test_bandit_finds_the_right_arm(loss, step, settings):
    """Five arms of which the last is right; groups of 16 pulls, two updates each, from the uniform policy."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(5, requires_grad=True)
    for _ in range(150):
        arms = torch.multinomial(logits.detach().softmax(0), 16, replacement=True, generator=generator)[:, None]
        old, mask = logits.detach().log_softmax(0)[arms], torch.ones(16, 1, dtype=torch.bool)
        for _ in range(2):
            found = loss(logits.log_softmax(0)[arms], old, (arms[:, 0] == 4).float(), mask, torch.zeros(16), **settings)
            logits = (logits - step * torch.autograd.grad(found.loss.sum(), logits)[0]).detach().requires_grad_()
    assert logits.softmax(0)[4] > 0.9


@pytest.mark.parametrize(
    ("loss", "setting", "value"),
    [
        (pacs_of, "scale", 0.0),
        (drpo_of, "tau", 0.0),
        (drpo_of, "length_temperature", -1.0),
        (drpo_of, "kl_weight", -1.0),
        (drpo_of, "kl_limit", -1e-4),
    ],
)
def test_settings_out_of_range_are_refused(ragged, loss, setting, value):
    rows = ragged(0)
    with pytest.raises(ValueError, match=f"{setting}: {value}"):
        loss(rows, rows.logprobs(), rows.logprobs(), right_or_wrong(rows), **{setting: value})


def test_drpo_refuses_a_length_limit_of_zero(ragged):
    rows = ragged(0)
    with pytest.raises(ValueError, match="max_tokens: 0"):
        drpo(rows.logprobs(), rows.logprobs(), right_or_wrong(rows), rows.mask, rows.group_ids, max_tokens=0)


def test_a_soft_choice_by_hand():
    """A list of pi 1/4 and 3/4 (sums log 1/8, log 3/8) with A 4 and 1, one of two equals with A 2, and one alone."""
    mask = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 0], [1, 1]], dtype=torch.bool)
    logprobs = torch.tensor([[1 / 2, 1 / 4], [3 / 8, 1], [1 / 9, 1], [1 / 9, 1], [1 / 2, 1 / 2]]).log().requires_grad_()
    advantages = torch.tensor([[4.0, 4.0], [1, 9], [2, 9], [2, 9], [50, 50]])
    groups = torch.tensor([6, 6, 2, 2, 9])
    found = soft_choice(logprobs, advantages, mask, groups, alpha=0.5)
    entropies = [-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2)]
    whole = [-0.5 * entropies[0] - (0.25 * 4 + 0.75 * 1), -0.5 * entropies[1] - 2]
    assert found.loss.sum().item() == pytest.approx(sum(whole) / 2, abs=1e-6)
    assert found.loss[4].tolist() == [0, 0] and found.loss[0, 0] == found.loss[0, 1]
    assert found.stats["choice_entropy"][:, 0].tolist() == pytest.approx([entropies[0]] * 2 + [entropies[1]] * 2 + [0])
    found.loss.sum().backward()
    # d/ds_i of sum pi f = pi_i (f_i - sum pi f), f = alpha log pi - A: the better action rises, each token alike
    f = [0.5 * math.log(0.25) - 4, 0.5 * math.log(0.75) - 1]
    slope = 0.25 * (f[0] - whole[0]) / 2
    assert logprobs.grad is not None
    expected = torch.tensor([[slope, slope], [-slope, 0], [0, 0], [0, 0], [0, 0]])
    torch.testing.assert_close(logprobs.grad, expected, atol=1e-6, rtol=0)


def test_the_best_soft_choice_is_boltzmanns():
    """pi ~ exp(A / alpha): A (0, alpha log 3) makes 1/4 and 3/4, where the gradient vanishes."""
    logprobs = torch.tensor([[1 / 8], [3 / 8]]).log().requires_grad_()
    advantages = torch.tensor([[0.0], [0.7 * math.log(3)]])
    loss = soft_choice(logprobs, advantages, torch.ones(2, 1, dtype=torch.bool), torch.tensor([1, 1]), alpha=0.7).loss
    [gradient] = torch.autograd.grad(loss.sum(), logprobs)
    assert gradient.abs().max() < 1e-7 and loss.sum().item() == pytest.approx(-0.7 * math.log(4), abs=1e-6)
