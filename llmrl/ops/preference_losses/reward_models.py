"""Losses of reward models, made of scores: of pairs [M], of completions [N], and of steps within completions [N].

r is a completion's score, r_w the chosen one's and r_l the rejected one's.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, logsigmoid

from llmrl.ops.shared.ranges import refuse_negative, require_fraction
from llmrl.ops.shared.turns import taken_turns, turn_ends, turn_sums


def bradley_terry(
    chosen_scores: Tensor,
    rejected_scores: Tensor,
    chosen_rewards: Tensor,
    rejected_rewards: Tensor,
    *,
    margin: float = 0.0,
    centring: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The Bradley-Terry model's negative log-likelihood of each preference: [M].

        d    = r_w - r_l - margin * (reward of the chosen one - reward of the rejected one)
        loss = -(1 - e) log sigmoid(d) - e log sigmoid(-d) + c (r_w + r_l)^2

    margin: how far apart the scores should be for a reward difference of 1, as Llama 2 asks of clear preferences
    (arXiv 2307.09288). c = centring: brings the scores' mean to 0, which the likelihood leaves open (arXiv
    2312.09244). e = label_smoothing: the share of wrong labels. Raises ValueError for a negative margin or centring,
    and for a label_smoothing outside of [0, 0.5).
    """
    refuse_negative(margin=margin, centring=centring)
    if not 0 <= label_smoothing < 0.5:
        raise ValueError(f"label_smoothing: {label_smoothing} is not valid, expected at least 0 and less than 0.5")
    apart = margin * (chosen_rewards - rejected_rewards).to(chosen_scores.dtype)
    d = chosen_scores - rejected_scores - apart
    likelihood = (1 - label_smoothing) * logsigmoid(d) + label_smoothing * logsigmoid(-d)
    return centring * (chosen_scores + rejected_scores).square() - likelihood


def reward_regression(completion_scores: Tensor, completion_rewards: Tensor) -> Tensor:
    """(r - reward)^2 of each completion; 0 for one without response tokens: [N]."""
    known = completion_rewards.isfinite()
    targets = torch.where(known, completion_rewards, 0.0).to(completion_scores.dtype)
    return torch.where(known, (completion_scores - targets).square(), 0.0)


def component_regression(completion_head_scores: Tensor, reward_components: Tensor) -> Tensor:
    """The sum over heads of (r_k - component k of the reward)^2 of each completion: [N].

    A component that is nan is left out. Raises ValueError unless there is a head for each component [N, K].
    """
    if completion_head_scores.shape != reward_components.shape:
        heads, components = completion_head_scores.shape[-1], reward_components.shape[-1]
        raise ValueError(f"the model has {heads} heads for {components} components of the reward; set model.heads")
    known = reward_components.isfinite()
    targets = torch.where(known, reward_components, 0.0)
    return torch.where(known, (completion_head_scores - targets).square(), 0.0).sum(dim=1)


def step_bce(scores: Tensor, turn_rewards: Tensor) -> Tensor:
    """Binary cross-entropy of sigmoid(score) at each step's last token against its label, the mean over steps: [N].

    turn_rewards: the step's label in [0, 1] on its last token, nan elsewhere. One head. A fraction of successful
    continuations is a label too (Math-Shepherd, arXiv 2312.08935).
    """
    labels, known = _labels(turn_rewards)
    _require_heads(scores, 1)
    return _over_steps(binary_cross_entropy_with_logits(scores[..., 0], labels, reduction="none"), known)


def step_mse(scores: Tensor, turn_rewards: Tensor) -> Tensor:
    """(sigmoid(score) - label)^2 at each step's last token, the mean over steps; labels as in step_bce: [N]."""
    labels, known = _labels(turn_rewards)
    _require_heads(scores, 1)
    return _over_steps((scores[..., 0].sigmoid() - labels).square(), known)


def step_cross_entropy(scores: Tensor, turn_rewards: Tensor) -> Tensor:
    """Cross-entropy over the heads as classes at each step's last token, the mean over steps: [N].

    turn_rewards: the step's class, 0 ... H - 1, on its last token, nan elsewhere. Raises ValueError for fewer than two
    heads, and for a label that is no class.
    """
    labels, known = _labels(turn_rewards)
    classes = scores.shape[-1]
    if classes < 2:
        raise ValueError("one head has no classes to choose from; set model.heads to 2 or more, or use step_bce")
    if ((labels != labels.round()) | (labels < 0) | (labels >= classes)).any():
        raise ValueError(f"a step's label is none of the classes 0 to {classes - 1}")
    return _over_steps(cross_entropy(scores.movedim(-1, 1), labels.long(), reduction="none"), known)


def inverse_bce(
    scores: Tensor, completion_rewards: Tensor, response_mask: Tensor, turn_ids: Tensor, *, gamma: float = 0.95
) -> Tensor:
    """Binary cross-entropy of whose turns a trajectory's are, by the reward that their Q-values imply: [N].

        d_k  = Q_k - gamma Q_{k+1}        Q_k: the score at turn k's last token; Q = 0 past the last turn
        loss = mean over turns of -y log sigmoid(d_k) - (1 - y) log sigmoid(-d_k)

    y = completion_rewards: 1 for an expert's trajectory, 0 for the policy's; a trajectory without response tokens has
    loss 0. Both terms of d have a gradient. The next turn is the trajectory's own, where the paper samples the policy's
    in the same state. scores: [N, T, 1]; response_mask, turn_ids: [N, T]. Raises ValueError for gamma outside [0, 1].
    Source: InversePRM, arXiv 2502.10325.
    """
    require_fraction(gamma=gamma)
    _require_heads(scores, 1)
    last = torch.where(turn_ends(response_mask, turn_ids), scores[..., 0], 0.0)
    values = turn_sums(last, response_mask, turn_ids).to(scores.dtype)
    taken = taken_turns(response_mask, turn_ids)
    implied = values - gamma * torch.nn.functional.pad(values[:, 1:], (0, 1))
    label = completion_rewards.nan_to_num(0.0).to(values.dtype)[:, None].expand(values.shape)
    return _over_steps(binary_cross_entropy_with_logits(implied, label, reduction="none"), taken)


def _labels(turn_rewards: Tensor) -> tuple[Tensor, Tensor]:
    """The labels with 0 where there is none, and where there is one: [N, T] each."""
    known = turn_rewards.isfinite()
    return torch.where(known, turn_rewards, 0.0), known


def _over_steps(losses: Tensor, known: Tensor) -> Tensor:
    """The mean over each row's labelled steps, 0 without any: [N, T] to [N]."""
    return torch.where(known, losses, 0.0).sum(dim=1) / known.sum(dim=1).clamp(min=1)


def _require_heads(scores: Tensor, heads: int) -> None:
    if scores.shape[-1] != heads:
        raise ValueError(f"the model has {scores.shape[-1]} heads, expected {heads}; set model.heads")
