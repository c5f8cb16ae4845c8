"""The nouns of llmrl. Read this first.

A prompt is sampled `group_size` times; each sample is a Trajectory made of Turns; trajectories of one prompt
form a Group. Groups are scored, then packed into a Batch of tensors, and only a Batch reaches the trainer.

    Prompt ──> Trajectory(turns=[Turn(actor), Turn(environment), Turn(actor)]) ─┐
          └──> Trajectory(turns=[Turn(actor)])                                  ├─> Group ─> Batch
          └──> ...                                                             ─┘
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

ACTOR = "actor"
ENVIRONMENT = "environment"

StopReason = Literal["stop", "length"]
"""stop: the author ended it (end-of-sequence token or stop string); length: cut at the token limit."""


@dataclass(frozen=True)
class Prompt:
    """One question as the model sees it, with the data row it came from (the reward reads its columns)."""

    id: str
    token_ids: tuple[int, ...]
    text: str
    row: Mapping[str, Any]


@dataclass
class Turn:
    """One author's contiguous tokens; `reward` is what the environment gave for it, None where it said nothing."""

    author: str
    token_ids: list[int]
    rollout_logprobs: list[float] = field(default_factory=list)
    policy_version: int = 0
    reward: float | None = None


@dataclass(frozen=True)
class Score:
    """What a reward function says of one trajectory.

    value: the reward, before its weight. correct: a verifier's verdict, kept apart from shaped rewards
    because dynamic sampling and accuracy read it. turn_values: optional, one number per actor turn; they
    are placed on the turns' last tokens, `value` on the trajectory's last. outcome: a verifier's name for how it
    ended, such as "timeout", which metrics count. grade: that outcome's rank among the verifier's ordered outcomes,
    0 the worst, which a critic may predict.
    """

    value: float
    correct: bool | None = None
    turn_values: tuple[float, ...] = ()
    outcome: str | None = None
    grade: int | None = None


@dataclass(frozen=True)
class Failure:
    """A reward, judge or environment that could not answer: never a zero reward."""

    source: str
    kind: Literal["timeout", "crash", "invalid"]
    message: str


@dataclass
class Trajectory:
    """A prompt and everything that followed.

    text: the actor's last turn, decoded. components: each score's value times its weight; reward: their sum;
    turn_rewards: the weighted sum of the scores' turn values, one per actor turn.
    """

    prompt: Prompt
    turns: list[Turn]
    stop_reason: StopReason
    text: str = ""
    scores: dict[str, Score] = field(default_factory=dict)
    components: dict[str, float] = field(default_factory=dict)
    reward: float = 0.0
    turn_rewards: list[float] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def correct(self) -> bool | None:
        """True if every verifier that gave a verdict agreed; None if none did."""
        verdicts = [score.correct for score in self.scores.values() if score.correct is not None]
        return all(verdicts) if verdicts else None

    @property
    def grade(self) -> int | None:
        """The lowest grade that a verifier gave; None if none gave one."""
        return min((score.grade for score in self.scores.values() if score.grade is not None), default=None)

    @property
    def outcome(self) -> float:
        """What dynamic sampling looks at: the verdict where there is one, else the reward."""
        return self.reward if self.correct is None else float(self.correct)

    @property
    def completion_tokens(self) -> int:
        return sum(len(turn.token_ids) for turn in self.turns if turn.author != ENVIRONMENT)


@dataclass
class Group:
    """Trajectories that share a prompt. Groups stay whole until the advantage has run.

    greedy: a greedy answer to the same prompt, sampled where a piece reads its reward; it is never trained on.
    static_value: the mean reward of the policy that the stage started with, measured where a piece reads it.
    """

    prompt: Prompt
    trajectories: list[Trajectory]
    greedy: Trajectory | None = None
    static_value: float = math.nan


