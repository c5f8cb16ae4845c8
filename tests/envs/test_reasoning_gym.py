"""Tries at a reasoning-gym entry: rewards that add up to the best score, and what a wrong answer is told."""

from __future__ import annotations

import re

import pytest
from reasoning_gym import create_dataset

from llmrl.envs.catalogue import CATALOGUE
from llmrl.envs.reasoning_gym import Tries
from llmrl.errors import RecipeError
from llmrl.pieces import resolve

ENTRY = create_dataset("countdown", size=1, seed=1)[0]  # wrong expressions score 0.05, other texts 0.01


def begun(**given):
    settings = {"tries": 3, "tell": "{score} of 1, best {best}, {left} left", "cost": 0.0, "extract": None}
    world = Tries(row=ENTRY, tag="answer", **settings | given)
    return world, world.reset(0)


def test_gains_add_up_to_the_best_score():
    world, opening = begun()
    assert (opening.text, opening.solved, opening.hidden) == ("", False, f"The answer is: {ENTRY['answer']}")
    outcomes = [world.act(answer) for answer in ("5 + 3", "none", str(ENTRY["answer"]))]
    assert [one.reward for one in outcomes] == pytest.approx([0.05, 0.0, 0.95])
    assert [one.text for one in outcomes[:2]] == ["0.05 of 1, best 0.05, 2 left", "0.01 of 1, best 0.05, 1 left"]
    assert [one.terminated for one in outcomes] == [False, False, True] and outcomes[-1].solved
    assert outcomes[-1].metrics == {"best_score": 1.0}


def test_the_last_wrong_try_ends_unsolved_and_each_costs():
    world, _ = begun(tries=2, cost=0.1, extract="tag")
    assert not world.act("no tag").valid  # and no try
    outcomes = [world.act("<answer>5 + 3</answer>") for _ in range(2)]
    assert [one.reward for one in outcomes] == pytest.approx([-0.05, -0.1])
    assert (outcomes[-1].terminated, outcomes[-1].solved) == (True, False)
    with pytest.raises(RuntimeError, match="after the last try"):
        world.act("<answer>1</answer>")


def test_a_template_of_other_names_is_refused():
    with pytest.raises(RecipeError, match=re.escape("env.reasoning_gym: no column 'skore'")):
        resolve({"reasoning_gym": {"tell": "{skore}"}}, CATALOGUE, key="env", what="environment")
