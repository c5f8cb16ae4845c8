"""The runner that executes payload["argv"], a command that is looked up in the sandbox's PATH."""

from __future__ import annotations

import os
import sys


def main(payload: dict, report: int, channel: int) -> None:
    """Replace this process by the command, or exit with code 127 if PATH has no command of that name."""
    argv = payload["argv"]
    try:
        os.write(report, b"compiled\n")
        os.execvp(argv[0], argv)
    except OSError as error:
        print(f"{argv[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)
