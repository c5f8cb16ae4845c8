"""Grading without a sandbox: a program in one process and its tests in another, joined by a socket."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap

from llmrl.sandbox.tiers import JAILED

sys.path.append(str(JAILED))

import grader  # pyright: ignore[reportMissingImports]

RUNNER = (
    f"import sys; sys.path.insert(0, {str(JAILED)!r}); import json, {{name}};"
    "{name}.main(json.load(sys.stdin), int(sys.argv[1]), int(sys.argv[2]))"
)


def start(name: str, payload: dict, channel: socket.socket) -> tuple[subprocess.Popen, int]:
    """Start a runner in its own process; returns the process and the descriptor that its report is read from."""
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(name=name), str(writing), str(channel.fileno())],
        pass_fds=(writing, channel.fileno()),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    os.close(writing)
    assert process.stdin
    process.stdin.write(json.dumps(payload))
    process.stdin.close()
    return process, reading


def report(source: str, *, apart: bool = False, **payload) -> list[dict]:
    """Return the lines that the tests of a program report. apart: whether the tests, too, run in their own process."""
    payload = {"helpers": "", "float_tolerance": 0.0, **payload}
    ours, theirs = socket.socketpair()
    program, compiled = start("serve", {"source": textwrap.dedent(source)}, theirs)
    theirs.close()
    if apart:
        process, reading = start("grader", payload, ours)
        ours.close()
        process.wait()
    else:
        reading, writing = os.pipe()
        grader.main(payload, writing, ours.detach())
        os.close(writing)
    with open(reading) as file, open(compiled):
        lines = [json.loads(line) for line in file]
    program.wait(timeout=30)
    return lines


def results(source: str, *tests: str, **payload) -> list[str]:
    """Return each test's result, which is "ended" if the program had ended."""
    lines = report(source, tests=[textwrap.dedent(test) for test in tests], **payload)
    assert lines[0] == {"tests": len(lines) - 1}, lines
    assert [line["test"] for line in lines[1:]] == list(range(len(lines) - 1)), lines
    return ["ended" if line["ended"] and line["result"] == "error" else line["result"] for line in lines[1:]]


def invalid(source: str, *tests: str, **payload) -> str:
    """Return the fault that the tests report of themselves."""
    return report(source, tests=[textwrap.dedent(test) for test in tests], **payload)[-1]["invalid"]


def called(source: str, name: str, *calls: tuple, tolerance: float = 0.0) -> list[str]:
    """Return the results of calls, each of which is given as its arguments and the right result."""
    given = [{"name": name, "args": list(args), "expected": [expected]} for *args, expected in calls]
    return [line["result"] for line in report(source, calls=given, float_tolerance=tolerance)[1:]]


STACK = """
    class Stack(list):
        'A builtin that is extended keeps its own methods.'
        def push(self, item):
            self.append(item)
            return self

    class Vector:
        def __init__(self, x, y=0):
            self.x, self.y = x, y
        def __add__(self, other):
            return Vector(self.x + other.x, self.y + other.y)
        def __eq__(self, other):
            return isinstance(other, Vector) and (self.x, self.y) == (other.x, other.y)
        def __len__(self):
            return 2
        def __getitem__(self, place):
            return (self.x, self.y)[place]
        def __str__(self):
            return f'<{self.x}, {self.y}>'
        def __lt__(self, other):
            return self.x < other.x
        def __neg__(self):
            return Vector(-self.x, -self.y)
        @property
        def norm(self):
            return (self.x ** 2 + self.y ** 2) ** 0.5
        @staticmethod
        def zero():
            return Vector(0)

    class Node:
        def __init__(self, value):
            self.value, self.next = value, None

    def length(node):
        return 0 if node is None else 1 + length(node.next)

    class Managed:
        log = []
        def __enter__(self):
            self.log.append('in')
            return self
        def __exit__(self, *error):
            self.log.append('out')
            return True
    """
