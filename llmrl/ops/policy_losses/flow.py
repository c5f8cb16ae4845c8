"""GFlowNet losses: regress log-probabilities until the policy samples in proportion to the exponentiated rewards.

    target      p(y | x) = ref(y | x) exp(R(y) / temperature) / Z(x)
    log flow    V(s_t) = log E_ref exp(rewards from token t on / temperature)        log Z(x) = V(prompt), V(end) = 0
    balance     logprobs_t - ref_logprobs_t = r_t / temperature + V(s_t+1) - V(s_t)

At the target the balance holds on every token of every answer, whichever policy sampled it: the losses need no ratio.
In the sum over a whole answer every V cancels but log Z.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from llmrl.ops.shared.groups import group_sums, present, spread, trajectory_rewards
from llmrl.ops.shared.ranges import require_fraction, require_positive
from llmrl.ops.shared.recursion import next_on_mask, reward_to_go
from llmrl.types import TokenLoss


def trajectory_balance(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    rewards: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    temperature: float,
    length_normalize: bool = False,
) -> TokenLoss:
    """The balance of whole answers, log Z estimated from the group.

        u_i = sum_t (logprobs_t - ref_logprobs_t) - R_i / temperature
        log Z_g = -sum_j w_j u_j / sum_j w_j                     over the group
        sum of the losses = mean_i w_i (u_i + log Z_g)^2 / 2     over trajectories with response tokens
        w_i = 1, or 1 / L_i if length_normalize, which keeps the target and shrinks the gradient of long answers

    The half makes the gradient of a token -A_i / N with A = R / temperature - sum_t (logprobs_t - ref_logprobs_t)
    centred over the group; log Z_g minimises its group's loss, so no gradient comes from it. The loss of a group of one
    is 0. logprobs, ref_logprobs, rewards, response_mask: [N, T]; group_ids: [N]; temperature: rewards per nat. The sum
    of the losses is the objective (see coupled.py). stats: residual, u_i + log Z_g; log_partition, log Z_g.
    Raises ValueError if temperature is not positive.
    Source: trajectory balance, arXiv 2201.13259; log Z from the group (VarGrad), for language models arXiv 2503.18929.
    """
    require_positive(temperature=temperature)
    lengths = response_mask.sum(dim=1).clamp(min=1)
    weights = present(response_mask) / (lengths if length_normalize else 1)
    change = torch.where(response_mask, logprobs.double() - ref_logprobs.double(), 0.0).sum(dim=1)
    excess = change - trajectory_rewards(rewards, response_mask) / temperature
    total = group_sums(weights, group_ids)
    log_partition = -group_sums(weights * excess, group_ids) / torch.where(total > 0, total, 1.0)
    residual = excess + log_partition
    losses = weights * residual.square() / (2 * present(response_mask).sum().clamp(min=1))
    per_trajectory = {"residual": residual, "log_partition": log_partition}
    stats = {name: spread(value.detach(), response_mask) for name, value in per_trajectory.items()}
    return TokenLoss(spread(losses / lengths, response_mask), stats)


def subtrajectory_balance(
    logprobs: Tensor,
    ref_logprobs: Tensor,
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    temperature: float,
    lam: float = 1.0,
) -> TokenLoss:
    """The balance of every subtrajectory of an answer, between the critic's log flows at its two ends.

        e_ij = V_j - V_i + sum_{i <= k < j} (r_k / temperature - logprobs_k + ref_logprobs_k)
        loss = sum_{i<j} lam^(j-i-1) e_ij^2 / (2 sum_{i<j} lam^(j-i-1))     the same on every token of the answer

    i, j = 0 .. L count the answer's response tokens, V_i is the value before the i-th and V_L = 0. lam 0 is detailed
    balance, each token by itself; lam 1 weighs all subtrajectories alike. Reduced by sequence_mean, the objective is
    the mean over trajectories. logprobs, ref_logprobs, rewards, values, response_mask: [N, T]; values: the critic's log
    flow in nats, without gradient; the critic is trained by the advantage log_flow at the same temperature;
    temperature: rewards per nat. stats: residual, e_ij of each single token.
    Raises ValueError if temperature is not positive or lam lies outside [0, 1].
    Source: SubTB, arXiv 2209.12782; for language models, with other flows, arXiv 2310.04363.
    """
    require_positive(temperature=temperature)
    require_fraction(lam=lam)
    gain = rewards.double() / temperature - (logprobs.double() - ref_logprobs.double())
    gain = torch.where(response_mask, gain, 0.0)
    flows = pad(torch.where(response_mask, values.detach().double(), 0.0), (0, 1))
    # e_ij = level_j - level_i, so the loss is the quadratic form level K level / 2 of a graph Laplacian K
    states = pad(response_mask, (0, 1), value=True)
    level = torch.where(states, flows + pad(gain.cumsum(dim=1), (1, 0)), 0.0)
    fixed = level.detach()
    degree = _neighbours(states.double(), states, lam)
    slope = torch.where(states, degree * fixed - _neighbours(fixed, states, lam), 0.0)
    slope = slope / (degree * states).sum(dim=1, keepdim=True).clamp(min=1) * 2
    losses = (slope * fixed).sum(dim=1) / 2 + (slope * (level - fixed)).sum(dim=1)
    residual = torch.where(response_mask, (next_on_mask(fixed, states) - fixed)[:, :-1], 0.0)
    return TokenLoss(spread(losses, response_mask), {"residual": residual.float()})


def _neighbours(per_state: Tensor, states: Tensor, lam: float) -> Tensor:
    """At each column the sum over all other states, weighted by lam^(states between): [N, T + 1]."""
    decay = torch.ones_like(per_state).masked_fill(states, lam)
    after = pad(reward_to_go(per_state, decay)[:, 1:], (0, 1))
    before = pad(reward_to_go(per_state.flip(1), decay.flip(1))[:, 1:], (0, 1)).flip(1)
    return before + after
