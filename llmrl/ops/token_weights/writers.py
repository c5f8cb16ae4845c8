"""Weights that tell what the policy wrote from what the data's rows brought."""

from __future__ import annotations

from torch import Tensor

from llmrl.marks import drops_other_writers


@drops_other_writers
def policy_completions(from_policy: Tensor, response_mask: Tensor) -> Tensor:
    """Turns a mean over all completions into the mean over those that the policy wrote.

        weight_t = N / N_policy on completions of the policy, else 0

    from_policy: [N] bool; response_mask: [N, T]; N, N_policy: completions with response tokens, and the policy's among
    them. Meant for sequence_mean. Source: SPC, with a replay of demonstrations beside, arXiv 2504.19162.
    """
    return _mean_over(from_policy, response_mask)


def other_completions(from_policy: Tensor, response_mask: Tensor) -> Tensor:
    """Turns a mean over all completions into the mean over those that the policy did not write, such as the rows'.

        weight_t = N / N_other on completions of other writers, else 0

    Shapes are as for `policy_completions`; without such completions all weights are 0. Meant for a regularizer that
    replays demonstrations. Source: SPC, arXiv 2504.19162.
    """
    return _mean_over(~from_policy, response_mask)


def _mean_over(chosen: Tensor, response_mask: Tensor) -> Tensor:
    answered = response_mask.any(dim=1)
    share = answered.sum() / (answered & chosen).sum().clamp(min=1)
    return (response_mask & chosen[:, None]).float() * share
