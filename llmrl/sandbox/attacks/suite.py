"""The suite of attacks: runs them in a sandbox and judges how each ended."""

from __future__ import annotations

import os
import queue
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from llmrl.sandbox.attacks import endless, escapes, forgeries, others, secrets, sockets, space
from llmrl.sandbox.attacks.attack import ATTACKS, Attack
from llmrl.sandbox.attacks.targets import Targets, descendants, trainer_state
from llmrl.sandbox.limits import Execution, Program, SandboxError
from llmrl.sandbox.sandbox import Sandbox
from llmrl.sandbox.seccomp import system_call_filter
from llmrl.sandbox.tiers import Tier

THEMES = (endless, space, others, secrets, sockets, escapes, forgeries)
SLACK_SECONDS = 3.0
END_SECONDS = 60.0
"""Processes may take so long to end; on a busy machine, deleting an attack's thousands of files takes a while."""
AFTERWARDS = "the trainer afterwards"
_ANSWER = Program({"source": "print(6 * 7)"})


@dataclass(frozen=True)
class Result:
    """The result of an attack. breaches: the harm that the attack did; empty if the sandbox held."""

    name: str
    aim: str
    ended: str
    breaches: tuple[str, ...]
    weak: str = ""

    @property
    def held(self) -> bool:
        return not self.breaches


def run(
    tier: Tier,
    attacks: Iterable[Attack] | None = None,
    *,
    at_once: int = 1,
    on_result: Callable[[Result], object] = lambda result: None,
) -> list[Result]:
    """Run attacks (default: all) in a sandbox of this tier; the last result says whether the trainer was harmed.

    on_result: called with each result as soon as it is known. Raises SandboxError if the tier does not work here, or is
    too weak to run attacks in it.
    """
    before = trainer_state()
    results = []
    if not tier.strong and system_call_filter(contained=False) is None:
        raise SandboxError(f"{tier.name}: without a system call filter nothing would stop attacks from doing harm")
    with Sandbox(tier) as sandbox, _target_sets(at_once) as target_sets, ThreadPoolExecutor(at_once) as pool:
        alone = len(descendants(sandbox.pid))

        def one(attack: Attack) -> Result:
            targets = target_sets.get()
            try:
                return run_one(sandbox, attack, targets)
            finally:
                target_sets.put(targets)

        for result in pool.map(one, ATTACKS.values() if attacks is None else attacks):
            on_result(result)
            results.append(result)
        # supervisors that will run no other program may still be exiting
        left = _still(lambda: max(0, len(descendants(sandbox.pid)) - alone - sandbox.idle))
        jailed = descendants(sandbox.pid)
    outlived = _still(lambda: sum(os.path.exists(f"/proc/{pid}") for pid in jailed))
    breaches = [f"{left} processes were left"] if left else []
    breaches += [f"{outlived} processes outlived the sandbox"] if outlived else []
    if _still(lambda: len(_changes(before))):
        breaches += _changes(before)
    results.append(Result(AFTERWARDS, "Harm the trainer by all attacks together", "", tuple(breaches)))
    on_result(results[-1])
    return results


def _changes(before: dict[str, Any]) -> list[str]:
    """Return what of this process and its machine is not as it was before."""
    after = trainer_state()
    return [f"changed: {name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]


def _still(count: Callable[[], int]) -> int:
    """Call `count` until it returns 0 or the time is over; returns the last number."""
    deadline = time.monotonic() + END_SECONDS
    while (found := count()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def run_one(sandbox: Sandbox, attack: Attack, targets: Targets) -> Result:
    """Run an attack; the judges are its output, its own judge, its targets, and the sandbox's next answer."""
    secret = targets.token.encode()
    description = targets.description()
    beside = None
    try:
        if attack.before:
            sandbox.run(_program(attack.before, attack, description, secret), attack.limits)
        if attack.beside:
            beside = sandbox.start(_program(attack.beside, attack, description, secret), attack.limits)
        execution = sandbox.run(_program(attack.source, attack, description), attack.limits)
        if beside:
            beside.result()
        breaches = [*judged(execution, attack, targets.token), *targets.disturbed()]
        if sandbox.run(_ANSWER).stdout != b"42\n":
            breaches.append("the sandbox answers wrongly afterwards")
    except SandboxError as error:
        return Result(attack.name, attack.aim, "", (f"the sandbox failed: {error}",), attack.weak)
    return Result(attack.name, attack.aim, described(execution), tuple(breaches), attack.weak)


def judged(execution: Execution, attack: Attack, token: str) -> list[str]:
    """Return the breaches that an attack's output, limits and own judge show."""
    printed = (execution.stdout + execution.stderr).decode(errors="replace")
    found = [line.strip()[:100] for line in re.findall(r"^BREACHED(.*)", printed, re.MULTILINE)]
    if token in printed:
        found.append("the secret was read")
    if len(execution.stdout) > attack.limits.output_kb * 1024:
        found.append("more output than allowed")
    if execution.wall_seconds > attack.limits.wall_seconds + SLACK_SECONDS:
        found.append(f"went on for {execution.wall_seconds:.1f} s")
    if execution.peak_memory_mb > 2 * attack.limits.memory_mb:
        found.append(f"held {execution.peak_memory_mb:.0f} MB")
    if attack.judge and (said := attack.judge(execution)):
        found.append(said)
    return found


def described(execution: Execution) -> str:
    """Describe a program's end in a few words: its limit, signal, exception or exit code."""
    if execution.ended == "killed":
        return f"killed by signal {execution.signal}"
    if execution.ended != "exited":
        return f"ended at its limit: {execution.ended.replace('_', ' ')}"
    lines = execution.stderr.decode(errors="replace").strip().splitlines()
    if execution.exit_code and lines and (error := re.match(r"(\w+(?:Error|Exception|Interrupt|Trap))\b", lines[-1])):
        return error[1]
    return f"exited with {execution.exit_code}"


def _program(source: str, attack: Attack, description: dict, stdin: bytes = b"") -> Program:
    complete = replace(attack, source=source).program(description)
    return Program({"source": complete}, stdin=stdin)


@contextmanager
def _target_sets(count: int) -> Iterator[queue.Queue[Targets]]:
    with ExitStack() as stack:
        target_sets: queue.Queue[Targets] = queue.Queue()
        for _ in range(count):
            target_sets.put(stack.enter_context(Targets()))
        yield target_sets
