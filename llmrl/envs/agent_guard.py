"""The guard of agents' processes: kills those that are left when the process that started them is gone.

Runs as a process of its own that reads `+GROUP` and `-GROUP` from its standard input, whose end is the other's death.
"""

import contextlib
import os
import signal
import sys


def main() -> None:
    """Follow the process groups until the input ends, then kill those that are left."""
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)  # it ends with its starter, not before
    groups = set()
    for line in sys.stdin:
        group = int(line[1:])
        groups.add(group) if line[0] == "+" else groups.discard(group)
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
