"""Environments of gymnasium as worlds: named actions, texts of observations, ends, and what is refused."""

from __future__ import annotations

import re
import warnings

import pytest

from llmrl.envs.catalogue import CATALOGUE
from llmrl.envs.gymnasium import Gymnasium
from llmrl.envs.host import Resident
from llmrl.errors import RecipeError
from llmrl.pieces import resolve

LAKE = {"id": "FrozenLake-v1", "settings": {"is_slippery": False}, "actions": ["left", "down", "right", "up"]}


def begun(seed=0, **given):
    world = Resident(Gymnasium, {"settings": {}} | given)
    return world, world.reset(seed)


def test_actions_have_names_and_the_drawing_is_text():
    world, opening = begun(**LAKE, observation="You are at {observation}.\n{render}", solved_from=1.0)
    assert opening.text == "You are at 0.\n[S]FFF\nFHFH\nFFFH\nHFFG" and opening.solved is False
    refused = world.act("fly")
    assert (refused.valid, refused.reward) == (False, None)
    assert refused.text == "There is no such action. Valid actions: left, down, right, up."
    outcomes = [world.act(action) for action in ("Down", " down ", "right", "right", "down", "right")]
    assert outcomes[0].text.startswith("You are at 4.")
    assert [one.reward for one in outcomes] == [0, 0, 0, 0, 0, 1]
    assert (outcomes[-1].terminated, outcomes[-1].truncated, outcomes[-1].solved) == (True, False, True)
    with pytest.raises(RuntimeError, match="after the end"):  # gymnasium itself returns the same end again
        world.act("down")


def test_a_limit_truncates_and_does_not_terminate():
    world, _ = begun(**LAKE, max_steps=2, solved_from=1.0)
    world.act("left")
    cut = world.act("left")
    assert (cut.terminated, cut.truncated, cut.solved) == (False, True, False)


def test_a_seed_begins_the_same_episode_and_a_second_episode_is_no_continuation():
    hands = [begun(seed, id="Blackjack-v1")[1].text for seed in (3, 3, 4, 5, 6)]
    assert hands[0] == hands[1] and len(set(hands)) > 1


def test_own_environments_are_found_by_module_and_id_or_function_and_their_texts_are_not_checked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a space in a Text space
        world, opening = begun(id="foreign_worlds:Corridor-v0", settings={"length": 2}, actions=["back", "on"])
        assert opening.text == "place: at the start, here"
        assert world.act("on").text == "place: place 1!"
        ended = world.act("on")
        assert (ended.terminated, ended.solved) == (True, True)
        _, shouted = begun(id="foreign_worlds:Corridor", observation="foreign_worlds:shout", max_steps=2)
        assert shouted.text == "AT THE START, HERE"
        _, filled = begun(id="foreign_worlds:Corridor", observation="{place} after {info.steps}")
        assert filled.text == "at the start, here after 0"
        world, _ = begun(id="foreign_worlds:Echo")
        assert world.act("hello, world!\n").text == "you said: hello, world!\n"
    world, _ = begun(id="foreign_worlds:Corridor", max_steps=2)
    assert not world.act("1").truncated and world.act("1").truncated


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"id": "foreign_worlds:vector"}, "foreign_worlds:vector is a vector environment"),
        ({"id": "CartPole-v1", "actions": ["left"]}, "actions: 1 names, but the environment has 2 actions"),
        ({"id": "Pendulum-v1"}, "is neither discrete nor text; give `action`"),
    ],
)
def test_an_environment_that_cannot_be_played_is_refused_when_it_is_made(given, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        begun(**given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"id": "FrozenLak-v1"}, "no environment of gymnasium named 'FrozenLak-v1'; did you mean 'FrozenLake-v1'?"),
        ({"id": "nowhere:Lake"}, "cannot import 'nowhere:Lake': ModuleNotFoundError"),
        ({"id": "foreign_worlds:Sea"}, "'foreign_worlds:Sea' is no function"),
        ({"id": "CartPole-v1", "actions": ["a", "b"], "action": "os:getcwd"}, "actions and action exclude each other"),
        ({"id": "CartPole-v1", "observation": "{a"}, "single '{' at character 0"),
        ({"id": "CartPole-v1", "action": ""}, "action: '' is not valid"),
    ],
)
def test_a_faulty_setting_is_one_message(given, told):
    with pytest.raises(RecipeError, match=re.escape(told)):
        resolve({"gymnasium": given}, CATALOGUE, key="env", what="environment")


@pytest.mark.parametrize(("name", "given"), [("gymnasium", {"id": "x"}), ("textarena", {"id": "x"}), ("textworld", {})])
def test_a_missing_package_is_named(name, given, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    told = f"env.{name}: the package {name} is not installed; install it with: pip install 'llmrl[envs]'"
    with pytest.raises(RecipeError, match=re.escape(told)):
        resolve({name: given}, CATALOGUE, key="env", what="environment")
