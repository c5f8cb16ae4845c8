#!/usr/bin/env bash
# Check llmrl on this machine's GPU in under five minutes, without a network: a table, JSON, and exit code 0 if all
# passed. What the machine lacks is taken from build/gpu_wheels, which scripts/gpu_wheels.py fills elsewhere.
# Arguments go to scripts/gpu_check.py; --device cpu --size tiny tries the checks themselves on a machine without a GPU.
#
#   PYTHON=python3.12 scripts/gpu_check.sh     another interpreter than .venv's or python3; it must have torch
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
for python in "${PYTHON:-}" .venv/bin/python python3; do
    if [ -n "$python" ] && command -v "$python" >/dev/null && "$python" -c 'import torch' 2>/dev/null; then
        exec "$python" scripts/gpu_check.py "$@"
    fi
done
echo "gpu_check: no Python with torch; set PYTHON to one" >&2
exit 2
