"""Credit in units of log flow: rewards in nats, less the log-ratio to the reference."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import require_fraction, require_positive
from llmrl.ops.shared.recursion import lambda_advantages
from llmrl.types import Credit


def log_flow(
    rewards: Tensor,
    values: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor,
    response_mask: Tensor,
    *,
    temperature: float,
    lam: float = 1.0,
) -> Credit:
    """Soft lambda-return: the critic's target, at which its value is the log flow of a GFlowNet.

        q_t = r_t / temperature - (old_logprobs_t - ref_logprobs_t)
        d_t = q_t + V_next(t) - V_t      next(t): the following response token, over masked ones; V = 0 after the last
        A_t = d_t + lam A_next(t)        returns_t = A_t + V_t, at lam 1 the sum of q from t on

    The log flow of a prefix is log E_ref exp(rewards from t on / temperature). Under the policy
    ref exp(R / temperature) / Z a critic that predicts the log flow has it as its target too, and A is 0; under
    another policy the mean target is lower. A is the credit of the objective E[R / temperature] - KL(policy, ref), in
    nats, for a policy-gradient loss; subtrajectory_balance needs the returns alone. rewards, values, old_logprobs,
    ref_logprobs, response_mask: [N, T]; temperature: rewards per nat. Off the mask returns are nan.
    Raises ValueError if temperature is not positive or lam lies outside [0, 1].
    Source: soft values as log flows, arXiv 2310.12934; lambda-return, GAE, arXiv 1506.02438.
    """
    require_positive(temperature=temperature)
    require_fraction(lam=lam)
    gain = rewards.double() / temperature - (old_logprobs.double() - ref_logprobs.double())
    advantages = lambda_advantages(gain, values, response_mask, lam=lam)
    returns = torch.where(response_mask, advantages + values, torch.nan)
    return Credit(advantages.float(), returns.float())
