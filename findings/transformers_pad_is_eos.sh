#!/usr/bin/env bash
# transformers 5.19.0: where a config's pad_token_id is its eos_token_id, the input embedding of the end-of-turn token is
# never trained. The models give pad_token_id to their nn.Embedding as padding_idx; such a row starts at zero in a fresh
# model and its gradient is zero, wherever in a sequence its token stands and whatever the attention mask says.
#
# A padding token that is the end-of-sequence token is what tutorials set where a tokenizer has no padding token
# (tokenizer.pad_token = tokenizer.eos_token), and what published folders hold. In a chat that token closes every turn, so
# a later turn reads it: here a conversation of two turns, without any padding, with a loss on the second answer.
#
# Seen:
#   | Qwen3Config pad 0: eos row of length 0.11, gradient of the eos row: yes, of a word's row: yes
#   | Qwen3Config pad = eos: eos row of length 0.00, gradient of the eos row: no, of a word's row: yes
#   | LlamaConfig pad 0: eos row of length 0.11, gradient of the eos row: yes, of a word's row: yes
#   | LlamaConfig pad = eos: eos row of length 0.00, gradient of the eos row: no, of a word's row: yes
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.19.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|transformers|numpy)=='

cat >"$work/pad_is_eos.py" <<'PYTHON'
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

SIZE = {
    "vocab_size": 16, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": False,
}
EOS, WORD, USER = 1, 4, 5
tokens = torch.tensor([[3, WORD, EOS, USER, 6, EOS, 7, 8]])
labels = tokens.clone()
labels[:, :6] = -100


def learns(weight, token):
    return "yes" if weight.grad[token].norm() > 0 else "no"


for kind in (Qwen3Config, LlamaConfig):
    for pad, said in ((0, "pad 0"), (EOS, "pad = eos")):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(kind(**SIZE, pad_token_id=pad, eos_token_id=EOS))
        weight = model.get_input_embeddings().weight
        length = weight[EOS].norm().item()
        model(input_ids=tokens, attention_mask=torch.ones_like(tokens), labels=labels).loss.backward()
        eos, word = learns(weight, EOS), learns(weight, WORD)
        print(f"{kind.__name__} {said}: eos row of length {length:.2f}, ", end="")
        print(f"gradient of the eos row: {eos}, of a word's row: {word}")
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/pad_is_eos.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "transformers no longer does what is stated here" >&2
    exit 1
fi
