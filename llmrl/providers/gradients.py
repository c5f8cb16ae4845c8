"""Fields measured from the policy's gradient at the LM head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.ops.shared.groups import group_means, present, spread
from llmrl.rollout.group_sampling import succeeded
from llmrl.types import Group


def gradient_norms(groups: Sequence[Group], policy: Any) -> Tensor:
    """For each group, the mean over its successes of the norm of the gradient of their log-probability, else 0: [P].

    The gradient is that of the LM head's weight. Source: GVM, arXiv 2505.02391.
    """
    accepted = [replace(g, trajectories=[t for t in g.trajectories if not t.failure and succeeded(t)]) for g in groups]
    if not any(group.trajectories for group in accepted):
        return torch.zeros(len(groups), dtype=torch.float64)
    batch = pack(accepted, groups[0].author)
    norms = policy.measure(batch, "head_gradient_norms")["head_gradient_norms"]
    means = [
        float(norms[batch.group_ids == place].mean()) if g.trajectories else 0.0 for place, g in enumerate(accepted)
    ]
    return torch.tensor(means, dtype=torch.float64)


def influence(batch: Batch, policy: Any) -> Tensor:
    """How far each reward function's policy gradient g_k agrees with all of them: sum_j cos(g_k, g_j), [K].

    g_k is of the LM head's weight, with component k less its group's mean as advantage. Cosines, so that the rewards'
    scales do not matter. Source: dynamic reward weighting, arXiv 2509.11452.
    """
    mask, ids = batch.response_mask, batch.group_ids
    centred = [(c - group_means(c, mask, ids)) * present(mask) for c in batch.reward_components.double().unbind(dim=1)]
    coefficients = torch.stack([spread(c, mask) for c in centred], dim=-1)
    gradients = policy.total(batch, "head_gradients", coefficients=coefficients).flatten(1)
    unit = gradients / gradients.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return (unit @ unit.T).sum(dim=1)
