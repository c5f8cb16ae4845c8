"""From a recipe file to a Plan: the method's fragment, stages, roles, overrides, and a resolved dump.

Later layers win: an include, the method, the file that names it, the stage, the role, `key=value` overrides. The
includes of a file that names a method lie under that method, so that a base file cannot change a method.
llmrl/recipe_layers.py says how two layers are merged.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, reduce
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from llmrl.axes import AXES
from llmrl.errors import RecipeError, gathered, short, unknown_name
from llmrl.metrics.table import METRICS
from llmrl.recipe import ORIGINS, Recipe
from llmrl.recipe_faults import faults_of
from llmrl.recipe_layers import (
    Layer,
    interpolated,
    merge,
    nested,
    parse_yaml,
    read_layers,
    sets,
    without_nulls,
    yaml_value,
)
from llmrl.recipe_moves import move_faults
from llmrl.recipe_products import dropped_adapters, missing_products
from llmrl.types import ENVIRONMENT

ROLE_KEYS = (
    *(axis.key for axis in AXES if axis.of_role),
    "summary",
    "paper",
    "model",
    "rewards",
    "trained",
    "trained_every",
    "critic",
    "reference",
    "history",
    "training",
    "rollout",
)
"""Keys that a role may set for itself."""
SAMPLING_KEYS = ("max_completion_tokens", "temperature", "top_p", "top_k", "stop", "engine_options")
"""Keys of `rollout` that a role may set for itself; the others are the stage's."""
RESERVED = frozenset(metric.name.partition("/")[0] for metric in METRICS if "/" in metric.name) | {ENVIRONMENT}
"""Names that a role may not have, since its metrics would have those of others."""


@dataclass(frozen=True)
class Plan:
    """A run: its stages in order, each a resolved Recipe that starts from the weights of the one before.

    folder: the recipe file's.
    """

    name: str
    run_dir: Path
    stages: dict[str, Recipe]
    folder: Path = Path()

    def dump(self) -> str:
        """The resolved plan as YAML: every default spelt out; loading it gives this plan again."""
        stages = {name: _dumped(recipe) for name, recipe in self.stages.items()}
        common = {"name": self.name, "run_dir": str(self.run_dir)}
        return yaml.safe_dump({**common, "stages": stages}, sort_keys=False, allow_unicode=True)


def _dumped(recipe: Recipe) -> Layer:
    """A stage's own keys; with several roles, each role's keys are under its name."""
    whole = recipe.model_dump(mode="json", exclude={"name", "run_dir", "roles"})
    if not recipe.roles:
        return whole
    roles = {}
    for name, view in recipe.roles.items():
        own = view.model_dump(mode="json", include=set(ROLE_KEYS))
        roles[name] = own | {"rollout": {key: own["rollout"][key] for key in SAMPLING_KEYS}}
    rollout = {key: value for key, value in whole["rollout"].items() if key not in SAMPLING_KEYS}
    common = {key: value for key, value in whole.items() if key not in ROLE_KEYS}
    return common | {"rollout": rollout, "roles": roles}


def load_plan(path: str | Path, overrides: list[str] | None = None) -> Plan:
    """Read a recipe file; raises RecipeError with every fault found in it."""
    path = Path(path)
    folder = str(path.parent.resolve())
    if folder not in sys.path:  # a recipe may name functions of modules in its own folder
        sys.path.append(folder)
    files = read_layers(path)
    under, own = _around_the_method(files)
    own = _override(own, overrides or [], under)
    stages = _stages(own.pop("stages", None) or {"train": {}})
    layer = merge(under, own)
    own["name"] = layer["name"] = layer.get("name") or path.stem
    own["run_dir"] = layer["run_dir"] = layer.get("run_dir") or f"runs/{layer['name']}"
    recipes: dict[str, Recipe] = {}
    faults: dict[str, list[str]] = {name: [] for name in stages}
    for index, (name, fragment) in enumerate(stages.items()):
        before = f"{layer['run_dir']}/stages/{list(stages)[index - 1]}" if index else None
        roles = _role_names(stages[list(stages)[index - 1]], layer) if index else []
        with gathered(faults[name]):
            fragment = dict(fragment or {})
            below = under if "method" in merge(own, fragment) else _under_without_a_method(files)
            recipes[name] = _stage(below, own, fragment, before, roles)
    if not any(faults.values()):
        for name, recipe in recipes.items():
            views = recipe.by_role.items()
            faults[name] += of_roles({role: missing_products(recipes, name, view) for role, view in views})
            faults[name] += dropped_adapters(recipes, name)
    if any(faults.values()):
        raise RecipeError(*of_stages(faults))
    first = next(iter(recipes.values()))
    return Plan(first.name, Path(first.run_dir), recipes, path.parent)


