"""What the policy's gradient says of trajectories and of rewards, measured at the LM head alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from llmrl.data.packing import pack
from llmrl.ops.shared.groups import group_means, present, spread
from llmrl.rollout.group_sampling import succeeded
from llmrl.train.annotate import inputs
from llmrl.train.passes import SPARE, on_device, over_ranks, plan
from llmrl.train.roles import Role
from llmrl.types import ACTOR, Batch, Group


def success_gradient_norms(role: Role, groups: Sequence[Group]) -> list[float]:
    """For each group, the mean over its successes of the norm of the gradient of their log-probability; else 0.

    The gradient is that of the LM head's weight. Source: GVM, arXiv 2505.02391.
    """
    accepted = [replace(g, trajectories=[t for t in g.trajectories if not t.failure and succeeded(t)]) for g in groups]
    if not any(group.trajectories for group in accepted):
        return [0.0] * len(groups)
    batch = pack(accepted, ACTOR)
    name = "head_gradient_norms"
    wanted = frozenset({name})
    norms = over_ranks(role, batch, lambda micro: {name: role.measure(*inputs(micro), wanted=wanted)[name]})[name]
    return [
        float(norms[batch.group_ids == number].mean()) if g.trajectories else 0.0 for number, g in enumerate(accepted)
    ]


def reward_influences(role: Role, batch: Batch) -> dict[str, float]:
    """How far each reward function's policy gradient g_k agrees with all of them: influence/k = sum_j cos(g_k, g_j).

    g_k is of the LM head's weight, with component k less its group's mean as advantage. Cosines, so that the rewards'
    scales do not matter. Source: dynamic reward weighting, arXiv 2509.11452.
    """
    assert batch.reward_components is not None
    mask, ids = batch.response_mask, batch.group_ids
    centred = [(c - group_means(c, mask, ids)) * present(mask) for c in batch.reward_components.double().unbind(dim=1)]
    coefficients = torch.stack([spread(c, mask) for c in centred], dim=-1)
    total: Tensor | None = None
    for rows in plan(role, batch):
        picked = rows if len(rows) else SPARE
        micro = on_device(batch.rows(picked), role.engine.device)
        known = {"coefficients": coefficients[picked, : micro.token_ids.shape[1]].to(role.engine.device)}
        wanted = frozenset({"head_gradients"})
        found = role.measure(*inputs(micro), wanted=wanted, known=known)["head_gradients"].cpu() * (len(rows) > 0)
        total = found if total is None else total + found
    assert total is not None
    gradients = torch.stack(role.ranks.gather(total, "adding up the rewards' gradients")).sum(dim=0).flatten(1)
    unit = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return {f"influence/{k}": float(value) for k, value in enumerate((unit @ unit.T).sum(dim=1))}
