"""Adding to a batch exactly what the algorithm's pieces read, before any weight changes."""

from __future__ import annotations

from dataclasses import replace

import torch

from llmrl.train.passes import over_ranks
from llmrl.train.roles import Outputs, Role
from llmrl.types import Batch

AS_MEASURED = {"old_logprobs": "logprobs", "old_entropy": "entropy"}
ON_REQUEST = frozenset({"old_top_ids", "old_top_logprobs", "old_router_ids", "old_router_logprobs"})
BEHIND = {
    "top_logprobs": {"old_top_ids"},
    "router_drift": {"old_router_ids", "old_router_logprobs"},
}
"""What the current policy is compared with, by what comes of it."""


def annotate(role: Role, batch: Batch, *, seed: int = 0, progress: float = 0.0) -> Batch:
    """The batch with what its policy, reference and critic say, the step's random numbers and the stage's progress.

    old_logprobs and old_entropy are left out when the batch gives one update and nothing reads them before it: then
    they equal the training pass's own, which `update` uses, and a forward pass is saved.
    """
    needs = role.algorithm.needs
    generator = torch.Generator().manual_seed(seed)
    uniform_noise = torch.rand(batch.token_ids.shape, generator=generator) if _reads_draws(role) else None
    batch = replace(batch, progress=torch.tensor(progress), uniform_noise=uniform_noise)
    names = _measured(role, sampled=bool(batch.rollout_logprobs.any()))
    if names:
        batch = replace(batch, **_policy_says(role, batch, names))
    if "ref_logprobs" in needs:
        found = over_ranks(role, batch, lambda micro: _only(role.measure_reference(*inputs(micro)), "logprobs"))
        batch = replace(batch, ref_logprobs=found["logprobs"])
    if role.critic:
        found = over_ranks(role, batch, lambda micro: _only(role.measure_values(*inputs(micro)), "value_outputs"))
        outputs = found["value_outputs"]
        batch = replace(batch, old_outputs=outputs)
        if role.algorithm.reads_values:
            values = role.algorithm.value({"outputs": outputs}) * batch.response_mask
            batch = replace(batch, values=values, value_std=outputs.std(dim=-1, correction=0))
    return batch


def inputs(batch: Batch) -> tuple[torch.Tensor, ...]:
    """What every model reads of a batch."""
    return batch.token_ids, batch.attention_mask, batch.response_mask


def _measured(role: Role, *, sampled: bool) -> set[str]:
    """The fields that a pass of the policy over the batch has to fill.

    sampled: whether a sampler gave log-probabilities, which are compared with the old ones.
    """
    algorithm, training = role.algorithm, role.training
    names = set(algorithm.needs_before_updates)
    if training.updates_per_step * training.epochs_per_step > 1:
        names |= algorithm.needs | ({"old_logprobs"} if sampled else set())
    for name in algorithm.needs:
        names |= BEHIND.get(name, set())
    if "answer_logprobs" in algorithm.needs:  # segments are chosen by entropy
        names |= {"old_entropy"}
    return names & (AS_MEASURED.keys() | ON_REQUEST) | (algorithm.needs & ON_REQUEST)


def _policy_says(role: Role, batch: Batch, names: set[str]) -> Outputs:
    wanted = frozenset(names & ON_REQUEST)
    kept = {AS_MEASURED.get(name, name): name for name in names}
    found = over_ranks(role, batch, lambda micro: _only(role.measure(*inputs(micro), wanted=wanted), *kept))
    return {kept[name]: value for name, value in found.items()}


def _only(outputs: Outputs, *names: str) -> Outputs:
    return {name: outputs[name] for name in names}


def _reads_draws(role: Role) -> bool:
    return "uniform_noise" in role.algorithm.needs or (role.critic is not None and "uniform_noise" in role.algorithm.value_loss.data)
