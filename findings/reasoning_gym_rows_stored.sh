#!/usr/bin/env bash
# reasoning-gym 0.1.25 (datasets 5.2.0): once a row of arc_agi or rearc has been stored, as JSON or in a Dataset, its
# scorer gives 0.05 in place of 1.0 to the row's own gold. Nothing is raised.
#
# The grid in the row's metadata is a tuple of tuples, and the scorer compares the answer's grid with it by ==. JSON and
# Arrow know lists only, and a list is never equal to a tuple. So a run on rows generated in the process learns, and one
# on the same rows from a file, or handed to a trainer as a Dataset, has no answer that is ever right: 0.05 is what any
# grid gets. With tuples made of the lists again the score is 1.0.
#
# Seen, the scores of 10 rows' own golds (seed 0), and the last of 10 grids with one wrong cell:
#   | arc_agi: as made 1.0, through JSON 0.05, through Dataset.from_list 0.05, lists made tuples 1.0, wrong cell 0.05
#   | rearc: as made 1.0, through JSON 0.05, through Dataset.from_list 0.05, lists made tuples 1.0, wrong cell 0.05
#   | sudoku: as made 1.0, through JSON 1.0, through Dataset.from_list 1.0, lists made tuples 1.0
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "reasoning-gym==0.1.25" "datasets==5.2.0" "numpy==2.3.5" "sympy==1.14.0"
"$work/venv/bin/pip" freeze | grep -E '^(reasoning.gym|datasets|pyarrow|numpy)=='

cat >"$work/stored.py" <<'PYTHON'
import json

from datasets import Dataset
from reasoning_gym import create_dataset


def as_tuples(value):
    if isinstance(value, dict):
        return {key: as_tuples(one) for key, one in value.items()}
    return tuple(as_tuples(one) for one in value) if isinstance(value, list) else value


def with_wrong_cell(grid):
    return ("1" if grid[0] == "0" else "0") + grid[1:]


for task in ("arc_agi", "rearc", "sudoku"):
    dataset = create_dataset(task, seed=0, size=10)
    rows = list(dataset)
    golds = [row["answer"] for row in rows]
    through_json = [json.loads(json.dumps(row)) for row in rows]
    ways = {
        "as made": (golds, rows),
        "through JSON": (golds, through_json),
        "through Dataset.from_list": (golds, list(Dataset.from_list(rows))),
        "lists made tuples": (golds, [as_tuples(row) for row in through_json]),
    }
    if task != "sudoku":
        ways["wrong cell"] = ([with_wrong_cell(gold) for gold in golds], rows)
    scores = []
    for way, (answers, stored) in ways.items():
        given = {str(dataset.score_answer(*pair)) for pair in zip(answers, stored, strict=True)}
        scores.append(f"{way} {' or '.join(sorted(given))}")
    print(f"{task}: {', '.join(scores)}")
PYTHON

export HF_HUB_OFFLINE=1 HF_HOME=$work/nothing_here
timeout 300 "$work/venv/bin/python" "$work/stored.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "reasoning-gym no longer does what is stated here" >&2
    exit 1
fi
