"""Sending the weights to the sampler, against a copy of as many bytes in memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from llmrl.bench.measure import Bar, Figure, Setting, worker
from llmrl.bench.parts import Parts, seconds
from llmrl.bench.work import CASES, lay_out
from llmrl.rollout.weight_transport import by_name
from llmrl.run.weight_sync import send

BANDWIDTH = Bar(least=0.7)
"""Of a copy's bytes a second."""


def measure(setting: Setting) -> list[Figure]:
    """Bytes a second of both, and their ratio."""
    found: list[Figure] = []
    for name in setting.cases(("tiny",), ("smollm2",)):
        folder = setting.folder / "sync" / name
        lay_out(CASES[name], folder)
        given = {"recipe": "recipe.json", "threads": setting.threads, "rounds": 2 + 3 * setting.rounds}
        told = worker("llmrl.bench.sync", given, folder=folder, setting=setting)
        ratios = [copied / sent for copied, sent in zip(told["copy"], told["send"], strict=True)]
        found += [
            Figure(f"{name}: bandwidth of a sync over a copy's", ratios, "x", BANDWIDTH if name != "tiny" else None),
            Figure(f"{name}: sync", [told["bytes"] / 2**30 / one for one in told["send"]], "GiB/s"),
            Figure(f"{name}: copy", [told["bytes"] / 2**30 / one for one in told["copy"]], "GiB/s"),
        ]
    return found


def main() -> None:
    """Send and copy in turn, and print the seconds of each as JSON; the first two of each do not count."""
    given: dict[str, Any] = json.loads(sys.argv[1])
    parts = Parts.of(Path(given["recipe"]))
    learner, sampler = parts.actor.learner, parts.sampler()
    torch.set_num_threads(given["threads"])
    weights = [weight for _, weight in learner.weights()]
    copies = [torch.empty_like(weight) for weight in weights]

    def copy() -> None:
        for target, weight in zip(copies, weights, strict=True):
            target.copy_(weight)

    sent, copied = [], []
    for version in range(given["rounds"]):
        sent.append(seconds(lambda: send(learner, sampler, by_name, version, first=version == 0)))  # noqa: B023
        copied.append(seconds(copy))
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    sampler.close()
    print(json.dumps({"bytes": size, "send": sent[2:], "copy": copied[2:]}))


if __name__ == "__main__":
    main()
