"""The recipe's schema of moves: the texts that roles write for a question, each after another.

    moves:
      draft:      {by: actor}                                     the answer to the row's prompt
      critique:   {by: critiquer, of: draft, samples: 4, ask: "{prompt}{draft}?"}
      refinement: {by: actor, of: critique, ask: [prompt, {assistant: "{draft}"}, {user: "{critique}"}]}

Each text is a trajectory, and those that follow a text are its children, so that a question is answered by trees.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from llmrl.columns import column
from llmrl.errors import RecipeError, unknown_name
from llmrl.pieces import PieceSpec
from llmrl.recipe_rows import NonEmpty, Strict
from llmrl.templates import RowTemplate, Template, text_of
from llmrl.types import Prompt

if TYPE_CHECKING:
    from llmrl.recipe import Recipe

PROMPT, ABOVE = "prompt", "above"
"""The names that a template has beside columns and moves: the question, and the text that is followed."""
VERDICT, FEEDBACK = TOLD = ("verdict", "feedback")
"""What a template may tell of an earlier text, as {draft.verdict}: right or wrong, and what its verifiers say of it."""
SPEAKERS = ("system", "user", "assistant")


def _message(spec: Any) -> Any:
    """One item of a conversation: `prompt`, or the name of a speaker with a template."""
    if spec == PROMPT:
        return spec
    if not (isinstance(spec, dict) and len(spec) == 1 and next(iter(spec)) in SPEAKERS):
        raise ValueError(f"expected '{PROMPT}' or one of {', '.join(SPEAKERS)} with a text, such as {{user: Why?}}")
    return spec


Message = Annotated[str | dict[str, Template], BeforeValidator(_message)]


def pattern(text: str) -> str:
    """A regular expression with a group."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            groups = re.compile(text).groups
    except re.error as error:
        raise ValueError(f"{text!r} is no regular expression: {error}") from None
    except FutureWarning:  # of a set of characters that holds another bracket, as [[ does
        raise ValueError(f"{text!r} opens a set of characters within another; write a bracket itself as \\[") from None
    if not groups:
        raise ValueError(f"{text!r} has no group in parentheses, which would be the part")
    return text


class Prefixes(Strict):
    """The beginnings of a text that are followed one by one: the empty one, and each that ends with a step."""

    delimiter: NonEmpty = Field(default="\n", description="the text that ends a step")
    most: PositiveInt = Field(default=8, description="of each text; of more of them, evenly spread ones are taken")


class Move(Strict):
    """A text that a role writes, after the question or after another move's text."""

    by: str = Field(description="the role that writes it")
    of: str | list[str] | None = Field(default=None, description="the move, or moves, that it follows; none: the first")
    ask: Template | list[Message] | None = Field(
        default=None,
        description="the text that its author reads, or a conversation, in which `prompt` is the question; names in "
        "braces: a column, prompt, an earlier move, or above, the text that it follows; MOVE.verdict, MOVE.feedback: "
        "what its verifiers say; default: the question",
    )
    samples: PositiveInt = Field(
        default=1, description="how many follow each text; of the first move rollout.group_size; greedily one"
    )
    choose: PieceSpec | None = Field(
        default=None, description="a keep function: which texts of the move before are followed while training"
    )
    column: str | None = Field(
        default=None,
        description="the row's column with the text, or a list of texts, in place of sampled ones; learned from where "
        "the move follows another one and has an `ask`, which its author would have read",
    )
    compared_within: str | None = Field(
        default=None,
        description="the earlier move of which those under one text are compared, or prompt: all; default: the move "
        "that it follows",
    )
    trained: bool = Field(default=True, description="false: nothing is learned from this move")
    greedy: bool = Field(default=False, description="take the likeliest tokens; nothing can be learned from these")
    max_completion_tokens: PositiveInt | None = Field(default=None, description="fewer than the role's own")
    thoughts_end: str | None = Field(
        default=None, description="the tag that ends thoughts, which others do not read; default: all is read"
    )
    prefixes: Prefixes | None = Field(
        default=None,
        description="follow each beginning of the text by itself, which is read in place of the whole: the state "
        "before each step; `samples` follow each",
    )
    rounds: PositiveInt = Field(default=1, description="the most of this move on the way to one text")
    parts: dict[str, Annotated[str, AfterValidator(pattern)]] = Field(
        default_factory=dict,
        description="parts of its text, each by a regular expression whose first group is the part, in the last place "
        "that matches: what follows reads them as {MOVE.PART}, rewards by `columns`; without all parts nothing follows",
    )

    @property
    def follows(self) -> tuple[str, ...]:
        """The moves that it follows."""
        return tuple([self.of] if isinstance(self.of, str) else self.of or ())

    @property
    def templates(self) -> list[str]:
        """The templates of what its author reads."""
        if self.ask is None or isinstance(self.ask, str):
            return [self.ask] if self.ask else []
        return [text for item in self.ask if isinstance(item, dict) for text in item.values()]

    def parts_of(self, text: str) -> dict[str, str]:
        """The parts that are found in one of its texts, stripped of blanks around."""
        found = {name: [*re.finditer(pattern, text, re.DOTALL)] for name, pattern in self.parts.items()}
        return {name: (matches[-1][1] or "").strip() for name, matches in found.items() if matches}

    @property
    def replayed(self) -> bool:
        """Whether the rows' texts are learned from, as if its author had written them after reading `ask`."""
        return self.trained and self.column is not None and self.ask is not None and bool(self.follows)

    @property
    def most_after(self) -> int:
        """The most of its texts that follow one text."""
        return self.samples * (self.prefixes.most if self.prefixes else 1)

    @property
    def learned_from(self) -> bool:
        """Whether its texts are to be learned from: sampled from its author's distribution, or replayed."""
        return self.replayed or (self.trained and self.column is None and not self.greedy)


