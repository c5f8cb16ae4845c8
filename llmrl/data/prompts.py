"""The prompts of a stage: rows read in their form, rendered, and left out with a reason where they cannot be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from llmrl.columns import NoColumnError, column
from llmrl.data.asker import Asker
from llmrl.data.datasets import load_rows
from llmrl.data.faulty_rows import refuse_dropped
from llmrl.data.prompt_builder import PromptBuilder
from llmrl.data.recognition import FormedRows
from llmrl.data.row_tools import RowTools
from llmrl.data.stream import balanced_epoch
from llmrl.data.transforms import read_rows
from llmrl.data.written import Written
from llmrl.errors import RecipeError, short
from llmrl.recipe_rows import Data, Rows
from llmrl.types import Prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LONG_PROMPT = "the prompt is longer than rollout.max_prompt_tokens"
LONG_COMPLETION = "a completion is longer than rollout.max_completion_tokens"
OVERLAP = "the question is in eval too"
EQUAL = "the completions are equal"
TIED = "no completion is better than another"
MOST_CATEGORIES = 100
MOST_LABELS = 20
UNLABELLED = "no step has a label"

Asked = tuple[str, int | None]
"""A question and the seed of its row, by which an environment makes an episode of it; None without one."""


@dataclass(frozen=True)
class LoadedPrompts:
    """Prompts ready to sample, and the numbers of rows that were left out.

    demonstrations: prompt id -> the completion to imitate, for every prompt of a source that names one. comparisons:
    prompt id -> the row's completions with their rewards, for every prompt of a source that names them. solutions:
    prompt id -> the row's solutions with labelled steps. questions: prompt id -> the prompt before system prompt,
    examples and chat template. categories: prompt id -> the row's category, of a source that names their column.
    sources: "train" or "eval" -> the rows' settings, with the columns of their form. forms: the name of each part's
    form, where it was recognised. dropped: "train" or "eval" -> reason -> the number of rows that were left out. asker:
    renders questions that no row asks.
    """

    train: list[Prompt]
    eval: list[Prompt] = field(default_factory=list)
    demonstrations: dict[str, Written] = field(default_factory=dict)
    comparisons: dict[str, list[Written]] = field(default_factory=dict)
    solutions: dict[str, list[Written]] = field(default_factory=dict)
    questions: dict[str, str] = field(default_factory=dict)
    categories: dict[str, str] = field(default_factory=dict)
    sources: dict[str, Rows] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    asker: Asker | None = None

    def graded(self, *, samples: bool) -> list[Prompt]:
        """The prompts whose answers rewards grade: those of eval, and of train where the stage samples."""
        return [*(self.train if samples else ()), *self.eval]

    @property
    def written_counts(self) -> list[int]:
        """How many completions are written in each training row that is compared."""
        return [len(self.comparisons[prompt.id]) for prompt in self.train if prompt.id in self.comparisons]

    @property
    def components(self) -> int:
        """In how many respects the training rows say how good a completion is."""
        return len(self.sources["train"].components or ()) if "train" in self.sources else 0

    @property
    def counts(self) -> tuple[int, list[int], int]:
        """How many training prompts an epoch has, how many completions are written in each row, and in how many
        respects these are rewarded."""
        return self.in_an_epoch, self.written_counts, self.components

    @property
    def balanced(self) -> bool:
        """Whether each step has equally many training prompts of each label."""
        return "train" in self.sources and self.sources["train"].balanced_by is not None

    @property
    def in_an_epoch(self) -> int:
        """How many training prompts an epoch has."""
        return balanced_epoch(list(self.labels.values())) if self.balanced else len(self.train)

    @property
    def labels(self) -> dict[str, Any]:
        """The labels by which training prompts are spread evenly, by prompt id: the values of the column that they are
        balanced by, else the rewards of rows with a single completion."""
        if self.balanced:
            return {prompt.id: _label(prompt, self.sources["train"]) for prompt in self.train}
        return {name: written[0].reward for name, written in self.comparisons.items() if len(written) == 1}

    def check_step(self, size: int) -> None:
        """Raises RecipeError if a step of `size` prompts cannot have equally many of each label."""
        labels = set(self.labels.values()) if self.balanced else ()
        if labels and size % len(labels):
            name = self.sources["train"].balanced_by
            raise RecipeError(
                f"rollout.prompts_per_step: {size}, but data.train.balanced_by: {name} has {len(labels)} values, of "
                f"which each step has equally many; give a multiple of {len(labels)}"
            )

    def told_dropped(self, part: str) -> str:
        """How many rows of a part were left out and why; empty if none were."""
        reasons = self.dropped.get(part, Counter())
        told = "; ".join(f"{count} because {reason}" for reason, count in reasons.items() if count)
        return f"{reasons.total()} rows dropped: {told}; nothing is ever cut short" if told else ""


def load_prompts(
    tokenizer: PreTrainedTokenizerBase,
    data: Data,
    max_prompt_tokens: int,
    *,
    max_completion_tokens: int | None = None,
    stop_token_ids: Sequence[int] = (),
    gives: str | None = None,
    tools: RowTools | None = None,
) -> LoadedPrompts:
    """Load and render `data`; a training row whose question also occurs in eval is dropped.

    Duplicates inside train stay. Nothing is truncated: rows with prompts longer than `max_prompt_tokens` or a written
    completion longer than `max_completion_tokens` are dropped and counted, and so are comparisons that prefer nothing.
    gives: what the rows are read for, of llmrl.data.forms; their form is recognised where no key names their columns.
    tools: the environment's for a row. Raises RecipeError for any row that cannot be rendered, or if no row is left.
    """
    sources = {"train": data.train} | ({"eval": data.eval} if data.eval else {})
    read = {part: read_rows(source, load_rows(source, part), part, gives) for part, source in sources.items()}
    builders = {
        part: PromptBuilder(tokenizer, found.source, found.rows, part=part, stop_token_ids=stop_token_ids, tools=tools)
        for part, found in read.items()
    }
    asked_in_eval = set(_asked(builders["eval"])) - {("", None)} if data.eval else set()
    questions: dict[str, str] = {}
    loaded = LoadedPrompts(
        [],
        questions=questions,
        sources={part: found.source for part, found in read.items()},
        forms=_forms(read),
        asker=Asker(builders["train"], questions, max_prompt_tokens),
    )
    for part, builder in builders.items():
        asked, limit = asked_in_eval if part == "train" else set(), max_completion_tokens
        found, loaded.dropped[part] = _Part(builder, read[part].source, loaded, asked, limit).load(max_prompt_tokens)
        if not found:
            raise RecipeError(f"data.{part}: no rows left: {loaded.told_dropped(part)}")
        (loaded.train if part == "train" else loaded.eval).extend(found)
        loaded.questions.update({prompt.id: builder.question(prompt) for prompt in found})
        refuse_dropped(found, loaded.questions, f"data.{part}")
        named = {loaded.categories[prompt.id] for prompt in found if prompt.id in loaded.categories}
        if part == "train" and loaded.balanced:
            _check_labels(loaded)
        if len(named) > MOST_CATEGORIES:
            column = builder.source.category
            raise RecipeError(
                f"data.{part}.category: '{column}' has {len(named)} values, expected at most {MOST_CATEGORIES}, since "
                f"each has metrics of its own"
            )
    return loaded


def _label(prompt: Prompt, source: Rows) -> Any:
    """The row's value of the column that rows are balanced by; raises RecipeError for a row without one."""
    name = source.balanced_by or ""
    try:
        found = column(prompt.row, name)
    except NoColumnError as error:
        raise RecipeError(f"data.train.balanced_by: {prompt.id} has {error}") from None
    if found is None or found == "" or found != found:  # nan is no label either
        raise RecipeError(f"data.train.balanced_by: {prompt.id} has no label, its '{name}' is {found!r}")
    if not isinstance(found, Hashable):
        raise RecipeError(f"data.train.balanced_by: '{name}' of {prompt.id} is {short(found)}, expected a single value")
    return found


