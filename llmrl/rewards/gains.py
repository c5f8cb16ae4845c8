"""Gains: the worth of a critique by how the answers before and after it score.

    before    the score of the draft that the critique is about
    after     the score of a refinement that follows the critique

A verdict counts as 1 for right and 0 for wrong. A user's gain is a function `module:function` of one or both.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import AfterValidator, PositiveFloat

from llmrl.errors import RecipeError
from llmrl.pieces import Piece, PieceSpec, resolve

KEY = "rewards.refined.gain"


def success(after: float) -> float:
    """The refinement's own score. Source: Critique-RL's default, arXiv 2510.24320; CTRL, arXiv 2502.03492."""
    return after


def improvement(before: float, after: float, *, solved: float | None = None) -> float:
    """The refinement's score less the draft's.

    solved: the least gain of a refinement whose score is 1, unless it is worse than the draft; RL4F's is 1.
    Source: Critique-RL's r_delta, arXiv 2510.24320; RL4F, arXiv 2305.08844.
    """
    gain = after - before
    return max(gain, solved) if solved is not None and gain >= 0 and after >= 1 else gain


def transition(
    before: float, after: float, *, kept: float = 0.2, lost: float = 0.0, fixed: float = 1.0, missed: float = 0.0
) -> float:
    """A value for each of the four outcomes of verdicts; a score counts as right from 1/2 on.

        draft right     kept   if the refinement is right     lost     if it is wrong
        draft wrong     fixed  if the refinement is right     missed   if it is wrong

    Source: Critique-RL's r_correct, arXiv 2510.24320, with its values.
    """
    if before >= 0.5:
        return kept if after >= 0.5 else lost
    return fixed if after >= 0.5 else missed


def log_headroom(before: float, after: float, *, floor: PositiveFloat = 0.1) -> float:
    """The gain in -log(1 - s + floor), so that the same step counts more, the closer the draft is to the score 1.

        log((1 - before + floor) / (1 - after + floor))        scores from 0 to 1

    Raises ValueError for a score above 1. Source: ECHO, arXiv 2601.06794, says that the gain is aware of saturation and
    not how; this shape is a reconstruction, and so is the floor.
    """
    return math.log(_headroom(before, floor) / _headroom(after, floor))


def relative_headroom(before: float, after: float, *, floor: PositiveFloat = 0.1) -> float:
    """An improvement as a share of what the draft left to gain; a loss as it is; both between -1 and 1.

        (after - before) / (1 - before + floor)  if after >= before,  else after - before

    Raises ValueError for a score above 1. Source: another reconstruction of ECHO's gain; see log_headroom.
    """
    gain = after - before
    return max(-1.0, min(1.0, gain / _headroom(before, floor) if gain >= 0 else gain))


def _headroom(score: float, floor: float) -> float:
    if score > 1:
        raise ValueError(f"a score of {score:g} leaves no headroom below 1; use improvement, or scores from 0 to 1")
    return 1.0 - score + floor


GAINS = {one.__name__: one for one in (success, improvement, transition, log_headroom, relative_headroom)}
"""The built-in gains, by the names that recipes use."""


def _gain(spec: PieceSpec | None) -> Any:
    if spec is None:
        return None
    piece = resolve(spec, GAINS, key=KEY, what="gain")
    if not piece.data or set(piece.data) - {"before", "after"}:
        taken = ", ".join(piece.data) or "nothing"
        raise RecipeError(f"{KEY}: {piece.name} takes {taken}; expected before, after, or both")
    return piece


Gain = Annotated[PieceSpec | None, AfterValidator(_gain)]
"""The type of a setting that names a gain."""
SUCCESS = Piece(success.__name__, success, {}, ("after",))
