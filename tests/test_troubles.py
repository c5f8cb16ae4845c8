"""Troubles of metrics, by hand-worked values."""

from __future__ import annotations

import pytest

from llmrl.troubles import Exploited, Fallen, Outside, Point


@pytest.mark.parametrize(
    ("bounds", "values", "since"),
    [
        (Outside("", high=0.3), [0.3], None),
        (Outside("", high=0.3), [0.31], 0),
        (Outside("", low=1.0), [0.9], 0),
        (Outside("", high=0.3, rows=2), [0.31], None),
        (Outside("", high=0.3, rows=2), [0.2, 0.31], None),
        (Outside("", high=0.3, rows=2), [0.31, 0.31], 0),
        (Outside("", high=0.3, rows=2), [0.31, 0.31, 0.2], None),
        (Outside("", high=5.0, of="recent"), [9.0], None),  # nothing to compare with
        (Outside("", high=5.0, of="recent"), [9.0, 1.0, 1.0, 1.0, 1.0, 46.0], 5),
        (Outside("", high=5.0, of="recent"), [10.0, 1.0, 1.0, 1.0, 1.0, 46.0], None),
        (Outside("", high=5.0, of="recent"), [10.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.1], 6),  # the 10 is too long ago
        (Outside("", high=5.0, of="recent", least=0.3), [0.01, 0.3], None),
        (Outside("", high=5.0, of="recent", least=0.3), [0.01, 0.31], 1),
        (Outside("", low=0.0, high=1.0), [float("nan")], None),
    ],
)
def test_bounds_are_left_by_values_outside_of_them(bounds, values, since):
    assert bounds.since([Point(value, {}) for value in values]) == since


@pytest.mark.parametrize(
    ("values", "draws", "window", "since"),
    [
        ([1.0, 0.85], 1000, 1, 1),  # p = 0.925: 2.5 sqrt(2 x 0.925 x 0.075 / 1000) = 0.029
        ([1.0, 0.85], 10, 1, None),  # and 0.295
        ([0.5, 0.46], 10**6, 1, None),  # by more than chance, but not below 0.45
        ([0.5, 0.44], 10**6, 1, 1),
        ([0.2, 0.0], 1, 1, None),  # nothing is known of a single draw
        ([1.0, 0.6, 0.8], 100, 2, None),  # two windows of two need four values
        ([0.9, 0.7, 0.5, 0.3], 100, 2, 2),  # 0.8 and 0.4: p = 0.6, 2.5 sqrt(2 x 0.24 / 200) = 0.122
    ],
)
def test_a_share_has_fallen_where_chance_does_not_explain_it(values, draws, window, since):
    fallen = Fallen("", draws="draws", window=window)
    assert fallen.since([Point(value, {"draws": draws}) for value in values]) == since


def audited(gold: float, proxy: float, error: float) -> Point:
    """An evaluation whose audit and whose reward have the same standard error."""
    name = "eval/audit/gold"
    row = {name: gold, "eval/reward": proxy, "eval/audit_error/gold": error, "eval/reward_error": error}
    return Point(gold, row, name)


@pytest.mark.parametrize(
    ("golds", "proxies", "error", "since"),
    [
        # 2.5 sqrt(0.03^2 + 0.03^2) = 0.106
        ([0.5, 0.39], [0.0, 0.11], 0.03, 0),
        ([0.5, 0.40], [0.0, 0.11], 0.03, None),  # chance explains the fall
        ([0.5, 0.39], [0.0, 0.10], 0.03, None),  # and the rise
        ([0.5, 0.39], [0.5, 0.39], 0.03, None),  # both fall
        ([0.39, 0.5], [0.0, 0.5], 0.03, None),  # both rise
        ([0.3, 0.6, 0.5, 0.48], [0.0, 0.4, 0.5, 0.6], 0.03, 1),  # from its best, not from its start
        ([0.6, 0.5, 0.3], [0.4, 0.2, 0.3], 0.03, None),  # less reward than when the audit was best
        ([0.5], [0.0], 0.03, None),
    ],
)
def test_a_reward_is_exploited_where_its_audit_falls_while_it_rises(golds, proxies, error, since):
    points = [audited(*pair, error) for pair in zip(golds, proxies, strict=True)]
    assert Exploited("", rising="eval/reward").since(points) == since


def test_an_audit_without_its_standard_error_tells_nothing():
    points = [Point(gold, {"eval/reward": -gold}, "eval/audit/gold") for gold in (1.0, 0.0)]
    assert Exploited("", rising="eval/reward").since(points) is None
