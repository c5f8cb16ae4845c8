"""The command as users run it: exit codes, and messages without tracebacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl import __version__
from llmrl.cli import main
from llmrl.run_folder.lock import locked

LLMRL = Path(sys.executable).parent / "llmrl"
SOUND = """
model: {build: {characters: "0123456789+= ", config: {hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1,
  num_attention_heads: 1, num_key_value_heads: 1, head_dim: 16, max_position_embeddings: 64}}}
method: sft
data: {train: {path: sums.jsonl, completion: answer}}
rollout: {max_prompt_tokens: 16, max_completion_tokens: 16, prompts_per_step: 2}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with a recipe and its rows."""
    (tmp_path / "sound.yaml").write_text(SOUND)
    (tmp_path / "sums.jsonl").write_text('{"question": "1+1=", "answer": "2"}\n{"question": "2+1=", "answer": "3"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """`llmrl` with these arguments, as its script calls it: (exit code, standard output, standard error)."""

    def llmrl(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmrl", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return llmrl


def test_the_command_exits_with_0_for_a_sound_recipe_and_with_2_for_a_fault(folder):
    def llmrl(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([LLMRL, *arguments], cwd=folder, capture_output=True, text=True, timeout=120)

    sound = llmrl("check", "sound.yaml")
    assert (sound.returncode, sound.stderr) == (0, "")
    assert "no faults" in sound.stdout
    wrong = llmrl("train", "sound.yaml", "training.stps=3")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "llmrl: training.stps: unknown key (value 3); did you mean 'steps'?\n"


def test_a_fault_that_only_the_check_finds_exits_with_2(run):
    code, _, faults = run("check", "sound.yaml", "data.train.path=sum.jsonl")
    assert (code, faults) == (2, "llmrl: data.train.path: no file 'sum.jsonl'; did you mean 'sums.jsonl'?\n")


def test_a_model_folder_that_is_not_there_exits_with_2(run, tmp_path):
    given = ("sound.yaml", "model=null", f"model.path={tmp_path}/gone", "run_dir=run")
    fault = f"llmrl: model.path: no folder '{tmp_path}/gone'\n"
    for command in ("check", "train"):
        code, _, faults = run(command, *given)
        assert (code, faults) == (2, fault), command


def test_a_bad_key_exits_with_2(run):
    code, _, faults = run("check", "sound.yaml", "training.stps=3")
    assert (code, faults) == (2, "llmrl: training.stps: unknown key (value 3); did you mean 'steps'?\n")


def test_a_bad_file_exits_with_2(run):
    code, _, faults = run("check", "sond.yaml")
    assert (code, faults) == (2, "llmrl: sond.yaml: no such recipe file; did you mean 'sound.yaml'?\n")


def test_the_version_and_the_help_are_told(run):
    assert run("--version") == (0, f"llmrl {__version__}\n", "")
    for arguments in ([], ["--help"]):
        code, out, faults = run(*arguments)
        assert (code, faults) == (0, "") and "Train the model of a recipe." in out


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["check", "sound.yaml", "--dmp"], "No such option: --dmp (Possible options: --dump, --no-dump)"),
        (["chek"], "No such command 'chek'. Did you mean 'check'?"),
        (["check"], "Missing argument 'recipe'."),
    ],
)
def test_a_bad_command_line_exits_with_2_and_one_line(run, arguments, fault):
    code, out, faults = run(*arguments)
    command = "check --help" if arguments[0] == "check" else "--help"
    assert (code, out, faults) == (2, "", f"llmrl: {fault} (llmrl {command})\n")


def test_a_dump_is_a_recipe(run, folder):
    code, dumped, _ = run("check", "sound.yaml", "--dump")
    assert code == 0
    (folder / "dumped.yaml").write_text(dumped)
    assert run("check", "dumped.yaml", "--dump")[1] == dumped


def test_a_run_that_is_being_written_is_neither_continued_nor_deleted(run, folder):
    with locked(folder / "runs/sound"):
        for option in ("--resume", "--overwrite", "--nproc=2"):
            code, _, faults = run("train", "sound.yaml", "training.strategy=deepspeed", option)
            assert code == 2 and len(faults.splitlines()) == 1
            assert faults.startswith(f"llmrl: run_dir: runs/sound is being written by process {os.getpid()} on ")
        assert "run_dir: runs/sound is being written by process" in run("check", "sound.yaml")[2]


def test_a_run_is_continued_or_deleted(run):
    code, _, faults = run("train", "sound.yaml", "--resume", "--overwrite")
    assert code == 2 and faults.startswith("llmrl: --resume --overwrite: one goes on with the run, the other deletes")
