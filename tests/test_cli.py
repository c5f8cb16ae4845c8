"""The command as users run it: exit codes, and messages without tracebacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LLMRL = Path(sys.executable).parent / "llmrl"
SOUND = """
model: {build: {characters: "0123456789+= ", config: {hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1,
  num_attention_heads: 1, num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 64}}}
method: sft
data: {train: {path: sums.jsonl, completion: answer}}
rollout: {max_prompt_tokens: 16, max_completion_tokens: 16, prompts_per_step: 2}
"""


@pytest.fixture
def run(tmp_path):
    (tmp_path / "sound.yaml").write_text(SOUND)
    (tmp_path / "sums.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n{"question": "2+1=", "answer": "3"}\n')

    def llmrl(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run([LLMRL, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert "Traceback" not in done.stdout + done.stderr
        return done

    return llmrl


def test_a_sound_recipe_exits_with_0(run):
    done = run("check", "sound.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    assert "no faults" in done.stdout


def test_a_fault_that_only_the_check_finds_exits_with_2(run):
    done = run("check", "sound.yaml", "data.train.path=sum.jsonl")
    assert done.returncode == 2
    assert done.stderr == "llmrl: data.train.path: no file 'sum.jsonl'; did you mean 'sums.jsonl'?\n"


@pytest.mark.parametrize("command", ["check", "train"])
def test_a_bad_key_exits_with_2(run, command):
    done = run(command, "sound.yaml", "training.stps=3")
    assert done.returncode == 2
    assert done.stderr == "llmrl: training.stps: unknown key (value 3); did you mean 'steps'?\n"


def test_a_bad_file_exits_with_2(run):
    done = run("check", "sond.yaml")
    assert done.returncode == 2
    assert done.stderr == "llmrl: sond.yaml: no such recipe file; did you mean 'sound.yaml'?\n"


def test_a_bad_flag_exits_with_2(run):
    done = run("check", "sound.yaml", "--dmp")
    assert done.returncode == 2
    assert "--dmp" in done.stderr


def test_a_dump_is_a_recipe(run, tmp_path):
    dumped = run("check", "sound.yaml", "--dump")
    assert dumped.returncode == 0
    (tmp_path / "dumped.yaml").write_text(dumped.stdout)
    assert run("check", "dumped.yaml", "--dump").stdout == dumped.stdout
