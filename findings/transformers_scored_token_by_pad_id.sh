#!/usr/bin/env bash
# transformers 5.19.0: a sequence classifier, the form in which reward models are kept, picks the token that it scores by
# the config's pad_token_id and not by the attention mask. A text that ends with the padding token, as every text does
# where the padding token is the end-of-sequence token, is scored one token early: its end is never read, and a text with
# its end and the same text without it get one score. The mask that says otherwise changes nothing.
#
# Seen:
#   | pad 0: of the text 5 6 7 eos token 3 is scored
#   | pad = eos: of the text 5 6 7 eos token 2 is scored
#   | pad = eos, a mask whose last two tokens are 0: of the text 5 6 7 eos token 2 is scored
#   | pad = eos: of the text eos eos eos eos token 0 is scored
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
from transformers import LlamaConfig, LlamaForSequenceClassification

EOS = 2
torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=32, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_labels=1,
    pad_token_id=0, eos_token_id=EOS,
)
model = LlamaForSequenceClassification(config).eval()
text = [5, 6, 7, EOS]


@torch.no_grad()
def scored(said, token_ids, mask=(1, 1, 1, 1)):
    given = {"attention_mask": torch.tensor([mask])}
    ids = torch.tensor([token_ids])
    each = model.score(model.model(ids, **given).last_hidden_state)[0, :, 0]
    at = int((each - model(ids, **given).logits).abs().argmin())
    print(f"{said}: of the text {' '.join('eos' if i == EOS else str(i) for i in token_ids)} token {at} is scored")


for pad, said in ((0, "pad 0"), (EOS, "pad = eos")):
    model.config.pad_token_id = pad
    scored(said, text)
scored("pad = eos, a mask whose last two tokens are 0", text, (1, 1, 0, 0))
scored("pad = eos", [EOS] * 4)
PYTHON

export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
timeout 300 "$work/venv/bin/python" "$work/try.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "transformers no longer does what is stated here" >&2
    exit 1
fi
