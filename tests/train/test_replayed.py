"""A source that holds another one, and brings groups of earlier steps beside the new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted import PARAMS, PROMPTS, ids, make, piece
from training_cases import make_recipe

from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError
from llmrl.recipe import Rollout
from llmrl.resolve import resolve_pieces
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.selection import everything
from llmrl.train.replayed import Replayed, replayed
from llmrl.types import ACTOR

ROLLOUT = Rollout(prompts_per_step=2, group_size=2)


def source(folder: Path, **settings: Any) -> Replayed:
    collector = make()
    keep = {ACTOR: piece(everything)}
    parts = PromptStream(PROMPTS, 0, False), collector, Evenly(collector, 2), keep, ROLLOUT, lambda seed: PARAMS
    return replayed(*parts, Ranks(), folder / "replay" / "groups", **settings)


def test_groups_of_earlier_steps_stand_beside_the_new_ones_and_go_on_exactly(tmp_path):
    first = source(tmp_path, capacity=3, share=0.5)
    assert ids(first.collect(1).groups) == ["p0", "p1"]  # nothing is kept yet
    second = first.collect(2)
    assert ids(second.groups[:2]) == ["p2", "p3"] and sorted(ids(second.groups[2:])) == ["p0", "p1"]
    assert second.metrics["replay/trajectories"] == 4 and ids(second.sampled) == ["p2", "p3"]
    batch = pack(second.groups, ACTOR)
    assert batch.from_policy.tolist() == [True] * 4 + [False] * 4
    assert batch.rollout_logprobs[4:].any() and batch.rewards[4:].any()
    state = first.state_dict()
    expected = [ids(first.collect(seed).groups) for seed in (3, 4)]
    assert set(expected[0][2:]) <= {"p1", "p2", "p3"}  # the oldest went
    other = source(tmp_path, capacity=3, share=0.5)
    other.load_state_dict(state)
    assert [ids(other.collect(seed).groups) for seed in (3, 4)] == expected


def test_a_loss_that_takes_them_for_its_own_is_refused():
    pieces = {"learn_from": {"replayed": {}}, "advantage": "grpo", "policy_loss": "ppo_clip"}
    with pytest.raises(RecipeError, match="learn_from: replayed gives trajectories of older policies, which policy"):
        resolve_pieces(make_recipe(**pieces))
    resolve_pieces(make_recipe(**pieces, log_ratio="behaviour"))
    resolve_pieces(make_recipe(**pieces, token_weights={"truncated_is": {}}))
