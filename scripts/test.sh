#!/usr/bin/env bash
# Set up .venv if needed, then the linter, the type checker and all tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
echo "test: ruff"
.venv/bin/ruff check llmrl tests recipes scripts
echo "test: pyright"
.venv/bin/pyright
echo "test: pytest"
exec .venv/bin/python -m pytest "$@"
