from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from judge_server import ANSWERS, judging, larger

from llmrl.errors import RecipeError
from llmrl.pieces import resolve
from llmrl.rewards.base import Rewards
from llmrl.rewards.catalogue import CATALOGUE
from llmrl.rewards.respondents import Question
from llmrl.rewards.services import health_fault
from llmrl.rewards.verdicts import Reply, Token, UnreadableError, labelled, preference, score
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Group, Prompt, Trajectory, Turn

RUBRICS = Path(__file__).parents[2] / "reward_models"
PAIRS, POINTS = str(RUBRICS / "better_answer.md"), str(RUBRICS / "answer_quality.md")


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


def group(*texts: str, question: str = "Which is larger?") -> Group:
    messages = ({"role": "user", "content": question},)
    prompt = Prompt("p0", (1, 2), "<user>?<assistant>", {"answer": "gold"}, messages)
    return Group(prompt, [Trajectory(prompt, [Turn(ACTOR, [5] * len(text))], "stop", text) for text in texts])


async def scored(workers, one: Group, **specs) -> list[float]:
    await Rewards.from_specs(specs, workers=workers).score(one)
    return [trajectory.reward for trajectory in one.trajectories]


def compare(judge, **settings) -> dict:
    return {"opinion": {"judge_pairwise": {"url": judge.url, "model": "j", "rubric": PAIRS, **settings}}}


def metrics(one: Group, name: str = "win_rate") -> list[dict[str, float]]:
    return [dict(trajectory.scores[name].metrics) for trajectory in one.trajectories]


# verdicts


@pytest.mark.parametrize(
    ("text", "value"),
    [("[[A]]", 1.0), ("First [[A]], no: [[B]]", 0.0), ("[[ C ]]", 0.5), (" B\n", 0.0), ("so [[A]] it is", 1.0)],
)
def test_the_last_verdict_in_brackets_counts(text, value):
    assert preference(Reply(text)) == value


@pytest.mark.parametrize("text", ["", "A is better", "[[D]]", "[A]", "[[a]]"])
def test_a_reply_without_a_verdict_is_unreadable(text):
    with pytest.raises(UnreadableError, match=r"expected \[\[A\]\]"):
        preference(Reply(text))


def test_label_tokens_share_the_probability_that_they_have():
    chances = {"A": 0.6, " A": 0.1, "B": 0.1, "C": 0.1, "x": 0.1}
    token = Token("A", tuple((text, math.log(chance)) for text, chance in chances.items()))
    brackets = Token("[[", (("[[", 0.0),)), Token("]]", (("]]", 0.0),))
    reply = Reply("[[A]]", (brackets[0], token, brackets[1]))
    assert preference(reply) == pytest.approx((0.7 + 0.5 * 0.1) / 0.9)  # "x" is no label, " A" is A


def test_a_score_is_in_its_range_or_an_expectation_over_the_range():
    assert score(Reply("[[7]]"), 1, 9) == 7
    assert score(Reply("[[6.5]]"), 1, 9) == 6.5
    with pytest.raises(UnreadableError, match=r"n from 1 to 9"):
        score(Reply("[[10]]"), 1, 9)
    token = Token("7", (("7", math.log(0.5)), ("9", math.log(0.25)), ("0", math.log(0.25))))
    assert score(Reply("7", (token,)), 1, 9) == pytest.approx((7 * 0.5 + 9 * 0.25) / 0.75)  # 0 is out of the range
    with pytest.raises(UnreadableError, match="no whole verdict"):
        score(Reply("12", (Token("1", ()), Token("2", ()))), 1, 20)


# pairs


