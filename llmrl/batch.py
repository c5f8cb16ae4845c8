"""The Batch: trajectories as tensors, under the names of llmrl/fields.py.

token_ids        P0 P1 P2 A0 A1 A2 E0 E1 A3 A4  .  .     P prompt, A trained author, E others, . padding
attention_mask    1  1  1  1  1  1  1  1  1  1  0  0
response_mask     0  0  0  1  1  1  0  0  1  1  0  0     True where the trained author sampled
rewards           0  0  0  0  0  r  0  0  0  R  0  0     turn reward r, trajectory reward R
logprobs[t]       log pi(token t | tokens < t)           0 wherever response_mask is False
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from llmrl.fields import BY_NAME


class Batch:
    """Right-padded tensors of N trajectories; column t of every [N, T] field belongs to token t.

    A field is an attribute, absent if nobody provided it. A batch never changes: `with_` makes another one.
    data: all fields by name. A user's own field, which llmrl/fields.py lacks, is [N, T, ...], [N] or a single number.
    """

    def __init__(self, **tensors: Tensor | None):
        self.data: Mapping[str, Tensor] = {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def __getattr__(self, name: str) -> Tensor:
        data = self.__dict__.get("data", {})
        if name not in data:
            raise AttributeError(f"the batch has no {name}; it has {', '.join(data)}")
        return data[name]

    def __contains__(self, name: str) -> bool:
        return name in self.data

    def __len__(self) -> int:
        """How many trajectories there are."""
        return len(self.data["group_ids"])

    def get(self, name: str) -> Tensor | None:
        """The field, or None where nobody provided it."""
        return self.data.get(name)

    def with_(self, **tensors: Tensor | None) -> Batch:
        """The same with these fields added or replaced."""
        return Batch(**{**self.data, **tensors})

    def without(self, *names: str) -> Batch:
        """The same with these fields left out."""
        return Batch(**{name: tensor for name, tensor in self.data.items() if name not in names})

    @property
    def lengths(self) -> Tensor:
        """Tokens per trajectory, prompt included: [N] int64."""
        return self.attention_mask.sum(dim=1)

    def rows(self, index: Tensor) -> Batch:
        """The trajectories at `index`, trimmed to the longest of them."""
        width = int(self.lengths[index].max()) if len(index) else 1
        return Batch(**{name: _rows(name, tensor, index, width) for name, tensor in self.data.items()})

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in self.data.items()})


def _rows(name: str, tensor: Tensor, index: Tensor, width: int) -> Tensor:
    shape = BY_NAME[name].shape if name in BY_NAME else ("", "N", "N T")[min(tensor.dim(), 2)]
    if not shape.startswith("N"):
        return tensor
    return tensor[index, :width] if shape.startswith("N T") else tensor[index]
