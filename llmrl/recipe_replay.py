"""The recipe's schema of replays: trajectories that are learned from again."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from llmrl.recipe_rows import Strict

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Prioritised(Strict):
    """Draw what the critic was wrong about more often: the chance is (|error| + floor) ^ alpha, up to a factor."""

    alpha: NonNegativeFloat = Field(default=0.6, description="0 draws evenly")
    beta: Share = Field(default=0.4, description="share of the bias that weights take away; 1: all of it")
    floor: PositiveFloat = Field(default=1e-3, description="added to each error")


class Replayed(Strict):
    """The trajectories of earlier steps, kept on disk below the run's folder, in the checkpoint by reference."""

    capacity: PositiveInt = Field(default=100_000, description="trajectories; the oldest go first")
    by: Literal["trajectories", "turns"] = Field(default="trajectories", description="the units that are drawn")
    batch: PositiveInt = Field(default=32, description="units of one update, with repetition")
    fresh: Share = Field(default=0.5, description="the share of them that this step has just sampled")
    prioritised: Prioritised | None = Field(default=None, description="draw by error; none: evenly")
