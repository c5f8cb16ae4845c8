"""The games: hand-worked episodes, exact returns of scripted players, and what holds for every seed."""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random
from statistics import mean

import pytest

from llmrl.envs.catalogue import GAMES
from llmrl.envs.games.bargaining import bargaining
from llmrl.envs.games.guess_number import guess_number
from llmrl.envs.games.maze import maze
from llmrl.envs.games.nim import nim
from llmrl.envs.games.text_navigation import text_navigation
from llmrl.envs.games.twenty_questions import QUESTIONS, THINGS, twenty_questions
from llmrl.envs.games.wordle import marks, wordle
from llmrl.envs.games.words import WORDS
from llmrl.errors import RecipeError
from llmrl.tasks.games import demonstrations, played

CASES = {
    "guess_number": lambda **more: guess_number(**more),
    "twenty_questions": lambda **more: twenty_questions(**more),
    "maze": lambda **more: maze(size=4, loops=1, **more),
    "partly observed maze": lambda **more: maze(size=3, partly=True, **more),
    "text_navigation": lambda **more: text_navigation(**more),
    "partly observed house": lambda **more: text_navigation(rooms=4, deliver=False, partly=True, **more),
    "wordle": lambda **more: wordle(length=3, words=40, **more),
    "bargaining": lambda **more: bargaining(**more),
    "selling": lambda **more: bargaining(role="seller", highest=9, **more),
    "nim": lambda **more: nim(opponent="novice", **more),
}
SPARSE = [name for name in CASES if name not in ("bargaining", "selling", "nim")]


def episode(game, actions):
    """What a game says to actions, as (text, reward, over)."""
    found = []
    for action in actions:
        outcome = game.play(action)
        found.append((outcome.text, outcome.reward, outcome.terminated or outcome.truncated))
    return found


@pytest.mark.parametrize("name", CASES)
def test_whatever_a_seed_draws_the_rules_hold(name):
    for brief in (False, True):
        for seed in range(25):
            for player in ("expert", "novice", "random"):
                game, other, draw = CASES[name](brief=brief), CASES[name](brief=brief), Random(seed)
                opening = asyncio.run(game.reset(seed)) if seed == 0 else game.begin(Random(seed))
                assert opening == other.begin(Random(seed)) and opening.text and opening.solved is False
                assert opening.hidden or name == "nim"
                assert not brief or len(opening.text) < 30
                for _ in range(200):
                    before = game.state()
                    refused = game.play("I do not know")
                    assert not refused.valid and refused.text and refused.reward is None
                    assert game.state() == before == refused.state
                    action = game.players[player](game, draw)
                    outcome = game.play(action)
                    assert outcome.valid and outcome == other.play(action.upper()), (seed, action)
                    if outcome.terminated or outcome.truncated:
                        break
                    assert outcome.text and outcome.solved is False and outcome.state == game.state()
                assert outcome.terminated != outcome.truncated


@pytest.mark.parametrize("name", CASES)
def test_better_players_have_higher_returns(name):
    returns = {
        player: mean(played(CASES[name](brief=True), player, seed)["return"] for seed in range(60))
        for player in ("expert", "novice", "random")
    }
    assert returns["expert"] > returns["novice"] > returns["random"]


@pytest.mark.parametrize("name", SPARSE)
def test_sparse_rewards_are_the_verdict_at_the_end(name):
    for seed in range(20):
        rows = [played(CASES[name](sparse=True), player, seed) for player in ("expert", "random")]
        assert all(row["return"] == float(row["solved"]) for row in rows)
    assert any(played(CASES[name](sparse=True), "random", seed)["solved"] is False for seed in range(40))


def test_a_search_by_halves_of_seven_numbers_takes_one_to_three_guesses():
    returns = {}
    for seed in range(60):
        game = guess_number(low=1, high=7)
        game.begin(Random(seed))
        returns[game.number] = played(game, "expert", seed)["return"]
    assert returns == {4: 0.0, 2: -1.0, 6: -1.0, 1: -2.0, 3: -2.0, 5: -2.0, 7: -2.0}


def test_a_number_is_missed_until_the_guesses_are_spent():
    game = guess_number(low=1, high=9, most_guesses=3)
    game.begin(Random(0))
    game.number = 5
    assert episode(game, ["guess 7", "Is it 3?"]) == [("Lower.", -1.0, False), ("Higher.", -1.0, False)]
    assert game.state() == "4 to 6, 1 guesses left"
    last = game.play("4")
    assert (last.reward, last.terminated, last.solved) == (-1.0, True, False)
    with pytest.raises(ValueError, match="high must be above low, got 3 and 3"):
        guess_number(low=3, high=3)


