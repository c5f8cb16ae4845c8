"""The output of `llmrl methods`: every method with its paper, pieces and proof, or one method's resolved pieces."""

from __future__ import annotations

import inspect
import json
from importlib import resources
from typing import Any

from rich.console import Console
from rich.table import Table

from llmrl.axes import AXES, WEIGHTED
from llmrl.errors import RecipeError, unknown_name
from llmrl.fields import BY_NAME
from llmrl.pieces import Piece, shown
from llmrl.recipe import Recipe
from llmrl.recipe_file import method_recipe, methods
from llmrl.resolve import Pieces, resolve_pieces


def list_methods(console: Console) -> None:
    """A table of all methods."""
    proofs = read_proofs()
    table = Table("method", "what it is", "pieces", "proof", "paper", show_lines=True)
    for name, fragment in methods().items():
        pieces = ", ".join(f"{axis.key}: {_names(fragment[axis.key])}" for axis in AXES if axis.key in fragment)
        proof = "\n".join(f"{task}: {_one_proof(proof)}" for task, proof in proofs.get(name, {}).items()) or "none"
        table.add_row(name, fragment["summary"], pieces, proof, fragment["paper"])
    console.print(table)


def show_method(name: str, console: Console) -> None:
    """One method's pieces with every setting, and the models and verifiers that a run with it needs.

    Raises RecipeError for an unknown method.
    """
    if name not in methods():
        raise RecipeError(unknown_name("methods", name, methods(), "method"))
    recipe = method_recipe(name)
    pieces = resolve_pieces(recipe)
    algorithm = pieces.algorithm
    console.print(f"[bold]{name}[/]  {recipe.summary}", highlight=False)
    console.print(f"{recipe.paper}\n", highlight=False, markup=False)
    table = Table("axis", "piece", "settings", "reads", show_lines=True)
    placed = placed_of(pieces)
    weights = {w.piece.name: w.weight for w in (*algorithm.token_rewards, *algorithm.regularizers)}
    for axis in AXES:
        for piece in (piece for key, piece in placed if key == axis.key):
            settings = _all_settings(piece)
            if axis.kind == WEIGHTED:
                settings = {"weight": weights[piece.name]} | settings
            lines = "\n".join(f"{key}: {shown(value)}" for key, value in settings.items())
            table.add_row(axis.key, piece.name, lines, ", ".join(piece.data))
    console.print(table)
    provided = [text for text in provided_by(pieces) if text != "a critic"]
    if algorithm.has_critic:
        provided.append(f"a critic ({_critic(recipe)})")
    console.print(f"a run provides: {', '.join(provided) or 'nothing besides the model'}", highlight=False)
    for key in ("rewards", "rollout", "training"):
        if value := methods()[name].get(key):
            console.print(f"{key}: {value}", highlight=False)
    for task, proof in read_proofs().get(name, {}).items():
        console.print(f"proof, {task}: {_one_proof(proof)}", highlight=False)


def placed_of(pieces: Pieces) -> list[tuple[str, Piece]]:
    """Every piece that runs, with its key in the recipe."""
    outside = [(key, getattr(pieces, key)) for key in ("env", "keep", "allocate")]
    controllers = [("controllers", piece) for piece in pieces.algorithm.running_controllers.values()]
    return [(key, piece) for key, piece in [*outside, *pieces.algorithm.placed(), *controllers] if piece is not None]


def provided_by(pieces: Pieces) -> list[str]:
    """The origins of special fields that a run needs, because some piece reads their fields."""
    read = [BY_NAME[name] for _, piece in placed_of(pieces) for name in piece.data if name in BY_NAME]
    special = [field for field in read if field.special]
    return list(dict.fromkeys(field.by for field in sorted(special, key=list(BY_NAME.values()).index)))


def read_proofs() -> dict[str, dict[str, dict[str, Any]]]:
    """The results of `llmrl prove` for each method and task, as they ship with llmrl."""
    file = resources.files("llmrl.prove") / "proofs.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _names(spec: Any) -> str:
    return spec if isinstance(spec, str) else " + ".join(spec)


def _all_settings(piece: Piece) -> dict[str, Any]:
    """Every setting, by default or as the method sets it."""
    parameters = inspect.signature(piece.function).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return own | dict(piece.settings)


def _critic(recipe: Recipe) -> str:
    critic = recipe.critic
    said = [f"{critic.backbone} backbone", f"{critic.outputs} output{'s' * (critic.outputs > 1)}"]
    said += [f"{critic.warmup_steps} steps of warm-up"] * bool(critic.warmup_steps) + ["then frozen"] * critic.frozen
    return ", ".join(said)


def _one_proof(proof: dict[str, Any]) -> str:
    if proof.get("fault"):
        return f"did not finish: {proof['fault']}"
    before, after = 100 * proof["before"], 100 * proof["after"]
    return f"{before:.0f} -> {after:.0f}%" + ("" if proof["gains"] else ", no gain")
