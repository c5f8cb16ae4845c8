"""Maze: find the goal, told one's place and the goal's, or only the ways that are open."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from random import Random
from typing import Annotated

from pydantic import Field, NonNegativeInt, PositiveInt

from llmrl.envs.games.game import Game, normal
from llmrl.envs.world import Outcome

Cell = tuple[int, int]
Ways = Mapping[Cell, Mapping[str, Cell]]
"""The cells that each cell leads to, by direction."""
MOVES: Mapping[str, Cell] = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
_LETTERS = {move[0]: move for move in MOVES}


def maze(
    *,
    size: Annotated[int, Field(ge=2, le=30)] = 5,
    loops: NonNegativeInt = 0,
    layout: NonNegativeInt | None = None,
    partly: bool = False,
    most_steps: PositiveInt | None = None,
    sparse: bool = False,
    brief: bool = False,
) -> Maze:
    """A way through `size` x `size` cells from a random start to a random goal, one cell with each action.

    The walls make a tree, of which `loops` more are taken away; layout: the seed of the walls of all episodes, where
    each episode has its own by default. An action is up, down, left or right; one against a wall leaves the place as
    it is. Each step has reward -1, the one onto the goal 0. `partly`: only the open ways are told, not the places.
    The game is truncated after `most_steps`; default: twice the number of cells.
    """
    return Maze(size, loops, layout, partly, most_steps or 2 * size * size, sparse, brief)


@dataclass
class Maze(Game):
    """One game; seen: how often the player was in each cell."""

    size: int
    loops: int
    layout: int | None
    partly: bool
    most_steps: int
    sparse: bool
    brief: bool
    ways: Ways = field(default_factory=dict)
    place: Cell = (0, 0)
    goal: Cell = (0, 0)
    steps: int = 0
    seen: dict[Cell, int] = field(default_factory=dict)

    def begin(self, draw: Random) -> Outcome:
        layout = draw.getrandbits(32) if self.layout is None else self.layout
        self.ways, self.steps = _carved(self.size, self.loops, layout), 0
        self.place, self.goal = draw.sample(list(self.ways), 2)
        self.seen = {self.place: 1}
        rules = (
            f"You are in a maze of {self.size} rows and {self.size} columns. Reach the goal: answer with up, down, "
            f"left or right."
        )
        hidden = self.drawn(), _short(self.place) + _short(self.goal)
        return self.opened(f"{rules} {self._view()}", self._view(), hidden=hidden)

    def play(self, action: str) -> Outcome:
        said = normal(action).removeprefix("go ").removeprefix("move ")
        move = said if said in MOVES else _LETTERS.get(said)
        if move is None:
            return self.refused("Answer with up, down, left or right.")
        self.steps += 1
        self.place = self.ways[self.place].get(move, self.place)
        self.seen[self.place] = self.seen.get(self.place, 0) + 1
        if self.place == self.goal:
            return self.ended(solved=True)
        if self.steps == self.most_steps:
            return self.ended(solved=False, truncated=True)
        view = self._view()
        return self.went_on(view, view)

    def _view(self) -> str:
        """The observation: the open ways, and unless the maze is partly observed the places of player and goal."""
        open_ways = [move for move in MOVES if move in self.ways[self.place]]
        if self.brief:
            letters = "".join(move[0] for move in open_ways) + "."
            return letters if self.partly else f"{_short(self.place)}{_short(self.goal)}{letters}"
        told = f"You can go {', '.join(open_ways)}."
        if self.partly:
            return told
        return f"You are in {_named(self.place)}, the goal is in {_named(self.goal)}. {told}"

    def state(self) -> str:
        return _named(self.place)

    def drawn(self) -> str:
        """The map: # wall, S start, G goal."""
        side = 2 * self.size + 1
        lines = [["#"] * side for _ in range(side)]
        for (row, column), ways in self.ways.items():
            lines[2 * row + 1][2 * column + 1] = " "
            for move in ways:
                lines[2 * row + 1 + MOVES[move][0]][2 * column + 1 + MOVES[move][1]] = " "
        for (row, column), sign in ((self.place, "S"), (self.goal, "G")):
            lines[2 * row + 1][2 * column + 1] = sign
        return "\n".join("".join(line) for line in lines)

    def said(self, move: str) -> str:
        """A move as a player of this game says it."""
        return move[0] if self.brief else move


def distances(ways: Ways, goal: Cell) -> dict[Cell, int]:
    """The steps from every cell to the goal."""
    found, waiting = {goal: 0}, deque([goal])
    while waiting:
        cell = waiting.popleft()
        for other in ways[cell].values():
            if other not in found:
                found[other] = found[cell] + 1
                waiting.append(other)
    return found


@lru_cache(maxsize=256)
def _carved(size: int, loops: int, seed: int) -> Ways:
    """A random maze: a tree of all cells by a walk that turns back at dead ends, and `loops` further openings."""
    draw = Random(seed)
    ways: dict[Cell, dict[str, Cell]] = {(row, column): {} for row in range(size) for column in range(size)}
    start = draw.choice(list(ways))
    path, met = [start], {start}
    while path:
        cell = path[-1]
        beside = [(move, other) for move, other in _beside(cell, ways) if other not in met]
        if not beside:
            path.pop()
            continue
        move, other = draw.choice(beside)
        _open(ways, cell, move, other)
        met.add(other)
        path.append(other)
    walls = [
        (cell, move, other)
        for cell in ways
        for move, other in _beside(cell, ways)
        if move in ("down", "right") and move not in ways[cell]  # each wall once, of its two sides
    ]
    for cell, move, other in draw.sample(walls, min(loops, len(walls))):
        _open(ways, cell, move, other)
    return ways


def _beside(cell: Cell, ways: Ways) -> list[tuple[str, Cell]]:
    found = [(move, (cell[0] + down, cell[1] + right)) for move, (down, right) in MOVES.items()]
    return [(move, other) for move, other in found if other in ways]


def _open(ways: dict[Cell, dict[str, Cell]], cell: Cell, move: str, other: Cell) -> None:
    back = {"up": "down", "down": "up", "left": "right", "right": "left"}
    ways[cell][move] = other
    ways[other][back[move]] = cell


def _named(cell: Cell) -> str:
    return f"row {cell[0] + 1}, column {cell[1] + 1}"


def _short(cell: Cell) -> str:
    return "".join(f"{number + 1}" if number < 9 else f"({number + 1})" for number in cell)


def _expert(game: Maze, draw: Random) -> str:
    """The way that leads to the goal soonest; where the goal is not told, the open way to the least visited cell."""
    ways = game.ways[game.place]
    if game.partly:
        return game.said(min(ways, key=lambda move: game.seen.get(ways[move], 0)))
    left = distances(game.ways, game.goal)
    return game.said(min(ways, key=lambda move: left[ways[move]]))


def _novice(game: Maze, draw: Random) -> str:
    """The expert's way two times out of three, else a random open one."""
    return _expert(game, draw) if draw.random() < 2 / 3 else game.said(draw.choice(list(game.ways[game.place])))


def _random(game: Maze, draw: Random) -> str:
    return game.said(draw.choice(list(MOVES)))


Maze.players = {"expert": _expert, "novice": _novice, "random": _random}
