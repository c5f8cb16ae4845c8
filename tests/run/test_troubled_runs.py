"""Runs of a tiny model in which something is wrong, from the loop to the console and the run's folder."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from llmrl.recipe_file import load_plan
from llmrl.recipe_layers import merge
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader

REWARDS = '''
async def never(completion: str) -> bool:
    """`async` keeps it in this process."""
    if completion[:1] == "9":
        raise ValueError("9")
    return False


asked = []


async def fading(completion: str) -> bool:
    """Right until the first evaluation and the first 5 steps are over."""
    asked.append(completion)
    return len(asked) <= 10 or (len(asked) <= 10 + 5 * 64 and completion[:1] in set("01234"))


async def low_digit(completion: str) -> bool:
    return completion[:1] in set("01234") and len(completion) < 12
'''
RECIPE = {
    "seed": 3,
    "model": {
        "build": {
            "config": {
                "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
                "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.05, "tie_word_embeddings": True,
                "max_position_embeddings": 64,
            },
            "characters": "0123456789+=",
        }
    },
    "data": {"train": {"path": "sums.jsonl"}, "eval": {"path": "held_out.jsonl"}},
    "method": "grpo",
    "rollout": {
        "engine": "transformers", "max_prompt_tokens": 8, "max_completion_tokens": 24, "prompts_per_step": 8,
        "group_size": 8,
    },
    "training": {"steps": 6, "learning_rate": 1e-3, "threads": 1},
}  # fmt: skip


def printed(folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], *, resume: bool = False) -> str:
    """The console's text of a run into folder/run."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    Path("troubled.py").write_text(REWARDS)
    sums = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(10) for b in range(4)]
    for name, rows in (("sums", sums[10:]), ("held_out", sums[:10])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("troubled.yaml").write_text(json.dumps(merge(RECIPE, changes)))
    out, threads = io.StringIO(), torch.get_num_threads()
    plan = load_plan("troubled.yaml", ["run_dir=run"])
    assert run_plan(plan, resume=resume, console=Console(file=out, width=60)) == 0
    torch.set_num_threads(threads)
    return out.getvalue()


def test_a_run_that_learns_nothing_says_why_once_and_keeps_it(tmp_path, monkeypatch):
    limits = {"max_completion_tokens": 2}
    text = printed(tmp_path, monkeypatch, {"rewards": {"troubled:never": {}}, "rollout": limits})
    said = [line for line in text.splitlines() if line.startswith("warning: ")]
    kept = RunReader(tmp_path / "run").warnings
    assert [f"warning: {warning['message']}" for warning in kept] == said
    assert {warning["metric"]: (warning["since"], warning["step"]) for warning in kept} == {
        "failures/troubled:never/invalid": (1, 1),
        "truncated": (1, 3),
        "groups_mixed": (1, 5),
    }
    assert all(warning["stage"] == "train" for warning in kept)
    steps = [line for line in text.splitlines() if line.startswith("step ") and not line.startswith("step 0")]
    assert len(steps) == 6 and all(" failed " in line and " truncated " in line for line in steps)
    assert not any(" loss " in line for line in steps)
    *_, warned, model = text.splitlines()
    told = ", ".join(warning["metric"] for warning in kept)
    assert warned == f"warnings of this run, in run/warnings.jsonl: {told}"
    assert model == "the trained model is run/final"


def test_a_healthy_run_is_left_in_peace(tmp_path, monkeypatch):
    training = {"steps": 8, "learning_rate": 1e-2}
    text = printed(tmp_path, monkeypatch, {"rewards": {"troubled:low_digit": {}}, "training": training})
    rows = RunReader(tmp_path / "run").metrics
    assert rows[-1]["accuracy"] > rows[1]["accuracy"]
    assert "warning" not in text and RunReader(tmp_path / "run").warnings == []


def test_a_run_that_leaves_its_path_is_told_what_to_try(tmp_path, monkeypatch):
    """The learning rate is far too high, and the reward turns against what it has taught."""
    training = {"steps": 10, "learning_rate": 0.2}
    printed(tmp_path, monkeypatch, {"rewards": {"troubled:fading": {}}, "training": training})
    said = {warning["metric"]: warning["message"] for warning in RunReader(tmp_path / "run").warnings}
    assert said["kl_k3"].startswith("the policy leaps away from its reference: ")
    assert "Lower training.learning_rate" in said["kl_k3"]
    assert said["accuracy"].startswith(
        "accuracy has fallen below its start: accuracy 0.000 at step 10 of train, since "
    )
    assert said["eval/accuracy"].startswith("held-out accuracy has fallen below its start: eval/accuracy 0.000 at step")
