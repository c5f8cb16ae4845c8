"""From Groups to a Batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.fields import BY_NAME
from llmrl.types import CUT_SHORT, POLICY, Group, Trajectory


def pack(groups: Sequence[Group], author: str) -> Batch:
    """The trajectories of all groups as right-padded tensors; `author`'s tokens are the ones to train on.

    A trajectory's outcome reward goes on the author's last token, turn values on their turns' last tokens, and token
    values on their tokens. A trajectory with turns that restart is one row for each context that the author read.
    """
    numbered = [(number, one) for number, group in enumerate(groups) for one in group.trajectories]
    rows = [row for place, (number, one) in enumerate(numbered) for row in _rows_of(one, number, place, author)]
    width = max(len(row.token_ids) for row in rows)

    def stack(field: str, dtype: torch.dtype, fill: float = 0) -> Tensor:
        out = torch.full((len(rows), width), fill, dtype=dtype)
        for index, row in enumerate(rows):
            out[index, : len(row.token_ids)] = torch.tensor(getattr(row, field), dtype=dtype)
        return out

    lengths = torch.tensor([len(row.token_ids) for row in rows])
    texts = {text: index for index, text in enumerate(dict.fromkeys(row.text for row in rows))}
    turn_ids = stack("turn_numbers", torch.int64) - 1
    return Batch(
        token_ids=stack("token_ids", torch.int64),
        attention_mask=torch.arange(width)[None, :] < lengths[:, None],
        response_mask=stack("response_mask", torch.bool),
        rewards=stack("rewards", torch.float32),
        group_ids=torch.tensor([row.group for row in rows]),
        rollout_logprobs=stack("rollout_logprobs", torch.float32),
        correct=torch.tensor([row.correct for row in rows]),
        policy_version=torch.tensor([row.policy_version for row in rows]),
        from_policy=torch.tensor([row.from_policy for row in rows]),
        turn_ids=turn_ids,
        turn_rewards=stack("turn_rewards", torch.float32, fill=math.nan),
        answer_ids=torch.tensor([texts[row.text] for row in rows]),
        reward_components=_components([row.components for row in rows]),
        grades=torch.tensor([row.grade for row in rows]),
        trajectory_ids=torch.tensor([row.trajectory for row in rows]),
        cut_short=torch.tensor([row.cut_short for row in rows]),
        state_ids=_of_turns(rows, [row.states for row in rows], turn_ids),
        action_ids=_of_turns(rows, [row.actions for row in rows], turn_ids),
        turn_seconds=_seconds(rows, turn_ids),
        **_known(groups, rows),
    )


def _of_turns(rows: Sequence[_Row], named: Sequence[Mapping[int, str | None]], turn_ids: Tensor) -> Tensor:
    """A number for the name of each token's turn, the same for equal names in one group, -1 without one: [N, T]."""
    numbers: dict[tuple[int, str], int] = {}
    table = torch.full((len(rows), int(turn_ids.max()) + 2), -1)
    for index, (row, names) in enumerate(zip(rows, named, strict=True)):
        for turn, name in names.items():
            if name is not None:
                table[index, turn] = numbers.setdefault((row.group, name), len(numbers))
    return table.gather(1, turn_ids.clamp(min=-1) + 1)


def _seconds(rows: Sequence[_Row], turn_ids: Tensor) -> Tensor:
    """The duration of each token's turn, 0 off the author's turns: [N, T] fp32."""
    table = torch.zeros(len(rows), int(turn_ids.max()) + 2)
    for index, row in enumerate(rows):
        for turn, seconds in row.seconds.items():
            table[index, turn] = seconds
    return table.gather(1, turn_ids.clamp(min=-1) + 1)


def _known(groups: Sequence[Group], rows: Sequence[_Row]) -> dict[str, Tensor]:
    """The fields that providers measured of each trajectory's question during sampling: [N] fp32 each."""
    found = sorted({name for group in groups for name in group.known})
    fill = {name: BY_NAME[name].fill if name in BY_NAME else math.nan for name in found}
    return {name: torch.tensor([groups[row.group].known.get(name, fill[name]) for row in rows]) for name in found}


