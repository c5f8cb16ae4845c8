"""The sandbox's data: a program, the limits that it runs under, and the way in which it ended."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Ended = Literal["exited", "killed", "cpu_time", "wall_time", "memory", "processes", "output"]
"""exited: with an exit code; killed: by a signal; the other words name the limit that the program passed."""


STREAMS = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)


class SandboxError(Exception):
    """The sandbox itself failed, or this machine cannot have one; the program is never at fault."""


@dataclass(frozen=True)
class Limits:
    """The limits of one program, which hold for all of its processes together.

    cpu_seconds: CPU time of all threads. memory_mb: resident memory of all processes, and address space of each.
    processes: number of processes and threads beside the first. open_files: number in each process. output_kb: size of
    stdout, of stderr, and of any one file. disk_mb: size of all files, which lie in memory beside memory_mb.
    Raises ValueError for a limit that is not more than 0.
    """

    cpu_seconds: float = 4.0
    wall_seconds: float = 20.0
    memory_mb: int = 512
    processes: int = 16
    open_files: int = 64
    output_kb: int = 1024
    disk_mb: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} {value}: expected more than 0")


@dataclass(frozen=True)
class Program:
    """A program: its runner, a module of llmrl/sandbox/jailed, and `payload`, the data that this runner reads.

    runner: "script" runs payload["source"] as Python would; "command" runs payload["argv"]. files: contents by relative
    path, which are put into the working directory. channel: a connected Unix socket that the runner gets; a datagram
    socket is refused, as it could send to any address. Raises ValueError for such a socket, or for a path that leads
    out of the working directory.
    """

    payload: Mapping[str, Any]
    runner: str = "script"
    stdin: bytes = b""
    files: Mapping[str, bytes] = field(default_factory=dict)
    channel: socket.socket | None = None

    def __post_init__(self) -> None:
        for name in self.files:
            if not name or name.startswith("/") or "\0" in name or ".." in name.split("/"):
                raise ValueError(f"files: {name!r} is no path inside the working directory")
        if self.channel and (self.channel.family != socket.AF_UNIX or self.channel.type not in STREAMS):
            raise ValueError("channel: expected a connected Unix socket of type SOCK_STREAM or SOCK_SEQPACKET")


@dataclass(frozen=True)
class Execution:
    """The end of a program. report: text that its runner wrote and that the program itself cannot write."""

    ended: Ended
    exit_code: int | None
    signal: int | None
    stdout: bytes
    stderr: bytes
    report: bytes
    cpu_seconds: float
    wall_seconds: float
    peak_memory_mb: float

    @property
    def timed_out(self) -> bool:
        return self.ended in ("cpu_time", "wall_time")
