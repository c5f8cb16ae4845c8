"""The divergence of a policy from its reference, over completions that it sampled."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.algorithm import Algorithm
from llmrl.data.packing import pack
from llmrl.recipe import Recipe
from llmrl.train.roles import Role
from llmrl.types import Group


def divergence(role: Role, groups: Sequence[Group]) -> float:
    """KL(policy || reference) in nats a completion, estimated from the policy's own samples; every rank calls it.

        mean over completions of sum over tokens of (log pi(token) - log pi_ref(token))

    Unbiased, so it may be below 0. The policy's log-probabilities are the sampler's, of untruncated distributions.
    """
    batch = pack(groups, role.name)
    reference = role.models["reference"].measure(batch, "logprobs")["logprobs"].to(batch.rollout_logprobs)
    ratios = (batch.rollout_logprobs - reference) * batch.response_mask
    return float(ratios.double().sum(dim=1).mean())


def is_measurable(recipe: Recipe, algorithm: Algorithm) -> bool:
    """Whether samples of an evaluation tell the divergence of a role: its reference can measure new rows, and samples
    are drawn from whole distributions at the temperature at which models are compared. A reference with momentum is no
    distribution."""
    rollout, settings = recipe.rollout, recipe.evaluation
    compares = algorithm.has_reference and not (recipe.reference.precompute or recipe.reference.momentum)
    whole = rollout.top_p == 1.0 and rollout.top_k is None
    return compares and whole and settings.temperature == rollout.temperature