def test_win_rates_of_a_consistent_judge(workers):
    async def main():
        one = group("1", "30", "20", "20")
        async with judging(larger) as judge:
            rewards = await scored(workers, one, win_rate=compare(judge))
            # of 3 comparisons: "1" wins none, "30" all, each "20" wins 1 and ties 1; equal texts are not asked about
            assert rewards == pytest.approx([0, 1, 0.5, 0.5])
            assert len(judge.requests) == 2 * 5
            text = judge.requests[0]["messages"][0]["content"]
            assert "<question>\nWhich is larger?\n</question>" in text
            assert not text.startswith("---")
            assert judge.requests[0]["temperature"] == 0.0
            piece = resolve({"win_rate": compare(judge)}, CATALOGUE, key="", what="")
            assert await health_fault(piece) is None
        assert [found["order_consistency"] for found in metrics(one)] == [1, 1, 1, 1]
        assert [found["ties"] for found in metrics(one)] == pytest.approx([0, 0, 1 / 3, 1 / 3])
        # "30" is longer than "1" by 1 and as long as both "20"; "20" beats "1" by 1 too
        assert [found["preferred_longer_by"] for found in metrics(one)] == pytest.approx([1, 1 / 3, 1 / 3, 1 / 3])
        assert await health_fault(piece)  # the server has gone

    asyncio.run(main())


def test_a_judge_that_follows_the_order_gives_ties(workers):
    async def main():
        one = group("1", "30")
        async with judging(lambda judge, shown, body: "[[A]]") as judge:
            assert await scored(workers, one, win_rate=compare(judge)) == [0.5, 0.5]
        assert [(found["order_consistency"], found["ties"]) for found in metrics(one)] == [(0, 1), (0, 1)]

    asyncio.run(main())


def test_probabilities_of_labels_are_averaged_over_both_orders(workers):
    def chances(shown):
        return {"A": 0.9, "B": 0.1} if shown[0] == "30" else {"A": 0.4, "B": 0.6}

    async def main():
        one = group("1", "30")
        async with judging(larger, chances=chances) as judge:
            rewards = await scored(workers, one, win_rate=compare(judge, logprobs=True))
            assert judge.requests[0]["top_logprobs"] == 20
        assert rewards == pytest.approx([0.25, 0.75])  # (0.9 + 0.6) / 2 for "30"

    asyncio.run(main())


def test_an_unreadable_reply_is_asked_for_again_warmer_and_counted(workers):
    def at_the_second_ask(judge, shown, body):
        return larger(judge, shown, body) if body["temperature"] > 0 else "I cannot say."

    async def main():
        one = group("1", "30")
        async with judging(at_the_second_ask) as judge:
            assert await scored(workers, one, win_rate=compare(judge)) == [0, 1]
        assert [found["parse_failures"] for found in metrics(one)] == [2, 2]
        lost = group("1", "30")
        async with judging(lambda judge, shown, body: "Both are fine.") as judge:
            rewards = await scored(workers, lost, win_rate=compare(judge))
            assert len(judge.requests) == 2 * 3
        assert all(map(math.isnan, rewards))
        failure = lost.trajectories[0].failure
        assert failure
        assert (failure.source, failure.kind) == ("win_rate", "invalid")
        assert "1 of 1 comparisons failed" in failure.message
        assert "no verdict in 3 replies, the last: 'Both are fine.'" in failure.message

    asyncio.run(main())


def test_a_completion_that_silences_the_judge_fails_alone(workers):
    def silenced(judge, shown, body):
        return "..." if "hush" in shown else larger(judge, shown, body)

    async def main():
        one = group("1", "30", "20", "hush")
        async with judging(silenced) as judge:
            rewards = await scored(workers, one, win_rate=compare(judge, asks=1))
        assert rewards[:3] == [0, 1, 0.5]
        assert math.isnan(rewards[3])
        assert one.trajectories[0].scores["win_rate"].metrics["unanswered"] == pytest.approx(1 / 3)

    asyncio.run(main())


def test_large_groups_compete_in_parts(workers):
    async def main():
        one = group("1", "2", "3", "4", "5", "6", "7")
        async with judging(larger) as judge:
            rewards = await scored(workers, one, win_rate=compare(judge) | {"chunk": 4})
            assert len(judge.requests) == 2 * (6 + 3)  # parts of 4 and 3
        assert rewards == pytest.approx([0, 1 / 3, 2 / 3, 1, 0, 0.5, 1])
        alone = group("1", "2", "3")
        async with judging(larger) as judge:
            assert await scored(workers, alone, win_rate=compare(judge) | {"chunk": 2}) == [0, 0.5, 1]

    asyncio.run(main())


