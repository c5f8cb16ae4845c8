"""A gate: how much each head of a reward model counts for a prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

FILE = "gate.safetensors"


class Gate(nn.Module):
    """weights = scale * softmax(MLP(h) / temperature) of a prompt's last hidden state h, one for each head.

    layers: sizes of the hidden layers, each with a ReLU. The scale is trained, and starts at 1. Source: ArmoRM, arXiv
    2406.12845.
    """

    def __init__(self, hidden_size: int, heads: int, *, layers: Sequence[int], temperature: float, seed: int = 0):
        super().__init__()
        sizes = [hidden_size, *layers, heads]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.scale = nn.Parameter(torch.ones(()))
        self.temperature = temperature

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., d] of any floating dtype to [..., K] fp32."""
        found = hidden.float()
        for place, layer in enumerate(self.layers):
            found = functional.relu(found) if place else found
            found = functional.linear(found, layer.weight.float(), layer.bias.float())  # pyright: ignore
        return self.scale.float() * torch.softmax(found / self.temperature, dim=-1)


def save_gate(folder: Path, weights: Mapping[str, Tensor], temperature: float) -> None:
    """Write a gate beside the reward model whose heads it weighs."""
    tensors = {name: weight.float().contiguous().cpu() for name, weight in weights.items()}
    save_file(tensors, folder / FILE, metadata={"gate": json.dumps({"temperature": temperature})})


def load_gate(folder: Path) -> Gate | None:
    """The gate of a reward model's folder; None if it has none."""
    if not (folder / FILE).is_file():
        return None
    with safe_open(folder / FILE, "pt") as file:
        settings = json.loads(file.metadata()["gate"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    sizes = [weights[f"layers.{n}.weight"].shape for n in range(sum(name.endswith(".weight") for name in weights))]
    gate = Gate(sizes[0][1], sizes[-1][0], layers=[size[0] for size in sizes[:-1]], **settings)
    gate.load_state_dict(weights)
    return gate
