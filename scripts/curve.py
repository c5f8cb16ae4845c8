"""Draw metrics of a run against its steps, one panel each.

python scripts/curve.py runs/smollm2_dpo eval/accuracy preference_loss preference_margin --write curve.svg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from llmrl.run_folder.reader import RunReader


def draw(run: RunReader, metrics: Sequence[str], file: Path, stage: str | None = None) -> None:
    """Write the figure in the format of the file's ending; raises ValueError for a metric that no row has."""
    rows = [row for row in run.metrics if stage in (None, row["stage"])]
    figure = Figure(figsize=(3.4 * len(metrics), 2.8), layout="constrained")
    panels: Any = figure.subplots(1, len(metrics), squeeze=False)
    for panel, metric in zip(panels[0], metrics, strict=True):
        points = [(row["step"], row[metric]) for row in rows if metric in row]
        if not points:
            known = ", ".join(sorted({name for row in rows for name in row}))
            raise ValueError(f"{run.path}: no row has the metric '{metric}'; there are {known}")
        panel.plot(*zip(*points, strict=True), "o-", color="#0072b2", markersize=3, linewidth=1)
        panel.set(xlabel="step", title=metric)
        panel.spines[["top", "right"]].set_visible(False)
    with matplotlib.rc_context({"svg.hashsalt": "llmrl"}):
        figure.savefig(file, dpi=150, metadata={"Date": None} if file.suffix == ".svg" else {})


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("metrics", nargs="+")
    parser.add_argument("--stage", help="default: every stage")
    parser.add_argument("--write", type=Path, required=True, help="a file that ends in .svg or .png")
    given = parser.parse_args()
    try:
        draw(RunReader(given.run), given.metrics, given.write, given.stage)
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
