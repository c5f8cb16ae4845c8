"""The recipe's schema of a critic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from llmrl.recipe_replay import Replayed
from llmrl.recipe_rollout import Fraction
from llmrl.recipe_rows import Strict
from llmrl.templates import Template


class Critic(Strict):
    """The value network of an advantage that reads `values`; nothing here is used without one."""

    backbone: Literal["own", "shared"] = Field(
        default="own", description="a model of its own, or the policy's hidden states"
    )
    model: str | None = Field(
        default=None,
        description="own backbone: a folder or a hub name to start from, of a language model, of a critic that a stage "
        "left, or of a reward model; default: the policy's start",
    )
    context: Template | None = Field(
        default=None,
        description="own backbone: text that the critic reads and the policy does not: a template of the row's columns "
        "and {hidden}, what the environment hides; it stands before the prompt, or about {prompt} where that is named",
    )
    others: Template | None = Field(
        default=None,
        description="own backbone: how the critic reads what the episode's other authors were told and wrote before "
        "each turn of its role, a template of {author} and {text}; default: it does not",
    )
    outputs: PositiveInt = Field(default=1, description="numbers per token: heads, or the bins of a distribution")
    detach: bool = Field(default=False, description="shared backbone: keep the value gradient out of it")
    head_only: bool = Field(
        default=False, description="own backbone: train the head alone, on the hidden states of a frozen model"
    )
    learning_rate: PositiveFloat | None = Field(default=None, description="own backbone; default: training's")
    weight: PositiveFloat = Field(default=1.0, description="shared backbone: of the value loss beside the policy's")
    warmup_steps: NonNegativeInt = Field(default=0, description="first steps, in which only the critic is trained")
    frozen: bool = Field(default=False, description="not trained any more after its warm-up")
    schedule: Literal["constant", "linear", "cosine"] | None = Field(
        default=None, description="own backbone: of its learning rate; default: training's"
    )
    updates_per_step: PositiveInt | None = Field(
        default=None, description="own backbone: optimizer steps each pass; default: training's"
    )
    epochs_per_step: PositiveInt | None = Field(
        default=None, description="own backbone: passes over a step's batch; default: training's"
    )
    replay: Replayed | None = Field(
        default=None,
        description="own backbone: learn from trajectories of earlier steps too, before credit is given, in "
        "updates_per_step x epochs_per_step updates; none: from the step's own batch, beside the policy",
    )
    target_mix: Fraction = Field(
        default=0.005,
        description="own backbone: where a piece reads target_outputs, the critic's share in each move of the slow "
        "copy that gives them; it moves after every update of the critic",
    )

    @property
    def reads_more(self) -> bool:
        """Whether the critic reads tokens that the policy does not."""
        return self.context is not None or self.others is not None
