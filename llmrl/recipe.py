"""The recipe schema: what a user may write, with types, ranges and defaults; unknown keys are faults.

One Recipe is one stage of training, fully resolved. `llmrl.recipe_file` reads the YAML and makes it; the keys
`include`, `method` and `stages` say how and are gone by then.
Batch arithmetic is in one unit: prompts_per_step x group_size = trajectories of a step, which are cut into
`updates_per_step` optimizer steps; `tokens_per_micro_batch` is how much goes through the model at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from llmrl.pieces import PieceSpec

Fraction = Annotated[float, Field(gt=0.0, le=1.0)]
PieceSettings = dict[str, dict[str, Any] | None]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def _exactly_one(holder: BaseModel, names: tuple[str, ...]) -> None:
    given = [name for name in names if getattr(holder, name) is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}; got {', '.join(given) or 'none'}")


class Build(Strict):
    """A model made from scratch: a Hugging Face architecture with random weights, one token a character."""

    architecture: str = Field(default="qwen3", description="transformers model_type")
    config: dict[str, Any] = Field(default_factory=dict, description="fields of that architecture's config")
    characters: str = Field(min_length=2, description="the vocabulary, one token a character")


class Gguf(Strict):
    """Weights in GGUF form inside an installed Python package, converted once into the user's cache."""

    package: str
    file: str = "*.gguf"


class Lora(Strict):
    rank: PositiveInt = 16
    alpha: PositiveFloat = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    target_modules: str | list[str] = "all-linear"


class Model(Strict):
    path: str | None = Field(default=None, description="a folder or a hub name")
    build: Build | None = None
    gguf: Gguf | None = None
    lora: Lora | None = None
    chat_template: str | None = Field(default=None, description="a Jinja file that replaces the tokenizer's own")

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        _exactly_one(self, ("path", "build", "gguf"))
        return self


class Rows(Strict):
    """Where rows come from and how they become prompts.

    prompt, answer and completion are each a column name, a template ("{question}\\nAnswer:") or a function
    of the row ("my_module:my_function").
    """

    path: str | None = Field(default=None, description="a .jsonl, .parquet or .csv file")
    dataset: str | None = Field(default=None, description="a name for datasets.load_dataset, or its saved folder")
    task: str | None = Field(default=None, description="a reasoning-gym task")
    subset: str | None = None
    split: str = "train"
    settings: dict[str, Any] = Field(default_factory=dict, description="of the reasoning-gym task")
    size: PositiveInt = Field(default=1000, description="rows to generate from the task")
    seed: NonNegativeInt = Field(default=0, description="of the task's rows")
    limit: PositiveInt | None = Field(default=None, description="use only the first rows")
    shuffle: bool = True
    prompt: str = "question"
    answer: str | None = "answer"
    answer_after: str | None = Field(default=None, description="the answer is what follows this in its column")
    completion: str | None = Field(default=None, description="the demonstration, for learn_from: demonstrations")
    chat: bool = Field(default=False, description="render through the model's chat template")
    system_prompt: str | None = None
    few_shot: NonNegativeInt | list[dict[str, Any]] = Field(
        default=0, description="solved examples put before each prompt: written out, or the first k rows"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Rows:
        _exactly_one(self, ("path", "dataset", "task"))
        if self.system_prompt is not None and not self.chat:
            raise ValueError("system_prompt needs chat: true; in a plain prompt write it into the template")
        return self


class Data(Strict):
    train: Rows
    eval: Rows | None = None


class Rollout(Strict):
    engine: Literal["vllm", "transformers"] = "vllm"
    prompts_per_step: PositiveInt = 32
    group_size: PositiveInt = 8
    max_completion_tokens: PositiveInt = 256
    max_prompt_tokens: PositiveInt = 1024
    temperature: PositiveFloat = 1.0
    top_p: Fraction = 1.0
    top_k: PositiveInt | None = None
    stop: list[str] = Field(default_factory=list, description="strings that end a completion")
    max_refills: NonNegativeInt = Field(default=8, description="rounds of new prompts to replace those `keep` drops")
    max_mismatch: PositiveFloat | None = Field(
        default=None, description="stop the run when the mean |trainer - rollout| log-probability passes this"
    )
    deadline_seconds: PositiveFloat = Field(default=1800.0, description="for the sampling and scoring of one step")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="passed to vllm.EngineArgs")


