"""Recorded trajectories under the goals that they reached, in place of those that they were given."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.data.files import Row
from llmrl.errors import short
from llmrl.templates import RowTemplate, Template

ASKED, FIRST = "asked", "first"
"""Columns of a relabelled row: its prompt as text, and the first token of the prompt that this text replaces."""


def with_hindsight(rows: Sequence[Row], goal: Template | None, reached: Template | None) -> list[Row]:
    """The rows of trajectories and, of those that were not solved, copies whose prompt names the goal that was reached.

    goal: how the prompt names the goal; reached: the same of the one that was reached: templates of the rollouts'
    columns. A copy earns 1 at its end and nothing before; its turns are those of the trajectory, token for token. There
    is none where the two texts are equal, or the context was made anew. Raises ValueError unless both templates or none
    are given, and for a prompt that does not hold its goal once. Source: hindsight experience replay, arXiv 1707.01495,
    of the goal at the end of an episode.
    """
    if (goal is None) != (reached is None):
        raise ValueError("goal and reached need each other; set both or none")
    if goal is None or reached is None:
        return list(rows)
    given, found = RowTemplate(goal), RowTemplate(reached)
    copies = [copy for row in rows if (copy := _relabelled(row, given, found))]
    return [*rows, *copies]


def _relabelled(row: Row, given: RowTemplate, found: RowTemplate) -> Row | None:
    restarts = any(turn.get("restarts") for turn in row["turns"])
    if row.get("solved") or restarts:
        return None
    old, new = given.fill(row), found.fill(row)
    if old == new:
        return None
    if not old or row["prompt"].count(old) != 1:
        raise ValueError(f"a prompt has to hold its goal {short(old)} once, got {short(row['prompt'])}")
    turns = [turn | {"reward": 0.0} for turn in row["turns"]]
    asked = {ASKED: row["prompt"].replace(old, new), FIRST: next(iter(row["prompt_token_ids"]), None)}
    return row | asked | {"prompt_token_ids": [], "turns": turns, "reward": 1.0}
