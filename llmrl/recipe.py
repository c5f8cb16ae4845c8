"""The recipe schema: every key with its type, range and default; unknown keys are faults.

One Recipe is one stage of training, fully resolved. `llmrl.recipe_file` makes it from YAML files, in which the keys
`include`, `method` and `stages` are resolved. prompts_per_step x group_size = trajectories of a step, which are cut
into `updates_per_step` optimizer steps; `tokens_per_micro_batch` limits the tokens that go through the model at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    create_model,
    model_validator,
)

from llmrl.axes import AXES, BY_KEY, ONE, Axis
from llmrl.errors import RecipeError
from llmrl.pieces import PieceSpec
from llmrl.recipe_critic import Critic
from llmrl.recipe_moves import Move, most_texts
from llmrl.recipe_rollout import MAX_PAST, Fraction, Guide, Rollout, Search
from llmrl.recipe_rows import Data, Strict, exactly_one
from llmrl.recipe_training import Training
from llmrl.recipe_turns import Turns
from llmrl.types import ACTOR, PAST

PieceSettings = dict[str, dict[str, Any] | None]


class Build(Strict):
    """A model made from scratch: a Hugging Face architecture with random weights, one token a character."""

    architecture: str = Field(default="qwen3", description="transformers model_type")
    config: dict[str, Any] = Field(default_factory=dict, description="fields of that architecture's config")
    characters: str = Field(min_length=2, description="the vocabulary, one token a character")


class Gguf(Strict):
    """Weights in GGUF form inside an installed Python package, converted once into the user's cache."""

    package: str = Field(description="the installed package that brings the file")
    file: str = Field(default="*.gguf", description="which of its files, if it has several")


class Lora(Strict):
    """Train low-rank adapters instead of all weights; they are merged when the model is exported."""

    rank: PositiveInt = Field(default=16, description="of the two factors")
    alpha: PositiveFloat = Field(default=32.0, description="the adapter is scaled by alpha / rank")
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.0, description="before the adapter, in the passes that are trained alone"
    )
    target_modules: str | list[str] = Field(
        default="all-linear", description="names of the layers to adapt, or a pattern of their whole paths"
    )


class Vector(Strict):
    """The difference of two models' weights: plus less minus."""

    plus: str = Field(
        description="a folder or a hub name; the folder of a LoRA adapter stands for its base with the adapter"
    )
    minus: str | None = Field(default=None, description="the same; default: the base of the merge")
    weight: FiniteFloat = Field(default=1.0, description="the vector's factor in the sum; it may be negative")


class Merge(Strict):
    """A model by arithmetic on weights: the base's, plus a weighted sum of differences of other models' weights."""

    base: str = Field(description="a folder, an adapter's too, or a hub name; its tokenizer and config are taken")
    vectors: dict[str, Vector] = Field(min_length=1, description="the differences, each under a name of its own")

    @property
    def parents(self) -> dict[str, str]:
        """The paths of all models of the sum, by their keys in a recipe; the base is the first."""
        named = {"model.merge.base": self.base}
        for name, vector in self.vectors.items():
            named[f"model.merge.vectors.{name}.plus"] = vector.plus
            if vector.minus is not None:
                named[f"model.merge.vectors.{name}.minus"] = vector.minus
        return named


ORIGINS = ("path", "build", "gguf", "merge", "role")
"""The keys of a model of which one says where its weights come from."""


class GateSettings(Strict):
    """A network that weighs the heads of a trained reward model by the prompt; it alone is trained."""

    layers: list[PositiveInt] = Field(default=[1024, 1024, 1024], description="sizes of its hidden layers")
    temperature: PositiveFloat = Field(default=10.0, description="of the softmax over heads")


class Model(Strict):
    """Where the weights come from: exactly one of path, build, gguf, merge and role. A plain string is a path.

    A later stage starts from the weights of the one before and needs no model of its own.
    """

    path: str | None = Field(default=None, description="a folder or a hub name")
    build: Build | None = Field(default=None, description="a new model with random weights")
    gguf: Gguf | None = Field(default=None, description="weights from a GGUF file")
    merge: Merge | None = Field(default=None, description="a weighted sum of other models' weights")
    role: str | None = Field(default=None, description="the weights of that role: shared, or adapted with lora")
    lora: Lora | None = Field(default=None, description="train adapters instead of all weights")
    heads: PositiveInt = Field(default=1, description="of a reward model: the numbers that it gives a completion")
    gate: GateSettings | None = Field(
        default=None, description="of a reward model of several heads: train how much each head counts for a prompt"
    )
    head_only: bool = Field(
        default=False, description="of a reward model: train its head alone, on the frozen hidden states (a probe)"
    )
    chat_template: str | None = Field(
        default=None, description="a Jinja file, such as one beside the recipe, that replaces the tokenizer's own"
    )
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="values that the chat template reads, such as enable_thinking: false"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Model:
        exactly_one(self, ORIGINS)
        return self

    @property
    def paths(self) -> list[str]:
        """The folders and hub names that the weights come from."""
        return [*self.merge.parents.values()] if self.merge else [self.path] if self.path else []


