"""The outputs of a twin critic: two estimates of Q and two of V, or more pairs of them.

outputs_after[t]  the first half of H, read after token t: Q of the turn that ends there
outputs[t]        the second half, read before token t: V of the state in which a turn begins there
"""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.recursion import next_on_mask


def twin_heads(outputs: Tensor, outputs_after: Tensor) -> tuple[Tensor, Tensor]:
    """Q after each token and V before it: [N, T, H / 2] each; raises ValueError for an odd number of outputs H."""
    count = outputs.shape[-1]
    if count % 2:
        raise ValueError(f"a twin critic has as many outputs for Q as for V, got {count}; set critic.outputs: 4")
    return outputs_after[..., : count // 2].float(), outputs[..., count // 2 :].float()


def at_next(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [N, T, J] at the first column after t where `mask` is True, 0 where none follows."""
    return torch.stack([next_on_mask(one, mask) for one in values.unbind(dim=-1)], dim=-1)


def here_or_next(values: Tensor, mask: Tensor) -> Tensor:
    """`values` [N, T, J] at the first column from t on where `mask` is True, 0 where none follows."""
    return torch.where(mask.unsqueeze(-1), values, at_next(values, mask))
