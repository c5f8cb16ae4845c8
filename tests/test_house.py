"""The size of files and functions, and that what is public says what it is."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import llmrl

ROOT = Path(llmrl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_files_and_functions_are_short(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) < 400
    functions = [node for node in ast.walk(parsed(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno + 1 >= 60}
    assert not long


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_public_has_a_docstring(file):
    tree = parsed(file)
    assert ast.get_docstring(tree), "the module"
    public = [node for node in tree.body if isinstance(node, DEFINITIONS) and not node.name.startswith("_")]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_no_source_file_branches_on_a_methods_name():
    """A method is data: its name may stand in its own YAML file, in prose, and as the name of a piece."""
    names = {file.stem for file in (ROOT / "methods").glob("*.yaml")}
    assert "grpo" in names
    found = []
    for file in FILES:
        for node in ast.walk(parsed(file)):
            if isinstance(node, ast.Compare | ast.Match):
                texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
                found += [f"{file.name}:{node.lineno}: {text}" for text in texts if text in names]
            if isinstance(node, ast.Dict):  # a table keyed by methods is a branch too
                keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
                found += [f"{file.name}:{node.lineno}: {key}" for key in keys if key in names]
    assert found == []
