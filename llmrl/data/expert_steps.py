"""The turns of written conversations, each as a question of its own: what stood before it, and what the expert said."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.columns import as_json, column
from llmrl.data.files import Row
from llmrl.data.messages import are_messages, messages_of

ASSISTANT = "assistant"


def expert_steps(rows: Sequence[Row], *, messages: str = "messages", least_turn: int = 0) -> list[Row]:
    """A row for each turn of an expert in conversations: the messages before it as `prompt`, its text as `completion`.

    A policy that is asked these acts in the expert's states, and its own action may be compared with the expert's
    (method stepagent), or imitate it. messages: the column of the conversation. least_turn: the first of the expert's
    turns that makes a row, counted from 0. Turns that call tools have no text to compare and make none, and what stands
    before the first user's message does neither. The made rows have `turn` and `turns`, the turn's place and how many
    there are, and a `label`, true. Raises ValueError for a column that holds no messages, and where no row is made.
    Source: From Novice to Expert, arXiv 2411.03817.
    """
    made: list[Row] = []
    for number, row in enumerate(rows):
        given = as_json(column(row, messages))
        if not are_messages(given):
            raise ValueError(f"row {number}: column '{messages}' holds no list of messages")
        said = messages_of(given)
        places = [place for place, one in enumerate(said) if one["role"] == ASSISTANT]
        for turn, place in enumerate(places):
            text, before = said[place].get("content") or "", said[:place]
            if turn < least_turn or not text or said[place].get("tool_calls") or not _asked(before):
                continue
            own = {name: value for name, value in row.items() if name != messages.partition(".")[0]}
            made.append(
                {**own, "prompt": before, "completion": text, "label": True, "turn": turn, "turns": len(places)}
            )
    if not made:
        raise ValueError(f"no turn of an {ASSISTANT} with a text follows a user's in column '{messages}'")
    return made


def _asked(before: Sequence[Row]) -> bool:
    """Whether somebody else than a system prompt has spoken."""
    return any(one["role"] in ("user", "tool") for one in before)
