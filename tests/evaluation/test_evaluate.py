from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import trees

from llmrl.evaluation.evaluate import evaluate
from llmrl.recipe import Evaluation
from llmrl.rollout.sampler import SamplingParams
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, Trajectory, Turn

PROMPTS = [Prompt(f"p{n}", (n,), f"question {n}", {}) for n in range(3)]
PARAMS = SamplingParams(max_tokens=7, temperature=0.8, top_p=0.9, stop=("\n",), stop_token_ids=(1,), seed=4)
RIGHT, WRONG, FAILED, UNJUDGED = "right", "wrong", "failed", "unjudged"
Scripted = tuple[str, str]


def trajectory(prompt: Prompt, text: str, verdict: str, author: str = ACTOR) -> Trajectory:
    made = Trajectory(prompt, [Turn(author, [5] * len(text))], "stop", text, author=author)
    if verdict == FAILED:
        made.failure, made.reward = Failure("math_verifier", "timeout", "too slow"), float("nan")
        return made
    made.reward = {RIGHT: 1.0, WRONG: 0.0, UNJUDGED: 0.25}[verdict]
    made.scores = {"reward": Score(made.reward, None if verdict == UNJUDGED else verdict == RIGHT)}
    made.components = {"reward": made.reward}
    return made


class Script:
    """Answers the first call with `greedy` and the second with `sampled`, one list a prompt."""

    def __init__(self, greedy: list[list[Scripted]], sampled: list[list[Scripted]] | None = None):
        self.answers = [greedy, sampled or []]
        self.calls: list[tuple[int, SamplingParams]] = []

    def sample(self, prompts: Sequence[Prompt], *, group_size: int, params: SamplingParams) -> list[Group]:
        self.calls.append((group_size, params))
        answers = self.answers[len(self.calls) - 1]
        return [
            Group(prompt, [trajectory(prompt, *one) for one in group])
            for prompt, group in zip(prompts, answers, strict=True)
        ]


def test_greedy_accuracy_leaves_failures_out_and_counts_them():
    script = Script([[("abc", RIGHT)], [("a", WRONG)], [("abcdefg", FAILED)]])
    metrics, groups = evaluate(script, PROMPTS, Evaluation(), PARAMS)
    assert metrics == {
        "eval/accuracy": 0.5,  # 1 of the 2 that were judged
        "eval/reward": 0.5,
        "eval/completion_tokens": 2.0,  # (3 + 1) / 2
        "eval/prompts": 3.0,
        "eval/failures": 1.0,
    }
    assert [group.prompt.id for group in groups] == ["p0", "p1", "p2"]
    [(size, params)] = script.calls
    assert (size, params.temperature, params.max_tokens, params.stop_token_ids) == (1, 0.0, 7, (1,))


def test_each_of_several_reward_functions_has_its_mean():
    class Rated(Script):
        def sample(self, prompts: Sequence[Prompt], *, group_size: int, params: SamplingParams) -> list[Group]:
            groups = super().sample(prompts, group_size=group_size, params=params)
            for place, group in enumerate(groups):
                group.trajectories[0].scores["length"] = Score(float(place))
                group.trajectories[0].components["length"] = 0.5 * place
            return groups

    script = Rated([[("abc", RIGHT)], [("a", WRONG)], [("ab", FAILED)]])
    metrics, _ = evaluate(script, PROMPTS, Evaluation(), PARAMS, categories={"p1": "45"})
    assert (metrics["eval/45/reward/reward"], metrics["eval/45/reward/length"]) == (0.0, 1.0)
    assert (metrics["eval/reward/reward"], metrics["eval/reward/length"]) == (0.5, 0.5)  # the failed one is left out


def test_a_category_has_metrics_of_its_own():
    script = Script([[("abc", RIGHT)], [("a", WRONG)], [("ab", FAILED)]])
    metrics, _ = evaluate(script, PROMPTS, Evaluation(), PARAMS, categories={"p0": "sums", "p2": "sums", "p1": "more"})
    assert {name: value for name, value in metrics.items() if name.startswith("eval/sums/")} == {
        "eval/sums/accuracy": 1.0,
        "eval/sums/reward": 1.0,
        "eval/sums/completion_tokens": 3.0,
        "eval/sums/prompts": 2.0,
        "eval/sums/failures": 1.0,
    }
    assert (metrics["eval/more/accuracy"], metrics["eval/accuracy"], metrics["eval/prompts"]) == (0.0, 0.5, 3.0)


