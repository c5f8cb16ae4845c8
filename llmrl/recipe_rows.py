"""The recipe's schema of data: where rows come from, and which of their columns are read."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from llmrl.pieces import PieceSpec

NonEmpty = Annotated[str, Field(min_length=1)]


class Strict(BaseModel):
    """A part of a recipe: unknown keys are faults, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, protected_namespaces=())


def exactly_one(holder: BaseModel, names: tuple[str, ...]) -> None:
    """Raises ValueError unless exactly one of these fields is set."""
    given = [name for name in names if getattr(holder, name) is not None]
    if len(given) != 1:
        raise ValueError(f"give exactly one of {', '.join(names)}; got {', '.join(given) or 'none'}")


_LOST_COMMANDS = {"\a": "a", "\b": "b", "\f": "f", "\v": "v", "\x1b": "e"}


def _no_lost_command(text: str) -> str:
    """Refuse the control characters that YAML makes of LaTeX commands in double quotes, such as "\\boxed" of "\\b"."""
    found = re.search(r"([\a\b\f\v\x1b]|\t(?=ext|imes|frac|heta|o\b))(\w*)", text)
    if found:
        command = f"\\{_LOST_COMMANDS.get(found[1], 't')}{found[2]}"
        raise ValueError(
            f"YAML reads '{command}' in double quotes as a control character; write '\\{command}' or use single quotes"
        )
    return text


RowText = Annotated[str, AfterValidator(_no_lost_command)]


QUESTION = "question"
"""The default column of what is asked."""
COMPARED = ("chosen", "label", "completions", "components")
"""The keys of which one says how the completions of a row are rewarded."""


DIRECTION = "reward_direction"
"""The column of a row's direction: factors of rewards' weights, by the rewards' names."""


class Direction(Strict):
    """A direction between two rewards for each row: they count with factors cos and sin of the row's angle."""

    rewards: tuple[NonEmpty, NonEmpty] = Field(description="the rewards at 0 and at 90 degrees")
    between: tuple[FiniteFloat, FiniteFloat] | None = Field(
        default=None, description="draw each row's angle evenly from this range, in degrees"
    )
    among: list[FiniteFloat] | None = Field(
        default=None, min_length=1, description="give the rows these angles by turns, in degrees"
    )
    seed: NonNegativeInt = Field(default=0, description="of the angles that are drawn")

    @model_validator(mode="after")
    def _one_choice(self) -> Direction:
        exactly_one(self, ("between", "among"))
        if self.between is not None and self.between[0] > self.between[1]:
            raise ValueError(f"between: {list(self.between)} is no range; expected [lowest, highest]")
        return self


class Closest(Strict):
    """Train on the rows alone whose completions a policy finds most likely, a token."""

    model: NonEmpty = Field(description="the policy: a folder, such as an earlier stage's, or a hub name")
    share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(default=0.25, description="of the rows that are kept")
    replay: NonNegativeFloat = Field(
        default=0.1, description="other rows that are kept too, drawn by chance: their number over that of the closest"
    )


