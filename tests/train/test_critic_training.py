"""Training a critic beside the policy, against autograd over trajectories taken one by one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from by_hand import log_p_of, tokens_of
from torch import Tensor, nn
from training_cases import (
    LAYOUTS,
    fixed_batch,
    identical,
    largest_difference,
    record_gradients,
    role_of,
    tiny_critic,
    tiny_lm,
    turn_ids,
    value_head,
    with_lora,
)

from llmrl.batch import Batch
from llmrl.errors import RunStopped
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.step import Metrics, update

PerToken = dict[tuple[int, int], Any]
"""By row and column."""

LAM, WEIGHT = 0.95, 0.5
PPO = {"advantage": {"gae": {"whiten": False}}, "policy_loss": "ppo_clip"}
SHARED = PPO | {"critic": {"backbone": "shared", "weight": WEIGHT}}
DETACHED = PPO | {"critic": {"backbone": "shared", "weight": WEIGHT, "detach": True}}
TURNS = {"advantage": {"step_gae": {"whiten": False}}, "policy_loss": "ppo_clip"}


def batch_with_turns() -> Batch:
    return fixed_batch().with_(turn_ids=turn_ids(), reward_components=torch.zeros(len(LAYOUTS), 1))


def recorded(role: Role, batch: Batch, *, step: int | None = None) -> tuple[Metrics, dict[str, Tensor], Batch]:
    """The metrics, the gradients of all that is trained (of the first optimizer step), and what was provided."""
    seen = [record_gradients(learner.engine) for learner in role.learners]
    provided = provide(role, batch, share_done=0.3)
    metrics = update(role, provided, seed=0, step=step)
    del metrics["padding"], metrics["shared_tokens"]  # they depend on micro-batches
    return metrics, {name: g for steps in seen for name, g in (steps[0] if steps else {}).items()}, provided


# the reference


def said(lm: Any, head: nn.Module) -> PerToken:
    """The outputs for every response token, each trajectory alone, with gradient: [H] each."""
    batch, found = fixed_batch(), {}
    for row, layout in enumerate(LAYOUTS):
        hidden = lm.model(input_ids=batch.token_ids[row : row + 1, : len(layout)]).last_hidden_state[0]
        found |= {(row, t): head(hidden[t - 1]) for t in tokens_of(layout)}
    return found


def gae_of(values: PerToken, batch: Batch) -> tuple[PerToken, PerToken]:
    """A_t = r_t + V_next - V_t + 0.95 A_next, and A_t + V_t."""
    advantages, returns = {}, {}
    for row, layout in enumerate(LAYOUTS):
        next_value = next_advantage = 0.0
        for t in reversed(tokens_of(layout)):
            delta = float(batch.rewards[row, t]) + next_value - values[row, t]
            advantages[row, t] = next_advantage = delta + LAM * next_advantage
            next_value = values[row, t]
            returns[row, t] = advantages[row, t] + values[row, t]
    return advantages, returns


def value_loss_of(outputs: PerToken, returns: PerToken) -> Tensor:
    """The mean over targets of half the squared error, averaged over heads."""
    terms = [(outputs[place] - target).square().mean() / 2 for place, target in returns.items()]
    return torch.stack(terms).mean()


def policy_loss_of(lm: Any, advantages: PerToken) -> Tensor:
    """At ratio 1 the gradient of the surrogate is that of -A log p."""
    token_ids, terms = fixed_batch().token_ids, []
    for row, layout in enumerate(LAYOUTS):
        log_p = log_p_of(lm, token_ids[row, : len(layout)].tolist())
        terms += [-advantages[row, t] * log_p[t - 1, token_ids[row, t]] for t in tokens_of(layout)]
    return torch.stack(terms).mean()


def gradients_of(loss: Tensor, **modules: Any) -> dict[str, Tensor]:
    """By parameter name, of modules by the prefix of their names; 0 where the loss does not reach."""
    named = {f"{prefix}{name}": p for prefix, module in modules.items() for name, p in module.named_parameters()}
    named = {name.replace("__", "."): p for name, p in named.items()}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(named.items(), found, strict=True)}


def mean_value(output: Tensor) -> float:
    return float(output.detach().mean())


def at(values: Tensor, places: PerToken) -> list[float]:
    return [float(values[place]) for place in places]


# a backbone of its own


def test_one_update_is_autograd_of_the_value_loss():
    lm, critic_lm, head = tiny_lm(), tiny_lm(seed=4), value_head()
    outputs = said(critic_lm, head)
    values = {place: mean_value(output) for place, output in outputs.items()}
    advantages, returns = gae_of(values, fixed_batch())
    loss = value_loss_of(outputs, returns)
    expected = gradients_of(loss, backbone__=critic_lm.model, head__=head)
    expected |= gradients_of(policy_loss_of(lm, advantages), **{"": lm})

    metrics, gradients, provided = recorded(role_of(PPO), fixed_batch())
    assert "old_logprobs" not in provided
    assert at(provided.values, values) == pytest.approx(list(values.values()), abs=1e-5)
    assert not provided.values[~provided.response_mask].any()
    assert float(expected["head.weight"].abs().max()) > 1e-2
    assert largest_difference(gradients, expected) < 1e-5

    errors = [returns[place] - values[place] for place in values]
    unexplained = statistics.pvariance(errors) / statistics.pvariance(list(returns.values()))
    assert metrics["value_loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert metrics["explained_variance"] == pytest.approx(1 - unexplained, abs=1e-5)
    assert metrics["value"] == pytest.approx(statistics.fmean(values.values()), abs=1e-6)
    assert metrics["value_error"] == pytest.approx(statistics.fmean(map(abs, errors)), abs=1e-6)
    of_critic = [g for name, g in expected.items() if name.startswith(("backbone.", "head."))]
    norm = math.sqrt(sum(float(g.double().square().sum()) for g in of_critic))
    assert metrics["critic_grad_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("pieces", [PPO, SHARED], ids=["own", "shared"])
@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])
@pytest.mark.parametrize("tokens", [1, 10**6])
def test_micro_batches_change_nothing(tokens, padding_free, pieces):
    metrics, gradients, _ = recorded(role_of(pieces), fixed_batch())
    cut = role_of(pieces, tokens_per_micro_batch=tokens, padding_free=padding_free)
    other_metrics, other_gradients, _ = recorded(cut, fixed_batch())
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    assert largest_difference(other_gradients, gradients) < 1e-6 * largest
    assert other_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)


def test_tokens_without_a_return_are_no_targets():
    """Values of turns: the critic learns at each turn's first token, and its loss is the mean over those alone."""
    critic_lm, head = tiny_lm(seed=4), value_head()
    outputs = said(critic_lm, head)
    batch, firsts = batch_with_turns(), {}
    for row, layout in enumerate(LAYOUTS):
        starts = [t for t in tokens_of(layout) if layout[t - 1] != "A"]
        next_value = next_advantage = 0.0
        for start, end in reversed(list(zip(starts, [*starts[1:], len(layout)], strict=False))):
            value = mean_value(outputs[row, start])
            delta = float(batch.rewards[row, start:end].sum()) + 0.99 * next_value - value
            next_advantage = delta + 0.99 * LAM * next_advantage
            next_value = value
            firsts[row, start] = next_advantage + value
    assert len(firsts) == 9 < len(outputs)
    loss = value_loss_of(outputs, firsts)
    expected = gradients_of(loss, backbone__=critic_lm.model, head__=head)

    role = role_of(TURNS)
    metrics, gradients, _ = recorded(role, batch)
    found = {name: gradients[name] for name in expected}
    assert largest_difference(found, expected) < 1e-5
    assert metrics["value_loss"] == pytest.approx(loss.item(), abs=1e-6)
    values = [mean_value(outputs[place]) for place in firsts]
    errors = [target - value for target, value in zip(firsts.values(), values, strict=True)]
    unexplained = statistics.pvariance(errors) / statistics.pvariance(list(firsts.values()))
    assert metrics["explained_variance"] == pytest.approx(1 - unexplained, abs=1e-5)
    assert metrics["value"] == pytest.approx(statistics.fmean(values), abs=1e-6)


