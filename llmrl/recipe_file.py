"""From a recipe file to a Plan: includes, the method's fragment, stages, overrides, checks, a resolved dump.

Later layers win: an include, the method, the recipe's common part, the stage, `key=value` overrides.
One rule merges layers: mappings merge, anything else replaces, null removes; a key that holds one piece
(`policy_loss: {ppo_clip: {...}}`) merges only when both layers name the same piece.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from llmrl.errors import RecipeError, nearest, unknown_name
from llmrl.recipe import Recipe

ONE_PIECE = frozenset({"advantage", "policy_loss", "log_ratio", "reduce", "keep", "env"})
Layer = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """A run: its stages in order, each a resolved Recipe that starts from the weights of the one before."""

    name: str
    run_dir: Path
    stages: dict[str, Recipe]

    def dump(self) -> str:
        """The resolved plan as YAML: every default spelt out; loading it gives this plan again."""
        stages = {name: recipe.model_dump(mode="json") for name, recipe in self.stages.items()}
        common = {"name": self.name, "run_dir": str(self.run_dir)}
        for stage in stages.values():
            del stage["name"], stage["run_dir"]
            stage["method"] = None  # its pieces are written out below, so nothing is left to look up
        return yaml.safe_dump({**common, "stages": stages}, sort_keys=False, allow_unicode=True)


class _UniqueKeys(yaml.SafeLoader):
    """YAML that refuses a key written twice, and reads 1e-5 as a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise RecipeError(f"line {node.start_mark.line + 1}: key written twice: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep=deep)


_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def load_plan(path: str | Path, overrides: list[str] | None = None) -> Plan:
    """Read a recipe file; raises RecipeError with every fault found in it."""
    path = Path(path)
    layer = _override(_read(path), overrides or [])
    stages: Mapping[str, Any] = layer.pop("stages", None) or {"train": {}}
    if not isinstance(stages, dict) or not all(isinstance(stage, dict | None) for stage in stages.values()):
        raise RecipeError("stages: expected a mapping of stage names to recipe fragments")
    layer.setdefault("name", path.stem)
    layer.setdefault("run_dir", f"runs/{layer['name']}")
    recipes, faults = {}, []
    for index, (name, fragment) in enumerate(stages.items()):
        fragment = dict(fragment or {})
        if index and "model" not in fragment and isinstance(layer.get("model"), dict):
            # a later stage starts from the weights of the one before; LoRA settings still apply to it
            fragment["model"] = {"path": f"{layer['run_dir']}/stages/{list(stages)[index - 1]}"}
            fragment["model"] |= dict.fromkeys(("build", "gguf"))
        elif index and "model" not in fragment:
            fragment["model"] = f"{layer['run_dir']}/stages/{list(stages)[index - 1]}"
        prefix = f"stages.{name}." if len(stages) > 1 else ""
        try:
            recipes[name] = _stage(layer, fragment)
        except RecipeError as error:
            faults += [fault if fault in faults else f"{prefix}{fault}" for fault in error.faults]
    if faults:
        raise RecipeError(*dict.fromkeys(faults))
    return Plan(layer["name"], Path(layer["run_dir"]), recipes)


def methods() -> dict[str, Layer]:
    """Every method that ships with llmrl: its name and its recipe fragment."""
    folder = resources.files("llmrl.methods")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): _parse(f.read_text(encoding="utf-8"), f.name) for f in files}


def merge(lower: Layer, upper: Layer) -> Layer:
    """`upper` laid over `lower`."""
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        if value is None:
            merged[key] = None
        elif key in ONE_PIECE:
            merged[key] = _merge_piece(below, value)
        elif isinstance(below, dict) and isinstance(value, dict):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _merge_piece(below: Any, value: Any) -> Any:
    if isinstance(below, dict) and isinstance(value, dict) and below.keys() == value.keys():
        return {name: {**(below[name] or {}), **(value[name] or {})} for name in value}
    return value


def _stage(common: Layer, fragment: Layer) -> Recipe:
    own = merge(common, fragment)
    name = own.get("method")
    fragments = methods()
    if name is not None and name not in fragments:
        raise RecipeError(unknown_name("method", str(name), fragments, "method"))
    layer = merge(fragments[name], own) if name else own
    layer = _drop_nulls(layer)
    layer = _interpolate(layer, layer)
    try:
        return Recipe.model_validate(layer)
    except ValidationError as error:
        raise RecipeError(*_faults(error)) from None