def test_thoughts_are_not_shown_and_braces_in_answers_are_text(workers):
    async def main():
        one = group("<think>9</think> 1", "{b} 2")
        async with judging(lambda judge, shown, body: "[[C]]") as judge:
            await scored(workers, one, win_rate=compare(judge))
            texts = sorted(one["messages"][0]["content"] for one in judge.requests)
        assert "<answer_a>\n1\n</answer_a>\n\n<answer_b>\n{b} 2\n</answer_b>" in texts[0]

    asyncio.run(main())


# points


def test_scores_of_a_pointwise_judge(workers):
    settings = {"model": "j", "rubric": POINTS, "high": 9}

    async def main():
        one = group("3", "8", "silent")
        async with judging(lambda judge, shown, body: f"Fine. [[{shown[0]}]]") as judge:
            rewards = await scored(workers, one, judge_pointwise={"url": judge.url, **settings})
        assert rewards[:2] == [3, 8]
        assert math.isnan(rewards[2])
        assert metrics(Group(one.prompt, one.trajectories[:2]), "judge_pointwise") == [{"parse_failures": 0}] * 2
        two = group("3")
        async with judging(
            lambda judge, shown, body: f"[[{shown[0]}]]", chances=lambda shown: {"3": 0.5, "5": 0.5}
        ) as judge:
            assert await scored(workers, two, judge_pointwise={"url": judge.url, "logprobs": True, **settings}) == [4]
        mute = group("3")
        async with judging(lambda judge, shown, body: "[[3]]") as judge:
            await scored(workers, mute, judge_pointwise={"url": judge.url, "logprobs": True, "attempts": 1, **settings})
        failure = mute.trajectories[0].failure
        assert failure
        assert "gives no log-probabilities" in failure.message

    asyncio.run(main())


# roles of the recipe, notes and labels


@dataclass
class Scripted:
    """A role that replies by a rule, and keeps what it was asked."""

    rule: Callable[[Question], str]
    asked: list[Question] = field(default_factory=list)
    name: str = "role judge"

    async def reply(self, question: Question) -> Reply:
        self.asked.append(question)
        return Reply(self.rule(question))


async def scored_by_roles(workers, one: Group, authors: dict, **specs) -> list[float]:
    await Rewards.from_specs(specs, workers=workers, authors=authors).score(one)
    return [trajectory.reward for trajectory in one.trajectories]


def test_a_role_compares_in_both_orders(workers):
    def first_unless_long(question):
        shown = [text for _, text in ANSWERS.findall(question.text)]
        return "[[B]]" if len(shown[1]) > 2 else "[[A]]"

    one, judge = group("1", "30", "long"), Scripted(first_unless_long)
    opinion = {"opinion": {"judge_pairwise": {"role": "judge", "rubric": PAIRS}}}
    rewards = asyncio.run(scored_by_roles(workers, one, {"judge": judge}, win_rate=opinion))
    # "1" and "30" tie, as the first is preferred in either order; "long" is preferred to both in both
    assert rewards == [0.25, 0.25, 1]
    assert len(judge.asked) == 2 * 3
    assert all(question.chat for question in judge.asked)
    assert [found["order_consistency"] for found in metrics(one)] == [0.5, 0.5, 1]


def test_several_verdicts_are_averaged_and_sampled_by_seeds_of_their_own(workers):
    def by_seed(question):
        return f"[[{1 + question.seed % 9}]]"

    def verdicts(judge):
        return [1 + question.seed % 9 for question in judge.asked]

    settings = {"role": "judge", "rubric": POINTS, "high": 9, "samples": 5, "temperature": 1.0}
    one, judge = group("7"), Scripted(by_seed)
    rewards = asyncio.run(scored_by_roles(workers, one, {"judge": judge}, judge_pointwise=settings))
    assert len({question.seed for question in judge.asked}) == 5
    assert rewards == [pytest.approx(sum(verdicts(judge)) / 5)]
    again = Scripted(by_seed)
    assert asyncio.run(scored_by_roles(workers, group("7"), {"judge": again}, judge_pointwise=settings)) == rewards


