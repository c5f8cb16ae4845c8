"""The recipes of scripts/gpu_check.py: a 0.5B model with random weights, and a tiny one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

Settings = dict[str, Any]

REWARDS = '''"""A reward that any model can earn more of."""


def even(completion: str) -> float:
    """The share of even digits among the completion's characters."""
    return sum(character in "02468" for character in completion) / max(1, len(completion))
'''
SHAPES: dict[str, Settings] = {
    "full": {  # 32 layers of 15.7M parameters
        "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 32, "num_attention_heads": 16,
        "num_key_value_heads": 8, "head_dim": 128, "initializer_range": 0.03,
    },
    "large": {  # 28 layers of 50.3M parameters
        "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
        "num_key_value_heads": 4, "head_dim": 128, "initializer_range": 0.02,
    },
    "tiny": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 32, "initializer_range": 0.1,
    },
}  # fmt: skip
LENGTHS = {"full": (32, 96), "large": (32, 96), "tiny": (32, 16)}
"""The most tokens of a prompt and of a completion."""
LORA: Settings = {"model": {"lora": {"rank": 16}}}
METHODS: dict[str, Settings] = {
    "grpo": {"method": "grpo"},
    "lora": {"method": "grpo", **LORA},
    "ppo": {"method": "ppo"},
    # two updates a step, so that weights have moved when ratios are taken
    "engines": {"method": "grpo", "training": {"dtype": "fp32", "learning_rate": 1e-3, "updates_per_step": 2}},
    "resumed": {
        "method": "grpo",
        "model": {"lora": {"rank": 4, "dropout": 0.1}},  # dropout draws from the device's random stream
        "training": {"dtype": "fp32", "learning_rate": 1e-3, "steps": 6, "updates_per_step": 2},
        "checkpoint": {"every": 2},
    },
}


def write(folder: Path, size: str, name: str) -> Path:
    """A recipe's file, in a folder with the reward and the rows that it names."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prompt, completion = LENGTHS[size]
    recipe: Settings = {
        "name": name,
        "run_dir": str(folder / "run"),
        "model": {
            "build": {
                "config": {**SHAPES[size], "tie_word_embeddings": True, "max_position_embeddings": prompt + completion},
                "characters": "0123456789+-*/= ",
            }
        },
        "data": {"train": {"path": "rows.jsonl"}},
        "rewards": {"gpu_rewards:even": {}},
        "rollout": {
            "engine": "transformers", "prompts_per_step": 8, "group_size": 8,
            "max_prompt_tokens": prompt, "max_completion_tokens": completion,
        },
        "training": {
            "dtype": "bf16", "steps": 4, "learning_rate": 1e-5, "tokens_per_micro_batch": 32 * (prompt + completion),
        },
    }  # fmt: skip
    rows = [{"question": f"{a}+{b}*{a}="} for a in range(10, 20) for b in range(20, 30)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "gpu_rewards.py").write_text(REWARDS, encoding="utf-8")
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(_over(recipe, METHODS[name]), indent=2), encoding="utf-8")  # JSON is YAML
    return file


def _over(below: Settings, above: Settings) -> Settings:
    """`above` laid over `below`, key by key."""
    both = {
        key: _over(below[key], above[key])
        for key in below.keys() & above.keys()
        if isinstance(below[key], dict) and isinstance(above[key], dict)
    }
    return {**below, **above, **both}