@dataclass
class Batch:
    """Right-padded tensors of N trajectories; column t of every [N, T] field speaks of token t.

    token_ids        P0 P1 P2 A0 A1 A2 E0 E1 A3 A4  .  .     P prompt, A actor, E environment, . padding
    attention_mask    1  1  1  1  1  1  1  1  1  1  0  0
    response_mask     0  0  0  1  1  1  0  0  1  1  0  0     True where the trained author sampled
    rewards           0  0  0  0  0  r  0  0  0  R  0  0     turn reward r, outcome R
    logprobs[t]       log pi(token t | tokens < t)           0 wherever response_mask is False
    """

    token_ids: Tensor  # [N, T] int64
    attention_mask: Tensor  # [N, T] bool
    response_mask: Tensor  # [N, T] bool
    rewards: Tensor  # [N, T] fp32
    group_ids: Tensor  # [N] int64, equal for trajectories that share a prompt
    rollout_logprobs: Tensor  # [N, T] fp32, as the sampler reported
    correct: Tensor  # [N] fp32: 1 correct, 0 wrong, nan where no verifier spoke
    policy_version: Tensor  # [N] int64, of the oldest turn

    turn_ids: Tensor | None = None  # [N, T] int64, which of the author's turns a token belongs to; -1 off the response
    turn_rewards: Tensor | None = None  # [N, T] fp32, a turn's own reward on its last token; nan where none was given
    answer_ids: Tensor | None = None  # [N] int64, equal where the last turns' texts are equal
    reward_components: Tensor | None = None  # [N, K] fp32, each reward function's value times its weight
    greedy_rewards: Tensor | None = None  # [N] fp32, reward of the greedy answer to the same prompt, or nan
    static_values: Tensor | None = None  # [N] fp32, mean reward of the stage's first policy on the prompt, or nan
    grades: Tensor | None = None  # [N] int64, rank among the verifier's outcomes, or -1
    uniform_noise: Tensor | None = None  # [N, T] fp32, this step's random numbers in [0, 1)
    progress: Tensor | None = None  # [] fp32, share of the stage's steps done, in [0, 1)

    # what the trainer's policy, as it was at step start, says; measured where a piece reads it
    old_logprobs: Tensor | None = None  # [N, T] fp32
    old_entropy: Tensor | None = None  # [N, T] fp32, nats
    old_top_ids: Tensor | None = None  # [N, T, K] int64, its most likely tokens
    old_top_logprobs: Tensor | None = None  # [N, T, K] fp32
    old_router_ids: Tensor | None = None  # [N, T, L, k] int64, the experts chosen in each layer
    old_router_logprobs: Tensor | None = None  # [N, T, L, k] fp32
    answer_logprobs: Tensor | None = None  # [N, T] fp32, mean over the gold answer's tokens, told after token t; or nan

    ref_logprobs: Tensor | None = None  # [N, T] fp32, frozen reference
    old_outputs: Tensor | None = None  # [N, T, H] fp32, the critic's outputs for the prefix before token t
    values: Tensor | None = None  # [N, T] fp32, what they say the prefix is worth
    value_std: Tensor | None = None  # [N, T] fp32, their standard deviation over heads

    def __len__(self) -> int:
        return len(self.group_ids)

    @property
    def lengths(self) -> Tensor:
        """Tokens per trajectory, prompt included: [N] int64."""
        return self.attention_mask.sum(dim=1)

    def rows(self, index: Tensor) -> Batch:
        """The trajectories at `index`, trimmed to the longest of them."""
        width = int(self.lengths[index].max()) if len(index) else 1
        picked = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None and value.dim() > 0:
                picked[f.name] = value[index] if f.name in PER_TRAJECTORY else value[index, :width]
        return replace(self, **picked)


PER_TRAJECTORY = frozenset(
    {
        "group_ids",
        "correct",
        "policy_version",
        "answer_ids",
        "reward_components",
        "greedy_rewards",
        "static_values",
        "grades",
    }
)
"""The Batch's fields that have no token dimension."""


@dataclass
class Credit:
    """Advantages [N, T] and, where a critic is trained, its targets [N, T]; nan where it has none."""

    advantages: Tensor
    returns: Tensor | None = None


@dataclass
class TokenLoss:
    """A loss per token [N, T], unreduced, and per-token statistics [N, T] that become masked means."""

    loss: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
