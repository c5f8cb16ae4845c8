"""The pieces of a stage as they will run."""

from __future__ import annotations

from llmrl.algorithm import Weighted
from llmrl.axes import AXES, ONE
from llmrl.check.report import Report
from llmrl.pieces import Piece, shown
from llmrl.recipe import Recipe
from llmrl.resolve import Pieces


def check_pieces(recipe: Recipe, pieces: Pieces | None, report: Report) -> None:
    """Say which pieces run, with all their settings."""
    if pieces is None:
        return
    if pieces.allocate and recipe.rollout.first_samples == recipe.rollout.group_size:
        first = recipe.rollout.first_samples
        report.warn(f"rollout.first_samples {first} is the whole group: nothing is left for {pieces.allocate.name}")
    if recipe.paper:
        report.say("method", recipe.paper)
    running = [(axis, _running(pieces, axis.key)) for axis in AXES]
    single = [f"{axis.key}: {_text(found[0])}" for axis, found in running if axis.kind == ONE and found]
    report.say("pieces", "  ".join(single))
    for axis, found in running:
        if axis.kind != ONE and found:
            report.say(axis.key, "  ".join(map(_text, found)))


def _running(pieces: Pieces, key: str) -> list[Piece | Weighted]:
    """The pieces that run on one axis; a default that no piece reads does not run."""
    algorithm = pieces.algorithm
    if key in ("env", "allocate", "keep"):
        found = [getattr(pieces, key)] if pieces.samples else []
    elif key in ("providers", "learn_from"):
        found = []
    elif key == "controllers":
        found = list(algorithm.running_controllers.values())
    elif (
        (key == "log_ratio" and key not in algorithm.needs)
        or (key == "value" and not algorithm.reads_values)
        or (key == "value_loss" and not algorithm.has_critic)
    ):
        found = []
    else:
        own = getattr(algorithm, key)
        found = list(own) if isinstance(own, tuple) else [own]
    return [piece for piece in found if piece is not None]


def _text(found: Piece | Weighted) -> str:
    if isinstance(found, Weighted):
        return f"{found.weight:g} x {_text(found.piece)}" + (f" on {_text(found.tokens)}" if found.tokens else "")
    settings = (getattr(found.function, "__kwdefaults__", None) or {}) | dict(found.settings)
    return found.name + (f"({', '.join(f'{k}={shown(v)}' for k, v in settings.items())})" if settings else "")
