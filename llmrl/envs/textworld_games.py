"""Games of textworld's generator: made once, in processes of their own, and kept on disk by their settings and seed."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib.metadata
import json
import os
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrl.rewards.workers import Workers

MAKE_SECONDS = 300.0
"""The deadline of one game, which takes some seconds."""
SEEDS = ("map", "objects", "quest", "grammar")

_making: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Path, asyncio.Task[Any]]] = (
    weakref.WeakKeyDictionary()
)


@functools.cache
def _makers() -> Workers:
    return Workers(max(1, (os.cpu_count() or 1) // 2))


def default_folder() -> Path:
    """The user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmrl" / "textworld"


async def game_file(options: Mapping[str, Any], seed: int, folder: Path) -> Path:
    """The file of a game, which is made unless it is there.

    options: the generator's, see `make_game`. Raises TimeoutError past MAKE_SECONDS, ValueError for options that the
    generator refuses, CrashError if it fails.
    """
    known = {"textworld": importlib.metadata.version("textworld"), **options, "seed": seed}
    name = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:24]
    path = folder / f"{name}.z8"
    if path.exists():
        return path
    making = _making.setdefault(asyncio.get_running_loop(), {})
    if path not in making:
        call = _makers().run(make_game, (dict(options), seed, str(path)), {}, MAKE_SECONDS)
        making[path] = asyncio.ensure_future(call)
        making[path].add_done_callback(lambda done: making.pop(path))
    await asyncio.shield(making[path])  # others wait for the same game
    return path


def make_game(options: Mapping[str, Any], seed: int, path: str) -> None:
    """Make a game and put its files into place, the game itself last.

    options: `challenge` with its `settings`, or `rooms`, `objects`, `quest_length`, `quest_breadth` and
    `parallel_quests`.
    """
    import numpy as np
    import textworld
    from textworld.challenges import CHALLENGES
    from textworld.generator import compile_game

    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    wanted = textworld.GameOptions()
    numbers = np.random.SeedSequence(seed).generate_state(len(SEEDS))
    wanted.seeds = {name: int(number) for name, number in zip(SEEDS, numbers, strict=True)}
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        os.environ["HOME"] = scratch  # the compiler writes into a folder of its own there
        wanted.path = f"{scratch}/{target.name}"
        if options["challenge"] is None:
            wanted.nb_rooms, wanted.nb_objects = options["rooms"], options["objects"]
            wanted.quest_length, wanted.quest_breadth = options["quest_length"], options["quest_breadth"]
            wanted.nb_parallel_quests = options["parallel_quests"]
            textworld.make(wanted)
        else:
            made = CHALLENGES[options["challenge"]][1](dict(options["settings"]), wanted)
            compile_game(made, wanted)
        for ending in (".json", ".z8"):
            os.replace(Path(wanted.path).with_suffix(ending), target.with_suffix(ending))