def _role_names(fragment: Any, common: Layer) -> list[str]:
    """The roles of a stage, in order; none where it has only the actor."""
    roles = merge(common, dict(fragment or {})).get("roles")
    return list(roles) if isinstance(roles, dict) else []


def _stage(under: Layer, common: Layer, fragment: Layer, before: str | None, roles_before: list[str]) -> Recipe:
    """A stage's recipe. before: the folder of the stage before, whose weights it starts from if it names no model;
    roles_before: the roles that have their own folders in it."""
    names_model = _names_origin(fragment)
    layer = _with_method(under, merge(common, fragment))
    roles = layer.pop("roles", None) or {}
    if not isinstance(roles, dict) or not all(isinstance(part, dict | None) for part in roles.values()):
        raise RecipeError("roles: expected a mapping of role names to what each role changes")
    start = None if before is None or names_model else before
    folder = f"{start}/{roles_before[0]}" if start and roles_before else start  # for a role that was not there before
    if not roles:
        recipe = _recipe(_started(layer, folder))
        if faults := move_faults(recipe.moves, recipe.by_role):
            raise RecipeError(*faults)
        return recipe
    views: dict[str, Recipe] = {}
    faults = [fault for name, part in roles.items() for fault in _role_faults(name, dict(part or {}))]
    of_each: dict[str, list[str]] = {name: [] for name in roles}
    for name, part in roles.items():
        part = dict(part or {})
        with gathered(of_each[name]):
            view = _with_method(_without_origin(layer, part), part)
            if start and not _names_origin(part):
                view = _started(view, f"{start}/{name}" if name in roles_before else folder)
            views[name] = _recipe(view)
    faults += of_roles(of_each)
    if not faults:
        faults = [fault for name, view in views.items() for fault in _disagreements(name, view, views)]
        faults += move_faults(next(iter(views.values())).moves, views)
    if faults:
        raise RecipeError(*faults)
    return next(iter(views.values())).model_copy(update={"roles": views})


def _names_origin(part: Layer) -> bool:
    """Whether a stage or a role says itself where its weights come from."""
    model = part.get("model")
    return isinstance(model, str) or (isinstance(model, dict) and any(model.get(key) for key in ORIGINS))


def _without_origin(layer: Layer, part: Layer) -> Layer:
    """The stage's layer for a role, without the stage's model if the role takes another role's weights."""
    own, common = part.get("model"), layer.get("model")
    if not (isinstance(own, dict) and own.get("role") and isinstance(common, dict)):
        return layer
    return layer | {"model": {key: value for key, value in common.items() if key.startswith("chat_template")}}


def _role_faults(name: Any, part: Layer) -> list[str]:
    if not re.fullmatch(r"[A-Za-z][\w-]*", str(name)):
        return [f"roles: '{name}' is no name for a role: expected a letter, then letters, digits, - and _"]
    if name in RESERVED:
        return [f"roles: '{name}' is no name for a role: metrics of its own begin with it"]
    faults = [
        f"roles.{name}.{key}: belongs to the whole stage; write it outside of roles"
        for key in part
        if key in Recipe.model_fields and key not in ROLE_KEYS
    ]
    rollout = part.get("rollout")
    return faults + [
        f"roles.{name}.rollout.{key}: belongs to the whole stage; a role sets {', '.join(SAMPLING_KEYS)}"
        for key in (rollout if isinstance(rollout, dict) else ())
        if key not in SAMPLING_KEYS
    ]


_OUT = "leave it out"


