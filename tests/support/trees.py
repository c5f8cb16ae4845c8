"""Finished trees of drafts, critiques and refinements, built by hand."""

from __future__ import annotations

from llmrl.types import ACTOR, Failure, Prompt, Score, Trajectory, Turn

CRITIQUER = "critiquer"
PROMPT = Prompt("p0", (1,), "3+4=", {"answer": "7"})


def answer(text: str, *, parent: Trajectory | None = None, move: str = "", prompt: Prompt = PROMPT) -> Trajectory:
    """An answer that is right if it is the row's; "!" fails."""
    made = _made(text, ACTOR, move or ("refinement" if parent else "draft"), parent, prompt)
    right = text == prompt.row["answer"]
    made.scores, made.reward = {"math_verifier": Score(float(right), right)}, float(right)
    if text == "!":
        made.failure, made.scores = Failure("math_verifier", "timeout", "too slow"), {}
    return made


def critique(verdict: str, draft: Trajectory, author: str = CRITIQUER) -> Trajectory:
    """A critique that says right, wrong, or something unreadable of a draft."""
    made = _made(f"It is {verdict}.", author, "critique", draft, draft.prompt)
    agrees = verdict == ("right" if draft.correct else "wrong")
    made.scores = {"discrimination": Score(float(agrees), agrees, verdict=verdict)}
    made.reward = float(agrees)
    return made


def _made(text: str, author: str, move: str, parent: Trajectory | None, prompt: Prompt) -> Trajectory:
    turn = Turn(author, [5] * len(text), [-0.5] * len(text), text=text)
    made = Trajectory(prompt, [turn], "stop", text, author=author)
    made.move, made.parent, made.node = move, parent, "0"
    if parent is not None:
        made.node = f"{parent.node}/{move}.{sum(one.move == move for one in parent.children)}"
        parent.children.append(made)
    return made


def all_of(*roots: Trajectory) -> list[Trajectory]:
    """The roots and all that is below them."""
    return [one for root in roots for one in root.below]