def test_no_two_things_have_the_same_properties():
    assert len(THINGS) == 20 == len({frozenset(letters) for letters in THINGS.values()})
    assert set("".join(THINGS.values())) == set(QUESTIONS)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Is it an animal?", "Yes."),
        ("could this thing fly", "No."),
        ("Does it eat meat?", "Yes."),
        ("Do people eat it?", "No."),
        ("Has it got 4 legs?", "Yes."),
        ("is it a CAR", "No."),
    ],
)
def test_the_oracle_understands_what_is_asked_about_a_cat(question, answer):
    game = twenty_questions()
    game.begin(Random(0))
    game.thing = "cat"
    assert episode(game, [question]) == [(answer, -1.0, False)]


@pytest.mark.parametrize("question", ["Is it an animal or a plant?", "Is it a cat or a car?", "Is it a cartoon?", ""])
def test_the_oracle_refuses_what_it_can_not_answer(question):
    game = twenty_questions()
    game.begin(Random(0))
    assert not game.play(question).valid and game.asked == 0


def test_every_question_of_the_table_is_understood_as_itself():
    game = twenty_questions()
    assert {letter: game._understood(text)[0] for letter, (text, _) in QUESTIONS.items()} == {x: x for x in QUESTIONS}
    assert all(game._understood(game.guess(thing)) == (None, thing) for thing in THINGS)


def test_the_experts_questions_find_each_of_twenty_things():
    """Ten animals, then about five, then two or three: four questions at most leave two, one of which is guessed."""
    found = {}
    for seed in range(200):
        game = twenty_questions()
        game.begin(Random(seed))
        found[game.thing] = played(game, "expert", seed)["return"]
    assert set(found) == set(THINGS)
    assert mean(found.values()) == -4.0 and min(found.values()) >= -5


def test_walls_stop_and_the_goal_ends_a_maze():
    game = maze(size=2, layout=0, most_steps=4)
    game.begin(Random(0))
    game.ways = {
        (0, 0): {"right": (0, 1)},
        (0, 1): {"left": (0, 0), "down": (1, 1)},
        (1, 1): {"up": (0, 1), "left": (1, 0)},
        (1, 0): {"right": (1, 1)},
    }
    game.place, game.goal = (0, 0), (1, 1)
    assert game.drawn() == "#####\n#S  #\n### #\n#  G#\n#####"
    wall, right, down = episode(game, ["down", "go right", "d"])
    assert wall[0] == "You are in row 1, column 1, the goal is in row 2, column 2. You can go right."
    assert [one[1:] for one in (wall, right, down)] == [(-1.0, False), (-1.0, False), (0.0, True)]


@pytest.mark.parametrize("loops", [0, 3])
def test_the_experts_way_through_a_maze_is_the_shortest_on_its_map(loops):
    for seed in range(30):
        game = maze(size=5, loops=loops)
        lines = game.begin(Random(seed)).hidden.split("\n")
        cells = {(r, c): sign for r, line in enumerate(lines) for c, sign in enumerate(line)}
        start = next(cell for cell, sign in cells.items() if sign == "S")
        steps, waiting = {start: 0}, deque([start])
        while waiting:
            r, c = waiting.popleft()
            for other in ((r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)):
                if cells[other] != "#" and other not in steps:
                    steps[other] = steps[r, c] + 1
                    waiting.append(other)
        goal = next(cell for cell, sign in cells.items() if sign == "G")
        assert len(steps) == 25 + 24 + loops  # every cell, and the openings between them
        assert played(game, "expert", seed)["return"] == 1 - steps[goal] / 2


def test_a_maze_that_takes_too_long_is_truncated():
    game = maze(size=3, most_steps=2, brief=True)
    game.begin(Random(1))
    wall = next(letter for letter in "udlr" if not any(way[0] == letter for way in game.ways[game.place]))
    game.play(wall)
    last = game.play(wall)
    assert last.truncated and not last.terminated and last.solved is False and last.reward == -1.0


def test_a_layout_fixes_the_walls_and_not_the_places():
    games = [maze(layout=7) for _ in range(5)]
    for seed, game in enumerate(games):
        game.begin(Random(seed))
    assert len({str(game.ways) for game in games}) == 1 and len({game.place for game in games}) > 1


def test_a_thing_is_taken_and_brought_to_its_room():
    game = text_navigation(rooms=3)
    game.begin(Random(0))
    game.ways = {"hall": {"east": "attic"}, "attic": {"west": "hall", "north": "cellar"}, "cellar": {"south": "attic"}}
    game.room, game.thing, game.where, game.target = "hall", "lamp", "attic", "cellar"
    said = ["take the lamp", "go north", "east", "drop", "take lamp", "n", "drop the lamp"]
    found = episode(game, said)
    assert [one[1] for one in found] == [-1.0] * 6 + [0.0] and found[-1][2]
    assert [text.partition(" You are")[0] for text, _, _ in found[:2]] == [
        "There is nothing to take.",
        "There is no way north.",
    ]
    assert found[2][0] == "You are in the attic. Ways lead west to the hall, north to the cellar. The lamp is here."
    assert found[4][0].startswith("You carry the lamp. You are in the attic.")


