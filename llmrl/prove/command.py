"""The command `llmrl prove`: trains the named or the default methods and writes the tables of results."""

from __future__ import annotations

import datetime
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.prove.catalogue import TASKS, tasks_named
from llmrl.prove.results import Result
from llmrl.prove.runs import SEEDS, prove
from llmrl.prove.table import read_notes, render, rows_of
from llmrl.recipe_file import methods

Proofs = Mapping[str, Mapping[str, Any]]

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
    asked = [task for task in tasks.split(",") if task]
    chosen = tasks_named(asked) if asked else list(TASKS)[:1] if quick else list(TASKS)
    results = prove(
        names, chosen, SEEDS[:1] if quick and seeds == "0,1,2" else _numbers(seeds), folder, jobs=jobs, console=console
    )
    results = [result for result in results if result.run.task in chosen]
    document = render(results, read_notes(), date=datetime.date.today().isoformat(), command=_command())
    if write is None:
        console.print(document, markup=False, highlight=False, soft_wrap=True)
        return
    write.write_text(document, encoding="utf-8")
    file = Path(str(resources.files("llmrl.prove") / "proofs.json"))
    known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    file.write_text(json.dumps(merged(known, summary(results)), indent=1) + "\n", encoding="utf-8")
    console.print(f"wrote {write} and the proofs that `llmrl methods` shows", highlight=False)


def summary(results: Sequence[Result]) -> Proofs:
    """Return, per method and task, the mean accuracy before and after, whether every seed gained, and any fault."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for task in TASKS:
        for row in rows_of([result for result in results if result.run.task == task], TASKS[task].yardstick):
            proof: dict[str, Any] = {"gains": row.gains}
            if row.results:
                proof |= {"before": round(row.mean(lambda r: r.before["accuracy"]), 4), "after": round(row.accuracy, 4)}
            if row.fault:
                proof["fault"] = row.fault.splitlines()[0]
            found[row.method][task] = proof
    return dict(sorted(found.items()))


def merged(known: Proofs, found: Proofs) -> Proofs:
    """Return the known proofs of methods that there are, with what was found in place of what it measured anew."""
    return {
        name: {**known.get(name, {}), **found.get(name, {})} for name in sorted(methods()) if name in {*known, *found}
    }


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",") if number]
    except ValueError:
        raise RecipeError(f"--seeds: {text!r} is not valid, expected numbers such as 0,1,2") from None


def _command() -> str:
    return " ".join(["llmrl", *sys.argv[1:]])
