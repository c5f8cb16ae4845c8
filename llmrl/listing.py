"""The output of `llmrl methods` and `llmrl list`: a table, one entry with all about it, or JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from rich.console import Console
from rich.table import Table

from llmrl.axes import AXES, WEIGHTED
from llmrl.catalogues import RECIPES, Entry, entries
from llmrl.errors import RecipeError, unknown_name
from llmrl.fields import BY_NAME
from llmrl.pieces import Piece, shown
from llmrl.recipe import Recipe
from llmrl.recipe_file import method_recipe, methods
from llmrl.resolve import Pieces, resolve_pieces


def list_entries(kind: str, name: str | None, console: Console, *, as_json: bool = False) -> None:
    """Print the entries of a kind, or all about one; raises RecipeError for an unknown kind or name."""
    found = entries(kind, name)
    if as_json:
        print_json([entry.data for entry in found])
    elif name is not None and {entry.name for entry in found} == {name}:
        for entry in found:
            _show_entry(entry, console)
    elif not found:
        console.print(f"no {kind} here: they are in {RECIPES.name}/ of a checkout of llmrl", soft_wrap=True)
    else:
        rows = [(e.name, e.key, e.about, "\n".join(map(str, e.settings)), e.where) for e in found]
        _print_table(("name", "key", "what it is", "settings", "where"), rows, console)


def list_methods(console: Console, *, as_json: bool = False) -> None:
    """Every method with its paper, pieces and proof."""
    proofs = read_proofs()
    found = [
        {
            "name": name,
            "summary": fragment["summary"],
            "pieces": {axis.key: _named(fragment[axis.key]) for axis in AXES if axis.key in fragment},
            "proof": proofs.get(name, {}),
            "paper": fragment["paper"],
        }
        for name, fragment in methods().items()
    ]
    if as_json:
        print_json(found)
        return
    rows = []
    for one in found:
        pieces = ", ".join(f"{key}: {' + '.join(names)}" for key, names in one["pieces"].items())
        proof = "\n".join(f"{task}: {_one_proof(proof)}" for task, proof in one["proof"].items()) or "none"
        rows.append((one["name"], one["summary"], pieces, proof, one["paper"]))
    _print_table(("method", "what it is", "pieces", "proof", "paper"), rows, console)


def show_method(name: str, console: Console, *, as_json: bool = False) -> None:
    """One method's pieces with every setting, and the models and verifiers that a run with it needs.

    Raises RecipeError for an unknown method.
    """
    if name not in methods():
        raise RecipeError(unknown_name("methods", name, methods(), "method"))
    recipe = method_recipe(name)
    pieces = resolve_pieces(recipe)
    found, provided = _pieces_of(pieces), _provided(recipe, pieces)
    proofs = read_proofs().get(name, {})
    if as_json:
        about = {"name": name, "summary": recipe.summary, "paper": recipe.paper}
        print_json(about | {"pieces": found, "provides": provided, "proof": proofs})
        return
    console.print(f"[bold]{name}[/]  {recipe.summary}", highlight=False, soft_wrap=True)
    console.print(f"{recipe.paper}\n", highlight=False, markup=False, soft_wrap=True)
    rows = [
        (one["axis"], one["piece"], "\n".join(f"{k}: {shown(v)}" for k, v in one["settings"].items()),
         ", ".join(one["reads"]))
        for one in found
    ]  # fmt: skip
    _print_table(("axis", "piece", "settings", "reads"), rows, console)
    console.print(
        f"a run provides: {', '.join(provided) or 'nothing besides the model'}", highlight=False, soft_wrap=True
    )
    for key in ("rewards", "rollout", "training"):
        if value := methods()[name].get(key):
            console.print(f"{key}: {value}", highlight=False, markup=False, soft_wrap=True)
    for task, proof in proofs.items():
        console.print(f"proof, {task}: {_one_proof(proof)}", highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, on standard output as it is."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _show_entry(entry: Entry, console: Console) -> None:
    """All about one entry."""
    lines = [f"{entry.name}  ({entry.key}, {entry.where})", "", *(entry.text or entry.about).splitlines()]
    lines += ["", f"reads: {', '.join(entry.reads)}"] * bool(entry.reads)
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    if entry.settings:
        rows = [(one.name, one.type, "required" if one.default is None else one.default) for one in entry.settings]
        console.print()
        _print_table(("setting", "type", "default"), rows, console)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], console: Console) -> None:
    """A table that fits a terminal; elsewhere whole, a line for each row, with two spaces or more between cells."""
    if console.is_terminal:
        table = Table(*headings, show_lines=any("\n" in cell for row in rows for cell in row))
        for column in table.columns:
            column.overflow = "fold"
        table.columns[0].no_wrap = True
        for row in rows:
            table.add_row(*(cell.replace("[", "\\[") for cell in row))
        console.print(table)
        return
    lines = [headings, *([", ".join(cell.splitlines()) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(headings))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def _pieces_of(pieces: Pieces) -> list[dict[str, Any]]:
    """Every piece that runs, axis by axis, with all of its settings and what it reads."""
    algorithm, placed, found = pieces.algorithm, placed_of(pieces), []
    weights = {w.piece.name: w.weight for w in (*algorithm.token_rewards, *algorithm.regularizers)}
    for axis in AXES:
        for piece in (piece for key, piece in placed if key == axis.key):
            settings = ({"weight": weights[piece.name]} if axis.kind == WEIGHTED else {}) | _all_settings(piece)
            found.append({"axis": axis.key, "piece": piece.name, "settings": settings, "reads": list(piece.data)})
    return found


def _provided(recipe: Recipe, pieces: Pieces) -> list[str]:
    """The models and measurements that a run with the method has besides the policy."""
    found = [text for text in provided_by(pieces) if text != "a critic"]
    return [*found, f"a critic ({_critic(recipe)})"] if pieces.algorithm.has_critic else found


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


def _named(spec: Any) -> list[str]:
    return [spec] if isinstance(spec, str) else list(spec)


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
