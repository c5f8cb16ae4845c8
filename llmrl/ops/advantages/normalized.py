"""Credit by a critic that learns returns in units of their own mean and spread."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.marks import provides
from llmrl.ops.advantages.critic import step_gae
from llmrl.ops.shared.ranges import require_fraction
from llmrl.ops.shared.turns import taken_turns, turn_returns
from llmrl.types import Credit


@provides("return_moments")
def return_moments(rewards: Tensor, response_mask: Tensor, turn_ids: Tensor, *, gamma: float = 1.0) -> Tensor:
    """The mean and the mean square of the discounted returns of all turns of a step: [2] fp64.

        G_k = r_k + gamma G_{k+1}        r_k: the rewards on the turn's tokens

    rewards, response_mask, turn_ids: [N, T]. nan in a step without turns. gamma: that of the advantage. Raises
    ValueError for gamma outside [0, 1].
    """
    require_fraction(gamma=gamma)
    taken = taken_turns(response_mask, turn_ids)
    returns = turn_returns(rewards, response_mask, turn_ids, gamma=gamma)[taken]
    return torch.stack([returns.mean(), returns.square().mean()])


def normalized_step_gae(
    rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    turn_ids: Tensor,
    final_values: Tensor,
    cut_short: Tensor,
    value_scale: Tensor,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    whiten: bool = True,
) -> Credit:
    """The credit of `step_gae` by a critic whose outputs are values in units of the returns' running mean and std.

        V_k = m + s v_k        A by step_gae of V        the critic's target: (A_k + V_k - m) / s

    value_scale: [2], m and s, of the controller of that name; they follow the returns, so a critic's outputs stay near
    0 whatever the rewards' scale is. values v: [N, T]; final_values: [N], in the critic's units where a limit cut the
    trajectory short (cut_short [N]), and 0 elsewhere. Others: see step_gae. Raises ValueError for gamma or lam outside
    [0, 1]. Source: value normalization in MAPPO, arXiv 2103.01955; PopArt, arXiv 1602.07714, which also moves the
    critic's head so that its values stay the same when m and s move.
    """
    mean, std = value_scale.double()
    restored = mean + std * values.double()
    final = torch.where(cut_short, mean + std * final_values.double(), 0.0)
    credit = step_gae(rewards, restored, response_mask, turn_ids, final, gamma=gamma, lam=lam, whiten=whiten)
    assert credit.returns is not None
    return Credit(credit.advantages, ((credit.returns.double() - mean) / std).float())
