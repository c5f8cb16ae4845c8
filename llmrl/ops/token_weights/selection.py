"""Weights that keep some tokens and drop others: by entropy, by covariance, by their part in the variance.

A share of n tokens means round(share n) of them, but at least one; ties go to the earlier token, earlier rows first.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive
from llmrl.ops.shared.ratio import as_ratio
from llmrl.ops.shared.rows import row_means

RATIO_FLOOR = 1e-8  # keeps the ratio of two entropies of 0 at 1


def top_entropy(old_entropy: Tensor, response_mask: Tensor, *, fraction: float = 0.2) -> Tensor:
    """Keeps the tokens of highest entropy.

        weight_t = 1 for the `fraction` of the batch's response tokens with the largest old_entropy_t, else 0

    old_entropy, response_mask: [N, T]. Raises ValueError if fraction is outside (0, 1]. Source: arXiv 2506.01939.
    """
    _require_share(fraction=fraction)
    return _top(old_entropy, response_mask, fraction).float()


def low_entropy(old_entropy: Tensor, response_mask: Tensor, *, quantile: float = 0.8) -> Tensor:
    """Keeps the tokens of low entropy within each response; meant as the weight of a KL penalty.

        weight_t = 1 if old_entropy_t <= the `quantile` of its own response, else 0

    old_entropy, response_mask: [N, T]; the quantile interpolates linearly between tokens. Raises ValueError if
    quantile is outside [0, 1]. Source: Archer, ASPO, arXiv 2510.06062.
    """
    require_fraction(quantile=quantile)
    inside = old_entropy.double().masked_fill(~response_mask, math.nan)
    limit = inside.nanquantile(quantile, dim=1, keepdim=True)
    return (response_mask & (inside <= limit)).float()


def entropy_ratio(
    entropy: Tensor,
    old_entropy: Tensor,
    response_mask: Tensor,
    *,
    low: float = 0.95,
    high: float = 1.05,
    floor: float = 0.0,
) -> Tensor:
    """Drops the tokens at which the entropy has moved too far from the old policy's.

        q_t      = (H_t + 1e-8) / (H_old_t + 1e-8)
        weight_t = 1 if low < q_t < high else 0

    All [N, T], entropies in nats; entropies below `floor` count as floor, for near 0 their ratio is noise. Raises
    ValueError unless 0 <= low < high, or for a negative floor. Source: entropy ratio clipping, arXiv 2512.05591.
    """
    refuse_negative(low=low, floor=floor)
    if low >= high:
        raise ValueError(f"low, high: {low}, {high} are not valid, expected low < high")
    now, before = (values.detach().float().clamp(min=floor) + RATIO_FLOOR for values in (entropy, old_entropy))
    ratio = now / before
    return (response_mask & (ratio > low) & (ratio < high)).float()


def drop_covariant(
    advantages: Tensor,
    logprobs: Tensor,
    response_mask: Tensor,
    uniform_noise: Tensor,
    *,
    fraction: float = 2e-4,
    low: float = 1.0,
    high: float = 5.0,
) -> Tensor:
    """Drops a few random tokens with a high covariance of likelihood and advantage, which collapse the entropy.

        c_t      = (A_t - mean A) (logprobs_t - mean logprobs)        means over the update's response tokens
        weight_t = 0 for a `fraction` of all tokens, drawn among those with low < c_t < high, else 1

    All [N, T], of all trajectories of an optimizer step; logprobs: the current policy's; uniform_noise: random numbers,
    the largest are taken. Raises ValueError if fraction is outside (0, 1], or low is not under high.
    Source: Clip-Cov, arXiv 2505.22617.
    """
    _require_share(fraction=fraction)
    if low >= high:
        raise ValueError(f"low, high: {low}, {high} are not valid, expected low < high")
    covariance = _covariance(advantages, logprobs.detach(), response_mask)
    candidates = response_mask & (covariance > low) & (covariance < high)
    dropped = _top(uniform_noise, candidates, fraction, of=int(response_mask.sum()))
    return (response_mask & ~dropped).float()


def top_covariant(advantages: Tensor, logprobs: Tensor, response_mask: Tensor, *, fraction: float = 2e-4) -> Tensor:
    """Keeps the tokens with the highest covariance of likelihood and advantage; meant as a penalty's weight.

        weight_t = 1 for the `fraction` of the update's response tokens with the largest c_t, else 0

    All [N, T], of all trajectories of an optimizer step; c_t as in drop_covariant. Raises ValueError if fraction is
    outside (0, 1]. Source: KL-Cov, arXiv 2505.22617.
    """
    _require_share(fraction=fraction)
    return _top(_covariance(advantages, logprobs.detach(), response_mask), response_mask, fraction).float()


def surrogate_dropout(advantages: Tensor, log_ratio: Tensor, response_mask: Tensor, *, fraction: float = 0.2) -> Tensor:
    """Drops the good and the bad tokens that add most to the variance of a trajectory's surrogate.

        s_t      = exp(log_ratio_t) A_t        v_t = (s_t - mean s)^2        mean over the trajectory's tokens
        weight_t = 0 for the floor(fraction n) largest v_t of its n tokens with A_t > 0, and of those with A_t < 0

    All [N, T]. A token whose v_t equals that of a kept one is kept, so at ratio 1 and equal advantages nothing is
    dropped. Raises ValueError if fraction is outside [0, 1). Source: after D-PPO, arXiv 2310.20380, which chooses among
    all samples of an update instead of within each trajectory.
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction: {fraction} is not valid, expected a number from 0 to under 1")
    surrogate = torch.where(response_mask, as_ratio(log_ratio.detach()) * advantages, 0.0).double()
    variance = (surrogate - row_means(surrogate, response_mask)[:, None]).square()
    weights = response_mask.float()
    for side in (advantages > 0, advantages < 0):
        there = response_mask & side
        count = (fraction * there.sum(dim=1, keepdim=True) + 1e-9).long()  # 0.3 * 10 is 3, not 2.9999
        ordered = variance.masked_fill(~there, -1.0).sort(dim=1, descending=True).values
        weights = weights * ~(there & (variance > ordered.gather(1, count.clamp(max=ordered.shape[1] - 1))))
    return weights


