"""Ways of training a critiquer from the same start, several seeds each, and the tables of docs/critique_study.md.

    python scripts/critique_study.py --write docs/critique_study.md

Each seed is a run of recipes/critique/study.yaml, which trains the actor, the critiquers and the co-trained actors, and
measures all of them on held-out questions. A run that is finished is not done again, one that was stopped goes on.
Without --write the tables are printed. Intervals are of Student's distribution, over seeds; differences are of the same
seed's models.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean, stdev

from llmrl.run_folder.reader import RunReader

RECIPE = Path("recipes/critique/study.yaml")
BEGIN, END = "<!-- study: generated -->", "<!-- end of study -->"
LEVEL = 0.95
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The factor of the standard error for LEVEL, for 2, 3 ... 10 seeds."""
MEASURED = "measured_"
"""What the names of the stages begin with that measure."""
COLUMNS = {
    "critiquer/verdict_accuracy": "verdict accuracy",
    "critiquer/verdict_f1": "verdict F1",
    "critiquer/verdicts_alike": "verdicts alike",
    "accuracy_before": "drafts right",
    "accuracy_after": "refinements right",
    "refinement_gain": "gain",
    "right_to_wrong": "right to wrong",
    "wrong_to_right": "wrong to right",
}
COMPARED = (
    "critiquer/verdict_accuracy",
    "critiquer/verdict_f1",
    "accuracy_before",
    "accuracy_after",
    "refinement_gain",
)
DIFFERENCES = [
    ("one_stage", "imitation"),
    ("two_stage", "imitation"),
    ("two_stage", "one_stage"),
    ("echo", "imitation"),
    ("co_training", "imitation"),
]
GREEDY = {"imitation": ("one_stage", 0), "one_stage": ("one_stage", -1), "two_stage": ("helping", -1)}
"""The stage, and which of its evaluations, that measures an arm on the recorded drafts with greedy critiques."""
Measured = Mapping[str, Mapping[str, float]]
"""Metrics of one run by the name of the arm, which is a measuring stage's without its beginning."""


def train(run: Path, seed: int, overrides: Sequence[str]) -> None:
    """Make, or finish, the run of one seed; what it prints goes into a file beside its folder."""
    command = [sys.executable, "-P", "-m", "llmrl.cli", "train", str(RECIPE), f"run_dir={run}", f"seed={seed}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with run.with_suffix(".log").open("w", encoding="utf-8") as log:
        subprocess.run([*command, *overrides, "--resume"], check=True, stdout=log, stderr=log, env=environment)


def measured(run: RunReader) -> Measured:
    """The metrics of each measuring stage of a run."""
    return {row["stage"].removeprefix(MEASURED): row for row in run.metrics if row["stage"].startswith(MEASURED)}


def greedy(run: RunReader) -> Measured:
    """The metrics of greedy critiques of the recorded held-out drafts, under the names of the sampled ones."""
    found = {}
    for arm, (stage, place) in GREEDY.items():
        rows = [row for row in run.metrics if row["stage"] == stage and "eval/accuracy_after" in row]
        found[arm] = {name.replace("eval/", ""): value for name, value in rows[place].items() if "eval/" in name}
    return found


def interval(values: Sequence[float]) -> str:
    """The mean and the half-width of its interval."""
    if len(values) < 2:
        return f"{fmean(values):.3f}"
    half = STUDENT[len(values) - 2] * stdev(values) / len(values) ** 0.5
    return f"{fmean(values):.3f} ± {half:.3f}"


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def _table(corner: str, columns: Sequence[str], rows: Sequence[str]) -> list[str]:
    return [_row(corner, columns), "|" + "---|" * (len(columns) + 1), *rows]


def tables(runs: Sequence[RunReader]) -> list[str]:
    """The means over runs of each arm, the differences of arms within runs, and the means of greedy critiques."""
    sampled = [measured(run) for run in runs]
    differences = [
        _row(
            f"{arm} - {other}", [interval([run[arm][name] - run[other][name] for run in sampled]) for name in COMPARED]
        )
        for arm, other in DIFFERENCES
    ]
    return [
        "Sampled drafts and critiques, greedy refinements:",
        "",
        *_means(sampled, COLUMNS),
        "",
        "Differences within seeds:",
        "",
        *_table("difference", [COLUMNS[name] for name in COMPARED], differences),
        "",
        "Greedy critiques of the recorded drafts of held-out questions, greedy refinements:",
        "",
        *_means([greedy(run) for run in runs], COMPARED),
    ]


def _means(runs: Sequence[Measured], names: Iterable[str]) -> list[str]:
    """A table of the means over runs of each arm."""
    rows = [_row(arm, [interval([run[arm][name] for run in runs]) for name in names]) for arm in runs[0]]
    return _table("arm", [COLUMNS[name] for name in names], rows)


def facts(runs: Sequence[RunReader], seeds: Sequence[int]) -> list[str]:
    """What was run, with which versions, where and for how long."""
    started = runs[0].environment
    packages = started["packages"]
    shown = [f"{name} {packages[name]}" for name in ("llmrl", "torch", "transformers") if name in packages]
    seconds = [sum(row.get("step_seconds", 0.0) for row in run.metrics) for run in runs]
    return [
        f"- written by `python {' '.join(sys.argv)}` from runs of `llmrl train {RECIPE} seed=N`",
        f"- {len(runs)} runs, seeds {', '.join(map(str, seeds))}, begun on {started['started'][:10]}; "
        f"{fmean(seconds) / 60:.1f} minutes a run on the mean, on a core that others used too",
        f"- {', '.join(shown)}; {started['cpu']}, {started['cores']} cores",
        f"- means over seeds and {LEVEL:.0%} intervals",
    ]


def main() -> None:
    """Make the runs that are not done, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="comma-separated")
    parser.add_argument("--folder", type=Path, default=Path("runs/critique_study"), help="where the runs are")
    parser.add_argument("--at-once", type=int, default=2, help="runs at the same time, each on one core")
    parser.add_argument("--write", type=Path, help="the page whose tables are made anew")
    parser.add_argument("overrides", nargs="*", help="key=value, of every run's recipe")
    given = parser.parse_args()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    given.folder.mkdir(parents=True, exist_ok=True)
    folders = [given.folder / f"seed_{seed}" for seed in seeds]
    with ThreadPoolExecutor(given.at_once) as pool:
        list(pool.map(train, folders, seeds, [given.overrides] * len(seeds)))
    runs = [RunReader(folder) for folder in folders]
    text = "\n".join([*facts(runs, seeds), "", *tables(runs)])
    if given.write is None:
        print(text)
        return
    page = given.write.read_text(encoding="utf-8")
    before, after = page.split(BEGIN)[0], page.split(END)[1]
    given.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