class Reference(Strict):
    """The model that log ratios are taken to, where a piece reads its log-probabilities.

    With model.lora and without `model`, it is the policy's base: as it is, or with an adapter of its own that moves.
    A stage starts from the merged model of the one before, so an earlier stage's adapter is part of this base.
    """

    model: str | None = Field(default=None, description="a folder or a hub name; default: the policy's start")
    every: PositiveInt | None = Field(
        default=None, description="steps between its moves towards the policy; none: it stays as it is"
    )
    mix: Fraction = Field(default=1.0, description="the policy's share in a move; 1: it becomes the policy itself")
    momentum: NonNegativeFloat = Field(
        default=0.0,
        description="go beyond the last move by this share of it: (1 + momentum) x newest - momentum x one before",
    )
    precompute: bool = Field(
        default=False,
        description="measure every row before the first step, and hold no reference while training; for sources that "
        "sample nothing",
    )


class History(Strict):
    """Earlier policies of the stage, kept where a piece reads their log-probabilities or they write completions.

    Until enough are there, the stage's first policy stands for those that are missing.
    """

    every: PositiveInt = Field(default=1, description="steps after which the policy is kept as the newest of them")
    kept: Annotated[int, Field(ge=1, le=MAX_PAST)] = Field(default=1, description="how many are kept; the oldest goes")


class Evaluation(Strict):
    """When and how the held-out prompts are answered: greedily, and by samples too."""

    every: PositiveInt | None = Field(default=None, description="steps between evaluations; none: first and last only")
    limit: PositiveInt | None = Field(default=None, description="use only the first held-out prompts")
    beams: PositiveInt = Field(
        default=1, description="of a beam search in place of the greedy answer, with rollout.engine: transformers"
    )
    length_exponent: NonNegativeFloat = Field(
        default=0.0, description="beams compare logprob / length ^ exponent: 0 sums, 1 means of log-probabilities"
    )
    guide: Guide | None = Field(
        default=None, description="a model that changes the distribution of each token; rollout.guide is of training"
    )
    search: Search | None = Field(
        default=None, description="a search that a model scores, in place of the greedy answer, with any sampler"
    )
    samples: NonNegativeInt = Field(default=0, description="samples per prompt for pass@k and maj@k, besides greedy")
    temperature: PositiveFloat = Field(default=1.0, description="of those samples")
    answer_pattern: str | None = Field(
        default=None,
        description="regular expression whose first group is what maj@k votes on; default: the answers as the verifier "
        "reads and compares them, else the whole text",
    )


class Checkpointing(Strict):
    """The checkpoints to resume from. A run that is asked to stop always writes one."""

    every: PositiveInt | None = Field(
        default=None, description="steps between checkpoints, and one at the end; none: only when stopped"
    )
    keep_last: PositiveInt = Field(default=2, description="newest checkpoints to keep")
    keep_best: bool = Field(default=True, description="keep the best one too")
    metric: str | None = Field(
        default=None,
        description="what 'best' means; larger is better; default: eval/accuracy, or eval/preference_accuracy where "
        "held-out completions are only compared",
    )


def _named(spec: Any) -> Any:
    """`model: some/name` is short for `model: {path: some/name}`."""
    return {"path": spec} if isinstance(spec, str) else spec


class Header(Strict):
    """The keys before the axes: names, model and data."""

    name: str = Field(description="of the run")
    run_dir: str = Field(description="the folder that the run writes")
    seed: NonNegativeInt = Field(default=0, description="of everything that is random")
    summary: str | None = Field(default=None, description="one line about this recipe")
    paper: str | None = Field(default=None, description="the method's source")
    model: Annotated[Model, BeforeValidator(_named)] = Field(description="the model to train")
    data: Data = Field(description="the rows")


def _axis_field(axis: Axis) -> Any:
    """The schema of one axis's key."""
    if axis.kind != ONE:
        return PieceSettings, Field(default_factory=dict, description=axis.about)
    return PieceSpec | None if axis.default is None else PieceSpec, Field(default=axis.default, description=axis.about)


if TYPE_CHECKING:

    class Axes(Header):
        """A key for each row of the table of axes."""

        def __getattr__(self, name: str) -> Any: ...

else:
    Axes = create_model("Axes", __base__=Header, **{axis.key: _axis_field(axis) for axis in AXES})


