"""Warnings of a run: what is wrong is said once, and a run that learns is left in peace."""

from __future__ import annotations

import pytest

from llmrl.run.warnings import Watch, warnings_of

HEALTHY = {"reward": 0.5, "groups_kept": 4.0, "trajectories": 32.0}


def rows_of(stage: str = "rl", **series: list[float]) -> list[dict]:
    """A row per value; `eval_accuracy` stands for eval/accuracy."""
    length = max(map(len, series.values()))
    rows = [{"stage": stage, "step": step, **HEALTHY} for step in range(1, length + 1)]
    for name, values in series.items():
        for row, value in zip(rows, values, strict=False):
            row[name.replace("eval_", "eval/")] = value
    return rows


@pytest.mark.parametrize(
    ("name", "values", "step"),
    [
        ("truncated", [0.0, 0.4, 0.4, 0.4, 0.4], 4),  # in three rows in a row, then once
        ("groups_mixed", [0.1, 0.0, 0.0, 0.0, 0.0, 0.0], 6),
        ("entropy", [1.0, 0.009, 0.009, 0.009, 0.009, 0.009], 6),
        ("grad_norm", [0.0, 0.0, 0.0], 3),
        ("mismatch_mean", [0.2, 0.2, 0.2], 3),
        ("kl_k3", [0.1, 0.2, 0.19, 1.01], 4),  # over 5 times 0.2
        ("accuracy", [0.4, 0.19, 0.19, 0.19, 0.19, 0.19], 6),
        ("eval_accuracy", [0.5, 0.39, 0.39], 3),
        ("returns_outside", [0.1, 0.1, 0.1], 3),
    ],
)
def test_a_value_outside_its_range_is_said_once(name, values, step):
    [warning] = warnings_of(rows_of(**{name: values}))
    name = name.replace("eval_", "eval/")
    assert warning.startswith(f"warning: {name} ") and f"after step {step} of rl (healthy: " in warning


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("truncated", [0.9, 0.9, 0.3, 0.9, 0.9]),  # never three in a row
        ("groups_mixed", [0.0, 0.0, 0.0, 0.0, 0.01]),
        ("entropy", [2.0, 0.3, 0.1, 0.02, 0.02, 0.02, 0.02]),
        ("kl_k3", [0.0, 1e-7, 1e-3, 0.05, 0.29, 1.4]),  # from nothing to 0.3 is no jump, and then fewer than 5 times
        ("kl_k3", [7.0]),
        ("accuracy", [0.4, 0.2, 0.2, 0.2, 0.2, 0.2]),
        ("accuracy", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("eval_accuracy", [0.5, 0.39, 0.4]),
        ("grad_norm", [0.0, 0.0, 1e-6]),
        ("failures", [3.0]),  # failures/<source>/<kind> says whose
    ],
)
def test_a_value_that_may_pass_is_no_warning(name, values):
    assert warnings_of(rows_of(**{name: values})) == []


def test_a_failure_is_said_for_each_source():
    rows = rows_of(
        **{"failures/judge/timeout": [2.0, 1.0], "failures/environment/crash": [1.0], "eval_failures": [1.0]}
    )
    found = warnings_of(rows)
    assert [warning.split()[1:3] for warning in found] == [
        ["failures/judge/timeout", "2"],
        ["failures/environment/crash", "1"],
        ["eval/failures", "1"],
    ]


def test_groups_of_one_are_never_mixed():
    rows = [row | {"trajectories": 4.0, "groups_mixed": 0.0} for row in rows_of(reward=[0.0] * 6)]
    assert warnings_of(rows) == []


def test_imitation_may_be_certain():
    rows = [{"stage": "sft", "step": step, "entropy": 0.001} for step in range(1, 9)]
    assert warnings_of(rows) == []


def test_a_stage_is_compared_with_itself():
    first, second = rows_of("sft", eval_accuracy=[0.9]), rows_of("rl", eval_accuracy=[0.3, 0.3, 0.3])
    assert warnings_of(first + second) == []
    assert len(warnings_of(rows_of("rl", eval_accuracy=[0.9, 0.3, 0.3]))) == 1


def test_every_role_is_watched_by_its_own_metrics():
    rows = [{"step": step, "critiquer/reward": 0.5, "critiquer/entropy": 0.001} for step in range(1, 6)]
    [warning] = warnings_of(rows, roles=["critiquer"])
    assert warning.startswith("warning: critiquer/entropy 0.001 after step 5 (healthy: falls slowly). ")
    assert warnings_of(rows) == []  # a name that nobody knows


def test_rows_are_seen_as_they_come():
    watch = Watch()
    assert [len(watch.see(row)) for row in rows_of(grad_norm=[0.0] * 4)] == [0, 0, 1, 0]
