"""Bargaining over a price with a scripted partner who has a limit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from llmrl.envs.games.game import Game, normal
from llmrl.envs.world import Outcome

_OFFER = re.compile(r"(?:(?:i )?offer )?\$?(\d{1,6})")
_ACCEPTS = ("accept", "i accept", "deal", "=")
_LEAVES = ("leave", "i leave", "no deal", "x")


def bargaining(
    *,
    role: Literal["buyer", "seller"] = "buyer",
    highest: Annotated[int, Field(ge=8, le=100_000)] = 99,
    rounds: PositiveInt = 6,
    concession: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.3,
    brief: bool = False,
) -> Bargaining:
    """A price from 0 to `highest`, on which the player as `role` and a scripted partner have to agree.

    Each knows its own limit: what the thing is worth to the buyer, and what it cost the seller, which is less. The
    partner names a price, and after every offer of the player's comes nearer to its limit by `concession` of the
    distance. It takes an offer that is at least as good for it as its own next price; in the last of `rounds`, as good
    as its limit. An action is an offer, accept, or leave. The reward, at the end, is the player's share of the surplus
    between the limits: 0 without a deal, negative for a deal beyond the player's limit. The game is solved by a deal
    that gives the player at least half of it.
    """
    return Bargaining(role, highest, rounds, concession, brief)


@dataclass
class Bargaining(Game):
    """One game. own, other: the limits of player and partner. prices: the partner's. last: the player's offer."""

    role: str
    highest: int
    rounds: int
    concession: float
    brief: bool
    own: int = 0
    other: int = 0
    prices: list[int] = field(default_factory=list)
    offers: int = 0
    last: int | None = None
    sparse: bool = True

    def begin(self, draw: Random) -> Outcome:
        third = self.highest // 4
        cost = draw.randint(third, 2 * third)
        worth = draw.randint(cost + 2, self.highest - 1)
        self.own, self.other = (worth, cost) if self.role == "buyer" else (cost, worth)
        start = draw.randint(worth + 1, self.highest) if self.role == "buyer" else draw.randint(0, cost - 1)
        self.prices, self.offers, self.last = [start], 0, None
        limits = {"buyer": "The thing is worth {} to you", "seller": "The thing cost you {}"}
        partner = "seller asks" if self.role == "buyer" else "buyer offers"
        rules = (
            f"You are the {self.role}. {limits[self.role].format(self.own)}. Agree on a price: answer with a number as "
            f"your offer, with accept, or with leave. You have {self.rounds} rounds. The {partner} {self.asked}."
        )
        hidden = f"The partner's limit is {self.other}.", str(self.other)
        return self.opened(rules, f"{self.own}:{self.asked}?", hidden=hidden)

    def play(self, action: str) -> Outcome:
        said = normal(action)
        if said in _ACCEPTS:
            return self._dealt(self.asked)
        if said in _LEAVES:
            return self._left()
        offer = _OFFER.fullmatch(said)
        if offer is None or int(offer[1]) > self.highest:
            return self.refused(f"Answer with a price from 0 to {self.highest}, with accept, or with leave.")
        self.offers, self.last = self.offers + 1, int(offer[1])
        last = self.offers == self.rounds
        wanted = self.other if last else self.nearer(self.asked, self.other)
        if self._suits_partner(self.last, wanted):
            return self._dealt(self.last)
        if last:
            return self._left()
        self.prices.append(wanted)
        return self.went_on(f"No. My price is {self.asked}.", f"{self.asked}?")

    @property
    def asked(self) -> int:
        """The partner's price."""
        return self.prices[-1]

    def favourite(self) -> int:
        """The player's most favourable price."""
        return 0 if self.role == "buyer" else self.highest

    def nearer(self, price: int, limit: int) -> int:
        """The price after `price` of a partner with this limit."""
        return limit + int((price - limit) * (1 - self.concession))

    def _suits_partner(self, offer: int, wanted: int) -> bool:
        return offer >= wanted if self.role == "buyer" else offer <= wanted

    def _dealt(self, price: int) -> Outcome:
        gain = self.own - price if self.role == "buyer" else price - self.own
        share = gain / abs(self.own - self.other)
        return Outcome(reward=share, terminated=True, solved=share >= 0.5, metrics={"deal": 1.0})

    def _left(self) -> Outcome:
        """The answer to what ended the game without a deal."""
        return Outcome(reward=0.0, terminated=True, solved=False, metrics={"deal": 0.0})

    def state(self) -> str:
        return f"partner's price {self.asked}, own offer {self.last}, {self.rounds - self.offers} rounds left"

    def possible(self) -> list[int]:
        """The partner's limits that all its prices so far allow."""
        pairs = list(pairwise(self.prices))
        return [
            limit for limit in range(self.highest + 1) if all(self.nearer(was, limit) == price for was, price in pairs)
        ]


def _expert(game: Bargaining, draw: Random) -> str:
    """Offer nothing until the last round, then the least that every limit that is possible allows."""
    if game.offers < game.rounds - 1:
        return str(game.favourite())
    possible = game.possible()
    return str(min(max(possible), game.own) if game.role == "buyer" else max(min(possible), game.own))


def _novice(game: Bargaining, draw: Random) -> str:
    """Take a price that leaves a gain one time out of two, else offer any price within one's own limit."""
    gain = game.own - game.asked if game.role == "buyer" else game.asked - game.own
    if gain > 0 and draw.random() < 0.5:
        return game.worded("accept", "=")
    return str(draw.randint(*sorted((game.favourite(), game.own))))


def _random(game: Bargaining, draw: Random) -> str:
    return draw.choice([str(draw.randint(0, game.highest)), game.worded("accept", "="), game.worded("leave", "x")])


Bargaining.players = {"expert": _expert, "novice": _novice, "random": _random}
