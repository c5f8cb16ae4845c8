"""The card of a reward model that a run trained: what it was trained on, and what it can tell apart.

    python scripts/reward_model_card.py runs/sums --write reward_models/sums_card.md

The text is reward_models/CARD.md, the numbers are the run's last evaluation on held-out pairs. A source has a row of
its own where the recipe names the column of sources as `data.eval.category`.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmrl.run_folder.reader import RunReader

TEMPLATE = Path(__file__).parent.parent / "reward_models" / "CARD.md"
MEASURED = ("pairs", "preference_accuracy", "preference_ties", "calibration_error", "brier_score", "length_correlation")
ALL = "all"


def card(run: RunReader, stage: str | None = None) -> str:
    """The card of the reward model that a stage trained; default: the last stage with held-out pairs.

    Raises ValueError if no evaluation of the run compared held-out pairs.
    """
    rows = [row for row in run.metrics if "eval/pairs" in row and stage in (None, row["stage"])]
    if not rows:
        raise ValueError(f"{run.path}: no stage has compared held-out pairs; set data.eval to rows of pairs")
    row = rows[-1]
    recipe, started = run.recipe["stages"][row["stage"]], run.environment
    model, data, training = recipe["model"], recipe["data"], recipe["training"]
    losses = [f"{name} {_settings(own)}".strip() for name, own in recipe["preference_loss"].items()]
    packages = started.get("packages", {})
    return TEMPLATE.read_text(encoding="utf-8").format(
        name=run.recipe["name"],
        heads="one output" if model["heads"] == 1 else f"{model['heads']} outputs",
        start=model["path"] or ("a new model" if model["build"] else "another model"),
        rows=_source(data["train"]),
        held_out=_source(data["eval"]),
        loss="; ".join(losses),
        steps=row["step"],
        prompts=recipe["rollout"]["prompts_per_step"],
        learning_rate=f"{training['learning_rate']:g}",
        dtype=training["dtype"],
        seed=recipe["seed"],
        command=" ".join(["llmrl", *started["command"][1:]]),
        started=started["started"][:10],
        versions=", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers") if name in packages),
        pairs=f"{row['eval/pairs']:.0f}",
        table=_table(row),
    )


def _settings(own: Mapping[str, Any]) -> str:
    return f"({', '.join(f'{name} {value:g}' for name, value in own.items() if name != 'weight')})"


def _source(rows: Mapping[str, Any]) -> str:
    if rows["dataset"]:
        return f"{rows['dataset']}, {rows['split']}"
    return f"{rows['task']}, {rows['size']} rows of seed {rows['seed']}" if rows["task"] else str(rows["path"])


def _table(row: Mapping[str, Any]) -> str:
    """A line for all pairs, and one for each category."""
    names = [found[1] for name in row if (found := re.fullmatch("eval/([^/]+)/pairs", name))]
    lines = [_line(ALL, {name: row.get(f"eval/{name}") for name in MEASURED})]
    lines += [_line(part, {name: row.get(f"eval/{part}/{name}") for name in MEASURED}) for part in sorted(names)]
    return "\n".join(lines)


def _line(part: str, found: Mapping[str, float | None]) -> str:
    pairs, *others = found.values()
    return f"| {part} | {pairs:.0f} | {' | '.join('-' if one is None else f'{one:.3f}' for one in others)} |"


def main() -> None:
    """Print the card, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--stage", help="default: the last with held-out pairs")
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    try:
        text = card(RunReader(given.run), given.stage)
    except ValueError as error:
        sys.exit(str(error))
    if given.write:
        given.write.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
