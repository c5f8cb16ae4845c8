"""Duels, a game of one move each whose preferences go round: paper beats rock, rock scissors, and scissors paper.

prompt      duel 17:
answer      r, p or s       any other answer loses against these three

    chance that the row is preferred to the column        r      p      s
    r                                                    0.5    0.1    0.7
    p                                                    0.9    0.5    0.4
    s                                                    0.3    0.6    0.5

No reward model orders such answers, so a policy that follows one ends up with a single move, which another one beats.
The Nash policy plays r, p, s with 1/7, 2/7, 4/7: then every move wins half of its duels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MOVES = "rps"
PREFERENCES = ((0.5, 0.1, 0.7), (0.9, 0.5, 0.4), (0.3, 0.6, 0.5))
"""The chance that the row's move is preferred to the column's, in the order of MOVES."""
NASH = (1 / 7, 2 / 7, 4 / 7)
"""The only policy against which no other wins more than half of its duels."""


def duels(size: int, seed: int) -> list[dict[str, Any]]:
    """Return rows with a question each, which differ in their number alone."""
    return [{"question": f"duel {seed + number}:"} for number in range(size)]


async def prefers(a: str, b: str) -> float:
    """The chance that answer `a` is preferred to answer `b`, as an opinion of the reward win_rate."""
    moves = [MOVES.find(text.strip()) if len(text.strip()) == 1 else -1 for text in (a, b)]
    if min(moves) < 0:
        return 0.5 + (bool(moves[0] >= 0) - bool(moves[1] >= 0)) / 2
    return PREFERENCES[moves[0]][moves[1]]


def win_rates(policy: Sequence[float]) -> list[float]:
    """Each move's chance to be preferred to a move of `policy`."""
    return [math.fsum(p * share for p, share in zip(row, policy, strict=True)) for row in PREFERENCES]


def regularized_nash(reference: Sequence[float], tau: float, *, own: float = 1.0, steps: int = 4_000) -> list[float]:
    """The Nash policy of the game in which both players pay tau KL(policy || reference), to 1e-9.

        policy(y) ~ reference(y) exp(P(y > policy) / tau)

    own: the policy's share in the opponent, which is policy^own x reference^(1 - own); with less than 1, the fixed
    point of Nash-MD. Found by small steps towards the right side.
    """
    policy = list(reference)
    for _ in range(steps):
        mixed = [p**own * r ** (1 - own) for p, r in zip(policy, reference, strict=True)]
        rates = win_rates([weight / math.fsum(mixed) for weight in mixed])
        pulled = [math.log(r) + rate / tau for r, rate in zip(reference, rates, strict=True)]
        logits = [0.99 * math.log(p) + 0.01 * to for p, to in zip(policy, pulled, strict=True)]
        weights = [math.exp(logit - max(logits)) for logit in logits]
        policy = [weight / math.fsum(weights) for weight in weights]
    return policy


def exploitability(policy: Sequence[float]) -> float:
    """The most by which a move's win rate against `policy` is over 1/2: 0 for the Nash policy alone."""
    return max(win_rates(policy)) - 0.5
