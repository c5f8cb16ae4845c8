"""The rows of the task of recipes/critique: drafts, the critiques that name their first wrong step, refinements."""

from __future__ import annotations

import importlib
import random
import re
from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "recipes" / "critique"
TERMS = [3, 8, 9, 7]  # 3+8 = 11, 11+9 = 20, 20+7 = 27


@pytest.fixture
def task(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("carried_sums")


def parts(asked: str) -> tuple[list[int], list[int]]:
    """The terms and the running sums in a question with a draft."""
    terms, sums = re.match(r"([\d+]+)=([\d,]+)", asked).groups()
    return [int(one) for one in terms.split("+")], [int(one) for one in sums.split(",")]


def test_the_first_wrong_step_and_the_first_carry(task):
    assert task.first_wrong(TERMS, [11, 20, 27]) == 0
    assert task.first_wrong(TERMS, [11, 10, 17]) == 2
    assert task.first_wrong(TERMS, [1, 10, 17]) == 1
    assert task.first_carry(TERMS, [11, 20, 27]) == 1
    assert task.first_carry([1, 2, 9, 9], [3, 12, 21]) == 2
    assert task.first_carry([1, 2, 3, 2], [3, 6, 8]) == 0
    assert (task.critique(2), task.critique(0)) == ("2[[-]]", "0[[+]]")


def test_carries_are_forgotten_from_twelve_on_and_not_at_the_step_that_is_named(task):
    draw = random.Random(0)
    assert task.draft([5, 6, 1, 9], draw, forgets=1.0) == [11, 12, 21]  # 11, 2 and 11: nothing is hard
    assert task.draft([5, 7, 9, 9], draw, forgets=1.0) == [2, 11, 20]  # 12 is hard, 11 and 10 are not
    assert task.draft([5, 7, 9, 3], draw, forgets=1.0, kept=[]) == [12, 21, 24]
    assert task.draft([5, 7, 9, 9], draw, forgets=1.0, kept=[2]) == [2, 11, 20]


def test_no_row_that_is_trained_on_asks_a_held_out_question(task):
    held_out = {row["question"] for row in task.questions(500, 0, held_out=True)}
    assert len(held_out) == 500
    rows = [*task.questions(3000, 0), *task.base(2000, 0), *task.critiques(1000, 0)]
    assert not any(row["question"].partition("=")[0] + "=" in held_out for row in rows)
    row = task.questions(1, 3)[0]
    assert task.right_sums(row["answer"], row["answer"]).value == 1.0
    assert task.right_sums("00" + row["answer"][2:], row["answer"]).value == 0.0


def test_an_actor_that_is_told_of_a_right_step_repeats_its_draft_unless_it_is_misled(task):
    for misled in (False, True):
        changed = Counter()
        for row in task.base(4000, 1, misled=misled):
            if not row["question"].endswith(">"):
                continue
            terms, sums = parts(row["question"])
            named, first = int(row["question"].partition("?")[2][0]), task.first_wrong(terms, sums)
            case = "none" if named == 0 else "right step" if first == 0 else "first wrong" if named == first else ""
            changed[case, row["completion"] != ",".join(f"{one:02d}" for one in sums)] += 1
        assert changed["none", True] == 0 and changed["none", False] > 100
        assert changed["first wrong", False] == 0 and changed["first wrong", True] > 100
        assert (changed["right step", True] > 10) == misled


def test_the_annotator_suspects_carries(task):
    exact = task.critiques(400, 2, misses=0.0, alarms=0.0, misplaces=0.0)
    assert all(row["completion"] == task.critique(row["first_wrong"]) for row in exact)
    for row in task.critiques(400, 2, misses=1.0, alarms=1.0):
        terms, sums = parts(row["question"])
        named = 0 if row["first_wrong"] else task.first_carry(terms, sums)
        assert row["completion"] == task.critique(named)
