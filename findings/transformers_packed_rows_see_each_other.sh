#!/usr/bin/env bash
# transformers 5.19.0: rows that are packed into one, with position_ids that start anew at each row, stay apart in models
# of plain attention alone. The forward methods of models with alibi, with a state space and with linear attention take
# the same position_ids without an error or a warning, and the second row then reads the first.
#
# Padding-free training packs rows like that. Below, two rows of 7 and 6 random tokens in tiny random models on a CPU: how
# far the second row's log-probabilities are, packed, from those of the same row alone.
#
# Seen:
#   | llama: kept apart
#   | falcon with alibi: off by over 1e-3, warnings about packing: 0
#   | mamba: off by over 1e-3, warnings about packing: 0
#   | qwen3_next: off by over 1e-3, warnings about packing: 0
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.19.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|transformers|numpy)=='

cat >"$work/packed.py" <<'PYTHON'
import logging

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZE = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 64, "head_dim": 16}
EXPERTS = {
    "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32,
}
LINEAR = {
    "linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
MODELS = {
    "llama": ("llama", HEADS),
    "falcon with alibi": (
        "falcon",
        {"num_attention_heads": 2, "alibi": True, "new_decoder_architecture": False, "multi_query": False},
    ),
    "mamba": ("mamba", {"state_size": 8, "time_step_rank": 4}),
    "qwen3_next": ("qwen3_next", HEADS | EXPERTS | LINEAR),
}
said = []
logging.getLogger("transformers").addHandler(type("Kept", (logging.Handler,), {"emit": lambda _, r: said.append(r)})())
first, second = (torch.randint(3, 32, (1, n), generator=torch.Generator().manual_seed(n)) for n in (7, 6))
positions = torch.cat([torch.arange(7), torch.arange(6)])[None]

for name, (kind, settings) in MODELS.items():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZE, **settings)).eval()
    said.clear()
    with torch.no_grad():
        packed = model(torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits[:, 7:]
        alone = model(second, use_cache=False).logits
    off = float((packed.log_softmax(-1) - alone.log_softmax(-1)).abs().max())
    about = sum(any(word in record.getMessage() for word in ("pack", "position_ids")) for record in said)
    print(f"{name}: " + (f"off by over 1e-3, warnings about packing: {about}" if off > 1e-3 else "kept apart"))
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/packed.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "transformers no longer does what is stated here" >&2
    exit 1
fi
