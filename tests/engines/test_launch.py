"""Processes started together: what they are told, how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmrl.engines.launch import launch


def python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, signal, sys, time; rank = int(os.environ['RANK']); {code}"]


def test_each_process_knows_its_rank(tmp_path):
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    code = f"open({str(tmp_path)!r} + f'/{{rank}}', 'w').write(' '.join(os.environ[n] for n in {names}))"
    assert launch(python(code), 3) == 0
    assert [(tmp_path / str(rank)).read_text() for rank in range(3)] == [
        f"{rank} {rank} 3 3 127.0.0.1" for rank in range(3)
    ]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("end", "code"), [("sys.exit(2)", 2), ("os.kill(os.getpid(), signal.SIGKILL)", 128 + 9)])
def test_when_one_fails_the_others_are_ended_and_its_code_counts(monkeypatch, first, end, code):
    monkeypatch.setattr("llmrl.engines.launch.GRACE_SECONDS", 0.3)
    started = time.monotonic()
    assert launch(python(f"{end} if rank == {first} else time.sleep(60)"), 2) == code
    assert time.monotonic() - started < 30


def test_a_signal_is_passed_on_to_all(tmp_path):
    code = (
        f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); open({str(tmp_path)!r} + f'/{{rank}}', 'w'); "
        "time.sleep(60)"
    )

    def send() -> None:
        while len(os.listdir(tmp_path)) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=send).start()
    before = signal.getsignal(signal.SIGTERM)
    assert launch(python(code), 2) == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_ranks_are_told_when_their_launcher_was_killed(tmp_path):
    told = f"signal.signal(signal.SIGTERM, lambda *_: (open({str(tmp_path)!r} + f'/told{{rank}}', 'w'), sys.exit()))"
    command = python(f"{told}; open({str(tmp_path)!r} + f'/{{rank}}', 'w'); time.sleep(60)")
    code = f"from llmrl.engines.launch import launch; launch({command}, 2)"
    launcher = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_for(tmp_path / "0", tmp_path / "1")
    finally:
        launcher.kill()
        launcher.wait()
    wait_for(tmp_path / "told0", tmp_path / "told1")


def wait_for(*files: Path) -> None:
    deadline = time.monotonic() + 50
    while not all(file.exists() for file in files):
        assert time.monotonic() < deadline, files
        time.sleep(0.05)
