#!/usr/bin/env bash
# peft 0.21.2 (transformers 5.19.0): target_modules "all-linear" on a mixture of experts adapts the experts and the router
# of some architectures and leaves both out in others. Nothing says which: with qwen3_moe and mixtral most of the trained
# parameters are the experts', with gpt_oss and qwen2_moe the routed experts stay as they were, without a warning.
#
# Since transformers 5 all experts of a layer are one parameter, not linear layers. peft has a table of architectures whose
# expert parameters it adds to "all-linear"; for the others only linear layers count.
#
# Seen:
#   | qwen3_moe: experts yes, router yes, warnings: 0
#   | mixtral: experts yes, router yes, warnings: 0
#   | gpt_oss: experts no, router no, warnings: 0
#   | qwen2_moe: experts no, router no, warnings: 0
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.19.0" "peft==0.21.2" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|transformers|peft|numpy)=='

cat >"$work/experts.py" <<'PYTHON'
import warnings

from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

SIZE = {
    "vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16,
}


def adapted(kind, targets, **settings):
    """The names, within a layer, of what has an adapter."""
    config = AutoConfig.for_model(kind, **SIZE, **settings)
    lora = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_config(config), lora)
    names = [name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name]
    return sorted({name.partition("layers.")[2].partition(".")[2] for name in names})


FEW = {"moe_intermediate_size": 16, "num_experts_per_tok": 2}
KINDS = {
    "qwen3_moe": FEW | {"num_experts": 4},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": FEW | {"num_experts": 4, "shared_expert_intermediate_size": 16},
}
for kind, settings in KINDS.items():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        names = adapted(kind, "all-linear", **settings)
    said = sum("all-linear" in str(one.message) or "not adapted" in str(one.message) for one in caught)
    experts = "yes" if any(name.startswith("mlp.experts") for name in names) else "no"
    router = "yes" if any(name in ("mlp.gate", "mlp.router") for name in names) else "no"
    print(f"{kind}: experts {experts}, router {router}, warnings: {said}")
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/experts.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "peft no longer does what is stated here" >&2
    exit 1
fi
