"""How many more completions each prompt of a step gets, given the results of its first ones.

Q prompts; counts are [Q] int64 and sum to the budget exactly. Ties go to the earlier prompt.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import refuse_negative, require_fraction, require_positive


def gvm(
    successes: Tensor,
    samples: Tensor,
    gradient_norms: Tensor,
    budget: Tensor | int,
    *,
    alpha: float = 1e-3,
    beta: float = 2.0,
    max_rate: float = 1.0,
    min_accepted: float = 0.0,
) -> Tensor:
    """Completions where they reduce the variance of the gradient over accepted samples most.

        p_q     = successes_q / samples_q
        share_q ~ G_q / sqrt(p_q + alpha / p_q^(beta - 1)), 0 where p_q or G_q is 0      G = gradient_norms
        counts  = share_q budget, rounded to sum to the budget

    successes, samples: [Q] accepted and all samples so far; gradient_norms: [Q], mean norm of the accepted
    samples' gradients; budget: 0-dim, completions to hand out. A prompt with p_q above max_rate, or with fewer than
    min_accepted completions expected to be accepted, gets none. If no prompt is left, all get the same.
    Raises ValueError if alpha is not positive, max_rate is outside [0, 1], or min_accepted or the budget is negative.
    Source: GVM-RAFT, arXiv 2505.02391.
    """
    require_positive(alpha=alpha)
    require_fraction(max_rate=max_rate)
    refuse_negative(min_accepted=min_accepted)
    total = _whole(budget)
    rate = successes.double() / samples.double().clamp(min=1)
    useful = (rate > 0) & (gradient_norms > 0) & (rate <= max_rate)
    spread = (rate + alpha * rate.pow(1 - beta)).sqrt()
    raw = torch.where(useful, gradient_norms.double() / spread, 0.0)
    accepted = rate * raw / raw.sum() * total
    raw = torch.where(accepted >= min_accepted, raw, 0.0)
    return _apportioned(raw, total)


def xrpo(
    samples: Tensor, stds: Tensor, budget: Tensor | int, *, confidence: float = 0.05, exploration: float = 0.1
) -> Tensor:
    """Completions one by one to the prompt whose mean reward they make most certain, the least sampled favoured.

        h_q(n)     = t_(1 - confidence/2, n - 1) s_q / sqrt(n)       half-width of the mean's confidence interval
        priority_q = h_q(n_q) - h_q(n_q + 1) + exploration sqrt(log(1 + sum n) / n_q)

    samples: [Q] completions so far, n_q, which grows as they are handed out; stds: [Q] unbiased std of their
    rewards, s_q, held fixed; budget: 0-dim. t: Student's quantile. A prompt with fewer than 2 completions has no
    interval and comes first. Raises ValueError if confidence is outside (0, 1), or exploration or the budget is
    negative. Source: XRPO, arXiv 2510.06672; the exploration constant and the count in its logarithm
    are choices, which its public summaries leave open.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence: {confidence} is not valid, expected a number above 0 and under 1")
    refuse_negative(exploration=exploration)
    deviations = [std if math.isfinite(std) else 0.0 for std in stds.tolist()]
    drawn, counts = [int(n) for n in samples.tolist()], [0] * len(deviations)
    for _ in range(_whole(budget)):
        bonus = exploration * math.sqrt(math.log1p(sum(drawn)))
        priorities = [
            _narrowing(n, std, confidence) + bonus / math.sqrt(max(n, 1))
            for n, std in zip(drawn, deviations, strict=True)
        ]
        chosen = priorities.index(max(priorities))
        drawn[chosen] += 1
        counts[chosen] += 1
    return torch.tensor(counts, dtype=torch.long, device=samples.device)


def by_difficulty(successes: Tensor, samples: Tensor, budget: Tensor | int) -> Tensor:
    """Completions in proportion to the share of a prompt's first ones that failed.

        share_q ~ 1 - successes_q / samples_q        counts = share_q budget, rounded to sum to the budget

    successes, samples: [Q]; budget: 0-dim. A prompt without samples counts as failed; if none failed, all get the same.
    Raises ValueError for a budget below 0. Source: the difficulty-aware allocation of critique-in-the-loop
    self-improvement, arXiv 2411.16579.
    """
    return _apportioned(1 - successes.double() / samples.double().clamp(min=1), _whole(budget))


def _apportioned(raw: Tensor, total: int) -> Tensor:
    """Whole numbers in proportion to `raw` [Q] that sum to `total`: rounded down, then up where most was cut."""
    raw = raw if raw.sum() > 0 else torch.ones_like(raw)
    exact = raw / raw.sum() * total
    counts = exact.floor()
    short = total - int(counts.sum())
    counts[(exact - counts).argsort(descending=True, stable=True)[:short]] += 1
    return counts.long()


def _narrowing(n: int, std: float, confidence: float) -> float:
    """How much narrower one more completion makes the half-width."""
    if n < 2:
        return math.inf
    return std * (_half_width(n, confidence) - _half_width(n + 1, confidence))


@cache
def _half_width(n: int, confidence: float) -> float:
    """t_(1 - confidence/2, n - 1) / sqrt(n)."""
    degrees, low, high = n - 1, 0.0, math.pi / 2
    while (angle := (low + high) / 2) not in (low, high):  # until no number lies between
        low, high = (angle, high) if _central_probability(angle, degrees) < 1 - confidence else (low, angle)
    return math.sqrt(degrees / n) * math.tan(angle)


def _central_probability(angle: float, degrees: int) -> float:
    """P(|t| < sqrt(degrees) tan(angle)) of Student's t, for whole degrees a finite sum (Abramowitz, Stegun 26.7)."""
    odd = degrees % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(2 + odd, degrees + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (power - 1) / power
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def _whole(budget: Tensor | int) -> int:
    refuse_negative(budget=int(budget))
    return int(budget)
