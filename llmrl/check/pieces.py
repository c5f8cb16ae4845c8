"""The pieces of a stage as they will run."""

from __future__ import annotations

from llmrl.algorithm import Algorithm
from llmrl.check.report import Report
from llmrl.pieces import Piece, shown
from llmrl.recipe import Recipe
from llmrl.run.build import Pieces


def check_pieces(recipe: Recipe, algorithm: Algorithm | None, pieces: Pieces | None, report: Report) -> None:
    """Say which pieces run, with all their settings."""
    if pieces and pieces.allocate:
        first = recipe.rollout.first_samples
        if first == recipe.rollout.group_size:
            report.warn(f"rollout.first_samples {first} is the whole group: nothing is left for {pieces.allocate.name}")
    if algorithm and pieces:
        _say(recipe, algorithm, pieces, report)


def _running(algorithm: Algorithm) -> list[Piece]:
    return [piece for name, piece in algorithm.controllers.items() if name in algorithm.needs]


def _say(recipe: Recipe, algorithm: Algorithm, pieces: Pieces, report: Report) -> None:
    if recipe.paper:
        report.say("method", recipe.paper)
    named: list[tuple[str, Piece | None]] = [("advantage", algorithm.advantage), ("policy_loss", algorithm.policy_loss)]
    if "log_ratio" in algorithm.needs:
        named.append(("log_ratio", algorithm.log_ratio))
    named.append(("reduce", algorithm.reduce))
    if algorithm.reads_values:
        named.append(("value", algorithm.value))
    if algorithm.has_critic:
        named.append(("value_loss", algorithm.value_loss))
    if recipe.learn_from == "rollouts":
        named += [("env", pieces.env), ("allocate", pieces.allocate), ("keep", pieces.keep)]
    report.say("pieces", "  ".join(f"{key}: {_text(piece)}" for key, piece in named if piece))
    for key, weighted in (("token_rewards", algorithm.token_rewards), ("regularizers", algorithm.regularizers)):
        if weighted:
            on = [f" on {_text(w.tokens)}" if w.tokens else "" for w in weighted]
            terms = [f"{w.weight:g} x {_text(w.piece)}{tokens}" for w, tokens in zip(weighted, on, strict=True)]
            report.say(key, "  ".join(terms))
    chains = {
        "reward_shaping": algorithm.reward_shaping,
        "advantage_shaping": algorithm.advantage_shaping,
        "token_weights": algorithm.token_weights,
        "controllers": _running(algorithm),
    }
    for key, chain in chains.items():
        if chain:
            report.say(key, "  ".join(map(_text, chain)))


def _text(piece: Piece) -> str:
    settings = (getattr(piece.function, "__kwdefaults__", None) or {}) | dict(piece.settings)
    return piece.name + (f"({', '.join(f'{k}={shown(v)}' for k, v in settings.items())})" if settings else "")