class Recipe(Axes):
    """One stage of training, resolved; with roles, the stage as its first role sees it.

    The keys of the algorithm's pieces are at the top level.
    """

    rewards: PieceSettings = Field(
        default_factory=dict,
        description="reward functions; their weighted sum counts, and those of weight 0 are only measured",
    )
    trained: bool = Field(default=True, description="false: the role, or the stage, samples and is never updated")
    moves: dict[str, Move] = Field(
        default_factory=dict, description="the texts that roles write for a question, in trees; none: the env's answers"
    )
    turns: Turns = Field(default=Turns(), description="how the turns of an environment that speaks text are taken")
    trained_every: PositiveInt = Field(
        default=1,
        description="the role learns in every so many steps; in the others it only samples, and its schedule of the "
        "learning rate counts those in which it learns",
    )
    roles: dict[str, Recipe] = Field(
        default_factory=dict, description="several models in one stage, each with what it changes; the first one leads"
    )
    critic: Critic = Field(default=Critic(), description="the value network, where a piece reads values")
    reference: Reference = Field(default=Reference(), description="the model that log ratios are taken to")
    history: History = Field(default=History(), description="earlier policies")
    rollout: Rollout = Field(default=Rollout(), description="sampling")
    training: Training = Field(default=Training(), description="updating")
    evaluation: Evaluation = Field(default=Evaluation(), description="measuring")
    checkpoint: Checkpointing = Field(default=Checkpointing(), description="saving")

    @property
    def rewarded(self) -> bool:
        """Whether answers are rewarded: by reward functions, or by an environment of the recipe's own."""
        return bool(self.rewards) or (self.env != BY_KEY["env"].default and not self.moves)

    @property
    def trajectories_per_step(self) -> int:
        return self.rollout.prompts_per_step * self.rollout.group_size

    def in_flight(self, ranks: int) -> int:
        """The most completions of one role that a rank samples at once."""
        rollout = self.rollout
        most = max(most_texts(self.moves, rollout.group_size).values()) if self.moves else rollout.group_size
        return -(-rollout.prompts_per_step // ranks) * (rollout.micro_group or most)

    @property
    def by_role(self) -> dict[str, Recipe]:
        """The stage as each of its roles sees it; one without roles is the actor's."""
        return self.roles or {ACTOR: self}

    @property
    def shares_with(self) -> str | None:
        """The role whose weights this one uses as they are; None for weights or an adapter of its own."""
        return self.model.role if self.model.lora is None else None

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
        if (self.training.tokens_per_micro_batch or longest) < longest:
            raise ValueError(
                f"rollout.max_prompt_tokens {self.rollout.max_prompt_tokens} + rollout.max_completion_tokens "
                f"{self.rollout.max_completion_tokens} = {longest} tokens for the longest trajectory, more than "
                f"training.tokens_per_micro_batch {self.training.tokens_per_micro_batch}"
            )
        first = self.rollout.first_samples
        if first is not None and first > group:
            raise ValueError(f"rollout.first_samples {first} is more than rollout.group_size {group}")
        if (past := max(self.rollout.past_writers, default=0)) > self.history.kept:
            raise ValueError(f"rollout.written_by names {PAST}_{past}, but history.kept is {self.history.kept}")
        micro_group = self.rollout.micro_group
        if micro_group is not None and micro_group > group:
            raise ValueError(f"rollout.micro_group {micro_group} is more than rollout.group_size {group}")
        self.training.refuse_endless_warmup()
        return self


def updating(views: Mapping[str, Recipe], role: str) -> Training:
    """A role's `training` with the number of the steps in which it learns, or a role that shares its weights does."""
    owner, training = views[role], views[role].training
    sharing = [owner, *(view for view in views.values() if view.trained and view.shares_with == role)]
    every = {view.trained_every for view in sharing}
    steps = sum(any(step % one == 0 for one in every) for step in range(1, training.known_steps + 1))
    return training if 1 in every else training.model_copy(update={"steps": steps})


def with_steps(recipe: Recipe, rows: int) -> Recipe:
    """The recipe with the number of steps that `training.epochs` makes of so many training rows.

    Raises RecipeError if the warmup takes all of them.
    """
    if recipe.training.epochs is None:
        return recipe
    steps = recipe.training.epochs * -(-rows // recipe.rollout.prompts_per_step)
    training = recipe.training.model_copy(update={"steps": steps})
    try:
        training.refuse_endless_warmup()
    except ValueError as error:
        raise RecipeError(str(error)) from None
    roles = {name: with_steps(view, rows) for name, view in recipe.roles.items()}
    return recipe.model_copy(update={"training": training, "roles": roles})
