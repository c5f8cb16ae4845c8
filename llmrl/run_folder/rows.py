"""Rollouts as rows: a trajectory is a row, and every file of every run has the same columns of the same types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from llmrl.run_folder.layout import Kind
from llmrl.types import ENVIRONMENT, Group, Trajectory

TURN = pa.struct(
    {
        "author": pa.string(),
        "text": pa.string(),
        "token_ids": pa.list_(pa.int64()),
        "rollout_logprobs": pa.list_(pa.float64()),
        "reward": pa.float64(),
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
        "writer": pa.string(),
        "prompt": pa.string(),
        "prompt_token_ids": pa.list_(pa.int64()),
        "completion": pa.string(),
        "answer": pa.string(),
        "reward": pa.float64(),
        "correct": pa.bool_(),
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


def table_of(groups: Sequence[Group], *, stage: str, step: int, kind: Kind) -> pa.Table:
    """Every trajectory of the groups as a row, those in `besides` too."""
    rows = [
        row_of(group, trajectory, stage=stage, step=step, kind=kind)
        for group in groups
        for trajectory in (*group.trajectories, *group.besides)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def row_of(group: Group, trajectory: Trajectory, *, stage: str, step: int, kind: Kind) -> dict[str, Any]:
    """A trajectory's row. episode: the episode's number, -1 for a trajectory of `besides`. node: its place in the
    question's trees; that of the text which it follows stands before its last slash.

    scores and outcomes are JSON, since reward functions differ between runs. policy_version is the oldest turn's.
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
        "writer": trajectory.writer,
        "prompt": trajectory.prompt.text,
        "prompt_token_ids": list(trajectory.prompt.token_ids),
        "completion": trajectory.text,
        "answer": str(group.prompt.row.get("answer", "")),
        "reward": trajectory.reward,
        "correct": trajectory.correct,
        "scores": json.dumps({name: score.value for name, score in scores.items()}),
        "outcomes": json.dumps({name: s.outcome for name, s in scores.items() if s.outcome is not None}),
        "stop_reason": trajectory.stop_reason,
        "failure": f"{failure.source} {failure.kind}: {failure.message}" if failure else None,
        "policy_version": min((t.policy_version for t in trajectory.turns if t.author != ENVIRONMENT), default=0),
        "turns": [{field.name: getattr(turn, field.name) for field in TURN} for turn in trajectory.turns],
        "rollout_logprobs": [logprob for turn in trajectory.turns for logprob in turn.rollout_logprobs],
    }


def _place(group: Group, trajectory: Trajectory) -> int:
    place = next((place for place, one in enumerate(group.trajectories) if one is trajectory), -1)
    return trajectory.episode.number if trajectory.episode and place >= 0 else place
