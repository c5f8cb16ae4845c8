"""The nouns of llmrl. Read this first.

A question is answered in an Episode. Whoever writes in it, a model's role or the environment, is an author; what one
author wrote, with the context that it was sampled in, is a Trajectory made of Turns. A question is asked `group_size`
times, and the trajectories of it that are compared with each other form a Group. Groups are scored, then packed into
a Batch of tensors (llmrl/batch.py), and only a Batch reaches the trainer.

    question ──> Episode(Trajectory(author=actor), Trajectory(author=critiquer)) ──> Group of the actor's     ──> Batch
            └──> Episode(Trajectory(author=actor), Trajectory(author=critiquer)) ──> Group of the critiquer's ──> Batch

One question answered once by one model is an Episode of one Trajectory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

ACTOR = "actor"
ENVIRONMENT = "environment"

StopReason = Literal["stop", "length", "context_full", "environment_ended", "environment_truncated", "invalid_action"]
"""Why a trajectory ended.

stop: its author ended it (end-of-sequence token or stop string). length: it was cut at the token limit. context_full:
what the environment said left no room for an answer. The other three are the environment's word: the task was over,
the environment's own limit was reached, or it could make nothing of what the author said.
"""
CUT_SHORT: frozenset[StopReason] = frozenset({"length", "context_full", "environment_truncated"})


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
    text: str = ""


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
    """What one author wrote after a prompt, with what others said in between.

    prompt: the context that the author was sampled in. text: the author's last turn, decoded. components: each score's
    value times its weight; reward: their sum; turn_rewards: the weighted sum of the scores' turn values, one per turn
    of the author. compared: trajectories of one author and question are compared with each other where this is equal.
    episode: all that happened around the question.
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
    author: str = ACTOR
    compared: str = ""
    episode: Episode | None = field(default=None, repr=False, compare=False)

    @property
    def own_turns(self) -> list[Turn]:
        """The author's turns."""
        return [turn for turn in self.turns if turn.author == self.author]

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
    def verdict_or_reward(self) -> float:
        """What dynamic sampling looks at: the verdict where there is one, else the reward."""
        return self.reward if self.correct is None else float(self.correct)

    @property
    def completion_tokens(self) -> int:
        return sum(len(turn.token_ids) for turn in self.own_turns)


@dataclass
class Episode:
    """All that happened around one question, asked once: the trajectories of every author, in the order they began.

    number: which of the question's episodes this one is.
    """

    prompt: Prompt
    trajectories: list[Trajectory] = field(default_factory=list)
    number: int = 0

    def of(self, author: str) -> list[Trajectory]:
        """What one author wrote, in order."""
        return [trajectory for trajectory in self.trajectories if trajectory.author == author]


@dataclass
class Group:
    """Trajectories of one author that are compared with each other. Groups stay whole until the advantage has run.

    prompt: the question. place: which of its round's questions that is. known: what providers say of the question, by
    field of llmrl/fields.py. besides: trajectories that were sampled to learn that, and are never trained on.
    """

    prompt: Prompt
    trajectories: list[Trajectory]
    author: str = ACTOR
    place: int = 0
    known: dict[str, float] = field(default_factory=dict)
    besides: list[Trajectory] = field(default_factory=list)


def groups_of(prompt: Prompt, episodes: Sequence[Episode], author: str, place: int = 0) -> list[Group]:
    """The groups of one author in the episodes of a question: one for each value of `compared`, in order."""
    together: dict[str, list[Trajectory]] = {}
    for episode in episodes:
        for trajectory in episode.of(author):
            together.setdefault(trajectory.compared, []).append(trajectory)
    return [Group(prompt, trajectories, author, place) for trajectories in together.values()]


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
