#!/usr/bin/env bash
# datasets 5.2.0: load_dataset(..., data_dir=folder) looks for words such as "eval", "test" and "dev" in the names of the
# folder's files. If one file has such a word, the files without one are left out altogether, without an error or a
# warning: a folder of training records in which one file holds an evaluation loads as a "test" split of that file alone.
# pyarrow reads the same folder whole.
#
# Seen:
#   | step-1, step-2, step-2-after: pyarrow 56 rows, load_dataset {'train': 56}
#   | step-1, step-2, step-2-eval: pyarrow 56 rows, load_dataset {'test': 8}
#   | step-1, step-2, step-2-evals: pyarrow 56 rows, load_dataset {'train': 56}
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "datasets==5.2.0" "pyarrow==26.0.1"
"$work/venv/bin/pip" freeze | grep -E '^(datasets|pyarrow)=='

cat >"$work/split_words.py" <<'PYTHON'
import os
import tempfile

import datasets
import pyarrow
import pyarrow.parquet

datasets.disable_progress_bars()
work = tempfile.mkdtemp(dir=os.path.dirname(__file__))
for last in ("after", "eval", "evals"):
    rows = {"step-1": 24, "step-2": 24, f"step-2-{last}": 8}
    folder = os.path.join(work, last)
    os.mkdir(folder)
    for name, count in rows.items():
        table = pyarrow.table({"reward": [1.0] * count})
        pyarrow.parquet.write_table(table, os.path.join(folder, f"{name}.parquet"))
    whole = pyarrow.parquet.read_table(folder).num_rows
    splits = datasets.load_dataset("parquet", data_dir=folder, cache_dir=work)
    found = {split: part.num_rows for split, part in splits.items()}
    print(f"{', '.join(rows)}: pyarrow {whole} rows, load_dataset {found}")
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/split_words.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "datasets no longer does what is stated here" >&2
    exit 1
fi
