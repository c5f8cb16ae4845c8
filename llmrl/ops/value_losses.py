"""Losses of a critic per token, unreduced.

outputs [N, T, H] are the critic's heads before each token, outputs_after those after it, with gradient; old_outputs
are the first at step start. returns [N, T] are the targets of tokens, grades [N] those of trajectories. A token whose
return is nan, a trajectory whose grade is -1, and all tokens off the response mask have no target: their loss, gradient
and stats are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from llmrl.marks import reads_chance, reads_logits, reads_places
from llmrl.ops.shared.grades import grade_logprobs
from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive, require_range
from llmrl.ops.shared.twin import twin_heads
from llmrl.ops.shared.value_bins import bin_values, require_single
from llmrl.ops.values import softmin
from llmrl.types import TokenLoss

GOLDEN_RATIO = 0.6180339887498949


def squared(outputs: Tensor, old_outputs: Tensor, returns: Tensor, *, clip: float | None = None) -> TokenLoss:
    """Half the squared error of each head, averaged over heads.

        loss_t = mean_j 1/2 (v_tj - R_t)^2
        loss_t = mean_j 1/2 max((v_tj - R_t)^2, (clip(v_tj, old_tj - clip, old_tj + clip) - R_t)^2)    with clip

    outputs, old_outputs: [N, T, H]; returns: [N, T]. A head that has moved by more than clip towards the return
    is no longer pulled; libraries use 0.2 to 0.5, in units of the value. stats: value_error, |mean_j v_tj - R_t|;
    with clip, value_clip_fraction, the share of heads that have moved by more than it.
    Raises ValueError if clip is not positive. Source: PPO, arXiv 1707.06347.
    """
    heads, old, target = _where_known(returns, outputs, old_outputs)
    return TokenLoss(_clipped_square(heads, old, target, clip).mean(dim=-1), _stats(heads, old, target, clip))


def bootstrapped(
    outputs: Tensor,
    old_outputs: Tensor,
    returns: Tensor,
    uniform_noise: Tensor,
    *,
    fraction: float = 0.5,
    clip: float | None = None,
) -> TokenLoss:
    """The squared loss with each head on its own random part of the trajectories; heads then differ where data is rare.

        loss_t = 1 / (fraction H) sum_j used_ij 1/2 (v_tj - R_t)^2        clip as in `squared`
        used_ij = frac(u_i + j g) < fraction        u_i = uniform_noise[i, 0], g = 0.618..., j = 0 ... H - 1

    outputs, old_outputs: [N, T, H]; returns, uniform_noise: [N, T]. A head uses each trajectory with probability
    `fraction`, for the whole step; the golden ratio spreads the H windows evenly, so every trajectory is used by about
    fraction H heads. At fraction 1 this is `squared`. stats: those of `squared`. Raises ValueError for a fraction
    outside (0, 1] or a clip that is not positive. Source: CDE, arXiv 2509.09675.
    """
    require_fraction(fraction=fraction)
    require_positive(fraction=fraction)
    heads, old, target = _where_known(returns, outputs, old_outputs)
    shifts = torch.arange(heads.shape[-1], device=uniform_noise.device, dtype=torch.double) * GOLDEN_RATIO
    used = (uniform_noise[:, :1].double() + shifts) % 1 < fraction
    weights = used.float().unsqueeze(1) / (fraction * heads.shape[-1])
    loss = (weights * _clipped_square(heads, old, target, clip)).sum(dim=-1)
    return TokenLoss(loss, _stats(heads, old, target, clip))


def huber(
    outputs: Tensor,
    old_outputs: Tensor,
    returns: Tensor,
    *,
    delta: float = 0.5,
    clip: float | None = None,
    softmin_temperature: float | None = None,
) -> TokenLoss:
    """Squared error up to delta and linear beyond, averaged over heads: an outlier pulls no harder than delta.

        h(d)   = d^2 / 2  if |d| <= delta,  else  delta (|d| - delta / 2)
        loss_t = mean_j h(v_tj - R_t)
        loss_t = mean_j 1/2 (h(v_tj - R_t) + h(clip(v_tj, old_tj - clip, old_tj + clip) - R_t))    with clip

    outputs, old_outputs: [N, T, H]; returns: [N, T]. With clip the pull is halved, not removed, where a head has moved
    by more than it. With softmin_temperature the loss is that of one value, the heads' soft minimum (values.softmin),
    which is SAFE's; without it each head learns the return by itself. stats: as in `squared`. Raises ValueError for a
    delta, clip or softmin_temperature that is not positive. Source: Huber 1964; SAFE, arXiv 2602.04651.
    """
    require_positive(delta=delta)
    heads, old, target = _where_known(returns, outputs, old_outputs)
    if softmin_temperature is not None:
        require_positive(softmin_temperature=softmin_temperature)
        heads, old = (softmin(x, temperature=softmin_temperature).unsqueeze(-1) for x in (heads, old))
    targets = target.expand_as(heads)
    loss = F.huber_loss(heads, targets, reduction="none", delta=delta)
    if clip is not None:
        loss = (loss + F.huber_loss(_held(heads, old, clip), targets, reduction="none", delta=delta)) / 2
    return TokenLoss(loss.mean(dim=-1), _stats(heads, old, target, clip))


def twin_squared(outputs: Tensor, outputs_after: Tensor, returns: Tensor) -> TokenLoss:
    """Half the squared errors of a twin critic, added up: of Q after the last tokens of turns, of V before the first.

        loss_t = sum_j 1/2 (Q_tj - R_tj)^2 + sum_j 1/2 (V_tj - R_tj)^2        over the outputs with a target at t

    outputs, outputs_after: [N, T, H], see ops/shared/twin.py; returns: [N, T, H] or [N, T], such as those of
    value_targets.twin_td. stats: value_error, the mean distance of the outputs that have a target at t. Raises
    ValueError for an odd H. Source: ArCHer, arXiv 2402.19446.
    """
    heads = torch.cat(twin_heads(outputs, outputs_after), dim=-1)
    targets = returns.float() if returns.dim() == heads.dim() else returns.float().unsqueeze(-1).expand_as(heads)
    known = targets.isfinite()
    errors = torch.where(known, heads - torch.where(known, targets, 0.0), 0.0)
    mean_error = errors.detach().abs().sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    return TokenLoss(errors.square().sum(dim=-1) / 2, {"value_error": mean_error})


def twin_expectile(outputs: Tensor, outputs_after: Tensor, returns: Tensor, *, tau: float = 0.7) -> TokenLoss:
    """The loss of `twin_squared` in which a V that lies below its target is pulled harder than one above.

        loss_t = sum_j 1/2 (Q_tj - R_tj)^2 + sum_j 1/2 w_tj (V_tj - R_tj)^2        w = tau if R > V, else 1 - tau

    At its least V is the tau-expectile of its targets: their mean at tau 0.5, towards their maximum as tau grows.
    outputs, outputs_after, returns: [N, T, H], such as those of value_targets.implicit_td. stats: value_error, the mean
    distance of the outputs that have a target at t. Raises ValueError for a tau outside [0, 1] or an odd H.
    Source: ILQL, arXiv 2206.11871, which leaves out the half.
    """
    require_fraction(tau=tau)
    heads = torch.cat(twin_heads(outputs, outputs_after), dim=-1)
    known = returns.isfinite()
    errors = torch.where(known, heads - torch.where(known, returns, 0.0), 0.0)
    of_v = torch.arange(heads.shape[-1], device=heads.device) >= heads.shape[-1] // 2
    weights = torch.where(of_v, torch.where(errors < 0, tau, 1 - tau), 1.0)
    mean_error = errors.detach().abs().sum(dim=-1) / known.sum(dim=-1).clamp(min=1)
    return TokenLoss((weights * errors.square()).sum(dim=-1) / 2, {"value_error": mean_error})


@reads_places
def bounded(outputs: Tensor, returns: Tensor, *, low: float = 0.0, high: float = 1.0) -> TokenLoss:
    """Cross-entropy between a return's place in the range of the rewards and each head's, averaged over heads.

        loss_t = mean_j -p_t log sigmoid(v_tj) - (1 - p_t) log sigmoid(-v_tj)        p_t = (R_t - low) / (high - low)

    outputs: [N, T, H]; returns: [N, T], clamped to [low, high]. Its least is at the mean return, whatever the returns'
    distribution, and the gradient sigmoid(v) - p never exceeds 1. stats: value_error, |V_t - R_t| of values.bounded;
    returns_outside, the share of returns out of [low, high]. Raises ValueError for a low that is not below high.
    Source: BPCO, arXiv 2608.23566; the cross-entropy is a reconstruction.
    """
    require_range(low, high)
    known = ~returns.isnan()
    heads, target = _where_known(returns, outputs)
    place = ((target - low) / (high - low)).clamp(0, 1).expand_as(heads)
    loss = F.binary_cross_entropy_with_logits(heads, place, reduction="none").mean(dim=-1)
    target = target.squeeze(-1)
    value = low + (high - low) * heads.detach().sigmoid().mean(dim=-1)
    stats = {"value_error": (value - target).abs(), "returns_outside": ((target < low) | (target > high)).float()}
    return TokenLoss(loss * known, {name: stat * known for name, stat in stats.items()})


@reads_logits
def categorical(outputs: Tensor, returns: Tensor, *, low: float, high: float, smoothing: float = 0.75) -> TokenLoss:
    """Cross-entropy between a histogram around the return and the one whose logits the outputs are.

        loss_t = -sum_k q_k(R_t) log softmax(outputs_t)_k        z_1 = low, ..., z_K = high, w apart
        q_k = max(0, 1 - |z_k - R| / w)                                        smoothing 0 (two-hot)
        q_k ~ Phi((z_k + w/2 - R) / s) - Phi((z_k - w/2 - R) / s), sum 1       s = smoothing w (HL-Gauss)

    outputs: [N, T, K]; returns: [N, T], clamped to [low, high]. Two-hot has R as its mean. HL-Gauss spreads R over
    neighbouring bins, which learns better; its mean is nearly R, except within some 2 s of low and high, where it lies
    further inwards: leave a margin. stats: value_error, |expectation - R_t|; returns_outside, the share of returns out
    of [low, high]. Raises ValueError for a low that is not below high, fewer than 2 outputs, or a negative smoothing.
    Source: Stop Regressing, arXiv 2403.03950; HL-Gauss, arXiv 1806.04613.
    """
    refuse_negative(smoothing=smoothing)
    support = bin_values(outputs, low=low, high=high)
    known = ~returns.isnan()
    logits, target = _where_known(returns, outputs)
    log_p = torch.log_softmax(logits, dim=-1)
    loss = -(_histogram(target.clamp(low, high), support, smoothing) * log_p).sum(dim=-1)
    target = target.squeeze(-1)
    stats = {
        "value_error": (log_p.detach().exp() @ support - target).abs(),
        "returns_outside": ((target < low) | (target > high)).float(),
    }
    return TokenLoss(loss * known, {name: stat * known for name, stat in stats.items()})


@reads_chance
def bernoulli(outputs: Tensor, returns: Tensor) -> TokenLoss:
    """Cross-entropy between the return, a probability, and the one whose logit the output is.

        loss_t = -R_t log sigmoid(v_t) - (1 - R_t) log sigmoid(-v_t)        R_t clamped to [0, 1]

    outputs: [N, T, 1]; returns: [N, T]. stats: value_error, |sigmoid(v_t) - R_t|; returns_outside, the share of returns
    out of [0, 1]. Raises ValueError for several outputs. Source: direct advantage policy optimization, arXiv
    2412.18279.
    """
    require_single(outputs)
    known = ~returns.isnan()
    heads, target = (x.squeeze(-1) for x in _where_known(returns, outputs))
    loss = F.binary_cross_entropy_with_logits(heads, target.clamp(0.0, 1.0), reduction="none")
    stats = {
        "value_error": (heads.detach().sigmoid() - target).abs(),
        "returns_outside": ((target < 0) | (target > 1)).float(),
    }
    return TokenLoss(loss * known, {name: stat * known for name, stat in stats.items()})


def grade_cross_entropy(outputs: Tensor, grades: Tensor, response_mask: Tensor) -> TokenLoss:
    """Cross-entropy of a trajectory's grade, whose logits are the largest along the trajectory.

        z_ih = max_t outputs_ith        over the response tokens
        loss_it = -log softmax(z_i)[grade_i]        the same on all of them

    outputs: [N, T, H], an output for each grade; grades: [N]; response_mask: [N, T]. Reduced by sequence_mean
    every trajectory counts once. A grade's gradient reaches the one token with its largest logit, the first of equal
    ones. stats: grade_accuracy, 1 where z_i is largest at the grade; grade_probability, softmax(outputs_it)[grade_i].
    Raises ValueError for fewer than 2 outputs, or for a grade that has no output. Source: CodeRL, arXiv 2207.01780.
    """
    known = response_mask & (grades >= 0).unsqueeze(1)
    logits = torch.where(known.unsqueeze(-1), outputs.float(), -torch.inf)
    pooled = torch.where(known.any(dim=1, keepdim=True), logits.max(dim=1).values, 0.0)
    right = (pooled.argmax(dim=-1) == grades).float().unsqueeze(1)
    per_token = {
        "grade_accuracy": right.expand_as(known),
        "grade_probability": grade_logprobs(outputs.detach(), grades).exp(),
    }
    loss = -grade_logprobs(pooled, grades).unsqueeze(1)
    return TokenLoss(
        torch.where(known, loss, 0.0), {name: torch.where(known, stat, 0.0) for name, stat in per_token.items()}
    )


def _histogram(target: Tensor, support: Tensor, smoothing: float) -> Tensor:
    """Probabilities [N, T, K] of the evenly spaced `support` [K] for targets [N, T, 1] within their range."""
    width = support[1] - support[0]
    if smoothing == 0:
        return (1 - (support - target).abs() / width).clamp(min=0)
    edges = torch.cat([support - width / 2, support[-1:] + width / 2])
    below = torch.special.ndtr((edges - target) / (smoothing * width))
    return below.diff(dim=-1) / (below[..., -1:] - below[..., :1])


def _where_known(returns: Tensor, *outputs: Tensor) -> list[Tensor]:
    """Each of `outputs` [N, T, H], then the returns [N, T, 1], in fp32 and 0 where there is no target."""
    known = ~returns.isnan().unsqueeze(-1)
    return [torch.where(known, x.float(), 0.0) for x in (*outputs, returns.unsqueeze(-1))]


def _held(heads: Tensor, old: Tensor, clip: float) -> Tensor:
    require_positive(clip=clip)
    return old + (heads - old).clamp(-clip, clip)


def _clipped_square(heads: Tensor, old: Tensor, target: Tensor, clip: float | None) -> Tensor:
    loss = (heads - target).square()
    if clip is not None:
        loss = torch.maximum(loss, (_held(heads, old, clip) - target).square())
    return loss / 2


def _stats(heads: Tensor, old: Tensor, target: Tensor, clip: float | None) -> dict[str, Tensor]:
    heads = heads.detach()
    stats = {"value_error": (heads.mean(dim=-1) - target.squeeze(-1)).abs()}
    if clip is not None:
        stats["value_clip_fraction"] = ((heads - old).abs() > clip).float().mean(dim=-1)
    return stats