def trained(role: Role) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Copies of what the policy and the critic have learnt."""
    policy = {name: p.clone() for name, p in role.learner.engine.trained_weights().items()}
    critic = role.critic.learner.engine.trained_weights() if role.critic and role.critic.learner else {}
    return policy, {name: p.clone() for name, p in critic.items()}


@pytest.mark.parametrize("frozen", [False, True])
def test_warm_up_trains_the_critic_alone(frozen):
    role = role_of(PPO | {"critic": {"warmup_steps": 2, "frozen": frozen}})
    start = states = trained(role)
    for step in range(4):
        batch = provide(role, fixed_batch())
        metrics = update(role, batch, seed=0, step=step)
        before, states = states, trained(role)
        moved = [not identical(now, then) for now, then in zip(states, before, strict=True)]
        assert moved == [step >= 2, step < 2 or not frozen]
        assert ("grad_norm" in metrics, "critic_grad_norm" in metrics) == tuple(moved)
        assert ("loss" in metrics, "value_loss" in metrics) == tuple(moved)
        assert "explained_variance" in metrics  # also of a critic that learns no more
    assert not identical(states[0], start[0])


def test_metrics_of_several_updates_are_their_means():
    """Two passes whose learning rate is next to nothing: with the same weights they find the same."""
    role = role_of(PPO, epochs_per_step=2, learning_rate=1e-30)
    once, _, _ = recorded(role_of(PPO, learning_rate=1e-30), fixed_batch())
    twice, _, _ = recorded(role, fixed_batch())
    for name in ("loss", "grad_norm", "value_loss", "critic_grad_norm", "value_error", "entropy"):
        assert twice[name] == pytest.approx(once[name], rel=1e-4, abs=1e-6), name


def test_every_epoch_compares_with_the_first_outputs():
    """The clip holds values near what they were at the step's start: past it, a head is no longer pulled."""
    pieces = PPO | {"value_loss": {"squared": {"clip": 1e-6}}}
    role = role_of(pieces, epochs_per_step=2)
    assert role.critic and role.critic.learner
    seen = record_gradients(role.critic.learner.engine)
    metrics = update(role, provide(role, fixed_batch()), seed=0)
    assert metrics["value_clip_fraction"] == pytest.approx(0.5)  # none in the first pass, all in the second
    assert largest_difference(seen[0], {name: torch.zeros_like(g) for name, g in seen[0].items()}) > 1e-2


