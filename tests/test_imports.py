"""Imports point one way, and heavy packages stay where they belong."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import llmrl

ROOT = Path(llmrl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

# A module may import modules of its own floor and below.
FLOORS = (
    (
        "types",
        "errors",
        "columns",
        "marks",
        "fields",
        "metrics",
        "troubles",
        "bounds",
        "spans",
        "spawned",
        "request_fields",
    ),
    ("ending", "pieces", "signatures", "batch", "ops", "sandbox", "methods"),
    ("axes", "templates", "run_folder"),
    (
        "recipe_rows",
        "recipe_moves",
        "recipe_rollout",
        "recipe_replay",
        "recipe_critic",
        "recipe_training",
        "recipe_turns",
        "recipe",
        "recipe_faults",
        "recipe_layers",
        "recipe_products",
        "recipe_file",
        "probe",
    ),
    ("data", "envs", "evaluation", "models", "rewards", "rollout", "tasks", "providers"),
    ("engines", "serve"),
    ("algorithm", "critic_combinations", "combinations", "other_policies", "reward_model_combinations", "resolve"),
    ("train",),
    ("run", "overoptimization"),
    ("catalogues",),
    ("check", "listing", "prove"),
    ("bench",),
    ("completion",),
    ("cli",),
)
RANKS = {part: rank for rank, floor in enumerate(FLOORS) for part in floor}
ONLY_IN = {
    "vllm": ("rollout/vllm_sampler.py", "bench/alone.py"),
    "deepspeed": ("engines/deepspeed_engine.py",),
    "accelerate": ("engines/accelerate_engine.py",),
    "trl": ("bench/peer_worker.py", "bench/preference_peer.py"),  # run by another interpreter
}


def imports(file: Path) -> set[str]:
    """Every module that `file` imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module)
            if node.module == "llmrl":
                found |= {f"llmrl.{alias.name}" for alias in node.names}
    return found - {"llmrl"}


def at_top(file: Path) -> set[str]:
    """The modules that importing `file` imports; names that are modules of a package are followed."""
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def part_of(module: str) -> str:
    """The part of llmrl that a dotted module belongs to: llmrl.ops.losses -> ops."""
    return module.split(".")[1]


def own_part(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file):
    if file == ROOT / "__init__.py":
        assert not imports(file)
        return
    rank = RANKS[own_part(file)]
    upward = [m for m in imports(file) if m.startswith("llmrl.") and RANKS[part_of(m)] > rank]
    assert not upward


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_engines_are_imported_in_their_files_alone(file):
    for package, homes in ONLY_IN.items():
        if package in {module.split(".")[0] for module in imports(file)}:
            assert str(file.relative_to(ROOT)) in homes


@pytest.mark.parametrize("package", ONLY_IN)
def test_each_engine_has_its_files(package):
    for home in ONLY_IN[package]:
        assert package in {module.split(".")[0] for module in imports(ROOT / home)}, home


def test_ops_import_torch_and_types_only():
    for file in (ROOT / "ops").rglob("*.py"):
        for module in imports(file):
            standard = module.split(".")[0] in sys.stdlib_module_names
            assert (
                standard
                or module.split(".")[0] == "torch"
                or module.startswith(("llmrl.types", "llmrl.marks", "llmrl.ops"))
            ), module


def test_no_modules_import_each_other():
    """No circle at the top of modules, of packages and their subpackages alike."""
    modules = {".".join(file.relative_to(ROOT.parent).with_suffix("").parts): file for file in FILES}
    graph = {name: {m for m in at_top(file) if m in modules and m != name} for name, file in modules.items()}
    order = graphlib.TopologicalSorter(graph)
    order.prepare()


@pytest.mark.parametrize(
    "module",
    [
        "llmrl.rewards.math_verifier",
        "llmrl.rewards.workers",
        "llmrl.cli",
        "llmrl.metrics.table",
        "llmrl.run_folder.reader",
    ],
)
def test_start_up_is_light(module):
    """Each grading process imports its reward, and every command imports cli: neither may wait for torch."""
    code = (
        f"import sys, {module}; print([m for m in ('torch', 'transformers', 'vllm', 'deepspeed') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
