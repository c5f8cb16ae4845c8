"""A Learner: what it measures and learns, also alone, and what roles that share one learn together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import assert_close, log_p_of, tokens_of
from torch import Tensor
from training_cases import (
    GRPO,
    LAYOUTS,
    fixed_batch,
    identical,
    largest_difference,
    make_recipe,
    make_training,
    record_gradients,
    role_of,
    tiny_critic,
    tiny_lm,
    value_head,
)

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.data.written import Span, Written
from llmrl.engines.catalogue import make_engine
from llmrl.engines.ranks import Ranks
from llmrl.providers.models import old_critic
from llmrl.resolve import resolve_pieces
from llmrl.train.learner import Learner
from llmrl.train.micro_batches import CreditedBatch, MetricSums
from llmrl.train.objectives import ValueObjective
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.sources import Demonstrations
from llmrl.train.step import update, update_together
from llmrl.types import ACTOR, Credit, Prompt

PPO = {"advantage": "gae", "policy_loss": "ppo_clip"}


def trained(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in learner.engine.trained_weights().items()}


# measuring


@pytest.mark.parametrize("tokens", [1, 16, 10**6])
def test_what_is_measured_is_of_every_row_in_its_place(tokens):
    learner = role_of(GRPO, tokens_per_micro_batch=tokens).learner
    found = learner.measure(fixed_batch(), "logprobs", "entropy")
    assert {name: value.shape for name, value in found.items()} == {"logprobs": (7, 13), "entropy": (7, 13)}
    for row, layout in enumerate(LAYOUTS):
        token_ids = fixed_batch().token_ids[row, : len(layout)].tolist()
        log_p = log_p_of(tiny_lm(), token_ids).detach()
        for t in tokens_of(layout):
            assert found["logprobs"][row, t].item() == pytest.approx(log_p[t - 1, token_ids[t]].item(), abs=1e-5)
    assert not found["logprobs"].requires_grad and learner.engine.model.training


# alone


def critic_alone(**settings: Any) -> Learner:
    training = make_training(**settings)
    engine = make_engine(training.strategy, tiny_critic(), training, torch.device("cpu"))
    return Learner("critic", engine, training, Ranks())


def test_a_critic_learns_alone_from_a_source_and_a_schedule_of_its_own():
    """Its target is 1 on every token of texts to imitate, which the policy never sees; its rate falls by its own steps.

    The loss is the mean over tokens of half the squared error.
    """
    policy, algorithm = role_of(PPO), resolve_pieces(make_recipe(**PPO)).algorithm
    learner = critic_alone(learning_rate=4e-3, steps=4, schedule="linear")
    prompts = [Prompt(f"own{n}", (n + 1, n + 2), "", {}) for n in range(6)]
    texts = {prompt.id: Written([Span([5 + n, 6 + n, 7 + n])]) for n, prompt in enumerate(prompts)}
    source = Demonstrations(PromptStream(prompts, 0, False), texts, 3)
    before, of_policy, rates, losses = trained(learner), trained(policy.learner), [], []
    gradients = record_gradients(learner.engine)
    for seed in range(4):
        batch = pack(source.collect(seed).groups, ACTOR)
        batch = batch.with_(**old_critic(batch, learner, ["old_outputs"]))
        targets = torch.ones(batch.rewards.shape).masked_fill(~batch.response_mask, torch.nan)
        mini, sums = CreditedBatch(batch, Credit(torch.zeros_like(batch.rewards), targets), {}), MetricSums()
        if seed == 0:
            expected = by_autograd(batch)
        learner.accumulate(mini, [ValueObjective.of(algorithm, mini)], sums)
        rates.append(learner.step().learning_rate)
        losses.append(sums.means(Ranks(), updates=1)["value_loss"])
    assert_close(gradients[0], expected)
    assert source.stream.epoch == 2.0
    assert rates == sorted(rates, reverse=True) and len(set(rates)) == 4 and rates[0] <= 4e-3
    assert losses[2] < losses[0] and losses[3] < losses[1]  # the same texts, an epoch later
    assert not identical(trained(learner), before)
    assert identical(trained(policy.learner), of_policy)
    assert critic_alone().engine.model is not learner.engine.model


def by_autograd(batch: Batch) -> dict[str, Tensor]:
    lm, head, terms = tiny_lm(seed=4), value_head(), []
    for row in range(len(batch)):
        hidden = lm.model(input_ids=batch.token_ids[row : row + 1]).last_hidden_state[0]
        terms += [(head(hidden[t - 1])[0] - 1) ** 2 / 2 for t in batch.response_mask[row].nonzero()[:, 0].tolist()]
    named = {f"backbone.{name}": p for name, p in lm.model.named_parameters()}
    named |= {f"head.{name}": p for name, p in head.named_parameters()}
    found = torch.autograd.grad(torch.stack(terms).mean(), list(named.values()))
    return dict(zip(named, found, strict=True))


def test_the_gradients_of_several_objectives_add_up():
    algorithm = resolve_pieces(make_recipe(**PPO)).algorithm
    batch = fixed_batch().with_(**old_critic(fixed_batch(), critic_alone(), ["old_outputs"]))
    returns = torch.where(batch.response_mask, 1.0, torch.nan)
    mini = CreditedBatch(batch, Credit(torch.zeros_like(batch.rewards), returns), {})
    seen = {}
    for weights in ((1.0,), (1.0, 0.5)):
        learner = critic_alone(max_grad_norm=10**6)
        gradients = record_gradients(learner.engine)
        objectives = [ValueObjective.of(algorithm, mini, weight=weight) for weight in weights]
        learner.accumulate(mini, objectives, MetricSums())
        learner.step()
        [seen[len(weights)]] = gradients
    assert_close(seen[2], {name: 1.5 * gradient for name, gradient in seen[1].items()})


# shared by two roles

SECOND = {"advantage": "rloo", "policy_loss": "reinforce", "regularizers": {"entropy_bonus": {"weight": 0.2}}}


def two_roles(**settings: Any) -> tuple[Role, Role]:
    """An actor, and a critic of words that writes with the actor's weights."""
    actor = role_of(GRPO, **settings)
    pieces = resolve_pieces(make_recipe(**SECOND))
    return actor, Role("critic", pieces, actor.learner)


