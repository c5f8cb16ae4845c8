"""Changes token by token."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.curiosity import capped_bonus
from llmrl.ops.shared.grades import grade_logprobs
from llmrl.ops.shared.recursion import next_on_mask
from llmrl.ops.shared.whitening import whiten as whitened


def value_spread(
    advantages: Tensor,
    value_std: Tensor,
    progress: Tensor,
    response_mask: Tensor,
    *,
    kappa: float = 3.0,
    alpha: float = 1.0,
    omega: float = 1.0,
    stairs: int = 4,
) -> Tensor:
    """A bonus for a token after which the critic's heads disagree.

        A'_t = A_t + omega_p min(|A_t| / kappa, alpha std_next(t))        next(t): the following response token

    value_std at a token is of the prefix before it, so the value_std after token t stands at the next response token;
    the last token gets no bonus. omega_p falls in `stairs` steps from omega to 0 over the stage. advantages, value_std,
    response_mask: [N, T]; progress: 0-dim. The source does not state kappa, alpha and omega; the defaults are ours.
    Raises ValueError for kappa or stairs not above 0, alpha or omega below 0. Source: CDE, arXiv 2509.09675.
    """
    clean = torch.where(response_mask, advantages, 0.0).double()
    ahead = next_on_mask(value_std, response_mask)
    bonus = capped_bonus(clean, ahead, progress, kappa=kappa, alpha=alpha, omega=omega, stairs=stairs)
    return (clean + bonus).float()


def outcome_likelihood(advantages: Tensor, old_outputs: Tensor, grades: Tensor, response_mask: Tensor) -> Tensor:
    """Each advantage is multiplied by the critic's probability of the trajectory's outcome at that token.

        A'_t = A_t softmax(old_outputs_t)[grade]

    old_outputs at a token are the critic's logits of the grades for the prefix before it. A trajectory of unknown
    grade (-1) gets 0, since its unweighted credit would exceed that of all others. advantages, response_mask: [N, T];
    old_outputs: [N, T, H]; grades: [N].
    Raises ValueError for fewer than 2 outputs, or for a grade that has no output. Source: CodeRL, arXiv 2207.01780.
    """
    known = response_mask & (grades >= 0).unsqueeze(1)
    likelihood = grade_logprobs(old_outputs, grades).double().exp()
    return torch.where(known, advantages * likelihood, 0.0).float()


def whiten(advantages: Tensor, response_mask: Tensor) -> Tensor:
    """Advantages of mean 0 and standard deviation 1 over the response tokens of the whole batch.

        A'_t = (A_t - mean A) / std A        std unbiased (n - 1)

    advantages, response_mask: [N, T]. Long trajectories weigh more in both. Equal advantages become 0; a single
    token keeps its own. Source: PPO as in RLHF, arXiv 1909.08593.
    """
    return whitened(advantages, response_mask).float()
