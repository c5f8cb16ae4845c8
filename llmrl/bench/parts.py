"""The parts of a run as `llmrl train` makes them from a recipe, for workers that measure one of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmrl.engines.ranks import Ranks
from llmrl.recipe import Recipe
from llmrl.recipe_file import load_plan
from llmrl.rollout.sampler import Sampler
from llmrl.run.models import Origin, make_roles, prepare_origins
from llmrl.run.profile import wait_for_device
from llmrl.run.run import resolve_plan
from llmrl.run.sampling import Samplers
from llmrl.train.roles import Role
from llmrl.types import ACTOR


@dataclass(frozen=True)
class Parts:
    """The only stage of a recipe, its origin, and its actor with everything that is trained."""

    recipe: Recipe
    origin: Origin
    actor: Role

    @classmethod
    def of(cls, recipe: Path, *overrides: str) -> Parts:
        """The parts of the recipe's file with overrides."""
        plan = load_plan(recipe, list(overrides))
        [(name, stage)] = plan.stages.items()
        ranks = Ranks(deadline_seconds=stage.rollout.deadline_seconds)
        origins = prepare_origins(stage, plan.run_dir, ranks)
        roles = make_roles(stage, resolve_plan(plan)[name], origins, ranks, device())
        return cls(stage, origins[ACTOR], roles[ACTOR])

    def sampler(self) -> Sampler:
        """The actor's sampler, without its weights."""
        samplers = Samplers(max_concurrent=self.recipe.trajectories_per_step)
        return samplers.get(self.recipe, self.origin, device())


def device() -> torch.device:
    """The device that is measured: the GPU, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[..., Any], *arguments: Any) -> float:
    """The time of one call, until the device has done its work."""
    wait_for_device()
    started = time.monotonic()
    work(*arguments)
    wait_for_device()
    return time.monotonic() - started