def _check_labels(loaded: LoadedPrompts) -> None:
    """Raises RecipeError for labels that cannot be balanced."""
    found = list(dict.fromkeys(loaded.labels.values()))
    if not 2 <= len(found) <= MOST_LABELS:
        name = loaded.sources["train"].balanced_by
        told = f"one value, {found[0]!r}" if len(found) == 1 else f"{len(found)} values"
        raise RecipeError(f"data.train.balanced_by: '{name}' has {told}, expected 2 to {MOST_LABELS}")


def _forms(read: Mapping[str, FormedRows]) -> dict[str, str]:
    return {part: found.form for part, found in read.items() if found.form}


@dataclass(frozen=True)
class _Part:
    """The rows of train or eval; `loaded` receives their written completions."""

    builder: PromptBuilder
    source: Rows
    loaded: LoadedPrompts
    asked_in_eval: set[Asked]
    max_completion_tokens: int | None

    def load(self, max_prompt_tokens: int) -> tuple[list[Prompt], Counter[str]]:
        """The prompts that can be used, and how many rows were left out for each reason."""
        prompts, long = self.builder.build(max_prompt_tokens)
        dropped = Counter({LONG_PROMPT: long} if long else {})
        found = []
        for prompt in prompts:
            reason = self._fault(prompt)
            if reason is None:
                found.append(prompt)
            else:
                dropped[reason] += 1
        return found, dropped

    def _fault(self, prompt: Prompt) -> str | None:
        """Why a row is left out; None if its completions, if it has some, are in `loaded`."""
        if asked(self.builder.question(prompt), prompt.row) in self.asked_in_eval:
            return OVERLAP
        compared = self.builder.comparison(prompt) if self.source.compares else []
        imitates = self.source.completion is not None and not (self.source.label or self.source.components)
        imitated = [self.builder.demonstration(prompt)] if imitates else []
        solved = self.builder.solutions(prompt) if self.source.steps is not None else []
        limit = self.max_completion_tokens
        if limit is not None and any(len(one.token_ids) > limit for one in (*compared, *imitated, *solved)):
            return LONG_COMPLETION
        if reason := _uncompared(compared) or _unlabelled(solved, self.source):
            return reason
        if imitated:
            self.loaded.demonstrations[prompt.id] = imitated[0]
        if compared:
            self.loaded.comparisons[prompt.id] = compared
        if self.source.category is not None:
            self.loaded.categories[prompt.id] = self.builder.category(prompt)
        if solved:
            self.loaded.solutions[prompt.id] = solved
        return None


def asked(question: str, row: Mapping[str, Any]) -> Asked:
    """The question as it is compared with others: rows with other seeds ask other questions."""
    seed = row.get("seed")
    return question.strip(), seed if isinstance(seed, int) else None


def _asked(builder: PromptBuilder) -> list[Asked]:
    return [asked(question, row) for question, row in zip(builder.questions, builder.rows, strict=True)]


def _unlabelled(solutions: Sequence[Written], source: Rows) -> str | None:
    """Why solutions teach nothing of steps; None if one of their steps has a label."""
    labelled = any(one.unrated or span.reward is not None for one in solutions for span in one.spans)
    return None if labelled or source.steps is None else UNLABELLED


def _uncompared(written: Sequence[Written]) -> str | None:
    """Why completions that stand beside each other prefer none of them; None if one is preferred, or is alone."""
    if len(written) < 2:
        return None
    if len({one.reward for one in written}) == 1:
        return TIED
    return EQUAL if len({tuple(one.token_ids) for one in written}) == 1 else None