def most_varied(
    advantages: Tensor,
    old_entropy: Tensor,
    response_mask: Tensor,
    progress: Tensor,
    *,
    samples_first: float = 0.5,
    samples_last: float = 1.0,
    tokens_first: float = 0.2,
    tokens_last: float = 1.0,
) -> Tensor:
    """Keeps the trajectories whose advantages vary most, and their tokens of large advantage and entropy.

        A_i      = mean advantage of trajectory i
        kept rows: the share of the batch's trajectories with the largest variance of A_i, which consists of the
                   largest and the smallest of them
        kept tokens: the share of their tokens with the largest |A_i| old_entropy_t
        weight_t = M / M_kept on kept tokens, else 0

    advantages, old_entropy, response_mask: [N, T]; M, M_kept: response tokens of the batch, and the kept ones.
    progress: 0-dim; both shares move with it linearly from the first value to the last. Rows are pooled over groups,
    so use advantages that are not divided by their group's spread. Raises ValueError for a share outside (0, 1].
    Source: D3S, arXiv 2509.22115; the shares are not the paper's.
    """
    _require_share(
        samples_first=samples_first, samples_last=samples_last, tokens_first=tokens_first, tokens_last=tokens_last
    )
    done = float(progress)
    mean = row_means(advantages, response_mask)
    rows = _largest_variance(mean, response_mask.any(dim=1), samples_first + (samples_last - samples_first) * done)
    scores = mean.abs()[:, None] * old_entropy.double()
    kept = _top(scores, response_mask & rows[:, None], tokens_first + (tokens_last - tokens_first) * done)
    return kept.float() * (response_mask.sum() / kept.sum().clamp(min=1))


def _largest_variance(values: Tensor, eligible: Tensor, share: float) -> Tensor:
    """The share of eligible `values` [N] whose variance is largest: [N] bool.

    Of any number of values these are the k largest and the rest smallest; all k are tried.
    """
    present = int(eligible.sum())
    keep = min(present, _count(share, present))
    order = values.masked_fill(~eligible, math.inf).argsort(stable=True)[:present]  # ascending
    ordered = values[order]
    zero = values.new_zeros(1)
    smallest = [torch.cat([zero, x.cumsum(0)])[: keep + 1] for x in (ordered, ordered.square())]
    largest = [torch.cat([zero, x.flip(0).cumsum(0)])[: keep + 1].flip(0) for x in (ordered, ordered.square())]
    # [j]: of the j smallest and the keep - j largest
    sums, squares = (low + high for low, high in zip(smallest, largest, strict=True))
    low_count = int((squares - sums.square() / max(keep, 1)).argmax())
    chosen = torch.zeros_like(eligible)
    chosen[order[:low_count]] = True
    chosen[order[present - (keep - low_count) :]] = True
    return chosen


def _covariance(advantages: Tensor, logprobs: Tensor, response_mask: Tensor) -> Tensor:
    """Each response token's part in the covariance of advantage and log-probability: [N, T] fp64."""
    return _centred(advantages, response_mask) * _centred(logprobs, response_mask)


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    inside = torch.where(mask, values.double(), 0.0)
    return torch.where(mask, inside - inside.sum() / mask.sum().clamp(min=1), 0.0)


def _top(scores: Tensor, eligible: Tensor, share: float, *, of: int | None = None) -> Tensor:
    """The eligible tokens with the largest scores, a share of `of` tokens (default: of the eligible): bool."""
    there = int(eligible.sum())
    count = min(there, _count(share, there if of is None else of))
    ranked = scores.double().masked_fill(~eligible, -math.inf).flatten()
    chosen = torch.zeros_like(ranked, dtype=torch.bool)
    chosen[ranked.argsort(descending=True, stable=True)[:count]] = True
    return chosen.view_as(eligible)


def _count(share: float, total: int) -> int:
    return max(1, round(share * total))


def _require_share(**settings: float) -> None:
    require_positive(**settings)
    require_fraction(**settings)
