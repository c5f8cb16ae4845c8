"""Transforms: rows made into rows of another purpose before they are read, such as pairs into a judge's questions.

A transform is a function, built in or `module:function`. Its positional parameters are its data:

    comparisons   the rows' completions as texts, with their rewards, in whatever form the rows are
    rows          the rows as they are

It returns rows with the columns `prompt` and, as far as they are known, `completion`, `label`, `answer`, `chosen`,
`rejected`, `steps` and `step_labels`, of which the source reads those that it needs. A prompt may be an Exact, and a
completion or a list of steps a Written, where their tokens are known (llmrl/data/written.py). It raises ValueError for
rows that it cannot use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any

from llmrl.columns import as_json
from llmrl.data.critiques import critiques_of_drafts, merged_critiques
from llmrl.data.expert_steps import expert_steps
from llmrl.data.faulty_rows import of_every_row
from llmrl.data.files import Row
from llmrl.data.forms import COMPARISONS, DEMONSTRATIONS, QUESTIONS, SOLUTIONS
from llmrl.data.helpful_critiques import helpful_critiques
from llmrl.data.messages import Messages, transcript
from llmrl.data.persuasion import persuasion_pairs
from llmrl.data.poisoning import poisoned
from llmrl.data.prompt_builder import COLUMN_KEYS
from llmrl.data.recognition import FormedRows, formed
from llmrl.data.recorded_turns import (
    expert_and_own,
    privileged_pairs,
    recorded_choices,
    recorded_episodes,
    turn_states,
)
from llmrl.data.row_values import RowValue
from llmrl.data.trees import improved_answers
from llmrl.data.turn_values import tree_values, turn_values
from llmrl.data.written import reward_of_label, reward_of_score
from llmrl.errors import RecipeError, first_line
from llmrl.pieces import Piece, resolve
from llmrl.recipe_rows import Rows
from llmrl.rewards.rubric import AnswerRubric, PairRubric, rubric_of
from llmrl.templates import RowTemplate, Template

READ = {
    DEMONSTRATIONS: (("prompt", "completion"),),
    COMPARISONS: (("prompt", "chosen", "rejected"), ("prompt", "completion", "label")),
    QUESTIONS: (("prompt",),),
    SOLUTIONS: (("prompt", "steps", "step_labels"),),
}
"""The columns of made rows that a source reads, or those that it reads instead; `answer` besides."""


@dataclass(frozen=True)
class Comparison:
    """A row's completions. asked: the question, text or messages; completions: each one's text and reward."""

    asked: str | Messages
    completions: tuple[tuple[str, float], ...]
    row: Row

    @property
    def prompt(self) -> str:
        """The question as a judge reads it."""
        return self.asked if isinstance(self.asked, str) else transcript(self.asked)

    @property
    def demonstration(self) -> Row:
        """The best completion, to imitate."""
        best, _ = max(self.completions, key=lambda one: one[1])
        return {"answer": None, **self.columns, "prompt": self.asked, "completion": best}

    @property
    def columns(self) -> Row:
        """The row's other columns."""
        return {name: value for name, value in self.row.items() if name not in COLUMN_KEYS}


def pair_verdicts(
    comparisons: Sequence[Comparison],
    *,
    rubric: PairRubric,
    verdict: Template = "[[{label}]]",
    demonstrations: bool = False,
) -> list[Row]:
    """The questions of a judge that compares two answers: each pair in both orders, with the right verdict.

    `answer` is A or B, and `completion` the template `verdict` with that as {label}; it may show columns of the row,
    such as a rationale. demonstrations: add each row's best completion, to imitate, so that the policy and its judge
    are one model. Source: SELF-JUDGE, arXiv 2402.11253.
    """
    made: list[Row] = []
    for one in comparisons:
        pairs = [pair for pair in permutations(one.completions, 2) if pair[0][1] != pair[1][1]]
        made += _mixed(
            _question(one, rubric, {"a": a, "b": b}, verdict, "A" if of_a > of_b else "B")
            for (a, of_a), (b, of_b) in pairs
        )
        made += [one.demonstration] if demonstrations else []
    return made


def answer_verdicts(
    comparisons: Sequence[Comparison],
    *,
    rubric: AnswerRubric,
    good: str = "Yes",
    bad: str = "No",
    threshold: float = 0.5,
    verdict: Template = "[[{label}]]",
    demonstrations: bool = False,
) -> list[Row]:
    """The questions of a judge that says whether one answer is good, with the right verdict.

    good, bad: the labels of completions whose reward is above the threshold, and of others. Others: see pair_verdicts.
    Source: Generative Verifiers, arXiv 2408.15240.
    """
    made: list[Row] = []
    for one in comparisons:
        made += _mixed(
            _question(one, rubric, {"completion": text}, verdict, good if reward > threshold else bad)
            for text, reward in one.completions
        )
        if demonstrations and max(reward for _, reward in one.completions) > threshold:
            made.append(one.demonstration)
    return made


