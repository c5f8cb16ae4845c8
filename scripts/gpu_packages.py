"""The packages of scripts/gpu_check.py: those that the machine lacks are unpacked from wheels, without pip.

python scripts/gpu_packages.py     versions, those below llmrl's floor, and the GPU, as one line of JSON
"""

from __future__ import annotations

import contextlib
import email
import importlib
import json
import platform
import re
import shutil
import sys
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
SHOWN = ("torch", "transformers", "peft", "accelerate", "deepspeed")
IMPORTED = ("pydantic", "math_verify", "reasoning_gym", "datasets", "pyarrow", "peft", "accelerate")


def install(wheels: Path, site: Path) -> list[str]:
    """Unpack into `site` the wheels of packages that this interpreter lacks; returns their names.

    A wheel replaces a package that is there only where another wheel that is unpacked needs a later version.
    """
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    there = {canonicalize_name(parse_wheel_filename(file.name)[0]): file for file in sorted(wheels.glob("*.whl"))}
    needed = [Requirement(name) for name in there if _missing(Requirement(name))]
    unpacked: dict[str, None] = {}
    while needed:
        one = needed.pop()
        name = canonicalize_name(one.name)
        if name in unpacked or name not in there or not _missing(one):
            continue
        if not set(parse_wheel_filename(there[name].name)[3]) & set(sys_tags()):
            print(f"gpu_check: {there[name].name} is not for {platform.python_version()} here", file=sys.stderr)
            continue
        with zipfile.ZipFile(there[name]) as archive:
            archive.extractall(site)
            needed += _requirements(archive)
        unpacked[name] = None
    return sorted(unpacked)


def _missing(wanted: Requirement) -> bool:
    """Whether this interpreter lacks a package, or has a version that does not satisfy the requirement."""
    try:
        return not wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return True


def _requirements(archive: zipfile.ZipFile) -> list[Requirement]:
    name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
    metadata = email.message_from_bytes(archive.read(name))
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    return [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]


def below_floor() -> list[str]:
    """The packages that are missing, or older than pyproject.toml asks for, in words."""
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    found = []
    for wanted in map(Requirement, asked):
        if _missing(wanted):
            has = "not installed"
            with contextlib.suppress(PackageNotFoundError):
                has = version(wanted.name)
            found.append(f"{wanted.name} {has} (asked: {wanted.specifier})")
    return found


def said() -> dict[str, Any]:
    """This machine as a mapping: versions, GPU, what is below the floor, what does not import."""
    import torch

    broken = []
    for name in (*IMPORTED, "llmrl.engines.deepspeed_engine", "llmrl.run.run"):
        try:
            importlib.import_module(name)
        except Exception as error:  # packages raise anything when they do not fit each other
            broken.append(f"{name}: {type(error).__name__}: {error}"[:200])
    found: dict[str, Any] = {"gpu": None, "python": platform.python_version()}
    for name in SHOWN:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        found |= {
            "gpu": f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}",
            "gpu_gib": round(whole / 2**30, 1),
            "free_gib": round(free / 2**30, 1),
            "cuda": torch.version.cuda,
            "bf16": torch.cuda.is_bf16_supported(),
        }
    return found | {"below_floor": below_floor(), "broken": broken}


if __name__ == "__main__":
    print(json.dumps(said()))
