#!/usr/bin/env bash
# reasoning-gym 0.1.25: three tasks' scorers give 1.0 to one and the same answer on all rows or nearly all, so a policy
# that has learnt that text, and reads no question, has learnt the task.
#
# game_of_life_halting compares bool(answer) with bool(gold), and both are texts: whatever is not empty is right, "True"
# and "False" as well. puzzle24 wants four numbers in its range that make 24, and never asks whether they are the
# question's. coin_flip pays the common beginning of the two numbers as a share of the shorter one, so "0" has all of
# a gold like 0.3125. Each pays its own golds too: that they get 1.0 shows nothing.
#
# Seen, rows of 50 (seed 0) for which the score is 1.0:
#   | game_of_life_halting: its own gold 50, 'True' 50, 'False' 50, 'I cannot say.' 50
#   | golds of game_of_life_halting: 'False', 'True'
#   | puzzle24: its own gold 50, '1*2*3*4' 50
#   | rows of puzzle24 with the numbers 1, 2, 3, 4: 0
#   | coin_flip: its own gold 50, '0' 46
#   | golds of coin_flip that are 0: 0
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "reasoning-gym==0.1.25" "numpy==2.3.5" "sympy==1.14.0"
"$work/venv/bin/pip" freeze | grep -E '^(reasoning.gym|numpy|sympy)=='

cat >"$work/constant.py" <<'PYTHON'
from reasoning_gym import create_dataset


def rows_and_scores(task, *answers):
    dataset = create_dataset(task, seed=0, size=50)
    rows = list(dataset)
    right = [sum(dataset.score_answer(row["answer"], row) == 1.0 for row in rows)]
    right += [sum(dataset.score_answer(answer, row) == 1.0 for row in rows) for answer in answers]
    named = zip(["its own gold", *map(repr, answers)], right, strict=True)
    print(f"{task}: {', '.join(f'{name} {count}' for name, count in named)}")
    return rows


rows = rows_and_scores("game_of_life_halting", "True", "False", "I cannot say.")
print(f"golds of game_of_life_halting: {', '.join(sorted({repr(row['answer']) for row in rows}))}")
rows = rows_and_scores("puzzle24", "1*2*3*4")
same = sum(sorted(row["metadata"]["numbers"]) == [1, 2, 3, 4] for row in rows)
print(f"rows of puzzle24 with the numbers 1, 2, 3, 4: {same}")
rows = rows_and_scores("coin_flip", "0")
print(f"golds of coin_flip that are 0: {sum(float(row['answer']) == 0 for row in rows)}")
PYTHON

timeout 300 "$work/venv/bin/python" "$work/constant.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "reasoning-gym no longer does what is stated here" >&2
    exit 1
fi
