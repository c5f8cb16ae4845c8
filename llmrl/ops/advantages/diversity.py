"""Credit that shrinks where an answer repeats others of its group."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from llmrl.marks import provides
from llmrl.ops.advantages.group import grpo
from llmrl.ops.shared.ranges import refuse_negative
from llmrl.types import Credit


@provides("similarity")
def similarity(groups: Any) -> Tensor:
    """Each trajectory's similarities to the others of its group, summed: [N].

        s_i = sum over j != i of |B_i & B_j| / |B_i | B_j|        B: the pairs of neighbouring tokens of an answer

    The paper takes the cosine of sentence embeddings; pairs of tokens need no second model. Two answers without a pair
    are equal. Source: DRA-GRPO, arXiv 2505.09655.
    """
    found = []
    for group in groups:
        answers = [[token for turn in one.own_turns for token in turn.token_ids] for one in group.trajectories]
        pairs = [set(pairwise(answer)) for answer in answers]
        for index, own in enumerate(pairs):
            others = [other for place, other in enumerate(pairs) if place != index]
            found.append(sum(len(own & other) / len(own | other) if own | other else 1.0 for other in others))
    return torch.tensor(found)


def diverse_grpo(
    rewards: Tensor, response_mask: Tensor, group_ids: Tensor, similarity: Tensor, *, weight: float = 1.0
) -> Credit:
    """GRPO on rewards that are divided by the answer's similarity to its group.

        R'_i = R_i / (1 + weight s_i)

    rewards, response_mask: [N, T]; group_ids, similarity: [N]. Raises ValueError for a weight below 0. Source:
    DRA-GRPO, arXiv 2505.09655.
    """
    refuse_negative(weight=weight)
    return grpo(rewards / (1 + weight * similarity.float().unsqueeze(1)), response_mask, group_ids)
