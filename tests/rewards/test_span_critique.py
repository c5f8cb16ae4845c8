"""The reward of span critiques: parts of an answer, the tokens that end them, and what is counted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch

from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.ops.advantages.critic import gae
from llmrl.rewards.base import Rewards
from llmrl.rewards.respondents import Question
from llmrl.rewards.span_critique import marked_parts, placed_parts
from llmrl.rewards.verdicts import Reply, UnreadableError
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Score, Trajectory, Turn

PIECES = ["the", " plot", " is", " dull", ",", " the", " end", " is", " fine", "<stop>"]
ANSWER = "the plot is dull, the end is fine"
CRITIQUE = """The first half drags.
[[Bad]] the plot is dull
[[Good]] the end  is fine
"""


def decode(token_ids) -> str:
    return "".join(PIECES[token] for token in token_ids if PIECES[token] != "<stop>")


@dataclass
class Scripted:
    """A role that replies by a rule, and whose tokens are PIECES."""

    rule: Callable[[Question], str]
    asked: list[Question] = field(default_factory=list)
    name: str = "role critiquer"
    decode: Callable[..., str] = decode

    async def reply(self, question: Question) -> Reply:
        self.asked.append(question)
        return Reply(self.rule(question))


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


def full_stop(completion):
    return Score(0.5, correct=False)


def answered(text: str = ANSWER, tokens=tuple(range(10))) -> Trajectory:
    prompt = Prompt("train:0", (0,), "Review it.", {})
    return Trajectory(prompt, [Turn(ACTOR, list(tokens), text=text)], "stop", text)


def scored(workers, one: Trajectory, critic: Scripted, **settings) -> Trajectory:
    rubric = "{prompt} {completion} got {reward}: mark it."
    specs = {
        f"{__name__}:full_stop": {"weight": 2.0},
        "span_critique": {"role": "critiquer", "rubric": rubric, "weight": 0.1, **settings},
    }
    authors = {"actor": Scripted(lambda question: ""), "critiquer": critic}
    asyncio.run(Rewards.from_specs(specs, workers=workers, authors=authors).score(Group(one.prompt, [one])))
    return one


def test_parts_reward_the_tokens_that_end_them(workers):
    critic = Scripted(lambda question: CRITIQUE)
    one = scored(workers, answered(), critic)
    assert critic.asked[0].text == f"Review it. {ANSWER} got 0.5: mark it."
    score = one.scores["span_critique"]
    assert score.token_values == {3: -1.0, 8: 1.0}  # " dull" ends the first part, " fine" the second
    assert score.metrics == {"parts": 2, "unmatched": 0, "parse_failures": 0}
    assert one.reward == 1.0  # 2 x 0.5
    batch = pack([Group(one.prompt, [one])], ACTOR)
    on_answer = batch.rewards[0, 1:].tolist()
    assert on_answer == pytest.approx([0, 0, 0, -0.1, 0, 0, 0, 0, 0.1, 1.0])
    # gamma 1, lam 0.5, values 0.2 everywhere: delta is r - 0.2 on the last token, else r
    values = torch.full_like(batch.rewards, 0.2)
    credit = gae(batch.rewards, values, batch.response_mask, gamma=1.0, lam=0.5, whiten=False)
    last = 1.0 - 0.2
    before = 0.1 + 0.5 * last
    assert credit.advantages[0, 8:].tolist() == pytest.approx([0.5 * before, before, last])
    assert float(credit.advantages[0, 4]) == pytest.approx(-0.1 + 0.5**5 * before)


def test_each_occurrence_counts_once_and_what_the_answer_lacks_is_unmatched(workers):
    lines = ["[[Good]] the", "[[Good]] the", "[[Good]] the", "[[Bad]] the music", '- [[Bad]] "is dull"']
    one = scored(workers, answered(), Scripted(lambda question: "\n".join(lines)))
    assert one.scores["span_critique"].token_values == {0: 1.0, 5: 1.0, 3: -1.0}
    assert one.scores["span_critique"].metrics == {"parts": 5, "unmatched": 2, "parse_failures": 0}


def test_parts_are_found_behind_the_one_before():
    assert placed_parts("a b a b", [("Good", "b"), ("Bad", "a"), ("Bad", "b"), ("Good", "a")]) == [
        ("Good", 3),
        ("Bad", 5),
        ("Bad", 7),
        ("Good", 1),
    ]
    assert placed_parts("one\n two", [("Good", "one two"), ("Good", "  "), ("Good", "one two")]) == [
        ("Good", 8),
        None,
        None,
    ]
    assert placed_parts("(a+b)*", [("Bad", "(a+b)*")]) == [("Bad", 6)]  # words, not a pattern


def test_two_labels_that_end_at_one_token_are_added(workers):
    one = scored(workers, answered(), Scripted(lambda question: "[[Good]] is fine\n[[Good]] fine"))
    assert one.scores["span_critique"].token_values == {8: 2.0}


def test_labels_of_the_recipe_and_rewards_that_are_shown(workers):
    critic = Scripted(lambda question: "[[+]] is fine\n[[Good]] the plot")
    one = scored(workers, answered(), critic, labels={"+": 0.5, "-": -2.0}, shown=[f"{__name__}:full_stop"])
    assert one.scores["span_critique"].token_values == {8: 0.5}  # Good is no label


def test_spans_of_the_answer_after_its_thoughts(workers):
    spoken = {1: "<think>", 2: "the", 3: " end", 4: "</think>"}
    thinking = answered("<think>the end</think>the end", (1, 2, 3, 4, 2, 3))
    critic = Scripted(lambda question: "[[Good]] the end")

    def told(token_ids):
        return "".join(spoken[token] for token in token_ids)

    authors = {"actor": Scripted(lambda question: "", decode=told), "critiquer": critic}
    specs = {"span_critique": {"role": "critiquer", "rubric": "{prompt}{completion}"}}
    asyncio.run(Rewards.from_specs(specs, workers=workers, authors=authors).score(Group(thinking.prompt, [thinking])))
    assert critic.asked[0].text == "Review it.the end"
    assert thinking.scores["span_critique"].token_values == {5: 1.0}


@pytest.mark.parametrize(
    "silent", ["It is fine.", "Good: is fine", "<think>[[Good]] is fine</think> Well.", "[[Good]]"]
)
def test_a_critique_without_labels_is_asked_for_again_and_is_never_a_zero(workers, silent):
    critic = Scripted(lambda question: CRITIQUE if question.temperature else silent)
    one = scored(workers, answered(), critic)
    assert one.scores["span_critique"].metrics["parse_failures"] == 1
    lost = scored(workers, answered(), Scripted(lambda question: silent))
    assert math.isnan(lost.reward)
    assert lost.failure
    assert "no verdict in 3 replies" in lost.failure.message
    assert "[[None]]" in lost.failure.message


def test_a_critique_may_say_that_there_is_nothing_to_mark(workers):
    one = scored(workers, answered(), Scripted(lambda question: "Fine as it is. [[None]]"))
    assert one.scores["span_critique"].token_values == {}
    assert one.reward == 1.0
    with pytest.raises(UnreadableError):
        marked_parts("[[None]]", ["Good"], nothing="Nothing")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give a role of the recipe as `role`"),
        ({"role": "critiquer", "labels": {}}, "labels: none given"),
        ({"role": "critiquer", "nothing": "Good"}, "nothing: 'Good' is one of the labels"),
        ({"role": "critiquer", "shown": ["math_verifier"]}, "shown: no reward named 'math_verifier'"),
    ],
)
def test_settings_that_do_not_fit_are_named(workers, settings, words):
    with pytest.raises(RecipeError, match=words):
        Rewards.from_specs({"span_critique": {"rubric": "{prompt}{completion}", **settings}}, workers=workers)
