"""Write the generated parts of docs/architecture.md: the axes, the floors of imports, a line for each module.

python scripts/architecture_map.py
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from llmrl.axes import AXES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "llmrl"


def main() -> None:
    """Replace the generated sections of the page."""
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


def page(text: str) -> str:
    """The page with its generated sections anew."""
    for name, section in (("axes", axes()), ("floors", floors()), ("modules", modules())):
        before, _, rest = text.partition(f"<!-- {name}: generated -->\n")
        after = rest.partition(f"<!-- end of {name} -->")[2]
        text = f"{before}<!-- {name}: generated -->\n\n{section}\n<!-- end of {name} -->{after}"
    return text


def axes() -> str:
    """A row for each axis."""
    rows = [f"| `{axis.key}` | {axis.about} | {axis.kind} | {axis.runs} | `{_path(axis.catalogue)}` |" for axis in AXES]
    return "\n".join(["| key | its pieces say | how many | they run | where |", "|---|---|---|---|---|", *rows]) + "\n"


def floors() -> str:
    """The floors of tests/test_imports.py, the lowest first."""
    sys.path.append(str(ROOT / "tests"))
    from test_imports import FLOORS

    return (
        "\n".join(f"{number}. {', '.join(f'`{part}`' for part in floor)}" for number, floor in enumerate(FLOORS, 1))
        + "\n"
    )


def modules() -> str:
    """The first sentence of each module's docstring, folder by folder; methods and attacks are left out."""
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if file.name != "__init__.py"]
    folders = sorted({file.parent for file in files}, key=lambda folder: (folder != PACKAGE, folder))
    parts = []
    for folder in folders:
        if folder.name == "attacks":
            continue
        about = _sentence(folder / "__init__.py") if (folder / "__init__.py").is_file() else ""
        title = "" if folder == PACKAGE else f"**`{folder.relative_to(PACKAGE)}/`** {about}\n"
        rows = [f"| `{file.name}` | {_sentence(file)} |" for file in files if file.parent == folder]
        parts.append("\n".join([title, "| module | about |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _sentence(file: Path) -> str:
    """The first sentence of a module's docstring on one line."""
    text = " ".join((ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split())
    return (text.partition(". ")[0].rstrip(".") + ".").replace("|", "\\|") if text else ""


def _path(module: str) -> str:
    return module.removeprefix("llmrl.").replace(".", "/")


if __name__ == "__main__":
    main()
