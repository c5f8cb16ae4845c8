#!/usr/bin/env bash
# torch 2.13.0 (the CPU build is enough): torch.nn.functional.pad of an int64 tensor takes its fill value as a float. A
# value above 2^53 is rounded, and the largest int64 comes out as the smallest one, without an error or a warning.
#
# `value` is a double in the operator's schema, whatever the tensor's type. torch.full of the same number is exact. The
# usual victim is a sentinel such as torch.iinfo(torch.int64).max in front of a cummin or a sort: it turns up at the
# other end of the order.
#
# Seen:
#   | full 9223372036854775807, pad -9223372036854775808
#   | full 9007199254740993, pad 9007199254740992
#   | warnings: 0
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|numpy)=='

cat >"$work/pad.py" <<'PYTHON'
import warnings

import torch
from torch.nn.functional import pad

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for value in (torch.iinfo(torch.int64).max, 2**53 + 1):
        exact = torch.full((1,), value, dtype=torch.int64)
        padded = pad(torch.tensor([1]), (1, 0), value=value)
        assert padded.dtype == torch.int64
        print(f"full {exact[0].item()}, pad {padded[0].item()}")
print(f"warnings: {len(caught)}")
PYTHON

CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1 timeout 300 "$work/venv/bin/python" "$work/pad.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "torch no longer does what is stated here" >&2
    exit 1
fi