class Training(Strict):
    strategy: Literal["torch", "deepspeed"] = "torch"
    zero_stage: Literal[0, 1, 2, 3] = 2
    deepspeed: dict[str, Any] = Field(default_factory=dict, description="merged into DeepSpeed's config")
    dtype: Literal["fp32", "bf16"] = "fp32"
    steps: PositiveInt = 100
    learning_rate: PositiveFloat = 1e-6
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: NonNegativeInt = 0
    weight_decay: NonNegativeFloat = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    max_grad_norm: PositiveFloat = 1.0
    updates_per_step: PositiveInt = Field(default=1, description="optimizer steps each pass over a step's batch")
    epochs_per_step: PositiveInt = Field(default=1, description="passes over a step's batch")
    tokens_per_micro_batch: PositiveInt = 8192
    padding_free: bool = Field(default=False, description="run a micro-batch as one packed row instead of padded rows")
    gradient_checkpointing: bool = False
    threads: PositiveInt | None = Field(default=None, description="CPU threads of each rank; default: cores / ranks")


class Evaluation(Strict):
    every: PositiveInt | None = Field(default=None, description="steps between evaluations; none: first and last only")
    limit: PositiveInt | None = None
    samples: NonNegativeInt = Field(default=0, description="samples per prompt for pass@k and maj@k, besides greedy")
    temperature: PositiveFloat = 1.0
    answer_pattern: str | None = Field(
        default=None, description="regular expression whose first group is what maj@k votes on; default: whole text"
    )


class Checkpointing(Strict):
    every: PositiveInt | None = Field(default=None, description="steps between checkpoints; none: at the end only")
    keep_last: PositiveInt = 2
    keep_best: bool = True
    metric: str = Field(default="eval/accuracy", description="what 'best' means; larger is better")


def _named(spec: Any) -> Any:
    """`model: some/name` is short for `model: {path: some/name}`."""
    return {"path": spec} if isinstance(spec, str) else spec


class Recipe(Strict):
    """One stage of training, resolved. The algorithm's pieces stand at the top level, beside the rest."""

    name: str
    run_dir: str
    seed: NonNegativeInt = 0
    summary: str | None = None
    paper: str | None = Field(default=None, description="the method's source")
    model: Annotated[Model, BeforeValidator(_named)]
    data: Data

    learn_from: Literal["rollouts", "demonstrations"] = "rollouts"
    env: PieceSpec = "single_turn"
    rewards: PieceSettings = Field(default_factory=dict)
    keep: PieceSpec = "everything"
    token_rewards: PieceSettings = Field(default_factory=dict)
    advantage: PieceSpec | None = None
    log_ratio: PieceSpec = "token"
    policy_loss: PieceSpec
    regularizers: PieceSettings = Field(default_factory=dict)
    reduce: PieceSpec = "token_mean"

    rollout: Rollout = Rollout()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpointing = Checkpointing()

    @property
    def trajectories_per_step(self) -> int:
        return self.rollout.prompts_per_step * self.rollout.group_size

    @model_validator(mode="after")
    def _batch_arithmetic(self) -> Recipe:
        prompts, group = self.rollout.prompts_per_step, self.rollout.group_size
        updates = self.training.updates_per_step
        if self.trajectories_per_step % updates:
            raise ValueError(
                f"rollout.prompts_per_step {prompts} x rollout.group_size {group} = {prompts * group} "
                f"trajectories, not divisible by training.updates_per_step {updates}"
            )
        longest = self.rollout.max_prompt_tokens + self.rollout.max_completion_tokens
        if self.training.tokens_per_micro_batch < longest:
            raise ValueError(
                f"rollout.max_prompt_tokens {self.rollout.max_prompt_tokens} + rollout.max_completion_tokens "
                f"{self.rollout.max_completion_tokens} = {longest} tokens for the longest trajectory, more than "
                f"training.tokens_per_micro_batch {self.training.tokens_per_micro_batch}"
            )
        if self.training.warmup_steps >= self.training.steps:
            raise ValueError(
                f"training.warmup_steps {self.training.warmup_steps} must be less than training.steps "
                f"{self.training.steps}"
            )
        return self

    @model_validator(mode="after")
    def _source_fits(self) -> Recipe:
        if self.learn_from == "demonstrations" and self.data.train.completion is None:
            raise ValueError("learn_from: demonstrations needs data.train.completion (the text to imitate)")
        if self.learn_from == "rollouts" and not self.rewards:
            raise ValueError(
                "learn_from: rollouts needs at least one reward under rewards, such as math_verifier: {}"
            )
        return self