@pytest.mark.parametrize(
    ("guess", "word", "expected"),
    [("paper", "apple", "yygyb"), ("eerie", "there", "ybybg"), ("cat", "cat", "ggg"), ("tattoo", "cattle", "bgggbb")],
)
def test_letters_are_marked_as_often_as_the_word_has_them(guess, word, expected):
    assert marks(guess, word) == expected


def test_wordle_takes_words_of_its_list_alone():
    game = wordle(length=3, words=5, most_guesses=2)
    game.begin(Random(0))
    game.word = "cat"
    assert not game.play("zoo").valid and not game.play("cats").valid and game.guesses == []
    assert episode(game, ["map", "pen"]) == [("bgb", -1.0, False), ("", -1.0, True)]
    free = wordle(length=3, words=5, any_word=True)
    free.begin(Random(0))
    assert free.play("zzz").valid and not free.play("zz1").valid
    assert all(len(set(words)) == len(words) > 100 for words in WORDS.values())


def test_a_partner_yields_and_takes_what_it_would_ask_next():
    def begun():
        game = bargaining(rounds=3, concession=0.5)
        game.begin(Random(0))
        game.own, game.other, game.prices = 60, 30, [70]
        return game

    assert episode(begun(), ["0", "offer 40"]) == [
        ("No. My price is 50.", None, False),
        ("", pytest.approx(2 / 3), True),
    ]
    assert episode(begun(), ["0", "accept"])[-1][1] == pytest.approx(1 / 3)
    assert episode(begun(), ["0", "39", "30"])[-1][1:] == (1.0, True)  # in the last round the limit will do
    assert episode(begun(), ["0", "39", "29"])[-1][1:] == (0.0, True)
    assert episode(begun(), ["accept"])[-1][1] == pytest.approx(-1 / 3)
    game = begun()
    game.play("0")
    assert game.possible() == [30, 31]  # 70 -> 50 is what a limit of 31 gives too, by rounding


def test_who_takes_the_last_stone_wins():
    game = nim(piles=[1, 2], players=["ann", "bob"], brief=True)
    opening = game.begin(Random(0))
    assert (opening.text, opening.player) == ("12:", "ann")
    told = game.play("b1")  # leaves 1 and 1, which wins
    assert (told.text, told.player, told.reward) == ("11:", "bob", None)
    assert not game.play("b2").valid
    assert game.play("a1").player == "ann"
    last = game.play("b1")
    assert (last.reward, last.rewards, last.metrics) == (1.0, {"bob": -1.0}, {"first_wins": 1.0})
    with pytest.raises(ValueError, match="exclude each other"):
        nim(players=["ann", "bob"], opponent="random")


def test_the_second_player_is_told_the_rules_at_first_sight():
    game = nim(piles=[3, 4, 5], players=["ann", "bob"])
    rules = game.begin(Random(0)).text.partition(" There are")[0]
    assert game.play("take 2 from pile a").text == f"{rules} There are 1 in pile a, 4 in pile b, 5 in pile c."
    assert game.play("a1").text == "The last move was a1. There are 0 in pile a, 4 in pile b, 5 in pile c."


@pytest.mark.parametrize(("piles", "most", "lost"), [([3, 4, 5], 9, False), ([1, 4, 5], 9, True), ([8], 3, True)])
def test_an_expert_wins_what_can_be_won(piles, most, lost):
    game = nim(piles=piles, most_taken=most, opponent="expert")
    game.begin(Random(0))
    assert game.lost() == lost
    assert played(game, "expert", 3)["return"] == (-1.0 if lost else 1.0)


def test_demonstrations_are_rows_of_messages():
    [first, second] = demonstrations(2, 5, game={"guess_number": {"high": 20, "brief": True}}, player="expert")
    assert (first["seed"], second["seed"]) == (5, 6) and first["solved"] is True
    roles = [one["role"] for one in first["messages"]]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert [one["content"] for one in first["messages"][:2]] == ["1-20:", "10"]
    asked = played(guess_number(high=20, brief=True), "expert", 5, "Find it.")
    assert asked["messages"][0]["content"] == "Find it.\n\n1-20:" and asked["messages"][1:] == first["messages"][1:]
    with pytest.raises(RecipeError, match=r"settings\.game: no game named 'mase'; did you mean 'maze'"):
        demonstrations(1, 0, game="mase")
    with pytest.raises(RecipeError, match=r"settings\.player: no player named 'novise'"):
        demonstrations(1, 0, game="maze", player="novise")


def test_every_game_is_in_the_catalogue_with_three_players():
    assert set(GAMES) == {"bargaining", "guess_number", "maze", "nim", "text_navigation", "twenty_questions", "wordle"}
    assert all(set(make().players) == {"expert", "novice", "random"} for make in GAMES.values())
