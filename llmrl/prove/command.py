"""The command `llmrl prove`: trains the named or the default methods and writes the tables of results."""

from __future__ import annotations

import datetime
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.prove.results import Result
from llmrl.prove.runs import SEEDS, TASKS, prove
from llmrl.prove.table import read_notes, render, rows_of
from llmrl.recipe_file import methods

QUICK = ("grpo", "ppo", "rloo", "dapo", "gspo", "gfn_tb")


def run(
    names: Sequence[str],
    folder: Path,
    *,
    tasks: str,
    seeds: str,
    jobs: int,
    quick: bool,
    write: Path | None,
    console: Console,
) -> None:
    """Make the runs that have no result yet, then print the tables, or write them to `write`.

    With `write`, the proofs that `llmrl methods` shows are written too. Raises RecipeError for an unknown name, or for
    seeds that are no numbers.
    """
    names = names or (QUICK if quick else sorted(methods()))
    chosen = [task for task in tasks.split(",") if task] or (TASKS[:1] if quick else TASKS)
    results = prove(
        names, chosen, SEEDS[:1] if quick and seeds == "0,1,2" else _numbers(seeds), folder, jobs=jobs, console=console
    )
    document = render(results, read_notes(), date=datetime.date.today().isoformat(), command=_command())
    if write is None:
        console.print(document, markup=False, highlight=False, soft_wrap=True)
        return
    write.write_text(document, encoding="utf-8")
    proofs = json.dumps(summary(results), indent=1) + "\n"
    Path(str(resources.files("llmrl.prove") / "proofs.json")).write_text(proofs, encoding="utf-8")
    console.print(f"wrote {write} and the proofs that `llmrl methods` shows", highlight=False)


def summary(results: Sequence[Result]) -> dict[str, dict[str, Any]]:
    """Return, per method and task, the mean accuracy before and after, whether every seed gained, and any fault."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for task in TASKS:
        for row in rows_of([result for result in results if result.run.task == task]):
            proof: dict[str, Any] = {"gains": row.gains}
            if row.results:
                proof |= {"before": round(row.mean(lambda r: r.before["accuracy"]), 4), "after": round(row.accuracy, 4)}
            if row.fault:
                proof["fault"] = row.fault.splitlines()[0]
            found[row.method][task] = proof
    return dict(sorted(found.items()))


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number]
    except ValueError:
        raise RecipeError(f"--seeds: {text!r} is not valid, expected numbers such as 0,1,2") from None


def _command() -> str:
    return " ".join(["llmrl", *sys.argv[1:]])
