#!/usr/bin/env bash
# peft 0.21.2: a name in LoraConfig's target_modules that no layer has is passed over as long as another name matches.
# There is no error and no warning; the adapter is smaller than was asked for. Only if no name at all matches is there a
# ValueError.
#
# Seen:
#   | ['q_proj', 'v_proj']: self_attn.q_proj, self_attn.v_proj; warnings: 0
#   | ['q_proj', 'v_porj']: self_attn.q_proj; warnings: 0
#   | ['q_porj', 'v_porj']: ValueError
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.19.0" "peft==0.21.2" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|transformers|peft|numpy)=='

cat >"$work/misspelt.py" <<'PYTHON'
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


for targets in (["q_proj", "v_proj"], ["q_proj", "v_porj"], ["q_porj", "v_porj"]):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = ", ".join(adapted("llama", targets)) + f"; warnings: {len(caught)}"
        except ValueError:
            found = "ValueError"
    print(f"{targets}: {found}")
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/misspelt.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "peft no longer does what is stated here" >&2
    exit 1
fi
