"""Verdicts of critiques: those that can be read, those that cannot, and what a run measures and warns of."""

from __future__ import annotations

import asyncio

import pytest
from trees import CRITIQUER, PROMPT, answer, critique

from llmrl.rewards.critiques import discrimination
from llmrl.rollout.measure import metrics_of
from llmrl.run.warnings import warnings_of
from llmrl.types import ACTOR, Failure, Group, Score, Trajectory


def scored(said: str, draft: str = "7", prompt: str = "") -> Score:
    one = critique("right", answer(draft))
    found = asyncio.run(discrimination(said, one, prompt, agree=1.0, disagree=-1.0, unreadable=-0.25))
    assert isinstance(found, Score)
    return found


@pytest.mark.parametrize(
    ("said", "draft", "value", "verdict"),
    [
        ("It adds up. [[Correct]]", "7", 1.0, "right"),
        ("It adds up. [[Correct]]", "8", -1.0, "right"),
        ("The carry is lost. [[Wrong]]", "8", 1.0, "wrong"),
        ("[[Wrong]] at first sight, but no: [[Correct]]", "7", 1.0, "right"),  # the last one counts
        ("[[Correct]] [[Correct]]", "8", -1.0, "right"),
        ("<think>[[Correct]]</think>[[Wrong]]", "8", 1.0, "wrong"),
        (" Wrong\n", "8", 1.0, "wrong"),  # nothing but the label
    ],
)
def test_verdicts_that_can_be_read(said, draft, value, verdict):
    found = scored(said, draft)
    assert (found.value, found.verdict, found.outcome) == (value, verdict, verdict)
    assert found.correct is (value > 0)
    assert found.metrics == {"parse_failures": 0}


@pytest.mark.parametrize(
    "said",
    [
        "",
        "It is right.",
        "Wrong step, I think",  # a label in a sentence, without brackets
        "[[correct]]",  # other letters
        "[[WRONG]]",
        "[Correct]",
        "[[Correct",
        "[[Correct or Wrong]]",
        "[[Right]]",  # no label of the recipe
        "<think>[[Correct]]</think>",  # in thoughts alone
        "<think>[[Correct]]",
    ],
)
@pytest.mark.parametrize("draft", ["7", "8"])
def test_verdicts_that_cannot_be_read_are_counted_and_paid_as_the_recipe_says(said, draft):
    found = scored(said, draft)
    assert (found.value, found.verdict, found.outcome) == (-0.25, "unreadable", "unreadable")
    assert found.correct is False  # it agrees with nothing, whatever the draft is
    assert found.metrics == {"parse_failures": 1}


def test_thoughts_that_the_prompt_opened_hold_no_verdict():
    assert scored("[[Correct]]", prompt="Judge it.<think>").verdict == "unreadable"
    assert scored("[[Wrong]]</think>[[Correct]]", prompt="Judge it.<think>").verdict == "right"


def test_what_the_verifier_did_not_judge_is_a_failure():
    lost = critique("right", draft := answer("!"))
    assert asyncio.run(discrimination("[[Correct]]", lost)) is draft.failure
    unjudged = critique("right", draft := answer("7"))
    draft.scores = {"length": Score(0.5)}
    found = asyncio.run(discrimination("[[Correct]]", unjudged))
    assert isinstance(found, Failure)
    assert found.message == "no reward of actor says whether draft is right"


def step(**said: int) -> dict[str, float]:
    """A step's metrics of so many critiques of each verdict, half of them on right drafts."""
    critiques: list[Trajectory] = []
    for verdict, count in said.items():
        critiques += [critique(verdict, answer("78"[number % 2])) for number in range(count)]
    for one in critiques:
        score = one.scores["discrimination"]
        one.scores["discrimination"] = Score(score.value, score.correct, verdict=score.verdict, metrics={
            "parse_failures": float(score.verdict == "unreadable")
        })  # fmt: skip
    drafts = Group(PROMPT, [one.parent for one in critiques if one.parent])
    return metrics_of([drafts, Group(PROMPT, critiques, CRITIQUER)], [], [ACTOR, CRITIQUER], 1.0)


def test_unreadable_verdicts_are_metrics():
    found = step(right=5, wrong=2, unreadable=3)
    assert found["critiquer/reward/discrimination/parse_failures"] == found["critiquer/verdicts_unreadable"] == 0.3
    assert found["critiquer/verdicts_alike"] == 0.5


def warned(*steps: dict[str, float]) -> list[str]:
    rows = [{"step": number, "stage": ""} | metrics for number, metrics in enumerate(steps, 1)]
    return [one.message for one in warnings_of(rows, [CRITIQUER]) if "verdicts_alike" in one.metric]


@pytest.mark.parametrize("kind", ["right", "wrong", "unreadable"])
def test_a_critiquer_that_always_says_the_same_is_warned_of(kind):
    same = step(**({"right": 1, "wrong": 1} | {kind: 40}))
    [message] = warned(same, same, same)
    assert message.startswith("nearly all critiques have the same verdict: critiquer/verdicts_alike")
    assert "balance right and wrong drafts" in message


def test_a_critiquer_that_judges_is_not():
    mostly, same = step(right=19, wrong=1), step(right=40, wrong=1)  # 95 %, which is not more, and 97.6 %
    assert mostly["critiquer/verdicts_alike"] == 0.95
    assert warned(*[mostly] * 6) == []
    assert warned(same, same, mostly, same, same) == []  # chance in a small step