def _read(path: Path, including: tuple[Path, ...] = ()) -> Layer:
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path(".")
        guess = nearest(path.name, [f.name for f in folder.glob("*.yaml")])
        raise RecipeError(f"{path}: no such recipe file" + (f"; did you mean '{folder / guess}'?" if guess else ""))
    if path.resolve() in including:
        raise RecipeError(f"{path}: includes itself")
    layer = _parse(path.read_text(encoding="utf-8"), str(path))
    includes = layer.pop("include", None) or []
    below: Layer = {}
    for name in [includes] if isinstance(includes, str) else includes:
        below = merge(below, _read(path.parent / name, (*including, path.resolve())))
    return merge(below, layer)


def _parse(text: str, name: str) -> Layer:
    try:
        layer = yaml.load(text, _UniqueKeys)
    except RecipeError as error:
        raise RecipeError(*(f"{name}: {fault}" for fault in error.faults)) from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(layer, dict):
        raise RecipeError(f"{name}: expected a mapping of keys to values, got {type(layer).__name__}")
    return layer


def _override(layer: Layer, overrides: list[str]) -> Layer:
    stages = layer.get("stages") or {}
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"override '{override}': expected key=value, such as training.steps=20")
        value = yaml.load(text, _UniqueKeys)
        path = key.split(".")
        setting = [s for s, fragment in stages.items() if _has(fragment, path)]
        if setting and path[0] != "stages":
            named = ", ".join(f"stages.{s}.{key}" for s in setting)
            raise RecipeError(f"override '{key}': set by a stage, so say which one: {named}")
        layer = merge(layer, _nest(path, value))
    return layer


def _nest(path: list[str], value: Any) -> Layer:
    for key in reversed(path):
        value = {key: value}
    return value


def _has(layer: Any, path: list[str]) -> bool:
    for key in path:
        if not isinstance(layer, dict) or key not in layer:
            return False
        layer = layer[key]
    return True


def _drop_nulls(layer: Any) -> Any:
    if not isinstance(layer, dict):
        return layer
    return {key: _drop_nulls(value) for key, value in layer.items() if value is not None}


def _interpolate(value: Any, root: Layer) -> Any:
    """Replace "${rollout.max_completion_tokens}" by the value of that key, recipe or schema default."""
    if isinstance(value, dict):
        return {key: _interpolate(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [_interpolate(inner, root) for inner in value]
    found = re.fullmatch(r"\$\{([\w.]+)\}", value) if isinstance(value, str) else None
    if not found:
        return value
    path = found[1].split(".")
    here: Any = root
    if not _has(root, path):
        here = _default(path)
    else:
        for key in path:
            here = here[key]
    if here is None:
        raise RecipeError(f"{value}: the recipe has no key {found[1]}")
    return here


def _default(path: list[str]) -> Any:
    schema: Any = Recipe
    for key in path[:-1]:
        schema = schema.model_fields[key].annotation if key in schema.model_fields else None
        if not (isinstance(schema, type) and issubclass(schema, BaseModel)):
            return None
    field = schema.model_fields.get(path[-1])
    return field.get_default() if field else None


def _faults(error: ValidationError) -> list[str]:
    """pydantic's errors as sentences that name the key, the value, what was expected, the nearest valid key."""
    faults = []
    for item in error.errors():
        where = [part for part in item["loc"] if isinstance(part, str) and not part.startswith(("function-", "dict["))]
        key = ".".join(where) or "recipe"
        if item["type"] == "extra_forbidden":
            valid = _keys_at(where[:-1])
            guess = nearest(where[-1], valid)
            hint = f"did you mean '{guess}'?" if guess else f"valid: {', '.join(sorted(valid))}"
            faults.append(f"{key}: unknown key (value {item['input']!r}); {hint}")
        elif item["type"] == "missing":
            faults.append(f"{key}: required, and missing")
        elif item["type"] == "value_error":
            message = item["msg"].removeprefix("Value error, ")
            faults.append(message if key == "recipe" else f"{key}: {message}")
        else:
            faults.append(f"{key}: {_short(item['input'])} is not valid: {item['msg']}")
    return list(dict.fromkeys(faults))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _keys_at(path: list[str]) -> list[str]:
    schema: Any = Recipe
    for key in path:
        annotation = schema.model_fields[key].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        schema = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if schema is None:
            return []
    return list(schema.model_fields)