class Rows(Strict):
    """Where rows come from and how they become prompts.

    prompt, answer, completion and the other keys of columns are each a column name, a template
    ("{question}\\nAnswer:") or a function of the row ("my_module:my_function"). With chat, prompt and completions may
    also be lists of messages. Rows with written completions are told by their columns if no key names these.
    """

    path: str | list[str] | None = Field(
        default=None,
        description="files: .jsonl, .json, .csv (each also .gz) or .parquet; a folder, a pattern such as data/*.jsonl, "
        "or a list of these",
    )
    dataset: str | None = Field(default=None, description="a name for datasets.load_dataset, or its saved folder")
    task: str | None = Field(default=None, description="seeds, a reasoning-gym task, or module:function")
    subset: str | None = Field(default=None, description="of the dataset")
    split: str = Field(default="train", description="of the dataset")
    settings: dict[str, Any] = Field(default_factory=dict, description="of the task")
    size: Annotated[int, Field(gt=0, le=10_000_000)] = Field(
        default=1000, description="rows to generate from the task; all are held in memory"
    )
    seed: NonNegativeInt = Field(default=0, description="of the task's rows")
    limit: PositiveInt | None = Field(default=None, description="use only the first rows")
    shuffle: bool = Field(default=True, description="a new order each epoch, from the recipe's seed")
    balanced_by: NonEmpty | None = Field(
        default=None,
        description="of training rows: a column, or path into one, of whose values each step has equally many, such as "
        "whether a given draft is right; an epoch has as many rows of each as the rarest value has",
    )
    prompt: RowText | None = Field(
        default=QUESTION, description="what the model is asked; null: nothing, the completion is the whole text"
    )
    answer: RowText | None = Field(default="answer", description="the gold answer, which rewards read as `answer`")
    answer_after: NonEmpty | None = Field(default=None, description="the answer is what follows this in its column")
    completion: RowText | None = Field(default=None, description="the demonstration, for learn_from: demonstrations")
    chosen: RowText | None = Field(default=None, description="the better completion, for learn_from: preferences")
    rejected: RowText | None = Field(default=None, description="the worse completion, for learn_from: preferences")
    label: RowText | None = Field(
        default=None, description="whether the completion is good, for learn_from: preferences of rows without pairs"
    )
    completions: RowText | None = Field(
        default=None, description="a list of completions, for learn_from: preferences; needs scores"
    )
    scores: RowText | None = Field(default=None, description="their scores, more is better; needs completions")
    components: Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        default=None,
        description="columns of numbers that say how good the completion is in several respects, or null; one for each "
        "of model.heads",
    )
    steps: RowText | None = Field(
        default=None, description="a list of a solution's steps, for learn_from: step_labels; needs step_labels"
    )
    step_labels: RowText | None = Field(
        default=None,
        description="a list of their labels: right or wrong, a chance from 0 to 1, neutral, or null; needs steps",
    )
    separator: NonEmpty = Field(
        default="\n", description="the text after each step; a step is scored at the last token of it"
    )
    neutral: Literal["right", "wrong", "drop"] | None = Field(
        default=None, description="what a neutral step counts as; drop: as a step without a label"
    )
    last_step_only: bool = Field(default=False, description="of each solution, only the last step has a label")
    transform: PieceSpec | None = Field(
        default=None,
        description="what is made of the rows before they are read: a judge's questions (pair_verdicts, "
        "answer_verdicts), pairs of a dialogue's turns (persuasion_pairs), critiques to imitate (critiques_of_drafts, "
        "merged_critiques), right answers of rollouts (improved_answers) and critiques that led to some "
        "(helpful_critiques), or by module:function",
    )
    turns: Literal["last", "all"] = Field(
        default="last",
        description="where prompt and completion are one conversation: the answer to train on, the last or each one",
    )
    chat: bool = Field(default=False, description="render through the model's chat template")
    system_prompt: RowText | None = Field(
        default=None,
        description="the first message where a row has no system message of its own, with a direction a template of "
        "columns; needs chat: true",
    )
    tools: str | None = Field(
        default=None,
        description="column of the tools that the chat template shows: a list of schemas, or its JSON text",
    )
    category: NonEmpty | None = Field(
        default=None, description="of held-out rows: a column, for each of whose values there are metrics"
    )
    closest: Closest | None = Field(
        default=None, description="of training rows with written completions: only those closest to a policy"
    )
    direction: Direction | None = Field(
        default=None, description="a direction between two rewards for each row, which its prompt may name"
    )
    few_shot: NonNegativeInt | list[dict[str, Any]] = Field(
        default=0, description="solved examples put before each prompt: written out, or the first k rows"
    )

    @model_validator(mode="after")
    def _one_origin(self) -> Rows:
        exactly_one(self, ("path", "dataset", "task"))
        if self.system_prompt is not None and not self.chat:
            raise ValueError("system_prompt needs chat: true; in a plain prompt write it into the template")
        if self.tools is not None and not self.chat:
            raise ValueError("tools needs chat: true, since the chat template shows them")
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("chosen and rejected need each other: a pair has both")
        if (self.completions is None) != (self.scores is None):
            raise ValueError("completions and scores need each other: a list has a score for each completion")
        if (self.steps is None) != (self.step_labels is None):
            raise ValueError("steps and step_labels need each other: a solution has a label for each step")
        if self.label is not None and self.completion is None:
            raise ValueError("label needs completion: it says whether that one is good")
        if self.components is not None and self.completion is None:
            raise ValueError("components needs completion: they say how good that one is")
        compared = [name for name in COMPARED if getattr(self, name) is not None]
        if len(compared) > 1:
            raise ValueError(f"{' and '.join(compared)} exclude each other: name the completions in one way")
        if self.prompt is None and self.chat:
            raise ValueError("prompt: null asks nothing, which chat: true cannot render; name a prompt")
        return self

    @property
    def names_columns(self) -> bool:
        """Whether a key says which columns hold the prompt or the completions; else rows are told by their columns."""
        written = any(getattr(self, name) is not None for name in ("completion", "steps", *COMPARED))
        return written or self.prompt != QUESTION

    @property
    def compares(self) -> bool:
        """Whether a key names completions with rewards."""
        return any(getattr(self, name) is not None for name in COMPARED)


class Data(Strict):
    """The training and the held-out rows; a training row whose question is also in eval is dropped."""

    train: Rows = Field(description="rows to train on")
    eval: Rows | None = Field(default=None, description="held-out rows, to measure on")