def test_values_are_measured_without_the_adapters_dropout():
    role, still = (role_of(PPO, critic_lm=with_lora(tiny_lm(seed=4), dropout=d)) for d in (0.5, 0.0))
    found, expected = (provide(one, fixed_batch()).values for one in (role, still))
    assert torch.equal(found, expected)
    assert role.critic.learner.engine.model.training


# the policy's backbone


@pytest.mark.parametrize("pieces", [SHARED, DETACHED], ids=["joined", "detached"])
def test_a_shared_backbone_gets_both_gradients(pieces):
    lm, head = tiny_lm(), value_head()
    outputs = said(lm, head)
    values = {place: mean_value(output) for place, output in outputs.items()}
    advantages, returns = gae_of(values, fixed_batch())
    policy_loss, value_loss = policy_loss_of(lm, advantages), value_loss_of(outputs, returns)
    of_policy = gradients_of(policy_loss, **{"": lm}, value_head__=head)
    of_values = gradients_of(WEIGHT * value_loss, **{"": lm}, value_head__=head)
    reached = [name for name in of_values if name.startswith("value_head.") or pieces is SHARED]
    expected = of_policy | {name: of_policy[name] + of_values[name] for name in reached}
    assert largest_difference(of_values, {name: 0 * g for name, g in of_values.items()}) > 1e-2
    assert not of_policy["value_head.weight"].any()

    metrics, gradients, _ = recorded(role_of(pieces), fixed_batch())
    assert largest_difference(gradients, expected) < 1e-5
    assert metrics["value_loss"] == pytest.approx(value_loss.item(), abs=1e-6)
    surrogate = -statistics.fmean(advantages.values())  # -A r at ratio 1
    assert metrics["loss"] == pytest.approx(surrogate + WEIGHT * value_loss.item(), abs=1e-5)


