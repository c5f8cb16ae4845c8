"""Losses of all completions of a group at once, each with a reward.

A group's loss is a sum over its completions; each of them has its term times their number, so that the mean over
completions is the mean over groups of equal size. Completions without a reward are in no group.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import logsigmoid

from llmrl.ops.shared.groups import group_log_softmax, group_sums
from llmrl.ops.shared.ranges import require_positive


def infonca(
    completion_log_ratios: Tensor,
    completion_rewards: Tensor,
    group_ids: Tensor,
    *,
    beta: float = 0.01,
    temperature: float = 1e-4,
) -> Tensor:
    """The cross-entropy of a group's rewards and log ratios: DPO for several completions.

        loss of a group = -sum_k q_k log softmax(beta u)_k        q = softmax(reward / temperature)

    All [N]. Near temperature 0 q is 1 for the best completion, and with two completions the loss is that of `dpo`; a
    larger one is DPO from rewards. Raises ValueError for beta or temperature <= 0. Source: InfoNCA, arXiv 2402.05369.
    """
    require_positive(beta=beta, temperature=temperature)
    known, wanted = _targets(completion_rewards, group_ids, temperature)
    log_p = group_log_softmax(beta * completion_log_ratios, group_ids, known)
    return -_sizes(known, group_ids) * wanted.exp() * log_p * known


def nca(
    completion_log_ratios: Tensor,
    completion_rewards: Tensor,
    group_ids: Tensor,
    *,
    beta: float = 0.01,
    temperature: float = 1e-4,
) -> Tensor:
    """Noise contrastive alignment: the best completion's log ratio rises, and all are held down.

        loss of a group of K = -sum_k (q_k log sigmoid(beta u_k) + log sigmoid(-beta u_k) / K)
        q                    = softmax(reward / temperature)

    All [N]. Raises ValueError for beta or temperature <= 0. Source: NCA, arXiv 2402.05369.
    """
    require_positive(beta=beta, temperature=temperature)
    known, wanted = _targets(completion_rewards, group_ids, temperature)
    raised = _sizes(known, group_ids) * wanted.exp() * logsigmoid(beta * completion_log_ratios)
    return -(raised + logsigmoid(-beta * completion_log_ratios)) * known


def exo_rewards(
    completion_log_ratios: Tensor,
    completion_rewards: Tensor,
    group_ids: Tensor,
    *,
    beta: float = 0.1,
    temperature: float = 0.1,
) -> Tensor:
    """Efficient exact optimisation from rewards: the reverse KL from the policy's choice in a group to the rewards'.

        loss of a group = KL(softmax(beta u) || softmax(reward / temperature))

    All [N]. Raises ValueError for beta or temperature <= 0. Source: arXiv 2402.00856.
    """
    require_positive(beta=beta, temperature=temperature)
    known, wanted = _targets(completion_rewards, group_ids, temperature)
    log_p = group_log_softmax(beta * completion_log_ratios, group_ids, known)
    return _sizes(known, group_ids) * log_p.exp() * (log_p - wanted) * known


def _targets(rewards: Tensor, group_ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Which completions have a reward, and the log-softmax of the rewards in each group: [N] each."""
    known = rewards.isfinite()
    return known, group_log_softmax(rewards.nan_to_num() / temperature, group_ids, known).float()


def _sizes(known: Tensor, group_ids: Tensor) -> Tensor:
    return group_sums(known.float(), group_ids)
