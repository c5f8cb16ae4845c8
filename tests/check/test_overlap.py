"""Questions that stages share: counted exactly, with the seed that would part them."""

from __future__ import annotations

import io
from typing import Any

import pytest
from reasoning_gym import create_dataset
from rich.console import Console

from llmrl.check.overlap import Asked, check_overlap, seeds_overlap, way_out
from llmrl.check.report import Report
from llmrl.data.prompts import LoadedPrompts
from llmrl.recipe_rows import Data, Rows
from llmrl.types import Prompt

TASK = {"task": "chain_sum", "size": 100}


def data(train: dict[str, Any], held_out: dict[str, Any] | None = None) -> Data:
    return Data(train=Rows(**train), eval=Rows(**held_out) if held_out else None)


def loaded(train: str, held_out: str = "") -> LoadedPrompts:
    """One question for each letter."""
    questions = {f"train:{i}": q for i, q in enumerate(train)} | {f"eval:{i}": q for i, q in enumerate(held_out)}
    prompts = {place: Prompt(place, (1,), "", {}) for place in questions}
    return LoadedPrompts(
        [p for place, p in prompts.items() if place.startswith("train")],
        [p for place, p in prompts.items() if place.startswith("eval")],
        questions=questions,
    )


def found(first: dict[str, Any], then: Data, prompts: LoadedPrompts, asked: str = "abc") -> tuple[list[str], str]:
    out = io.StringIO()
    report = Report(Console(file=out, width=200))
    check_overlap(then, prompts, {"warm": Asked.of(data(first), loaded(asked))}, report)
    return report.warnings, out.getvalue()


def test_near_seeds_are_warned_of_with_a_seed_that_is_far_enough():
    warnings, _ = found(TASK | {"seed": 1}, data(TASK | {"seed": 2}), loaded("bcde"))
    assert warnings == [
        "data.train: 2 of 4 questions are trained on in stage warm too; near seeds give the same rows, shifted: "
        "set data.train.seed to 101 or more"
    ]


def test_chance_and_the_same_file_are_told_without_a_warning():
    for first, then in ((TASK | {"seed": 1}, TASK | {"seed": 101}), ({"path": "a.jsonl"}, {"path": "a.jsonl"})):
        warnings, report = found(first, data(then), loaded("cd"))
        assert warnings == [] and "data.train: 1 of 2 questions are trained on in stage warm too" in report


def test_other_files_and_questions_of_eval_are_warned_of():
    warnings, _ = found({"path": "a.jsonl"}, data({"path": "b.jsonl"}, {"path": "c.jsonl"}), loaded("ax", "bcz"))
    assert warnings == [
        "data.train: 1 of 2 questions are trained on in stage warm too",
        "data.eval: 2 of 3 questions are trained on in stage warm too",
    ]


def test_nothing_shared_is_not_mentioned():
    assert found(TASK, data(TASK), loaded("xyz")) == ([], "")


@pytest.mark.parametrize(("seed", "near"), [(0, False), (1, True), (50, True), (149, True), (150, False)])
def test_seeds_nearer_than_the_size_overlap(seed, near):
    other = Rows(task="chain_sum", seed=50, size=100)
    assert seeds_overlap(Rows(task="chain_sum", seed=seed, size=50), other) is near
    assert not seeds_overlap(Rows(task="gcd", seed=50, size=50), other)
    assert not seeds_overlap(Rows(path="a", seed=50), Rows(path="a", seed=50))
    assert not seeds_overlap(Rows(task="own:rows", seed=50), Rows(task="own:rows", seed=50))
    assert way_out("data.train.seed", other).endswith("set data.train.seed to 150 or more")


@pytest.mark.parametrize("task", ["chain_sum", "word_ladder", "maze"])
def test_row_i_of_the_next_seed_is_row_i_plus_1(task):
    one, following, far = (create_dataset(task, size=5, seed=seed) for seed in (7, 8, 12))
    assert [following[i]["question"] for i in range(4)] == [one[i + 1]["question"] for i in range(4)]
    assert {far[i]["question"] for i in range(5)}.isdisjoint(one[i]["question"] for i in range(5))
