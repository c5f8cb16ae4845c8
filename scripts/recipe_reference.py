"""Write the tables of docs/recipes.md from the recipe schema and the catalogues of pieces.

python scripts/recipe_reference.py
"""

from __future__ import annotations

import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import UnionType
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from llmrl.envs.catalogue import ENVS
from llmrl.ops import (
    advantage_shaping,
    advantages,
    allocation,
    controllers,
    log_ratios,
    policy_losses,
    reductions,
    regularizers,
    reward_shaping,
    token_weights,
    value_losses,
    values,
)
from llmrl.pieces import catalogue
from llmrl.recipe import Recipe
from llmrl.recipe_file import methods
from llmrl.rewards.catalogue import REWARDS
from llmrl.rollout import selection

PAGE = Path(__file__).parent.parent / "docs" / "recipes.md"
FILE_KEYS = {
    "include": "a recipe file, or a list of them, that this one is laid over",
    "method": "a published method, whose pieces this recipe starts from (`llmrl/methods/`)",
    "stages": "names of stages, each with what it changes; they run in this order",
}
FILE_DEFAULTS = {"name": "the file's name", "run_dir": "`runs/NAME`"}  # what reading a file fills in
CATALOGUES: dict[str, dict[str, Callable[..., Any]]] = {
    "advantage": catalogue(advantages),
    "policy_loss": catalogue(policy_losses),
    "log_ratio": catalogue(log_ratios),
    "reduce": catalogue(reductions),
    "token_weights": catalogue(token_weights),
    "regularizers, token_rewards": catalogue(regularizers),
    "reward_shaping": catalogue(reward_shaping),
    "advantage_shaping": catalogue(advantage_shaping),
    "value": catalogue(values),
    "value_loss": catalogue(value_losses),
    "controllers": catalogue(controllers),
    "rewards": REWARDS,
    "allocate": catalogue(allocation),
    "keep": catalogue(selection),
    "env": ENVS,
}


def main() -> None:
    """Replace the generated sections of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, section in (("keys", keys()), ("pieces", pieces()), ("methods", method_table())):
        text = replaced(text, name, section)
    PAGE.write_text(text, encoding="utf-8")


def replaced(text: str, name: str, section: str) -> str:
    """`text` with what stands between the marks of `name` replaced by `section`."""
    start, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{section}\n{end}{after}"


def keys() -> str:
    """A table for every part of the schema."""
    parts = []
    for path, schema in _schemas(Recipe, ""):
        parts.append(f"### {f'`{path}`' if path else 'The top level'}\n\n{_prose(schema.__doc__)}\n")
        parts.append("| key | type | default | meaning |\n|---|---|---|---|")
        rows = [f"| `{key}` | | | {meaning} |" for key, meaning in FILE_KEYS.items()] if not path else []
        rows += [_row(name, field) for name, field in schema.model_fields.items()]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def pieces() -> str:
    """Every built-in piece: the data it reads, its settings with their defaults, its first line."""
    parts = []
    for key, functions in CATALOGUES.items():
        parts.append(f"### `{key}`\n\n| name | settings | reads | what it is |\n|---|---|---|---|")
        rows = []
        for name, function in sorted(functions.items()):
            parameters = inspect.signature(function).parameters.values()
            reads = ", ".join(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)
            settings = ", ".join(_setting(p) for p in parameters if p.kind is p.KEYWORD_ONLY)
            rows.append(f"| `{name}` | {settings} | {reads} | {_prose(function.__doc__)} |")
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def method_table() -> str:
    """Every method that ships: what it is, and its source."""
    rows = [f"| `{name}` | {layer['summary']} | {layer['paper']} |" for name, layer in methods().items()]
    return "\n".join(["| method | what it is | source |", "|---|---|---|", *rows]) + "\n"


def _schemas(schema: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Every part of the schema with the key that leads to it; data.eval is data.train again."""
    yield path, schema
    for name, field in schema.model_fields.items():
        options = [field.annotation, *typing.get_args(field.annotation)]
        inner = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
        if inner is not None and name != "eval":
            yield from _schemas(inner, f"{path}.{name}" if path else name)


def _row(name: str, field: FieldInfo) -> str:
    default = FILE_DEFAULTS.get(name) or _default(field)
    meaning = _prose(field.description)
    return f"| `{name}` | {_type(field.annotation)} | {default} | {meaning} |"


def _type(annotation: Any) -> str:
    if annotation is type(None):
        return "none"
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is typing.Literal:
        return ", ".join(f"`{arg}`" for arg in args)
    if origin in (UnionType, typing.Union):
        return " or ".join(dict.fromkeys(_type(arg) for arg in args if arg is not type(None)))
    if origin is list:
        return f"list of {_type(args[0])}"
    if origin is tuple:
        return f"{len(args)} x {_type(args[0])}"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(annotation, str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return "see below"
    return "none" if value is None else f"`{_yaml(value)}`"


def _setting(parameter: inspect.Parameter) -> str:
    empty = parameter.default is parameter.empty
    return f"`{parameter.name}` (required)" if empty else _code(f"{parameter.name}={_yaml(parameter.default)}")


def _code(text: str) -> str:
    """A code span, whatever backticks are in it."""
    runs = re.findall("`+", text)
    ticks, space = "`" * (1 + max(map(len, runs), default=0)), " " * bool(runs)
    return f"{ticks}{space}{text}{space}{ticks}"


def _yaml(value: Any) -> str:
    """A value as a recipe spells it."""
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)


def _prose(doc: str | None) -> str:
    """A docstring's first paragraph on one line."""
    return " ".join((doc or "").strip().partition("\n\n")[0].split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
