"""Nim: two players take stones in turn, and who takes the last one wins."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import xor
from random import Random
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveInt

from llmrl.envs.games.game import Game, Player, normal
from llmrl.envs.world import Outcome

_MOVE = re.compile(r"(?:take (?P<taken>\d) from )?(?:pile )?(?P<pile>[a-i]) ?(?P<count>\d)?")
Move = tuple[int, int]
"""A pile, and how many stones are taken from it."""


def nim(
    *,
    piles: Annotated[list[Annotated[int, Field(ge=1, le=9)]], Field(min_length=1, max_length=9)] | None = None,
    most_piles: Annotated[int, Field(ge=1, le=9)] = 3,
    most_stones: Annotated[int, Field(ge=1, le=9)] = 5,
    most_taken: PositiveInt = 9,
    players: Annotated[list[str], Field(min_length=2, max_length=2)] | None = None,
    opponent: Literal["expert", "novice", "random"] | None = None,
    brief: bool = False,
) -> Nim:
    """Piles of stones, from one of which each of two players takes some in turn; who takes the last stone wins.

    piles: of every game; default: drawn, up to `most_piles` of up to `most_stones`. players: two roles of the recipe,
    the first of whom begins. Without them, and without a scripted `opponent`, one role plays both sides in one
    conversation. The last move has reward 1, and with two roles the other one's last move -1; against an opponent the
    player's last move has 1 or -1, and the game is solved if the player wins. A move is take 2 from pile a, or a2.
    Raises ValueError for players together with an opponent.
    """
    if players and opponent:
        raise ValueError("players and opponent exclude each other: the opponent is scripted")
    if players and players[0] == players[1]:
        raise ValueError("players must be two roles; without them one role plays both sides")
    return Nim(tuple(piles or ()), most_piles, most_stones, most_taken, tuple(players or ()), opponent, brief)


@dataclass
class Nim(Game):
    """One game. left: the stones of each pile. turn: 0 where the first player moves, 1 where the other one does."""

    piles: Sequence[int]
    most_piles: int
    most_stones: int
    most_taken: int
    roles: Sequence[str]
    opponent: str | None
    brief: bool
    left: list[int] = field(default_factory=list)
    turn: int = 0
    met: bool = False
    draw: Random = field(default_factory=Random)
    sparse: bool = True

    def begin(self, draw: Random) -> Outcome:
        self.draw, self.turn, self.met = draw, 0, False
        drawn = [draw.randint(1, self.most_stones) for _ in range(draw.randint(1, self.most_piles))]
        self.left = list(self.piles) or drawn
        solved = False if self.opponent is not None else None
        player = self.roles[0] if self.roles else None
        return Outcome(self._opening(), solved=solved, state=self.state(), player=player)

    def _opening(self) -> str:
        rules = (
            f"Two players take stones in turn, from 1 to {self.most_taken} from one pile. Who takes the last stone "
            f"wins. A move is, for example, take 1 from pile a."
        )
        return self._view() if self.brief else f"{rules} {self._view()}"

    def play(self, action: str) -> Outcome:
        move = self._read(action)
        if move is None:
            return self.refused("That is no move; one is, for example, take 1 from pile a.")
        self._take(move)
        if not any(self.left):
            return self._won()
        if self.opponent is not None:
            answer = self.players[self.opponent](self, self.draw)
            taken = self._read(answer)
            assert taken is not None
            self._take(taken)
            if not any(self.left):
                return Outcome(reward=-1.0, terminated=True, solved=False)
            return Outcome(self._told(answer), solved=False, state=self.state())
        first_sight = bool(self.roles) and not self.met
        self.met = True
        text = self._opening() if first_sight else self._told(action)
        return Outcome(text, state=self.state(), player=self.roles[self.turn] if self.roles else None)

    def _take(self, move: Move) -> None:
        self.left[move[0]] -= move[1]
        self.turn = 1 - self.turn

    def _won(self) -> Outcome:
        """The answer to the move that took the last stone."""
        first = 1.0 if self.turn == 1 else 0.0
        if self.opponent is not None:
            return Outcome(reward=1.0, terminated=True, solved=True)
        others = {self.roles[self.turn]: -1.0} if self.roles and self.met else {}
        return Outcome(reward=1.0, terminated=True, rewards=others, metrics={"first_wins": first})

    def _read(self, action: str) -> Move | None:
        said = _MOVE.fullmatch(normal(action))
        if said is None or (said["taken"] is None) == (said["count"] is None):
            return None
        pile, count = ord(said["pile"]) - ord("a"), int(said["taken"] or said["count"])
        return (pile, count) if (pile, count) in self.moves() else None

    def moves(self) -> list[Move]:
        """The moves that the rules allow."""
        return [
            (pile, count)
            for pile, stones in enumerate(self.left)
            for count in range(1, min(stones, self.most_taken) + 1)
        ]

    def said(self, move: Move) -> str:
        """A move as a player of this game says it."""
        pile, count = chr(ord("a") + move[0]), move[1]
        return self.worded(f"take {count} from pile {pile}", f"{pile}{count}")

    def _view(self) -> str:
        if self.brief:
            return "".join(map(str, self.left)) + ":"
        piles = (f"{stones} in pile {chr(ord('a') + number)}" for number, stones in enumerate(self.left))
        return f"There are {', '.join(piles)}."

    def _told(self, move: str) -> str:
        return self._view() if self.brief else f"The last move was {normal(move)}. {self._view()}"

    def state(self) -> str:
        return " ".join(map(str, self.left))

    def lost(self) -> bool:
        """Whether who moves next loses against an expert: the nim-sum of the piles modulo most_taken + 1 is 0."""
        return reduce(xor, (stones % (self.most_taken + 1) for stones in self.left)) == 0

    players: ClassVar[Mapping[str, Player]] = {
        "expert": lambda game, draw: game.said(_winning(game) or draw.choice(game.moves())),
        "novice": lambda game, draw: game.said((draw.random() < 0.5 and _winning(game)) or draw.choice(game.moves())),
        "random": lambda game, draw: game.said(draw.choice(game.moves())),
    }


def _winning(game: Nim) -> Move | None:
    """A move after which the other player loses against an expert, if there is one."""
    for pile, count in game.moves():
        game.left[pile] -= count
        wins = game.lost()
        game.left[pile] += count
        if wins:
            return pile, count
    return None
