"""Completions of words on the command line, for the shells that `llmrl --install-completion` sets up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrl.recipe_faults import keys_at
from llmrl.recipe_file import methods


def recipe_files(incomplete: str) -> list[str]:
    """Recipe files, and the folders on the way to them."""
    before, slash, begun = incomplete.rpartition("/")
    folder = Path(before + slash).expanduser()
    if not folder.is_dir():
        return []
    found = [one for one in sorted(folder.iterdir()) if one.name.startswith(begun) and not one.name.startswith(".")]
    files = [f"{before}{slash}{one.name}" for one in found if one.suffix in (".yaml", ".yml")]
    return files + [f"{before}{slash}{one.name}/" for one in found if one.is_dir()]


def override_keys(incomplete: str) -> list[str]:
    """Keys of the schema, with `=` behind those that hold a value, and names of methods behind `method=`."""
    key, equals, begun = incomplete.partition("=")
    if equals:
        return [f"method={name}" for name in methods() if name.startswith(begun)] if key == "method" else []
    *above, last = key.split(".")
    found = [".".join([*above, one]) for one in keys_at(above) if one.startswith(last)]
    return [f"{one}." if keys_at(one.split(".")) else f"{one}=" for one in found]


def method_names(incomplete: str) -> list[str]:
    """Names of methods."""
    return [name for name in methods() if name.startswith(incomplete)]


def kinds(incomplete: str) -> list[str]:
    """The lists that `llmrl list` has."""
    from llmrl.catalogues import CATALOGUES

    return [kind for kind in CATALOGUES if kind.startswith(incomplete)]


def entry_names(ctx: Any, incomplete: str) -> list[str]:
    """Names of the list that the words before name."""
    from llmrl.catalogues import CATALOGUES, entries

    kind = ctx.params.get("kind")
    if kind not in CATALOGUES:
        return []
    return sorted({entry.name for entry in entries(kind) if entry.name.startswith(incomplete)})


def bench_parts(incomplete: str) -> list[str]:
    """Parts of the benchmark."""
    from llmrl.bench.command import PARTS

    return [name for name in PARTS if name.startswith(incomplete)]
