"""The parts of a run that workers of the benchmark measure, and what they measure them on."""

from __future__ import annotations

import pytest

from llmrl.bench.memory import estimate
from llmrl.bench.padding import batch_of
from llmrl.bench.parts import Parts
from llmrl.bench.work import CASES, lay_out
from llmrl.errors import RunStopped
from llmrl.train.provide import provide
from llmrl.train.step import update
from llmrl.types import ACTOR


def test_an_actor_made_of_a_case_trains_on_random_groups(tmp_path, monkeypatch):
    lay_out(CASES["tiny"], tmp_path)
    monkeypatch.chdir(tmp_path)
    parts = Parts.of(tmp_path / "recipe.json", "regularizers=null")
    given = {"groups": 2, "group_size": 3, "prompt_tokens": 5, "completion_tokens": 4}
    batch = batch_of(given)
    assert batch.token_ids.shape == (6, 9) and batch.response_mask.sum() == 24
    assert (batch.token_ids[:3, :5] == batch.token_ids[0, :5]).all()  # a group shares its prompt
    assert batch.token_ids.min() >= 3  # no special token
    assert parts.actor.name == ACTOR and parts.actor.reference is None
    assert update(parts.actor, provide(parts.actor, batch), seed=0)["trajectories"] == 6


def test_the_estimate_is_read_from_the_checks_own_line():
    assert estimate("  memory  weights 1.0 GiB\n  memory  in all           2.50 GiB; the machine has 23 GiB\n") == 2.5
    assert estimate("  memory  in all           512 MiB in each of 2 processes") == 0.5
    with pytest.raises(RunStopped, match="no estimate"):
        estimate("memory: none")