def move_faults(moves: Mapping[str, Move], views: Mapping[str, Recipe]) -> list[str]:
    """The faults of a stage's moves. views: the stage as each of its roles sees it."""
    faults = [fault for name, move in moves.items() for fault in _faults(name, move, moves, views)] if moves else []
    for name in sorted(told_of(moves)):
        if moves[name].by in views and not views[moves[name].by].rewards:
            faults.append(f"moves.{name}: others are told its {' or '.join(TOLD)}, but {moves[name].by} has no rewards")
    for role, view in views.items():
        own = [name for name, move in moves.items() if move.by == role]
        for reward, settings in view.rewards.items():
            asked = (settings or {}).get("moves") or ()
            for name in [asked] if isinstance(asked, str) else asked:
                if name not in own:
                    faults.append(unknown_name(f"rewards.{reward}.moves", name, own, f"move of {role}"))
    return faults


def _faults(name: str, move: Move, moves: Mapping[str, Move], views: Mapping[str, Recipe]) -> Iterator[str]:
    key, first = f"moves.{name}", next(iter(moves))
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name in (PROMPT, ABOVE):
        yield f"moves: '{name}' is no name for a move: expected a letter, then letters, digits and _"
    if move.by not in views:
        yield unknown_name(f"{key}.by", move.by, views, "role")
        return
    if name == first:
        yield from _faults_of_first(key, move, views)
    elif not move.follows:
        yield f"{key}.of: missing; only the first move, {first}, follows the question; expected another move"
    for other in move.follows if name != first else ():
        if other not in moves or (other == name and len(move.follows) == 1):
            yield unknown_name(f"{key}.of", other, [one for one in moves if one != name], "move")
    if name != first and move.column is None and move.ask is None:
        yield f"{key}.ask: missing; only the first move may read the question alone; name what {move.by} reads"
    if move.column is not None and move.prefixes is not None:
        yield f"{key}.prefixes: nobody reads them, since the texts are the rows' (column: {move.column}); leave out one"
    if move.column is not None and move.ask is not None and name != first and not move.trained:
        yield f"{key}.ask: nobody reads it, since the rows' texts (column: {move.column}) are not learned from"
    within = move.compared_within
    if within is not None and within != PROMPT and within not in moves:
        yield unknown_name(f"{key}.compared_within", within, [*moves, PROMPT], "earlier move")
    if move.greedy and move.trained and views[move.by].trained:
        why = f"{move.by} learns from this move, and only samples can be learned from"
        yield f"{key}.greedy: true, but {why}; set {key}.trained: false"
    most = views[move.by].rollout.max_completion_tokens
    if move.max_completion_tokens is not None and move.max_completion_tokens > most:
        yield f"{key}.max_completion_tokens: {move.max_completion_tokens}, more than {move.by}'s rollout has: {most}"
    if unknown := [part for part in move.parts if part in TOLD or not re.fullmatch(r"\w+", part)]:
        beside = f", and not {' or '.join(TOLD)}, which rewards give"
        yield f"{key}.parts: '{unknown[0]}' is no name for a part: expected letters, digits and _{beside}"
    yield from _unrewarded(name, move, views[move.by])


ONE_ANSWER = "single_turn"


def _faults_of_first(key: str, move: Move, views: Mapping[str, Recipe]) -> Iterator[str]:
    lead = next(iter(views))
    if move.by != lead:
        yield f"{key}.by: {move.by}, but the first move is the first role's; name {lead}, or write {move.by} first"
    for name in ("of", "choose", "compared_within", "prefixes"):
        if getattr(move, name) is not None:
            yield f"{key}.{name}: the first move follows the question; leave it out"
    for name in ("samples", "rounds"):
        if getattr(move, name) != 1:
            more = "rollout.group_size says how many texts there are" if name == "samples" else "it is written once"
            yield f"{key}.{name}: {getattr(move, name)}, but {more}; leave it out"
    recipe = views[lead]
    if recipe.rollout.written_by:
        yield "rollout.written_by: other writers write no moves; leave it out, or name rows' texts by a move's column"
    if recipe.env != ONE_ANSWER:
        yield f"env: {recipe.env}, but moves are single answers, which no environment answers; leave one of them out"


