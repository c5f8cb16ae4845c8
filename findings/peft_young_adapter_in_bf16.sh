#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.19.0, torch 2.13.0): merging an adapter that was trained for a few steps into bf16 weights
# writes almost nothing of it. peft keeps the adapter in fp32 beside a bf16 base, so the forward pass has the whole
# update; merge_adapter() and merge_and_unload() round base + delta to bf16, where a delta of less than half the last digit
# is gone. No warning is given, and unmerge_adapter() does not bring the base back.
#
# Programs that merge in order to hand the weights to a sampler therefore sample from the start model for the first steps
# of a run, and then from something in between. Below, AdamW steps at 1e-5 with rank 16 on all linear layers; "kept" is the
# projection of the written change on the adapter's delta, 1 if nothing is lost.
#
# Seen:
#   | 2 steps: adapter fp32, weights changed: under a tenth, kept: under 0.2, bases that differ after unmerging: all
#   | 50 steps: adapter fp32, weights changed: over half, kept: over 0.9, bases that differ after unmerging: all
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.19.0" "peft==0.21.2" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|transformers|peft|numpy)=='

cat >"$work/young_adapter.py" <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig

config = LlamaConfig(
    vocab_size=64, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
    initializer_range=0.05,
)
lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
tokens = torch.randint(3, 64, (8, 32), generator=torch.Generator().manual_seed(0))


def flat(matrices):
    return torch.cat([matrix.float().flatten() for matrix in matrices])


def trained(steps):
    torch.manual_seed(0)
    model = get_peft_model(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), lora)
    adapter = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(adapter, lr=1e-5, weight_decay=0.0)
    for _ in range(steps):
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, "fp32" if {weight.dtype for weight in adapter} == {torch.float32} else "not fp32"


for steps in (2, 50):
    model, dtype = trained(steps)
    layers = [module for module in model.modules() if hasattr(module, "get_delta_weight")]
    before = [layer.base_layer.weight.detach().clone() for layer in layers]
    delta = flat(layer.get_delta_weight("default").detach() for layer in layers)
    model.merge_adapter()
    written = flat(layer.base_layer.weight.detach() for layer in layers) - flat(before)
    share, kept = float((written != 0).float().mean()), float(written @ delta / (delta @ delta))
    model.unmerge_adapter()
    differ = sum(not torch.equal(layer.base_layer.weight, old) for layer, old in zip(layers, before))
    changed = "under a tenth" if share < 0.1 else "over half" if share > 0.5 else f"{share:.2f}"
    kept = "under 0.2" if kept < 0.2 else "over 0.9" if kept > 0.9 else f"{kept:.2f}"
    print(f"{steps} steps: adapter {dtype}, weights changed: {changed}, kept: {kept}, ", end="")
    print(f"bases that differ after unmerging: {'all' if differ == len(layers) else differ}")
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/young_adapter.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "peft no longer does what is stated here" >&2
    exit 1
fi
