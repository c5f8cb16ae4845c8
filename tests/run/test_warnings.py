"""Warnings of a run: what is wrong is said once, and a run that learns is left in peace."""

from __future__ import annotations

import random

import pytest

from llmrl.run.warnings import Watch, warnings_of

HEALTHY = {"reward": 0.5, "groups_sampled": 32.0, "groups_kept": 4.0, "trajectories": 32.0, "eval/prompts": 300.0}


def rows_of(stage: str = "rl", **series: list[float]) -> list[dict]:
    """A row per value; `eval_accuracy` stands for eval/accuracy."""
    length = max(map(len, series.values()))
    rows = [{"stage": stage, "step": step, **HEALTHY} for step in range(1, length + 1)]
    for name, values in series.items():
        for row, value in zip(rows, values, strict=False):
            row[name.replace("eval_", "eval/")] = value
    return rows


@pytest.mark.parametrize(
    ("name", "values", "since", "step"),
    [
        ("truncated", [0.0, 0.4, 0.4, 0.4, 0.4], 2, 4),  # in three rows in a row, then once
        ("groups_mixed", [0.1, 0.0, 0.04, 0.0, 0.0, 0.0], 2, 6),
        ("entropy", [1.0, 0.009, 0.009, 0.009, 0.009, 0.009], 2, 6),
        ("grad_norm", [0.0, 0.0, 0.0], 1, 3),
        ("mismatch_mean", [0.2, 0.2, 0.2], 1, 3),
        ("kl_k3", [0.1, 0.2, 0.19, 1.01], 4, 4),  # over 5 times 0.2
        # 0.4 in 5 rows, then 0.25: p = 0.325, and the difference is 4.0 standard errors with 5 x 32 groups in a window
        ("accuracy", [0.4] * 5 + [0.25] * 5, 6, 10),
        ("accuracy", [0.5, 0.991, 0.991, 0.991, 0.991, 0.991], 2, 6),  # solved
        # 300 prompts: p = 0.45, 2.5 sqrt(2 x 0.45 x 0.55 / 300) = 0.1016
        ("eval_accuracy", [0.5, 0.395], 2, 2),
        ("returns_outside", [0.1, 0.1, 0.1], 1, 3),
    ],
)
def test_a_trouble_is_said_once_with_its_beginning_and_advice(name, values, since, step):
    [warning] = warnings_of(rows_of(**{name: values}))
    assert (warning.metric, warning.stage, warning.since, warning.step) == (
        name.replace("eval_", "eval/"), "rl", since, step
    )  # fmt: skip
    assert warning.value == values[step - 1]
    place = f" at step {step} of rl" + (f", since step {since}" if since < step else "") + " (healthy: "
    assert place in warning.message and warning.message.endswith(".")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("truncated", [0.9, 0.9, 0.3, 0.9, 0.9]),  # never three in a row
        ("groups_mixed", [0.0, 0.0, 0.0, 0.0, 0.06]),
        ("entropy", [2.0, 0.3, 0.1, 0.02, 0.02, 0.02, 0.02]),
        ("kl_k3", [0.0, 1e-7, 1e-3, 0.05, 0.29, 1.4]),  # from nothing to 0.3 is no jump, and then fewer than 5 times
        ("kl_k3", [7.0]),
        ("accuracy", [0.4] * 5 + [0.32] * 5),  # p = 0.36: 0.08 is less than 2.5 sqrt(2 x 0.36 x 0.64 / 160) = 0.134
        ("accuracy", [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
        ("eval_accuracy", [0.5, 0.4]),
        ("eval_accuracy", [0.0, 0.0, 0.2]),
        ("grad_norm", [0.0, 0.0, 1e-6]),
        ("failures", [3.0]),  # failures/<source>/<kind> says whose
    ],
)
def test_a_value_that_may_pass_is_no_warning(name, values):
    assert warnings_of(rows_of(**{name: values})) == []


def test_few_held_out_prompts_have_to_fall_further():
    rows = [row | {"eval/prompts": 20.0} for row in rows_of(eval_accuracy=[0.5, 0.2])]
    assert warnings_of(rows) == []  # p = 0.35: 2.5 sqrt(2 x 0.35 x 0.65 / 20) = 0.377


