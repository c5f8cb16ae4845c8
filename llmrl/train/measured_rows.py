"""A reference's log-probabilities of rows, measured before the first step and found again by the rows' own tokens."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llmrl.batch import Batch
from llmrl.errors import RecipeError, RunStopped
from llmrl.run_folder.atomic import partial_of, publish
from llmrl.train.micro_batches import Outputs

KEY_BYTES = 16
Origin = Mapping[str, str]
"""What a file's numbers were made with, by name: weights, tokenizer, limits, dtype and the like."""


class MeasuredRows:
    """A Reference that holds no model: a batch's log-probabilities are those of its rows.

    A row's key is a digest of its tokens and of which of them are the response's. made_with: see Origin; a file that
    says otherwise is refused.
    """

    def __init__(self, made_with: Origin):
        self.made_with = dict(made_with)
        self._rows: dict[bytes, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def lacks(self, batch: Batch) -> bool:
        """Whether a row of the batch has not been measured."""
        return any(key not in self._rows for key in _keys(batch))

    def add(self, batch: Batch, logprobs: Tensor) -> None:
        """Keep the log-probabilities [N, T] of those rows that are new."""
        for row, key in enumerate(_keys(batch)):
            if key not in self._rows:
                self._rows[key] = logprobs[row][batch.response_mask[row]].float().numpy().copy()

    def measure(self, batch: Batch, *names: str) -> Outputs:
        """The log-probabilities of the rows: [N, T]; raises RunStopped for a row that has not been measured, and for
        any other output."""
        if other := [name for name in names if name != "logprobs"]:
            raise RunStopped(
                f"reference.precompute: keeps log-probabilities alone, but a piece reads {', '.join(other)} of the "
                f"reference; leave reference.precompute out"
            )
        found = torch.zeros(batch.token_ids.shape)
        for row, key in enumerate(_keys(batch)):
            if key not in self._rows:
                tokens = batch.token_ids[row, : int(batch.lengths[row])].tolist()
                raise RunStopped(
                    f"reference.precompute: the source gave a row that was not there before the first step, of "
                    f"{len(tokens)} tokens: {tokens[:8]}...; leave reference.precompute out for sources that make rows"
                )
            found[row, batch.response_mask[row]] = torch.from_numpy(self._rows[key])
        return {"logprobs": found}

    def save(self, file: Path) -> None:
        """Publish all rows as one safetensors file, which is whole or not there."""
        keys = np.frombuffer(b"".join(self._rows), dtype=np.uint8).reshape(-1, KEY_BYTES)
        lengths = np.array([len(row) for row in self._rows.values()], dtype=np.int64)
        flat = np.concatenate([np.zeros(0, np.float32), *self._rows.values()])
        arrays = {"keys": keys.copy(), "lengths": lengths, "logprobs": flat}
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        file.parent.mkdir(parents=True, exist_ok=True)
        made_with = {"made_with": json.dumps(self.made_with), "digest": _digest(keys, lengths, flat)}
        save_file(tensors, partial_of(file), made_with)
        publish(file)

    def load(self, file: Path) -> None:
        """Add the rows of a file; raises RecipeError if it is damaged, or made with another reference or other rows."""
        try:
            with safe_open(file, "pt") as found:
                noted = found.metadata() or {}
                keys, lengths, flat = (found.get_tensor(name).numpy() for name in ("keys", "lengths", "logprobs"))
            made_with, digest = json.loads(noted["made_with"]), noted["digest"]
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise RecipeError(f"{file}: is no file of a reference's log-probabilities ({error}); {_DELETE}") from None
        other = [name for name in {**made_with, **self.made_with} if made_with.get(name) != self.made_with.get(name)]
        if other:
            raise RecipeError(
                f"{file}: the log-probabilities in it are of another {' and '.join(other)} than this run's; {_DELETE}"
            )
        if digest != _digest(keys, lengths, flat):
            raise RecipeError(f"{file}: is damaged: its contents are not those that were written; {_DELETE}")
        rows = np.split(flat, np.cumsum(lengths)[:-1])
        self._rows |= {key.tobytes(): row for key, row in zip(keys, rows, strict=True)} if len(keys) else {}


_DELETE = "delete it, and the rows are measured anew"


def _keys(batch: Batch) -> list[bytes]:
    lengths = batch.lengths.tolist()
    found = []
    for ids, mask, length in zip(batch.token_ids, batch.response_mask, lengths, strict=True):
        row = ids[:length].to(torch.int64).numpy().tobytes() + mask[:length].numpy().tobytes()
        found.append(hashlib.blake2b(row, digest_size=KEY_BYTES).digest())
    return found


def _digest(*arrays: np.ndarray) -> str:
    found = hashlib.blake2b(digest_size=16)
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
