"""The turns of a run's rollouts as rows, by the exact tokens that were read and sampled."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from llmrl.data.files import Row
from llmrl.data.hindsight import ASKED, FIRST, with_hindsight
from llmrl.data.written import Exact, Span, Written
from llmrl.templates import RowTemplate, Template
from llmrl.types import ACTOR

Tokens = tuple[int, ...]
NEEDED = ("author", "prompt_id", "prompt_token_ids", "turns", "reward", "failure")


@dataclass(frozen=True)
class Part:
    """The turns of a trajectory after one context: a whole trajectory, unless the context was made anew in it."""

    context: Tokens
    turns: list[Row]


@dataclass(frozen=True)
class Taken:
    """A turn of the author: all tokens that it was taken after, its place among the author's turns, and its row."""

    before: Tokens
    place: int
    turn: Row

    @property
    def key(self) -> tuple[Tokens, Tokens]:
        """The state and the action, each by its tokens."""
        return self.before, tuple(self.turn["token_ids"])


def recorded(rows: Sequence[Row], role: str) -> list[Row]:
    """The trajectories of an author in the rollouts of training steps, without those that failed.

    Raises ValueError for rows of another form, and if there is none.
    """
    for row in rows:
        if lacking := [name for name in NEEDED if name not in row]:
            raise ValueError(f"a row has no {lacking[0]}, which the rollouts of a run have")
    found = [row for row in rows if row.get("kind", "train") == "train" and row["author"] == role]
    found = [row for row in found if row["failure"] is None and row["turns"]]
    if not found:
        authors = ", ".join(dict.fromkeys(str(row["author"]) for row in rows))
        raise ValueError(f"the rollouts have no trajectory of {role} that did not fail; their authors: {authors}")
    return found


def parts_of(row: Row) -> list[Part]:
    """The parts of a trajectory, in order."""
    parts = [Part(tuple(row["prompt_token_ids"]), [])]
    for turn in row["turns"]:
        if turn.get("restarts"):
            parts.append(Part(tuple(turn["token_ids"]), []))
        else:
            parts[-1].turns.append(turn)
    return parts


def taken_in(row: Row) -> Iterator[Taken]:
    """The author's turns of a trajectory, in order."""
    place = 0
    for part in parts_of(row):
        before = part.context
        for turn in part.turns:
            if turn["author"] == row["author"]:
                yield Taken(before, place, turn)
                place += 1
            before += tuple(turn["token_ids"])


def total_reward(row: Row) -> float:
    """The trajectory's reward and those that the environment gave for its author's turns."""
    own = (turn for turn in row["turns"] if turn["author"] == row["author"])
    return math.fsum([row["reward"], *(turn["reward"] for turn in own if turn["reward"] is not None)])


def written(part: Part, author: str, rewards: Sequence[float | None] = ()) -> Written:
    """The part's tokens after its context. rewards: of the author's turns in it; default: none."""
    given = iter(rewards)
    spans = [
        Span(list(turn["token_ids"]), True, next(given, None))
        if turn["author"] == author
        else Span(list(turn["token_ids"]), False)
        for turn in part.turns
    ]
    return Written(spans)


def turn_states(
    rows: Sequence[Row],
    *,
    role: str = ACTOR,
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0,
) -> list[Row]:
    """The states in which a role took a turn in a run's rollouts, each a question that asks for one turn.

    share: of the states that are kept, drawn by their tokens. Equal states are one row, with `turn`, the number of the
    role's turns before it. So each step of an episode is a question of its own: a step-wise method samples several
    actions in it, and `rollout.written_by: {dataset: 1}` puts the action that was first recorded there among them.
    Sources: the second stages of SWEET-RL, arXiv 2503.15478, and of AgentPRM, arXiv 2502.10325.
    """
    made: dict[Tokens, Row] = {}
    for row in recorded(rows, role):
        for one in taken_in(row):
            if _drawn(one.before) < share:
                taken = Written([Span(list(one.turn["token_ids"]), True)])
                action = {"completion": taken, "label": 1.0}
                made.setdefault(one.before, _row(row, one.before) | action | {"turn": one.place})
    return list(made.values())


