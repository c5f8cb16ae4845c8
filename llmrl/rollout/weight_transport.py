"""Weight transports: how the trainer's weights reach a sampler. A recipe names one under `rollout.weight_transport`.

A transport takes the engine's `weights`, an iterator of (Hugging Face name, tensor) pairs that every rank has to
consume whole, the sampler, and the `policy_version` of the weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmrl.rollout.sampler import Sampler

Weights = Iterable[tuple[str, Tensor]]


def by_name(weights: Weights, sampler: Sampler, policy_version: int) -> None:
    """One weight after the other, in this process; no weight is held twice."""
    sampler.load_weights(weights, policy_version)


def by_file(weights: Weights, sampler: Sampler, policy_version: int) -> None:
    """Through a safetensors file, which a sampler in another process could read; all weights are held at once."""
    with tempfile.TemporaryDirectory(prefix="llmrl-weights-") as folder:
        file = Path(folder) / "model.safetensors"
        save_file({name: weight.detach().clone().contiguous().cpu() for name, weight in weights}, file)
        with safe_open(file, framework="pt") as opened:
            sampler.load_weights(((name, opened.get_tensor(name)) for name in opened.keys()), policy_version)  # noqa: SIM118
