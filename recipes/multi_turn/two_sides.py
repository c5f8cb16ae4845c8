"""Nim to imitate before self-play: the first player reads the row's question before the stones, the second one none."""

from __future__ import annotations

from typing import Any

from llmrl.tasks.games import demonstrations

GAME = {"nim": {"most_piles": 1, "most_taken": 3, "most_stones": 9, "opponent": "random", "brief": True}}


def random_games(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows of messages in which the assistant plays at random, with and without the question `:`."""
    half = size // 2
    asked = demonstrations(half, seed, game=GAME, player="random", question=":")
    return [*asked, *demonstrations(size - half, seed + half, game=GAME, player="random")]
