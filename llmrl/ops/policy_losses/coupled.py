"""Losses that compare the trajectories of a group with each other.

They see the whole mini-batch and include every weight and denominator: the sum of their token losses is the objective.
A trajectory's part of it is spread evenly over its response tokens; its gradient may reach tokens of the whole group.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from llmrl.ops.shared.groups import group_centred, group_log_softmax, group_sums, members, present, spread
from llmrl.ops.shared.ranges import refuse_negative, require_positive
from llmrl.ops.shared.rows import row_means
from llmrl.types import TokenLoss


def pacs(
    logprobs: Tensor,
    old_logprobs: Tensor,
    correct: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    scale: float = 1.0,
    balanced: bool = True,
) -> TokenLoss:
    """A classifier of the verdict whose score is the change of log-probability.

        s_i   = scale sum_t (logprobs_t - old_logprobs_t)
        psi_i = s_i - mean_{j != i} s_j                                 over the others of its group; 0 if none
        sum of the losses = mean_i w_i (softplus(psi_i) - y_i psi_i)    y_i = correct, 1 or 0
        w_i = n / (2 n_y) in groups of n with both verdicts, n_y of them i's own; 1 in others and if not balanced

    logprobs, old_logprobs, response_mask: [N, T]; correct, group_ids: [N]. A trajectory of unknown verdict (nan) or
    without response tokens is left out altogether. stats: score_margin, psi_i where y_i = 1 and -psi_i where y_i = 0.
    Raises ValueError if scale is not positive. Source: PACS, arXiv 2509.02522.
    """
    require_positive(scale=scale)
    judged = response_mask & ~correct.isnan().unsqueeze(1)
    there, verdicts = present(judged), torch.where(correct.isnan(), 0.0, correct.double())
    sums = scale * torch.where(judged, logprobs.double() - old_logprobs.double(), 0.0).sum(dim=1)
    sizes = group_sums(there, group_ids)
    scores = group_centred(sums, judged, group_ids) * sizes / (sizes - 1).clamp(min=1)
    weights = there
    if balanced:
        right = group_sums(verdicts * there, group_ids)
        alike = torch.where(verdicts == 1, right, sizes - right).clamp(min=1)
        weights = torch.where((right > 0) & (right < sizes), there * sizes / (2 * alike), there)
    losses = weights * binary_cross_entropy_with_logits(scores, verdicts, reduction="none")
    lengths = judged.sum(dim=1).clamp(min=1)
    margins = spread((2 * verdicts - 1) * scores.detach(), judged)
    return TokenLoss(spread(losses / (lengths * there.sum().clamp(min=1)), judged), {"score_margin": margins})


def drpo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    correct: Tensor,
    response_mask: Tensor,
    group_ids: Tensor,
    *,
    max_tokens: int,
    tau: float = 10.0,
    length_temperature: float = 0.1,
    kl_weight: float = 1e3,
    kl_limit: float = 1e-4,
) -> TokenLoss:
    """Raises right answers above the wrong ones of their group, short ones most, and lowers no right answer.

        s_i = mean_t logprobs_t
        w_i = softmax of -L_i / (max_tokens length_temperature) over the right answers of the group
        J_g = sum_right w_i (s_i - tau log sum_wrong exp(s_j / tau))     0 in groups without both verdicts
        sum of the losses = -mean_g J_g + sg(kl_weight max(KL - kl_limit, 0)) KL
        KL  = mean over response tokens of old_logprobs_t - logprobs_t

    The mean is over all groups with a verdict. KL is KL(old, current), sampled by the old policy, so its gradient is
    that of the divergence; it counts all response tokens, whereas J leaves out trajectories of unknown verdict (nan).
    logprobs, old_logprobs, response_mask: [N, T]; correct, group_ids: [N]; max_tokens: the completion limit in tokens,
    never the width of a batch. stats: kl, old_logprobs - logprobs; kl_coefficient, the sg factor. Raises ValueError if
    max_tokens, tau or length_temperature is not positive or a kl setting is negative. Source: DRPO, arXiv 2510.04474.
    """
    require_positive(max_tokens=max_tokens, tau=tau, length_temperature=length_temperature)
    refuse_negative(kl_weight=kl_weight, kl_limit=kl_limit)
    lengths = response_mask.sum(dim=1).clamp(min=1)
    scores, length_scores = row_means(logprobs, response_mask), -lengths.double() / (max_tokens * length_temperature)
    groups = members(response_mask & ~correct.isnan().unsqueeze(1), group_ids)
    gains = torch.zeros_like(scores)
    for group in groups:
        right, wrong = group[correct[group] == 1], group[correct[group] != 1]
        if len(right) and len(wrong):
            level = tau * (scores[wrong] / tau).logsumexp(dim=0)
            gains[right] = length_scores[right].softmax(dim=0) * (scores[right] - level)

    divergence = torch.where(response_mask, old_logprobs.double() - logprobs.double(), 0.0)
    tokens = response_mask.sum().clamp(min=1)
    coefficient = kl_weight * (divergence.detach().sum() / tokens - kl_limit).clamp(min=0)
    loss = spread(-gains / (lengths * max(len(groups), 1)), response_mask) + (coefficient * divergence / tokens).float()
    stats = {"kl": divergence.detach().float(), "kl_coefficient": spread(coefficient.expand_as(scores), response_mask)}
    return TokenLoss(loss, stats)


def soft_choice(
    logprobs: Tensor, advantages: Tensor, response_mask: Tensor, group_ids: Tensor, *, alpha: float = 0.05
) -> TokenLoss:
    """Soft policy improvement over a list of actions, which are the completions of a group: all of them count.

        pi_i = softmax over the group of sum_t logprobs_t
        sum of the losses = mean_g sum_i pi_i (alpha log pi_i - A_i)        A_i = mean_t A_t

    Its minimum is pi_i ~ exp(A_i / alpha). A_i may be Q_i or Q_i - V, which differ by a constant of the group. The mean
    is over groups of several completions; one alone is no choice. The completions of a group have to differ. logprobs,
    advantages, response_mask: [N, T]; group_ids: [N]. stats: choice_entropy, that of pi, on all tokens of its group.
    Raises ValueError for a negative alpha. Source: discrete soft actor-critic, arXiv 1910.07207; over texts, SAC-GLAM,
    arXiv 2410.12481.
    """
    refuse_negative(alpha=alpha)
    there = response_mask.any(dim=1) & (group_sums(present(response_mask), group_ids) > 1)
    sums = torch.where(response_mask, logprobs.double(), 0.0).sum(dim=1)
    log_pi = group_log_softmax(sums, group_ids, there)
    pi, credit = log_pi.exp() * there, row_means(advantages, response_mask)
    share = there / (group_sums(there.double(), group_ids).clamp(min=1))
    losses = pi * (alpha * log_pi - credit) / share.sum().clamp(min=1)
    entropy = group_sums(-pi * log_pi, group_ids).detach()
    lengths = response_mask.sum(dim=1).clamp(min=1)
    return TokenLoss(spread(losses / lengths, response_mask), {"choice_entropy": spread(entropy, response_mask)})
