"""Files and folders that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from llmrl.errors import RecipeError, RunStopped
from llmrl.run_folder import atomic
from llmrl.run_folder.atomic import check_place, partial_of, publish, remove, sweep, writing


def test_a_folder_has_its_name_only_when_it_is_published(tmp_path):
    target = tmp_path / "rl-000004"
    partial_of(target).mkdir()
    (partial_of(target) / "engine.pt").write_text("weights")
    assert not target.exists() and partial_of(target).name == ".rl-000004.partial"
    publish(target)
    assert (target / "engine.pt").read_text() == "weights" and os.listdir(tmp_path) == ["rl-000004"]


def test_a_published_file_replaces_the_one_before(tmp_path):
    target = tmp_path / "recipe.yaml"
    target.write_text("old")
    partial_of(target).write_text("new")
    publish(target)
    assert target.read_text() == "new" and os.listdir(tmp_path) == ["recipe.yaml"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_published_folder_replaces_the_one_before(tmp_path, monkeypatch, in_one_step):
    target = tmp_path / "final"
    for name, text in ((target, "old"), (partial_of(target), "new")):
        name.mkdir()
        (name / "weights").write_text(text)
    renamed, rename = [], Path.rename

    def watched(path, other):
        renamed.append(path.name)
        return rename(path, other)

    monkeypatch.setattr(Path, "rename", watched)
    if not in_one_step:  # as a file system without the exchange
        monkeypatch.setattr(atomic, "RENAME_EXCHANGE", 99)
    publish(target)
    assert (target / "weights").read_text() == "new" and os.listdir(tmp_path) == ["final"]
    assert renamed == ([] if in_one_step else ["final", ".final.partial", ".final.before.partial"])


def test_a_folder_loses_its_name_before_its_files(tmp_path, monkeypatch):
    folder = tmp_path / "rl-000002"
    folder.mkdir()
    (folder / "state.pt").write_text("state")
    seen = []
    rmtree = __import__("shutil").rmtree

    def watched(path, **options):
        seen.append((path.name, folder.exists()))
        rmtree(path, **options)

    monkeypatch.setattr("llmrl.run_folder.atomic.shutil.rmtree", watched)
    remove(folder)
    assert seen[-1] == (".rl-000002.partial", False) and os.listdir(tmp_path) == []


def test_sweeping_takes_what_is_half_written_and_nothing_else(tmp_path):
    for name in (".a.partial", "a", ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / ".b.parquet.partial").write_text("half")
    sweep(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "a"]
    sweep(tmp_path / "nowhere")  # a new run has no folder to sweep


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large"), "OSError: [Errno 27] File too large"),
        (RuntimeError("unexpected pos 64 vs 0"), "RuntimeError: unexpected pos 64 vs 0"),
    ],
)
def test_a_failure_to_write_says_what_and_why(tmp_path, error, why):
    with pytest.raises(RunStopped) as stopped, writing("checkpoint rl-000004", tmp_path):
        raise error
    assert f"checkpoint rl-000004 could not be written ({why})" in str(stopped.value)


def test_what_torch_met_when_it_was_writing_is_what_is_said(tmp_path):
    with pytest.raises(RunStopped, match="the disk is full"), writing("it", tmp_path):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError:
            raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904  as torch does


def test_other_errors_pass(tmp_path):
    with pytest.raises(KeyError), writing("it", tmp_path):
        raise KeyError("a bug")


def test_a_folder_that_cannot_be_made_is_a_fault(tmp_path, monkeypatch):
    check_place(tmp_path / "runs/first", "run_dir")
    (tmp_path / "notes.txt").write_text("text")
    for folder in (tmp_path / "notes.txt", tmp_path / "notes.txt/run/deep"):
        with pytest.raises(RecipeError, match=f"^run_dir: '{folder}' cannot be a folder: '.*notes.txt' is a file$"):
            check_place(folder, "run_dir")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    with pytest.raises(RecipeError, match=f"^run_dir: .*: no permission to write in '{tmp_path}'$"):
        check_place(tmp_path / "runs/first", "run_dir")
