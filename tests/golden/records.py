"""runs.json: what the golden runs gave, where that was, and how far something new is from it."""

from __future__ import annotations

import json
import math
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from golden.recipes import THREADS, digest

FILE = Path(__file__).with_name("runs.json")
PACKAGES = ("torch", "transformers", "peft", "numpy")
SUMMARY = ["sum of absolute values", "sum of squares"]
TOLERANCE = 1e-4
"""Relative or absolute, on another machine. Adam's first steps are about as long for the smallest gradients as for the
largest, so the last bits of a gradient near 0 move a weight; 5e-5 was seen between AVX2 and AVX-512."""
DECIDED_BY_BITS = "clip_fraction"
"""On another machine, metrics that count what lies beyond a bound: a ratio of 1 may lie on either side of 1."""
Record = dict[str, Any]


def header(folder: Path) -> Record:
    """Return what decides the last bits of a run, and the digests of the starts in a laid out folder."""
    return {
        "versions": {package: version(package) for package in PACKAGES},
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": THREADS,
        "starts": {name: digest(folder / name) for name in ("start", "experts")},
    }


def read() -> Record:
    """Return the file's header and runs."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def write(head: Record, runs: dict[str, Record]) -> None:
    """Write the file, a line for each metric and each tensor, so that a change of it can be read."""
    parts = [f'"header": {json.dumps(head)}']
    parts.append('"runs": {\n' + ",\n".join(f'"{name}": {_lines(runs[name])}' for name in sorted(runs)) + "\n}")
    FILE.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def differences(expected: Record, found: Record, *, exact: bool) -> list[str]:
    """Return what changed, a line each. exact: compare bit for bit, else up to TOLERANCE."""
    if expected["rows"] != found["rows"]:
        return [f"rows: {expected['rows']} -> {found['rows']}"]
    changed = _of_lists(expected["metrics"], found["metrics"], expected["rows"], exact)
    if not exact:
        changed = [change for change in changed if not change.startswith(DECIDED_BY_BITS)]
        return changed + _of_lists(expected["weights"], found["weights"], SUMMARY, exact)
    if expected["digest"] != found["digest"]:
        changed.append(f"final weights: {expected['digest']} -> {found['digest']}")
    return changed


def _of_lists(expected: Record, found: Record, places: list[str], exact: bool) -> list[str]:
    changed = [f"{name}: gone" for name in expected if name not in found]
    changed += [f"{name}: new: {found[name]}" for name in found if name not in expected]
    for name in (name for name in expected if name in found):
        for place, before, after in zip(places, expected[name], found[name], strict=True):
            if not _equal(before, after, exact):
                changed.append(f"{name}, {place}: {before} -> {after}")
    return changed


def _equal(before: float | None, after: float | None, exact: bool) -> bool:
    if before is None or after is None:
        return before is after
    if math.isnan(before) or math.isnan(after):
        return math.isnan(before) and math.isnan(after)
    return before == after or (not exact and math.isclose(before, after, rel_tol=TOLERANCE, abs_tol=TOLERANCE))


def _lines(record: Record) -> str:
    parts = []
    for key, value in record.items():
        if isinstance(value, dict):
            inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value[name])}" for name in sorted(value))
            parts.append(f' "{key}": {{\n{inner}\n }}')
        else:
            parts.append(f' "{key}": {json.dumps(value)}')
    return "{\n" + ",\n".join(parts) + "\n}"


def _processor() -> str:
    """Return its name, family, model and stepping: virtual machines give several processors the same name."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.exists() else ""
    keys = ("model name", "cpu family", "model", "stepping")
    found = [re.search(rf"^{key}\s*:\s*(.*)$", text, re.MULTILINE) for key in keys]
    return " / ".join(match[1] for match in found if match) or platform.processor() or platform.machine()