@pytest.mark.parametrize("detach", [False, True])
def test_a_shared_backbones_warm_up_is_the_value_loss_alone(detach):
    lm, head = tiny_lm(tied=False), value_head()
    outputs = said(lm, head)
    _, returns = gae_of({place: mean_value(output) for place, output in outputs.items()}, fixed_batch())
    loss = WEIGHT * value_loss_of(outputs, returns)
    expected = gradients_of(loss, **{"": lm}, value_head__=head)
    assert not expected["lm_head.weight"].any()
    if detach:
        expected |= {name: 0 * g for name, g in expected.items() if not name.startswith("value_head.")}

    critic = {"backbone": "shared", "weight": WEIGHT, "detach": detach, "warmup_steps": 1}
    role = role_of(PPO | {"critic": critic}, lm=tiny_lm(tied=False))
    before, _ = trained(role)
    metrics, gradients, _ = recorded(role, fixed_batch(), step=0)
    assert largest_difference(gradients, expected) < 1e-5
    assert metrics["loss"] == pytest.approx(loss.item(), abs=1e-6)
    after, _ = trained(role)
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == (before.keys() - {"value_head.weight", "value_head.bias"} if detach else {"lm_head.weight"})


# several outputs


def soft_minimum(outputs: Tensor) -> float:
    heads = outputs.tolist()
    return -0.3 * math.log(sum(math.exp(-head / 0.3) for head in heads) / len(heads))


def expected_bin(outputs: Tensor) -> float:
    """Of 5 bins -1, 0, 1, 2, 3."""
    powers = [math.exp(one) for one in outputs.tolist()]
    return sum((k - 1) * power for k, power in enumerate(powers)) / sum(powers)


def two_hot_loss_of(outputs: PerToken, returns: PerToken) -> Tensor:
    """A return of 0.3 is 0.7 at bin 0 and 0.3 at bin 1."""
    terms = []
    for place, target in returns.items():
        log_p, below = torch.log_softmax(outputs[place], dim=0), math.floor(target)
        share = target - below
        terms.append(-(1 - share) * log_p[below + 1] - share * log_p[below + 2])
    return torch.stack(terms).mean()


RANGE = {"low": -1.0, "high": 3.0}
READINGS: dict[str, tuple[dict[str, Any], Callable[[Tensor], float], Callable[..., Tensor]]] = {
    "mean": ({"critic": {"outputs": 5}}, mean_value, value_loss_of),
    "softmin": ({"critic": {"outputs": 5}, "value": "softmin"}, soft_minimum, value_loss_of),
    "expectation": (
        {
            "critic": {"outputs": 5},
            "value": {"expectation": RANGE},
            "value_loss": {"categorical": RANGE | {"smoothing": 0.0}},
        },
        expected_bin,
        two_hot_loss_of,
    ),
}


@pytest.mark.parametrize("backbone", ["own", "shared"])
@pytest.mark.parametrize("reading", READINGS)
def test_several_outputs_become_one_value_and_learn(reading, backbone):
    settings, value_of, loss_of = READINGS[reading]
    lm, head = tiny_lm(seed=4), value_head(5)
    outputs = said(lm, head)
    values = {place: value_of(output) for place, output in outputs.items()}
    advantages, returns = gae_of(values, fixed_batch())
    assert reading != "expectation" or all(-1 < target < 3 for target in returns.values())
    loss = loss_of(outputs, returns)
    if backbone == "own":
        expected = gradients_of(loss, backbone__=lm.model, head__=head)
    else:
        total = loss + policy_loss_of(lm, advantages)
        expected = gradients_of(total, **{"": lm}, value_head__=head)

    critic = {"critic": {"outputs": 5, "backbone": backbone}}
    role = role_of(PPO | settings | critic, lm=tiny_lm(seed=4 if backbone == "shared" else 0))
    metrics, gradients, provided = recorded(role, fixed_batch())
    assert at(provided.values, values) == pytest.approx(list(values.values()), abs=1e-5)
    deviations = [statistics.pstdev(output.tolist()) for output in outputs.values()]
    assert at(provided.value_std, values) == pytest.approx(deviations, abs=1e-5)
    assert largest_difference({name: gradients[name] for name in expected}, expected) < 2e-5
    assert metrics["value_loss"] == pytest.approx(loss.item(), abs=1e-5)
    for field in (provided.values, provided.value_std, provided.old_outputs):
        assert not field[~provided.response_mask].any()


