"""How far the policy has moved on completions that answer other prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmrl.batch import Batch


def mismatched_kl(batch: Batch, policy: Any, reference: Any) -> Tensor:
    """The mean log ratio to the reference of completions after prompts of other groups, at least 0: a single number.

        z = max(0, mean over i of log pi(y_j | x_i) - log pi_ref(y_j | x_i))

    y_j: a completion of the group after that of prompt x_i, for the last group one of the first group. No gradient.
    Raises ValueError for a batch of one group. Source: KTO, arXiv 2402.01306.
    """
    mismatched = _mismatched(batch)
    mask = mismatched.response_mask
    ratios = policy.measure(mismatched, "logprobs")["logprobs"] - reference.measure(mismatched, "logprobs")["logprobs"]
    return torch.where(mask, ratios, 0.0).sum(dim=1).mean().clamp(min=0)


def _mismatched(batch: Batch) -> Batch:
    """Prompts with the completions of other groups, as a batch that models can measure."""
    rows = batch.response_mask.any(dim=1).nonzero()[:, 0].tolist()
    groups: dict[int, list[int]] = {}
    for row in rows:
        groups.setdefault(int(batch.group_ids[row]), []).append(row)
    if len(groups) < 2:
        raise ValueError("completions of one prompt alone; expected at least two prompts in a step")
    order = list(groups)
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    starts = batch.response_mask.int().argmax(dim=1).tolist()
    made: list[tuple[Tensor, Tensor]] = []
    for group, own in groups.items():
        for place, row in enumerate(own):
            others = groups[following[group]]
            other = others[place % len(others)]
            said = slice(starts[other], int(batch.lengths[other]))
            prompt = batch.token_ids[row, : starts[row]]
            mask = torch.cat([torch.zeros(len(prompt), dtype=torch.bool), batch.response_mask[other, said]])
            made.append((torch.cat([prompt, batch.token_ids[other, said]]), mask))
    lengths = torch.tensor([len(mask) for _, mask in made])
    return Batch(
        token_ids=torch.nn.utils.rnn.pad_sequence([token_ids for token_ids, _ in made], batch_first=True),
        attention_mask=torch.arange(int(lengths.max()))[None, :] < lengths[:, None],
        response_mask=torch.nn.utils.rnn.pad_sequence([mask for _, mask in made], batch_first=True),
        group_ids=batch.group_ids[rows],
    )
