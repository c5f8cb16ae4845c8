"""Episodes of a run, printed as trees."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import trees
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.evaluation.show import show
from llmrl.run_folder.writer import RunFolder
from llmrl.types import ENVIRONMENT, Group, Prompt, Score, Trajectory, Turn


@pytest.fixture
def run(tmp_path) -> Path:
    """Step 2 has two trees and a plain answer; step 5 an answer with characters that steer a terminal."""
    folder = RunFolder(tmp_path / "run", writes=True)
    folder.start("name: small\nstages: {rl: {}}\n", {"command": ["llmrl"], "python": "3", "packages": {}})
    mended, spoilt = trees.answer("8"), trees.answer("7", prompt=Prompt("p1", (1,), "5+2=", {"answer": "7"}))
    trees.answer("7", parent=trees.critique("wrong", mended))
    trees.answer("!", parent=trees.critique("unreadable", mended))
    trees.answer("9", parent=trees.critique("wrong", spoilt))
    groups = [Group(tree[0].prompt, tree) for tree in (mended.below, spoilt.below)]
    folder.save_rollouts(groups, stage="rl", step=2)
    prompt = Prompt("p2", (1,), "clear:\x1b[2J", {"answer": "7"})
    turns = [
        Turn("actor", [1], text="a\n\x07b[red]"),
        Turn(ENVIRONMENT, [2], text="no"),
        Turn("actor", [3], text="7\r"),
    ]
    plain = Trajectory(prompt, turns, "stop", "7\r", reward=0.5)
    plain.scores = {"verifier": Score(1.0, True), "shape": Score(-0.5)}
    folder.save_rollouts([Group(prompt, [plain])], stage="rl", step=5)
    folder.save_rollouts([Group(prompt, [plain])], stage="rl", step=5, kind="eval")
    return folder.path


def shown(run: Path, **asked) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    settings = {"stage": None, "step": None, "evaluation": False, "count": 3, "where": None, "characters": 2000}
    show(run, console, **(settings | asked))
    return console.export_text()


def test_a_tree_shows_who_said_what_and_what_it_earned(run):
    lines = [line.rstrip() for line in shown(run, step=2, count=1).splitlines()]
    assert lines == [
        "step 2 of rl: 2 episodes",
        "",
        "question p0, expected answer 7",
        "3+4=",
        "└── draft by actor: wrong, reward 0.000",
        "    8",
        "    ├── critique by critiquer: says wrong, reward 1.000",
        "    │   It is wrong.",
        "    │   └── refinement by actor: right, reward 1.000",
        "    │       7",
        "    └── critique by critiquer: an unreadable verdict, reward 0.000",
        "        It is unreadable.",
        "        └── refinement by actor: failed",
        "            !",
        "            math_verifier timeout: too slow",
    ]


@pytest.mark.parametrize(
    ("where", "questions"),
    [
        ("wrong_to_right", ["p0"]),
        ("right_to_wrong", ["p1"]),
        ("right_to_right", []),
        ("wrong", ["p0", "p1"]),
        ("says_wrong", ["p0", "p1"]),
        ("says_right", []),
        ("unreadable", ["p0"]),
        ("failed", ["p0"]),
    ],
)
def test_episodes_are_chosen_by_what_happened_in_them(run, where, questions):
    text = shown(run, step=2, where=where)
    assert [name for name in ("p0", "p1") if f"question {name}," in text] == questions
    assert f"2 episodes, {len(questions)} with {where}" in text


def test_characters_that_steer_a_terminal_are_escaped_and_markup_is_text(run):
    text = shown(run)
    assert not set(text) & {"\x1b", "\x07", "\r"}
    assert "clear:\\x1b[2J" in text and "\\x07b[red]" in text and "actor: 7\\r" in text and "environment: no" in text
    assert "answer by actor: right, reward 0.500 (verifier 1.000, shape -0.500)" in text


def test_the_last_step_is_shown_and_its_evaluation_if_asked(run):
    assert shown(run).startswith("step 5 of rl: 1 episodes\n")
    assert shown(run, evaluation=True).startswith("step 5 of rl, evaluation: 1 episodes\n")


def test_long_texts_are_cut_in_their_middle(run):
    assert "cl [6 characters] 2J" in shown(run, characters=4)


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        ({"step": 4}, "--step: no rollouts of training of step 4 of stage rl; the nearest is step 5"),
        ({"step": 1, "evaluation": True}, "--step: no evaluations of step 1 of stage rl; the nearest is step 5"),
        ({"stage": "lr"}, "--stage: no stage with rollouts of training named 'lr'; valid: rl"),
        ({"where": "wrong_to_rigth"}, "--where: no condition named 'wrong_to_rigth'; did you mean 'wrong_to_right'?"),
    ],
)
def test_what_is_not_there_is_named_with_what_is_near(run, asked, fault):
    with pytest.raises(RecipeError) as error:
        shown(run, **asked)
    assert error.value.faults == [fault]


def test_a_missing_run_is_told_with_the_nearest_one(run):
    with pytest.raises(RecipeError) as error:
        shown(run.parent / "rnu")
    assert error.value.faults == [f"RUN: no folder '{run.parent}/rnu'; did you mean '{run}'?"]


def test_a_folder_without_rollouts_is_no_run(tmp_path):
    for folder, fault in ((tmp_path / "gone", "no folder"), (tmp_path, "holds no rollouts of training")):
        with pytest.raises(RecipeError, match=fault):
            shown(folder)
