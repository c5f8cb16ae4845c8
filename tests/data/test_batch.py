"""A Batch: named tensors that are there or not, cut by rows, never changed."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from llmrl.batch import Batch
from llmrl.fields import tiny_data


def batch() -> Batch:
    """
    tokens    1 2 3 4 5 / 1 2 . . . / 1 2 3 . .
    """
    lengths = torch.tensor([5, 2, 3])
    attention_mask = torch.arange(5) < lengths[:, None]
    return Batch(
        token_ids=torch.where(attention_mask, torch.arange(1, 6), 0),
        attention_mask=attention_mask,
        group_ids=torch.tensor([4, 7, 4]),
        influence=torch.tensor([0.5, 1.5]),  # of the rewards: it has as many numbers as there are of them
        progress=torch.tensor(0.25),
        old_top_ids=torch.arange(30).reshape(3, 5, 2),
        old_outputs=torch.zeros(3, 5, 4),
    )


def test_a_field_is_an_attribute_and_one_that_nobody_provided_is_not_there():
    one = batch()
    assert one.group_ids.tolist() == [4, 7, 4] and one.data["group_ids"] is one.group_ids
    assert "group_ids" in one and "old_logprobs" not in one
    assert one.get("old_logprobs") is None and one.get("group_ids") is one.group_ids
    with pytest.raises(AttributeError, match="the batch has no old_logprobs; it has token_ids, attention_mask, "):
        _ = one.old_logprobs
    assert not hasattr(one, "values")
    assert len(one) == 3 and one.lengths.tolist() == [5, 2, 3]


def test_none_is_no_field():
    assert "values" not in Batch(group_ids=torch.tensor([0]), values=None)
    assert "influence" not in batch().with_(influence=None)


def test_with_makes_another_and_leaves_the_first_as_it_was():
    one = batch()
    more = one.with_(values=torch.ones(3, 5), group_ids=torch.tensor([0, 0, 0]))
    assert "values" in more and more.group_ids.tolist() == [0, 0, 0]
    assert "values" not in one and one.group_ids.tolist() == [4, 7, 4]
    assert more.token_ids is one.token_ids
    assert list(more.data)[:4] == list(one.data)[:4]  # a field that is replaced keeps its place


def test_rows_are_cut_to_the_longest_of_them_in_the_order_given():
    part = batch().rows(torch.tensor([2, 1]))
    assert part.token_ids.tolist() == [[1, 2, 3], [1, 2, 0]]
    assert part.attention_mask.tolist() == [[True, True, True], [True, True, False]]
    assert part.group_ids.tolist() == [4, 7]
    assert part.old_top_ids.tolist() == [[[20, 21], [22, 23], [24, 25]], [[10, 11], [12, 13], [14, 15]]]
    assert part.old_outputs.shape == (2, 3, 4)
    # what speaks of the step stays whole, also where it has as many numbers as the batch has rows
    assert part.influence.tolist() == [0.5, 1.5] and part.progress.item() == 0.25
    assert batch().with_(influence=torch.tensor([1.0, 2.0, 3.0])).rows(torch.tensor([0])).influence.tolist() == [
        1,
        2,
        3,
    ]


def test_no_rows_are_a_batch_too():
    none = batch().rows(torch.zeros(0, dtype=torch.int64))
    assert len(none) == 0 and none.token_ids.shape == (0, 1) and none.old_top_ids.shape == (0, 1, 2)


@pytest.mark.parametrize(
    ("shape", "cut"), [((), ()), ((3,), (2,)), ((3, 5), (2, 3)), ((3, 5, 2), (2, 3, 2)), ((3, 5, 2, 2), (2, 3, 2, 2))]
)
def test_a_users_own_field_is_cut_by_its_dimensions(shape, cut):
    own = torch.arange(math.prod(shape)).reshape(shape)
    part = batch().with_(mine=own).rows(torch.tensor([2, 1])).mine
    assert part.shape == cut
    if shape:
        assert part[0].flatten()[0] == own[2].flatten()[0]


def test_every_field_of_the_table_is_cut_as_its_shape_says():
    """The second row of the tiny batch has 2 of its 4 columns."""
    known = {name: value for name, value in tiny_data(outputs=3, rewards=2).items() if isinstance(value, torch.Tensor)}
    whole = Batch(**known)
    part = whole.rows(torch.tensor([1]))
    assert whole.lengths.tolist() == [4, 2, 3, 4]
    for name in (
        "token_ids",
        "rewards",
        "uniform_noise",
        "old_router_ids",
        "old_outputs",
        "old_top_logprobs",
        "outputs",
    ):
        assert part.data[name].shape == (1, 2, *whole.data[name].shape[2:])
        assert torch.equal(part.data[name], whole.data[name][1:2, :2])
    for name in ("group_ids", "correct", "reward_components", "grades", "greedy_rewards"):
        assert torch.equal(part.data[name], whole.data[name][1:2])
    for name in ("influence", "progress"):
        assert part.data[name] is whole.data[name]


def test_a_batch_moves_and_is_pickled_whole():
    moved = batch().to(torch.device("meta"))
    assert {tensor.device.type for tensor in moved.data.values()} == {"meta"}
    again = pickle.loads(pickle.dumps(batch()))
    assert all(torch.equal(again.data[name], tensor) for name, tensor in batch().data.items())
