"""What a published method costs: lines of YAML, of the functions that it alone names, and of tests that name those.

.venv/bin/python scripts/method_lines.py [METHOD]
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections import Counter
from importlib import resources
from pathlib import Path
from statistics import median

from llmrl.listing import placed_of
from llmrl.pieces import Piece
from llmrl.recipe_file import method_recipe, methods
from llmrl.resolve import resolve_pieces

ROOT = Path(__file__).parent.parent


def pieces_of(name: str) -> dict[str, Piece]:
    """The method's pieces by the name of their function's module and their own."""
    placed = placed_of(resolve_pieces(method_recipe(name)))
    return {f"{piece.function.__module__}.{piece.name}": piece for key, piece in placed if key != "env"}


def test_lines(names: set[str]) -> int:
    """Lines of the test functions under tests/ops and tests/rollout that name one of the functions."""
    if not names:
        return 0
    pattern = re.compile(r"\b(" + "|".join(names) + r")\b")
    total = 0
    for file in [*(ROOT / "tests/ops").glob("test_*.py"), *(ROOT / "tests/rollout").glob("test_*.py")]:
        text = file.read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                source = ast.get_source_segment(text, node) or ""
                total += len(source.splitlines()) if pattern.search(source) else 0
    return total


def main(chosen: list[str]) -> None:
    """Print a line per method and the medians."""
    used = {name: pieces_of(name) for name in methods()}
    users = Counter(key for pieces in used.values() for key in pieces)
    rows = []
    for name, pieces in used.items():
        own = [piece for key, piece in pieces.items() if users[key] == 1]
        yaml = len((resources.files("llmrl.methods") / f"{name}.yaml").read_text(encoding="utf-8").splitlines())
        code = sum(len(inspect.getsource(piece.function).splitlines()) for piece in own)
        rows.append((name, yaml, code, test_lines({piece.name for piece in own}), len(own)))
    for name, yaml, code, tests, _ in rows:
        if not chosen or name in chosen:
            print(f"{name:32} yaml {yaml:3}   functions {code:4}   tests {tests:4}")
    alone = sum(not own for *_, own in rows)
    medians = [median(row[column] for row in rows) for column in (1, 2, 3)]
    print(f"{len(rows)} methods, {alone} of them YAML alone")
    print(f"median lines of all: yaml {medians[0]:g}, functions {medians[1]:g}, tests {medians[2]:g}")
    with_own = [row for row in rows if row[4]]
    medians = [median(row[column] for row in with_own) for column in (1, 2, 3)]
    print(f"of the {len(with_own)} with a function of their own: yaml {medians[0]:g}, functions {medians[1]:g} "
          f"(docstrings included), tests {medians[2]:g}")  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1:])
