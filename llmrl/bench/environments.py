"""Environments: turns a second through the collector, and the share of its time in which vLLM waits for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmrl.bench.measure import Bar, Figure, Setting, worker

TURNS = Bar(least=5000)
WAITS = Bar(most=0.10)
SHAPE = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True}
MODELS: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
    "small": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4},
    "smollm2": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30},
}
"""Models that sample for real; their names are those of the cases of like size (llmrl/bench/work.py)."""
LIVE = 512
"""The environments that are played at once."""


def measure(setting: Setting) -> list[Figure]:
    """Turns a second with scripted answers, packing included or not, and vLLM's waiting with real ones."""
    live, quick = (32, True) if setting.quick else (LIVE, False)
    scripted = [_worked(setting, live=live) for _ in range(setting.rounds)]
    found = [
        Figure(f"{live} scripted: through the collector", _of(scripted, "turns_per_second"), "turns/s",
               None if quick else TURNS),
        Figure(f"{live} scripted: collected and packed", _of(scripted, "packed_turns_per_second"), "turns/s"),
        Figure(f"{live} scripted: in the games alone", _of(scripted, "game_share"), "of the time"),
    ]  # fmt: skip
    for name in setting.cases((), ("tiny", "small")):
        sampled = [_worked(setting, live=live, model=SHAPE | MODELS[name]) for _ in range(setting.rounds)]
        found += [
            Figure(f"{name}, {live} sampled: vLLM waits", _of(sampled, "waiting_share"), "of the time", WAITS),
            Figure(f"{name}, {live} sampled: in the games alone", _of(sampled, "game_share"), "of the time"),
            Figure(f"{name}, {live} sampled: through the collector", _of(sampled, "turns_per_second"), "turns/s"),
        ]  # fmt: skip
    return found


def _worked(setting: Setting, **given: Any) -> dict[str, float]:
    folder = Path(setting.folder) / "environments"
    folder.mkdir(parents=True, exist_ok=True)
    return worker("llmrl.bench.environments_worker", given, folder=folder, setting=setting)


def _of(found: list[dict[str, float]], name: str) -> list[float]:
    return [one[name] for one in found]
