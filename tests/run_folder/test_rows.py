"""Rollouts as rows: what a row holds, and that other libraries read a whole run's rows as one table."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas
import pyarrow.dataset
import pyarrow.parquet
import pytest
import trees
from datasets import load_dataset

from llmrl.evaluation.critique import rates, tally
from llmrl.run_folder.rows import SCHEMA, row_of, table_of, trajectories_of
from llmrl.types import ENVIRONMENT, Episode, Failure, Group, Prompt, Trajectory, Turn, groups_of


def test_a_trajectory_is_a_row(group):
    right, failed = (row_of(group, t, stage="rl", step=3, kind="eval") for t in group.trajectories)
    assert list(right) == SCHEMA.names  # pyarrow drops what the schema does not name, and says nothing
    assert (right["stage"], right["step"], right["kind"]) == ("rl", 3, "eval")
    assert (right["prompt_id"], right["prompt"], right["prompt_token_ids"]) == ("train:3", "1+", [4, 5])
    assert (right["answer"], right["reward"], right["correct"], right["policy_version"]) == ("2", 1.0, True, 7)
    assert json.loads(right["scores"]) == {"verifier": 1.0, "shape": 0.0} and right["rollout_logprobs"] == [-0.5, -0.25]
    assert json.loads(right["outcomes"]) == {"verifier": "passed"} and json.loads(failed["outcomes"]) == {}
    assert (failed["failure"], failed["correct"], failed["stop_reason"]) == ("judge timeout: 10 s", None, "length")
    assert [(row["author"], row["episode"]) for row in (right, failed)] == [("actor", 0), ("actor", 1)]


def test_every_turn_has_its_author_text_tokens_logprobs_and_reward():
    prompt = Prompt("train:1", (4,), "7+", {})
    turns = [
        Turn("actor", [6, 1], [-0.5, -0.25], 9, reward=0.5, state="s", action="3", seconds=2.0),
        Turn(ENVIRONMENT, [8, 8, 8], restarts=True),
        Turn("actor", [2], [-1.0], 8, valid=False),
    ]
    for turn, text in zip(turns, ("3+", "no", "4"), strict=True):
        turn.text = text
    trajectory = Trajectory(prompt, turns, "stop", "4")
    row = row_of(Group(prompt, [trajectory]), trajectory, stage="rl", step=1, kind="train")
    names = ("author", "text", "token_ids", "rollout_logprobs", "reward", "restarts", "state", "action", "valid")
    assert [tuple(turn[name] for name in names) for turn in row["turns"]] == [
        ("actor", "3+", [6, 1], [-0.5, -0.25], 0.5, False, "s", "3", True),
        ("environment", "no", [8, 8, 8], [], None, True, None, None, True),
        ("actor", "4", [2], [-1.0], None, False, None, None, False),
    ]
    assert [turn["seconds"] for turn in row["turns"]] == [2.0, 0.0, 0.0]
    assert trajectories_of([row])[0].turns == [replace(turn, policy_version=0) for turn in turns]
    assert row["rollout_logprobs"] == [-0.5, -0.25, -1.0] and row["policy_version"] == 8


def test_what_was_sampled_besides_is_in_none_of_the_questions_episodes(group):
    greedy = Trajectory(group.prompt, [Turn("actor", [6])], "stop", "2")
    greedy.episode, group.besides = Episode(group.prompt, [greedy]), [greedy]
    table = table_of([group], stage="rl", step=1, kind="train")
    assert table["episode"].to_pylist() == [0, 1, -1]


def test_authors_of_one_episode_have_rows_with_contexts_of_their_own():
    question, context = Prompt("train:1", (4,), "7+", {"answer": "9"}), Prompt("train:1", (4, 8), "7+8?", {})
    episodes = []
    for number in (0, 1):
        answer = Trajectory(question, [Turn("actor", [8], [-0.5])], "stop", "8")
        critique = Trajectory(context, [Turn("critiquer", [1], [-0.1])], "stop", "!", author="critiquer")
        critique.compared, critique.move, critique.node = f"answer {number}", "critique", f"{number}/critique.0"
        answer.episode = critique.episode = Episode(question, [answer, critique], number)
        episodes.append(answer.episode)
    groups = [group for author in ("actor", "critiquer") for group in groups_of(question, episodes, author)]
    columns = ["prompt_id", "author", "episode", "compared", "move", "node", "prompt", "prompt_token_ids", "answer"]
    table = table_of(groups, stage="rl", step=1, kind="train").select(columns)
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        ("train:1", "actor", 0, "", "", "", "7+", [4], "9"),
        ("train:1", "actor", 1, "", "", "", "7+", [4], "9"),
        ("train:1", "critiquer", 0, "answer 0", "critique", "0/critique.0", "7+8?", [4, 8], "9"),
        ("train:1", "critiquer", 1, "answer 1", "critique", "1/critique.0", "7+8?", [4, 8], "9"),
    ]


@pytest.fixture
def run(folder, group):
    """Steps in which columns have no value at all: no verdict and a failure, then no failure, then no turn."""
    prompt = group.prompt
    failed = Trajectory(prompt, [], "stop", failure=Failure("environment", "crash", "ValueError: x"))
    shaped = Trajectory(prompt, [Turn("actor", [6, 1], [-0.5, -0.25], 7, reward=0.5)], "stop", "2", reward=0.25)
    for step, groups in enumerate(([Group(prompt, [failed, failed])], [Group(prompt, [shaped])], [group]), start=1):
        folder.save_rollouts(groups, stage="rl", step=step)
    folder.save_rollouts([group], stage="rl", step=3, kind="eval")
    (folder.path / "rollouts/.rl-000004.parquet.partial").write_text("half")
    return folder.path


def test_pandas_reads_a_whole_run(run):
    frame = pandas.read_parquet(run / "rollouts")
    assert len(frame) == 7 and frame.groupby("kind").size().to_dict() == {"train": 5, "eval": 2}
    assert frame["failure"].notna().sum() == 4 and frame["reward"].sum() == 2.25
    assert frame[frame["step"] == 2]["turns"].iloc[0][0]["token_ids"].tolist() == [6, 1]


def test_pyarrow_reads_a_whole_run(run):
    dataset = pyarrow.dataset.dataset(run / "rollouts")
    assert dataset.schema == SCHEMA
    found = dataset.to_table(filter=pyarrow.dataset.field("failure").is_null(), columns=["step", "correct"])
    assert found.to_pylist() == [
        {"step": 2, "correct": None},
        *({"step": 3, "correct": True} for _ in range(2)),
    ]


def test_datasets_reads_a_whole_run(run, tmp_path):
    splits = load_dataset("parquet", data_dir=str(run / "rollouts"), cache_dir=str(tmp_path / "cache"))
    assert list(splits) == ["train"]
    rows = splits["train"]
    assert rows.column_names == SCHEMA.names and len(rows) == 7
    assert sorted(row["step"] for row in rows if row["failure"]) == [1, 1, 3, 3]
    [shaped] = [row for row in rows if row["step"] == 2]
    assert shaped["turns"][0]["rollout_logprobs"] == [-0.5, -0.25] and shaped["correct"] is None


def test_a_tree_comes_back_from_its_rows(folder):
    draft = trees.answer("8")
    says_right, says_wrong = trees.critique("right", draft), trees.critique("wrong", draft)
    trees.answer("7", parent=says_wrong)
    failed = trees.answer("!", parent=says_wrong)
    tree = trees.all_of(draft)
    groups = [Group(trees.PROMPT, [one for one in tree if one.author == author]) for author in ("actor", "critiquer")]
    folder.save_rollouts([*groups, *groups], stage="rl", step=1)  # the question was asked twice
    rows = folder.reader.rollouts().to_pylist()
    columns = ("node", "parent", "move", "verdict")
    assert {tuple(row[name] for name in columns) for row in rows} == {
        ("0", None, "draft", None),
        ("0/critique.0", "0", "critique", "right"),
        ("0/critique.1", "0", "critique", "wrong"),
        ("0/critique.1/refinement.0", "0/critique.1", "refinement", None),
        ("0/critique.1/refinement.1", "0/critique.1", "refinement", None),
    }
    found = trajectories_of(rows)
    roots = [one for one in found if one.parent is None]
    assert len(roots) == 2 and [len(root.below) for root in roots] == [5, 5]
    for one in roots[1].below:
        [same] = [other for other in tree if other.node == one.node]
        assert (one.text, one.correct, one.verdict, one.author) == (same.text, same.correct, same.verdict, same.author)
        assert (one.failure, one.reward, one.turns[0].token_ids) == (same.failure, same.reward, [5] * len(same.text))
        assert {name: score.value for name, score in one.scores.items()} == {
            name: score.value for name, score in same.scores.items()
        }
    assert failed.failure in [one.failure for one in found] and says_right.verdict == "right"
    assert rates(tally(found)) == rates(tally(tree))


def test_files_of_earlier_versions_have_empty_columns_for_what_they_lack(folder, group):
    folder.save_rollouts([group], stage="rl", step=1)
    folder.save_rollouts([group], stage="rl", step=2)
    file = folder.path / "rollouts" / "rl-000001.parquet"
    pyarrow.parquet.write_table(
        pyarrow.parquet.read_table(file).drop_columns(["move", "node", "parent", "verdict"]), file
    )
    table = folder.reader.rollouts()
    assert table.schema == SCHEMA and table["move"].to_pylist() == [None, None, "", ""]
    assert [one.text for one in trajectories_of(table.to_pylist())] == ["2", "2"] * 2
    assert folder.reader.rollouts(step=1, columns=["verdict", "reward"])["verdict"].to_pylist() == [None, None]
