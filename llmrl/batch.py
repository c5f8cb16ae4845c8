"""The Batch: trajectories as tensors, under the names of llmrl/fields.py.

token_ids        P0 P1 P2 A0 A1 A2 E0 E1 A3 A4  .  .     P prompt, A trained author, E others, . padding
attention_mask    1  1  1  1  1  1  1  1  1  1  0  0
response_mask     0  0  0  1  1  1  0  0  1  1  0  0     True where the trained author sampled
rewards           0  0  0  0  0  r  0  0  0  R  0  0     turn reward r, trajectory reward R
logprobs[t]       log pi(token t | tokens < t)           0 wherever response_mask is False
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.fields import BY_NAME


class Batch:
    """Right-padded tensors of N rows; column t of every [N, T] field belongs to token t.

    A row is a trajectory, or a part of one whose author read several contexts; `joined` puts the parts together.

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
        """How many rows there are."""
        return len(self.data["group_ids"])

    @property
    def units(self) -> list[Tensor]:
        """The rows of each trajectory, in order: one, unless its author read several contexts."""
        ids = self.get("trajectory_ids")
        if ids is None or len(ids.unique()) == len(self):
            return list(torch.arange(len(self))[:, None])
        return [ids.eq(one).nonzero()[:, 0] for one in dict.fromkeys(ids.tolist())]

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

    def joined(self) -> Joined:
        """The batch with one row for each trajectory."""
        return Joined.of(self)

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(**{name: tensor.to(device) for name, tensor in self.data.items()})


@dataclass(frozen=True)
class Joined:
    """A batch whose rows are whole trajectories: the rows of each one after another, without padding between them.

    Advantages and means are those of whole trajectories, while a model reads each part after the context that its
    author read. places: where each of the E trajectories' tokens stand in the flat rows, -1 for padding: [E, T'];
    None where every trajectory is one row, so that nothing moves.
    """

    batch: Batch
    places: Tensor | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, batch: Batch) -> Joined:
        shape = (batch.token_ids.shape[0], batch.token_ids.shape[1])
        units = batch.units
        if len(units) == len(batch):
            return cls(batch, None, shape)
        lengths, width = batch.lengths.tolist(), shape[1]
        tokens = [torch.cat([torch.arange(lengths[row]) + row * width for row in unit.tolist()]) for unit in units]
        places = torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True, padding_value=-1)
        made = cls(batch, places, shape)
        last = torch.stack([unit[-1] for unit in units])
        fields = {name: made._field(name, tensor, last) for name, tensor in batch.data.items()}
        return cls(Batch(**fields), places, shape)

    def there(self, tensor: Tensor, fill: float = 0.0) -> Tensor:
        """A tensor of the batch's rows as one of the trajectories': [N, T, ...] to [E, T', ...]."""
        if self.places is None:
            return tensor
        found = tensor.flatten(0, 1)[self.places.clamp(min=0)]
        found[self.places < 0] = fill
        return found

    def back(self, tensor: Tensor, fill: float = 0.0) -> Tensor:
        """A tensor of the trajectories as one of the batch's rows: [E, T', ...] to [N, T, ...]."""
        if self.places is None:
            return tensor
        known, of_token = self.places >= 0, tensor.shape[2:]
        flat = tensor.new_full((self.shape[0] * self.shape[1], *of_token), fill)
        flat[self.places[known]] = tensor.expand(*self.places.shape, *of_token)[known]
        return flat.reshape(*self.shape, *of_token)

    def _field(self, name: str, tensor: Tensor, last: Tensor) -> Tensor:
        shape = _shape(name, tensor)
        if shape.startswith("N T"):
            return self.there(tensor, BY_NAME[name].fill if name in BY_NAME else 0.0)
        return tensor[last] if shape.startswith("N") else tensor


def _shape(name: str, tensor: Tensor) -> str:
    """A field's shape as llmrl/fields.py writes it."""
    return BY_NAME[name].shape if name in BY_NAME else ("", "N", "N T")[min(tensor.dim(), 2)]


def _rows(name: str, tensor: Tensor, index: Tensor, width: int) -> Tensor:
    shape = _shape(name, tensor)
    if not shape.startswith("N"):
        return tensor
    return tensor[index, :width] if shape.startswith("N T") else tensor[index]
