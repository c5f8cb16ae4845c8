"""Conversations of scripted players with games, for warm starts and filtered imitation."""

from __future__ import annotations

from random import Random
from typing import Any

from pydantic import PositiveInt

from llmrl.envs.catalogue import GAMES
from llmrl.envs.games.game import Game
from llmrl.errors import RecipeError, unknown_name
from llmrl.pieces import PieceSpec, resolve


def demonstrations(
    size: int,
    seed: int,
    *,
    game: PieceSpec,
    player: str = "expert",
    question: str = "",
    most_turns: PositiveInt = 100,
) -> list[dict[str, Any]]:
    """Rows with the messages of one game each: the game is the user, and a scripted player the assistant.

    game: a game of llmrl with its settings, as `env` names it; player: expert, novice or random. question: what the
    rows of the stage that plays the game ask, which stands before the game's opening. Row n is the game of seed `seed`
    + n, with the columns messages, seed, solved and return, the sum of the player's rewards. All actions are answers to
    imitate with `prompt: messages`, `completion: messages`, `turns: all` and `chat: true`. A game that takes more than
    `most_turns` ends there. Raises RecipeError for an unknown game, setting or player.
    """
    make = resolve(game, GAMES, key="settings.game", what="game")
    if player not in make({}).players:
        raise RecipeError(unknown_name("settings.player", player, make({}).players, "player"))
    return [played(make({}), player, seed + number, question, most_turns) for number in range(size)]


def played(game: Game, player: str, seed: int, question: str = "", most_turns: int = 100) -> dict[str, Any]:
    """One game of a scripted player as a row."""
    draw = Random(f"{player} {seed}")  # not the numbers that the game itself is drawn from
    outcome, total, messages = game.begin(Random(seed)), 0.0, []
    told = f"{question}\n\n{outcome.text}" if question else outcome.text
    for _ in range(most_turns):
        action = game.players[player](game, draw)
        messages += [{"role": "user", "content": told}, {"role": "assistant", "content": action}]
        outcome = game.play(action)
        total, told = total + (outcome.reward or 0.0), outcome.text
        if outcome.terminated or outcome.truncated:
            break
    return {"messages": messages, "seed": seed, "solved": outcome.solved, "return": total}