def test_pass_and_majority_over_samples():
    script = Script(
        [[("1", RIGHT)], [("1", WRONG)], [("1", WRONG)]],
        [
            [("4", RIGHT), ("4", RIGHT), ("5", WRONG), ("6", WRONG)],
            [("4", WRONG), ("5", RIGHT), ("4", WRONG), ("x", FAILED)],
            [("x", FAILED), ("8", WRONG), ("x", FAILED), ("x", FAILED)],
        ],
    )
    metrics, groups = evaluate(script, PROMPTS, Evaluation(samples=4, temperature=0.6), PARAMS)
    # judged: [1 1 0 0], [0 1 0], [0]
    assert metrics["eval/pass@1"] == pytest.approx((2 / 4 + 1 / 3 + 0) / 3)
    # of two: 1 - C(2,2)/C(4,2) = 5/6, 1 - C(2,2)/C(3,2) = 2/3, and the third has too few
    assert metrics["eval/pass@2"] == pytest.approx((5 / 6 + 2 / 3) / 2)
    assert metrics["eval/pass@4"] == pytest.approx(1.0)  # only the first has four
    # votes: "4" twice, right; "4" twice, wrong; "8", wrong
    assert metrics["eval/maj@4"] == pytest.approx(1 / 3)
    assert metrics["eval/failures"] == 4.0
    assert metrics["eval/accuracy"] == pytest.approx(1 / 3)
    assert len(groups) == 6
    assert [(size, params.temperature) for size, params in script.calls] == [(1, 0.0), (4, 0.6)]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (None, 1 / 3),  # three texts with a vote each, one of them right
        (r"\d+$", 1.0),  # 7 twice, right; 8 once
        (r"so \w+ = (\d+)", 1.0),  # the same, as the first group
        (r"(\w+) = (\d+)", 0.5),  # the last match's first group: b twice, of which one is right; c once
        (r"b = \d+", 0.5),  # one vote for "b = 7", right, and one for "b = 8", wrong; the second has no answer
        (r"nowhere", 0.0),  # nobody answers
    ],
)
def test_majority_votes_on_the_patterns_first_group(pattern, expected):
    answers = [("a = 1, so b = 7", RIGHT), ("a = 2, so c = 7", RIGHT), ("a = 1, so b = 8", WRONG)]
    if pattern is None:
        answers[1] = ("a = 2, so c = 7", WRONG)
    script = Script([[("1", RIGHT)]], [answers])
    metrics, _ = evaluate(script, PROMPTS[:1], Evaluation(samples=3, answer_pattern=pattern), PARAMS)
    assert metrics["eval/maj@3"] == pytest.approx(expected)


def numbered(groups: Sequence[Group]) -> list[list[int | None]]:
    """Answers by the length of the text; a text of one letter is none."""
    return [[len(t.text) if len(t.text) > 1 else None for t in group.trajectories] for group in groups]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([("ab", RIGHT), ("cd", RIGHT), ("abc", WRONG), ("x", FAILED)], 1.0),  # two answers of two letters
        ([("ab", RIGHT), ("a", WRONG), ("b", WRONG), ("c", WRONG)], 1.0),  # three without an answer are no majority
        ([("a", WRONG), ("b", WRONG)], 0.0),
    ],
)
def test_majority_votes_on_the_answers_that_the_verifier_tells_apart(texts, expected):
    script = Script([[("1", RIGHT)]], [texts])
    metrics, _ = evaluate(script, PROMPTS[:1], Evaluation(samples=4), PARAMS, {ACTOR: numbered})
    assert metrics["eval/maj@4"] == expected


def test_a_pattern_of_the_recipe_goes_before_the_verifiers_answers():
    script = Script([[("1", RIGHT)]], [[("ab", RIGHT), ("ac", WRONG), ("xc", WRONG)]])
    settings = Evaluation(samples=3, answer_pattern=".$")
    # by the last letter: c twice, wrong; by length all three would be the same
    assert evaluate(script, PROMPTS[:1], settings, PARAMS, {ACTOR: numbered})[0]["eval/maj@3"] == 0.0


def test_what_nothing_is_left_for_is_not_reported_as_zero():
    script = Script([[("1", FAILED)]] * 3, [[("1", FAILED)] * 2] * 3)
    metrics, _ = evaluate(script, PROMPTS, Evaluation(samples=2), PARAMS)
    assert metrics == {"eval/prompts": 3.0, "eval/failures": 9.0}


def test_without_a_verifier_there_is_a_reward_and_no_accuracy():
    script = Script([[("12", UNJUDGED)]] * 3)
    metrics, _ = evaluate(script, PROMPTS, Evaluation(), PARAMS)
    assert "eval/accuracy" not in metrics
    assert (metrics["eval/reward"], metrics["eval/completion_tokens"]) == (0.25, 2.0)


def test_each_author_is_measured_on_its_own_groups_and_is_greedy_in_its_own_way():
    """The critic speaks of two of three prompts; each author keeps its own limit and stop strings."""

    class Discussed(Script):
        def sample(self, prompts: Sequence[Prompt], *, group_size: int, params: SamplingParams) -> list[Group]:
            found = []
            for group in super().sample(prompts, group_size=group_size, params=params):
                found.append(group)
                if group.prompt.id != "p2":
                    found.append(
                        Group(group.prompt, [trajectory(group.prompt, "ab", WRONG, "critic")] * group_size, "critic")
                    )
            return found

    others = {"critic": SamplingParams(max_tokens=3, temperature=0.9, top_p=0.5, stop=("!",))}
    answers = [[("1", RIGHT)], [("1", WRONG)], [("1", RIGHT)]]
    script = Discussed(answers, [group * 2 for group in answers])
    metrics, groups = evaluate(script, PROMPTS, Evaluation(samples=2, temperature=0.6), replace(PARAMS, others=others))
    assert metrics["eval/accuracy"] == pytest.approx(2 / 3)
    assert metrics["eval/pass@2"] == pytest.approx(2 / 3)
    assert metrics["eval/completion_tokens"] == 1.0
    assert (metrics["critic/eval/accuracy"], metrics["critic/eval/completion_tokens"]) == (0.0, 2.0)
    assert metrics["critic/eval/maj@2"] == 0.0
    assert len(groups) == 10
    asked = [params.others["critic"] for _, params in script.calls]
    assert [(p.temperature, p.top_p, p.max_tokens, p.stop) for p in asked] == [
        (0.0, 1.0, 3, ("!",)),
        (0.6, 1.0, 3, ("!",)),
    ]


