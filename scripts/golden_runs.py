"""Make the golden runs and say what changed against tests/golden/runs.json, which is then rewritten.

    python scripts/golden_runs.py              all runs
    python scripts/golden_runs.py grpo dapo    only these
    python scripts/golden_runs.py --check      leave the file as it is; the exit code is 1 if something changed

Where a run fails the file is left as it is, too.

The package that is imported is the one that runs: PYTHONPATH may name another checkout.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

sys.path[0] = str(Path(__file__).parents[1] / "tests")
from golden import recipes, records  # noqa: E402


def main() -> int:
    """Run, compare, show, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--check", action="store_true", help="leave the file as it is")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(recipes.names())):
        parser.error(f"no such golden run: {', '.join(unknown)}")
    disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        return _compare(recipes.lay_out(Path(folder)), options.names, check=options.check)


def _compare(folder: Path, names: list[str], *, check: bool) -> int:
    head = records.header(folder)
    golden = records.read() if records.FILE.exists() else {"header": head, "runs": {}}
    before, exact = golden["runs"], golden["header"] == head
    if not exact:
        print(f"made elsewhere, so compared up to {records.TOLERANCE}: {golden['header']}; here: {head}")
    if names and not exact and not check:
        print("all runs of the file have to come from one machine: rewrite all of them")
        return 2
    began = time.monotonic()
    found, failed, changes = {}, [], 0
    for name in names or recipes.names():
        try:
            found[name] = recipes.run(name, folder)
        except Exception as error:  # one run's fault must not hide what the others show
            failed.append(name)
            changes += _show(name, [f"{type(error).__name__}: {error}"])
            continue
        changed = records.differences(before[name], found[name], exact=exact) if name in before else ["a new run"]
        changes += _show(name, changed)
    for name in before if not names else ():
        changes += _show(name, ["gone"] if name not in recipes.names() else [])
    print(f"{len(found)} runs, {changes} changes, {len(failed)} failures, {time.monotonic() - began:.0f} s")
    if check or failed:  # with failures the file would lose runs
        return int(changes > 0)
    records.write(head, (before if names else {}) | found)
    return 0


def _show(name: str, changed: list[str]) -> bool:
    if changed:
        print("\n  ".join([name, *changed]))
    return bool(changed)


if __name__ == "__main__":
    sys.exit(main())
