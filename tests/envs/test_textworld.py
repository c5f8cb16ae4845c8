"""textworld's games as worlds: a game of each seed, made once; limits apart from ends; commands to the game alone."""

from __future__ import annotations

import asyncio
import re

import pytest

from llmrl.envs import textworld_games
from llmrl.envs.catalogue import CATALOGUE
from llmrl.envs.host import Resident
from llmrl.envs.textworld import Play
from llmrl.errors import RecipeError
from llmrl.pieces import resolve

OPTIONS = {"challenge": None, "rooms": 1, "objects": 2, "quest_length": 2, "quest_breadth": 1, "parallel_quests": 1}
PLAIN = {"max_steps": 50, "admissible": False, "normalized": False, "hidden": False}


@pytest.fixture(scope="module")
def game(tmp_path_factory):
    return asyncio.run(textworld_games.game_file(OPTIONS, 5, tmp_path_factory.mktemp("games")))


def begun(path, **given):
    world = Resident(Play, {"path": str(path)} | PLAIN | given)
    return world, world.reset(5)


def test_a_game_is_made_once(game, monkeypatch):
    assert {file.name for file in game.parent.iterdir()} == {game.name, game.with_suffix(".json").name}

    async def refuse(*args):
        raise AssertionError("made twice")

    monkeypatch.setattr(textworld_games.Workers, "run", refuse)
    assert asyncio.run(textworld_games.game_file(OPTIONS, 5, game.parent)) == game
    for options, seed in ((OPTIONS, 6), (OPTIONS | {"objects": 3}, 5)):
        with pytest.raises(AssertionError, match="made twice"):
            asyncio.run(textworld_games.game_file(options, seed, game.parent))


def test_a_game_is_won_by_the_commands_that_win(game):
    world, opening = begun(game, hidden=True)
    assert "objective" in opening.text.lower() or "you" in opening.text.lower()
    assert "$$" not in opening.text and not opening.text.endswith("-=0/1") and opening.solved is False
    commands = opening.hidden.removeprefix("Commands that win: ").split(", ")
    outcomes = [world.act(command) for command in commands]
    assert sum(one.reward for one in outcomes) == 1
    end = outcomes[-1]
    assert (end.terminated, end.truncated, end.solved, end.valid) == (True, False, True, True)
    assert "RESTART" not in end.text
    with pytest.raises(RuntimeError, match="after the end"):
        world.act("look")


def test_a_limit_truncates(game):
    world, _ = begun(game, max_steps=2)
    assert not world.act("look").truncated
    cut = world.act("look")
    assert (cut.terminated, cut.truncated, cut.solved) == (False, True, False)


def test_commands_that_are_none_are_invalid_and_never_reach_the_interpreter(game, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    world, opening = begun(game, admissible=True)
    assert "Admissible commands: " in opening.text and "look" in opening.text
    unknown = world.act("dance wildly")
    assert (unknown.valid, unknown.reward, unknown.state) == (False, 0, opening.state)
    for command in ("save", "Restore", "restart", "quit", "undo", "tw-trace-actions", "look. look", "", "x" * 101):
        outcome = world.act(command)
        assert (outcome.valid, outcome.reward, outcome.state) == (False, None, opening.state), command
    assert not list(tmp_path.iterdir())  # `save` would write a file
    assert world.act("look").valid


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"challenge": "tw-coking"}, "no challenge of textworld named 'tw-coking'; did you mean 'tw-cooking'?"),
        ({"settings": {"level": 1}}, "settings are those of a challenge; name one"),
        ({"rooms": 0}, "env.textworld.rooms: 0 is not valid"),
    ],
)
def test_a_faulty_setting_is_one_message(given, fault):
    with pytest.raises(RecipeError, match=re.escape(fault)):
        resolve({"textworld": given}, CATALOGUE, key="env", what="environment")