class _Row:
    """One trajectory, or the part of one that follows one context, as flat lists of one number per token.

    token_ids         P0 P1 A0 A1 E0 A2     prompt, actor, environment, actor
    response_mask      0  0  1  1  0  1
    turn_numbers       0  0  1  1  0  2
    turn_rewards       -  -  -  r  -  s     r of the first turn, s of the last; nan, here -, where none was given
    rewards            0  0  0  r  0  R     R = s + outcome

    states, actions, seconds: of the author's turns, by number.
    """

    def __init__(self, trajectory: Trajectory, number: int, place: int, author: str):
        self.group, self.trajectory = number, place
        self.text = trajectory.text.strip()
        self.components = trajectory.components
        self.correct = math.nan if trajectory.correct is None else float(trajectory.correct)
        self.grade = -1 if trajectory.grade is None else trajectory.grade
        self.cut_short = trajectory.stop_reason in CUT_SHORT
        self.from_policy = trajectory.writer == POLICY
        own = [turn for turn in trajectory.turns if turn.author == author]
        self.policy_version = min((turn.policy_version for turn in own), default=0)
        self.states: dict[int, str | None] = {}
        self.actions: dict[int, str | None] = {}
        self.seconds: dict[int, float] = {}
        self.token_ids: list[int] = []
        self.turn_numbers: list[int] = []
        self.turn_rewards: list[float] = []
        self.rollout_logprobs: list[float] = []
        self.response_mask: list[bool] = []

    def add(
        self, tokens: Sequence[int], *, turn: int, rewards: Sequence[float], logprobs: Sequence[float], given: int = 0
    ) -> None:
        """Tokens of the author's turn of that number, 0 for those of others; given: see Turn."""
        self.response_mask += [turn > 0 and place >= given for place in range(len(tokens))]
        self.token_ids += tokens
        self.turn_numbers += [turn] * len(tokens)
        self.turn_rewards += rewards or [math.nan] * len(tokens)
        self.rollout_logprobs += logprobs or [0.0] * len(tokens)

    def finish(self, outcome: float) -> None:
        """Fill in the rewards, with the outcome on the author's last token."""
        self.rewards = [0.0 if math.isnan(reward) else reward for reward in self.turn_rewards]
        mask = self.response_mask
        if True in mask:
            self.rewards[len(mask) - 1 - mask[::-1].index(True)] += outcome


def _rows_of(trajectory: Trajectory, number: int, place: int, author: str) -> list[_Row]:
    """A trajectory's rows: one for each context that the author read. Turns are counted over all of them."""
    rows: list[_Row] = []
    scored, turns, spoken = iter(trajectory.turn_rewards), 0, 0
    for context, following in trajectory.parts_of_turns:
        row = _Row(trajectory, number, place, author)
        row.add(context, turn=0, rewards=(), logprobs=())
        for turn in following:
            if turn.author != author:
                given = [math.nan] * (len(turn.token_ids) - 1) + [_sum([turn.reward])] if turn.token_ids else []
                row.add(turn.token_ids, turn=0, rewards=given, logprobs=())
                continue
            turns += 1
            row.states[turns], row.actions[turns], row.seconds[turns] = turn.state, turn.action, turn.seconds
            given = [turn.reward, next(scored, None)]
            rewards = [math.nan] * (len(turn.token_ids) - 1) + [_sum(given)] if turn.token_ids else []
            on_tokens = (trajectory.token_rewards.get(spoken + place) for place in range(len(rewards)))
            rewards = [_sum([None if math.isnan(r) else r, one]) for r, one in zip(rewards, on_tokens, strict=True)]
            spoken += len(rewards)
            row.add(turn.token_ids, turn=turns, rewards=rewards, logprobs=turn.rollout_logprobs, given=turn.given)
        rows.append(row)
    for row in rows:
        row.finish(trajectory.reward if row is rows[-1] else 0.0)
    return rows


def _sum(given: Sequence[float | None]) -> float:
    """The sum of the numbers that are given; nan if there are none."""
    known = [value for value in given if value is not None]
    return sum(known) if known else math.nan


def _components(rows: Sequence[dict[str, float]]) -> Tensor:
    """One column per reward function, in the order of the first scored row, 0 in rows that none scores: [N, K]."""
    names = list(next(filter(None, rows), {}))
    return torch.tensor([[row[name] if row else 0.0 for name in names] for row in rows], dtype=torch.float32)
