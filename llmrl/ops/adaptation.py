"""One step of a policy towards a target that feedback on its own samples gives in closed form, without a rollout.

    log pi*(y) = log pi(y) + r(y) / beta - log Z        the policy of most reward less beta KL(pi* || pi)
    Delta      = argmin |J Delta - (log pi* - log pi)|^2 + damping |Delta|^2        J = d log pi / d parameters

Delta is found by conjugate gradients on the normal equations, of which each step is a product with J and one with its
transpose, so that neither J nor a Hessian is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import refuse_negative, require_positive

Parameters = Mapping[str, Tensor]


def tilted(logprobs: Tensor, rewards: Tensor, *, beta: float = 1.0) -> Tensor:
    """The logarithms of the distribution that weighs each outcome by exp(reward / beta): [..., V].

        log pi*(v) = log pi(v) + r(v) / beta - log sum_u pi(u) exp(r(u) / beta)

    logprobs, rewards: [..., V], of all outcomes. Raises ValueError if beta is not positive.
    """
    require_positive(beta=beta)
    return torch.log_softmax(logprobs.double() + rewards.double() / beta, dim=-1)


def sampled_tilt(logprobs: Tensor, rewards: Tensor, response_mask: Tensor, *, beta: float = 1.0) -> Tensor:
    """How far the closed form moves the log-probability of each sampled token, where only the sample was rewarded.

        s_i = r_i / beta - log(1 - p_i + p_i exp(r_i / beta))        p_i = exp(sum_t logprobs_it)
        shift_it = s_i / L_i        on the L_i response tokens

    Samples that were not seen have reward 0. A rare sample moves by nearly r / beta; of a certain one nothing moves,
    since there is nothing to move to. logprobs, response_mask: [N, T]; rewards: [N]. Raises ValueError if beta is not
    positive. Source: T2PAM and its ROSA, which spreads over tokens in a way that is not known; evenly here.
    """
    require_positive(beta=beta)
    chance = torch.where(response_mask, logprobs, 0.0).double().sum(dim=1)
    tilt = rewards.double() / beta
    rest = torch.log1p(-chance.exp().clamp(max=1 - torch.finfo(torch.double).eps))
    shift = tilt - torch.logaddexp(rest, chance + tilt)
    share = shift / response_mask.sum(dim=1).clamp(min=1)
    return torch.where(response_mask, share[:, None], 0.0)


def least_squares_step(
    function: Callable[[Parameters], Tensor],
    parameters: Parameters,
    target: Tensor,
    *,
    damping: float = 1e-3,
    iterations: int = 20,
    tolerance: float = 1e-8,
) -> dict[str, Tensor]:
    """The change of `parameters` whose linear effect on `function` is nearest to `target`, by name.

    function: parameters -> a tensor of target's shape, such as the log-probabilities of sampled tokens; differentiable.
    damping: of the size of the change, and 0 for the smallest change among the nearest. iterations: the most steps of
    conjugate gradients, each with two passes through the function; they end where the residual is below tolerance times
    the first one. Raises ValueError for negative damping or a number of iterations below 1.
    """
    refuse_negative(damping=damping)
    require_positive(iterations=iterations)
    names = list(parameters)
    held = {name: parameters[name].detach() for name in names}
    derived = torch.func.vjp(function, held)
    value, pull = derived[0], derived[1]
    if value.shape != target.shape:
        raise ValueError(f"the function gives {tuple(value.shape)}, expected the target's {tuple(target.shape)}")

    def normal(change: dict[str, Tensor]) -> dict[str, Tensor]:
        pushed = torch.func.jvp(function, (held,), (change,))[1]
        (pulled,) = pull(pushed)
        return {name: pulled[name] + damping * change[name] for name in names}

    (residual,) = pull(target.to(value.dtype).detach())
    step = {name: torch.zeros_like(held[name]) for name in names}
    direction, size = residual, _dot(residual, residual)
    first = size
    for _ in range(iterations):
        if not size > tolerance**2 * first:
            break
        moved = normal(direction)
        along = size / _dot(direction, moved)
        step = {name: step[name] + along * direction[name] for name in names}
        residual = {name: residual[name] - along * moved[name] for name in names}
        before, size = size, _dot(residual, residual)
        direction = {name: residual[name] + size / before * direction[name] for name in names}
    return {name: change.detach() for name, change in step.items()}


def _dot(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([(one[name].double() * other[name].double()).sum() for name in one]).sum()