def _mixed(questions: Iterable[Row]) -> list[Row]:
    """A row's questions in an order that their texts decide: a place in it must not tell the verdict."""
    return sorted(questions, key=lambda row: hashlib.blake2b(row["prompt"].encode()).digest())


def _question(one: Comparison, rubric: str, shown: Mapping[str, str], verdict: str, label: str) -> Row:
    """A judge's question about answers of a row, and the verdict that is right."""
    row = {**one.row, **shown, "prompt": one.prompt}
    written = RowTemplate(verdict).fill({**one.row, "label": label})
    return {**one.columns, "prompt": rubric_of(rubric).fill(row), "completion": written, "answer": label}


TRANSFORMS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        pair_verdicts,
        answer_verdicts,
        persuasion_pairs,
        poisoned,
        critiques_of_drafts,
        merged_critiques,
        improved_answers,
        helpful_critiques,
        turn_states,
        turn_values,
        tree_values,
        privileged_pairs,
        recorded_episodes,
        recorded_choices,
        expert_and_own,
        expert_steps,
    )
}


def read_rows(source: Rows, rows: list[Row], part: str, gives: str | None) -> FormedRows:
    """Return the rows in their form (llmrl/data/recognition.py), made into others if the recipe names a transform.

    Raises RecipeError as `formed` does, and for rows that the transform cannot use.
    """
    if source.transform is None:
        return formed(source, rows, part, gives)
    key = f"data.{part}.transform"
    piece = resolve(source.transform, TRANSFORMS, key=key, what="transform")
    if unknown := [name for name in piece.data if name not in ("rows", "comparisons")]:
        raise RecipeError(f"{key}: {piece.name} takes {unknown[0]}; expected comparisons or rows, then settings")
    found = FormedRows(source, rows)
    available: dict[str, Any] = {"rows": rows}
    if "comparisons" in piece.data:
        found = formed(source, rows, part, COMPARISONS)
        available["comparisons"] = _comparisons(found, part)
    made = _made(piece, available, key)
    choices = READ[gives or QUESTIONS]
    read = next((names for names in choices if set(names) <= set(made[0])), choices[0])
    if lacking := [name for name in read if name not in made[0]]:
        raise RecipeError(f"{key}: {piece.name} gives no {lacking[0]}, which learn_from reads")
    keys = {name: name if name in read else None for name in COLUMN_KEYS}
    answer = {"answer": "answer", "answer_after": None, "transform": None}
    form = f"{found.form}, made by {piece.name}" if found.form else f"made by {piece.name}"
    return FormedRows(found.source.model_copy(update={**keys, **answer}), made, form)


def _made(piece: Piece, available: Mapping[str, Any], key: str) -> list[Row]:
    try:
        made = list(piece(available))
    except Exception as error:  # a user's function may raise anything
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise RecipeError(f"{key}: {piece.name}: {kind}{first_line(error)}") from None
    if not made or not all(isinstance(row, Mapping) and "prompt" in row for row in made):
        given = "no rows" if not made else "a row without a prompt"
        raise RecipeError(f"{key}: {piece.name} gave {given}")
    return made


def _comparisons(found: FormedRows, part: str) -> list[Comparison]:
    """The rows' completions with their rewards, by the keys that name their columns."""
    key, source = f"data.{part}", found.source
    if not source.compares:
        raise RecipeError(
            f"{key}.transform: needs rows with completions that are compared; name their columns with chosen and "
            "rejected, completion and label, or completions and scores"
        )
    columns = list(dict.fromkeys(name for row in found.rows for name in row))
    specs: dict[str, str | None] = {name: getattr(source, name) for name in COLUMN_KEYS}
    values = {name: RowValue(spec, columns, f"{key}.{name}") for name, spec in specs.items() if spec}
    return of_every_row(found.rows, partial(_comparison, values), part, key)


def _comparison(values: Mapping[str, RowValue], row: Row, place: str) -> Comparison:
    def texts(given: Iterable[str]) -> list[str]:
        return [_last(values[name].text_or_messages(row, place)) for name in given]

    asked = values["prompt"].text_or_messages(row, place) if "prompt" in values else ""
    try:
        if "chosen" in values:
            completions = zip(texts(("chosen", "rejected")), (1.0, 0.0), strict=True)
        elif "label" in values:
            label = reward_of_label(values["label"].value(row, place))
            completions = zip(texts(["completion"]), [label], strict=True)
        else:
            listed, scores = (as_json(values[name].value(row, place)) for name in ("completions", "scores"))
            completions = zip(map(_last, listed), map(reward_of_score, scores), strict=True)
        return Comparison(asked, tuple(completions), row)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"{values['prompt'].key if 'prompt' in values else 'data'}: {place}: {error}") from None


def _last(said: Any) -> str:
    """The text of a completion, of messages the last one's."""
    return said if isinstance(said, str) else str(said[-1]["content"])
