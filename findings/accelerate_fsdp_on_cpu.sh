#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.13.0; the CPU build is enough): an Accelerator on CPUs passes over the FSDP2 plugin that
# it is given. There is no error and no warning, prepare() wraps the model in DDP, and every rank holds all of it.
#
# FSDP2 itself is not in the way: torch's fully_shard, called by hand in the same two processes, divides a model over
# gloo and gives gradients. The plugin that was passed over leaves ACCELERATE_USE_FSDP=true in the environment all the
# same, where later Accelerators, and processes started from this one, find it: it is how `accelerate launch` asks for
# FSDP.
#
# Seen, on rank 0 of 2:
#   | Accelerator(cpu=True, fsdp_plugin=...) with fsdp_version=2, under gloo:
#   | MULTI_CPU, is_fsdp2 False, warnings about FSDP: 0
#   | prepare() gives DistributedDataParallel, weight: Parameter (4, 4)
#   | ACCELERATE_USE_FSDP: None before, true after
#   | fully_shard gives FSDPLinear, weight: DTensor, here (2, 4), gradient: DTensor
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "accelerate==1.15.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|accelerate|numpy)=='

cat >"$work/fsdp.py" <<'PYTHON'
import os
import warnings

import torch
import torch.distributed as dist
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import fully_shard

before = os.environ.get("ACCELERATE_USE_FSDP")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator = Accelerator(cpu=True, fsdp_plugin=plugin)
    prepared = accelerator.prepare(nn.Linear(4, 4))
about = sum("fsdp" in str(warning.message).lower() for warning in caught)
kind, weight = type(prepared).__name__, prepared.module.weight
print(f"Accelerator(cpu=True, fsdp_plugin=...) with fsdp_version=2, under {dist.get_backend()}:")
print(f"{accelerator.distributed_type.value}, is_fsdp2 {accelerator.is_fsdp2}, warnings about FSDP: {about}")
print(f"prepare() gives {kind}, weight: {type(weight).__name__} {tuple(weight.shape)}")
print(f"ACCELERATE_USE_FSDP: {before} before, {os.environ.get('ACCELERATE_USE_FSDP')} after")

divided = fully_shard(nn.Linear(4, 4))
divided(torch.ones(1, 4)).sum().backward()
weight = divided.weight
kind, of_gradient, here = type(weight.data).__name__, type(weight.grad).__name__, tuple(weight.to_local().shape)
print(f"fully_shard gives {type(divided).__name__}, weight: {kind}, here {here}, gradient: {of_gradient}")
dist.destroy_process_group()
PYTHON

unset ACCELERATE_USE_CPU ACCELERATE_USE_FSDP
export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
torchrun=("$work/venv/bin/torchrun" --standalone --nproc-per-node 2 --local-ranks-filter 0)
timeout 300 "${torchrun[@]}" "$work/fsdp.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "accelerate no longer does what is stated here" >&2
    exit 1
fi
