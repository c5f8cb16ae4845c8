"""The value of what follows a trajectory that a limit cut."""

from __future__ import annotations

import torch

from llmrl.batch import Batch
from llmrl.providers.models import final_values


class PrefixSums:
    """A critic whose value of a prefix is the sum of its tokens; at most `rows` rows were measured."""

    def __init__(self):
        self.rows = 0

    def measure(self, batch, name):
        self.rows += len(batch)
        known = torch.where(batch.attention_mask, batch.token_ids, 1000).float()
        before = torch.nn.functional.pad(known.cumsum(dim=1)[:, :-1], (1, 0))
        return {name: torch.where(batch.response_mask, before, 0.0)[..., None]}


def given(cut, scores=0, **settings):
    attention = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]]).bool()
    batch = Batch(
        token_ids=torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [8, 9, 0, 0]]),
        attention_mask=attention,
        response_mask=attention & (torch.arange(4) > 0),
        group_ids=torch.zeros(3, dtype=torch.int64),
        cut_short=None if cut is None else torch.tensor(cut),
    )
    critic = PrefixSums()
    components = torch.zeros(3, scores)
    found = final_values(batch, components, critic, lambda data: data["outputs"][..., 0], **settings)
    return found.tolist(), critic.rows


def test_the_critic_reads_everything_up_to_the_last_token_of_a_cut_trajectory():
    assert given([True, True, False]) == ([10.0, 18.0, 0.0], 2)
    assert given([False, False, True]) == ([0.0, 0.0, 17.0], 1)


def test_what_ended_or_was_scored_as_a_whole_has_nothing_ahead():
    nothing = ([0.0, 0.0, 0.0], 0)
    assert given([False, False, False]) == given(None) == nothing
    assert given([True, True, True], scores=1) == nothing
    assert given([True, False, False], scores=1, also_scored=True) == ([10.0, 0.0, 0.0], 1)
