"""A program's folder of files, seen from outside: how large it is, and how to be rid of it, whatever it holds."""

from __future__ import annotations

import contextlib
import os


def size_mb(folder: str) -> float:
    """What its files and folders take up; infinite where it is nested deeper than paths can say."""
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
        except PermissionError:  # a folder that the program closed even to itself
            return float("inf")
        except FileNotFoundError:
            continue
        except OSError:  # its path is too long
            return float("inf")
    return used / 2**20


def remove(folder: str) -> None:
    """Delete it with all that is in it. Folders are first moved to its top, so that no path gets long."""
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