def test_unreadable_replies_of_a_role_are_counted_and_never_a_zero(workers):
    def late(question):
        return "hm" if question.temperature == 0 else "[[4]]"

    settings = {"role": "judge", "rubric": POINTS, "high": 9}
    one = group("7")
    assert asyncio.run(scored_by_roles(workers, one, {"judge": Scripted(late)}, judge_pointwise=settings)) == [4]
    assert metrics(one, "judge_pointwise") == [{"parse_failures": 1}]
    lost = group("7")
    mute = Scripted(lambda question: "hm")
    assert math.isnan(asyncio.run(scored_by_roles(workers, lost, {"judge": mute}, judge_pointwise=settings))[0])
    failure = lost.trajectories[0].failure
    assert failure
    assert failure.message.startswith("role judge: no verdict in 3 replies, the last: 'hm'")


def test_labels_have_values_and_their_tokens_an_expectation():
    labels = {"Yes": 1.0, "No": 0.0}
    assert labelled(Reply("It adds up. [[Yes]]"), labels) == 1
    assert labelled(Reply(" No"), labels) == 0
    with pytest.raises(UnreadableError, match=r"expected \[\[Yes\]\] or \[\[No\]\]"):
        labelled(Reply("Maybe"), labels)
    chances = {"Yes": 0.2, " Yes": 0.1, "No": 0.6, "yes": 0.1}
    token = Token("No", tuple((text, math.log(chance)) for text, chance in chances.items()))
    assert labelled(Reply("No", (token,)), labels) == pytest.approx(0.3 / 0.9)


def test_notes_are_written_in_order_and_shown_to_later_rubrics(workers, tmp_path):
    """Each side has an advocate, in another role; then the judge reads both."""
    (tmp_path / "argue.md").write_text("Argue for {completion} against {other}.")
    (tmp_path / "answer.md").write_text("{for_first} said this for {completion}; answer for {other}.")
    (tmp_path / "decide.md").write_text("{prompt} {a} or {b}? For a: {for_first}. For b: {for_second}.")
    notes = {
        "for_first": {"rubric": str(tmp_path / "argue.md"), "of": "a", "role": "advocate", "max_tokens": 9},
        "for_second": {"rubric": str(tmp_path / "answer.md"), "of": "a", "role": "advocate"},
    }
    settings = {"role": "judge", "rubric": str(tmp_path / "decide.md"), "notes": notes}
    advocate = Scripted(lambda question: f"<think>hm</think> N{len(question.text)} ")
    judge = Scripted(lambda question: "[[A]]" if "larger? 30" in question.text else "[[B]]")
    one, authors = group("1", "30"), {"judge": judge, "advocate": advocate}
    rewards = asyncio.run(scored_by_roles(workers, one, authors, win_rate={"opinion": {"judge_pairwise": settings}}))
    assert [question.text for question in judge.asked] == [
        "Which is larger? 1 or 30? For a: N23. For b: N35.",
        "Which is larger? 30 or 1? For a: N23. For b: N35.",
    ]
    asked = sorted(question.text for question in advocate.asked)
    assert asked[2:] == ["N23 said this for 1; answer for 30.", "N23 said this for 30; answer for 1."]
    assert {question.max_tokens for question in advocate.asked} == {9, 1024}
    assert rewards == [0, 1]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "give a role of the recipe as `role`, or a server's `url`"),
        ({"role": "judge", "url": "http://a", "model": "m"}, "not both"),
        ({"url": "http://a"}, "url and model need each other"),
        ({"role": "judge", "samples": 3}, "samples: 3 verdicts at temperature 0 are all the same"),
        ({"role": "judge", "low": 5, "high": 5}, "low 5, high 5: expected low < high"),
        ({"role": "judge", "logprobs": True}, "both from 0 to 9 where logprobs is true"),
        ({"role": "judge", "labels": {}}, "labels: none given"),
        ({"role": "judge", "notes": {"critique": {"rubric": POINTS, "url": "http://a"}}}, "notes.critique: url and"),
    ],
)
def test_a_judges_settings_are_checked_together(workers, settings, words):
    with pytest.raises(RecipeError, match=words) as fault:
        Rewards.from_specs({"judge_pointwise": {"rubric": POINTS, **settings}}, workers=workers)
    assert fault.value.faults[0].startswith("rewards.judge_pointwise: ")


