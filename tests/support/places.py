"""The places where the sandbox is tested: each tier as this user, and, if this user is root, as an unprivileged one."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import llmrl
from llmrl.sandbox import Sandbox, SandboxError, Tier
from llmrl.sandbox.tiers import TIERS

NOBODY = 65534
OWN, UNPRIVILEGED = "", "unprivileged "


@dataclass(frozen=True)
class Place:
    """A tier, and the user that uses it."""

    tier: Tier
    user: str = OWN

    def __str__(self) -> str:
        return f"{self.user}{self.tier.name}"


PLACES = [
    Place(tier, user) for user in ((OWN, UNPRIVILEGED) if os.getuid() == 0 else (OWN,)) for tier in TIERS.values()
]


@functools.cache
def why_not(tier: Tier) -> str:
    """Return the reason why this tier does not work for this user here, "" if it works."""
    try:
        Sandbox(tier).close()
    except SandboxError as error:
        return str(error)
    return ""


def needs(tier: Tier) -> None:
    """Skip the test, with the reason, if the tier does not work on this machine."""
    if reason := why_not(tier):
        pytest.skip(reason)


@functools.cache
def unprivileged_python() -> tuple[str, str] | None:
    """Return a Python that any user can run, and a folder with a copy of llmrl that the unprivileged user owns."""
    for path in (Path(getattr(sys, "_base_executable", sys.executable)).resolve(), Path("/usr/bin/python3").resolve()):
        open_to_all = path.exists() and all(one.stat().st_mode & stat.S_IXOTH for one in (path, *path.parents))
        recent = [str(path), "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        if open_to_all and subprocess.run(recent, capture_output=True).returncode == 0:
            folder = Path(tempfile.mkdtemp(prefix="llmrl-copy-"))
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            source = Path(llmrl.__file__).parent
            shutil.copytree(source / "sandbox", folder / "llmrl/sandbox", ignore=shutil.ignore_patterns("__pycache__"))
            for name in ("__init__.py", "errors.py"):
                shutil.copy(source / name, folder / "llmrl" / name)
            for one in (folder, *folder.rglob("*")):
                one.chmod(0o755 if one.is_dir() else 0o644)
                os.chown(one, NOBODY, NOBODY)  # otherwise root's ownership would protect the files
            return str(path), str(folder)
    return None


def in_own_process(program: str, *arguments: str) -> Any:
    """Run a program in a process of its own and return the JSON that it prints."""
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def as_unprivileged(program: str, *arguments: str, before: tuple[str, ...] = ()) -> Any:
    """Run a program as an unprivileged user with this llmrl and return the JSON that it prints.

    The test is skipped if no other user can run a Python.

    before: a command that runs the rest of its command line, such as env.
    """
    found = unprivileged_python()
    if found is None:
        pytest.skip("no Python of 3.11 or later that other users can run")
    python, folder = found
    done = subprocess.run(
        [*before, python, "-c", program, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": folder, "HOME": "/"},
        cwd="/",
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
