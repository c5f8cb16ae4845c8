"""The lock of a folder that one process at a time may write; reading needs no lock.

The lock is the kernel's (flock) on the file .lock, so it ends with the process, however that ends. The file names the
process for those who are refused. flock also holds between machines on NFS and on Lustre that is mounted with `flock`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from llmrl.errors import RecipeError
from llmrl.run_folder import layout
from llmrl.run_folder.atomic import check_place

PATIENCE_SECONDS = 1.0
_UNSUPPORTED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """The process that writes a folder."""

    pid: int
    host: str
    since: str
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since} ({self.command})"


@contextmanager
def locked(folder: Path, key: str = "run_dir") -> Iterator[str]:
    """Hold the lock of `folder`, which is made if there is none; gives a warning, or "" if there is none.

    key: what chose the folder, for messages. Raises RecipeError that names the process which holds the lock, or
    if the folder cannot be written.
    """
    check_place(folder, key)
    made, file = not folder.exists(), folder / layout.LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, warning = _acquire(folder, key)
    except OSError as error:
        raise RecipeError(f"{key}: {folder} cannot be written: {error.strerror}") from None
    try:
        before = _read(file)
        if before and before.host != socket.gethostname() and not warning:
            warning = f"warning: {key}: {folder} was written by {before}, which was ended; see that it is gone"
        _write(descriptor)
        yield warning
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)
        with suppress(OSError):  # not empty
            if made:
                folder.rmdir()


def refuse_if_locked(folder: Path) -> None:
    """Raises RecipeError if another process holds the lock of `folder`."""
    with suppress(FileNotFoundError, NotADirectoryError):
        descriptor = os.open(folder / layout.LOCK, os.O_RDONLY)
        try:
            if not _held(descriptor, fcntl.LOCK_SH):
                raise _refusal(folder, "run_dir")
        finally:
            os.close(descriptor)


def _acquire(folder: Path, key: str) -> tuple[int, str]:
    """The open, locked file, and a warning if its file system knows no locks."""
    end = time.monotonic() + PATIENCE_SECONDS  # those who only look at the lock hold it for a moment
    while True:
        descriptor = os.open(folder / layout.LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if _held(descriptor, fcntl.LOCK_EX):
                if _is_named(descriptor, folder):
                    return descriptor, ""
            elif time.monotonic() > end:
                raise _refusal(folder, key)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                lack = "is on a file system without locks: see that one run alone writes it"
                return descriptor, f"warning: {key}: {folder} {lack}"
            os.close(descriptor)
            raise
        except RecipeError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        time.sleep(0.05)


def _held(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_named(descriptor: int, folder: Path) -> bool:
    """Whether the open file is still the folder's: the holder before may have deleted it in between."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder / layout.LOCK))
    except FileNotFoundError:
        return False


def _write(descriptor: int) -> None:
    command = " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
    holder = Holder(os.getpid(), socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S"), command)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(asdict(holder)).encode(), 0)


def _read(file: Path) -> Holder | None:
    try:
        return Holder(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # it is about to be written
        return None


def _refusal(folder: Path, key: str) -> RecipeError:
    holder = _read(folder / layout.LOCK) or "another process"
    return RecipeError(
        f"{key}: {folder} is being written by {holder}; wait for its end, stop it, or name another folder"
    )
