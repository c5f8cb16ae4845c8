"""Win rates: who competes with whom, worked out by hand; and each kind of opinion."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from llmrl.errors import RecipeError
from llmrl.pieces import resolve
from llmrl.rewards.catalogue import CATALOGUE
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, Trajectory, Turn

PROMPT = Prompt("p", (1,), "?", {})
ASKED: Counter[tuple[str, str]] = Counter()


async def chance(a: str, b: str) -> float:
    """0.5 + (a - b) / 20 of two numbers; above 9 nobody can tell."""
    ASKED[a, b] += 1
    if max(int(a), int(b)) > 9:
        raise OSError("no opinion")
    return 0.5 + (int(a) - int(b)) / 20


def verdicts(group: Group) -> list[Score | Failure]:
    """A plain verifier of a group: 1 for an answer below 5, 0 for others, a failure for a word."""
    return [
        Score(float(int(one.text) < 5)) if one.text.isdigit() else Failure("verdicts", "crash", "no number")
        for one in group.trajectories
    ]


def of_one(a: str) -> float:
    return float(a)


def group(*written: tuple[str, str]) -> Group:
    """Trajectories of (writer, text)."""
    return Group(PROMPT, [Trajectory(PROMPT, [Turn(ACTOR, [5])], "stop", text, writer=who) for who, text in written])


def rates(one: Group, **settings: Any) -> list[Score | Failure | None]:
    ASKED.clear()
    spec: dict[str, Any] = {"win_rate": {"opinion": f"{__name__}:chance"} | settings}
    return asyncio.run(resolve(spec, CATALOGUE, key="rewards", what="reward")({"group": one, "authors": {}}))


def values(one: Group, **settings: Any) -> list[float | None]:
    return [found.value if isinstance(found, Score) else None for found in rates(one, **settings)]


def test_a_verifier_of_the_group_gives_opinions_by_its_scores():
    """sigmoid(1) = .731 for right over wrong; a completion that it cannot score has no opinions."""
    one = group(("policy", "3"), ("policy", "7"), ("policy", "4"), ("policy", "word"))
    spec = {"score_difference": {"scores": f"{__name__}:verdicts"}}
    found = rates(one, opinion=spec)
    values = [score.value if isinstance(score, Score) else None for score in found]
    assert values == [pytest.approx((0.7310586 + 0.5) / 2), pytest.approx(0.2689414), values[0], None]
    assert isinstance(found[3], Failure) and "no number" in found[3].message
    with pytest.raises(RecipeError, match=r"of_one takes a; expected group alone"):
        rates(one, opinion={"score_difference": {"scores": f"{__name__}:of_one"}})


MIXED = group(("policy", "6"), ("reference", "4"), ("policy", "2"), ("past_2", "0"))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # 6: .6 .7 .8, 4: .4 .6 .7, 2: .3 .4 .6, 0: .2 .3 .4
        ({}, [0.7, 1.7 / 3, 1.3 / 3, 0.3]),
        ({"counts_itself": True}, [2.6 / 4, 1.7 / 3, 1.8 / 4, 0.3]),
        ({"against": {"reference": 1.0}}, [0.6, 0.5, 0.4, 0.3]),
        ({"against": {"policy": 2.0, "past_2": -1.0}}, [2 * 0.7 - 0.8, 0.5, 2 * 0.3 - 0.6, 0.3]),
        (
            {"against": {"policy": 2.0, "past_2": -1.0}, "counts_itself": True},
            [2 * 0.6 - 0.8, 0.5, 2 * 0.4 - 0.6, 0.3],
        ),
    ],
)
def test_who_competes_with_whom(settings, expected):
    """The others' own rates, against the policy's two, are (.4 + .6) / 2 for the reference and (.2 + .4) / 2."""
    assert values(MIXED, **settings) == pytest.approx(expected)


def test_nobody_is_asked_twice_or_for_nothing():
    values(MIXED, against={"reference": 1.0})
    assert set(ASKED) == {("6", "4"), ("4", "2"), ("6", "0"), ("2", "0")} and set(ASKED.values()) == {1}


def test_chunks_part_the_policys_completions_alone():
    one = group(*(("policy", text) for text in "8642"), ("reference", "0"))
    found = values(one, chunk=2, against={"policy": 1.0, "reference": 1.0})
    assert found == pytest.approx([0.6 + 0.9, 0.4 + 0.8, 0.6 + 0.7, 0.4 + 0.6, 0.25])


def test_an_absent_writer_and_an_absent_opinion_are_failures():
    found = rates(group(("policy", "6"), ("policy", "2")), against={"reference": 1.0})
    assert found == [None, None]  # no others at all
    found = rates(group(("policy", "6"), ("policy", "2")), against={"policy": 1.0, "reference": 1.0})
    assert found == [None, None]  # a held-out prompt, which the policy alone answers
    found = rates(group(("policy", "6"), ("past_2", "2")), against={"past_2": 1.0, "reference": 1.0})
    assert isinstance(found[0], Failure) and "reference wrote no opponent" in found[0].message
    with pytest.raises(RecipeError, match="no writer of completions named 'referense'; did you mean 'reference'"):
        rates(MIXED, against={"referense": 1.0})


def test_the_mean_of_a_groups_win_rates_is_one_half():
    """Whatever is sampled, so that 1/2 is an exact baseline."""
    for texts in ("9031", "55", "1234567"):
        found = values(group(*(("policy", text) for text in texts)))
        assert sum(one for one in found if one is not None) / len(texts) == pytest.approx(0.5)
