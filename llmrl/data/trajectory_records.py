"""Trajectories as records of JSON, and back: all that a batch, a critic's context and an episode's metrics read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from llmrl.types import Prompt, Score, Trajectory, Turn

PLAIN = (
    "stop_reason", "text", "components", "reward", "turn_rewards", "author", "compared", "writer", "move", "node",
    "solved", "hidden", "measured",
)  # fmt: skip
"""The fields of a Trajectory that are JSON as they are."""


def record_of(trajectory: Trajectory) -> dict[str, Any]:
    """A trajectory's record; what it follows and what follows it are left out, and values of a row that JSON lacks are
    written as text."""
    prompt = trajectory.prompt
    return {
        "prompt": {
            "id": prompt.id,
            "token_ids": list(prompt.token_ids),
            "text": prompt.text,
            "row": _plain(prompt.row),
            "messages": None if prompt.messages is None else _plain(prompt.messages),
        },
        "turns": [asdict(turn) for turn in trajectory.turns],
        "scores": {name: _plain(asdict(score)) for name, score in trajectory.scores.items()},
        "token_rewards": list(trajectory.token_rewards.items()),
        **{name: getattr(trajectory, name) for name in PLAIN},
    }


def trajectory_of(record: Mapping[str, Any]) -> Trajectory:
    """The trajectory whose record this is."""
    given = record["prompt"]
    messages = None if given["messages"] is None else tuple(given["messages"])
    prompt = Prompt(given["id"], tuple(given["token_ids"]), given["text"], given["row"], messages)
    return Trajectory(
        prompt,
        [Turn(**turn) for turn in record["turns"]],
        scores={name: _score(score) for name, score in record["scores"].items()},
        token_rewards={int(place): value for place, value in record["token_rewards"]},
        **{name: record[name] for name in PLAIN},
    )


def _score(given: Mapping[str, Any]) -> Score:
    known = {field.name for field in fields(Score)}
    found = {name: value for name, value in given.items() if name in known}
    found["turn_values"] = tuple(found["turn_values"])
    found["token_values"] = {int(place): value for place, value in found["token_values"].items()}
    return Score(**found)


def _plain(value: Any) -> Any:
    """The value as JSON has it: text for what JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
