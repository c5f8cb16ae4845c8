"""What `llmrl methods` shows: every method with its paper, pieces and proof, and one method's resolved pieces."""

from __future__ import annotations

import inspect
import json
from importlib import resources
from typing import Any

from rich.console import Console
from rich.table import Table

from llmrl.algorithm import Algorithm
from llmrl.errors import RecipeError, unknown_name
from llmrl.pieces import Piece, shown
from llmrl.recipe import Recipe
from llmrl.recipe_file import method_recipe, methods
from llmrl.run.build import resolve_pieces

AXES = (
    "env",
    "allocate",
    "keep",
    "token_rewards",
    "reward_shaping",
    "advantage",
    "advantage_shaping",
    "log_ratio",
    "policy_loss",
    "token_weights",
    "regularizers",
    "reduce",
    "value",
    "value_loss",
    "controllers",
)
PROVIDED = {
    "ref_logprobs": "a frozen reference model",
    "greedy_rewards": "a greedy completion of each prompt",
    "static_values": "the starting policy's mean reward on each prompt",
    "grades": "a verifier that gives grades",
    "turn_rewards": "an environment or a reward function that rewards single turns",
    "answer_logprobs": "the gold answer's log-probability along each completion",
    "router_drift": "a mixture-of-experts model",
    "gradient_norms": "the gradient norm of each prompt's successes",
}
"""What a run has to have because a piece reads it."""


def list_methods(console: Console) -> None:
    """A table of all methods."""
    proofs = read_proofs()
    table = Table("method", "what it is", "pieces", "proof", "paper", show_lines=True)
    for name, fragment in methods().items():
        pieces = ", ".join(f"{axis}: {_names(fragment[axis])}" for axis in AXES if axis in fragment)
        table.add_row(name, fragment["summary"], pieces, _proof(proofs.get(name, {})), fragment["paper"])
    console.print(table)


def show_method(name: str, console: Console) -> None:
    """One method's pieces with every setting, and what a run with it has to provide.

    Raises RecipeError for an unknown method.
    """
    if name not in methods():
        raise RecipeError(unknown_name("methods", name, methods(), "method"))
    recipe = method_recipe(name)
    algorithm = Algorithm.from_recipe(recipe)
    outside = resolve_pieces(recipe)
    console.print(f"[bold]{name}[/]  {recipe.summary}", highlight=False)
    console.print(f"{recipe.paper}\n", highlight=False, markup=False)
    table = Table("axis", "piece", "settings", "reads", show_lines=True)
    placed = [("env", outside.env), ("keep", outside.keep), *algorithm.placed()]
    if outside.allocate:
        placed.append(("allocate", outside.allocate))
    placed += [("controllers", piece) for key, piece in algorithm.controllers.items() if key in algorithm.needs]
    weights = {w.piece.name: w.weight for w in (*algorithm.token_rewards, *algorithm.regularizers)}
    for axis, piece in sorted(placed, key=lambda pair: AXES.index(pair[0])):
        settings = _all_settings(piece)
        if axis in ("token_rewards", "regularizers"):
            settings = {"weight": weights[piece.name]} | settings
        lines = "\n".join(f"{key}: {shown(value)}" for key, value in settings.items())
        table.add_row(axis, piece.name, lines, ", ".join(piece.data))
    console.print(table)
    needs = algorithm.needs | set(outside.allocate.data if outside.allocate else ())
    provided = [text for data, text in PROVIDED.items() if data in needs]
    if algorithm.has_critic:
        provided.append(f"a critic ({_critic(recipe)})")
    console.print(f"a run provides: {', '.join(provided) or 'nothing besides the model'}", highlight=False)
    for line in _training(recipe, name):
        console.print(line, highlight=False)
    for task, proof in read_proofs().get(name, {}).items():
        console.print(f"proof, {task}: {_one_proof(proof)}", highlight=False)


def read_proofs() -> dict[str, dict[str, dict[str, Any]]]:
    """What `llmrl prove` measured of each method on each task, as it ships with llmrl."""
    file = resources.files("llmrl.prove") / "proofs.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def _names(spec: Any) -> str:
    return spec if isinstance(spec, str) else " + ".join(spec)


def _all_settings(piece: Piece) -> dict[str, Any]:
    """Every setting, those that the method leaves alone with their defaults."""
    parameters = inspect.signature(piece.function).parameters.values()
    own = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return own | dict(piece.settings)


def _critic(recipe: Recipe) -> str:
    critic = recipe.critic
    said = [f"{critic.backbone} backbone", f"{critic.outputs} output{'s' * (critic.outputs > 1)}"]
    said += [f"{critic.warmup_steps} steps of warm-up"] * bool(critic.warmup_steps) + ["then frozen"] * critic.frozen
    return ", ".join(said)


def _training(recipe: Recipe, name: str) -> list[str]:
    sections = {key: methods()[name].get(key) for key in ("rewards", "rollout", "training")}
    return [f"{key}: {value}" for key, value in sections.items() if value]


def _proof(proofs: dict[str, dict[str, Any]]) -> str:
    return "\n".join(f"{task}: {_one_proof(proof)}" for task, proof in proofs.items()) or "none"


def _one_proof(proof: dict[str, Any]) -> str:
    if proof.get("fault"):
        return f"did not finish: {proof['fault']}"
    before, after = 100 * proof["before"], 100 * proof["after"]
    return f"{before:.0f} -> {after:.0f}%" + ("" if proof["gains"] else ", no gain")
