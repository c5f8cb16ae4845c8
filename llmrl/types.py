"""The nouns of llmrl. Read this first.

A prompt is sampled `group_size` times; each sample is a Trajectory made of Turns; trajectories of one prompt
form a Group. Groups are scored, then packed into a Batch of tensors, and only a Batch reaches the trainer.

    Prompt ──> Trajectory(turns=[Turn(actor), Turn(environment), Turn(actor)]) ─┐
          └──> Trajectory(turns=[Turn(actor)])                                  ├─> Group ─> Batch
          └──> ...                                                             ─┘
"""

from __future__ import annotations

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
    """One author's contiguous tokens; `reward` is what the environment gave for it, if it gives any."""

    author: str
    token_ids: list[int]
    rollout_logprobs: list[float] = field(default_factory=list)
    policy_version: int = 0
    reward: float = 0.0


@dataclass(frozen=True)
class Score:
    """What a reward function says of one trajectory.

    value: the reward, before its weight. correct: a verifier's verdict, kept apart from shaped rewards
    because dynamic sampling and accuracy read it. turn_values: optional, one number per actor turn; they
    are placed on the turns' last tokens, `value` on the trajectory's last.
    """

    value: float
    correct: bool | None = None
    turn_values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Failure:
    """A reward, judge or environment that could not answer: never a zero reward."""

    source: str
    kind: Literal["timeout", "crash", "invalid"]
    message: str


@dataclass
class Trajectory:
    """A prompt and everything that followed.

    text: the actor's last turn, decoded. reward: the weighted sum of the scores' values; turn_rewards: of
    their turn values, one per actor turn.
    """

    prompt: Prompt
    turns: list[Turn]
    stop_reason: StopReason
    text: str = ""
    scores: dict[str, Score] = field(default_factory=dict)
    reward: float = 0.0
    turn_rewards: list[float] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def correct(self) -> bool | None:
        """True if every verifier that gave a verdict agreed; None if none did."""
        verdicts = [score.correct for score in self.scores.values() if score.correct is not None]
        return all(verdicts) if verdicts else None

    @property
    def outcome(self) -> float:
        """What dynamic sampling looks at: the verdict where there is one, else the reward."""
        return self.reward if self.correct is None else float(self.correct)

    @property
    def completion_tokens(self) -> int:
        return sum(len(turn.token_ids) for turn in self.turns if turn.author != ENVIRONMENT)


@dataclass
class Group:
    """Trajectories that share a prompt. Groups stay whole until the advantage has run."""

    prompt: Prompt
    trajectories: list[Trajectory]


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
    old_logprobs: Tensor | None = None  # [N, T] fp32, trainer's policy at step start
    ref_logprobs: Tensor | None = None  # [N, T] fp32, frozen reference
    values: Tensor | None = None  # [N, T] fp32, the critic's prediction for the prefix before token t

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
            if value is not None:
                picked[f.name] = value[index] if value.dim() == 1 else value[index, :width]
        return replace(self, **picked)


@dataclass
class Credit:
    """Advantages [N, T] and, where a critic is trained, its targets [N, T]."""

    advantages: Tensor
    returns: Tensor | None = None


@dataclass
class TokenLoss:
    """A loss per token [N, T], unreduced, and per-token statistics [N, T] that become masked means."""

    loss: Tensor
    stats: dict[str, Tensor] = field(default_factory=dict)
