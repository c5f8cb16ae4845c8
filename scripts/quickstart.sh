#!/usr/bin/env bash
# From nothing to a trained model: set up .venv if needed, then run recipes/quickstart.yaml (a few minutes on
# two CPU cores). Arguments go to `llmrl train`, such as seed=1 or run_dir=runs/other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
echo "quickstart: training; live metrics below, everything else in runs/quickstart"
.venv/bin/llmrl train recipes/quickstart.yaml --overwrite "$@"
echo "quickstart: the model is in runs/quickstart/final; transformers loads it as it is"
