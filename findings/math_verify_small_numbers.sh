#!/usr/bin/env bash
# math-verify 0.9.0 (latex2sympy2_extended 1.11.0): any two numbers below about 1e-16 are equal, whatever their size and
# sign, unless one of them is written as a plain number: a product with a power of ten, as physics writes it, is not.
#
# verify() takes the difference of both sides, evaluates it to numeric_precision=15 digits with sympy's chop, and chop
# makes 0 of what is small in itself, not beside the two numbers. So the charge and the mass of the electron are equal,
# and so are probabilities near 1. Against the plain 0 the comparison is exact, which hides it. A higher
# numeric_precision (its docstring advises one for small values) only moves the limit.
#
# Seen, the gold first, both between dollar signs:
#   | 2^{-60} = -2^{-60}: True, with numeric_precision=50: False
#   | 1.6\times10^{-19} = 9.1\times10^{-31}: True, with numeric_precision=50: False
#   | \frac{1}{20!} = \frac{1}{19!}: True, with numeric_precision=50: False
#   | e^{-40} = e^{-41}: True, with numeric_precision=50: False
#   | 1-2^{-60} = 1-2^{-61}: True, with numeric_precision=50: False
#   | \frac{1}{52!} = \frac{1}{51!}: True, with numeric_precision=50: True
#   | 2^{-60} = 0: False, with numeric_precision=50: False
#   | 10^{-16} = 2\cdot10^{-16}: False, with numeric_precision=50: False
#   | 10^{-17} = 2\cdot10^{-17}: True, with numeric_precision=50: False
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "math-verify==0.9.0" "latex2sympy2_extended==1.11.0" "sympy==1.14.0"
"$work/venv/bin/pip" freeze | grep -E '^(math-verify|latex2sympy2_extended|sympy)=='

cat >"$work/small.py" <<'PYTHON'
from math_verify import parse, verify

PAIRS = [
    ("2^{-60}", "-2^{-60}"),
    (r"1.6\times10^{-19}", r"9.1\times10^{-31}"),
    (r"\frac{1}{20!}", r"\frac{1}{19!}"),
    ("e^{-40}", "e^{-41}"),
    ("1-2^{-60}", "1-2^{-61}"),
    (r"\frac{1}{52!}", r"\frac{1}{51!}"),
    ("2^{-60}", "0"),
    ("10^{-16}", r"2\cdot10^{-16}"),
    ("10^{-17}", r"2\cdot10^{-17}"),
]
for gold, answer in PAIRS:
    both = parse(f"${gold}$"), parse(f"${answer}$")
    precise = verify(*both, numeric_precision=50)
    print(f"{gold} = {answer}: {verify(*both)}, with numeric_precision=50: {precise}")
PYTHON

timeout 300 "$work/venv/bin/python" "$work/small.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "math-verify no longer does what is stated here" >&2
    exit 1
fi
