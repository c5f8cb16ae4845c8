"""Broken recipes, rows and command lines are accepted or refused in words: some dozens of those of scripts/fuzz.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "scripts"))

import fuzz
from fuzz_inputs import case

SLOW = {4, 21, 33}
"""These check two stages with many rows, and take seconds each."""
SEEDS = [seed for seed in range(36) if seed not in SLOW]


@pytest.fixture(scope="module")
def ready():
    with fuzz.ready():
        yield


def test_broken_inputs_are_accepted_or_refused_in_words(ready):
    outcomes = {seed: fuzz.run(case(seed)) for seed in SEEDS}
    failed = {seed: f"{outcome.fault}: {outcome.err}" for seed, outcome in outcomes.items() if outcome.fault}
    assert not failed, f"python scripts/fuzz.py --first {next(iter(failed))} --count 1"
    assert {outcome.code for outcome in outcomes.values()} == {0, 2}


@pytest.mark.parametrize(
    ("code", "out", "err", "fault"),
    [
        (0, "", "", None),
        (2, "", "llmrl: a: wrong\nllmrl: b: wrong\n", None),
        (1, "", "llmrl: nothing to train on\n", None),
        (1, "", "llmrl: unexpected KeyError\n", "exit code 1"),
        (None, "", "still running after 90 s", "exit code None"),
        (0, "Traceback (most recent call last)", "", "a traceback"),
        (2, "", "", "a refusal that does not begin with llmrl:"),
        (2, "", "KeyError: 'a'\n", "a refusal that does not begin with llmrl:"),
        (2, "", f"llmrl: {'x' * 3000}\n", "a line too long to read"),
    ],
)
def test_what_counts_as_readable(code, out, err, fault):
    assert fuzz.Outcome(code, out, err, 0.1).fault == fault
