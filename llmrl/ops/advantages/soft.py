"""Credit for losses that regress a policy's log ratio on it (llmrl/ops/policy_losses/soft_values.py)."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import require_fraction, require_positive
from llmrl.ops.shared.recursion import lambda_advantages, next_on_mask
from llmrl.ops.shared.whitening import whiten as whitened
from llmrl.types import Credit


def soft_lambda(
    rewards: Tensor,
    values: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    response_mask: Tensor,
    *,
    beta: float = 0.03,
    lam: float = 1.0,
) -> Credit:
    """The amount by which a token's action value should exceed the critic's value, with soft lambda-returns after it.

        q_t = r_t - beta (old_logprobs_t - ref_logprobs_t)
        G_t = q_t + (1 - lam) V_next(t) + lam G_next(t)        next(t): the following response token; V = G = 0 past it
        A_t = r_t + G_next(t) - V_t                            returns_t = G_t

    All [N, T]; beta: reward per nat, that of the loss. Not whitened. Off the mask returns are nan. Raises ValueError if
    beta is not positive or lam lies outside [0, 1]. Source: DQO, arXiv 2410.09302.
    """
    require_positive(beta=beta)
    require_fraction(lam=lam)
    gains = rewards.double() - beta * (old_logprobs.double() - ref_logprobs.double())
    fixed = torch.where(response_mask, values, 0.0).double()
    returns = lambda_advantages(gains, values, response_mask, lam=lam) + fixed
    ahead = next_on_mask(torch.where(response_mask, returns, 0.0), response_mask)
    advantages = torch.where(response_mask, rewards.double() + ahead - fixed, 0.0)
    return Credit(advantages.float(), torch.where(response_mask, returns, torch.nan).float())


def step_differences(
    rewards: Tensor, values: Tensor, response_mask: Tensor, step_ids: Tensor, *, whiten: bool = True
) -> Credit:
    """The gain of each step of an answer in the critic's value, the same on all tokens of the step.

        A_k = V_{k+1} - V_k        V_k: the value at the step's first token; on the last step r - V_k
        R_k = r                    r: the answer's rewards from step k on

    All [N, T]; step_ids number the steps of a row. Whitening is over the steps of the batch, where each counts once.
    Returns at the first token of each step alone, nan elsewhere: a critic learns the chance of success from there.
    Source: direct advantage policy optimization, arXiv 2412.18279.
    """
    steps = torch.where(response_mask, step_ids, -1)
    before = torch.nn.functional.pad(steps.cummax(dim=1).values[:, :-1], (1, 0), value=-1)
    first = response_mask & (steps > before)
    columns = torch.arange(first.shape[1], device=first.device).expand_as(first)
    start = torch.where(first, columns, 0).cummax(dim=1).values
    earned = torch.where(response_mask, rewards, 0.0).double()
    of_steps = torch.zeros_like(earned).scatter_add(1, start, earned)
    added = lambda_advantages(of_steps, values, first, lam=0.0)
    added = whitened(added, first) if whiten else added
    to_go = lambda_advantages(of_steps, torch.zeros_like(values), first)
    credit = torch.where(response_mask, added.gather(1, start), 0.0)
    return Credit(credit.float(), torch.where(first, to_go, torch.nan).float())
