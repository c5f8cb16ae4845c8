"""Write docs/metrics.md from llmrl/metrics/table.py.

python scripts/metrics_table.py
"""

from __future__ import annotations

import math
from pathlib import Path

from llmrl.metrics.metric import NEVER_ZERO, Metric
from llmrl.metrics.table import SECTIONS
from llmrl.troubles import RECENT, Drifted, Exploited, Fallen, Outside, Trouble

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
INTRODUCTION = """\
<!-- written by scripts/metrics_table.py from llmrl/metrics/table.py -->

# Metrics

`metrics.jsonl` has one row a step. A name in angle brackets stands for the name of a reward function, an outcome or the
like. In a run of several roles the second and later ones have their name before their metrics, as in
`critiquer/reward`.

The console warns of a value in the column "warning", once a run, with the step at which it began and what to try, and
`warnings.jsonl` in the run's folder keeps the warning:

    warning: answers are cut short: truncated 0.531 at step 8 of rl, since step 6 (healthy: near 0). Answers are cut and
    count as wrong: raise rollout.max_completion_tokens, or teach the model to stop.

It warns late rather than early, since single steps are noisy: not every value that passes without a warning is healthy.
A share "below its start by more than chance" has fallen by over 2.5 standard errors of the difference, with one draw a
prompt. Entropy and contrast within groups are not judged once 90 % of the answers are correct, since a task that is
solved leaves neither.

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
    warning = "; ".join(map(_condition, metric.troubles))
    cells = [f"`{metric.name}`", metric.unit, metric.meaning, metric.healthy, warning, metric.advice]
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _condition(trouble: Trouble) -> str:
    """The values that show a trouble, in words."""
    if isinstance(trouble, Fallen):
        several = f"mean of {trouble.window} rows " if trouble.window > 1 else ""
        return f"{several}below 0.9 times the stage's first, by more than chance"
    if isinstance(trouble, Drifted):
        several = f"mean of {trouble.window} rows " if trouble.window > 1 else ""
        unit = f" nats a token of `{trouble.per}`" if trouble.per else ""
        if trouble.factor < math.inf:
            return f"{several}above {trouble.factor:g} times the stage's first"
        return f"{several}{trouble.drop:g}{unit} below the stage's first"
    if isinstance(trouble, Exploited):
        return f"below its highest while `{trouble.rising}` has risen since then, both by more than chance"
    assert isinstance(trouble, Outside)
    unit = {"one": "", "recent": f" times the last {RECENT} values' largest"}[trouble.of]
    found = []
    if trouble.low > -math.inf:
        found.append(f"below {trouble.low:g}{unit}" if trouble.low > NEVER_ZERO else "0")
    if trouble.high < math.inf:
        found.append(f"above {trouble.high:g}{unit}")
    if trouble.least > -math.inf:
        found.append(f"and above {trouble.least:g}")
    return " ".join(found) + (f", {trouble.rows} rows in a row" if trouble.rows > 1 else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