def test_a_run_that_learns_to_the_end_is_told_only_that_it_is_done():
    """Entropy that falls early, groups that agree once the task is nearly solved, and sampling noise, are healthy."""
    draw = random.Random(0)
    rows = []
    for step in range(1, 101):
        share = min(0.98, 0.1 + 0.012 * step)
        mixed = sum(0 < sum(draw.random() < share for _ in range(8)) < 8 for _ in range(32)) / 32
        right = sum(draw.random() < share for _ in range(256)) / 256
        made = {
            "accuracy": right,
            "groups_mixed": mixed,
            "entropy": max(0.02, 2.0 * 0.6**step),
            "grad_norm": 0.3 * mixed,
        }
        rows.append({"stage": "rl", "step": step, **HEALTHY, "trajectories": 256.0, **made, "kl_k3": 0.002 * step})
    assert warnings_of(rows) == []
    solved = [row | {"accuracy": 1.0, "groups_mixed": 0.0, "entropy": 1e-4, "grad_norm": 0.0} for row in rows[:6]]
    after = [row | {"step": 100 + row["step"]} for row in solved]
    assert [warning.message.partition(":")[0] for warning in warnings_of(rows + after)] == [
        "the task is solved, so nothing is left to learn"
    ]


def test_groups_that_always_fail_are_one_trouble_and_not_three():
    stuck = {"accuracy": [0.0] * 6, "groups_mixed": [0.0] * 6, "grad_norm": [0.0] * 6, "reward_std": [0.0] * 6}
    rows = [row | {"trajectories": 32.0} for row in rows_of(**stuck)]
    assert [warning.metric for warning in warnings_of(rows)] == ["groups_mixed"]
    # a gradient of 0 although outcomes differ is another trouble
    assert "grad_norm" in [warning.metric for warning in warnings_of([row | {"groups_mixed": 0.5} for row in rows])]


def test_single_samples_that_all_earn_the_same_are_told_by_their_rewards():
    alone = {"trajectories": 4.0, "groups_mixed": 0.0, "reward_std": 0.0}
    rows = [row | alone for row in rows_of(reward=[0.0] * 6)]
    assert [warning.metric for warning in warnings_of(rows)] == ["reward_std"]
    assert warnings_of([row | {"reward_std": 0.1} for row in rows]) == []


def test_a_failure_is_said_for_each_source():
    rows = rows_of(
        **{"failures/judge/timeout": [2.0, 1.0], "failures/environment/crash": [1.0], "eval_failures": [1.0]}
    )
    found = warnings_of(rows)
    assert [(warning.metric, warning.value) for warning in found] == [
        ("failures/judge/timeout", 2.0),
        ("failures/environment/crash", 1.0),
        ("eval/failures", 1.0),
    ]
    assert found[0].message.startswith("trajectories fail: failures/judge/timeout 2 at step 1 of rl (healthy: 0). ")


def test_imitation_may_be_certain_and_wrong():
    """A warm start samples nothing, and its first evaluations may all be 0."""
    rows = [{"stage": "sft", "step": s, "entropy": 0.001, "loss": 0.0, "eval/accuracy": 0.0} for s in range(1, 9)]
    assert warnings_of(rows) == []


def test_a_stage_is_compared_with_itself():
    first, second = rows_of("sft", eval_accuracy=[0.9]), rows_of("rl", eval_accuracy=[0.3, 0.3, 0.3])
    assert warnings_of(first + second) == []
    assert len(warnings_of(rows_of("rl", eval_accuracy=[0.9, 0.3, 0.3]))) == 1


def test_every_role_is_watched_by_its_own_metrics():
    rows = [{"step": step, "critiquer/reward": 0.5, "critiquer/entropy": 0.001} for step in range(1, 6)]
    [warning] = warnings_of(rows, roles=["critiquer"])
    told = "the entropy is gone: critiquer/entropy 0.001 at step 5, since step 1 (healthy: falls slowly). "
    assert warning.message.startswith(told)
    assert warnings_of(rows) == []  # a name that nobody knows


def test_rows_are_seen_as_they_come():
    watch = Watch()
    assert [len(watch.see(row)) for row in rows_of(grad_norm=[0.0] * 4)] == [0, 0, 1, 0]


