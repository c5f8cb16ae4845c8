"""The choice of a tier, the list of protections that it lacks, and the error if no tier works."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable

import pytest
from places import NOBODY, as_unprivileged
from programs import children, printed

import llmrl.sandbox.sandbox as implementation
from llmrl.sandbox import BUBBLEWRAP, NAMESPACES, PROCESS, Sandbox, SandboxError, Tier
from llmrl.sandbox.tiers import ENVIRONMENT, TIERS, Launch, tiers


def failing(*names: str) -> Callable[..., Launch]:
    def launch(tier: Tier, control: int, folder: str) -> Launch:
        if tier.name in names:
            raise OSError(f"no {tier.name} today")
        return original(tier, control, folder)

    original = implementation.launch
    return launch


def test_without_namespaces_a_weak_sandbox_has_to_be_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "launch", failing("namespaces", "bubblewrap"))
    reasons = ["bubblewrap: no bubblewrap today", "namespaces: no namespaces today"]
    with pytest.raises(SandboxError) as error:
        Sandbox()
    for reason in (*reasons, "process: not allowed (allow_weak)"):
        assert reason in str(error.value)
    with Sandbox(allow_weak=True) as weak:
        assert weak.tier is PROCESS
        assert weak.missing[:3] == [*reasons, "namespaces of its own"]
        assert printed(weak, "print(6 * 7)") == "42"


def test_the_strongest_tier_that_works_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    had = []
    for tier in tiers():
        with contextlib.suppress(SandboxError), Sandbox(tier):
            had.append(tier)
    with Sandbox(allow_weak=True) as best:
        assert best.tier is had[0]
    monkeypatch.setattr(implementation, "launch", failing("namespaces", "bubblewrap", "process"))
    with pytest.raises(SandboxError, match="no process today"):
        Sandbox(allow_weak=True)
    with pytest.raises(SandboxError, match="no namespaces today"):
        Sandbox(NAMESPACES)


def test_missing_agrees_with_what_programs_find(sandbox: Sandbox) -> None:
    source = "import os\ntry: os._exit(0) if os.fork() == 0 else print('forked')\nexcept OSError as e: print(e.errno)"
    forks = printed(sandbox, source)
    assert forks == (str(errno.EPERM) if "starting processes" in sandbox.missing else "forked")
    assert ("namespaces of its own" in sandbox.missing) == (not sandbox.tier.strong)


def test_a_missing_landlock_is_reported(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    if implementation.landlock_version() > 0:
        assert not any("Landlock" in lack for lack in sandbox.missing)
    monkeypatch.setattr(implementation, "landlock_version", lambda: 0)
    assert any("Landlock" in lack for lack in sandbox.missing)


@pytest.mark.parametrize("script, reason", [("echo 'cannot do it' >&2; exit 1", "cannot do it"), ("sleep 60", "start")])
def test_a_jail_that_does_not_start_is_an_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setattr(implementation, "launch", lambda *_: Launch(["/bin/sh", "-c", script], ENVIRONMENT))
    monkeypatch.setattr(implementation, "START_SECONDS", 0.5)
    monkeypatch.setattr(implementation, "END_SECONDS", 0.1)
    before = len(os.listdir("/proc/self/fd")), children(os.getpid())
    with pytest.raises(SandboxError, match=reason):
        Sandbox(PROCESS)
    assert (len(os.listdir("/proc/self/fd")), children(os.getpid())) == before


@pytest.mark.skipif(os.getuid() != 0, reason="root does not run this test")
def test_bubblewrap_is_not_used_by_root() -> None:
    with pytest.raises(SandboxError, match="started by root"):
        Sandbox(BUBBLEWRAP)


UNPRIVILEGED = """
import json, os, sys
from llmrl.sandbox import Limits, Program, Sandbox
from llmrl.sandbox.tiers import TIERS
reads = "try: print(open('/etc/passwd').read())\\nexcept OSError as e: print(type(e).__name__)"
with Sandbox(TIERS[sys.argv[1]]) as sandbox:
    def run(source, **limits):
        return sandbox.run(Program({"source": source}), Limits(wall_seconds=60.0, **limits))
    computing, crashing = run("while True: pass", cpu_seconds=0.2), run("import ctypes; ctypes.string_at(0)")
    forks = run("import os\\nprint(os.fork() >= 0)").exit_code == 0
    print(json.dumps([
        os.getuid(), run("print(6 * 7)").stdout.decode(), "Error" in run(reads).stdout.decode(),
        computing.ended, crashing.signal, forks == ("starting processes" not in sandbox.missing),
    ]))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="the tests above already ran as an unprivileged user")
@pytest.mark.parametrize("tier", TIERS)
def test_unprivileged_users_can_use_each_tier(tier: str) -> None:
    if tier == BUBBLEWRAP.name and not shutil.which("bwrap"):
        pytest.skip("bwrap is not installed")
    assert as_unprivileged(UNPRIVILEGED, tier) == [NOBODY, "42\n", True, "cpu_time", signal.SIGSEGV, True]
