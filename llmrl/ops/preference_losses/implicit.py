"""Losses that make a language model's log ratio to its reference a reward of every token."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from llmrl.ops.shared.ranges import require_positive


def outcome_bce(completion_log_ratios: Tensor, completion_rewards: Tensor, *, beta: float = 0.05) -> Tensor:
    """Binary cross-entropy of sigmoid(beta u) against each completion's outcome; 0 where there is none: [N].

        loss = -reward log sigmoid(beta u) - (1 - reward) log sigmoid(-beta u)
        u    = sum over tokens of log pi(token) - log pi_ref(token)

    The outcome's logit is a sum over tokens, so beta times a token's log ratio is the token's reward: the model is a
    process reward model that needed no labels of steps. Rewards are in [0, 1]. Raises ValueError for beta <= 0.
    Source: Free Process Rewards without Process Labels, arXiv 2412.01981.
    """
    require_positive(beta=beta)
    known = completion_rewards.isfinite()
    targets = torch.where(known, completion_rewards, 0.0).to(completion_log_ratios.dtype)
    losses = binary_cross_entropy_with_logits(beta * completion_log_ratios, targets, reduction="none")
    return torch.where(known, losses, 0.0)
