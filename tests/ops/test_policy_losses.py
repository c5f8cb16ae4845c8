from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.ops import log_ratios
from llmrl.ops.advantages.group import grpo
from llmrl.ops.policy_losses.clipped import gppo, ppo_clip, surrogate
from llmrl.ops.policy_losses.entropy_aware import aspo, simko
from llmrl.ops.policy_losses.score import cispo, dft, nll, one_sided, reinforce, topr
from llmrl.ops.policy_losses.sequence import gmpo
from llmrl.ops.policy_losses.smooth import sapo, spo
from llmrl.ops.reductions import sequence_mean

BOUNDS = {"clip_low": 0.2, "clip_high": 0.28}
PER_TOKEN = {
    "reinforce": (reinforce, {}),
    "surrogate": (surrogate, {}),
    "ppo": (ppo_clip, BOUNDS | {"dual_clip": 3.0}),
    "gppo": (gppo, BOUNDS),
    "ce_gppo": (gppo, BOUNDS | {"beta_low": 0.5, "beta_high": 2.0, "dual_clip": 3.0}),
    "cispo": (cispo, BOUNDS),
    "tis": (cispo, {"clip_low": 1.0, "clip_high": 1.0}),
    "topr": (topr, {}),
    "rec": (one_sided, BOUNDS),
    "rec_is": (one_sided, BOUNDS | {"importance": True}),
    "sapo": (sapo, {}),
    "spo": (spo, {"max_log_ratio": 1.5}),  # past log 4
}
WITH_CONTEXT = {"aspo": (aspo, {}), "gmpo": (gmpo, {}), "simko": (simko, {})}
LOSSES = PER_TOKEN | WITH_CONTEXT


def apply(name: str, **data):
    """The loss on the data that its signature names; the old policy's are plain ones where a test gives none."""
    function, settings = LOSSES[name]
    log_ratio = data["log_ratio"]
    like = log_ratio.detach()
    plain = {
        "response_mask": torch.ones_like(like, dtype=torch.bool),
        "correct": torch.full((len(like),), math.nan),
        "old_entropy": torch.zeros_like(like),
        "token_ids": torch.zeros_like(like, dtype=torch.long),
        "old_top_ids": torch.zeros(*like.shape, 3, dtype=torch.long),
        "top_logprobs": torch.zeros(*like.shape, 3),
    }
    available = plain | data
    kinds = inspect.signature(function).parameters.values()
    return function(*(available[p.name] for p in kinds if p.kind is not p.KEYWORD_ONLY), **settings)


def slope(name: str, ratio: float, advantage: float) -> tuple[float, float]:
    """Value of the loss of one token and its gradient on that token's log-probability."""
    old = torch.tensor([[-6.0]])
    logprobs = (old + math.log(ratio)).requires_grad_()
    log_ratio = log_ratios.token(logprobs, old, torch.ones(1, 1, dtype=torch.bool))
    value = apply(name, logprobs=logprobs, log_ratio=log_ratio, advantages=torch.tensor([[advantage]])).loss
    (gradient,) = torch.autograd.grad(value.sum(), logprobs)
    return value.item(), gradient.item()