def test_preferences_that_go_wrong_are_warned_of():
    def said(**values: float) -> list[str]:
        rows = [{"stage": "rl", "step": step, **values} for step in range(1, 8)]
        return [warned.metric for warned in warnings_of(rows)]

    assert said(chosen_log_ratios=-6.0, rejected_log_ratios=-9.0) == ["chosen_log_ratios"]
    assert said(chosen_log_ratios=-4.0, rejected_log_ratios=-9.0) == []
    assert said(preference_ties=1.0) == ["preference_ties"]
    assert warnings_of([{"stage": "rl", "step": 1, "preference_ties": 1.0}]) == []


def preferring(**series: list[float]) -> list[tuple[str, int]]:
    """The metrics that are warned of in rows with these values, each with its step; names with `eval_` are of eval/."""
    length = max(map(len, series.values()))
    rows: list[dict] = [{"stage": "rl", "step": step, "preference_accuracy": 0.6} for step in range(length)]
    for name, values in series.items():
        for row, value in zip(rows, values, strict=True):
            row[name.replace("eval_", "eval/")] = value
    return [(warned.metric, warned.step) for warned in warnings_of(rows)]


def test_held_out_preferences_that_go_wrong_are_warned_of():
    many, few = {"eval_pairs": [400.0] * 3}, {"eval_pairs": [40.0] * 3}
    # p = 0.65: 2.5 sqrt(2 x 0.65 x 0.35 / 400) = 0.084, and with 40 pairs 0.267
    assert preferring(eval_preference_accuracy=[0.7, 0.7, 0.6], **many) == [("eval/preference_accuracy", 2)]
    assert preferring(eval_preference_accuracy=[0.7, 0.7, 0.6], **few) == []
    assert preferring(eval_preference_ties=[1.0, 1.0, 1.0]) == [("eval/preference_ties", 2)]
    assert preferring(eval_preference_ties=[1.0, 0.0, 1.0]) == []  # before the first step they are ties
    for name, wrong, right in (("overconfidence", 0.2, 0.1), ("length_correlation", -0.7, 0.5)):
        values = {f"eval_{name}": [0.0, wrong, wrong]}
        assert preferring(**values, **many) == [(f"eval/{name}", 2)]
        assert preferring(**values, **few) == []
        assert preferring(**{f"eval_{name}": [0.0, wrong, right]}, **many) == []


def test_without_a_reference_chosen_completions_may_not_lose_half_a_nat_a_token():
    lengths = {"chosen_lengths": [10.0] * 5 + [20.0] * 5}
    falling = {"chosen_logprobs": [-10.0] * 5 + [-31.0] * 5}  # from 1 nat a token to 1.55
    assert preferring(**falling, **lengths) == [("chosen_logprobs", 9)]
    assert preferring(chosen_logprobs=[-10.0] * 5 + [-29.0] * 5, **lengths) == []  # to 1.45
    assert preferring(**falling, **lengths, chosen_log_ratios=[0.0] * 10) == []  # which says more


def test_preferences_that_make_answers_longer_are_warned_of():
    grows = [10.0] * 5 + [15.1] * 5
    assert preferring(eval_completion_tokens=[10.0, 14.9, 15.1]) == [("eval/completion_tokens", 2)]
    assert preferring(completion_tokens=grows, reward=[0.5] * 10) == [("completion_tokens", 9)]
    assert preferring(completion_tokens=grows) == []  # rows, not samples
    rows = [{"stage": "rl", "step": n, "eval/completion_tokens": 10.0 * n, "reward": 0.5} for n in range(1, 9)]
    assert warnings_of(rows) == []  # thoughts may grow


@pytest.mark.parametrize("role", ["", "critiquer/"])
def test_an_exploited_reward_is_named_with_a_way_out(role):
    errors = {f"{role}eval/audit_error/gold": 0.02, f"{role}eval/reward_error": 0.02}
    values = [(0.3, 0.0), (0.5, 0.4), (0.4, 0.7)]  # 2.5 sqrt(2) 0.02 = 0.07
    rows = [
        {"stage": "rl", "step": step, **HEALTHY, f"{role}eval/audit/gold": gold, f"{role}eval/reward": proxy, **errors}
        for step, (gold, proxy) in enumerate(values)
    ]
    [warning] = warnings_of(rows, roles=["critiquer"])
    assert (warning.metric, warning.since, warning.step) == (f"{role}eval/audit/gold", 1, 2)
    assert "falls while the reward that is trained on rises" in warning.message and "kl_k1" in warning.message
    assert warnings_of(rows[:2], roles=["critiquer"]) == []
