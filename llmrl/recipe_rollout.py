"""The recipe's schema of sampling: how completions are sampled, and who writes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from llmrl.errors import unknown_name
from llmrl.pieces import PieceSpec
from llmrl.recipe_rows import Strict
from llmrl.types import DATASET, PAST, REFERENCE

MAX_PAST = 9
"""The most earlier policies that are kept."""
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]


class Writer(Strict):
    """Completions of each group that another than the policy writes. A plain number is their count."""

    count: PositiveInt = Field(default=1, description="how many of a group's completions")
    share: Fraction = Field(
        default=1.0,
        description="the writer's part in each token's distribution, writer^share x policy^(1 - share), normalized",
    )


class RollIn(Strict):
    """Completions that the guide begins, up to a place drawn evenly, and the sampler alone ends. `true` is short for
    the defaults."""

    share: Fraction = Field(default=1.0, description="the share of completions that are begun so; others are unguided")
    fades_over: PositiveInt | None = Field(
        default=None, description="steps of training in which the share falls evenly to 0; none: it stays"
    )
    learned: bool = Field(default=True, description="false: the guided tokens are context, which nothing trains")


def _rolled_in(spec: Any) -> Any:
    """`roll_in: true` is short for `roll_in: {}`."""
    return ({} if spec else None) if isinstance(spec, bool) else spec


class Guide(Strict):
    """A model that changes the sampler's next-token distribution, with rollout.engine: transformers.

    p'(a | s) ~ p(a | s) exp(offset(s, a)) on the top_k likeliest tokens; the reading makes the offset of the model's
    outputs (llmrl/ops/guidance.py).
    """

    model: str | list[str] = Field(
        description="a folder of a reward model or of a language model, or several of language models"
    )
    reading: PieceSpec = Field(description="how its outputs become offsets, such as success: {inverse_temperature: 10}")
    reference: str | None = Field(
        default=None, description="the language model to which implicit_reward takes the guide's log ratio"
    )
    top_k: PositiveInt = Field(default=20, description="likeliest tokens that remain, and whose offsets are computed")
    roll_in: Annotated[RollIn | None, BeforeValidator(_rolled_in)] = Field(
        default=None, description="guide only the beginning of each completion; none: guide all of it"
    )

    @property
    def models(self) -> list[str]:
        """The folders of its models."""
        return [self.model] if isinstance(self.model, str) else self.model


class BestFirst(Strict):
    """A* over the steps of an answer: the partial answer with the largest f = g + weight * score goes on next."""

    weight: NonNegativeFloat = Field(default=1.0, description="of the score h in f = g + weight * h")
    aggregate: Literal["sum", "min", "max", "last"] = Field(
        default="last", description="how steps' utilities, mean log-probabilities of their tokens, make g"
    )
    most: PositiveInt = Field(default=32, description="partial answers that are continued before the search gives up")


class Search(Strict):
    """A search over steps of an answer, whose beginnings a model scores; with any sampler.

    By default it is best-of-n. With a delimiter it goes step by step, and keeps `width` partial answers.
    """

    model: str = Field(description="a folder of a reward model, or with `reference` of a language model")
    reference: str | None = Field(
        default=None, description="the score is the sum of the log ratios of the model's tokens to this one's"
    )
    samples: PositiveInt = Field(default=8, description="continuations sampled of each partial answer")
    width: PositiveInt = Field(default=1, description="partial answers that are kept after each step")
    delimiter: str | None = Field(
        default=None, description="the text that ends a step; none: answers are sampled whole"
    )
    temperature: PositiveFloat = Field(default=1.0, description="of the continuations")
    choice_temperature: PositiveFloat | None = Field(
        default=None, description="draw the answer with softmax(score / this); none: the answer of the highest score"
    )
    best_first: BestFirst | None = Field(default=None, description="A* in place of a beam of `width`")


def _counted(spec: Any) -> Any:
    """`reference: 1` is short for `reference: {count: 1}`."""
    return {"count": spec} if isinstance(spec, int) and not isinstance(spec, bool) else spec


class Rollout(Strict):
    """How completions are sampled. Prompts that are too long are dropped and counted; nothing is cut short."""

    engine: str = Field(default="vllm", description="the sampler: vllm, transformers, or module:function")
    weight_transport: str = Field(
        default="by_name", description="how weights reach the sampler: by_name, by_file, or module:function"
    )
    prompts_per_step: PositiveInt = Field(default=32, description="prompts of one training step")
    group_size: PositiveInt = Field(default=8, description="completions sampled for each prompt")
    written_by: dict[str, Annotated[Writer, BeforeValidator(_counted)]] = Field(
        default_factory=dict,
        description="completions of each group that are not the policy's: of the reference, the dataset (the row's "
        "best), or an earlier policy (past_1, past_2, ...)",
    )
    guide: Guide | None = Field(default=None, description="a model that changes the distribution of each token")
    search: Search | None = Field(
        default=None, description="answers are found by a search that a model scores; they have no log-probabilities"
    )
    micro_group: PositiveInt | None = Field(
        default=None, description="completions of a prompt in flight at once: memory, never the result; default: all"
    )
    max_completion_tokens: PositiveInt = Field(default=256, description="a completion is ended here")
    max_prompt_tokens: PositiveInt = Field(default=1024, description="longer prompts are dropped")
    temperature: PositiveFloat = Field(default=1.0, description="divides the logits, in sampling and in training")
    top_p: Fraction = Field(default=1.0, description="sample from the most likely tokens of this total probability")
    top_k: PositiveInt | None = Field(default=None, description="sample from this many most likely tokens")
    stop: list[str] = Field(default_factory=list, description="strings that end a completion")
    first_samples: PositiveInt | None = Field(
        default=None, description="with allocate: completions of each prompt before it decides; default: half the group"
    )
    allocation_rounds: PositiveInt = Field(default=1, description="with allocate: rounds that share the other half")
    max_refills: NonNegativeInt = Field(default=8, description="rounds of new prompts to replace those `keep` drops")
    max_mismatch: PositiveFloat | None = Field(
        default=None, description="stop the run when the mean |trainer - rollout| log-probability passes this"
    )
    deadline_seconds: PositiveFloat = Field(default=1800.0, description="for the sampling and scoring of one step")
    engine_options: dict[str, Any] = Field(default_factory=dict, description="passed to vllm.EngineArgs")

    @property
    def own_completions(self) -> int:
        """The completions of a group that the policy writes."""
        return self.group_size - sum(writer.count for writer in self.written_by.values())

    @property
    def writers(self) -> list[str]:
        """The writer of each of a group's completions, in order, where it is not the policy."""
        return [name for name, writer in self.written_by.items() for _ in range(writer.count)]

    @property
    def models(self) -> int:
        """How many models write completions, the policy included."""
        return 1 + len(set(self.written_by) - {DATASET})

    @property
    def past_writers(self) -> list[int]:
        """Which of the earlier policies write completions, 1 for the newest."""
        return [int(name.partition("_")[2]) for name in self.written_by if name.startswith(PAST)]

    @model_validator(mode="after")
    def _known_writers(self) -> Rollout:
        valid = [REFERENCE, DATASET, *(f"{PAST}_{number}" for number in range(1, MAX_PAST + 1))]
        if unknown := [name for name in self.written_by if name not in valid]:
            raise ValueError(unknown_name("written_by", unknown[0], valid, "writer of completions"))
        if self.own_completions < 0:
            others = self.group_size - self.own_completions
            raise ValueError(f"written_by has {others} completions, more than group_size {self.group_size}")
        if self.written_by.get(DATASET, Writer()).share != 1:
            raise ValueError("written_by.dataset.share: a row has no distribution to mix with the policy's")
        return self
