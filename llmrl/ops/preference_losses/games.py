"""Losses towards the Nash policy of a game in which completions are preferred to each other.

    P(y > y')    the chance that y is preferred to y'          p_t(y) = mean of P(y > y') over y' from the policy t
    h            the policy's log-probability of w less that of l, less the same of an anchor: a mixture of references

A step of mirror descent from the policy t is h(y, y') = (p_t(y) - p_t(y')) / eta for all y, y'. The losses below are
squared distances to that. A pair from policy t whose winner is drawn with the chance P has the target 1 / (2 eta),
which is right on average. With `graded`, the rewards are chances of winning, and the target is their difference / eta:
right on average too, and with less noise, if each completion counts as an opponent of itself (the setting
`counts_itself` of the reward win_rate).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import require_fraction, require_positive


def inpo(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    chosen_ref_logprobs: Tensor,
    rejected_ref_logprobs: Tensor,
    chosen_old_logprobs: Tensor,
    rejected_old_logprobs: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    eta: float = 0.05,
    mixture: float = 1 / 3,
    graded: bool = False,
) -> Tensor:
    """Iterative Nash policy optimisation: a step of mirror descent from the policy that sampled the pairs.

        loss = (h - target)^2               target = 1 / (2 eta), or with graded (reward_w - reward_l) / eta
        h    = (S_w - S_l) - mixture (S_ref_w - S_ref_l) - (1 - mixture) (S_old_w - S_old_l)

    All [M]; S_old: the policy's at the start of the step. mixture: tau / eta of the paper. mixture 1 is `ipo` with
    tau = eta. Exact for pairs that the old policy sampled. Raises ValueError for eta <= 0 or mixture outside [0, 1].
    Source: arXiv 2407.00617.
    """
    require_positive(eta=eta)
    require_fraction(mixture=mixture)
    anchors = mixture * (chosen_ref_logprobs - rejected_ref_logprobs)
    anchors = anchors + (1 - mixture) * (chosen_old_logprobs - rejected_old_logprobs)
    margins = chosen_logprobs - rejected_logprobs - anchors
    return (margins - _targets(chosen_rewards, rejected_rewards, eta, graded=graded).to(margins.dtype)).square()


def mnpo(
    chosen_logprobs: Tensor,
    rejected_logprobs: Tensor,
    chosen_ref_logprobs: Tensor,
    rejected_ref_logprobs: Tensor,
    chosen_past_logprobs: Tensor,
    rejected_past_logprobs: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    eta: float = 0.05,
    mixture: float = 1 / 3,
    weights: Sequence[float] = (),
    graded: bool = False,
) -> Tensor:
    """Multiplayer Nash policy optimisation: INPO against several earlier policies at once.

        h = (S_w - S_l) - mixture (S_ref_w - S_ref_l) - (1 - mixture) sum over j of lambda_j (S_past_j_w - S_past_j_l)

    All [M], those of earlier policies [M, K], the newest first (`history.kept` is K). The loss and its target are those
    of `inpo`. weights: lambda before it is divided by its sum, one for each; default: equal. The log-probabilities are
    sums over tokens, as the theory has them; the paper's code takes means, for which no eta below 0.5 is in reach.
    Raises ValueError for eta <= 0, mixture outside [0, 1], or weights of another number or without a positive sum.
    Source: arXiv 2509.23102.
    """
    require_positive(eta=eta)
    require_fraction(mixture=mixture)
    earlier = chosen_past_logprobs - rejected_past_logprobs
    shares = torch.tensor(weights or [1.0] * earlier.shape[1], dtype=earlier.dtype, device=earlier.device)
    if len(shares) != earlier.shape[1] or (shares < 0).any() or not shares.sum() > 0:
        expected = f"{earlier.shape[1]} numbers, one for each policy of history.kept, none negative and not all 0"
        raise ValueError(f"weights: {list(weights)} is not valid, expected {expected}")
    anchors = mixture * (chosen_ref_logprobs - rejected_ref_logprobs)
    anchors = anchors + (1 - mixture) * (earlier @ (shares / shares.sum()))
    margins = chosen_logprobs - rejected_logprobs - anchors
    return (margins - _targets(chosen_rewards, rejected_rewards, eta, graded=graded).to(margins.dtype)).square()


def optimism(
    chosen_logprobs: Tensor, rejected_logprobs: Tensor, chosen: Tensor, rejected: Tensor, from_policy: Tensor
) -> Tensor:
    """The log-probability of those of a pair's completions that another than the policy wrote.

        loss = sum over y in {w, l}, not from the policy, of S(y)

    Minimised beside `dpo`, it makes what the reference writes less likely, so that the policy explores elsewhere. All
    [M]; chosen, rejected: rows; from_policy: [N]. Source: exploratory preference optimization, arXiv 2405.21046.
    """
    of_others = torch.where(from_policy[chosen], 0.0, chosen_logprobs)
    return of_others + torch.where(from_policy[rejected], 0.0, rejected_logprobs)


def _targets(chosen_rewards: Tensor, rejected_rewards: Tensor, eta: float, *, graded: bool) -> Tensor:
    """The targets of the margins: [M] fp64."""
    gaps = chosen_rewards - rejected_rewards
    return gaps / eta if graded else torch.full_like(gaps, 1 / (2 * eta))
