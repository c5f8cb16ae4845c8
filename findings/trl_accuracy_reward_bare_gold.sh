#!/usr/bin/env bash
# trl 1.16.0 (math-verify 0.9.0, torch 2.13.0; the CPU build is enough): accuracy_reward pays 1.0 for a wrong answer
# and 0.0 for the exact one where the gold is LaTeX without dollar signs, as its own docstring writes golds.
#
# It reads the gold with math-verify's parse() at its defaults. Outside dollars or a box that knows little LaTeX
# (\frac{1}{3} it does, so the docstring's example works), and then takes a plain number found in the text: 2x is 2,
# 10^{5} is 10, 1,2 is 1.2. The completion is read as LaTeX, so \boxed{2x} is 2x and unequal. Where no number is found
# the reward is None, and the row is skipped. Dollars around the gold help, but not where the LaTeX in them cannot be
# read: then too a number is taken from it, and pays beside the exact text.
#
# Seen:
#   | gold \frac{1}{3} is read as 1/3: \boxed{\frac{1}{3}} gets 1.0, \boxed{3} gets 0.0
#   | gold 2x is read as 2: \boxed{2x} gets 0.0, \boxed{2} gets 1.0
#   | gold 2\sqrt{3} is read as 2: \boxed{2\sqrt{3}} gets 0.0, \boxed{2} gets 1.0
#   | gold 10^{5} is read as 10: \boxed{10^{5}} gets 0.0, \boxed{10} gets 1.0
#   | gold 1,2 is read as 1.2: \boxed{1,2} gets 0.0, \boxed{1.2} gets 1.0
#   | gold (1,2) is read as nothing: \boxed{(1,2)} gets None, \boxed{7} gets None
#   | gold x+1 is read as nothing: \boxed{x+1} gets None, \boxed{7} gets None
#   | gold $2x$ is read as 2*x: \boxed{2x} gets 1.0, \boxed{2} gets 0.0
#   | gold $0.\overline{3}$ is read as 0: \boxed{\frac{1}{3}} gets 0.0, \boxed{0} gets 1.0
#   | gold $\langle 1,2\rangle$ is read as 1.2: \boxed{\langle 1,2\rangle} gets 1.0, \boxed{1.2} gets 1.0
#   | gold $x\equiv 3\pmod 7$ is read as 7: \boxed{x\equiv 3\pmod 7} gets 1.0, \boxed{7} gets 1.0
#
# Exits with 1 if that has changed.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "trl==1.16.0" "transformers==5.24.0" "numpy==2.3.5" \
    "math-verify==0.9.0" "latex2sympy2_extended==1.11.0" "sympy==1.14.0"
"$work/venv/bin/pip" freeze | grep -E '^(torch|trl|transformers|math-verify|latex2sympy2_extended|sympy)=='

cat >"$work/golds.py" <<'PYTHON'
from math_verify import parse
from trl.rewards import accuracy_reward

GOLDS = [  # a gold, a right answer, a wrong one
    (r"\frac{1}{3}", r"\frac{1}{3}", "3"),
    ("2x", "2x", "2"),
    (r"2\sqrt{3}", r"2\sqrt{3}", "2"),
    ("10^{5}", "10^{5}", "10"),
    ("1,2", "1,2", "1.2"),
    ("(1,2)", "(1,2)", "7"),
    ("x+1", "x+1", "7"),
    ("$2x$", "2x", "2"),
    (r"$0.\overline{3}$", r"\frac{1}{3}", "0"),
    (r"$\langle 1,2\rangle$", r"\langle 1,2\rangle", "1.2"),
    (r"$x\equiv 3\pmod 7$", r"x\equiv 3\pmod 7", "7"),
]


def rewarded(answer, gold):
    completion = [{"role": "assistant", "content": rf"The answer is \boxed{{{answer}}}."}]
    return rf"\boxed{{{answer}}} gets {accuracy_reward([completion], [gold])[0]}"


for gold, right, wrong in GOLDS:
    parsed = parse(gold)
    number = parsed[0] if parsed else "nothing"
    number = f"{float(number):g}" if "." in str(number) else number
    print(f"gold {gold} is read as {number}: {rewarded(right, gold)}, {rewarded(wrong, gold)}")
PYTHON

export CUDA_VISIBLE_DEVICES="" HF_HUB_OFFLINE=1 HF_HOME=$work/nothing_here
timeout 300 "$work/venv/bin/python" "$work/golds.py" | tee "$work/seen"

if ! diff <(sed -n 's/^#   | //p' "$0") "$work/seen"; then
    echo "trl no longer does what is stated here" >&2
    exit 1
fi
