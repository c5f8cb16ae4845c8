"""Pairs of answers to persuasion, made of trees of dialogues: to accept good reasons, and to resist bad ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, cast

from llmrl.columns import as_json, column
from llmrl.data.files import Row
from llmrl.errors import short

Node = Mapping[str, Any]
ACCEPT, RESIST = "accept", "resist"


def persuasion_pairs(
    rows: Sequence[Row],
    *,
    question: str = "question",
    tree: str = "turns",
    dialogue: Literal["messages", "text"] = "messages",
    balanced: bool = True,
) -> list[Row]:
    """The pairs of persuasion-balanced training (arXiv 2410.14596) in trees of dialogues between two speakers.

    A turn is {"text", "correct", "turns"}: whether the answer that it gives is right, and the turns that may follow it,
    which are the other speaker's. Of the turns that follow another, the one whose subtree has the most right turns is
    chosen, and the one whose subtree has the fewest is rejected, if that answer is right and the other wrong, and if

        resist   the speaker's own last answer was right, and the other speaker's turn between is wrong
        accept   the speaker's own last answer was wrong, and the other speaker's turn between is right

    The made rows have `kind` besides, and the chosen turn as `completion`. question, tree: the columns of the question
    and of its first turns. dialogue: messages, in which the speaker is the assistant, or a text, a line for each turn.
    balanced: keep as many of the one kind as of the other, since a model that only resists is stubborn. Raises
    ValueError for a tree of another form, and if no turn is such a pair.
    """
    made: list[Row] = []
    for number, row in enumerate(rows):
        asked = str(column(row, question))
        for path, chosen, rejected, kind in _pairs(_turns(column(row, tree), f"row {number}: {tree}"), ()):
            said = [one["text"] for one in path]
            made.append(
                {
                    **{name: value for name, value in row.items() if name != tree.partition(".")[0]},
                    "prompt": _messages(asked, said) if dialogue == "messages" else "\n".join((asked, *said, "")),
                    "chosen": chosen["text"],
                    "rejected": rejected["text"],
                    "completion": chosen["text"],
                    "kind": kind,
                }
            )
    if not made:
        raise ValueError("no turn accepts a good reason or resists a bad one beside a turn that does not")
    return _balanced(made) if balanced else made


def _pairs(turns: Sequence[Node], path: tuple[Node, ...]) -> Iterator[tuple[tuple[Node, ...], Node, Node, str]]:
    """Each pair below a path of turns, with the path before it and its kind."""
    if len(path) >= 2 and len(turns) > 1:
        best, worst = max(turns, key=right_turns), min(turns, key=right_turns)
        own, others = path[-2]["correct"], path[-1]["correct"]
        if right_turns(best) > right_turns(worst) and best["correct"] and not worst["correct"] and own != others:
            yield path, best, worst, RESIST if own else ACCEPT
    for turn in turns:
        yield from _pairs(turn["turns"], (*path, turn))


def right_turns(turn: Node) -> int:
    """The number of right turns in the subtree of a turn, itself included."""
    return int(turn["correct"]) + sum(map(right_turns, turn["turns"]))


def _turns(given: Any, where: str) -> list[Node]:
    listed = as_json(given)
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise ValueError(f"{where}: expected a list of turns, got {short(given)}")
    return [_turn(one, f"{where}.{number}") for number, one in enumerate(listed)]


def _turn(given: Any, where: str) -> Node:
    held = isinstance(given, Mapping) and isinstance(given.get("text"), str) and isinstance(given.get("correct"), bool)
    if not held:
        raise ValueError(f"{where}: expected a turn with text, correct (true or false) and turns, got {short(given)}")
    turn = cast(Node, given)
    return {
        "text": turn["text"],
        "correct": turn["correct"],
        "turns": _turns(turn.get("turns") or [], f"{where}.turns"),
    }


def _messages(question: str, said: Sequence[str]) -> list[dict[str, str]]:
    """The dialogue as the speaker of the next turn sees it: the other one's turns are the user's."""
    messages = [{"role": "user", "content": question}]
    for number, text in enumerate(said):
        role = "assistant" if (len(said) - number) % 2 == 0 else "user"
        if messages[-1]["role"] == role:  # the other speaker answered the question first
            messages[-1] = {"role": role, "content": f"{messages[-1]['content']}\n\n{text}"}
        else:
            messages.append({"role": role, "content": text})
    return messages


def _balanced(made: Sequence[Row]) -> list[Row]:
    """As many rows of each kind, chosen by their texts, in the order that they had; raises ValueError without one."""
    kinds = {kind: [number for number, row in enumerate(made) if row["kind"] == kind] for kind in (ACCEPT, RESIST)}
    if lacking := [kind for kind, numbers in kinds.items() if not numbers]:
        raise ValueError(f"no pair is of the kind {lacking[0]}; set balanced: false to learn from the other kind alone")
    count = min(map(len, kinds.values()))

    def rank(number: int) -> bytes:
        row = made[number]
        return hashlib.blake2b(repr((row["prompt"], row["chosen"], row["rejected"])).encode()).digest()

    left = sorted(number for numbers in kinds.values() for number in sorted(numbers, key=rank)[:count])
    return [made[number] for number in left]