def test_the_spread_of_heads_reaches_the_advantages():
    """A' = A + w min(|A| / 3, std_next); at 0.3 of the stage, in the second of four stairs, w = 1 - 1/3."""
    lm, critic_lm = tiny_lm(), tiny_lm(seed=4)
    outputs = said(critic_lm, value_head(3))
    advantages, _ = gae_of({place: mean_value(output) for place, output in outputs.items()}, fixed_batch())
    shaped = dict(advantages)
    for row, layout in enumerate(LAYOUTS):
        places = tokens_of(layout)
        for t, following in pairwise(places):
            spread = statistics.pstdev(outputs[row, following].tolist())
            shaped[row, t] += 2 / 3 * min(abs(advantages[row, t]) / 3, spread)
    expected = gradients_of(policy_loss_of(lm, shaped), **{"": lm})
    role = role_of(PPO | {"critic": {"outputs": 3}, "advantage_shaping": {"value_spread": {}}})
    _, gradients, _ = recorded(role, fixed_batch())
    assert largest_difference({name: gradients[name] for name in expected}, expected) < 1e-5
    plain = gradients_of(policy_loss_of(tiny := tiny_lm(), advantages), **{"": tiny})
    assert largest_difference(plain, expected) > 1e-3


def test_each_head_learns_from_its_own_trajectories():
    """Head j uses trajectory i where frac(uniform_noise[i, 0] + j g) < 1/2, g the golden ratio."""
    critic_lm, head = tiny_lm(seed=4), value_head(3)
    role = role_of(PPO | {"critic": {"outputs": 3}, "value_loss": "bootstrapped"})
    _, gradients, provided = recorded(role, fixed_batch())
    outputs = said(critic_lm, head)
    _, returns = gae_of({place: mean_value(output) for place, output in outputs.items()}, fixed_batch())
    terms, uses = [], []
    for (row, t), target in returns.items():
        draw = float(provided.uniform_noise[row, 0])
        used = torch.tensor([(draw + j * (math.sqrt(5) - 1) / 2) % 1 < 0.5 for j in range(3)])
        uses.append(used)
        terms.append((used * (outputs[row, t] - target).square()).sum() / 2 / (0.5 * 3))
    assert 0.1 < torch.stack(uses).float().mean() < 0.9
    expected = gradients_of(torch.stack(terms).mean(), backbone__=critic_lm.model, head__=head)
    assert largest_difference({name: gradients[name] for name in expected}, expected) < 1e-5


def test_the_critics_of_these_tests_differ_from_the_policy():
    assert not torch.equal(tiny_critic().backbone.embed_tokens.weight, tiny_lm().model.embed_tokens.weight)


# a critic that reads more than the policy

CONTEXTS = ([33, 34, -1], [-1, 35], [33, -1, 36, 37], [-1], [35, 36, -1], [-1, 33], [34, -1, 33])


def with_contexts(change: int = 0) -> Batch:
    """The fixed batch with CONTEXTS, their tokens greater by `change`."""
    longest = max(map(len, CONTEXTS))
    rows = [[*[token + change * (token > 0) for token in row], *[-2] * (longest - len(row))] for row in CONTEXTS]
    return fixed_batch().with_(context_ids=torch.tensor(rows))


