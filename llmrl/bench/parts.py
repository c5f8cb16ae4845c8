"""The parts of a run as `llmrl train` makes them from a recipe, for workers that measure one of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from llmrl.engines.ranks import Ranks
from llmrl.recipe import Recipe
from llmrl.recipe_file import load_plan
from llmrl.rollout.sampler import Sampler
from llmrl.run.models import Origin, make_roles, prepare_origins
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
        roles = make_roles(stage, resolve_plan(plan)[name], origins, ranks, torch.device("cpu"))
        return cls(stage, origins[ACTOR], roles[ACTOR])

    def sampler(self) -> Sampler:
        """The actor's sampler, without its weights."""
        samplers = Samplers(max_concurrent=self.recipe.trajectories_per_step)
        return samplers.get(self.recipe, self.origin, torch.device("cpu"))
