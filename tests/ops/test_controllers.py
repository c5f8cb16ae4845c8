from __future__ import annotations

import json
import math
import random

import pytest
import torch

from llmrl.ops import controllers
from llmrl.ops.controllers import (
    adaptive_kl,
    entropy_history,
    hypervolume,
    kl_gate,
    mean_log_ratio,
    reward_influence,
    value_scale,
)
from llmrl.pieces import catalogue

ALL = {
    "entropy_history": entropy_history,
    "mean_log_ratio": mean_log_ratio,
    "adaptive_kl": adaptive_kl,
    "kl_gate": kl_gate,
    "hypervolume": hypervolume,
    "reward_influence": reward_influence,
    "value_scale": value_scale,
}
METRICS = {
    "entropy": 1.0,
    "kl_k1": 0.9,
    "reward": 0.5,
    "trajectories": 64.0,
    "eval/accuracy": 0.4,
    "completion_log_ratios": -0.3,
}
FIELDS = {"reward_influence": [1.0, 3.0], "value_scale": [1.0, 3.0]}
"""The field that a controller reads besides, where it does; None stands for a step that did not measure it."""


def after(controller, *steps, **settings):
    state = {}
    for metrics in steps:
        state = controller(state, metrics, **settings)
    return state


def after_influences(*steps, **settings):
    state = {}
    for influence in steps:
        state = reward_influence(state, {}, influence, **settings)
    return state


@pytest.mark.parametrize("name", ALL)
def test_the_contract(name):
    def call(state, metrics, field=None):
        return ALL[name](state, metrics, *([field] if name in FIELDS else []))

    start = call({}, {})
    assert call(start, {}) == pytest.approx(start, nan_ok=True)
    state = call(start, METRICS, FIELDS.get(name))
    copy = dict(state)
    following = call(state, METRICS, FIELDS.get(name))
    assert state == copy, "the state that is given stays as it is"
    assert all(type(value) is float for value in following.values())
    assert json.loads(json.dumps(following)) == following
    broken, no_number = dict.fromkeys(METRICS, math.nan), [1.0, math.nan] if name in FIELDS else None
    assert call(following, broken, no_number) == following == call(following, {"unrelated": 1.0})
    assert set(catalogue(controllers)) == set(ALL)


def test_influences_may_come_as_a_tensor():
    state = reward_influence({}, {}, torch.tensor([math.log(3), 0.0], dtype=torch.float64), learning_rate=1.0, mu=1.0)
    assert state == reward_influence({}, {}, [math.log(3), 0.0], learning_rate=1.0, mu=1.0)
    assert all(type(value) is float for value in state.values())


def test_entropy_history_is_the_mean_of_past_steps():
    assert math.isnan(entropy_history({}, {})["value"])
    state = after(entropy_history, {"entropy": 1.0}, {"reward": 1.0}, {"entropy": 2.0}, {"entropy": 6.0})
    assert state == {"value": 3.0, "steps": 3.0}  # (1 + 2 + 6) / 3


def test_the_mean_log_ratio_counts_completions():
    steps = [{"completion_log_ratios": 3.0, "trajectories": 2.0}, {"completion_log_ratios": -1.0, "trajectories": 6.0}]
    assert mean_log_ratio({}, {})["value"] == 0
    assert after(mean_log_ratio, *steps) == {"value": 0.0, "completions": 8.0}  # (2 * 3 - 6 * 1) / 8


@pytest.mark.parametrize(
    ("kl", "coefficient"),
    [
        (3.0, 0.198976),  # 3/6 - 1 = -.5, clipped to -.2: .2 (1 - .2 * 256 / 10000)
        (12.0, 0.201024),
        (6.6, 0.200512),  # error .1
    ],
)
def test_adaptive_kl_by_hand(kl, coefficient):
    state = after(adaptive_kl, {"kl_k1": kl, "trajectories": 256.0}, target=6.0)
    assert 0.2 * state["value"] == pytest.approx(coefficient, abs=1e-6)


def test_adaptive_kl_finds_its_target():
    # a policy whose KL is 0.2 / coefficient: the factor settles where that is the target 0.1, at 2
    state = adaptive_kl({}, {})
    for _ in range(500):
        metrics = {"kl_k1": 0.2 / state["value"], "trajectories": 512.0}
        state = adaptive_kl(state, metrics)
    assert state["value"] == pytest.approx(2.0, rel=1e-3)


def test_kl_gate_by_hand():
    # kl = .1 * 9 = .9; limit = clip(.3 * 1.5, .1, .6) = .45; gate = 2 / (.9 + .1) = 2
    # value = 2 * .1 * (.9 - .45) * 2 = .18
    state = after(kl_gate, {"kl_k1": 9.0, "entropy": 0.9})
    assert state["value"] == pytest.approx(0.18)
    # high entropy: gate max(.5, 2 / 8) = .5; kl = .9 * .9 + .1 * 9 = 1.71: .2 * 1.26 * .5
    assert kl_gate(state, {"kl_k1": 9.0, "entropy": 7.9})["value"] == pytest.approx(0.126)
    assert after(kl_gate, {"kl_k1": 4.0})["value"] == 0  # .4 is under .45


def test_kl_gate_pid_by_hand():
    # rewards 0 then 2: the average rises by .05 * 2 = .1, e = .099
    # pid = .3 * .099 + .01 * .099 + .05 * .099 = .03564; limit = (.3 + .03564) * 1.5 = .50346
    state = after(kl_gate, {"reward": 0.0}, {"reward": 2.0}, {"kl_k1": 10.0})
    assert state["pid"] == pytest.approx(0.03564)
    assert state["value"] == pytest.approx(0.2 * (1 - 0.50346))
    # then 2 again: rise .05 * 1.9 = .095, e = .094, sum .193: .0282 + .00193 + .05 * (.094 - .099) = .02988
    assert kl_gate(state, {"reward": 2.0})["pid"] == pytest.approx(0.02988)


