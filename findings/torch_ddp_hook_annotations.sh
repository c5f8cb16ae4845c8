#!/usr/bin/env bash
# torch 2.13.0 (the CPU build is enough): DDP's register_comm_hook refuses a hook with exactly the documented
# signature when the file it is written in begins with `from __future__ import annotations`.
#
# Annotations are then strings, and DDP compares what inspect.signature() shows with the classes themselves; the error
# asks for the annotation that is there. The same look at the signature wants the second parameter to be called
# `bucket`, though hooks are called by position: under another name there is a bare KeyError.
# A lambda whose second parameter is `bucket` passes everywhere.
#
# Seen:
#   | hook, plain file: accepted
#   | hook, future import: ValueError: Communication hook: bucket annotation should be dist.GradBucket.
#   | renamed, plain file: KeyError: 'bucket'
#   | unnamed, future import: accepted
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|numpy)=='

cat >"$work/plain.py" <<'PYTHON'
import logging
import sys

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


def hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    return allreduce_hook(None, bucket)


renamed = lambda state, b: allreduce_hook(None, b)
unnamed = lambda _, bucket: allreduce_hook(None, bucket)

logging.disable()  # DDP also logs what it raises
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(2, 2))
outcome = "accepted"
try:
    model.register_comm_hook(None, globals()[sys.argv[1]])
    model(torch.ones(1, 2)).sum().backward()
except (ValueError, KeyError) as error:
    outcome = f"{type(error).__name__}: {error}"
dist.destroy_process_group()
print(f"{sys.argv[1]}, {sys.argv[2]}: {outcome}")
PYTHON
(echo "from __future__ import annotations" && cat "$work/plain.py") >"$work/future.py"

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
{
    "$work/venv/bin/python" "$work/plain.py" hook "plain file"
    "$work/venv/bin/python" "$work/future.py" hook "future import"
    "$work/venv/bin/python" "$work/plain.py" renamed "plain file"
    "$work/venv/bin/python" "$work/future.py" unnamed "future import"
} | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "torch no longer does what is stated here" >&2
    exit 1
fi
