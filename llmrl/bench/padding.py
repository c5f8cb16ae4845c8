"""Padding: its share of a step's places, and the time of an update on long prompts' groups against padded rows."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llmrl.batch import Batch
from llmrl.bench.measure import Bar, Figure, Setting, worker
from llmrl.bench.parts import Parts, seconds
from llmrl.bench.peer import ours
from llmrl.bench.work import CASES, lay_out
from llmrl.data.packing import pack
from llmrl.run_folder.reader import RunReader
from llmrl.train.provide import provide
from llmrl.train.step import update
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

SHARE, FASTER = Bar(most=0.03), Bar(least=3.0)
WAYS = {"packed": "training.padding_free=null", "padded": "training.padding_free=false"}


def measure(setting: Setting) -> list[Figure]:
    """The share of padding, and the seconds of forward and backward both ways."""
    found: list[Figure] = []
    for name in setting.cases(("tiny",), ("small",)):
        barred = name != "tiny"
        folder = setting.folder / "padding" / name
        lay_out(CASES[name], folder)
        ours(CASES[name], folder, setting)
        rows = [row for row in RunReader(folder / "run").metrics if row["step"] > CASES[name].dropped]
        found.append(Figure(f"{name}: padding", [row["padding"] for row in rows], "", SHARE if barred else None))
        long = replace(CASES[name], prompt_tokens=512 if barred else 32, completion_tokens=64 if barred else 8)
        lay_out(long, folder / "long")
        given = {
            "groups": 2,
            "group_size": 8,
            "prompt_tokens": long.prompt_tokens,
            "completion_tokens": long.completion_tokens,
            "threads": setting.threads,
            "rounds": 1 + 2 * setting.rounds,
        }
        told = worker("llmrl.bench.padding", given, folder=folder / "long", setting=setting)
        shape = f"groups of 8, prompts of {long.prompt_tokens}, answers of {long.completion_tokens}"
        ratios = [padded / packed for packed, padded in zip(told["packed"], told["padded"], strict=True)]
        found.append(Figure(f"{name}, {shape}: speed over padded rows", ratios, "x", FASTER if barred else None))
        found += [Figure(f"{name}, {shape}: {way}", told[way], "s") for way in WAYS]
    return found


def main() -> None:
    """Update both ways in turn, and print the seconds of each as JSON; the first of each does not count."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    recipe = Path(given.get("recipe", "recipe.json"))
    actors = {way: Parts.of(recipe, override, "regularizers=null").actor for way, override in WAYS.items()}
    torch.set_num_threads(given["threads"])
    batch = batch_of(given)
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(given["rounds"]):
        for way, actor in actors.items():
            taken[way].append(seconds(lambda: update(actor, provide(actor, batch), seed=0)))  # noqa: B023
    print(json.dumps({way: found[1:] for way, found in taken.items()}))


def batch_of(given: dict[str, Any]) -> Batch:
    """A batch of groups with random tokens, every prompt and every completion as long as is said."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        return torch.randint(3, 16, (count,), generator=draw).tolist()

    groups = []
    for number in range(given["groups"]):
        prompt = Prompt(str(number), tuple(tokens(given["prompt_tokens"])), "", {})
        turns = [Turn(ACTOR, tokens(given["completion_tokens"])) for _ in range(given["group_size"])]
        groups.append(Group(prompt, [Trajectory(prompt, [turn], "length") for turn in turns]))
    return pack(groups, ACTOR)


if __name__ == "__main__":
    main()