COLUMNS = ("ppo", "cispo", "spo", "sapo", "gppo", "aspo", "topr", "tis", "ce_gppo", "rec", "rec_is", "surrogate")
GRADIENTS = {
    # surrogate is -A r everywhere, and ppo, gppo, rec_is inside [.8, 1.28]. Past a bound in A's direction ppo is 0,
    # gppo -A times the bound, ce_gppo that times beta; ppo and ce_gppo are bounded again at 3.
    # cispo, tis: -A clip(r, .8, 1.28), -A min(r, 2). topr: -1, or min(r, 1). rec: -A, or 0 past a bound.
    # spo: -r (A - (r - 1) / .2). sapo: -A r 4 p (1 - p). aspo: r, or -1/r; 0 past [.8, 1.2]; at most 3.
    (0.5, 1.0): (-0.5, -0.8, -1.75, -0.4700, -0.5, -2.0, -1, -0.5, -0.5, -1, -0.5, -0.5),
    (0.5, -1.0): (0, 0.8, -0.75, 0.4671, 0.8, 0, 0.5, 0.5, 0.4, 0, 0, 0.5),
    (0.9, 1.0): (-0.9, -0.9, -1.35, -0.8978, -0.9, -1.1111, -1, -0.9, -0.9, -1, -0.9, -0.9),
    (0.9, -1.0): (0.9, 0.9, 0.45, 0.8975, 0.9, 0.9, 0.9, 0.9, 0.9, 1, 0.9, 0.9),
    (1.0, 1.0): (-1,) * 12,
    (1.0, -1.0): (1,) * 12,
    (1.1, 1.0): (-1.1, -1.1, -0.55, -1.0973, -1.1, -0.9091, -1, -1.1, -1.1, -1, -1.1, -1.1),
    (1.1, -1.0): (1.1, 1.1, 1.65, 1.0970, 1.1, 1.1, 1, 1.1, 1.1, 1, 1.1, 1.1),
    (1.5, 1.0): (0, -1.28, 2.25, -1.4100, -1.28, 0, -1, -1.5, -2.56, 0, 0, -1.5),
    (1.5, -1.0): (1.5, 1.28, 5.25, 1.4012, 1.5, 1.5, 1, 1.5, 1.5, 1, 1.5, 1.5),
    (4.0, 1.0): (0, -1.28, 56, -0.7228, -1.28, 0, -1, -2, -2.56, 0, 0, -4),
    (4.0, -1.0): (0, 1.28, 64, 0.6304, 4, 3, 1, 2, 0, 1, 4, 4),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_gradient_table(column):
    at = COLUMNS.index(column)
    found = {where: slope(column, *where)[1] for where in GRADIENTS}
    assert found == pytest.approx({where: row[at] for where, row in GRADIENTS.items()}, abs=6e-5)


def test_values():
    assert slope("ppo", 1.5, 1.0)[0] == pytest.approx(-1.28)  # -clip(1.5)
    assert slope("ppo", 0.5, -1.0)[0] == pytest.approx(0.8)  # max(.5, .8)
    assert slope("ppo", 4.0, -1.0)[0] == pytest.approx(3.0)  # min(4, dual 3)
    assert ppo_clip(torch.tensor([[math.log(4)]]), torch.tensor([[-1.0]])).loss.item() == pytest.approx(4.0)
    assert slope("sapo", 1.0, 1.0)[0] == pytest.approx(-2.0)  # 4 / 1 * 1/2
    assert slope("sapo", 1.0, -1.0)[0] == pytest.approx(1.904762)  # 4 / 1.05 * 1/2
    assert slope("spo", 1.5, -1.0)[0] == pytest.approx(1.5 + 0.25 / 0.4)
    assert slope("aspo", 0.5, 1.0)[0] == pytest.approx(-2.0)  # -1 / .5
    assert slope("aspo", 4.0, -1.0)[0] == pytest.approx(3 * (-6 + math.log(4)))  # 3 log pi
    for where in GRADIENTS:  # without a dual clip the value of gppo is ppo's; only the gradient differs
        without = ppo_clip(torch.tensor([[math.log(where[0])]]), torch.tensor([[where[1]]]), **BOUNDS)
        assert slope("gppo", *where)[0] == pytest.approx(without.loss.item())


def test_cispo_default_has_no_lower_bound():
    for ratio, gradient in ((0.01, -0.01), (9.0, -5.0)):
        logprobs = torch.tensor([[-3.0]], requires_grad=True)
        loss = cispo(logprobs, torch.tensor([[math.log(ratio)]]), torch.tensor([[1.0]])).loss
        assert torch.autograd.grad(loss.sum(), logprobs)[0].item() == pytest.approx(gradient)
        assert loss.item() == pytest.approx(gradient * -3.0)


def test_spo_keeps_its_pull_at_the_bound():
    # past log ratio 1 the gradient is that at r = e: -e (1 - (e - 1) / .2); past -1 that at 1/e
    log_ratio = torch.tensor([[1.0, 3.0, 500.0, -500.0]], requires_grad=True)
    spo(log_ratio, torch.ones(1, 4)).loss.sum().backward()
    high, low = -math.e * (1 - (math.e - 1) / 0.2), -1 / math.e * (1 - (1 / math.e - 1) / 0.2)
    assert high > 0 > low
    assert log_ratio.grad is not None
    assert log_ratio.grad[0].tolist() == pytest.approx([high, high, high, low], rel=1e-5)


def test_bounded_pull_survives_any_ratio():
    log_ratio = torch.tensor([[500.0, -500.0]], requires_grad=True)
    gppo(log_ratio, torch.tensor([[1.0, -1.0]]), beta_low=0.5).loss.sum().backward()
    assert log_ratio.grad is not None
    assert log_ratio.grad[0].tolist() == pytest.approx([-1.28, 0.5 * 0.8])


RATIOS = torch.tensor([[0.5, 0.5, 1.0, 1.5, 1.5, 4.0, 0.2, 4.0]])
ADVANTAGES = torch.tensor([[1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 0.0, 0.0]])
PAST_LOW, PAST_HIGH, PAST_DUAL = [0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize(
    ("name", "low", "high", "dual"),
    [
        ("ppo", PAST_LOW, PAST_HIGH, PAST_DUAL),
        ("ce_gppo", PAST_LOW, PAST_HIGH, PAST_DUAL),
        ("aspo", PAST_LOW, PAST_HIGH, PAST_DUAL),
        ("rec", PAST_LOW, PAST_HIGH, None),
        ("cispo", [1, 1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1, 0, 1], None),  # whatever A
        ("topr", None, [0, 0, 0, 0, 1, 1, 0, 0], None),
        ("simko", PAST_LOW, PAST_HIGH, None),
    ],
)
def test_stats_say_which_bound_binds(name, low, high, dual):
    leaf = RATIOS.log().requires_grad_()
    stats = apply(name, logprobs=leaf, log_ratio=leaf, advantages=ADVANTAGES).stats
    for bound, expected in (("low", low), ("high", high), ("dual", dual)):
        found = stats.get(f"clip_fraction_{bound}")
        assert (found.tolist() if found is not None else None) == ([expected] if expected else None), bound


@pytest.mark.parametrize("name", LOSSES)
def test_stats_are_detached_and_per_token(name):
    leaf = RATIOS.log().requires_grad_()
    result = apply(name, logprobs=leaf, log_ratio=leaf, advantages=ADVANTAGES)
    assert result.loss.requires_grad
    assert not any(x.requires_grad for x in result.stats.values())
    assert {x.shape for x in result.stats.values()} <= {RATIOS.shape}
    if name not in ("reinforce", "gmpo"):  # gmpo's ratio is the trajectory's
        torch.testing.assert_close(result.stats["ratio"], RATIOS)


def test_scores_by_hand():
    logprobs = torch.tensor([[-0.5, -2.0]], requires_grad=True)
    advantages = torch.tensor([[2.0, -1.0]])
    assert reinforce(logprobs, advantages).loss.tolist() == [[1.0, -2.0]]
    assert nll(logprobs).loss.tolist() == [[0.5, 2.0]]


def naive(name: str, lp: float, d: float, a: float) -> float:
    r = math.exp(d)
    clipped = min(max(r, 0.8), 1.28)
    past = (a > 0 and r > 1.28) or (a < 0 and r < 0.8)
    unbounded = max(-a * r, -a * clipped)
    tau = 1.0 if a > 0 else 1.05
    held = math.exp(min(max(d, -1.5), 1.5))
    beta = {True: 2.0, False: 0.5}[a > 0] if past else 1.0
    return {
        "reinforce": -a * lp,
        "surrogate": -a * r,
        "ppo": min(unbounded, -a * 3.0) if a < 0 else unbounded,
        "gppo": min(unbounded, -a * 10.0) if a < 0 else unbounded,
        "ce_gppo": min(unbounded * beta, -a * 3.0) if a < 0 else unbounded * beta,
        "cispo": -clipped * a * lp,
        "tis": -min(r, 2.0) * a * lp,
        "topr": -a * lp if a > 0 else -min(r, 1.0) * a * lp,
        "rec": 0.0 if past else -a * lp,
        "rec_is": 0.0 if past else -r * a * lp,
        "sapo": -a * 4 / tau / (1 + math.exp(-tau * (r - 1))),
        "spo": -(a * held - abs(a) * (held - 1) ** 2 / 0.4),
    }[name]


@pytest.mark.parametrize("name", PER_TOKEN)
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_naive_loop(ragged, name, seed):
    rows = ragged(seed)
    logprobs, old, advantages = rows.logprobs(), rows.logprobs(), rows.rewards()
    log_ratio = log_ratios.token(logprobs, old, rows.mask)
    loss = apply(name, logprobs=logprobs, log_ratio=log_ratio, advantages=advantages).loss
    for found, *data in zip(*(x.flatten().tolist() for x in (loss, logprobs, log_ratio, advantages)), strict=True):
        assert found == pytest.approx(naive(name, *data), abs=1e-5, rel=1e-5)
    assert not loss[~rows.mask].any()


@pytest.mark.parametrize("name", [*PER_TOKEN, "aspo", "simko"])
@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_at_ratio_one_every_loss_has_the_score_function_gradient(ragged, name, seed):
    rows = ragged(seed)
    logprobs, advantages = rows.logprobs().requires_grad_(), rows.rewards()
    log_ratio = log_ratios.token(logprobs, logprobs.detach(), rows.mask)
    context = {"response_mask": rows.mask, "old_entropy": rows.noise().abs()}
    apply(name, logprobs=logprobs, log_ratio=log_ratio, advantages=advantages, **context).loss.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


@pytest.mark.parametrize("name", LOSSES)
def test_enormous_log_ratios_stay_finite(name):
    log_ratio = torch.tensor([[500.0, -500.0, 500.0, -500.0]], requires_grad=True)
    logprobs = torch.tensor([[-1.0, -500.0, -1.0, -500.0]], requires_grad=True)
    result = apply(name, logprobs=logprobs, log_ratio=log_ratio, advantages=torch.tensor([[-1.0, 1.0, 1.0, -1.0]]))
    assert result.loss.isfinite().all()
    for gradient in torch.autograd.grad(result.loss.sum(), [logprobs, log_ratio], allow_unused=True):
        assert gradient is None or gradient.isfinite().all()
    if name not in ("reinforce", "gmpo"):
        held = [math.exp(20), math.exp(-20)] * 2
        assert result.stats["ratio"][0].tolist() == pytest.approx(held, rel=1e-5)


@pytest.mark.parametrize(
    ("function", "setting", "value", "expected"),
    [
        (ppo_clip, "dual_clip", 1.2, r"above 1 \+ clip_high = 1\.2"),
        (gppo, "dual_clip", 1.28, r"above 1 \+ clip_high = 1\.28"),
        (gppo, "beta_low", -0.5, "at least 0"),
        (cispo, "clip_low", -1.0, "at least 0"),
        (topr, "cap", 0.0, "above 0"),
        (one_sided, "clip_high", -1.0, "at least 0"),
        (sapo, "tau_negative", 0.0, "above 0"),
        (spo, "epsilon", 0.0, "above 0"),
        (spo, "max_log_ratio", 0.0, "above 0"),
    ],
)
def test_settings_out_of_range_are_refused(function, setting, value, expected):
    kinds = inspect.signature(function).parameters.values()
    data = [torch.zeros(1, 1) for p in kinds if p.kind is not p.KEYWORD_ONLY]
    with pytest.raises(ValueError, match=f"{setting}: {value} is not valid, expected .*{expected}"):
        function(*data, **{setting: value})


@pytest.mark.parametrize("log_ratio", [log_ratios.token, log_ratios.sequence])
@pytest.mark.parametrize("name", LOSSES)
def test_bandit_finds_the_best_arm(name, log_ratio):
    """Five arms paid [0, .2, .4, .6, 1]; groups of 16 pulls, two updates each, from the uniform policy.

    A pull is a trajectory of two tokens: the arm, and an end that is certain, so that the arm has high entropy.
    """
    generator = torch.Generator().manual_seed(0)
    pay = torch.tensor([0.0, 0.2, 0.4, 0.6, 1.0])
    logits = torch.zeros(5, requires_grad=True)
    mask, group_ids = torch.ones(16, 2, dtype=torch.bool), torch.zeros(16, dtype=torch.long)
    for _ in range(40):
        arms = torch.multinomial(logits.detach().softmax(0), 16, replacement=True, generator=generator)[:, None]
        old = logits.detach().log_softmax(0)
        top_ids = old.topk(3).indices
        rewards = torch.cat([torch.zeros(16, 1), pay[arms]], dim=1)
        fixed = {
            "advantages": grpo(rewards, mask, group_ids).advantages,
            "response_mask": mask,
            "correct": (arms[:, 0] == 4).float(),
            "old_entropy": torch.tensor([-(old.exp() * old).sum().item(), 0.0]).expand(16, 2),
            "token_ids": torch.cat([arms, torch.full_like(arms, 9)], dim=1),
            "old_top_ids": torch.stack([top_ids, torch.full_like(top_ids, 9)]).expand(16, 2, 3),
        }
        for _ in range(2):
            now = logits.log_softmax(0)
            logprobs = torch.cat([now[arms], torch.zeros(16, 1)], dim=1)
            moving = {
                "logprobs": logprobs,
                "log_ratio": log_ratio(logprobs, torch.cat([old[arms], torch.zeros(16, 1)], dim=1), mask),
                "top_logprobs": torch.stack([now[top_ids], torch.zeros(3)]).expand(16, 2, 3),
            }
            loss = apply(name, **fixed, **moving).loss
            (gradient,) = torch.autograd.grad((loss * sequence_mean(mask)).sum(), logits)
            logits = (logits - 0.8 * gradient).detach().requires_grad_()
    assert logits.softmax(0)[4] > 0.9


def test_dft_has_the_gradient_of_minus_the_probability():
    logits = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64, requires_grad=True)
    logprob = logits.log_softmax(0)[1]
    loss = dft(logprob[None, None]).loss.sum()
    assert loss.item() == pytest.approx(-logprob.exp().item() * logprob.item())  # -p log p
    (found,) = torch.autograd.grad(loss, logits)
    p = logits.detach().softmax(0)
    assert torch.allclose(found, p[1] * p - p[1] * torch.eye(3)[1], atol=1e-7)  # -dp_1/dlogits


def test_nll_fits_the_accepted_arms():
    # maximum likelihood of 3 pulls of arm 0 and 1 of arm 2 is [3/4, 0, 1/4]
    arms, logits = torch.tensor([[0], [0], [2], [0]]), torch.zeros(3, requires_grad=True)
    for _ in range(400):
        loss = nll(logits.log_softmax(0)[arms]).loss.mean()
        logits = (logits - torch.autograd.grad(loss, logits)[0]).detach().requires_grad_()
    torch.testing.assert_close(logits.softmax(0), torch.tensor([0.75, 0.0, 0.25]), atol=0.01, rtol=0)
