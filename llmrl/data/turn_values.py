"""Values of turns, estimated from a run's rollouts, as labels for a model that learns them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveInt

from llmrl.data.files import Row
from llmrl.data.recorded_turns import Taken, parts_of, recorded, taken_in, total_reward, written
from llmrl.data.written import Exact
from llmrl.types import ACTOR

Key = tuple[Any, ...]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


def turn_values(
    rows: Sequence[Row],
    *,
    gamma: Share = 0.95,
    low: float = 0.0,
    high: float = 1.0,
    absolute_index: bool = False,
    role: str = ACTOR,
) -> list[Row]:
    """The turns of a run's rollouts, labelled by the mean outcome after their state and action.

        z = 2 (R - low) / (high - low) - 1              R: the trajectory's rewards, summed
        Q = mean of gamma^(T - 1 - t) z over all visits of (state, action)        label = (Q + 1) / 2

    t: the turn's place among the T of its trajectory; a state is all that was read before, token by token. An action
    that was taken several times in a state has its label once. absolute_index: gamma^t in place of gamma^(T - 1 - t),
    as the released code has it, which gives early turns the largest values. A model of these labels
    (`method: agent_prm`) rewards turns by `process_reward_model: {of_turns: true}`. Raises ValueError for a range that
    is empty, and for a reward outside of it. Source: AgentPRM, arXiv 2502.10325.
    """
    if not low < high:
        raise ValueError(f"low: {low} is not below high: {high}")
    visits: dict[Key, list[float]] = {}
    found = recorded(rows, role)
    for row in found:
        outcome = total_reward(row)
        if not low <= outcome <= high:
            raise ValueError(f"a trajectory's reward is {outcome}, outside of low: {low} to high: {high}")
        turns = list(taken_in(row))
        for one in turns:
            steps = one.place if absolute_index else len(turns) - 1 - one.place
            visits.setdefault(one.key, []).append(gamma**steps * (2 * (outcome - low) / (high - low) - 1))
    labels = {key: (sum(values) / len(values) + 1) / 2 for key, values in visits.items()}
    return _labelled(found, role, lambda row: labels)


def tree_values(
    rows: Sequence[Row], *, gamma: Share = 0.9, height: PositiveInt | None = None, role: str = ACTOR
) -> list[Row]:
    """The turns of a run's rollouts, labelled by the best that followed them in the tree of a question's trajectories.

        q_node = r_node + gamma max over children of q        label = (q - min q) / (max q - min q) of the tree

    Trajectories of a question share a node while their tokens are the same. r_node: the environment's reward of the
    turn, the mean over visits, and at the end of a trajectory the trajectory's own reward too. height: a leaf at depth
    d < height counts as if its reward came again until then: r (1 + gamma + ... + gamma^(height - 1 - d)). The turns of
    a tree whose values are all equal have no labels. Source: QLASS, arXiv 2502.02584.
    """
    found = recorded(rows, role)
    trees: dict[Key, dict[Key, float | None]] = {}
    for name in dict.fromkeys(_question(row) for row in found):
        tree = _Tree([row for row in found if _question(row) == name], gamma, height)
        values = {key: tree.value(key) for key in tree.rewards}
        least, most = min(values.values()), max(values.values())
        apart = most - least
        trees[name] = {key: (value - least) / apart if apart else None for key, value in values.items()}
    return _labelled(found, role, lambda row: trees[_question(row)])


class _Tree:
    """The turns of trajectories of one question. rewards: of each visit of a node, its turn's reward, with the
    trajectory's at its end; depths: how many turns come before a node."""

    def __init__(self, rows: Sequence[Row], gamma: float, height: int | None):
        self.gamma, self.height = gamma, height
        self.rewards: dict[Key, list[float]] = {}
        self.depths: dict[Key, int] = {}
        self._children: dict[Key, set[Key]] = {}
        self._values: dict[Key, float] = {}
        for row in rows:
            turns = list(taken_in(row))
            for one, after in zip(turns, [*turns[1:], None], strict=True):
                ended = row["reward"] if after is None else 0.0
                self.rewards.setdefault(one.key, []).append((one.turn["reward"] or 0.0) + ended)
                self.depths[one.key] = one.place
                self._children.setdefault(one.key, set()).update([] if after is None else [after.key])

    def value(self, key: Key) -> float:
        """The value q of a node."""
        if key not in self._values:
            reward = sum(self.rewards[key]) / len(self.rewards[key])
            below = [self.value(child) for child in self._children[key]]
            left = max(1, (self.height or 0) - self.depths[key])
            repeated = reward * sum(self.gamma**n for n in range(left))
            self._values[key] = reward + self.gamma * max(below) if below else repeated
        return self._values[key]


def _question(row: Row) -> Key:
    return row["prompt_id"], tuple(row["prompt_token_ids"])


def _labelled(rows: Sequence[Row], role: str, labels_of: Callable[[Row], Mapping[Key, float | None]]) -> list[Row]:
    """Rows of labelled steps, one for each part of a trajectory; each state and action of a question has its label
    where it comes first."""
    made: list[Row] = []
    told: set[Key] = set()
    for row in rows:
        labels, taken = labels_of(row), iter(list(taken_in(row)))
        for part in parts_of(row):
            own = [next(taken) for turn in part.turns if turn["author"] == role]
            given = [None if _told(one, row, told) else labels[one.key] for one in own]
            if any(label is not None for label in given):
                steps, prompt = [written(part, role, given)], Exact(part.context)
                made.append({"prompt": prompt, "answer": row.get("answer"), "steps": steps, "step_labels": [given]})
    return made


def _told(one: Taken, row: Row, told: set[Key]) -> bool:
    """Whether a turn had its label before; it is remembered."""
    key = (row["prompt_id"], one.key)
    before = key in told
    told.add(key)
    return before
