#!/usr/bin/env bash
# transformers 5.19.0: a token classifier, the form in which reward models of steps are kept, trains with a dropout of 0.1
# before its head, whatever the config of its language model says: the architectures below have no dropout layer at all as
# language models or as sequence classifiers, and two passes in training mode agree. As token classifiers two passes differ.
# A reward model of steps that is trained as a language model would be learns from noisy scores; `classifier_dropout=0.0`
# in the config turns that off.
#
# Seen:
#   | llama CausalLM: no dropout layer, two passes agree
#   | llama SequenceClassification: no dropout layer, two passes agree
#   | llama TokenClassification: dropout of 0.1, two passes differ
#   | llama TokenClassification with classifier_dropout=0.0: dropout of 0.0, two passes agree
#   | qwen3 CausalLM: no dropout layer, two passes agree
#   | qwen3 SequenceClassification: no dropout layer, two passes agree
#   | qwen3 TokenClassification: dropout of 0.1, two passes differ
#   | qwen3 TokenClassification with classifier_dropout=0.0: dropout of 0.0, two passes agree
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.19.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|transformers|numpy)=='

cat >"$work/try.py" <<'PYTHON'
import torch
import transformers
from transformers import AutoConfig

SHAPE = {
    "vocab_size": 32, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "num_labels": 1, "pad_token_id": 0, "attention_dropout": 0.0,
}
text = torch.tensor([[5, 6, 7, 2]])


def told(kind, form, **more):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE, **more)
    model = getattr(transformers, f"AutoModelFor{form}").from_config(config).train()
    rates = [module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    agree = torch.equal(model(text).logits, model(text).logits)
    said = f"dropout of {rates[0]}" if rates else "no dropout layer"
    name = " with ".join([form, *(f"{key}={value}" for key, value in more.items())])
    print(f"{kind} {name}: {said}, two passes {'agree' if agree else 'differ'}")


for kind in ("llama", "qwen3"):
    for form in ("CausalLM", "SequenceClassification", "TokenClassification"):
        told(kind, form)
    told(kind, "TokenClassification", classifier_dropout=0.0)
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/try.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "transformers no longer does what is stated here" >&2
    exit 1
fi
