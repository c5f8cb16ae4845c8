#!/usr/bin/env bash
# math-verify 0.9.0 (latex2sympy2_extended 1.11.0): what stands behind a number and changes its value is dropped before
# the comparison: the base in its subscript, a unit, "million", a degree sign.
#
# So 101_2 equals 101_3 and 101 but not 5, which it is; centimetres equal metres, and seven million is seven. Wrong
# answers are paid and some right ones refused. Units are dropped by a setting (units=True of NormalizationConfig, on by
# default); with units=False they are parsed as names. The base and the degree sign are passed over then too, and
# parse() cannot ask for degrees: it calls the LaTeX reader with convert_degrees=False, so the sine is of 30 radians.
#
# Seen, the gold first, both between dollar signs:
#   | 2132_5 = 2132_7: True
#   | 101_2 = 101: True
#   | 101_2 = 5: False
#   | 5\text{ cm} = 5\text{ m}: True
#   | 3\text{ am} = 3\text{ pm}: True
#   | 100\text{ cm} = 1\text{ m}: False
#   | 7\text{ million} = 7\text{ billion}: True
#   | 7\text{ million} = 7000000: False
#   | \sin 30^\circ = \frac{1}{2}: False
#   | 5\text{ cm}, parsed with units=False: 5*cm
#   | 101_2, parsed with units=False: 101
#   | 30^\circ, parsed with units=False: 30
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "math-verify==0.9.0" "latex2sympy2_extended==1.11.0" "sympy==1.14.0"
"$work/venv/bin/pip" freeze | grep -E '^(math-verify|latex2sympy2_extended|sympy)=='

cat >"$work/behind.py" <<'PYTHON'
from dataclasses import replace

from math_verify import LatexExtractionConfig, parse, verify

PAIRS = [
    ("2132_5", "2132_7"),
    ("101_2", "101"),
    ("101_2", "5"),
    (r"5\text{ cm}", r"5\text{ m}"),
    (r"3\text{ am}", r"3\text{ pm}"),
    (r"100\text{ cm}", r"1\text{ m}"),
    (r"7\text{ million}", r"7\text{ billion}"),
    (r"7\text{ million}", "7000000"),
    (r"\sin 30^\circ", r"\frac{1}{2}"),
]
for gold, answer in PAIRS:
    print(f"{gold} = {answer}: {verify(parse(f'${gold}$'), parse(f'${answer}$'))}")
with_units = replace(LatexExtractionConfig().normalization_config, units=False)
for text in (r"5\text{ cm}", "101_2", r"30^\circ"):
    parsed = parse(f"${text}$", [LatexExtractionConfig(normalization_config=with_units)])
    print(f"{text}, parsed with units=False: {parsed[0]}")
PYTHON

timeout 300 "$work/venv/bin/python" "$work/behind.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "math-verify no longer does what is stated here" >&2
    exit 1
fi
