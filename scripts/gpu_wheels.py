"""Gather the wheels that scripts/gpu_check.sh needs on a machine with a GPU and no network, into build/gpu_wheels.

python scripts/gpu_wheels.py                        all that a machine with the packages in THERE lacks
python scripts/gpu_wheels.py --there pandas pillow  less: the machine has these too

They are for Python 3.12 on x86-64 Linux. What such a machine has for its own work (torch, transformers, peft,
accelerate, typer, rich, pyarrow and theirs) is left out. A package that is published as source is built here:
deepspeed without its CUDA kernels, which llmrl does not use; one with C code needs a python3.12 on the PATH.
"""

from __future__ import annotations

import argparse
import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "gpu_wheels"
LIMIT_MB = 60
# fmt: off
WANTED = ["pydantic", "math-verify", "reasoning-gym", "deepspeed", "datasets", "gguf", "pytest",
          "pytest-timeout", "hypothesis", "setuptools"]
THERE = ["torch", "transformers", "peft", "accelerate", "typer", "rich", "pyarrow",
         "annotated-doc", "click", "filelock", "fsspec", "huggingface-hub", "jinja2", "markdown-it-py", "markupsafe",
         "mdurl", "mpmath", "networkx", "numpy", "packaging", "psutil", "pygments", "pyyaml", "regex", "safetensors",
         "shellingham", "sympy", "tokenizers", "tqdm", "typing-extensions"]
# fmt: on
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 26, 24, 17, 12, 5)] + [
    f"manylinux{name}_x86_64" for name in ("2014", "2010", "1")
]
TARGET = {**default_environment(), "python_version": "3.12", "python_full_version": "3.12.0", "extra": ""}


def main() -> None:
    """Gather the wheels, and say which they are and how large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--there", nargs="*", default=[], help="packages that the machine has besides")
    there = {canonicalize_name(name) for name in (*THERE, *parser.parse_args().there)}
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    asked = [Requirement(name) for name in WANTED]
    found: dict[str, Path] = {}
    while asked:
        one = asked.pop()
        name = canonicalize_name(one.name)
        if name in there:
            continue
        if name not in found:
            found[name] = fetch(one)
            asked += requirements(found[name])
        version = parse_wheel_filename(found[name].name)[1]
        if not one.specifier.contains(version, prereleases=True):
            sys.exit(f"gpu_wheels: {one} is asked for, but {found[name].name} was gathered for another package")
    for wheel in sorted(found.values()):
        print(f"{wheel.stat().st_size / 1e6:6.2f} MB  {wheel.name}")
    total = sum(wheel.stat().st_size for wheel in found.values()) / 1e6
    print(f"gpu_wheels: {len(found)} wheels, {total:.1f} MB, in {FOLDER.relative_to(ROOT)}")
    if total > LIMIT_MB:
        sys.exit(f"gpu_wheels: more than {LIMIT_MB} MB")


def fetch(wanted: Requirement) -> Path:
    """The wheel of a requirement: as it is published, or built from source."""
    plain = Requirement(str(wanted))
    plain.extras, plain.marker = set(), None
    before = set(FOLDER.iterdir())
    pip = ["-m", "pip", "--disable-pip-version-check", "-q"]
    options = ["--no-deps", "--constraint", str(ROOT / "scripts" / "constraints.txt"), str(plain)]
    target = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
    target += [f"--platform={name}" for name in PLATFORMS]
    done = subprocess.run(
        [sys.executable, *pip, "download", "-d", str(FOLDER), *target, *options], capture_output=True, text=True
    )
    if done.returncode:
        done = subprocess.run(
            [builder(), *pip, "wheel", "-w", str(FOLDER), *options],
            capture_output=True,
            text=True,
            env=os.environ | {"DS_BUILD_OPS": "0"},
        )
    new = sorted(set(FOLDER.iterdir()) - before)
    if done.returncode or len(new) != 1:
        sys.exit(f"gpu_wheels: {plain} cannot be had:\n{done.stderr[-2000:]}")
    tags = {(tag.interpreter, tag.abi) for tag in parse_wheel_filename(new[0].name)[3]}
    if not any(abi in ("none", "abi3") or (python, abi) == ("cp312", "cp312") for python, abi in tags):
        sys.exit(f"gpu_wheels: {new[0].name} is not for Python 3.12; put a python3.12 on the PATH to build it")
    return new[0]


def builder() -> str:
    """The interpreter that builds wheels from source: python3.12 if it is there."""
    for candidate in ("python3.12", sys.executable):
        if shutil.which(candidate) and not subprocess.run([candidate, "-c", ""], capture_output=True).returncode:
            return candidate
    return sys.executable


def requirements(wheel: Path) -> list[Requirement]:
    """The packages that a wheel needs on the target machine."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n))
        metadata = email.message_from_bytes(archive.read(name))
    needed = [Requirement(text) for text in metadata.get_all("Requires-Dist") or []]
    return [one for one in needed if one.marker is None or one.marker.evaluate(TARGET)]


if __name__ == "__main__":
    main()
