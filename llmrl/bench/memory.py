"""The peak of a run's memory against what `llmrl check` foretold."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmrl.bench.measure import Bar, Figure, Setting, llmrl, process
from llmrl.bench.work import CASES, lay_out
from llmrl.errors import RunStopped
from llmrl.run_folder.reader import RunReader

FORETOLD = Bar(least=0.8, most=1.25)
TRANSFORMERS, LORA, CRITIC = "rollout.engine=transformers", "model.lora.rank=16", "method=ppo"
VARIANTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "tiny": ("tiny", ()),
    "small": ("small", ()),
    "small, transformers sampler": ("small", (TRANSFORMERS,)),
    "small, critic": ("small", (CRITIC,)),
    "small, LoRA": ("small", (LORA,)),
    "smollm2": ("smollm2", ()),
    "smollm2, no reference": ("smollm2", ("regularizers=null",)),
    "smollm2, transformers sampler": ("smollm2", (TRANSFORMERS,)),
    "smollm2, critic": ("smollm2", (CRITIC,)),
    "smollm2, LoRA": ("smollm2", (LORA,)),
}
"""Runs: their case, and overrides of its recipe."""
FEW_PROMPTS = 4
"""Fewer than elsewhere, so that many variants can be tried; what is foretold follows from the number."""
UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def measure(setting: Setting) -> list[Figure]:
    """For each variant the foretold memory over the peak, and the peak."""
    cases = setting.cases(("tiny",), ("small", "smollm2"))
    found: list[Figure] = []
    for name, (case, overrides) in VARIANTS.items():
        if case in cases:
            found += _of_variant(name, case, overrides, setting)
    return found


def _of_variant(name: str, case: str, overrides: Sequence[str], setting: Setting) -> list[Figure]:
    folder = setting.folder / "memory" / case
    lay_out(replace(CASES[case], steps=2, prompts=min(FEW_PROMPTS, CASES[case].prompts)), folder)
    given = [f"training.threads={setting.threads}", *overrides]

    def run(*command: str) -> str:
        return process(
            llmrl(*command), folder=folder, threads=setting.threads, deadline_seconds=setting.deadline_seconds
        ).output

    foretold = estimate(run("check", "recipe.json", *given, "run_dir=unused"))
    run("train", "recipe.json", *given, "--overwrite")
    peak = RunReader(folder / "run").metrics[-1]["peak_memory"]
    bar = FORETOLD if case != "tiny" else None
    return [
        Figure(f"{name}: foretold over measured", [foretold / peak], "x", bar),
        Figure(f"{name}: peak", [peak], "GiB"),
    ]


def estimate(printed: str) -> float:
    """The GiB of the line "in all" of `llmrl check`; raises RunStopped if there is none."""
    found = re.search(r"^\s*memory +in all +([\d.]+) (B|KiB|MiB|GiB|TiB)", printed, re.MULTILINE)
    if found is None:
        raise RunStopped("bench: llmrl check printed no estimate of its memory")
    return float(found[1]) * 1024.0 ** (UNITS.index(found[2]) - 3)
