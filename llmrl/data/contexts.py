"""Tokens that a critic reads beside a trajectory's own: its rows, aligned with the policy's on every token of these.

the policy's row     P0 P1 A0 A1 E0 A2                  P prompt, A author, E others
context_ids          C0 C1 -1 D0 -1 F0                  -1 stands for the row's tokens up to the author's next turn
the critic's row     C0 C1 P0 P1 D0 A0 A1 E0 F0 A2      the rest of the row follows the last token of the context
columns              -1 -1  0  1 -1  2  3  4 -1  5      of the policy's row

A template's text stands before and behind the prompt, as C and D do. What other authors were told and wrote stands
before the author's next turn, as D and F do: a value reads what happened before its turn, and nothing that came later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.errors import RecipeError
from llmrl.fields import BY_NAME
from llmrl.ops.shared.turns import turn_starts
from llmrl.recipe import Recipe
from llmrl.recipe_moves import PROMPT
from llmrl.templates import RowTemplate
from llmrl.types import ENVIRONMENT, Prompt, Trajectory

HIDDEN = "hidden"
"""The name, in a context's template, of the text that an environment tells critics alone."""
ROW_HERE, PADDING = -1, -2
"""In `context_ids`: the place of the row's tokens up to the author's next turn, and the end of the context."""


def check_contexts(recipe: Recipe, prompts: Sequence[Prompt]) -> None:
    """Raises RecipeError for a name in some role's `critic.context` that a row lacks."""
    rows = {tuple(prompt.row): prompt.id for prompt in prompts}
    for role, view in recipe.by_role.items():
        key = f"roles.{role}.critic.context" if recipe.roles else "critic.context"
        for columns, name in rows.items() if view.critic.context else ():
            try:
                RowTemplate(view.critic.context or "").check([*columns, PROMPT, HIDDEN])
            except ValueError as error:
                raise RecipeError(f"{key}: {error}, in {name}") from None


def context_ids(
    template: str, trajectories: Sequence[Trajectory], tokenizer: Any, *, others: str | None = None
) -> Tensor:
    """The tokens of each row's context: [N, C] int64, with ROW_HERE for the prompt, and PADDING at the end.

    trajectories: of each row; one that comes again continues in another context. A template that does not name
    {prompt} stands before it. others: a template of {author} and {text}, by which the turns of the episode's other
    authors, and what these were told, stand before the author's turns that came later. Raises ValueError for a column
    without text, and for {hidden} of an environment that gave no hidden text.
    """
    rows: list[list[int]] = []
    begun: Counter[int] = Counter()
    for one in trajectories:
        row = _tokens(template, one, tokenizer)
        if others is not None:
            row = _with_others(row, one, begun[id(one)], RowTemplate(others), tokenizer)
        begun[id(one)] += 1
        rows.append(row)
    found = torch.full((len(rows), max(map(len, rows), default=1)), PADDING)
    for index, row in enumerate(rows):
        found[index, : len(row)] = torch.tensor(row)
    return found


def _tokens(template: str, trajectory: Trajectory, tokenizer: Any) -> list[int]:
    known = dict(trajectory.prompt.row)
    hidden = getattr(trajectory, HIDDEN, None)
    if hidden is not None:
        known[HIDDEN] = hidden
    parts = RowTemplate(template).parts
    places = [index for index, part in enumerate(parts) if part.is_column and part.text == PROMPT]
    cut = places[0] if places else len(parts)
    before, after = ("".join(_text(part, known) for part in some) for some in (parts[:cut], parts[cut + 1 :]))
    return [*_encoded(before, tokenizer), ROW_HERE, *_encoded(after, tokenizer)]


def _with_others(row: list[int], trajectory: Trajectory, part: int, template: RowTemplate, tokenizer: Any) -> list[int]:
    """A context with what happened to other authors before each turn of a part of the trajectory."""
    listed = trajectory.episode.trajectories if trajectory.episode else []
    beside = [one for one in listed if one.author != trajectory.author]
    happened = sorted((event for one in beside for event in _events(one, template)), key=lambda event: event[0])
    made, place = list(row), -1
    turns = [turn for turn in trajectory.parts_of_turns[part][1] if turn.author == trajectory.author]
    for number, turn in enumerate(turns):
        text = "".join(said for when, said in happened if place <= when < turn.place)
        made += [*([ROW_HERE] if number else []), *_encoded(text, tokenizer)]
        place = turn.place
    return made


