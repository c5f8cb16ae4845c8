"""Trajectories kept on disk and drawn again: what is kept, how often it is drawn, and going back to a checkpoint."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from llmrl.data.packing import pack
from llmrl.data.trajectory_records import record_of, trajectory_of
from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, RunStopped
from llmrl.recipe_replay import Replayed
from llmrl.train.replay import Replay
from llmrl.types import ACTOR, ENVIRONMENT, Group, Prompt, Score, Trajectory, Turn


def trajectory(number: int, turns: int = 2) -> Trajectory:
    """A conversation whose first token is its number."""
    prompt = Prompt(f"p{number}", (number, 1), "text", {"answer": "7", "deep": [1, {"a": None}]})
    said: list[Turn] = []
    for turn in range(turns):
        said += [
            Turn(ACTOR, [10 + turn, 11], [-0.1, -1 / 3], policy_version=number, reward=0.1 * turn, state=f"s{turn}"),
            Turn(ENVIRONMENT, [5]),
        ]
    scores = {"judge": Score(0.5, True, turn_values=(0.25, 0.5), token_values={1: 0.75}, metrics={"m": 1.0})}
    return Trajectory(
        prompt,
        said[:-1],
        "stop",
        "text",
        scores,
        {"judge": 0.5},
        0.5,
        token_rewards={1: 0.75},
        hidden="map",
        solved=True,
    )


def replay(folder: Path, *, referenced: bool = False, **settings) -> Replay:
    return Replay(Replayed.model_validate(settings), folder / "replay" / "rl" / "actor", Ranks(), referenced=referenced)


def held(one: Replay) -> list[int]:
    """The numbers of the trajectories, by the units that are held."""
    return [one.trajectory(record).prompt.token_ids[0] for record in dict.fromkeys(one._owners.tolist())]


def files(one: Replay) -> list[str]:
    return sorted(path.name for path in one.records.folder.iterdir())


def test_a_record_is_the_trajectory(tmp_path):
    one = trajectory(3)
    kept = replay(tmp_path)
    kept.add([one])
    found = kept.trajectory(0)
    assert found == one and record_of(found) == record_of(one)
    batches = [pack([Group(each.prompt, [each])], ACTOR) for each in (one, found)]
    assert all(
        np.array_equal(tensor.numpy(), batches[1].data[name].numpy(), equal_nan=tensor.is_floating_point())
        for name, tensor in batches[0].data.items()
    )
    assert trajectory_of(record_of(found)).hidden == "map"


def test_the_oldest_go_with_their_segments(tmp_path):
    kept = replay(tmp_path, capacity=8)  # segments of 1
    for step in range(5):
        kept.add([trajectory(4 * step + place) for place in range(4)])
    assert held(kept) == list(range(12, 20)) and kept.size == 8
    assert files(kept) == [f"{number:012d}.jsonl" for number in range(12, 20)]


def test_what_a_checkpoint_names_stays_on_disk_until_none_does(tmp_path):
    kept = replay(tmp_path, capacity=2, referenced=True)
    kept.add([trajectory(0), trajectory(1)])
    state = kept.state_dict()
    kept.add([trajectory(2), trajectory(3)])
    assert held(kept) == [2, 3] and len(files(kept)) == 4
    other = replay(tmp_path, capacity=2, referenced=True)
    other.load_state_dict(state)
    assert held(other) == [0, 1] and len(files(other)) == 2  # what came after the checkpoint is cut off
    other.add([trajectory(2), trajectory(3)])
    other.records.prune(2)
    with pytest.raises(RecipeError, match="record 0 of 2 is not there"):
        replay(tmp_path, capacity=2).load_state_dict(state)


def test_a_torn_record_is_cut_off_and_the_draws_go_on_as_they_would_have(tmp_path):
    kept = replay(tmp_path, capacity=20, batch=4, by="turns", prioritised={}, referenced=True)
    kept.add([trajectory(number) for number in range(5)])
    kept.prioritise([0, 3], [2.0, 0.0])
    state = kept.state_dict()
    kept.add([trajectory(5)])
    expected = kept.draw(seed=7)
    path = kept.records.folder / files(kept)[-1]
    os.truncate(path, path.stat().st_size - 3)  # killed while it was written
    other = replay(tmp_path, capacity=20, batch=4, by="turns", prioritised={}, referenced=True)
    other.load_state_dict(state)
    other.add([trajectory(5)])
    assert other.draw(seed=7) == expected and other.draw(seed=8) != expected
    assert held(other) == [*range(6)]


def test_draws_follow_the_priorities_and_weights_take_the_bias_away(tmp_path):
    settings = {"capacity": 4, "batch": 4000, "fresh": 0.25, "prioritised": {"alpha": 1.0, "beta": 1.0, "floor": 1.0}}
    kept = replay(tmp_path, **settings)
    kept.add([trajectory(number) for number in range(3)])
    kept.prioritise([0, 1, 2], [0.0, 1.0, 3.0])  # priorities 1, 2, 4; the new one's is 4: chances 1, 2, 4, 4 of 11
    kept.add([trajectory(3)])
    drawn = kept.draw(seed=0)
    fresh, old = drawn[:1000], drawn[1000:]
    assert {one.record for one in fresh} == {3} and {one.weight for one in fresh} == {1.0}
    counts = np.bincount([one.record for one in old], minlength=4)
    assert np.abs(counts / 3000 - np.array([1, 2, 4, 4]) / 11).max() < 0.03  # standard error .009
    assert {(one.record, one.weight) for one in old} == {(0, 1.0), (1, 0.5), (2, 0.25), (3, 0.25)}
    # weighted, every trajectory counts the same: within 4 standard errors of a quarter
    mass = np.bincount([one.record for one in old], [one.weight for one in old], minlength=4)
    assert np.abs(mass / mass.sum() - 0.25).max() < 0.06
    even = replay(tmp_path / "even", capacity=4, batch=2000, fresh=0.0)
    even.add([trajectory(number) for number in range(4)])
    assert np.abs(np.bincount([one.record for one in even.draw(seed=1)]) / 2000 - 0.25).max() < 0.05


def test_turns_are_units_of_their_own(tmp_path):
    kept = replay(tmp_path, capacity=2, by="turns", fresh=0.0, batch=50)
    kept.add([trajectory(0, turns=1), trajectory(1, turns=3)])
    assert {(one.unit, one.record, one.turn) for one in kept.draw(seed=0)} == {
        (0, 0, 0),
        (1, 1, 0),
        (2, 1, 1),
        (3, 1, 2),
    }
    kept.add([trajectory(2, turns=2)])
    assert {(one.unit, one.record, one.turn) for one in kept.draw(seed=0)} == {
        (1, 1, 0), (2, 1, 1), (3, 1, 2), (4, 2, 0), (5, 2, 1)
    }  # fmt: skip


def test_a_full_disk_stops_the_run_with_its_checkpoints(tmp_path, monkeypatch):
    kept = replay(tmp_path)
    kept.add([trajectory(0)])

    def full(records):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(kept.records, "append", full)
    with pytest.raises(
        RunStopped, match=r"replay actor could not be written \(the disk is full\); earlier checkpoints"
    ):
        kept.add([trajectory(1)])
