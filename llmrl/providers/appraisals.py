"""Values of the beginnings of answers, as a role wrote them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.errors import RunStopped
from llmrl.types import Group, Trajectory


def appraised_values(
    batch: Batch, groups: Sequence[Group], *, reward: str = "appraisal", otherwise: float = 0.5
) -> Tensor:
    """The worth of an answer's prefixes by the texts that follow them, nan elsewhere: [N, T].

        token_ids           P0 P1 A0 A1 \\n A2 A3
        appraised_values     .  .  v  .  .  w  .       v of the question alone, w of what stands before A2

    reward: the appraiser's reward, which reads the numbers; several of one prefix count with their mean. A prefix
    without a readable number is no place to credit apart, and the value of the question is then the mean of those that
    the question's other answers have; otherwise: where these have none either. Raises RunStopped if no text has this
    reward. Source: GenAC, arXiv 2604.10701.
    """
    every = [one for group in groups for one in group.trajectories]
    if not any(reward in child.scores for one in every for child in one.children):
        raise RunStopped(
            f"providers.appraised_values: no text that follows an answer has the reward '{reward}'; expected a move "
            f"with `prefixes` whose author has it"
        )
    found = torch.full(batch.token_ids.shape, torch.nan)
    rows = iter(zip(found, batch.response_mask, strict=True))
    for group in groups:
        said = [_said(one, reward) for one in group.trajectories]
        known = [values[0] for values in said if 0 in values]
        start = math.fsum(known) / len(known) if known else otherwise
        for values in said:
            row, mask = next(rows)
            tokens = mask.nonzero()[:, 0].tolist()
            for prefix, value in ({0: start} | values).items():
                if prefix < len(tokens):
                    row[tokens[prefix]] = value
    return found


def _said(answer: Trajectory, reward: str) -> dict[int, float]:
    """The mean of the readable numbers on each prefix of an answer, by its number of tokens."""
    numbers: dict[int, list[float]] = {}
    for child in answer.children:
        score = child.scores.get(reward)
        if child.failure is None and score is not None and child.prefix is not None and "value" in score.metrics:
            numbers.setdefault(child.prefix, []).append(score.metrics["value"])
    return {prefix: math.fsum(own) / len(own) for prefix, own in numbers.items()}