def said_with_contexts(lm: Any, head: nn.Module) -> PerToken:
    """The outputs for every response token after its context, each trajectory alone."""
    batch, found = fixed_batch(), {}
    for row, layout in enumerate(LAYOUTS):
        own, begin = batch.token_ids[row, : len(layout)].tolist(), layout.find("A") if "A" in layout else len(layout)
        prompt = CONTEXTS[row].index(-1)
        before, after = CONTEXTS[row][:prompt], CONTEXTS[row][prompt + 1 :]
        tokens = torch.tensor([[*before, *own[:begin], *after, *own[begin:]]])
        hidden = lm.model(input_ids=tokens).last_hidden_state[0]
        found |= {(row, t): head(hidden[len(before) + len(after) + t - 1]) for t in tokens_of(layout)}
    return found


@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])
def test_a_context_reaches_the_critic_and_not_the_policy(padding_free):
    lm, critic_lm, head = tiny_lm(), tiny_lm(seed=4), value_head()
    outputs = said_with_contexts(critic_lm, head)
    values = {place: mean_value(output) for place, output in outputs.items()}
    advantages, returns = gae_of(values, fixed_batch())
    expected = gradients_of(value_loss_of(outputs, returns), backbone__=critic_lm.model, head__=head)
    expected |= gradients_of(policy_loss_of(lm, advantages), **{"": lm})

    _, gradients, provided = recorded(role_of(PPO, padding_free=padding_free), with_contexts())
    assert at(provided.values, values) == pytest.approx(list(values.values()), abs=1e-5)
    assert largest_difference(gradients, expected) < 1e-5
    # another context moves the values, and leaves what the policy says as it was
    role = role_of(PPO, padding_free=padding_free, updates_per_step=2)
    first, second = provide(role, with_contexts()), provide(role, with_contexts(change=2))
    assert (first.values - second.values).abs()[first.response_mask].max() > 1e-3
    assert torch.equal(first.old_logprobs, second.old_logprobs)


# a schedule of its own, and weights that ought to move


def test_a_critic_makes_updates_of_its_own():
    pieces = PPO | {"critic": {"learning_rate": 1e-2}}
    role = role_of(pieces, updates_per_step=2)
    assert role.critic and role.critic.learner
    own = role.critic.learner
    own.training = own.training.model_copy(update={"updates_per_step": 3, "epochs_per_step": 2})
    seen, of_policy = record_gradients(own.engine), record_gradients(role.learner.engine)
    metrics = update(role, provide(role, fixed_batch()), seed=0)
    assert len(seen) == 6 and len(of_policy) == 2
    # the first of its updates is on a third of the trajectories, with credit from before any update
    alone = role_of(pieces, updates_per_step=3)
    assert alone.critic and alone.critic.learner
    first = record_gradients(alone.critic.learner.engine)
    update(alone, provide(alone, fixed_batch()), seed=0)
    assert identical(first[0], seen[0])
    assert metrics["critic_grad_norm"] > 0 and metrics["value_loss"] > 0


@pytest.mark.parametrize("pieces", [PPO, SHARED], ids=["own", "shared"])
def test_a_critic_whose_weights_do_not_move_stops_the_run(pieces):
    role = role_of(pieces, updates_per_step=2, epochs_per_step=2)
    assert role.critic
    learner = role.critic.learner or role.learner
    parameters = [p for group in learner.engine._optimizer.param_groups for p in group["params"]]
    kept = [p for name, p in learner.engine._trained.items() if "head" in name or role.critic.learner]
    for group in learner.engine._optimizer.param_groups:  # an optimizer that was given other parameters
        group["params"] = [p for p in group["params"] if not any(p is one for one in kept)]
    assert kept and len(kept) <= len(parameters)
    with pytest.raises(RunStopped, match=r"actor.critic: its weights are those of before its first 10 updates"):
        for step in range(4):
            update(role, provide(role, fixed_batch()), seed=step)
    assert role.critic.watch(learner).updates == 11
    moving = role_of(pieces, updates_per_step=2, epochs_per_step=2)
    for step in range(4):
        update(moving, provide(moving, fixed_batch()), seed=step)
