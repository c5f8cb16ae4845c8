"""Text navigation: walk through the rooms of a house, take a thing, and bring it to another room."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Annotated

from pydantic import Field, PositiveInt

from llmrl.envs.games.game import Game, normal
from llmrl.envs.world import Outcome

ROOMS = ("hall", "kitchen", "attic", "bathroom", "cellar", "garden", "library", "office", "parlour", "studio", "garage",
         "terrace", "nursery", "pantry", "workshop", "veranda")  # fmt: skip
THINGS = ("lamp", "book", "key", "coin", "vase", "rope", "hat", "bell")
WAYS: Mapping[str, tuple[int, int]] = {"north": (-1, 0), "south": (1, 0), "west": (0, -1), "east": (0, 1)}
BACK = {"north": "south", "south": "north", "west": "east", "east": "west"}
_LETTERS = {way[0]: way for way in WAYS}


def text_navigation(
    *,
    rooms: Annotated[int, Field(ge=2, le=len(ROOMS))] = 6,
    deliver: bool = True,
    partly: bool = False,
    most_steps: PositiveInt = 40,
    sparse: bool = False,
    brief: bool = False,
) -> TextNavigation:
    """A house of `rooms` rooms, in one of which lies a thing that is to be taken, and with `deliver` brought elsewhere.

    Actions are go north, go south, go west, go east, take and drop (of the thing, which may be named), or their first
    letters. Each has reward -1, the one that ends the game 0. With `partly` the player is not told where the thing is,
    nor where ways lead. The game is truncated after `most_steps`. Raises ValueError for fewer than three rooms
    together with `deliver`.
    """
    if deliver and rooms < 3:
        raise ValueError("rooms must be at least 3 to bring a thing from one room to another, or deliver false")
    return TextNavigation(rooms, deliver, partly, most_steps, sparse, brief)


@dataclass
class TextNavigation(Game):
    """One game. ways: the rooms that each room leads to, by direction. where: the thing's room, None if carried.
    seen: how often the player was in each room."""

    rooms: int
    deliver: bool
    partly: bool
    most_steps: int
    sparse: bool
    brief: bool
    ways: dict[str, dict[str, str]] = field(default_factory=dict)
    room: str = ""
    thing: str = ""
    where: str | None = ""
    target: str = ""
    steps: int = 0
    seen: dict[str, int] = field(default_factory=dict)

    def begin(self, draw: Random) -> Outcome:
        names = draw.sample(ROOMS, self.rooms)
        self.ways, self.thing, self.steps = _built(names, draw), draw.choice(THINGS), 0
        self.room, self.where, self.target = draw.sample(names, 3) if self.deliver else [*draw.sample(names, 2), ""]
        self.seen = {self.room: 1}
        errand = f"bring it to the {self.target}" if self.deliver else "take it"
        rules = (
            f"Find the {self.thing} in this house and {errand}. Answer with go and a direction, with take, or with "
            f"drop."
        )
        brief = (f"{self._letter(self.target)}<" if self.deliver else "") + self._view()
        hidden = self._known(), self._letter(self.where)
        return self.opened(f"{rules} {self._view()}", brief, hidden=hidden)

    def play(self, action: str) -> Outcome:
        said = normal(action)
        verb = said.removesuffix(f" the {self.thing}").removesuffix(f" {self.thing}")
        way = said.removeprefix("go ").removeprefix("move ")
        way = way if way in WAYS else _LETTERS.get(way)
        if way is None and verb not in ("take", "t", "drop", "d"):
            return self.refused("Answer with go north, go south, go west, go east, take or drop.")
        self.steps += 1
        told = self._walk(way) if way else self._take() if verb in ("take", "t") else self._drop()
        if told is None:
            return self.ended(solved=True)
        if self.steps == self.most_steps:
            return self.ended(solved=False, truncated=True)
        return self.went_on(f"{told} {self._view()}".strip(), self._view())

    def _walk(self, way: str) -> str:
        if way not in self.ways[self.room]:
            return f"There is no way {way}."
        self.room = self.ways[self.room][way]
        self.seen[self.room] = self.seen.get(self.room, 0) + 1
        return ""

    def _take(self) -> str | None:
        """The answer to taking the thing; None where that ends the game."""
        if self.where != self.room:
            return "There is nothing to take."
        self.where = None
        return f"You carry the {self.thing}." if self.deliver else None

    def _drop(self) -> str | None:
        if self.where is not None:
            return "You carry nothing."
        self.where = self.room
        return f"You drop the {self.thing}." if self.room != self.target else None

    def _view(self) -> str:
        here = self.ways[self.room]
        if self.brief:
            sign = "*" if self.where is None else "!" if self.where == self.room else ""
            led = "".join(way[0] if self.partly else way[0] + self._letter(room) for way, room in here.items())
            where = "" if self.partly or sign else f">{self._letter(self.where or '')}"
            return f"{self._letter(self.room)}{sign}{where}:{led}."
        leads = (f"{way}" if self.partly else f"{way} to the {room}" for way, room in here.items())
        seen = f" The {self.thing} is here." if self.where == self.room else ""
        if not self.partly and self.where not in (None, self.room):
            seen = f" The {self.thing} is in the {self.where}."
        return f"You are in the {self.room}. Ways lead {', '.join(leads)}.{seen}"

    def _letter(self, room: str) -> str:
        """A capital letter for a room."""
        return chr(ord("A") + ROOMS.index(room))

    def state(self) -> str:
        return f"in the {self.room}, {self.thing} {'carried' if self.where is None else f'in the {self.where}'}"

    def _known(self) -> str:
        ways = "; ".join(
            f"{room}: {', '.join(f'{way} to {other}' for way, other in led.items())}" for room, led in self.ways.items()
        )
        return f"The {self.thing} is in the {self.where}. {ways}."

    def towards(self, room: str) -> str:
        """The direction of a shortest way from the player's room."""
        left, waiting = {room: 0}, deque([room])
        while waiting:
            one = waiting.popleft()
            for other in self.ways[one].values():
                if other not in left:
                    left[other] = left[one] + 1
                    waiting.append(other)
        return min(self.ways[self.room], key=lambda way: left[self.ways[self.room][way]])

    def said(self, action: str) -> str:
        """A direction, take or drop, as a player of this game says it."""
        return action[0] if self.brief else f"go {action}" if action in WAYS else action


