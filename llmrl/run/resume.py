"""The settings in which a resumed run may differ from its recorded plan.

The settings that a checkpoint depends on cannot change. Others may change at each resumption, and apply to the steps
that follow it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import yaml

from llmrl.errors import RecipeError
from llmrl.recipe_file import Plan, of_stages

FIXED = ("seed", "model", "data", "learn_from", "trained", "training.strategy", "training.zero_stage", "training.dtype")


def continued(recorded: str, plan: Plan, done: Collection[str]) -> tuple[str, list[str]]:
    """The plan to record, as YAML, and the keys that have changed in it.

    recorded: the YAML in the run folder. done: the finished stages, which stay recorded as they were trained: a change
    of theirs is listed and has no effect. Raises RecipeError with each changed key that is FIXED.
    """
    before, now = yaml.safe_load(recorded), yaml.safe_load(plan.dump())
    if list(before["stages"]) != list(now["stages"]):
        names = [", ".join(one["stages"]) for one in (before, now)]
        raise RecipeError(f"stages: {names[1]}, but this run was started with {names[0]}; {_ADVICE}")
    changed: list[str] = []
    faults: dict[str, list[str]] = {}
    for name in now["stages"]:
        old, new = (dict(_flat(_portable(one["stages"][name], one["run_dir"]))) for one in (before, now))
        different = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
        changed += [f"stages.{name}.{key}" for key in different]
        faults[name] = [
            f"{key}: {new.get(key)!r}, but this run was started with {old.get(key)!r}; {_ADVICE}"
            for key in different
            if any(f"{_without_role(key)}.".startswith(f"{fixed}.") for fixed in FIXED)
        ]
        if name in done:
            now["stages"][name] = before["stages"][name]
    if any(faults.values()):
        raise RecipeError(*of_stages(faults))
    return yaml.safe_dump(now, sort_keys=False, allow_unicode=True), changed


_ADVICE = "a run that goes on keeps it: give it its old value, or start another run with run_dir=..."


def _portable(stage: dict[str, Any], run_dir: str) -> dict[str, Any]:
    """The stage with its model's path relative to the run folder, which may have been moved."""
    if "roles" in stage:
        return stage | {"roles": {name: _portable(role, run_dir) for name, role in stage["roles"].items()}}
    path = str(stage["model"].get("path") or "")
    return stage | {"model": stage["model"] | {"path": path.removeprefix(run_dir)}}


def _without_role(key: str) -> str:
    """roles.critiquer.model.path -> model.path: fixed keys are fixed for every role."""
    return key.split(".", 2)[2] if key.startswith("roles.") and key.count(".") > 1 else key


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}" if key else str(name))
