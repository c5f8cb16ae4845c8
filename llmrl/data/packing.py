"""From Groups to a Batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.fields import BY_NAME
from llmrl.types import POLICY, Group, Trajectory


def pack(groups: Sequence[Group], author: str) -> Batch:
    """The trajectories of all groups as right-padded tensors; `author`'s tokens are the ones to train on.

    A trajectory's outcome reward goes on the author's last token, turn values on their turns' last tokens, and token
    values on their tokens.
    """
    rows = [_Row(one, number, author) for number, group in enumerate(groups) for one in group.trajectories]
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
        **_known(groups, rows),
    )


def _known(groups: Sequence[Group], rows: Sequence[_Row]) -> dict[str, Tensor]:
    """The fields that providers measured of each trajectory's question during sampling: [N] fp32 each."""
    found = sorted({name for group in groups for name in group.known})
    fill = {name: BY_NAME[name].fill if name in BY_NAME else math.nan for name in found}
    return {name: torch.tensor([groups[row.group].known.get(name, fill[name]) for row in rows]) for name in found}


class _Row:
    """One trajectory as flat lists of one number per token.

    token_ids         P0 P1 A0 A1 E0 A2     prompt, actor, environment, actor
    response_mask      0  0  1  1  0  1
    turn_numbers       0  0  1  1  0  2
    turn_rewards       -  -  -  r  -  s     r of the first turn, s of the last; nan, here -, where none was given
    rewards            0  0  0  r  0  R     R = s + outcome
    """

    def __init__(self, trajectory: Trajectory, number: int, author: str):
        self.group = number
        self.text = trajectory.text.strip()
        self.components = trajectory.components
        self.correct = math.nan if trajectory.correct is None else float(trajectory.correct)
        self.grade = -1 if trajectory.grade is None else trajectory.grade
        self.from_policy = trajectory.writer == POLICY
        own = [turn for turn in trajectory.turns if turn.author == author]
        self.policy_version = min((turn.policy_version for turn in own), default=0)
        self._lay_out(trajectory, author)

    def _lay_out(self, trajectory: Trajectory, author: str) -> None:
        self.token_ids = list(trajectory.prompt.token_ids)
        self.turn_numbers = [0] * len(self.token_ids)
        self.turn_rewards = [math.nan] * len(self.token_ids)
        self.rollout_logprobs = [0.0] * len(self.token_ids)
        scored, number, spoken = iter(trajectory.turn_rewards), 0, 0
        for turn in trajectory.turns:
            trained = turn.author == author
            number += trained
            given = [turn.reward, next(scored, None) if trained else None]
            self.token_ids += turn.token_ids
            self.turn_numbers += [number * trained] * len(turn.token_ids)
            rewards = [math.nan] * (len(turn.token_ids) - 1) + [_sum(given)] if turn.token_ids else []
            if trained:
                on_tokens = (trajectory.token_rewards.get(spoken + place) for place in range(len(rewards)))
                rewards = [_sum([None if math.isnan(r) else r, one]) for r, one in zip(rewards, on_tokens, strict=True)]
                spoken += len(rewards)
            self.turn_rewards += rewards
            known = trained and turn.rollout_logprobs
            self.rollout_logprobs += turn.rollout_logprobs if known else [0.0] * len(turn.token_ids)
        self.response_mask = [number > 0 for number in self.turn_numbers]
        self.rewards = [0.0 if math.isnan(reward) else reward for reward in self.turn_rewards]
        if True in self.response_mask:
            last = len(self.response_mask) - 1 - self.response_mask[::-1].index(True)
            self.rewards[last] += trajectory.reward


def _sum(given: Sequence[float | None]) -> float:
    """The sum of the numbers that are given; nan if there are none."""
    known = [value for value in given if value is not None]
    return sum(known) if known else math.nan


def _components(rows: Sequence[dict[str, float]]) -> Tensor:
    """One column per reward function, in the order of the first scored row, 0 in rows that none scores: [N, K]."""
    names = list(next(filter(None, rows), {}))
    return torch.tensor([[row[name] if row else 0.0 for name in names] for row in rows], dtype=torch.float32)