def _events(trajectory: Trajectory, template: RowTemplate) -> Iterator[tuple[int, str]]:
    """The texts that an author was told and wrote, each with the place of the turn that it belongs to."""
    told = [trajectory.prompt.text]
    for turn in trajectory.turns:
        if turn.author != trajectory.author:
            told.append(turn.text)
            continue
        for text in told:
            yield turn.place, template.fill({"author": ENVIRONMENT, "text": text})
        yield turn.place, template.fill({"author": turn.author, "text": turn.text})
        told = []


def _text(part: Any, known: Mapping[str, Any]) -> str:
    if part.is_column and part.text == HIDDEN and HIDDEN not in known:
        raise ValueError("{hidden}: the environment told nothing that is hidden from the policy")
    return RowTemplate(f"{{{part.text}}}").fill(known) if part.is_column else part.text


def _encoded(text: str, tokenizer: Any) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


@dataclass(frozen=True)
class CriticRows:
    """A batch's rows as the critic reads them. columns: [N, T'] int64, those of the policy's rows; -1 for others."""

    batch: Batch
    columns: Tensor
    width: int

    @classmethod
    def of(cls, batch: Batch) -> CriticRows:
        """The rows with each one's context, if the batch has contexts."""
        contexts = batch.get("context_ids")
        rows, width = batch.token_ids.shape
        if contexts is None:
            columns = torch.arange(width, device=batch.token_ids.device).expand(rows, width)
            return cls(batch, columns, width)
        laid = [_laid_out(*row) for row in zip(contexts.tolist(), batch.lengths.tolist(), _begins(batch), strict=True)]
        longest = max(len(columns) for columns, _ in laid)
        columns, put = (torch.full((rows, longest), fill, dtype=torch.int64) for fill in (-1, 0))
        for index, (own, tokens) in enumerate(laid):
            columns[index, : len(own)], put[index, : len(own)] = torch.tensor(own), torch.tensor(tokens)
        lengths = torch.tensor([len(own) for own, _ in laid])
        device = batch.token_ids.device
        made = cls(batch, columns.to(device), width)
        fields = {
            name: made.spread(tensor, BY_NAME[name].fill if name in BY_NAME else 0.0)
            for name, tensor in batch.data.items()
            if _per_token(name, tensor)
        }
        fields["token_ids"] = torch.where(made.columns >= 0, fields["token_ids"], put.to(device))
        fields["attention_mask"] = torch.arange(longest, device=device) < lengths.to(device)[:, None]
        return cls(batch.without("context_ids").with_(**fields), made.columns, width)

    def spread(self, tensor: Tensor, fill: float = 0.0) -> Tensor:
        """Values [N, T, ...] of the policy's rows on the critic's: [N, T', ...], `fill` at the context's tokens."""
        rows = torch.arange(len(tensor), device=tensor.device)[:, None]
        found = tensor[rows, self.columns.clamp(min=0)]
        known = (self.columns >= 0).reshape(*self.columns.shape, *[1] * (tensor.dim() - 2))
        return torch.where(known, found, torch.as_tensor(fill, dtype=tensor.dtype, device=tensor.device))

    def back(self, tensor: Tensor) -> Tensor:
        """Outputs [N, T', ...] of the critic's rows on the policy's: [N, T, ...]."""
        found = tensor.new_zeros(len(tensor), self.width, *tensor.shape[2:])
        rows, places = (self.columns >= 0).nonzero(as_tuple=True)
        return found.index_put((rows, self.columns[rows, places]), tensor[rows, places])


def _per_token(name: str, tensor: Tensor) -> bool:
    return BY_NAME[name].shape.startswith("N T") if name in BY_NAME else tensor.dim() > 1


def _begins(batch: Batch) -> list[list[int]]:
    """The columns at which each row's turns begin; the row's length for a row without turns."""
    turns = batch.get("turn_ids")  # also where a batch that is measured has its response elsewhere
    turns = batch.response_mask.long() - 1 if turns is None else turns
    first = turn_starts(turns >= 0, turns)
    return [row.nonzero()[:, 0].tolist() or [length] for row, length in zip(first, batch.lengths.tolist(), strict=True)]


def _laid_out(context: list[int], length: int, begins: list[int]) -> tuple[list[int], list[int]]:
    """The columns of a critic's row, -1 for the context's tokens, and these tokens, 0 elsewhere."""
    columns: list[int] = []
    tokens: list[int] = []
    coming, done = iter(begins), 0
    for token in context:
        if token == PADDING:
            break
        if token == ROW_HERE:
            until = next(coming, length)
            columns += range(done, until)
            tokens += [0] * (until - done)
            done = until
        else:
            columns.append(-1)
            tokens.append(token)
    return [*columns, *range(done, length)], [*tokens, *[0] * (length - done)]
