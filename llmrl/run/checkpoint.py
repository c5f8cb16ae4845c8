"""Checkpoints: folders that are published only when they are whole.

checkpoints/rl-000040/
    state.pt          step, stage, stream, random states, best metric      (rank 0)
    actor.pt ...      weights, optimizer, schedule of each learner, in its engine's own form
    model/            the same weights as a Hugging Face folder
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, RunStopped
from llmrl.run_folder import layout
from llmrl.run_folder.atomic import flush, partial_of, publish, remove, sweep, writing
from llmrl.run_folder.layout import StepName

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
        final = self.folder / str(StepName(stage, step))
        partial = partial_of(final)
        fault = ""
        if self._ranks.is_first:
            shutil.rmtree(partial, ignore_errors=True)
        try:
            with writing(f"checkpoint {final.name}", self.folder.parent):
                if self._ranks.is_first:
                    partial.mkdir(parents=True)
                self._ranks.barrier("starting a checkpoint")
                write(partial)
                if self._ranks.is_first:
                    with (partial / "state.pt").open("wb") as file:
                        torch.save(state | {"stage": stage, "step": step}, file)
                flush(partial)
        except RunStopped as stopped:
            fault = str(stopped)
        faults = [f for f in self._ranks.gather(fault, "writing a checkpoint") if f]
        if faults:
            if self._ranks.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            raise RunStopped(faults[0])
        if self._ranks.is_first:
            publish(final)
        self._ranks.barrier("finishing a checkpoint")
        return final

    def latest(self, stage: str) -> Path | None:
        """This stage's checkpoint of the highest step."""
        return max(self._of(stage), key=_step, default=None)

    def newest(self, stage: str, count: int) -> list[Path]:
        """This stage's checkpoints of the highest steps."""
        return sorted(self._of(stage), key=_step)[-count:]

    def prune(self, stage: str, *, keep_last: int, best: int | None) -> None:
        """Delete this stage's checkpoints but the newest `keep_last` and the best one's step."""
        if not self._ranks.is_first:
            return
        for folder in sorted(self._of(stage), key=_step)[:-keep_last]:
            if _step(folder) != best:
                remove(folder)

    def sweep(self) -> None:
        """Delete half-written checkpoints of a killed run."""
        if self._ranks.is_first:
            sweep(self.folder)

    def _of(self, stage: str) -> list[Path]:
        named = [(layout.parse(folder.name), folder) for folder in self.folder.glob("*")]
        return [folder for name, folder in named if name is not None and name.stage == stage]


def read_state(checkpoint: Path) -> State:
    """The state that `save` was given, with stage and step."""
    return torch.load(checkpoint / "state.pt", map_location="cpu", weights_only=False)


@contextmanager
def reading(checkpoint: Path) -> Iterator[None]:
    """Turns a failure to read `checkpoint` into a RecipeError that says what to do."""
    try:
        yield
    except (RecipeError, RunStopped):
        raise
    except Exception as error:  # damaged files raise anything
        raise RecipeError(
            f"{checkpoint}: cannot be resumed from: {type(error).__name__}: {error}; "
            f"delete it to resume from the one before"
        ) from error


def random_state() -> State:
    """The state of every random stream that training, or a user's function within it, draws from."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: State) -> None:
    """Restore every random stream from `random_state`."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])


def _step(folder: Path) -> int:
    name = layout.parse(folder.name)
    return name.step if name else -1
