"""Give the llmrl command broken inputs, and demand that each is accepted or refused in words.

python scripts/fuzz.py [--first 0] [--count 2000]

Every input follows from its seed, so a seed that fails is run again by `--first SEED --count 1`.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import io
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from unittest import mock

from fuzz_inputs import RECIPES, Case, case
from huggingface_hub import constants
from transformers.utils.logging import disable_progress_bar

from llmrl.check import plan as check_plan
from llmrl.cli import main as llmrl
from llmrl.rewards.workers import Workers

SECONDS = 90
LONGEST_LINE = 2000


class Hang(BaseException):
    """A call that took longer than its deadline."""


@dataclass(frozen=True)
class Outcome:
    """The exit code of a call and its two outputs; code None: it raised, or went on past its deadline."""

    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def fault(self) -> str | None:
        """Why this is no way to end: None for a success, and for a refusal in readable lines."""
        stopped = self.code == 1 and "llmrl: unexpected" not in self.err  # a run that has nothing to train on, say
        if self.code not in (0, 2) and not stopped:
            return f"exit code {self.code}"
        if "Traceback" in self.out + self.err:
            return "a traceback"
        if self.code == 0:
            return None
        lines = self.err.splitlines()
        if not lines or not all(line.startswith("llmrl: ") for line in lines):
            return "a refusal that does not begin with llmrl:"
        return "a line too long to read" if max(map(len, lines)) > LONGEST_LINE else None


def main() -> None:
    """Run the cases; exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000)
    asked = parser.parse_args()
    sys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", errors="backslashreplace")
    failed, counts, slowest = 0, dict.fromkeys((0, 1, 2), 0), (0.0, 0)
    with ready():
        for seed in range(asked.first, asked.first + asked.count):
            one = case(seed)
            outcome = run(one)
            counts[outcome.code] = counts.get(outcome.code, 0) + 1
            slowest = max(slowest, (outcome.seconds, seed))
            if outcome.fault:
                failed += 1
                print(f"seed {seed}: {outcome.fault} after {outcome.seconds:.1f} s\n  {one.mutation}")
                print(f"  {outcome.err[-3000:]}", flush=True)
                for report in re.findall(r"the traceback is in (\S+)$", outcome.err, re.MULTILINE):
                    print(Path(report).read_text(encoding="utf-8")[-1500:])
    refused = counts[2] + counts[1]
    print(f"{asked.count} inputs: {counts[0]} accepted, {refused} refused or stopped, {failed} failed; ", end="")
    print(f"the slowest took {slowest[0]:.1f} s (seed {slowest[1]})")
    sys.exit(bool(failed))


@contextlib.contextmanager
def ready() -> Iterator[None]:
    """Every check within uses the same worker processes, since to start these takes most of a small check."""
    offline = mock.patch.object(constants, "HF_HUB_OFFLINE", True)  # a changed name is not looked for on the network
    disable_progress_bar()
    with (
        offline,
        Workers(2) as workers,
        mock.patch.object(check_plan, "Workers", lambda n: contextlib.nullcontext(workers)),
    ):
        for folder in (RECIPES, *RECIPES.iterdir()):  # shipped recipes name functions of modules in their folders
            sys.path.append(str(folder))
        yield


def run(one: Case) -> Outcome:
    """Call the command in a new folder that has the case's files, under a deadline."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    code: int | None = None
    began = time.monotonic()
    argv = mock.patch.object(sys, "argv", ["llmrl", *one.arguments])
    with _folder(one), argv, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _deadline():
        try:
            llmrl()
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Hang:
            err.write(f"still running after {SECONDS} s")
    return Outcome(code, _text(out), _text(err), time.monotonic() - began)


def _text(stream: io.TextIOWrapper) -> str:
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


@contextlib.contextmanager
def _folder(one: Case) -> Iterator[None]:
    before, path = Path.cwd(), list(sys.path)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for file, content in one.files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(content)
        os.chdir(folder)
        try:
            yield
        finally:
            os.chdir(before)
            sys.path[:] = path


@contextlib.contextmanager
def _deadline() -> Iterator[None]:
    """Raises Hang in what takes too long; what does not even return to Python ends the process with its stack."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


if __name__ == "__main__":
    main()