@pytest.mark.parametrize(
    ("rewards", "phase"),
    [
        ([0.5] * 3, 1.5),  # fewer than the window
        ([0.5] * 4, 0.8),  # level, and not high
        ([0.9] * 4, 1.0),  # level and high
        ([0.9, 0.8, 0.9, 0.8], 0.8),  # high, but it varies
        ([0.0] * 3 + [1.0] * 4, 1.0),  # seven rewards: nothing yet to compare with
        ([0.0] * 4 + [0.1] * 4, 1.2),  # rises
        ([9.0, 0.0, 0.0, 0.0, 0.0] + [0.1] * 4, 1.2),  # the first has left both windows
    ],
)
def test_kl_gate_phases(rewards, phase):
    state = after(kl_gate, *({"reward": reward} for reward in rewards), window=4)
    assert state["phase"] == phase


def test_hypervolume_in_one_dimension():
    # the first evaluation is the reference; then gains .1, 0 and .1
    state = after(hypervolume, {"eval/accuracy": 0.3})
    assert state["value"] == 1
    for score, gain in ((0.4, 0.1), (0.35, 0.0), (0.5, 0.1)):
        state = hypervolume(state, {"eval/accuracy": score})
        assert state["value"] == pytest.approx(0.5 + 1.5 * math.tanh(gain), abs=1e-6)
        assert hypervolume(state, {"reward": 1.0}) == state, "no evaluation, no change"


@pytest.mark.parametrize(("gain", "value"), [(0.0, 0.5), (0.1, 0.649502), (1.0, 1.642391)])
def test_hypervolume_multiplier(gain, value):
    state = hypervolume({}, {"eval/accuracy": gain}, reference=(0.0,))
    assert state["value"] == pytest.approx(value, abs=1e-6)


def test_hypervolume_of_a_front():
    # from (0, 0): (2, 1) covers 2; (1, 3) adds 1 * 2 = 2; (1, 1) adds nothing; (2, 3) fills the corner 1 * 2 = 2
    both = {"objectives": ("a", "b"), "reference": (0.0, 0.0)}
    state = {}
    for point, gain, front in (((2, 1), 2, 1), ((1, 3), 2, 2), ((1, 1), 0, 2), ((2, 3), 2, 1)):
        state = hypervolume(state, {"a": float(point[0]), "b": float(point[1])}, **both)
        assert state["value"] == pytest.approx(0.5 + 1.5 * math.tanh(gain))
        assert sum(key.startswith("front/") for key in state) == 2 * front
    assert hypervolume(state, {"a": 9.0}, **both) == state, "one objective is missing"
    assert hypervolume(state, {"a": 9.0, "b": -1.0}, **both)["value"] == 0.5, "worse than the reference somewhere"


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_volume_naive_count_of_cells(dimensions):
    generator = random.Random(dimensions)
    for _ in range(20):
        points = [tuple(float(generator.randint(0, 5)) for _ in range(dimensions)) for _ in range(6)]
        cells = torch.cartesian_prod(*[torch.arange(6)] * dimensions).reshape(-1, dimensions)
        covered = sum(
            any(all(c < p for c, p in zip(cell, point, strict=True)) for point in points) for cell in cells.tolist()
        )
        assert controllers._volume(points, (0.0,) * dimensions) == covered


def test_reward_influence_by_hand():
    assert reward_influence({}, {}, None) == {"value/0": 1.0}
    # log w = (ln 3, 0) from ln 3 * 1e-2 * 1 / 1e-2: w = 3/4, 1/4; again: 9/10, 1/10
    step = [math.log(3), 0.0]
    state = after_influences(None, step, learning_rate=1e-2, mu=1e-2)
    assert [state["value/0"], state["value/1"]] == pytest.approx([0.75, 0.25])
    state = reward_influence(state, {}, step, learning_rate=1e-2, mu=1e-2)
    assert [state["value/0"], state["value/1"]] == pytest.approx([0.9, 0.1])
    with pytest.raises(ValueError, match="influence: 3"):
        reward_influence(state, {}, [*step, 0.0])


def test_reward_influence_keeps_equal_weights_under_equal_influence_and_does_not_overflow():
    twelve = [1e6] * 12
    state = after_influences(*[twelve] * 3, learning_rate=1.0, mu=1.0)
    values = [value for key, value in state.items() if key.startswith("value/")]
    assert values == pytest.approx([1 / 12] * 12)
    state = reward_influence(state, {}, [2e6 if k == 10 else 1e6 for k in range(12)], learning_rate=1.0, mu=1.0)
    values = [value for key, value in state.items() if key.startswith("value/")]
    assert values == [float(k == 10) for k in range(12)], "in the order of the numbers, not of the letters"


@pytest.mark.parametrize(
    ("controller", "settings"),
    [
        (adaptive_kl, {"target": 0.0}),
        (adaptive_kl, {"horizon": -1.0}),
        (kl_gate, {"strength": 0.0}),
        (kl_gate, {"window": 1}),
        (hypervolume, {"objectives": ()}),
        (hypervolume, {"reference": (0.0, 0.0)}),
        (reward_influence, {"mu": 0.0}),
        (reward_influence, {"learning_rate": -1.0}),
    ],
)
def test_ranges(controller, settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        controller({}, {}, *([None] if controller is reward_influence else []), **settings)