def test_a_reward_of_weight_0_is_measured_apart_with_the_errors_of_both():
    """Greedy rewards 1, 0, 0.25 and audits, the lengths: 3, 1, 8; a failed answer counts in neither."""

    class Audited(Script):
        def sample(self, prompts, *, group_size, params):
            groups = super().sample(prompts, group_size=group_size, params=params)
            for one in (one for group in groups for one in group.trajectories if one.failure is None):
                one.scores["length"] = Score(float(len(one.text)))
            return groups

    script = Audited(
        [[("abc", RIGHT)], [("a", WRONG)], [("abcdefgh", UNJUDGED)]],
        [[("abcd", RIGHT)], [("ab", WRONG)], [("x", FAILED)]],
    )
    asked = []

    def divergence(groups):
        asked.append([len(group.trajectories) for group in groups])
        return 1.5

    settings = Evaluation(samples=1)
    metrics, _ = evaluate(script, PROMPTS, settings, PARAMS, divergences={ACTOR: divergence})
    # squared distances to the means 5/12 and 4, over 2 degrees of freedom and 3 prompts
    assert metrics["eval/reward_error"] == pytest.approx((((7 / 12) ** 2 + (5 / 12) ** 2 + (2 / 12) ** 2) / 6) ** 0.5)
    assert metrics["eval/audit/length"] == 4.0
    assert metrics["eval/audit_error/length"] == pytest.approx(((1 + 9 + 16) / 6) ** 0.5)
    assert (metrics["eval/sampled_reward"], metrics["eval/sampled_audit/length"]) == (0.5, 3.0)
    assert metrics["eval/kl"] == 1.5 and asked == [[1, 1, 0]]
    assert "eval/audit/reward" not in metrics


class Trees:
    """Answers greedily with one tree, and then with the drafts of several samples."""

    def __init__(self, greedy: list[Trajectory], sampled: list[Trajectory]):
        self.trees = [greedy, sampled]

    def sample(self, prompts: Sequence[Prompt], *, group_size: int, params: SamplingParams) -> list[Group]:
        groups: dict[tuple[str, int], list[Trajectory]] = {}
        for one in trees.all_of(*self.trees.pop(0)):
            groups.setdefault((one.author, id(one.parent)), []).append(one)
        return [Group(trees.PROMPT, own, author) for (author, _), own in sorted(groups.items(), key=lambda e: e[0][0])]


def test_trees_are_measured_by_author_and_votes_on_their_drafts():
    greedy = trees.answer("8")
    trees.answer("7", parent=trees.critique("wrong", greedy))
    drafts = [trees.answer(text) for text in ("8", "8", "7", "9")]
    for draft in drafts:
        said = trees.critique("right" if draft.text == "7" else "wrong", draft)
        trees.answer("9", parent=said)
    metrics, groups = evaluate(Trees([greedy], drafts), [trees.PROMPT], Evaluation(samples=4), PARAMS)
    assert len(groups) == 3 + 9
    expected = {
        "eval/accuracy": 1.0,  # of the refinement; the draft's is accuracy_before
        "eval/accuracy_before": 0.0,
        "eval/accuracy_after": 1.0,
        "eval/wrong_to_right": 1.0,
        "eval/refinements_changed": 1.0,
        "eval/pass@4": 1.0,  # of drafts
        "eval/maj@4": 0.0,
        "eval/filtered_maj@4": 1.0,
        "critiquer/eval/verdict_accuracy": 1.0,
        "critiquer/eval/verdict_recall": 1.0,
        "critiquer/eval/verdicts_alike": 1.0,
    }
    assert {name: metrics.get(name) for name in expected} == expected
    assert not [name for name in metrics if "verdict" in name and not name.startswith("critiquer/")]


def test_votes_of_drafts_are_on_the_answers_that_a_pattern_reads():
    drafts = [trees.answer(text) for text in ("7", "7")]
    drafts[0].text, drafts[1].text = "it is 7", "so 7"
    trees.answer("7", parent=trees.critique("right", drafts[0]))
    settings = Evaluation(samples=2, answer_pattern=r"(\d)")
    metrics, _ = evaluate(Trees([trees.answer("8")], drafts), [trees.PROMPT], settings, PARAMS)
    assert metrics["eval/filtered_maj@2"] == 1.0 and "eval/refinements_changed" not in metrics
