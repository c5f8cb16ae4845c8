#!/usr/bin/env bash
# accelerate 1.15.0 (torch 2.13.0; the CPU build is enough): `accelerate launch --cpu --num_processes 2` starts ONE
# process, with every setting given and without a word, so what was to be a test of two ranks passes as one.
#
# --multi_gpu, which --cpu excludes, does start two ranks where there is no GPU. But an Accelerator() in them sees no
# GPU and takes each rank for a run of its own: nothing is averaged. Only Accelerator(cpu=True) makes one run of both.
#
# Seen (standard error, which is checked too for --cpu, is empty there):
#   | --cpu, Accelerator():
#   | RANK=None WORLD_SIZE=None num_processes=1 NO
#   | --multi_gpu, Accelerator():
#   | RANK=0 WORLD_SIZE=2 num_processes=1 NO
#   | RANK=1 WORLD_SIZE=2 num_processes=1 NO
#   | --multi_gpu, Accelerator(cpu=True):
#   | RANK=0 WORLD_SIZE=2 num_processes=2 MULTI_CPU
#   | RANK=1 WORLD_SIZE=2 num_processes=2 MULTI_CPU
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "accelerate==1.15.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|accelerate|numpy)=='

cat >"$work/ranks.py" <<'PYTHON'
import os
import sys

from accelerate import Accelerator

accelerator = Accelerator(cpu=True) if "cpu" in sys.argv else Accelerator()
rank, size = os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
line = f"RANK={rank} WORLD_SIZE={size} num_processes={accelerator.num_processes} {accelerator.distributed_type.value}"
os.write(1, f"{line}\n".encode())  # in one piece: the ranks write at once
PYTHON

unset ACCELERATE_USE_CPU ACCELERATE_USE_FSDP RANK LOCAL_RANK WORLD_SIZE
export CUDA_VISIBLE_DEVICES="" HF_HOME=$work/no_config_here
launch() {
    timeout 300 "$work/venv/bin/accelerate" launch --num_processes 2 --num_machines 1 --mixed_precision no \
        --dynamo_backend no --num_cpu_threads_per_process 1 "$@"
}
{
    echo "--cpu, Accelerator():"
    launch --cpu "$work/ranks.py" 2>&1
    echo "--multi_gpu, Accelerator():"
    launch --multi_gpu --main_process_port 0 "$work/ranks.py" | sort
    echo "--multi_gpu, Accelerator(cpu=True):"
    launch --multi_gpu --main_process_port 0 "$work/ranks.py" cpu | sort
} | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "accelerate no longer does what is stated here" >&2
    exit 1
fi
