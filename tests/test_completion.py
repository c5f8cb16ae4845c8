"""Words that the shell offers: recipe files, keys of overrides, names."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from llmrl.completion import entry_names, kinds, method_names, override_keys, recipe_files


def test_recipe_files_are_offered_with_the_folders_on_the_way(tmp_path, monkeypatch):
    (tmp_path / "math/old").mkdir(parents=True)
    for name in ("run.yaml", "rows.jsonl", "math/ppo.yaml", "math/.hidden.yaml"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    assert recipe_files("") == ["run.yaml", "math/"]
    assert recipe_files("ru") == ["run.yaml"]
    assert recipe_files("math/") == ["math/ppo.yaml", "math/old/"]
    assert recipe_files("nowhere/x") == []


@pytest.mark.parametrize(
    ("begun", "offered"),
    [
        ("training.st", ["training.strategy=", "training.steps="]),
        ("trai", ["trained=", "trained_every=", "training."]),
        ("method=grp", ["method=grpo"]),
        ("model.lora.r", ["model.lora.rank="]),
        ("training.steps=", []),
        ("nothing.x", []),
    ],
)
def test_overrides_are_offered_key_by_key(begun, offered):
    assert override_keys(begun) == offered


def test_names_are_offered():
    assert "grpo" in method_names("gr") and "ppo" not in method_names("gr")
    assert kinds("re") == ["rewards", "recipes"]
    assert entry_names(SimpleNamespace(params={"kind": "rewards"}), "math") == ["math_verifier"]
    assert entry_names(SimpleNamespace(params={"kind": "nothing"}), "") == []


def test_a_shell_gets_the_words():
    asked = {"_LLMRL_COMPLETE": "complete_bash", "COMP_WORDS": "llmrl list rewards math", "COMP_CWORD": "3"}
    command = [sys.executable, "-m", "llmrl.cli"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["math_verifier"], "")
