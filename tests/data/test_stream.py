"""Every prompt exactly once an epoch, whatever the sizes taken; an interrupted stream equals an uninterrupted one."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrl.data.stream import PromptStream, balanced_epoch
from llmrl.errors import RecipeError
from llmrl.types import Prompt

counts = st.integers(1, 7)
seeds = st.integers(0, 100)
sizes = st.lists(st.integers(0, 12), max_size=12)


def prompts(count: int, first_token: int = 0) -> list[Prompt]:
    return [Prompt(f"train:{i}", (first_token + i,), f"q{i}", {"answer": i}) for i in range(count)]


def ids(taken: list[Prompt]) -> list[str]:
    return [prompt.id for prompt in taken]


@given(counts, seeds, sizes, st.booleans())
def test_each_epoch_holds_every_prompt_exactly_once(count, seed, sizes, shuffle):
    stream = PromptStream(prompts(count), seed, shuffle)
    taken = [prompt_id for size in sizes for prompt_id in ids(stream.take(size))]
    assert len(taken) == sum(sizes)
    assert stream.epoch == pytest.approx(len(taken) / count)
    once = Counter(ids(prompts(count)))
    for start in range(0, len(taken) - count + 1, count):
        assert Counter(taken[start : start + count]) == once
    last = taken[len(taken) - len(taken) % count :]
    assert len(set(last)) == len(last)


@given(counts, seeds, sizes, sizes, st.booleans())
def test_resumed_equals_uninterrupted_whatever_the_sizes(count, seed, before, after, shuffle):
    whole = PromptStream(prompts(count), seed, shuffle).take(sum(before) + sum(after))
    first = PromptStream(prompts(count), seed, shuffle)
    taken = [prompt for size in before for prompt in first.take(size)]
    second = PromptStream(prompts(count), seed, shuffle)
    second.take(3)
    second.load_state_dict(first.state_dict())
    assert second.epoch == first.epoch
    taken += [prompt for size in after for prompt in second.take(size)]
    assert ids(taken) == ids(whole)


@given(counts, seeds, st.integers(1, 9), st.integers(1, 4))
def test_whole_epochs_end_with_what_is_left(count, seed, size, epochs):
    stream, crossing = (PromptStream(prompts(count), seed, whole_epochs=whole) for whole in (True, False))
    steps = -(-count // size)
    taken = []
    for step in range(steps * epochs):
        foretold = stream.coming(size)
        taken.append(ids(stream.take(size)))
        assert len(taken[-1]) == foretold == (count - size * (steps - 1) if step % steps == steps - 1 else size)
    assert stream.epoch == epochs
    assert [one for step in taken for one in step] == ids(crossing.take(count * epochs))


def test_without_shuffle_the_order_is_the_rows_order():
    stream = PromptStream(prompts(3), seed=5, shuffle=False)
    assert ids(stream.take(5)) == ["train:0", "train:1", "train:2", "train:0", "train:1"]
    assert stream.epoch == pytest.approx(5 / 3)


def test_epochs_and_seeds_have_different_orders():
    stream = PromptStream(prompts(20), seed=0)
    first, second = ids(stream.take(20)), ids(stream.take(20))
    assert first != second and first != ids(prompts(20))
    assert ids(PromptStream(prompts(20), seed=1).take(20)) != first
    assert ids(PromptStream(prompts(20), seed=0).take(20)) == first


@pytest.mark.parametrize("changed", [prompts(4), prompts(3, first_token=9)], ids=["a row more", "other text"])
def test_resuming_on_changed_data_is_refused(changed):
    state = PromptStream(prompts(3), seed=0).state_dict()
    with pytest.raises(RecipeError, match=r"data\.train: the prompts are not those the checkpoint was made with"):
        PromptStream(changed, seed=0).load_state_dict(state)


def test_resuming_with_another_seed_or_order_is_refused():
    state = PromptStream(prompts(3), seed=0).state_dict()
    with pytest.raises(RecipeError, match="seed: 1, but the checkpoint was made with 0"):
        PromptStream(prompts(3), seed=1).load_state_dict(state)
    with pytest.raises(RecipeError, match="shuffle: False, but the checkpoint was made with True"):
        PromptStream(prompts(3), seed=0, shuffle=False).load_state_dict(state)


def test_no_prompts():
    with pytest.raises(RecipeError, match="no prompts"):
        PromptStream([], seed=0)


TWELVE = prompts(12)


@pytest.mark.parametrize("shuffle", [True, False])
def test_labels_are_spread_evenly_whatever_the_order_of_the_rows(shuffle):
    labels = {prompt.id: n < 9 for n, prompt in enumerate(TWELVE)}  # nine of one label, then three of another
    stream = PromptStream(TWELVE, 0, shuffle, labels)
    for _ in range(3):
        epoch = [labels[prompt.id] for prompt in stream.take(12)]
        assert sorted(epoch) == [False] * 3 + [True] * 9
        assert all(epoch[n : n + 4].count(False) == 1 for n in (0, 4, 8))
    with pytest.raises(RecipeError, match="the prompts are not those"):
        PromptStream(TWELVE, 0, shuffle).load_state_dict(stream.state_dict())


@given(st.lists(st.integers(0, 2), min_size=3, max_size=20), seeds, st.booleans(), st.integers(1, 3))
def test_balanced_labels_take_turns(labels, seed, shuffle, per_label):
    rows = prompts(len(labels))
    label_of = {prompt.id: label for prompt, label in zip(rows, labels, strict=True)}
    kinds, least = len(set(labels)), min(Counter(labels).values())
    stream = PromptStream(rows, seed, shuffle, label_of, balanced=True)
    odd = stream.take(1)  # also what does not begin with the first label is balanced
    for _ in range(7):
        taken = [label_of[prompt.id] for prompt in stream.take(kinds * per_label)]
        assert set(Counter(taken).values()) == {per_label}
    assert stream.epoch == pytest.approx((7 * kinds * per_label + len(odd)) / (kinds * least))


def test_an_epoch_has_as_many_of_each_label_as_the_rarest_has_and_the_next_goes_on_with_the_others():
    labels = {prompt.id: n >= 9 for n, prompt in enumerate(TWELVE)}  # 0 to 8, and 9 to 11
    stream = PromptStream(TWELVE, 0, False, labels, balanced=True)
    assert ids(stream.take(6)) == [f"train:{n}" for n in (0, 9, 1, 10, 2, 11)]
    assert ids(stream.take(6)) == [f"train:{n}" for n in (3, 9, 4, 10, 5, 11)]
    assert ids(stream.take(8)) == [f"train:{n}" for n in (6, 9, 7, 10, 8, 11, 0, 9)]
    assert balanced_epoch(list(labels.values())) == 6
    again = PromptStream(TWELVE, 0, False, labels, balanced=True)
    again.load_state_dict(stream.state_dict())
    assert ids(again.take(9)) == ids(stream.take(9))
    whole = PromptStream(TWELVE, 0, True, labels, balanced=True, whole_epochs=True)
    assert [len(whole.take(4)) for _ in range(4)] == [4, 2, 4, 2]
    with pytest.raises(RecipeError, match="the prompts are not those"):
        PromptStream(TWELVE, 0, False, labels).load_state_dict(stream.state_dict())
