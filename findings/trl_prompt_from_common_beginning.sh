#!/usr/bin/env bash
# trl 1.16.0: a preference row of plain texts without a prompt column gets one: all that the chosen and the rejected text
# begin with in common, character by character. It ends inside words and numbers, so the pair that the model learns from
# begins with pieces of words that it would never be asked to continue, the words before them are not learned as part of
# the better answer, and how long the prompt is depends on how alike the two answers are. Texts that were complete answers
# to no prompt at all are treated in the same way. Nothing is said. Messages (lists of role and content) are cut at a
# message, never inside one.
#
# Seen:
#   | 'The capital of France is Paris.' over 'The capital of France is Prague.'
#   |     prompt 'The capital of France is P', chosen 'aris.', rejected 'rague.'
#   | '1230' over '1240'
#   |     prompt '12', chosen '30', rejected '40'
#   | 'Yes, sure.' over 'Yes, no.'
#   |     prompt 'Yes,', chosen ' sure.', rejected ' no.'
#   | 'Berlin' over 'Paris'
#   |     prompt '', chosen 'Berlin', rejected 'Paris'
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "trl==1.16.0" "transformers==5.24.0" "numpy==2.3.5"
"$work/venv/bin/pip" freeze | grep -E '^(torch|trl|transformers|numpy)=='

cat >"$work/try.py" <<'PYTHON'
from trl import maybe_extract_prompt

PAIRS = [
    ("The capital of France is Paris.", "The capital of France is Prague."),
    ("1230", "1240"),
    ("Yes, sure.", "Yes, no."),
    ("Berlin", "Paris"),
]
for chosen, rejected in PAIRS:
    row = maybe_extract_prompt({"chosen": chosen, "rejected": rejected})
    print(f"{chosen!r} over {rejected!r}")
    print(f"    prompt {row['prompt']!r}, chosen {row['chosen']!r}, rejected {row['rejected']!r}")
PYTHON

export CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1 HF_HOME=$work/nothing_here
timeout 300 "$work/venv/bin/python" "$work/try.py" 2>"$work/said" | tee "$work/seen"
if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    cat "$work/said" >&2
    echo "trl no longer does what is stated here" >&2
    exit 1
fi