def other_batch() -> Batch:
    return fixed_batch(["PPPAA", "PAAA", "PPAEEA", "PAAAAA"], seed=9)


def gradient_of(batches: list[tuple[Role, Batch]]) -> dict[str, Tensor]:
    gradients = record_gradients(batches[0][0].learner.engine)
    update_together([(role, provide(role, batch)) for role, batch in batches], seed=0)
    [found] = gradients
    return found


def test_the_gradient_of_roles_that_share_a_learner_is_the_sum_of_theirs():
    alone = [
        gradient_of([(two_roles()[0], fixed_batch())]),
        gradient_of([(two_roles()[1], other_batch())]),
    ]
    together = two_roles()
    assert_close(
        gradient_of([(together[0], fixed_batch()), (together[1], other_batch())]),
        {name: alone[0][name] + alone[1][name] for name in alone[0]},
    )
    assert min(float(one["model.embed_tokens.weight"].abs().max()) for one in alone) > 1e-3
    assert largest_difference(alone[0], alone[1]) > 1e-3


def test_each_role_has_its_own_metrics_and_one_norm_is_of_both():
    actor, critic = two_roles()
    batches = [(actor, provide(actor, fixed_batch())), (critic, provide(critic, other_batch()))]
    found = update_together(batches, seed=0)
    assert [metrics["trajectories"] for metrics in found] == [7.0, 4.0]
    assert "entropy_bonus" in found[1] and "entropy_bonus" not in found[0]
    assert found[0]["grad_norm"] == found[1]["grad_norm"]
    alone = [update(two_roles()[place], batch, seed=0) for place, (_, batch) in enumerate(batches)]
    assert [metrics["loss"] for metrics in found] == pytest.approx([metrics["loss"] for metrics in alone], abs=1e-6)


def test_roles_that_share_a_learner_step_as_often_as_the_longer_one_has_parts():
    """One batch of seven and one of two trajectories in three updates: the third is the first role's alone."""
    actor, critic = two_roles(updates_per_step=3)
    steps = record_gradients(actor.learner.engine)
    short = other_batch().rows(torch.tensor([0, 1]))
    found = update_together([(actor, provide(actor, fixed_batch())), (critic, provide(critic, short))], seed=0)
    assert len(steps) == 3
    assert all("loss" in metrics for metrics in found)
    assert actor.learners == [actor.learner] and critic.learners == []  # whose weights they are saves them
