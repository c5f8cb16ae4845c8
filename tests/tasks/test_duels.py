"""The duel's known solutions, and the losses of self-play that have to find them with exact expectations.

The policy is a softmax over three moves. Pairs are weighed by their chance to be sampled and to be labelled so, and
each step of a method's outer loop minimises the real loss over all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from llmrl.ops.policy_losses.score import reinforce
from llmrl.ops.preference_losses.games import inpo, mnpo
from llmrl.ops.preference_losses.logistic import dpo
from llmrl.ops.preference_losses.regression import sppo
from llmrl.ops.regularizers import kl_k2, past_kl
from llmrl.pieces import bind
from llmrl.rewards.win_rate import win_rate
from llmrl.tasks.duels import MOVES, NASH, PREFERENCES, duels, exploitability, prefers, regularized_nash, win_rates
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

P = torch.tensor(PREFERENCES, dtype=torch.float64)
REFERENCE = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
CHOSEN, REJECTED = torch.tensor([(i, j) for i in range(3) for j in range(3) if i != j]).T
TAU = 0.4


# the game itself


def test_preferences_go_round_and_the_nash_policy_wins_half_of_its_duels():
    assert torch.allclose(P + P.T, torch.ones(3, 3).double())
    assert win_rates(NASH) == pytest.approx([0.5] * 3)
    assert exploitability(NASH) == pytest.approx(0.0)
    assert exploitability([1.0, 0.0, 0.0]) == pytest.approx(0.4)
    chances = [[asyncio.run(prefers(a, b)) for b in (*MOVES, "rr")] for a in (*MOVES, "")]
    assert [row[:3] for row in chances[:3]] == [list(row) for row in PREFERENCES]
    assert [row[3] for row in chances] == [1.0, 1.0, 1.0, 0.5] and chances[3][:3] == [0.0] * 3
    assert [row["question"] for row in duels(2, 5)] == ["duel 5:", "duel 6:"]


@pytest.mark.parametrize("own", [1.0, 0.5])
def test_the_regularized_policy_is_a_fixed_point(own):
    reference = REFERENCE.exp().tolist()
    found = regularized_nash(reference, TAU, own=own)
    opponent = [p**own * r ** (1 - own) for p, r in zip(found, reference, strict=True)]
    rates = win_rates([one / sum(opponent) for one in opponent])
    expected = (REFERENCE + torch.tensor(rates, dtype=torch.float64) / TAU).softmax(0)
    assert found == pytest.approx(expected.tolist(), abs=1e-9)
    # with a weak pull it is near the game's own
    assert regularized_nash(reference, 0.01) == pytest.approx(NASH, abs=0.05)


# losses of pairs, each outer step solved exactly


def least(loss: Callable[[Tensor], Tensor], start: Tensor, *, rounds: int = 1) -> Tensor:
    """The log-probabilities that minimise a loss of them, by steps of Newton: one if the loss is quadratic."""
    logits = start
    for _ in range(rounds):
        of_logits = lambda values: loss(values.log_softmax(0))  # noqa: E731
        gradient = torch.autograd.functional.jacobian(of_logits, logits)
        logits = logits - torch.linalg.pinv(torch.autograd.functional.hessian(of_logits, logits)) @ gradient
    return logits.log_softmax(0)


Rewards = tuple[Tensor, Tensor] | None


def of_pairs(
    function: Callable[..., Tensor], sampler: Tensor, logprobs: Tensor, rewards: Rewards = None, **others: Any
) -> Tensor:
    """A pair loss's mean over pairs from `sampler`: the winner is drawn by its chance, or has the higher reward.

    rewards: those of both completions of each pair. others: log-probabilities by name, and settings.
    """
    settings = {name: value for name, value in others.items() if not isinstance(value, Tensor)}
    weight = P[CHOSEN, REJECTED] if rewards is None else rewards[0] > rewards[1]
    rewards = rewards or (torch.ones(6).double(), torch.zeros(6).double())
    data: dict[str, Any] = {"chosen_rewards": rewards[0], "rejected_rewards": rewards[1]}
    for name, values in {"logprobs": logprobs, **others}.items():
        if name not in settings:
            data |= {f"chosen_{name}": values[CHOSEN], f"rejected_{name}": values[REJECTED]}
    piece = bind(function.__name__, function, settings, key="preference_loss")
    return (piece(data) * weight * sampler.exp()[CHOSEN] * sampler.exp()[REJECTED]).sum()


def after_mirror_step(now: Tensor, eta: float, mixture: float, rates: Tensor) -> Tensor:
    return (mixture * REFERENCE + (1 - mixture) * now + rates / eta).log_softmax(0)


def rates_of(logprobs: Tensor) -> Tensor:
    return P @ logprobs.exp()


def distance(logprobs: Tensor, target: Any) -> float:
    return float((logprobs.exp() - torch.tensor(target).double()).abs().sum())


# of a pair that count themselves the winner's rate is (P + 1/2) / 2
COUNTED = ((P[CHOSEN, REJECTED] + 0.5) / 2, (P[REJECTED, CHOSEN] + 0.5) / 2)


@pytest.mark.parametrize("rewards", [None, COUNTED], ids=["drawn", "graded"])
def test_inpo_takes_the_mirror_step_and_arrives(rewards):
    """Labels drawn by chance, or the graded win rates of groups of two, which have the same minimum."""
    now, settings = REFERENCE, {"eta": 1.0, "mixture": TAU, "graded": rewards is not None}
    target = regularized_nash(REFERENCE.exp().tolist(), TAU)
    away = [distance(now, target)]
    for _ in range(40):
        models = {"ref_logprobs": REFERENCE, "old_logprobs": now}
        step = least(partial(of_pairs, inpo, now, rewards=rewards, **models, **settings), now)
        assert torch.allclose(step, after_mirror_step(now, 1.0, TAU, rates_of(now)), atol=1e-6)
        now = step
        away.append(distance(now, target))
    assert away[-1] < 1e-4 < away[0] / 1000


def test_win_rates_of_groups_of_two_are_what_inpo_expects():
    """The real reward, whose completions count as opponents of themselves."""
    prompt = Prompt("p", (1,), "?", {})
    group = Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [1])], "stop", text) for text in "rp"])
    settings = {"opinion": "llmrl.tasks.duels:prefers", "counts_itself": True}
    piece = bind("win_rate", win_rate, settings, key="rewards")
    found = asyncio.run(piece({"group": group, "authors": {}}))
    assert [one.value for one in found] == pytest.approx([(0.1 + 0.5) / 2, (0.9 + 0.5) / 2])


def test_mnpo_arrives_where_inpo_does():
    """Against the policies of the last two steps; at the end both are the same."""
    now, before, settings = REFERENCE, REFERENCE, {"eta": 1.0, "mixture": TAU, "weights": [0.75, 0.25]}
    for _ in range(60):
        models = {"ref_logprobs": REFERENCE, "past_logprobs": torch.stack([now, before], dim=-1)}
        now, before = least(partial(of_pairs, mnpo, now, **models, **settings), now), now
    assert distance(now, regularized_nash(REFERENCE.exp().tolist(), TAU)) < 1e-4


def test_onpo_arrives_at_the_nash_policy_where_plain_mirror_steps_go_round():
    """Without any pull to the reference: 2 p_t - p_(t-1) in place of p_t makes the last policy converge."""
    ends = {}
    for optimism in (1.0, 0.0):
        now = before = REFERENCE
        for _ in range(100):
            rates = (1 + optimism) * rates_of(now) - optimism * rates_of(before)
            models = {"ref_logprobs": REFERENCE, "old_logprobs": now, "rewards": (rates[CHOSEN], rates[REJECTED])}
            loss = partial(of_pairs, inpo, now, eta=0.2, mixture=0.0, graded=True, **models)
            now, before = least(loss, now), now
        ends[optimism] = distance(now, NASH)
    assert ends[1.0] < 1e-4 and ends[0.0] > 0.5


def test_sppos_mean_policy_arrives_though_the_last_one_goes_round():
    piece = bind("sppo", sppo, {"beta": 5.0}, key="preference_loss")
    now, played = (0.5 * torch.tensor(NASH, dtype=torch.float64).log()).log_softmax(0), []
    start = distance(now, NASH)
    for _ in range(300):
        rates, before = rates_of(now), now

        def loss(logprobs: Tensor, rates=rates, before=before) -> Tensor:
            data = {"completion_log_ratios": logprobs - before, "completion_rewards": rates}
            return (piece(data) * before.exp()).sum()

        now = least(loss, now, rounds=2)
        # the constant that the loss leaves out is of second order
        assert torch.allclose(now, before + (rates - 0.5) / 5.0, atol=5e-3)
        played.append(now.exp())
    assert distance(now, NASH) > start
    assert distance(torch.stack(played).mean(0).log(), NASH) < 0.1 * start


# policy gradients


def climbed(
    logprobs: Tensor, opponent: Tensor, penalties: Callable[[Tensor], Tensor], *, steps: int = 300, rate: float = 1.0
) -> Tensor:
    """The policy after gradient steps of reinforce on exact win rates, with penalties of each move."""
    logits = logprobs.clone()
    advantages = P @ opponent.exp() - 0.5
    for _ in range(steps):
        logits = logits.detach().requires_grad_()
        own = logits.log_softmax(0)
        loss = reinforce(own[None], advantages[None]).loss[0] + penalties(own)
        (gradient,) = torch.autograd.grad((loss * own.detach().exp()).sum(), logits)
        logits = logits - rate * gradient
    return logits.detach().log_softmax(0)


@pytest.mark.parametrize("share", [0.0, 0.25])
def test_nash_md_arrives_at_its_fixed_point(share):
    """At the regularized Nash policy against itself; with the reference in the opponent, near it."""
    now, reference = REFERENCE, REFERENCE.exp().tolist()
    for _ in range(60):
        opponent = (share * REFERENCE + (1 - share) * now).log_softmax(0)
        now = climbed(now, opponent, lambda own: TAU * kl_k2(own.float(), REFERENCE.float()).double(), steps=8)
    assert distance(now, regularized_nash(reference, TAU, own=1 - share)) < 1e-3
    off = distance(now, regularized_nash(reference, TAU))
    assert off < 1e-3 if share == 0 else 1e-3 < off < 0.2


def test_nash_mp_takes_both_half_steps_and_arrives():
    """Each half-step is a best response with two pulls; the second one keeps the anchor of the first."""
    eta, now, reference = 0.5, REFERENCE, REFERENCE.exp().tolist()
    past, moves = torch.stack([now, now], dim=-1), 0
    while moves < 22:
        anchor = past[:, moves % 2]

        def penalties(own: Tensor, past=past, moves=moves) -> Tensor:
            to_anchor = past_kl(own[None], past[None], torch.tensor(moves), period=2)[0]
            return TAU * kl_k2(own, REFERENCE) + TAU / eta * to_anchor

        step = climbed(now, past[:, 0], penalties, steps=80, rate=1.0)
        pull = (eta * REFERENCE + anchor) / (1 + eta) + eta / (TAU * (1 + eta)) * rates_of(past[:, 0])
        assert torch.allclose(step, pull.log_softmax(0), atol=2e-3)
        now, moves = step, moves + 1
        past = torch.stack([now, past[:, 0]], dim=-1)
    assert distance(now, regularized_nash(reference, TAU)) < 5e-3


# a transitive opinion


def test_momentum_lengthens_the_steps_of_iterative_dpo():
    """Each iteration adds r / beta to the margin of its reference, and momentum a times the last one's step to that."""
    rewards, beta = torch.tensor([1.0, 0.4, 0.0]).double(), 2.0
    chance = torch.sigmoid(rewards[:, None] - rewards[None, :])
    piece = bind("dpo", dpo, {"beta": beta}, key="preference_loss")
    for momentum, expected in ((0.0, [0.5, 1.0, 1.5, 2.0]), (0.5, [0.5, 1.25, 2.125, 3.0625])):
        now = before = torch.zeros(3).double()
        margins = []
        for _ in range(4):
            reference = (1 + momentum) * now - momentum * before

            def loss(logprobs: Tensor, reference=reference) -> Tensor:
                ratios = logprobs - reference
                data = {"chosen_log_ratios": ratios[CHOSEN], "rejected_log_ratios": ratios[REJECTED]}
                return (piece(data) * chance[CHOSEN, REJECTED]).sum()

            now, before = least(loss, now, rounds=6), now
            margins.append(float(now[0] - now[2]))
        assert margins == pytest.approx(expected, abs=1e-4)
