#!/usr/bin/env bash
# Make an environment with TRL, for `llmrl bench peer --peer-python FOLDER/bin/python`.
# Usage: scripts/peer_setup.sh FOLDER
#
#   PYTHON=python3.12 scripts/peer_setup.sh FOLDER     another interpreter than python3
set -euo pipefail
folder=${1:?usage: scripts/peer_setup.sh FOLDER}
"${PYTHON:-python3}" -m venv "$folder"
pip() { "$folder/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
# the CPU build where pip is configured to find it, else whatever the index has
pip install torch==2.13.0+cpu 2>/dev/null || pip install torch==2.13.0
pip install trl==1.16.0 transformers==5.19.0
"$folder/bin/python" -c "
import torch, transformers, trl
print('torch', torch.__version__, 'transformers', transformers.__version__, 'trl', trl.__version__)"
