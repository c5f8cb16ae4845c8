"""Trees of trajectories, written by hand: what roles wrote for one question, each text with all that follows it."""

from __future__ import annotations

from llmrl.types import Prompt, Score, Trajectory, Turn

PROMPT = Prompt("p", (1,), "?", {})


def text(move: str, *children: Trajectory, said: str = "", by: str | None = None, **scored: float | bool) -> Trajectory:
    """A text of a move, with what follows it.

    by: its author, else the one of the move's name; scored: its reward, or its verdict in place of one.
    """
    author = by or move
    made = Trajectory(PROMPT, [Turn(author, [2], text=said)], "stop", said, author=author, move=move)
    for name, value in scored.items():
        made.scores[name] = Score(float(value), value if isinstance(value, bool) else None)
        made.reward += float(value)
    made.children = list(children)
    for child in children:
        child.parent = made
    return made


def answers(*outcomes: float | bool, move: str = "answer") -> list[Trajectory]:
    """Texts that follow another one, each with its reward or verdict."""
    return [text(move, outcome=outcome) for outcome in outcomes]
