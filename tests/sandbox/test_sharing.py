"""The folder that a program and its tests share, although each runs in a file system of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from llmrl.rewards.code.trial import grade
from llmrl.sandbox import Sandbox
from llmrl.sandbox.tiers import JAILED

sys.path.append(str(JAILED))

import sharing  # pyright: ignore[reportMissingImports]

PROGRAM = """
import os
def save(path, text):
    with open(path, "w") as file: file.write(text)
def load(path):
    with open(path) as file: return file.read()
def names(path): return sorted(os.listdir(path))
def drop(path): os.remove(path)
"""
TESTS = """
def test_each_sees_the_files_of_the_other(tmp_path):
    save(str(tmp_path / "a"), "out")
    assert (tmp_path / "a").read_text() == "out"
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_text("in")
    assert load(tmp_path / "b" / "c") == "in" and names(tmp_path) == ["a", "b"]
    drop(tmp_path / "a")
    assert not (tmp_path / "a").exists()

def test_relative_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("d", "here")
    assert (tmp_path / "d").read_text() == "here"
"""


def test_tests_and_program_share_their_files(contained: Sandbox) -> None:
    assert grade(contained, PROGRAM, TESTS, None) == "passed"
    assert grade(contained, PROGRAM, TESTS.replace('== "out"', '== "no"'), None) == "wrong"


@pytest.fixture
def ends(tmp_path, monkeypatch):
    """A folder of each of two processes, and the function that takes one's changes to the other."""
    folders = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("HOME", str(tmp_path / name))
        folders.append(sharing.Folder())

    def told() -> list:
        asked = []
        folders[0].tell(lambda *question: asked.append(question))
        for _, changes in asked:
            folders[1].apply(changes)
        return asked

    return tmp_path / "one", tmp_path / "other", told


def test_only_changes_are_told(ends) -> None:
    one, other, told = ends
    assert told() == []
    (one / "a").write_bytes(b"1")
    (one / "in").mkdir()
    assert told() == [("files", {"a": b"1", "in": True})]
    assert told() == []
    (one / "in" / "b").write_bytes(b"22")
    (one / "a").unlink()
    (one / "link").symlink_to("/etc/passwd")
    assert told() == [("files", {"a": False, "in/b": b"22"})]
    assert sorted(path.name for path in other.rglob("*")) == ["b", "in"]
    (one / "in" / "b").unlink()
    (one / "in").rmdir()
    told()
    assert list(other.iterdir()) == []


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x"])
def test_no_change_leads_out_of_the_folder(ends, path: str) -> None:
    folder = sharing.Folder()
    with pytest.raises(ValueError, match="outside"):
        folder.apply({path: b"x"})
    assert not Path("../x").exists()


def test_no_other_folder_is_shared(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = sharing.Folder()
    (tmp_path / "a").touch()
    folder.tell(lambda *question: pytest.fail("a folder that is not the process's own was told"))
    with pytest.raises(ValueError, match="outside"):
        folder.apply({"b": b"x"})
