"""The policy's probability of the gold answer after each segment of a completion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.models.text import completes
from llmrl.templates import RowTemplate, Template
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn


def answer_logprobs(
    batch: Batch,
    old_entropy: Tensor,
    groups: Sequence[Group],
    policy: Any,
    tokenizer: Any,
    *,
    delimiter: Annotated[str, Field(min_length=1)] = "\n\n",
    max_segments: PositiveInt = 10,
    answer: Template = "{answer}",
) -> Tensor:
    """The gold answer's mean log-probability if it were given after token t, nan where that is not measured: [N, T].

        token_ids         P0 P1 A0 A1 \\n A2 A3
        answer_logprobs    .  b  .  .  j  .  k      b without reasoning, j and k after each segment, nan elsewhere

    delimiter: the end of a segment. Of each completion the `max_segments` segments whose first token had the highest
    entropy are measured, each in its own forward pass. answer: a template of the gold answer as the model would write
    it. Raises RecipeError if a row lacks a column of the template. Source: RePro, arXiv 2512.01925.
    """
    golds = [_gold(group, tokenizer, answer) for group in groups for _ in group.trajectories]
    places: list[tuple[int, int]] = []
    for row, mask in enumerate(batch.response_mask):
        tokens = mask.nonzero()[:, 0].tolist()
        if tokens and golds[row]:
            ends = _segment_ends(batch.token_ids[row], tokens, tokenizer, delimiter)
            chosen = _chosen(ends, tokens, old_entropy[row], max_segments)
            places += [(row, tokens[0] - 1), *((row, end) for end in chosen)]
    found = torch.full(batch.token_ids.shape, torch.nan)
    if not places:
        return found
    asked = _with_answers(batch, places, golds)
    logprobs = policy.measure(asked, "logprobs")["logprobs"]
    means = logprobs.sum(dim=1) / asked.response_mask.sum(dim=1)
    rows, columns = torch.tensor(places).T
    found[rows, columns] = means
    return found


def _gold(group: Group, tokenizer: Any, template: str) -> list[int]:
    try:
        text = RowTemplate(template).fill(group.prompt.row)
    except ValueError as error:
        raise RecipeError(f"providers.answer_logprobs.answer: {group.prompt.id}: {error}") from None
    return tokenizer.encode(text, add_special_tokens=False)


def _segment_ends(token_ids: Tensor, tokens: list[int], tokenizer: Any, delimiter: str) -> list[int]:
    """Columns of the tokens that complete a delimiter, and of the last token."""
    sampled, start, ends = token_ids[tokens].tolist(), 0, []
    for place, column in enumerate(tokens):
        if completes(tokenizer, sampled[start : place + 1], [delimiter]):
            ends.append(column)
            start = place + 1
    return ends if ends and ends[-1] == tokens[-1] else [*ends, tokens[-1]]


def _chosen(ends: list[int], tokens: list[int], entropy: Tensor, max_segments: int) -> list[int]:
    """The ends of the segments whose first token had the highest entropy, in their order."""
    starts = [tokens[0]] + [tokens[tokens.index(end) + 1] for end in ends[:-1]]
    ranked = sorted(range(len(ends)), key=lambda index: -float(entropy[starts[index]]))
    return [ends[index] for index in sorted(ranked[:max_segments])]


def _with_answers(batch: Batch, places: Sequence[tuple[int, int]], golds: Sequence[list[int]]) -> Batch:
    """One row per place: the tokens up to it, then the gold answer as the response."""
    groups = []
    for row, column in places:
        prompt = Prompt("", tuple(batch.token_ids[row, : column + 1].tolist()), "", {})
        groups.append(Group(prompt, [Trajectory(prompt, [Turn(ACTOR, golds[row])], "stop")]))
    return pack(groups, ACTOR)
