"""Files and folders that are whole or absent: written beside their place, flushed, then renamed."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from llmrl.errors import RecipeError, RunStopped


def check_place(folder: Path, key: str) -> None:
    """Raises RecipeError beginning with `key` if the folder cannot be made, or cannot be written in."""
    there = next(one for one in (folder, *folder.parents) if os.path.lexists(one))
    if not there.is_dir():
        raise RecipeError(f"{key}: '{folder}' cannot be a folder: '{there}' is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise RecipeError(f"{key}: '{folder}' cannot be written: no permission to write in '{there}'")


AT_FDCWD, RENAME_EXCHANGE = -100, 2


def partial_of(target: Path) -> Path:
    """Where `target` is written until it is whole: a hidden neighbour."""
    return target.with_name(f".{target.name}.partial")


def publish(target: Path) -> None:
    """Give what was written at `partial_of(target)` its name, once its contents have reached the disk.

    What had the name before is replaced in one step, and deleted.
    """
    partial = partial_of(target)
    flush(partial)
    if target.is_dir():
        _exchange(partial, target)
    else:
        partial.replace(target)
    _flush_one(target.parent)
    if partial.exists():
        shutil.rmtree(partial)


def remove(folder: Path) -> None:
    """Delete a folder; a kill in between leaves no half of it under the folder's name."""
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    folder.rename(partial)
    shutil.rmtree(partial)


def sweep(folder: Path) -> None:
    """Delete half-written files of a killed process in `folder`."""
    for partial in folder.glob(".*.partial"):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink()


def flush(path: Path) -> None:
    """Wait until a file, or all that a folder holds, has reached the disk."""
    for inner in path.rglob("*"):
        _flush_one(inner)
    _flush_one(path)


@contextmanager
def writing(what: str, place: Path) -> Iterator[None]:
    """Turns a failure to write, such as a full disk at `place`, into RunStopped saying `what` was not written."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # torch and safetensors raise their own for a full disk
        while not isinstance(error, OSError) and isinstance(error.__context__, Exception):
            error = error.__context__  # the error under torch's own
        why = "the disk is full" if _is_full(error, place) else f"{type(error).__name__}: {error}"
        raise RunStopped(
            f"{what} could not be written ({why}); earlier checkpoints are kept: mend that, then continue with --resume"
        ) from error


def _is_full(error: Exception, place: Path) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return True
    return shutil.disk_usage(place).free < 2**20


def _exchange(new: Path, old: Path) -> None:
    """Give two folders each other's names: in one step, or in three on a file system that cannot."""
    renameat2 = getattr(ctypes.CDLL(None), "renameat2", None)
    if renameat2 and renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), RENAME_EXCHANGE) == 0:
        return
    aside = partial_of(old.with_name(f"{old.name}.before"))
    old.rename(aside)
    new.rename(old)
    aside.rename(new)


def _flush_one(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
