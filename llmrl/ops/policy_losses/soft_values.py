"""Losses that make a policy's own log-probabilities the values of a task with a penalty on the KL from a reference.

    Q(s, a) - V(s) = beta (log pi(a | s) - log ref(a | s))        at the optimum, beta: reward per nat
    V(s_t) = sum_{k >= t} r_k - beta (log pi - log ref)_k          along any trajectory, whoever wrote it

So samples of any policy teach it, without a ratio. Steps are the author's own tokens; what an environment says between
them counts for nothing, which is exact where its answers are certain.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import require_fraction, require_positive
from llmrl.ops.shared.recursion import next_on_mask
from llmrl.types import TokenLoss


def path_consistency(
    logprobs: Tensor,
    log_partition: Tensor,
    ref_logprobs: Tensor,
    ref_log_partition: Tensor,
    rewards: Tensor,
    response_mask: Tensor,
    *,
    beta: float = 0.1,
) -> TokenLoss:
    """The squared residual of every suffix, with the policy's logits as action values.

        v_t    = beta (log_partition_t - ref_log_partition_t)        0 at the start, where the policy is the reference
        e_t    = sum_{k >= t} (r_k - beta (logprobs_k - ref_logprobs_k)) - v_t
        loss_t = e_t^2

    All [N, T]; log_partition: the log-sum-exp of the logits that predict token t. Gradients go through every term.
    Reduced by sequence_mean a trajectory weighs 1 whatever its length. stats: residual, |e_t|; value, v_t. Raises
    ValueError if beta is not positive. Source: ShiQ, arXiv 2505.11081; the multi-step form is derived from path
    consistency.
    """
    require_positive(beta=beta)
    change = torch.where(response_mask, logprobs - ref_logprobs, 0.0).double()
    gains = torch.where(response_mask, rewards, 0.0).double() - beta * change
    value = beta * torch.where(response_mask, log_partition - ref_log_partition, 0.0).double()
    residual = torch.where(response_mask, gains.flip(1).cumsum(dim=1).flip(1) - value, 0.0)
    stats = {"residual": residual.detach().abs().float(), "value": value.detach().float()}
    return TokenLoss(residual.square().float(), stats)


def advantage_regression(
    logprobs: Tensor, ref_logprobs: Tensor, advantages: Tensor, *, beta: float = 0.03
) -> TokenLoss:
    """The squared difference of a token's log ratio to the reference, as an action value less the critic's, and credit.

        loss_t = (beta (logprobs_t - ref_logprobs_t) - A_t)^2

    All [N, T]. With A_t = r_t + G_t+1 - V_t of the advantage soft_lambda at the same beta it is
    (Q(s_t, a_t) - r_t - G_t+1)^2 of the action value Q = beta log(pi / ref) + V. stats: residual. Raises ValueError if
    beta is not positive. Source: DQO, arXiv 2410.09302.
    """
    require_positive(beta=beta)
    residual = beta * (logprobs.float() - ref_logprobs.float()) - advantages
    return TokenLoss(residual.square(), {"residual": residual.detach().abs()})


def step_advantage_regression(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    step_ids: Tensor,
    response_mask: Tensor,
    *,
    beta: float = 0.1,
) -> TokenLoss:
    """Half the squared difference of a step's log ratio to the policy that wrote the step, and its advantage.

        u_k    = sum_{t in step k} (logprobs_t - old_logprobs_t)
        loss_t = (u_k - A_k / beta)^2 / 2        on the step's last token, 0 on the others

    All [N, T]; step_ids number the steps of a row's answer, advantages are the same on all tokens of a step. stats:
    residual, |u_k - A_k / beta| on the step's last token. Raises ValueError if beta is not positive.
    Source: direct advantage policy optimization, arXiv 2412.18279.
    """
    require_positive(beta=beta)
    change = torch.where(response_mask, logprobs.double() - old_logprobs.double(), 0.0)
    total = change.cumsum(dim=1)
    last = _last_of_steps(step_ids, response_mask)
    ended = torch.where(last, total, 0.0)
    before = _latest_before(ended, last)
    residual = torch.where(last, total - before - advantages / beta, 0.0)
    return TokenLoss((residual.square() / 2).float(), {"residual": residual.detach().abs().float()})


def td_regularized_nll(
    logprobs: Tensor, log_partition: Tensor, response_mask: Tensor, *, weight: float = 0.1, gamma: float = 1.0
) -> TokenLoss:
    """Likelihood with a penalty on the reward that the policy's logits imply, so that values stay consistent over time.

        Q_t    = logprobs_t + log_partition_t        V_t = log_partition_t, 0 past the end
        loss_t = -logprobs_t + weight (Q_t - gamma V_next(t))^2

    All [N, T]; next(t): the following response token. weight 0 is supervised fine-tuning. stats: implied_reward,
    Q_t - gamma V_next(t). Raises ValueError for a weight that is not positive, or gamma outside [0, 1].
    Source: inverse soft-Q learning of language models, arXiv 2409.01369.
    """
    require_positive(weight=weight)
    require_fraction(gamma=gamma)
    value = torch.where(response_mask, log_partition.float(), 0.0)
    implied = torch.where(response_mask, logprobs.float() + value - gamma * _next(value, response_mask), 0.0)
    return TokenLoss(weight * implied.square() - logprobs.float(), {"implied_reward": implied.detach()})


def _last_of_steps(step_ids: Tensor, response_mask: Tensor) -> Tensor:
    """Which response tokens are the last of their step: [N, T]."""
    following = next_on_mask(step_ids.double() + 1, response_mask) - 1
    return response_mask & (following != step_ids)


def _next(values: Tensor, mask: Tensor) -> Tensor:
    """The value at the first column after t on the mask, 0 where none follows, with gradient: [N, T]."""
    width = mask.shape[1]
    columns = torch.where(mask, torch.arange(width, device=mask.device), width)
    coming = torch.nn.functional.pad(columns.flip(1).cummin(dim=1).values.flip(1)[:, 1:], (0, 1), value=width)
    return torch.nn.functional.pad(values, (0, 1)).gather(1, coming)


def _latest_before(values: Tensor, places: Tensor) -> Tensor:
    """At each column the value at the latest of the places before it, 0 without one: [N, T]."""
    columns = torch.arange(places.shape[1], device=places.device).expand_as(places)
    latest = torch.where(places, columns, -1).cummax(dim=1).values
    earlier = torch.nn.functional.pad(latest[:, :-1], (1, 0), value=-1)
    return torch.where(earlier >= 0, values.gather(1, earlier.clamp(min=0)), 0.0)
