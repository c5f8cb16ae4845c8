"""One process at a time writes a folder, and those who are refused learn which."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.errors import RecipeError
from llmrl.run_folder.lock import locked, refuse_if_locked

HOLDING = """
import sys, time
from pathlib import Path
from llmrl.run_folder.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that writes `tmp_path / "run"`."""
    command = [sys.executable, "-c", HOLDING, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_of_the_first(holder, tmp_path):
    run = tmp_path / "run"
    for attempt in (lambda: locked(run).__enter__(), lambda: refuse_if_locked(run)):
        with pytest.raises(RecipeError) as refused:
            attempt()
        [fault] = refused.value.faults
        where = f"process {holder.pid} on {socket.gethostname()} since 20"
        assert fault.startswith(f"run_dir: {run} is being written by {where}") and f"(-c {run})" in fault, fault
    named = json.loads((run / ".lock").read_text())
    assert set(named) == {"pid", "host", "since", "command"} and named["pid"] == holder.pid


def test_a_killed_process_holds_nothing(holder, tmp_path):
    run = tmp_path / "run"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (run / ".lock").exists()
    refuse_if_locked(run)
    with locked(run) as warning:
        assert warning == "" and json.loads((run / ".lock").read_text())["pid"] == os.getpid()
    assert list(run.iterdir()) == []


def test_a_folder_that_stays_empty_goes_with_the_lock(tmp_path):
    with locked(tmp_path / "a/run"):
        assert (tmp_path / "a/run/.lock").exists()
    assert not (tmp_path / "a/run").exists()
    refuse_if_locked(tmp_path / "a/run")


def test_a_lock_file_that_its_holder_deletes_is_no_lock(tmp_path, monkeypatch):
    """Between opening the file and locking it, its holder may end: the open file is then no longer the folder's."""
    flock, steps = fcntl.flock, []

    def ended_in_between(descriptor: int, kind: int) -> None:
        if not steps:
            (tmp_path / ".lock").unlink()
        steps.append(flock(descriptor, kind))

    monkeypatch.setattr(fcntl, "flock", ended_in_between)
    with locked(tmp_path):
        assert len(steps) == 2 and (tmp_path / ".lock").exists()


def test_what_another_machine_left_and_a_file_system_without_locks_are_said(tmp_path, monkeypatch):
    left = {"pid": 7, "host": "elsewhere", "since": "2026-01-01 10:00:00", "command": "llmrl train r.yaml"}
    (tmp_path / ".lock").write_text(json.dumps(left))
    with locked(tmp_path) as warning:
        assert "written by process 7 on elsewhere since 2026-01-01 10:00:00 (llmrl train r.yaml)" in warning

    def unsupported(descriptor: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with locked(tmp_path) as warning:
        assert "is on a file system without locks" in warning


def test_a_folder_that_cannot_be_written_is_a_fault(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"run_dir: .*file. cannot be a folder"):
        locked(tmp_path / "file").__enter__()
    assert Path(tmp_path / "file").is_file()