def _disagreements(name: str, view: Recipe, views: Mapping[str, Recipe]) -> list[str]:
    """The conflicts of one role with the others."""
    first = next(iter(views.values()))
    faults = []
    for key in ("steps", "epochs"):
        own, leading = getattr(view.training, key), getattr(first.training, key)
        if own != leading:
            faults.append(
                f"roles.{name}.training.{key}: {own}, but the first role has {leading}; the roles of a stage take "
                f"their steps together"
            )
    owner = view.model.role
    if owner is None:
        return faults
    if owner not in views or owner == name or views[owner].model.role is not None:
        owners = [other for other, one in views.items() if one.model.role is None and other != name]
        return [*faults, unknown_name(f"roles.{name}.model.role", owner, owners, "role with a model of its own")]
    if view.trained and not views[owner].trained and view.model.lora is None:
        faults.append(
            f"roles.{name}.trained: true, but it shares the weights of {owner}, which is frozen (trained: false); "
            f"train {owner}, or give {name} an adapter (model.lora)"
        )
    if view.rollout.engine_options != views[owner].rollout.engine_options:
        faults.append(f"roles.{name}.rollout.engine_options: differ from {owner}'s, whose sampler serves both; {_OUT}")
    for key in ("dtype", "strategy", "zero_stage", "gradient_checkpointing") if view.model.lora else ():
        own, others = getattr(view.training, key), getattr(views[owner].training, key)
        if own != others:
            faults.append(
                f"roles.{name}.training.{key}: {own}, but {owner}, whose base it adapts, has {others}; {_OUT}"
            )
    if view.training != views[owner].training and view.model.lora is None:
        faults.append(f"roles.{name}.training: differs from {owner}'s, but {owner}'s weights are shared; {_OUT}")
    if view.model.lora and views[owner].trained and views[owner].model.lora is None:
        faults.append(
            f"roles.{name}.model.lora: adapts {owner}'s base, but {owner} trains all of it; give {owner} a lora too"
        )
    return faults


def _started(layer: Layer, folder: str | None) -> Layer:
    """The layer with the model that an earlier stage left in `folder`; LoRA settings still apply to it."""
    if folder is None:
        return layer
    model = layer.get("model")
    kept = model if isinstance(model, dict) else {}
    return layer | {"model": {**kept, **dict.fromkeys(ORIGINS), "path": folder}}


def _with_method(under: Layer, own: Layer) -> Layer:
    """`own` over the fragment of the method that it names, over `under`."""
    own = dict(own)
    name = own.pop("method", None)
    fragments = methods()
    if name is not None and str(name) not in fragments:
        raise RecipeError(unknown_name("method", str(name), fragments, "method"))
    return merge(merge(under, fragments[str(name)] if name is not None else {}), own)


def _recipe(layer: Layer) -> Recipe:
    layer = without_nulls(layer)
    layer = interpolated(layer, layer)
    try:
        return Recipe.model_validate(layer)
    except ValidationError as error:
        raise RecipeError(*faults_of(error)) from None


def of_stages(faults: Mapping[str, list[str]]) -> list[str]:
    """Each stage's faults as one list: without the stage's name if every stage has the fault."""
    return _said_once(faults, "stage {}: ")


def of_roles(faults: Mapping[str, list[str]]) -> list[str]:
    """Each role's faults as one list: without the role's name if every role has the fault."""
    return _said_once(faults, "roles.{}.")


def _said_once(faults: Mapping[str, list[str]], prefix: str) -> list[str]:
    everywhere = set.intersection(*map(set, faults.values()))
    named = (
        fault if fault in everywhere else prefix.format(name) + fault for name, own in faults.items() for fault in own
    )
    return list(dict.fromkeys(named))


def methods() -> dict[str, Layer]:
    """Every method that ships with llmrl: its name and its recipe fragment."""
    return copy.deepcopy(_methods())


@cache
def _methods() -> dict[str, Layer]:
    folder = resources.files("llmrl.methods")
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): parse_yaml(f.read_text(encoding="utf-8"), f.name) for f in files}


def method_recipe(name: str) -> Recipe:
    """A minimal recipe of a method; raises RecipeError for an unknown method."""
    columns = {"completion": "answer", "chosen": "chosen", "rejected": "rejected", "steps": "steps"}
    rows = {"path": "rows.jsonl", **columns, "step_labels": "step_labels"}
    rest = {"data": {"train": rows}, "rewards": {"math_verifier": {}}}
    return _recipe(_with_method({}, {"method": name, "name": name, "run_dir": f"runs/{name}", "model": "model"} | rest))


