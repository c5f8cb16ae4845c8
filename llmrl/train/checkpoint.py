"""Checkpoints: written beside their final place, flushed, then renamed; a folder that exists is whole.

checkpoints/rl-000040/
    state.pt          step, stage, streams, random states, best metric     (rank 0)
    engine.pt ...     weights, optimizer, schedule, in the engine's own form
    model/            the same weights as a Hugging Face folder
"""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from llmrl.errors import RecipeError, RunStopped
from llmrl.train.ranks import Ranks

State = dict[str, Any]


class Checkpoints:
    """The checkpoint folder of a run."""

    def __init__(self, folder: Path, ranks: Ranks):
        self.folder = folder
        self._ranks = ranks

    def save(self, stage: str, step: int, state: State, write: Callable[[Path], None]) -> Path:
        """Write one checkpoint; `write` fills the folder and is called on every rank.

        Raises RunStopped if the disk is full; the checkpoints written before stay as they are.
        """
        final = self.folder / f"{stage}-{step:06d}"
        partial = self.folder / f".{final.name}.partial"
        fault = ""
        if self._ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        self._ranks.barrier("starting a checkpoint")
        try:
            write(partial)
            if self._ranks.is_first:
                torch.save(state | {"stage": stage, "step": step}, partial / "state.pt")
            _flush(partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            fault = _disk_fault(error, final)
        faults = [f for f in self._ranks.gather(fault, "writing a checkpoint") if f]
        if faults:
            if self._ranks.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            raise RunStopped(faults[0])
        if self._ranks.is_first:
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _flush_folder(self.folder)
        self._ranks.barrier("finishing a checkpoint")
        return final

    def latest(self) -> Path | None:
        """The newest whole checkpoint, by time written."""
        found = [f for f in self.folder.glob("*-[0-9]*") if not f.name.startswith(".") and (f / "state.pt").is_file()]
        return max(found, key=lambda f: (f / "state.pt").stat().st_mtime_ns, default=None)

    def prune(self, stage: str, *, keep_last: int, best: int | None) -> None:
        """Delete this stage's checkpoints but the newest `keep_last` and the best one's step."""
        if not self._ranks.is_first:
            return
        steps = sorted(int(f.name[len(stage) + 1 :]) for f in self.folder.glob(f"{stage}-*") if _is_step(f, stage))
        for step in steps[:-keep_last]:
            if step != best:
                shutil.rmtree(self.folder / f"{stage}-{step:06d}")


def read_state(checkpoint: Path) -> State:
    """What `save` was given, with stage and step; raises RecipeError if it cannot be read."""
    try:
        return torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=False)
    except Exception as error:
        raise RecipeError(f"{checkpoint}: cannot be resumed from: {type(error).__name__}: {error}") from None


def random_state() -> State:
    """The state of every random stream that training draws from."""
    return {
        "python": random.getstate(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: State) -> None:
    """Put every random stream back to where `random_state` found it."""
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _is_step(folder: Path, stage: str) -> bool:
    return re.fullmatch(re.escape(stage) + r"-\d+", folder.name) is not None


def _disk_fault(error: Exception, final: Path) -> str:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    what = "the disk is full" if full else f"{type(error).__name__}: {error}"
    return f"checkpoint {final.name} could not be written ({what}); earlier checkpoints are kept"


def _flush(folder: Path) -> None:
    """Make file contents durable before the rename makes them visible."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    _flush_folder(folder)


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
