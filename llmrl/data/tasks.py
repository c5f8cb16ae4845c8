"""Rows that a task generates: one of TASKS, one of reasoning-gym's, or a function `module:function`.

A reasoning-gym row is the task's entry (question, answer, metadata) and `task_settings`, JSON of the settings that the
entry was made with, since the entry's scorer is made with them too. A function is called with size and seed, and its
keyword-only parameters are its settings; it returns the rows, in an order that seed decides.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Mapping
from typing import Any

from llmrl.data.seeds import seeds
from llmrl.errors import RecipeError, first_line, unknown_name
from llmrl.pieces import resolve
from llmrl.recipe_rows import Rows
from llmrl.rewards.reasoning_gym import TASK_SETTINGS

Settings = Mapping[str, Any]
TASKS = {"seeds": seeds}
"""The tasks of llmrl itself."""


def rows_of_task(source: Rows, key: str) -> list[dict[str, Any]]:
    """The rows of `source.task`, at most `source.limit`; raises RecipeError for an unknown task or setting."""
    own = str(source.task) in TASKS or ":" in str(source.task)
    return _from_function(source, key) if own else _from_library(source, key)


def _from_function(source: Rows, key: str) -> list[dict[str, Any]]:
    generator = resolve({str(source.task): source.settings}, TASKS, key=f"{key}.task", what="task")
    unknown = set(generator.data) - {"size", "seed"}
    if unknown:
        takes = ", ".join(sorted(unknown))
        raise RecipeError(f"{key}.task: '{source.task}' takes {takes}; expected size and seed, then settings after a *")
    try:
        rows = list(generator({"size": source.size, "seed": source.seed}))
    except ValueError as error:
        raise RecipeError(f"{key}.settings: {source.task} refuses {source.settings}: {first_line(error)}") from None
    faulty = next((row for row in rows if not isinstance(row, dict)), None)
    if faulty is not None:
        raise RecipeError(f"{key}.task: '{source.task}' gave a row of type {type(faulty).__name__}, expected dict")
    return rows[: source.limit]


def _from_library(source: Rows, key: str) -> list[dict[str, Any]]:
    import reasoning_gym
    from reasoning_gym.composite import CompositeConfig, DatasetSpec
    from reasoning_gym.factory import DATASETS

    task, settings, made_with = str(source.task), dict(source.settings), {str(source.task): source.settings}
    _check(
        task,
        settings,
        f"{key}.task",
        f"{key}.settings",
        {"size": f"{key}.size", "seed": f"{key}.seed"},
    )
    if issubclass(DATASETS[task][1], CompositeConfig):
        parts = _parts(settings.get("datasets"), f"{key}.settings.datasets")
        settings["datasets"] = [DatasetSpec(**part) for part in parts]
        made_with = {part["name"]: part["config"] for part in parts}
    size = source.size if source.limit is None else min(source.size, source.limit)
    try:
        # the whole size is asked for, because a task may draw all its rows at once
        with contextlib.redirect_stdout(io.StringIO()):  # bf prints a dot for each pass of its compiler
            entries = reasoning_gym.create_dataset(task, size=source.size, seed=source.seed, **settings)
            rows = [dict(entries[index]) for index in range(size)]
    except Exception as error:  # a task refuses settings by assertions, or fails on them in any way
        raise RecipeError(f"{key}.settings: {task} refuses {source.settings}: {first_line(error)}") from None
    texts = {name: json.dumps(one) for name, one in made_with.items()}
    return [row | {TASK_SETTINGS: texts[row["metadata"]["source_dataset"]]} for row in rows]


def _check(task: str, settings: Settings, task_key: str, key: str, written_as: Mapping[str, str]) -> None:
    """Raises RecipeError for a task or settings that the library does not have.

    written_as: the recipe's own keys of settings that do not belong here.
    """
    from reasoning_gym.factory import DATASETS

    if task not in DATASETS:
        raise RecipeError(unknown_name(task_key, task, [*DATASETS, *TASKS], "reasoning-gym task"))
    valid = {field.name for field in dataclasses.fields(DATASETS[task][1]) if field.init} - set(written_as)
    faults = []
    for setting in settings:
        if setting in written_as:
            faults.append(f"{key}.{setting}: write {written_as[setting]} instead")
        elif setting not in valid:
            faults.append(unknown_name(key, setting, valid, f"setting of {task}"))
    if faults:
        raise RecipeError(*faults)


def _parts(given: Any, key: str) -> list[dict[str, Any]]:
    """The tasks of a mixture, checked, with their default weights and settings."""
    if not isinstance(given, list) or not given:
        raise RecipeError(f"{key}: expected a list of {{name, weight, config}}, got {given!r}")
    default = {"name": "", "weight": 1.0, "config": {}}
    parts = []
    for number, part in enumerate(given):
        at = f"{key}[{number}]"
        if not isinstance(part, Mapping) or "name" not in part:
            raise RecipeError(f"{at}: expected {{name, weight, config}}, got {part!r}")
        unknown = [unknown_name(at, name, default, "key") for name in part if name not in default]
        if unknown:
            raise RecipeError(*unknown)
        parts.append(default | dict(part))
        if not isinstance(parts[-1]["config"], dict):
            raise RecipeError(f"{at}.config: expected the task's settings by name, got {part['config']!r}")
        _check(str(part["name"]), parts[-1]["config"], f"{at}.name", f"{at}.config", {})
    return parts