def test_a_role_that_the_recipe_lacks_is_named(workers):
    note = {"critique": {"rubric": POINTS, "role": "critik"}}
    opinion = {"judge_pairwise": {"role": "juge", "rubric": PAIRS, "notes": note}}
    rewards = Rewards.from_specs({"win_rate": {"opinion": opinion}}, workers=workers)
    with pytest.raises(RecipeError) as fault:
        rewards.check_roles(["actor", "judge", "critic"])
    assert fault.value.faults == [
        "rewards.win_rate: no role of the recipe named 'critik'; did you mean 'critic'?",
        "rewards.win_rate: no role of the recipe named 'juge'; did you mean 'judge'?",
    ]


# other opinions


async def prefers_longer(a, b, prompt):
    return len(a) > len(b)


def prefers_row(a, b, row):
    return 0.75 if a == row["answer"] else 0.25


def percent(a, b):
    return 80


def test_opinions_of_a_function_and_of_a_reward_models_scores(workers):
    async def main():
        mine = f"{__name__}:"
        assert await scored(
            workers, group("1", "333", "22"), win_rate={"opinion": f"{mine}prefers_longer"}
        ) == pytest.approx([0, 1, 0.5])
        assert await scored(workers, group("gold", "x"), win_rate={"opinion": f"{mine}prefers_row"}) == [0.75, 0.25]
        wrong = group("1", "2")
        await scored(workers, wrong, win_rate={"opinion": f"{mine}percent"})
        failure = wrong.trajectories[0].failure
        assert failure
        assert "returned 80, expected the chance from 0 to 1" in failure.message

    asyncio.run(main())


def test_differences_of_scores_go_through_a_sigmoid(workers):
    from scripted_server import scripted, status

    async def main():
        async with scripted(status(200, {"scores": [2.0, 1.0, 1.0]})) as server:
            scores = {"remote_score": {"url": server.url}}
            one = group("a", "b", "c")
            rewards = await scored(
                workers, one, win_rate={"opinion": {"score_difference": {"scores": scores, "scale": 2}}}
            )
            assert len(server.requests) == 1
        chance = 1 / (1 + math.exp(-2))
        assert rewards == pytest.approx([chance, (1 - chance + 0.5) / 2, (1 - chance + 0.5) / 2])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("opinion", "words"),
    [
        ({"judge_pairwize": {}}, "no opinion named 'judge_pairwize'; did you mean 'judge_pairwise'"),
        ({"judge_pairwise": {"url": "http://a", "model": "j", "rubric": POINTS}}, r"does not have \{a\} and \{b\}"),
        ({"judge_pairwise": {"url": "http://a", "model": "j", "rubric": PAIRS[:-2]}}, r"did you mean .*answer\.md"),
        ({f"{__name__}:larger": {}}, "takes judge, shown, body; expected a, b"),
        (
            {"score_difference": {"scores": {"remote": {}}}},
            "no reward model named 'remote'; did you mean 'remote_score'",
        ),
    ],
)
def test_opinions_are_checked_before_anything_runs(workers, opinion, words):
    with pytest.raises(RecipeError, match=words):
        Rewards.from_specs({"win_rate": {"opinion": opinion}}, workers=workers)
