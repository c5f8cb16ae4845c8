"""Losses of a probe: a head on a frozen language model that scores completions, among which one is then drawn.

Of k samples of the base, number n is chosen with probability softmax(score / temperature)_n; for many samples this is
the policy that is optimal for the score with a penalty on the KL from the base. `reward_regression` is the squared loss
of a probe. Source: Q-Probe, arXiv 2402.14688.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from llmrl.ops.shared.groups import group_log_softmax
from llmrl.ops.shared.ranges import require_positive


def success_cross_entropy(completion_scores: Tensor, completion_rewards: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(score) against the reward, in [0, 1]; 0 without response tokens: [N].

    Raises ValueError for a reward that is no probability.
    """
    known = completion_rewards.isfinite()
    labels = torch.where(known, completion_rewards, 0.0).to(completion_scores.dtype)
    if ((labels < 0) | (labels > 1)).any():
        raise ValueError("a reward is no probability; give rewards from 0 to 1, or use reward_regression")
    return torch.where(known, binary_cross_entropy_with_logits(completion_scores, labels, reduction="none"), 0.0)


def expected_reward(
    completion_scores: Tensor, completion_rewards: Tensor, group_ids: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Minus the reward that choosing a completion by its score earns: [N].

        loss of a group of K = -sum_n rho_n r_n        rho = softmax_n(score / temperature)

    Each completion has its term times K, so that the mean over completions is the mean over groups of equal size; one
    without response tokens is in no group. Raises ValueError for a temperature that is not positive.
    """
    require_positive(temperature=temperature)
    known = completion_rewards.isfinite()
    rho = group_log_softmax(completion_scores / temperature, group_ids, known).exp()
    sizes = (group_ids[:, None] == group_ids[None, :]).to(rho.dtype) @ known.to(rho.dtype)
    return -sizes * rho * torch.where(known, completion_rewards, 0.0).to(rho.dtype) * known
