"""The recipe's schema of training: how long, by which engine and optimizer, and in which parts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from llmrl.recipe_rollout import Fraction
from llmrl.recipe_rows import Strict

STEPS = 100
MICRO_BATCH_TOKENS = {"cpu": 2048, "cuda": 8192}
"""With more, a CPU needs more memory and no less time; a GPU has its kernels filled."""


class Training(Strict):
    """How the weights are updated: by AdamW, on one process or on several."""

    strategy: str = Field(
        default="torch",
        description="the engine: torch (one process), deepspeed (ZeRO), accelerate (DDP or FSDP2), or module:function",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(
        default=2, description="deepspeed: divides among processes 1 the optimizer, 2 gradients too, 3 weights too"
    )
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="merged into DeepSpeed's config")
    accelerate: dict[str, Any] = Field(
        default_factory=dict, description="fsdp: true for FSDP2 in place of DDP, and settings of its plugin"
    )
    dtype: Literal["fp32", "bf16"] = Field(default="fp32", description="of the forward pass and of the sampler")
    steps: NonNegativeInt | None = Field(
        default=None,
        description="training steps: sample, score, update; 0: the model is measured and handed on; default: 100, or "
        "as many as epochs make",
    )
    epochs: PositiveInt | None = Field(
        default=None,
        description="in place of steps: passes over data.train, each in an order of its own; the last step of a pass "
        "has the rows that are left",
    )
    learning_rate: PositiveFloat = Field(default=1e-6, description="at its highest")
    schedule: Literal["constant", "linear", "cosine"] = Field(default="constant", description="after the warmup")
    warmup_steps: NonNegativeInt = Field(default=0, description="steps over which the learning rate rises from 0")
    weight_decay: NonNegativeFloat = Field(default=0.0, description="of matrices; never of biases and norms")
    betas: tuple[Fraction, Fraction] = Field(default=(0.9, 0.95), description="Adam's two decay rates")
    max_grad_norm: PositiveFloat = Field(default=1.0, description="longer gradients are scaled down to this norm")
    updates_per_step: PositiveInt = Field(default=1, description="optimizer steps each pass over a step's batch")
    epochs_per_step: PositiveInt = Field(default=1, description="passes over a step's batch")
    tokens_per_micro_batch: PositiveInt | None = Field(
        default=None,
        description="tokens through the model at once: memory, never the result; default: 2048 on a CPU, 8192 on a "
        "GPU, or one trajectory if that is longer",
    )
    padding_free: bool | None = Field(
        default=None,
        description="run a micro-batch as one row without padding, in which shared beginnings stand once; default: "
        "where its rows would not see each other; true: refused elsewhere",
    )
    gradient_checkpointing: bool = Field(default=False, description="less memory for a second forward pass")
    threads: PositiveInt | None = Field(
        default=None, description="CPU threads of each rank; default: cores / ranks, too many where runs share cores"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        named = [name for name in ("steps", "epochs") if given.get(name) is not None]
        if len(named) > 1:
            raise ValueError(
                f"steps {given['steps']!r} and epochs {given['epochs']!r} exclude each other: set one of them to null"
            )
        return given if named else {**given, "steps": STEPS}

    def refuse_endless_warmup(self) -> None:
        """Raises ValueError if the warmup takes all steps, where their number is known."""
        if self.steps and self.warmup_steps >= self.steps:
            made = f", which {self.epochs} epochs make" if self.epochs else ""
            raise ValueError(
                f"training.warmup_steps {self.warmup_steps} must be less than training.steps {self.steps}{made}"
            )

    @property
    def known_steps(self) -> int:
        """The number of steps; raises ValueError where epochs are given, of rows that nobody has counted."""
        if self.steps is None:
            raise ValueError("training.epochs makes steps only with the number of rows; see llmrl.recipe.with_steps")
        return self.steps

    def micro_batch_tokens(self, device: str) -> int:
        """tokens_per_micro_batch, or the default on a device of this type."""
        return self.tokens_per_micro_batch or MICRO_BATCH_TOKENS.get(device, MICRO_BATCH_TOKENS["cuda"])
