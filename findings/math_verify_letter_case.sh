#!/usr/bin/env bash
# math-verify 0.9.0 (latex2sympy2_extended 1.11.0): letters lose their case when they are parsed, so a formula with two
# quantities that differ in case only (R and r, M and m, V and v, \Omega and \omega) is read as if they were one.
#
# They then cancel: \frac{R}{r} is 1. A reward made of parse() and verify() pays such wrong formulas as right ones, and
# no argument of either tells the letters apart; strict=True, under which "variables matter", is the default here.
# The setting that keeps the case, lowercase_symbols of latex2sympy2_extended, is not among what parse() takes.
#
# Seen, the gold first, both between dollar signs:
#   | \pi R^2 (parsed: pi*r**2) equals \pi r^2: True
#   | \frac{R}{r} (parsed: r/r) equals 1: True
#   | \frac{GMm}{R} (parsed: (g*m*m)/r) equals \frac{GMm}{r}: True
#   | \frac{Mm}{M+m} (parsed: (m*m)/(m + m)) equals \frac{m}{2}: True
#   | \frac{R}{R+r} (parsed: r/(r + r)) equals \frac{1}{2}: True
#   | \Omega (parsed: omega) equals \omega: True
#   | \frac{R}{s} (parsed: r/s) equals \frac{r}{t}: False
#   | latex2sympy of \frac{R}{r} with lowercase_symbols=False: R/r
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "math-verify==0.9.0" "latex2sympy2_extended==1.11.0" "sympy==1.14.0"
"$work/venv/bin/pip" freeze | grep -E '^(math-verify|latex2sympy2_extended|sympy)=='

cat >"$work/letters.py" <<'PYTHON'
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import parse, verify

PAIRS = [
    (r"\pi R^2", r"\pi r^2"),
    (r"\frac{R}{r}", "1"),
    (r"\frac{GMm}{R}", r"\frac{GMm}{r}"),
    (r"\frac{Mm}{M+m}", r"\frac{m}{2}"),
    (r"\frac{R}{R+r}", r"\frac{1}{2}"),
    (r"\Omega", r"\omega"),
    (r"\frac{R}{s}", r"\frac{r}{t}"),
]
for gold, answer in PAIRS:
    parsed = parse(f"${gold}$")
    print(f"{gold} (parsed: {parsed[0]}) equals {answer}: {verify(parsed, parse(f'${answer}$'))}")
kept = latex2sympy(r"\frac{R}{r}", conversion_config=ConversionConfig(lowercase_symbols=False))
print(r"latex2sympy of \frac{R}{r} with lowercase_symbols=False:", kept)
PYTHON

timeout 300 "$work/venv/bin/python" "$work/letters.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "math-verify no longer does what is stated here" >&2
    exit 1
fi