def privileged_pairs(
    rows: Sequence[Row],
    *,
    context: Template,
    role: str = ACTOR,
    per_question: PositiveInt | None = 3,
) -> list[Row]:
    """Pairs of a run's trajectories of one question behind a text that the actor did not read, such as its answer.

        chosen: the best of the right ones, or of all without verdicts      rejected: each one with a lower reward

    context: the text in front of the prompt, a template of the rollouts' columns, such as {answer}; all of the role's
    turns are compared, and what others said is read alone. per_question: the first trajectories that are looked at. One
    whose context was made anew is left out. Source: the turn-wise critic of SWEET-RL, arXiv 2503.15478.
    """
    template = RowTemplate(context)
    questions: dict[Any, list[Row]] = {}
    for row in recorded(rows, role):
        questions.setdefault((row["prompt_id"], tuple(row["prompt_token_ids"])), []).append(row)
    made: list[Row] = []
    for listed in questions.values():
        looked_at = [row for row in listed[:per_question] if len(parts_of(row)) == 1]
        verdicts = any(row.get("correct") is not None for row in looked_at)
        right = [row for row in looked_at if row.get("correct") or not verdicts]
        if not right:
            continue
        best = max(right, key=total_reward)
        for worse in (row for row in looked_at if total_reward(row) < total_reward(best)):
            asked = Exact(tuple(best["prompt_token_ids"]), template.fill(best))
            pair = {side: written(parts_of(one)[0], role) for side, one in (("chosen", best), ("rejected", worse))}
            made.append(_row(best, ()) | {"prompt": asked, **pair})
    if not made:
        raise ValueError("no question has a right trajectory and one with a lower reward")
    return made


def recorded_episodes(
    rows: Sequence[Row], *, role: str = ACTOR, goal: Template | None = None, reached: Template | None = None
) -> list[Row]:
    """A run's trajectories with the rewards of their turns, to learn from again, whoever sampled them.

    The reward of a trajectory is that of its last turn as well, and a turn without one earns 0. One whose context was
    made anew is left out. goal, reached: add the trajectories under the goals that they reached, see
    llmrl/data/hindsight.py.
    """
    made: list[Row] = []
    for row in with_hindsight(recorded(rows, role), goal, reached):
        [first, *more] = parts_of(row)
        given = [turn["reward"] or 0.0 for turn in first.turns if turn["author"] == role]
        if more or not given:
            continue
        given[-1] += row["reward"]
        steps = [written(first, role, given)]
        made.append(_row(row, first.context) | {"steps": steps, "step_labels": [given]})
    return made


def recorded_choices(
    rows: Sequence[Row],
    *,
    role: str = ACTOR,
    everywhere: bool = False,
    goal: Template | None = None,
    reached: Template | None = None,
) -> list[Row]:
    """The trajectories of recorded_episodes and, for each state in them, the list of actions that may be taken there.

    A list is the actions that were recorded in the state, or `everywhere` those of all states, as completions without a
    reward. So a critic learns from what was taken, and a policy chooses among what could have been. Two actions are the
    same if their tokens are. goal, reached: add trajectories under the goal that they reached, as recorded_episodes.
    Source: SAC-GLAM, arXiv 2410.12481, whose environments name the admissible actions.
    """
    made = recorded_episodes(rows, role=role, goal=goal, reached=reached)
    taken: dict[tuple[str, Tokens], tuple[Row, dict[Tokens, None]]] = {}
    for row in with_hindsight(recorded(rows, role), goal, reached):
        for one in taken_in(row):
            before, action = one.key
            taken.setdefault((row.get(ASKED, ""), before), (row, {}))[1][action] = None
    every = {action: None for _, actions in taken.values() for action in actions}
    for (_, before), (row, actions) in taken.items():
        listed = [Written([Span(list(action), True)], unrated=True) for action in (every if everywhere else actions)]
        made.append(_row(row, before) | {"steps": listed, "step_labels": [[None]] * len(listed)})
    return made


def expert_and_own(rows: Sequence[Row], *, expert: str, role: str = ACTOR) -> list[Row]:
    """The trajectories of two stages, labelled by whose they are: 1 for the stage of an expert, 0 for the others.

    expert: the name of the stage whose rollouts are the expert's. Raises ValueError unless there are both. Source: the
    two sides of InversePRM, arXiv 2502.10325.
    """
    made = [
        _row(row, part.context) | {"completion": written(part, role), "label": float(row["stage"] == expert)}
        for row in recorded(rows, role)
        for part in parts_of(row)
        if any(turn["author"] == role for turn in part.turns)
    ]
    if len({row["label"] for row in made}) < 2:
        raise ValueError(f"the rollouts need trajectories of stage '{expert}' and of another one")
    return made


def _row(row: Row, context: Tokens) -> Row:
    asked = Exact(context, row.get(ASKED, ""), row.get(FIRST))
    return {"prompt": asked, "answer": row.get("answer"), "prompt_id": row["prompt_id"]}


def _drawn(tokens: Tokens) -> float:
    """A number in [0, 1) that depends on the tokens alone."""
    digest = hashlib.blake2b(repr(tokens).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
