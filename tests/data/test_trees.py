from __future__ import annotations

import random
from typing import Any

import pytest

from llmrl.data.helpful_critiques import helpful_critiques
from llmrl.data.transforms import TRANSFORMS
from llmrl.data.trees import improved_answers, trees_of
from llmrl.errors import RecipeError
from llmrl.pieces import resolve


def text(node: str, said: str, correct: bool | None = None, *, question: str = "q", **other: Any) -> dict[str, Any]:
    """A row of rollouts; a text's author read the question and all texts before."""
    move = node.rpartition("/")[2].partition(".")[0] if "/" in node else "draft"
    read = f"{question}>" + "".join(f"{part}>" for part in node.split("/")[:-1])
    row = {"stage": "samples", "step": 1, "kind": "train", "prompt_id": question, "prompt": read, "completion": said}
    row |= {"move": move, "node": node, "correct": correct, "failure": None, "stop_reason": "stop", "answer": "7"}
    return row | other


ROLLOUTS = [
    # the first draft is wrong and is refined rightly after its second critique
    text("0", "6", False), text("0/critique.0", "ok"), text("0/critique.1", "no"),
    text("0/critique.0/refinement.0", "6", False), text("0/critique.1/refinement.0", "=7", True),
    text("1", "7", True), text("1/critique.0", "ok"), text("1/critique.0/refinement.0", "7!", True),
    text("2", "5", False),
    # a question that only a critique solves, and one that nothing solves
    text("0", "1", False, question="r"), text("0/critique.0", "no", question="r"),
    text("0/critique.0/refinement.0", "7", True, question="r"),
    text("0", "1", False, question="s"), text("0/critique.0", "no", question="s"),
    text("0/critique.0/refinement.0", "2", False, question="s"),
]  # fmt: skip


def said(made: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(row["part"], row["prompt"], row["completion"]) for row in made]


class TestTrees:
    def test_texts_follow_each_other_in_whatever_order_the_rows_come(self):
        rows = list(ROLLOUTS)
        random.Random(3).shuffle(rows)
        trees = trees_of(rows)
        [first] = [one for one in trees["q>"] if one.row["node"] == "0"]
        assert sorted(one.row["completion"] for one in first.children) == ["no", "ok"]
        assert [one.right for one in first.following("refinement")].count(True) == 1
        assert {name: len(roots) for name, roots in trees.items()} == {"q>": 3, "r>": 1, "s>": 1}

    def test_trees_of_several_steps_are_apart(self):
        trees = trees_of([*ROLLOUTS[:3], *({**row, "step": 2} for row in ROLLOUTS[:2])])
        assert [len(root.children) for root in trees["q>"]] == [2, 1]

    def test_what_failed_or_was_cut_short_is_left_out_with_all_that_follows(self):
        failed = [{**row, "failure": "x"} if row["node"] == "0/critique.1" else row for row in ROLLOUTS[:5]]
        assert [one.row["node"] for one in trees_of(failed)["q>"][0].following("refinement")] == [
            "0/critique.0/refinement.0"
        ]
        assert trees_of([{**row, "stop_reason": "length"} for row in ROLLOUTS]) == {}
        assert trees_of([{**row, "kind": "eval"} for row in ROLLOUTS]) == {}


class TestImprovedAnswers:
    def test_right_drafts_or_else_right_refinements_are_kept_one_a_question(self):
        assert said(improved_answers(ROLLOUTS)) == [
            ("direct", "q>", "7"),
            ("direct", "r>", "7"),
            ("refined", "q>1>critique.0>", "7!"),
            ("refined", "r>0>critique.0>", "7"),
        ]

    def test_of_several_drafts_the_right_ones_go_first(self):
        made = improved_answers(ROLLOUTS, per_question=None)
        assert said(made)[:3] == [("direct", "q>", "7"), ("direct", "q>", "=7"), ("direct", "r>", "7")]
        assert {(row["weight"], row["answer"]) for row in made} == {(1.0, "7")}

    def test_the_weights_make_the_mean_over_rows_a_mixture_of_parts(self):
        given = [{"prompt": "hello", "completion": "hi"}]
        made = improved_answers([*ROLLOUTS, *given], weights={"direct": 0.6, "refined": 0.6, "given": 0.4})
        # 5 rows: 0.6 * 5/2 twice, as much for the refined ones, 0.4 * 5/1 for the given one
        assert [row["weight"] for row in made] == pytest.approx([1.5, 1.5, 1.5, 1.5, 2.0])
        assert sum(row["weight"] for row in made) / 5 == pytest.approx(1.6)
        assert made[-1] == {"answer": None, "prompt": "hello", "completion": "hi", "part": "given", "weight": 2.0}
        alone = improved_answers([*ROLLOUTS, *given], weights={"direct": 1.0, "refined": 0.0})
        assert said(alone) == [("direct", "q>", "7"), ("direct", "r>", "7")]

    def test_a_part_without_rows_and_rollouts_without_right_answers_are_refused(self):
        with pytest.raises(ValueError, match=r"weights.given: 0.4, but there are no rows of this part"):
            improved_answers(ROLLOUTS, weights={"direct": 0.6, "given": 0.4})
        with pytest.raises(ValueError, match="no right answer"):
            improved_answers(ROLLOUTS, draft="drafts")
        with pytest.raises(RecipeError, match=r"no part named 'direkt'; did you mean 'direct'"):
            resolve({"improved_answers": {"weights": {"direkt": 1}}}, TRANSFORMS, key="t", what="transform")


class TestHelpfulCritiques:
    def test_critiques_before_a_right_refinement_are_imitated_without_what_their_author_was_told(self):
        told = [{**row, "prompt": row["prompt"] + "hint>"} if "critique." in row["node"] else row for row in ROLLOUTS]
        made = helpful_critiques(told, ask="{prompt}{draft}?")
        assert [(row["prompt"], row["completion"]) for row in made] == [("q>6?", "no"), ("q>7?", "ok"), ("r>1?", "no")]

    def test_of_one_draft_only_the_first_are_kept_and_no_thoughts_are_shown(self):
        more = [text("0/critique.2", "no!"), text("0/critique.2/refinement.0", "7", True)]
        rows = [{**row, "completion": "hm</think>6"} if row["node"] == "0" else row for row in [*ROLLOUTS[:5], *more]]
        made = helpful_critiques(rows, ask="{draft}?", thoughts_end="</think>")
        assert [(row["prompt"], row["completion"]) for row in made] == [("6?", "no"), ("6?", "no!")]
        assert len(helpful_critiques(rows, ask="{draft}?", per_draft=1)) == 1

    def test_rollouts_in_which_no_critique_helped_are_refused(self):
        with pytest.raises(ValueError, match="no critique after which a refinement is right"):
            helpful_critiques(ROLLOUTS[-3:], ask="{draft}?")
