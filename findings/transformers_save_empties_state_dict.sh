#!/usr/bin/env bash
# transformers 5.19.0: save_pretrained(folder, state_dict=weights) takes every tensor out of the dictionary that it is
# given. A caller who gathered weights once, to write them and then to send them to a sampler or to write them in a second
# form, finds an empty dictionary, and a second save_pretrained of it writes a file without tensors, without an error.
#
# Seen:
#   | entries of state_dict before: 21, after save_pretrained: 0
#   | tensors in the first folder: 21, in a second one saved from the same dictionary: 0
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.19.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|transformers|numpy)=='

cat >"$work/try.py" <<'PYTHON'
import tempfile
from pathlib import Path

from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)
model = LlamaForCausalLM(config)
weights = dict(model.state_dict())
before = len(weights)


def tensors(folder):
    files = list(folder.glob("*.safetensors"))
    return sum(len(safe_open(file, "pt").keys()) for file in files)


with tempfile.TemporaryDirectory() as scratch:
    first, second = Path(scratch) / "first", Path(scratch) / "second"
    model.save_pretrained(first, state_dict=weights)
    print(f"entries of state_dict before: {before}, after save_pretrained: {len(weights)}")
    model.save_pretrained(second, state_dict=weights)
    print(f"tensors in the first folder: {tensors(first)}, in a second one saved from the same dictionary: {tensors(second)}")
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/try.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "transformers no longer does what is stated here" >&2
    exit 1
fi
