#!/usr/bin/env bash
# peft 0.21.2: add_weighted_adapter(..., combination_type="linear"), of two LoRA adapters of one rank, is not the weighted
# sum of what they add to the weights. It sums the factors A and the factors B apart, so the product has the terms of one
# adapter's B with the other's A. Of two unrelated adapters the result is as far from their mean as the mean is long;
# of one adapter alone it is exact, so a trial with one weight at 0 shows nothing. "cat" sets the factors side by side and
# is exact.
#
# Models that are merged in the space of weights (preference vectors, task arithmetic, an average of runs) need the sum.
#
# Seen:
#   | weights 1.0 and 0.0: linear is off by 0.00 of the sum's norm, cat by 0.00
#   | weights 0.5 and 0.5: linear is off by 1.01 of the sum's norm, cat by 0.00
#   | weights 1.0 and 1.0: linear is off by 1.01 of the sum's norm, cat by 0.00
#   | weights 1.0 and -1.0: linear is off by 0.99 of the sum's norm, cat by 0.00
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "peft==0.21.2" "transformers==5.19.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|peft|transformers|numpy)=='

cat >"$work/try.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
base = nn.Sequential()
base.add_module("layer", nn.Linear(64, 64, bias=False))
config = LoraConfig(r=4, lora_alpha=4, target_modules=["layer"], init_lora_weights=False)
model = get_peft_model(base, config, adapter_name="one")
model.add_adapter("other", config)
layer = model.base_model.model.layer
one, other = (layer.get_delta_weight(name).detach().clone() for name in ("one", "other"))

for number, (a, b) in enumerate(((1.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.0, -1.0))):
    off = {}
    for kind in ("linear", "cat"):
        name = f"{kind}_{number}"
        model.add_weighted_adapter(["one", "other"], [a, b], name, combination_type=kind)
        wanted = a * one + b * other
        off[kind] = ((layer.get_delta_weight(name) - wanted).norm() / wanted.norm()).item()
    said = f"linear is off by {off['linear']:.2f} of the sum's norm, cat by {off['cat']:.2f}"
    print(f"weights {a} and {b}: {said}")
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/try.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "peft no longer does what is stated here" >&2
    exit 1
fi
