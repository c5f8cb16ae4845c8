"""The bonus for curiosity, which both a reward and an advantage can be given."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.ranges import refuse_negative, require_positive


def capped_bonus(
    worth: Tensor, curiosity: Tensor, progress: Tensor, *, kappa: float, alpha: float, omega: float, stairs: int
) -> Tensor:
    """A bonus that fades over the stage and never exceeds a share of what it is added to.

        bonus = omega_p min(|worth| / kappa, alpha curiosity)
        omega_p = omega (1 - floor(stairs progress) / (stairs - 1))        a constant omega where stairs = 1

    So the first of `stairs` equal parts of the stage has omega, the last has 0. worth, curiosity: of one shape;
    progress: 0-dim, in [0, 1). Raises ValueError for kappa or stairs not above 0, alpha or omega below 0.
    """
    require_positive(kappa=kappa, stairs=stairs)
    refuse_negative(alpha=alpha, omega=omega)
    stair = (progress * stairs).floor().clamp(0, stairs - 1)
    strength = omega * (1 - stair / max(stairs - 1, 1))
    return strength * torch.minimum(worth.abs() / kappa, alpha * curiosity)
