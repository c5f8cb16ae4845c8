"""Write docs/metrics.md from llmrl/metrics.py.

python scripts/metrics_table.py
"""

from __future__ import annotations

import math
from pathlib import Path

from llmrl.metrics import NEVER_ZERO, RECENT, SECTIONS, Metric, Range

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
INTRODUCTION = """\
<!-- written by scripts/metrics_table.py from llmrl/metrics.py -->

# Metrics

`metrics.jsonl` has one row a step. A name in angle brackets stands for the name of a reward function, an outcome or the
like. In a run of several roles the second and later ones have their name before their metrics, as in
`critiquer/reward`.

The console warns of a value in the column "warning", once a run and metric, and says what to do. It warns late rather
than early, since single steps are noisy: not every value that passes without a warning is healthy.

A loss of your own may give statistics with its `TokenLoss`; they are written under the names that it gives them.
"""


def page() -> str:
    """The whole page: a table for every section of the metrics."""
    parts = [INTRODUCTION]
    head = "| metric | unit | what it is | healthy | warning | if not |\n|---|---|---|---|---|---|"
    for title, metrics in SECTIONS.items():
        parts.append("\n".join([f"## {title}\n", head, *map(_row, metrics)]) + "\n")
    return "\n".join(parts)


def _row(metric: Metric) -> str:
    warning = _left(metric.range) if metric.range else ""
    cells = [f"`{metric.name}`", metric.unit, metric.meaning, metric.healthy, warning, metric.advice]
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _left(bounds: Range) -> str:
    """The values that leave a range, in words."""
    unit = {"one": "", "first": " times the stage's first", "recent": f" times the last {RECENT} values' largest"}
    low = f"below {bounds.low:g}{unit[bounds.of]}" if bounds.low > NEVER_ZERO else "0"
    found = [low] if bounds.low > -math.inf else []
    if bounds.high < math.inf:
        found += [f"above {bounds.high:g}{unit[bounds.of]}"]
    if bounds.least > -math.inf:
        found += [f"and above {bounds.least:g}"]
    return " ".join(found) + (f", {bounds.rows} rows in a row" if bounds.rows > 1 else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
