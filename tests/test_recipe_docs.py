"""The documents say what the code says: what is generated is generated anew and compared, numbers are counted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from checking import shared_workers

from llmrl.axes import ONE_PIECE
from llmrl.recipe_file import SAMPLING_KEYS, methods

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

import broken_recipes  # noqa: E402
import recipe_reference  # noqa: E402

GUIDE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
README = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


def test_the_reference_is_current():
    page = recipe_reference.PAGE.read_text(encoding="utf-8")
    assert recipe_reference.page() == page, "run python scripts/recipe_reference.py"


def test_the_broken_recipes_are_current():
    with shared_workers():
        section = broken_recipes.section()
    assert broken_recipes.replaced(GUIDE, section) == GUIDE, "run python scripts/broken_recipes.py"


def test_the_guide_has_ten_broken_recipes_and_no_traceback():
    broken = GUIDE.partition(broken_recipes.START)[2]
    assert len(re.findall("^### ", broken, re.MULTILINE)) >= 10
    assert len(re.findall("^llmrl: ", broken, re.MULTILINE)) >= 10
    assert "Traceback" not in GUIDE


def test_the_guide_names_the_keys_of_one_piece_and_those_that_a_role_samples_by():
    one = re.search(r"a key that holds one piece \((.*?)\)", GUIDE, re.DOTALL)
    assert one and set(re.findall(r"`(\w+)`", one[1])) == ONE_PIECE
    sampling = re.search(r"the keys of sampling \((.*?)\)", GUIDE, re.DOTALL)
    assert sampling and set(re.findall(r"`(\w+)`", sampling[1])) == set(SAMPLING_KEYS)


def test_the_guide_leaves_what_is_generated_to_the_reference():
    assert "(reference.md)" in GUIDE
    assert re.findall("<!-- (\\w+): generated -->", GUIDE) == ["broken"]


def test_the_readme_says_how_many_methods_there_are():
    assert f"{len(methods())} published methods" in README
