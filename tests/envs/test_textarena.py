"""textarena's games as worlds: own random streams, no memory of an earlier game, and invalid moves that pay nobody."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from llmrl.envs.catalogue import CATALOGUE
from llmrl.envs.host import Resident
from llmrl.envs.textarena import Textarena
from llmrl.errors import RecipeError
from llmrl.pieces import resolve
from llmrl.recipe_file import load_plan
from llmrl.resolve import faults_of_play, resolve_pieces

NUMBERS = "GuessTheNumber-v0"
TWO = ["actor", "opponent"]


def begun(seed, id=NUMBERS, players=("actor",), **given):
    world = Resident(Textarena, {"id": id, "settings": {}, "players": list(players)} | given)
    return world, world.reset(seed)


def told(seed, beside=()):
    """A game of pig dice, which draws while it is played, and others that are played in turn with it."""
    games = [begun(one, "PigDice-v0", TWO) for one in (seed, *beside)]
    texts = [games[0][1].text]
    for _ in range(6):
        outcomes = [world.act("[roll]") for world, _ in games]
        texts.append(outcomes[0].text)
    return texts


def test_a_game_is_the_same_alone_and_beside_others():
    alone = told(7)
    assert told(7, beside=(8, 9)) == alone
    assert len({tuple(told(seed)) for seed in (7, 8, 9)}) == 3


def test_a_role_is_told_what_is_new_and_its_own_moves_are_not_repeated():
    world, opening = begun(3)
    assert opening.text.startswith("You are Player 0.") and opening.solved is False
    for guess in ("4", "[15]"):
        outcome = world.act(guess)
        assert re.fullmatch(r"The target number is (higher|lower)\.", outcome.text), outcome.text
    _, second = begun(3)
    assert second.text == opening.text


def test_invalid_moves_change_nothing_and_are_left_to_the_recipe():
    world, _ = begun(3)
    world.act("[4]")
    refused = [world.act("no number") for _ in range(5)]
    assert {(one.valid, one.terminated, one.reward) for one in refused} == {(False, False, None)}
    assert "did not respond with valid '[number]'" in refused[0].text
    outcomes = [world.act(f"[{guess}]") for guess in range(5, 9)]
    assert (outcomes[-1].reward, outcomes[-1].terminated, outcomes[-1].solved) == (1.0, True, True)
    with pytest.raises(RuntimeError, match="after the end"):
        world.act("[1]")


def test_by_textarenas_rule_garbage_is_paid_but_solves_nothing():
    world, _ = begun(3, invalid_ends=True)
    world.act("[7]")
    assert not world.act("garbage").terminated
    ended = world.act("garbage")
    assert (ended.terminated, ended.valid, ended.solved) == (True, False, False)
    assert ended.reward == pytest.approx(1 - 1 / 19)  # the last guess was 1 beside the target of 8


def test_two_roles_take_turns_and_are_rewarded_at_the_end():
    world, opening = begun(1, "TicTacToe-v0", TWO, hidden=True)
    assert opening.player == "actor" and "board" in opening.hidden
    outcomes = [world.act(f"[{square}]") for square in (0, 3, 1, 4, 2)]
    assert [one.player for one in outcomes[:4]] == ["opponent", "actor", "opponent", "actor"]
    assert outcomes[0].text.startswith("You are Player 1") and "[Player 0] [0]" in outcomes[0].text
    end = outcomes[-1]
    assert (end.reward, end.rewards, end.solved, end.terminated) == (1.0, {"opponent": -1.0}, True, True)


def test_functions_play_against_a_role_and_the_seed_deals_the_seats():
    world, opening = begun(3, "KuhnPoker-v0", ["actor", "foreign_worlds:check_or_fold"])
    assert opening.player == "actor"
    for _ in range(20):
        bets = "[bet]" in opening.text.splitlines()[-1]
        opening = world.act("bet" if bets else "call")
        if opening.terminated:
            break
    assert (opening.reward, opening.rewards) in [(1.0, {}), (-1.0, {}), (0.0, {})]
    firsts = {begun(seed, "TicTacToe-v0", TWO, shuffled=True)[1].player for seed in range(6)}
    assert firsts == set(TWO)


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"id": "GuessTheNumbr-v0"}, "no game of textarena named 'GuessTheNumbr-v0'; did you mean 'GuessTheNumber-v0'"),
        ({"id": "TicTacToe-v0"}, "players: 1 of them cannot play TicTacToe-v0"),
        ({"id": "Hangman-v0"}, "id: Hangman-v0 cannot be made by textarena as it is installed: LookupError"),
        ({"id": NUMBERS, "players": ["os:getcwd"]}, "players: expected at least one role"),
    ],
)
def test_a_game_that_cannot_be_played_is_one_message_and_draws_nothing(given, fault):
    before = random.getstate()
    with pytest.raises(RecipeError, match=re.escape(fault)):
        resolve({"textarena": given}, CATALOGUE, key="env", what="environment")
    assert random.getstate() == before


def test_a_role_that_takes_a_seat_and_is_not_there_is_named():
    recipe = Path(__file__).parents[2] / "recipes" / "multi_turn" / "kuhn_poker.yaml"
    stage = load_plan(recipe, ["env.textarena.players=[actor, oponent]"]).stages["train"]
    found = {role: resolve_pieces(view) for role, view in stage.by_role.items()}
    told = "env.textarena.players: no role of the recipe named 'oponent'; did you mean 'opponent'?"
    assert faults_of_play(found, stage) == [told]
