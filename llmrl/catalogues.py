"""Everything that a recipe can name, as entries: rewards, environments, pieces, tasks, recipes."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import llmrl
from llmrl import tasks
from llmrl.axes import AXES, BY_KEY
from llmrl.data.tasks import TASKS
from llmrl.errors import RecipeError, unknown_name
from llmrl.pieces import functions_of
from llmrl.recipe_layers import read_layers
from llmrl.rewards.catalogue import CATALOGUE as REWARDS
from llmrl.signatures import Setting, data_of, first_paragraph, settings_of, settings_of_dataclass

RECIPES = Path(llmrl.__file__).parent.parent / "recipes"
"""The recipes of a checkout. An installed package has none, though its neighbours may have such a folder."""


@dataclass(frozen=True)
class Entry:
    """One thing that a recipe can name. key: the recipe's key that names it; about: one sentence or two; where: its
    module and function, or its file; reads: the data that it takes; text: all that is written about it."""

    name: str
    key: str
    about: str
    where: str
    settings: list[Setting] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    text: str = ""

    @property
    def data(self) -> dict[str, Any]:
        """The entry as JSON has it."""
        return asdict(self) | {"settings": {one.name: asdict(one) for one in self.settings}}


def rewards() -> Iterator[Entry]:
    """The built-in rewards."""
    yield from (_of_function(name, "rewards", function) for name, function in sorted(REWARDS.items()))


def envs() -> Iterator[Entry]:
    """The built-in environments."""
    yield from (entry for entry in pieces() if entry.key == "env")


def pieces() -> Iterator[Entry]:
    """The built-in pieces, axis by axis."""
    for axis in AXES:
        yield from (_of_function(name, axis.key, function) for name, function in sorted(axis.pieces.items()))


def generated() -> Iterator[Entry]:
    """The tasks that make rows: llmrl's own, then reasoning-gym's."""
    for module in pkgutil.iter_modules(tasks.__path__):
        for name, function in functions_of(importlib.import_module(f"{tasks.__name__}.{module.name}")).items():
            if data_of(function) == ["size", "seed"]:
                yield _of_function(f"{function.__module__}:{name}", "data.train.task", function)
    for name, function in TASKS.items():
        yield _of_function(name, "data.train.task", function)
    from reasoning_gym.factory import DATASETS

    for name, (made, settings) in sorted(DATASETS.items()):
        docs = (made.__doc__, settings.__doc__, inspect.getdoc(inspect.getmodule(made)))
        made_up = f"{settings.__name__}("  # how the docstring begins that a dataclass without one gets
        text = next((inspect.cleandoc(doc) for doc in docs if doc and not doc.startswith(made_up)), "")
        found = settings_of_dataclass(settings, without=("size", "seed"))
        where = f"{made.__module__}:{made.__name__}"
        yield Entry(name, "data.train.task", first_paragraph(text), where, found, ["size", "seed"], text)


def recipes() -> Iterator[Entry]:
    """The recipes that a checkout has."""
    checkout = (RECIPES.parent / "pyproject.toml").is_file()
    for file in sorted(RECIPES.rglob("*.yaml")) if checkout else ():
        summary = next((part["summary"] for part in reversed(read_layers(file)) if part.get("summary")), "")
        text = file.read_text(encoding="utf-8").splitlines()
        head = [line.removeprefix("#").strip() for line in itertools.takewhile(lambda line: line.startswith("#"), text)]
        yield Entry(str(file.relative_to(RECIPES)), "recipe", summary, str(file), text="\n".join(head))


CATALOGUES: dict[str, Callable[[], Iterator[Entry]]] = {
    "rewards": rewards,
    "envs": envs,
    "pieces": pieces,
    "tasks": generated,
    "recipes": recipes,
}


def entries(kind: str, name: str | None = None) -> list[Entry]:
    """The entries of a kind, all or those of one name; of pieces, an axis names all of its own.

    Raises RecipeError for an unknown kind or name, with the nearest.
    """
    if kind not in CATALOGUES:
        raise RecipeError(unknown_name("list", kind, CATALOGUES, "list"))
    found = list(CATALOGUES[kind]())
    if name is None:
        return found
    chosen = [entry for entry in found if name in (entry.name, entry.key if kind == "pieces" else None)]
    if not chosen:
        valid = {entry.name for entry in found} | (BY_KEY.keys() if kind == "pieces" else set())
        raise RecipeError(unknown_name(f"list {kind}", name, valid, f"entry of {kind}"))
    return chosen


def _of_function(name: str, key: str, function: Callable[..., Any]) -> Entry:
    text = inspect.cleandoc(function.__doc__ or "")
    where = f"{function.__module__}:{function.__qualname__}"
    return Entry(name, key, first_paragraph(text), where, settings_of(function), data_of(function), text)
