"""Tokens that a critic reads beside a trajectory's own: its rows, aligned with the policy's on every token of these.

the policy's row     P0 P1 A0 A1 E0 A2                  P prompt, A author, E others
context_ids          C0 C1 -1 D0                        -1 stands for the prompt
the critic's row     C0 C1 P0 P1 D0 A0 A1 E0 A2         D stands before the author's first token
columns              -1 -1  0  1 -1  2  3  4  5         of the policy's row
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.errors import RecipeError
from llmrl.fields import BY_NAME
from llmrl.recipe import Recipe
from llmrl.recipe_moves import PROMPT
from llmrl.templates import RowTemplate
from llmrl.types import Prompt, Trajectory

HIDDEN = "hidden"
"""The name, in a context's template, of the text that an environment tells critics alone."""
PROMPT_HERE, PADDING = -1, -2
"""In `context_ids`: the place of the prompt, and the end of the context."""


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


def context_ids(template: str, trajectories: Sequence[Trajectory], tokenizer: Any) -> Tensor:
    """The tokens of each trajectory's context: [N, C] int64, with PROMPT_HERE once and PADDING at the end.

    A template that does not name {prompt} stands before it. Raises ValueError for a column without text, and for
    {hidden} of an environment that gave no hidden text.
    """
    rows = [_tokens(template, trajectory, tokenizer) for trajectory in trajectories]
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
    return [*_encoded(before, tokenizer), PROMPT_HERE, *_encoded(after, tokenizer)]


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


def _begins(batch: Batch) -> list[int]:
    """The column of each row's first token that its author wrote; the row's length if there is none."""
    turns = batch.get("turn_ids")  # also where a batch that is measured has its response elsewhere
    written = batch.response_mask if turns is None else turns >= 0
    return torch.where(written.any(dim=1), written.int().argmax(dim=1), batch.lengths).tolist()


def _laid_out(context: list[int], length: int, begin: int) -> tuple[list[int], list[int]]:
    """The columns of a critic's row, -1 for the context's tokens, and these tokens, 0 elsewhere."""
    place = context.index(PROMPT_HERE)
    before, after = context[:place], [token for token in context[place + 1 :] if token != PADDING]
    columns = [*[-1] * len(before), *range(begin), *[-1] * len(after), *range(begin, length)]
    tokens = [*before, *[0] * begin, *after, *[0] * (length - begin)]
    return columns, tokens
