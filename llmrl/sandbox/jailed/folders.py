"""Measuring and deleting a program's folder from outside, whatever files the program put there."""

from __future__ import annotations

import contextlib
import os


def size_mb(folder: str) -> float:
    """Return the size of the folder's files and folders; infinite if a folder is unreadable or nested too deep."""
    used = 0
    pending = [folder]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    used += max(status.st_blocks * 512, 4096)
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except PermissionError:  # the program removed its own right to read this folder
            return float("inf")
        except FileNotFoundError:
            continue
        except OSError:  # the path is too long
            return float("inf")
    return used / 2**20


def remove(folder: str) -> None:
    """Delete the folder and its contents. Inner folders are first moved to the top, so that no path is too long."""
    moved = 0
    with contextlib.suppress(OSError):
        while names := os.listdir(folder):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.islink(path) or not os.path.isdir(path):
                    os.unlink(path)
                    continue
                os.chmod(path, 0o700)
                for inner in os.listdir(path):
                    moved += 1
                    os.rename(os.path.join(path, inner), os.path.join(folder, f"{moved}.moved"))
                os.rmdir(path)
        os.rmdir(folder)