def _unrewarded(name: str, move: Move, view: Recipe) -> Iterator[str]:
    """A fault for a move that is learned from, and that none of its author's rewards scores."""
    named = [(settings or {}).get("moves") for settings in view.rewards.values()]
    scored = [one for names in named for one in ([names] if isinstance(names, str) else names or [name])]
    if view.rewards and view.trained and move.learned_from and not move.replayed and name not in scored:
        yield (
            f"moves.{name}: {move.by} learns from it, but no reward scores it; set moves.{name}.trained: false, or "
            f"name it in rewards.REWARD.moves"
        )


def most_texts(moves: Mapping[str, Move], group_size: int) -> dict[str, int]:
    """The most texts of each move that a question gets."""
    first, most = next(iter(moves)), dict.fromkeys(moves, 0)

    def count(name: str, texts: int, path: tuple[str, ...]) -> None:
        most[name] += texts
        for after, move in moves.items():
            if name in move.follows and path.count(after) < move.rounds:
                count(after, texts * move.most_after, (*path, after))

    count(first, group_size, (first,))
    return most


def tree_in_words(moves: Mapping[str, Move], group_size: int) -> str:
    """The moves of a question, with their authors and the most texts of each."""
    most, told = most_texts(moves, group_size), []
    for name, move in moves.items():
        after = f" after {' or '.join(move.follows)}" if move.follows else ""
        told.append(f"{name} ({'rows' if move.column else move.by}) x {most[name]}{after}")
    return ", ".join(told)


def compared_texts(name: str, moves: Mapping[str, Move], group_size: int) -> int:
    """The most texts of a move that are compared with each other, where it follows a first text."""
    move, first = moves[name], next(iter(moves))
    if name == first:
        return group_size
    if move.compared_within == PROMPT:
        return most_texts(moves, group_size)[name]
    count, above = move.samples, move.follows[0]
    within = move.compared_within or above
    seen = {name}
    while above not in (within, first) and above not in seen:
        seen.add(above)
        count, above = count * moves[above].most_after, moves[above].follows[0]
    return count


def told_of(moves: Mapping[str, Move]) -> set[str]:
    """The moves of whose texts some template tells the verdict or the feedback."""
    named = {name for move in moves.values() for template in move.templates for name in RowTemplate(template).columns}
    return {name for name in moves if any(f"{name}.{what}" in named for what in TOLD)}


def part_columns(moves: Mapping[str, Move]) -> list[str]:
    """The names by which templates and rewards read the parts of moves."""
    return [f"{name}.{part}" for name, move in moves.items() for part in move.parts]


def check_columns(moves: Mapping[str, Move], prompts: Sequence[Prompt]) -> None:
    """Raises RecipeError for names in templates, and for columns, that the questions' rows lack."""
    faults: dict[str, None] = {}
    by_columns = {tuple(prompt.row): prompt.id for prompt in reversed(prompts)}
    for columns, row in reversed(by_columns.items()):
        for name, move in moves.items():
            if move.column is not None and move.column not in columns:
                some = f" in {row}, as other rows have" if any(move.column in other for other in by_columns) else ""
                fault = unknown_name(f"moves.{name}.column", move.column, columns, "column")
                faults[fault.replace("; ", f"{some}; ", 1)] = None
            for template in move.templates:
                parts = [*part_columns(moves), *(f"{one}.{what}" for one in moves for what in TOLD)]
                for named in RowTemplate(template).columns:
                    above, dot, _ = named.partition(".")
                    if dot and above in moves and named not in {*columns, *parts}:
                        faults[unknown_name(f"moves.{name}.ask", named, parts, f"part of {above}")] = None
                try:
                    RowTemplate(template).check([*columns, *moves, *part_columns(moves), PROMPT, ABOVE])
                except ValueError as error:
                    faults[f"moves.{name}.ask: {error}"] = None
    for name, move in moves.items() if not faults else ():
        for prompt in prompts if move.column else ():
            try:
                texts_of(move, prompt.row)
            except ValueError as error:
                faults[f"moves.{name}.column: {prompt.id}: {error}"] = None
                break
    if faults:
        raise RecipeError(*faults)


def texts_of(move: Move, row: Mapping[str, Any]) -> list[str]:
    """The row's texts of a move; raises ValueError for no text, and for what is none."""
    assert move.column is not None
    found = column(row, move.column)
    texts = [text_of(one) for one in (found if isinstance(found, list) else [found])]
    if not texts:
        raise ValueError(f"column '{move.column}' holds no text")
    return texts
