"""Layers of a recipe: reading YAML files with their includes, merging, overriding, interpolating.

One rule merges layers: mappings merge, anything else replaces, null removes; a key that holds one piece
(`policy_loss: {ppo_clip: {...}}`) merges only when both layers name the same piece, and a model's origin replaces
another origin.
"${rollout.max_completion_tokens}" as a whole value stands for the value of that key.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from llmrl.axes import ONE_PIECE
from llmrl.bounds import has_half_pair, out_of_bounds
from llmrl.errors import RecipeError, nearest, short
from llmrl.recipe import ORIGINS, Recipe
from llmrl.recipe_faults import keys_at

Layer = dict[str, Any]
LARGEST, MOST_VALUES = 2**63 - 1, 100_000


class UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key written twice, and reads 1e-5 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value if not key.tag.endswith(":merge")]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise RecipeError(f"line {node.start_mark.line + 1}: key written twice: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep=deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        try:
            value = super().construct_yaml_int(node)
        except ValueError:  # Python reads no more than 4,300 digits
            value = LARGEST + 1
        if abs(value) > LARGEST:
            raise RecipeError(f"line {node.start_mark.line + 1}: {short(node.value)} is beyond 64 bits")
        return value

    def construct_yaml_str(self, node: yaml.ScalarNode) -> str:
        text = super().construct_yaml_str(node)
        if has_half_pair(text):
            raise RecipeError(f"line {node.start_mark.line + 1}: {short(text)} holds half of a surrogate pair")
        return text


UniqueKeys.add_constructor("tag:yaml.org,2002:int", UniqueKeys.construct_yaml_int)
UniqueKeys.add_constructor("tag:yaml.org,2002:str", UniqueKeys.construct_yaml_str)
UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_layers(path: Path, including: tuple[Path, ...] = ()) -> list[Layer]:
    """The included files' contents and the file's own, later ones over earlier ones."""
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path(".")
        guess = nearest(path.name, [f.name for f in folder.glob("*.yaml")])
        raise RecipeError(f"{path}: no such recipe file" + (f"; did you mean '{folder / guess}'?" if guess else ""))
    if path.resolve() in including:
        raise RecipeError(f"{path}: includes itself")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not UTF-8 text: {error}") from None
    layer = parse_yaml(text, str(path))
    includes = layer.pop("include", None) or []
    includes = [includes] if isinstance(includes, str) else includes
    if not isinstance(includes, list) or not all(isinstance(name, str) for name in includes):
        raise RecipeError(f"{path}: include: {short(includes)} is not valid: expected a file name or a list of them")
    below = [part for name in includes for part in read_layers(path.parent / name, (*including, path.resolve()))]
    return [*below, layer]


def parse_yaml(text: str, name: str) -> Layer:
    """The mapping that a YAML text holds; raises RecipeError that names the text's file."""
    layer = yaml_value(text, name)
    if not isinstance(layer, dict):
        raise RecipeError(f"{name}: expected a mapping of keys to values, got {type(layer).__name__}")
    return layer


def _about_quotes(text: str, error: Exception) -> str:
    """A hint, if the line that YAML stops at has a template without quotes."""
    mark = getattr(error, "problem_mark", None)
    line = text.splitlines()[mark.line] if mark and mark.line < len(text.splitlines()) else ""
    found = re.search(r"[:\[,]\s*(\{[\w.]+\}[^,}\]]*)", line)
    return f'; put a text with braces in quotes: "{found[1].strip()}"' if found else ""


def yaml_value(text: str, name: str) -> Any:
    """The value that a YAML text holds; raises RecipeError that begins with `name`."""
    try:
        value = yaml.load(text, UniqueKeys)
        fault = out_of_bounds(value, most_values=MOST_VALUES)
        if fault:
            raise RecipeError(f"holds {fault}")
        return value
    except RecipeError as error:
        raise RecipeError(*(f"{name}: {fault}" for fault in error.faults)) from None
    except (yaml.YAMLError, ValueError) as error:  # a date that does not exist is a ValueError
        raise RecipeError(f"{name}: not valid YAML: {_said(error)}{_about_quotes(text, error)}") from None
    except RecursionError:
        raise RecipeError(f"{name}: nested too deeply to be read") from None


def _said(error: Exception) -> str:
    """An error of a YAML text on one line, with the place if the error has one."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    text = " ".join(str(problem or error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {text}" if mark else text


def merge(lower: Layer, upper: Layer) -> Layer:
    """`upper` laid over `lower`."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            mergeable = key not in ONE_PIECE or below.keys() == value.keys()
            below = _without_other_origins(below, value) if key == "model" else below
            value = merge(below, value) if mergeable else value
        merged[key] = value
    return merged


def _without_other_origins(lower: Layer, upper: Layer) -> Layer:
    """A model's layer without its origin, if the layer above names another."""
    named = [key for key in ORIGINS if upper.get(key) is not None]
    return {key: value for key, value in lower.items() if key not in ORIGINS or key in named or not named}


def sets(fragment: Any, path: list[str]) -> bool:
    """Whether `fragment` sets the key at `path`, or replaces a mapping above it."""
    for key in path:
        if not isinstance(fragment, dict):
            return fragment is not None
        if key not in fragment:
            return False
        fragment = fragment[key]
    return True


def nested(path: list[str], value: Any) -> Layer:
    """A layer that holds one value at a path of keys."""
    for key in reversed(path):
        value = {key: value}
    return value


def without_nulls(layer: Any) -> Any:
    """The layer without the keys that null has removed."""
    if not isinstance(layer, dict):
        return layer
    return {key: without_nulls(value) for key, value in layer.items() if value is not None}


def interpolated(value: Any, root: Layer) -> Any:
    """Replace "${rollout.max_completion_tokens}" by the value of that key, recipe or schema default.

    A path may begin with a key's value, as in "${run_dir}/stages/sft".
    """
    if isinstance(value, dict):
        return {key: interpolated(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [interpolated(inner, root) for inner in value]
    found = re.fullmatch(r"\$\{([\w.]+)\}(/.*)?", value) if isinstance(value, str) else None
    if not found:
        return value
    path = found[1].split(".")
    here: Any = root
    for key in path:
        if not isinstance(here, dict) or key not in here:
            here = _default(path)
            break
        here = here[key]
    if here is None:
        guess = nearest(path[-1], keys_at(path[:-1]))
        hint = f"; did you mean '{'.'.join([*path[:-1], guess])}'?" if guess else ""
        raise RecipeError(f"{value}: the recipe has no key '{found[1]}'{hint}")
    return f"{here}{found[2]}" if found[2] else here


def _default(path: list[str]) -> Any:
    schema: Any = Recipe
    for key in path[:-1]:
        schema = schema.model_fields[key].annotation if key in schema.model_fields else None
        if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
            return None
    field = schema.model_fields.get(path[-1])
    return field.get_default(call_default_factory=True) if field and not field.is_required() else None
