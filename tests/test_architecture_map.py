"""docs/architecture.md says what the code says: its generated parts are generated anew and compared."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "scripts"))

import architecture_map  # noqa: E402


def test_the_page_is_current():
    text = architecture_map.PAGE.read_text(encoding="utf-8")
    assert architecture_map.page(text) == text, "run python scripts/architecture_map.py"
