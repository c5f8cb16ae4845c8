"""Rollouts as rows: a trajectory is a row, and every file of every run has the same columns of the same types."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from llmrl.run_folder.layout import Kind
from llmrl.types import ENVIRONMENT, Failure, Group, Prompt, Score, Trajectory, Turn

TURN = pa.struct(
    {
        "author": pa.string(),
        "text": pa.string(),
        "token_ids": pa.list_(pa.int64()),
        "rollout_logprobs": pa.list_(pa.float64()),
        "reward": pa.float64(),
        "restarts": pa.bool_(),
        "state": pa.string(),
        "action": pa.string(),
        "valid": pa.bool_(),
        "seconds": pa.float64(),
    }
)
SCHEMA = pa.schema(
    {
        "stage": pa.string(),
        "step": pa.int64(),
        "kind": pa.string(),
        "prompt_id": pa.string(),
        "episode": pa.int64(),
        "author": pa.string(),
        "compared": pa.string(),
        "move": pa.string(),
        "node": pa.string(),
        "parent": pa.string(),
        "verdict": pa.string(),
        "writer": pa.string(),
        "prompt": pa.string(),
        "prompt_token_ids": pa.list_(pa.int64()),
        "completion": pa.string(),
        "answer": pa.string(),
        "reward": pa.float64(),
        "correct": pa.bool_(),
        "solved": pa.bool_(),
        "hidden": pa.string(),
        "measured": pa.string(),
        "scores": pa.string(),
        "outcomes": pa.string(),
        "stop_reason": pa.string(),
        "failure": pa.string(),
        "policy_version": pa.int64(),
        "turns": pa.list_(TURN),
        "rollout_logprobs": pa.list_(pa.float64()),
    }
)
"""The types are explicit because an inferred one depends on the step: a column without a value has another type."""
_FAILURE = re.compile(r"(?P<source>.+?) (?P<kind>timeout|crash|invalid): (?P<message>.*)", re.DOTALL)


def table_of(groups: Sequence[Group], *, stage: str, step: int, kind: Kind) -> pa.Table:
    """Every trajectory of the groups as a row, those in `besides` too."""
    rows = [
        row_of(group, trajectory, stage=stage, step=step, kind=kind)
        for group in groups
        for trajectory in (*group.trajectories, *group.besides)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def row_of(group: Group, trajectory: Trajectory, *, stage: str, step: int, kind: Kind) -> dict[str, Any]:
    """A trajectory's row. episode: the episode's number, -1 for a trajectory of `besides`.

    move, node: empty for a recipe without moves; parent: the node that the trajectory follows, None of a first answer.
    measured, scores and outcomes are JSON, since runs differ in them. policy_version is the oldest turn's.
    """
    failure, scores = trajectory.failure, trajectory.scores
    return {
        "stage": stage,
        "step": step,
        "kind": kind,
        "prompt_id": group.prompt.id,
        "episode": _place(group, trajectory),
        "author": trajectory.author,
        "compared": trajectory.compared,
        "move": trajectory.move,
        "node": trajectory.node,
        "parent": trajectory.parent.node if trajectory.parent else None,
        "verdict": trajectory.verdict,
        "writer": trajectory.writer,
        "prompt": trajectory.prompt.text,
        "prompt_token_ids": list(trajectory.prompt.token_ids),
        "completion": trajectory.text,
        "answer": str(group.prompt.row.get("answer", "")),
        "reward": trajectory.reward,
        "correct": trajectory.correct,
        "solved": trajectory.solved,
        "hidden": trajectory.hidden,
        "measured": json.dumps(trajectory.measured),
        "scores": json.dumps({name: score.value for name, score in scores.items()}),
        "outcomes": json.dumps({name: s.outcome for name, s in scores.items() if s.outcome is not None}),
        "stop_reason": trajectory.stop_reason,
        "failure": f"{failure.source} {failure.kind}: {failure.message}" if failure else None,
        "policy_version": min((t.policy_version for t in trajectory.turns if t.author != ENVIRONMENT), default=0),
        "turns": [{field.name: getattr(turn, field.name) for field in TURN} for turn in trajectory.turns],
        "rollout_logprobs": [logprob for turn in trajectory.turns for logprob in turn.rollout_logprobs],
    }


def with_all_columns(table: pa.Table, schema: pa.Schema = SCHEMA) -> pa.Table:
    """The table with the schema's columns; those that an earlier version of llmrl did not write are empty."""
    return pa.table(
        {
            field.name: _cast(table[field.name], field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in schema
        },
        schema=schema,
    )


def _cast(column: pa.ChunkedArray, to: pa.DataType) -> Any:
    """The column with a type; turns without some fields, as an earlier version wrote them, get empty ones."""
    if to == pa.list_(TURN) and column.type != to:
        return pa.array(column.to_pylist(), to)
    return column.cast(to)


def trajectories_of(rows: Sequence[Mapping[str, Any]]) -> list[Trajectory]:
    """The trajectories of a file's rows, in order, each with its parent and its children.

    What is not recorded is lost: of a prompt's row only the answer is there, and `correct` and the verdict are those of
    the first score. A prompt that was asked twice begins anew where one of its nodes comes again.
    """
    found: list[Trajectory] = []
    asked: dict[str, dict[str, Trajectory]] = {}
    waiting: list[tuple[Trajectory, str, dict[str, Trajectory]]] = []
    for row in rows:
        trajectory = _trajectory(row)
        found.append(trajectory)
        if not trajectory.node:
            continue
        if trajectory.node in asked.setdefault(row["prompt_id"], {}):
            asked[row["prompt_id"]] = {}
        nodes = asked[row["prompt_id"]]
        nodes[trajectory.node] = trajectory
        if row["parent"] is not None:
            waiting.append((trajectory, row["parent"], nodes))
    for trajectory, parent, nodes in waiting:
        if (above := nodes.get(parent)) is not None:
            trajectory.parent = above
            above.children.append(trajectory)
    return found


def _trajectory(row: Mapping[str, Any]) -> Trajectory:
    prompt = Prompt(row["prompt_id"], tuple(row["prompt_token_ids"]), row["prompt"], {"answer": row["answer"]})
    known = [{name: value for name, value in turn.items() if value is not None} for turn in row["turns"]]
    turns = [Turn(**turn) for turn in known]
    made = Trajectory(prompt, turns, row["stop_reason"], row["completion"], author=row["author"])
    outcomes = json.loads(row["outcomes"] or "{}")
    for place, (name, value) in enumerate(json.loads(row["scores"] or "{}").items()):
        correct, verdict = (None, None) if place else (row["correct"], row["verdict"])
        made.scores[name] = Score(value, correct, outcome=outcomes.get(name), verdict=verdict)
    made.solved, made.hidden, made.measured = row["solved"], row["hidden"], json.loads(row["measured"] or "{}")
    made.reward, made.compared, made.writer = row["reward"], row["compared"], row["writer"]
    made.move, made.node, made.failure = row["move"] or "", row["node"] or "", _failure(row["failure"])
    return made


def _failure(text: str | None) -> Failure | None:
    """The failure that `row_of` wrote as text."""
    if text is None:
        return None
    parts: Any = found.groupdict() if (found := _FAILURE.fullmatch(text)) else {}
    return Failure(**parts) if parts else Failure("unknown", "invalid", text)


def _place(group: Group, trajectory: Trajectory) -> int:
    place = next((place for place, one in enumerate(group.trajectories) if one is trajectory), -1)
    return trajectory.episode.number if trajectory.episode and place >= 0 else place
