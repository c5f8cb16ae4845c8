"""docs/recipes.md says what the code says: its generated parts are generated anew and compared."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

import broken_recipes  # noqa: E402
import recipe_reference  # noqa: E402

PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("keys", recipe_reference.keys),
        ("pieces", recipe_reference.pieces),
        ("methods", recipe_reference.method_table),
        ("broken", broken_recipes.section),
    ],
)
def test_the_page_is_current(name, section):
    script = "broken_recipes" if name == "broken" else "recipe_reference"
    assert recipe_reference.replaced(PAGE, name, section()) == PAGE, f"run python scripts/{script}.py"


def test_the_page_has_ten_broken_recipes_and_no_traceback():
    broken = PAGE.partition("<!-- broken: generated -->")[2]
    assert len(re.findall("^### ", broken, re.MULTILINE)) >= 10
    assert len(re.findall("^llmrl: ", broken, re.MULTILINE)) >= 10
    assert "Traceback" not in PAGE