def _built(names: Sequence[str], draw: Random) -> dict[str, dict[str, str]]:
    """Rooms side by side: each new one beside a random one that has room, and one way more that closes a ring."""
    places = {names[0]: (0, 0)}
    ways: dict[str, dict[str, str]] = {name: {} for name in names}
    for name in names[1:]:
        free = [
            (room, way, cell)
            for room, (row, column) in places.items()
            for way, (down, right) in WAYS.items()
            if (cell := (row + down, column + right)) not in places.values()
        ]
        room, way, places[name] = draw.choice(free)
        ways[room][way], ways[name][BACK[way]] = name, room
    at = {cell: name for name, cell in places.items()}
    rings = [
        (room, way, other)
        for room, (row, column) in places.items()
        for way, (down, right) in WAYS.items()
        if way not in ways[room] and (other := at.get((row + down, column + right)))
    ]
    if rings:
        room, way, other = draw.choice(rings)
        ways[room][way], ways[other][BACK[way]] = other, room
    return {room: {way: led[way] for way in WAYS if way in led} for room, led in ways.items()}


def _expert(game: TextNavigation, draw: Random) -> str:
    """The shortest way to the thing, then to where it is to be brought; partly told, the way to the room least seen."""
    if game.where == game.room:
        return game.said("take")
    if game.where is None and game.room == game.target:
        return game.said("drop")
    if game.partly:
        ways = game.ways[game.room]
        return game.said(min(ways, key=lambda way: game.seen.get(ways[way], 0)))
    return game.said(game.towards(game.target if game.where is None else game.where))


def _novice(game: TextNavigation, draw: Random) -> str:
    """The expert's action two times out of three, else a random way."""
    return _expert(game, draw) if draw.random() < 2 / 3 else game.said(draw.choice(list(game.ways[game.room])))


def _random(game: TextNavigation, draw: Random) -> str:
    return game.said(draw.choice([*WAYS, "take", "drop"]))


TextNavigation.players = {"expert": _expert, "novice": _novice, "random": _random}
