"""Credit against the values that a critic predicts.

values[t] is the critic's value of the prefix before token t, without gradient; past the last response token the
value is 0. Recursions skip tokens off the response mask. `returns` are the critic's targets before any whitening, nan
where there is none, as everywhere off the response mask. A run with a frozen critic (DVPO) leaves them unused.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.marks import made_for_stale_samples
from llmrl.ops.shared.groups import spread, trajectory_rewards
from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive
from llmrl.ops.shared.ratio import as_ratio
from llmrl.ops.shared.recursion import lambda_advantages, next_on_mask, reward_to_go
from llmrl.ops.shared.rows import last_tokens
from llmrl.ops.shared.turns import turn_ends, turn_starts
from llmrl.ops.shared.whitening import whiten as whitened
from llmrl.types import Credit


def gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    lam_returns: float | None = None,
    length_adaptive: float | None = None,
    whiten: bool = True,
) -> Credit:
    """Generalized advantages per token, by default whitened over the response tokens of the batch.

        delta_t = r_t + gamma V_next(t) - V_t        next(t): the following response token; V = 0 past the last
        A_t     = delta_t + gamma lam A_next(t)
        R_t     = A_t + V_t, of an A_t with lam_returns for lam
        lam_i   = clip(1 - 1 / (length_adaptive L_i), 0, 1), of the L_i response tokens of trajectory i

    rewards, values, response_mask: [N, T]. lam_returns None means lam; length_adaptive, if set, replaces lam in
    the advantages alone. Whitening subtracts the mean and divides by the unbiased std.

        PPO       the defaults                     VC-PPO  lam_returns 1
        A2C       lam 1, whiten False: G_t - V_t   VAPO    lam_returns 1, length_adaptive 0.05
        DVPO      values of a frozen model; lam 0 is its V_{t+1} - V_t, with R - V_T on the last token. At lam 1
                  the values between would cancel: all credit would be R - V_t.

    Raises ValueError for gamma, lam or lam_returns outside [0, 1] or a length_adaptive that is not positive.
    Source: GAE, arXiv 1506.02438; VC-PPO, arXiv 2503.01491; VAPO, arXiv 2504.05118; DVPO, arXiv 2502.16944.
    """
    lam_returns = lam if lam_returns is None else lam_returns
    require_fraction(gamma=gamma, lam=lam, lam_returns=lam_returns)
    for_critic = lambda_advantages(rewards, values, response_mask, gamma=gamma, lam=lam_returns)
    lam_policy = lam if length_adaptive is None else _length_adaptive(response_mask, length_adaptive)
    advantages = lambda_advantages(rewards, values, response_mask, gamma=gamma, lam=lam_policy)
    if whiten:
        advantages = whitened(advantages, response_mask)
    return Credit(advantages.float(), _targets(for_critic + values, response_mask))


def step_gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    final_values: Tensor,
    *,
    gamma: float = 0.99,
    lam: float = 0.95,
    whiten: bool = True,
) -> Credit:
    """Generalized advantages per turn, the same on all tokens of the turn.

        delta_k = r_k + gamma V_{k+1} - V_k        r_k: the turn's rewards; V_k: the value at its first token
        A_k     = delta_k + gamma lam A_{k+1}      V past the last turn: final_values, 0 where the task was over

    rewards, values, response_mask, turn_ids: [N, T]; turn_ids rise along a row; final_values: [N]. Whitening is over
    the turns of the batch, where each counts once whatever its length. Returns A_k + V_k at the first token of each
    turn, nan elsewhere, so the critic learns values of turns alone.
    Raises ValueError for gamma or lam outside [0, 1]. Source: VL-DAC, arXiv 2508.04280.
    """
    require_fraction(gamma=gamma, lam=lam)
    first = turn_starts(response_mask, turn_ids)
    goes_on = _going_on(rewards, response_mask, gamma * final_values)
    advantages, on_tokens = _of_segments(goes_on, values, response_mask, first, gamma, lam, whiten)
    return Credit(on_tokens, _targets(advantages + values, first))


def bilevel_gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    final_values: Tensor,
    *,
    gamma: float = 0.95,
    token_gamma: float = 1.0,
    lam: float = 1.0,
    whiten: bool = True,
) -> Credit:
    """Generalized advantages over turns, which then are the rewards of generalized advantages over each turn's tokens.

        D_k     = r_k + gamma V_{k+1} - V_k                   r_k, V_k: reward and value at the last token of turn k
        H_k     = D_k + gamma lam H_{k+1}                     V past the last turn: final_values
        A_t     = H_k                                         t the last token of turn k
        A_t     = r_t + token_gamma V_{t+1} - V_t + token_gamma lam A_{t+1}        on the turn's other tokens

    A turn ends where turn_ids say so, whatever its reward. rewards, values, response_mask, turn_ids: [N, T], turn_ids
    rising along a row; final_values: [N], 0 where the task was over. Whitening is over the response tokens of the
    batch. Returns A_t + V_t. Raises ValueError for gamma, token_gamma or lam outside [0, 1].
    Source: VAGEN, whose code takes the tokens of reward other than 0 for the ends of turns.
    """
    require_fraction(gamma=gamma, token_gamma=token_gamma, lam=lam)
    last = turn_ends(response_mask, turn_ids)
    goes_on = _going_on(rewards, response_mask, gamma * final_values)
    turns = lambda_advantages(goes_on, values, last, gamma=gamma, lam=lam)
    rewards, values = (torch.where(response_mask, x, 0.0).double() for x in (rewards, values))
    inside = response_mask & ~last
    deltas = torch.where(inside, rewards + token_gamma * next_on_mask(values, response_mask) - values, turns)
    decay = torch.ones_like(deltas).masked_fill(inside, token_gamma * lam).masked_fill(last, 0.0)
    advantages = torch.where(response_mask, reward_to_go(deltas, decay), 0.0)
    shown = whitened(advantages, response_mask) if whiten else advantages
    return Credit(shown.float(), _targets(advantages + values, response_mask))


def appraised_gae(
    rewards: Tensor,
    appraised_values: Tensor,
    response_mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
) -> Credit:
    """Generalized advantages per segment of an answer, between the states whose values an appraiser wrote.

        delta_k = r_k + gamma V_{k+1} - V_k        r_k: the segment's rewards; V_k: the value at its first token
        A_k     = delta_k + gamma lam A_{k+1}      on all tokens of the segment; V = 0 past the last one

    All [N, T]. A segment begins at each response token that has a value, and at the first, where an unknown value (nan)
    counts as 0. Whitening is over segments, each of which counts once. There is no critic to learn returns.
    Raises ValueError for gamma or lam outside [0, 1]. Source: GenAC, arXiv 2604.10701; the segments are a
    reconstruction.
    """
    require_fraction(gamma=gamma, lam=lam)
    begins = response_mask & (response_mask.cumsum(dim=1) == 1)
    first = begins | (response_mask & appraised_values.isfinite())
    _, on_tokens = _of_segments(rewards, appraised_values.nan_to_num(0.0), response_mask, first, gamma, lam, whiten)
    return Credit(on_tokens)


def _going_on(rewards: Tensor, response_mask: Tensor, ahead: Tensor) -> Tensor:
    """The rewards with what is `ahead` [N] of each trajectory on its last response token: [N, T] fp64."""
    on_response = torch.where(response_mask, rewards, 0.0).double()
    return torch.where(last_tokens(response_mask), on_response + ahead.double()[:, None], on_response)


def _of_segments(
    rewards: Tensor, values: Tensor, response_mask: Tensor, first: Tensor, gamma: float, lam: float, whiten: bool
) -> tuple[Tensor, Tensor]:
    """The advantages of segments at their first tokens, unwhitened, and on all their tokens: [N, T] each."""
    columns = torch.arange(first.shape[1], device=first.device).expand_as(response_mask)
    start = torch.where(first, columns, 0).cummax(dim=1).values
    on_response = torch.where(response_mask, rewards, 0.0).double()
    sums = torch.zeros_like(on_response).scatter_add(1, start, on_response)
    advantages = lambda_advantages(sums, values, first, gamma=gamma, lam=lam)
    shown = whitened(advantages, first) if whiten else advantages
    return advantages, torch.where(response_mask, shown.gather(1, start), 0.0).float()


@made_for_stale_samples
def vtrace(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    old_logprobs: Tensor,
    rollout_logprobs: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    rho_cap: float = 1.0,
    c_cap: float = 1.0,
    rho_advantage_cap: float = 1.0,
) -> Credit:
    """Off-policy credit: truncated importance weights correct returns of tokens that an older policy sampled.

        rho_t   = exp(old_logprobs_t - rollout_logprobs_t)
        delta_t = min(rho_cap, rho_t) (r_t + gamma V_next(t) - V_t)
        R_t     = V_t + delta_t + gamma lam min(c_cap, rho_t) (R_next(t) - V_next(t))
        A_t     = min(rho_advantage_cap, rho_t) (r_t + gamma (lam R_next(t) + (1 - lam) V_next(t)) - V_t)

    All [N, T]. rho_cap decides which policy's value the critic learns, c_cap how fast. A carries the importance weight
    already, so the policy loss must not. Not whitened. Where rho is 1, R is the lambda-return. Raises ValueError for
    gamma or lam outside [0, 1], a rho cap that is not positive or a negative c_cap. Source: IMPALA, arXiv 1802.01561.
    """
    require_fraction(gamma=gamma, lam=lam)
    require_positive(rho_cap=rho_cap, rho_advantage_cap=rho_advantage_cap)
    refuse_negative(c_cap=c_cap)
    mask = response_mask
    rewards, values = (torch.where(mask, x, 0.0).double() for x in (rewards, values))
    rho = as_ratio(torch.where(mask, old_logprobs.float() - rollout_logprobs.float(), 0.0)).double()
    next_values = next_on_mask(values, mask)
    deltas = torch.where(mask, rho.clamp(max=rho_cap) * (rewards + gamma * next_values - values), 0.0)
    decay = torch.where(mask, gamma * lam * rho.clamp(max=c_cap), 1.0)
    returns = values + reward_to_go(deltas, decay)
    ahead = lam * next_on_mask(returns, mask) + (1 - lam) * next_values
    advantages = rho.clamp(max=rho_advantage_cap) * (rewards + gamma * ahead - values)
    return Credit(torch.where(mask, advantages, 0.0).float(), _targets(returns, mask))


def sequence_baseline(rewards: Tensor, values: Tensor, response_mask: Tensor, *, whiten: bool = True) -> Credit:
    """The outcome less the critic's value of the prompt: one number per trajectory on all its response tokens.

        A_i = R_i - V_i        R_i: the trajectory's rewards, summed; V_i: the value at its first response token

    rewards, values, response_mask: [N, T]. V_i depends on no token of the answer, so it is an unbiased baseline.
    Whitening is over trajectories. The returns are R_i at every response token (Monte Carlo), though only the value of
    the prompt is used. Source: SAFE, arXiv 2602.04651.
    """
    found = trajectory_rewards(rewards, response_mask)
    first = response_mask & (response_mask.cumsum(dim=1) == 1)
    advantages = found - torch.where(first, values, 0.0).double().sum(dim=1)
    if whiten:
        advantages = whitened(advantages, response_mask.any(dim=1))
    return Credit(spread(advantages, response_mask), _targets(found.unsqueeze(1), response_mask))


def _length_adaptive(response_mask: Tensor, alpha: float) -> Tensor:
    """VAPO's lambda of each trajectory: [N, 1] fp64."""
    require_positive(length_adaptive=alpha)
    lengths = response_mask.sum(dim=1, keepdim=True).clamp(min=1).double()
    return (1 - 1 / (alpha * lengths)).clamp(0, 1)


def _targets(returns: Tensor, where: Tensor) -> Tensor:
    return torch.where(where, returns, torch.nan).float()