def _stages(stages: Any) -> Mapping[str, Any]:
    if not isinstance(stages, dict) or not all(isinstance(stage, dict | None) for stage in stages.values()):
        raise RecipeError("stages: expected a mapping of stage names to recipe fragments")
    faults = [
        f"stages: '{name}' is no name for a stage: expected letters, digits, - and _ (it names folders)"
        for name in stages
        if not re.fullmatch(r"[\w-]+", str(name))
    ]
    faults += [
        f"stages.{name}.{key}: belongs to the whole run; write it outside of stages"
        for name, fragment in stages.items()
        for key in ("name", "run_dir", "include", "stages")
        if key in (fragment or {})
    ]
    if faults:
        raise RecipeError(*faults)
    return stages


def _around_the_method(files: list[Layer]) -> tuple[Layer, Layer]:
    """The layer under the method's fragment, and the layer over it: all stages, and the last file that names a method
    with those that include it."""
    first = _last_naming(files)
    under, own = reduce(merge, files[:first], {}), reduce(merge, files[first:], {})
    stages = reduce(merge, (file["stages"] for file in files if isinstance(file.get("stages"), dict)), {})
    under = {key: value for key, value in under.items() if key not in ("method", "stages")}
    return under, own | {"stages": stages} if stages else own


def _under_without_a_method(files: list[Layer]) -> Layer:
    """The layer under a stage that names no method, while others do: with the method of the files below, if any."""
    lower = [{key: value for key, value in file.items() if key != "stages"} for file in files[: _last_naming(files)]]
    return _with_method(*_around_the_method(lower))


def _last_naming(files: list[Layer]) -> int:
    """The last file that names a method, for all stages or for one; 0 if none does."""
    naming = [i for i, file in enumerate(files) if any("method" in part for part in (file, *_fragments(file)))]
    return naming[-1] if naming else 0


def _fragments(file: Layer) -> list[Layer]:
    stages = file.get("stages")
    return [part for part in stages.values() if isinstance(part, dict)] if isinstance(stages, dict) else []


def _override(layer: Layer, overrides: list[str], under: Layer) -> Layer:
    stages = _stages(layer.get("stages") or {})
    roles = _named_roles(under, layer)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise RecipeError(f"override {short(override)}: expected key=value, such as training.steps=20")
        value = yaml_value(text, f"override {short(override)}")
        path = key.split(".")
        if path[0] == "include":
            raise RecipeError(f"override '{key}': files are included by a recipe file alone; write it there")
        if path[0] == "stages" and not stages:
            raise RecipeError(f"override '{key}': the recipe has no stages; leave 'stages.NAME.' out of the key")
        setting = [stage for stage, fragment in stages.items() if sets(fragment, path)]
        if setting and path[0] != "stages":
            named = ", ".join(f"stages.{stage}.{key}" for stage in setting)
            raise RecipeError(f"override '{key}': set by a stage, so say which one: {named}")
        own = [name for name, part in (layer.get("roles") or {}).items() if sets(part or {}, path)]
        if own and path[0] != "roles":
            named = ", ".join(f"roles.{name}.{key}" for name in own)
            raise RecipeError(f"override '{key}': set by a role, so say which one: {named}")
        if path[0] == "roles" and len(path) > 1 and path[1] not in roles:
            of_stages = [f"stages.{stage}.{key}" for stage, part in stages.items() if path[1] in _named_roles(part)]
            known = {*roles, *_named_roles(*stages.values())}
            fault = f"override '{key}': the role of a stage, so say which one: {', '.join(of_stages)}"
            raise RecipeError(fault if of_stages else unknown_name(f"override '{key}'", path[1], known, "role"))
        if path[0] == "stages" and (len(path) < 3 or path[1] not in stages):
            if len(path) > 1 and path[1] not in stages:
                raise RecipeError(unknown_name(f"override '{key}'", path[1], stages, "stage"))
            raise RecipeError(f"override '{key}': expected stages.NAME.KEY=value; stages: {', '.join(stages)}")
        layer = merge(layer, nested(path, value))
    return layer


def _named_roles(*layers: Layer | None) -> list[str]:
    """The roles that some of the layers name."""
    found = [(layer or {}).get("roles") for layer in layers]
    return [name for roles in found if isinstance(roles, dict) for name in roles]
