"""The nouns of llmrl. Read this first.

A question is answered in an Episode. The roles of models and the environment write in it as authors. One author's
Turns, with the context that they were sampled in, are a Trajectory. A question is asked `group_size` times, and those
of its trajectories that are compared with each other form a Group. Groups are scored, then packed into a Batch of
tensors (llmrl/batch.py), and only a Batch reaches the trainer.

    question ──> Episode(Trajectory(author=actor), Trajectory(author=critiquer)) ──> Group of the actor's     ──> Batch
            └──> Episode(Trajectory(author=actor), Trajectory(author=critiquer)) ──> Group of the critiquer's ──> Batch

One question answered once by one model is an Episode of one Trajectory. Where a recipe names moves, the trajectories of
an episode are a tree: a draft, the critiques of the draft, the refinements after each critique.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

ACTOR = "actor"
ENVIRONMENT = "environment"

POLICY, REFERENCE, DATASET, PAST = "policy", "reference", "dataset", "past"
"""Who writes a completion: the policy in training, the reference, the data's rows, or an earlier policy.

The earlier policies are past_1, past_2 and so on, the newest first.
"""

StopReason = Literal["stop", "length", "context_full", "environment_ended", "environment_truncated", "invalid_action"]
"""Why a trajectory ended.

stop: its author ended it (end-of-sequence token or stop string). length: it was cut at the token limit. context_full:
the environment's observation left no room for an answer. The other three come from the environment: the task was over,
the environment's own limit was reached, or the author's action was invalid.
"""
CUT_SHORT: frozenset[StopReason] = frozenset({"length", "context_full", "environment_truncated"})


@dataclass(frozen=True)
class Prompt:
    """One question as the model sees it, with the data row it came from (the reward reads its columns).

    messages: the conversation that the chat template rendered as `text`; None for data that is no chat. tools: the
    schemas of the functions that it shows.
    """

    id: str
    token_ids: tuple[int, ...]
    text: str
    row: Mapping[str, Any]
    messages: tuple[Mapping[str, Any], ...] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass
class Turn:
    """One author's contiguous tokens; reward: the environment's reward for the turn, None if it gave none.

    restarts: of the environment's turns: its tokens stand in place of all before, so that the trajectory goes on in
    another row of a batch. state: the name of the state that the author acts in, None where it has none; equal names
    are equal states. action: the author's action as the environment read it, None where it read none. valid: whether
    the action was one. seconds: from the turn's beginning to the environment's answer. place: of an author's turn: how
    many completions the episode's authors were asked for before. given: how many of its first tokens another model
    wrote in the author's place, which nothing is trained on.
    """

    author: str
    token_ids: list[int]
    rollout_logprobs: list[float] = field(default_factory=list)
    policy_version: int = 0
    reward: float | None = None
    text: str = ""
    restarts: bool = False
    state: str | None = None
    action: str | None = None
    valid: bool = True
    seconds: float = field(default=0.0, compare=False)
    place: int = field(default=0, compare=False)
    given: int = 0


@dataclass(frozen=True)
class Score:
    """A reward function's result for one trajectory.

    value: the reward, before its weight, placed on the trajectory's last token. correct: a verifier's verdict, which
    dynamic sampling and accuracy read. turn_values: optional, one number per actor turn, placed on the turns' last
    tokens; None for a turn that it does not reward. outcome: a verifier's name for the outcome, such as "timeout",
    which metrics count. grade: the outcome's rank among the verifier's ordered outcomes, 0 the worst, which a critic
    may predict. metrics: further numbers by name, whose means over the trajectories are metrics of the run.
    token_values: numbers for some of the author's tokens, by their places among these, such as one for each step on its
    last token. verdict: what a critique says of the trajectory that it follows, one of VERDICTS; None for a score of
    anything else. feedback: a verifier's words on the outcome, such as the first failed test, which later texts may be
    told.
    """

    value: float
    correct: bool | None = None
    turn_values: tuple[float | None, ...] = ()
    outcome: str | None = None
    grade: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    token_values: Mapping[int, float] = field(default_factory=dict, hash=False)
    verdict: str | None = None
    feedback: str = field(default="", compare=False)


RIGHT, WRONG, UNREADABLE = VERDICTS = ("right", "wrong", "unreadable")
"""What a critique may say of an answer; unreadable: neither could be read in it."""


@dataclass(frozen=True)
class Failure:
    """A reward, judge or environment that could not answer: never a zero reward."""

    source: str
    kind: Literal["timeout", "crash", "invalid"]
    message: str


@dataclass
class Trajectory:
    """One author's turns after a prompt, and the turns of others in between.

    prompt: the context that the author was sampled in. text: the author's last turn, decoded. components: each score's
    value times its weight, without those of weight 0, which nothing is trained on; reward: their sum; turn_rewards,
    token_rewards: the weighted sums of the scores' turn values, one per turn of the author, and of their token values.
    compared: trajectories of one author and question with equal `compared` are compared with each other. writer: who
    wrote the author's turns, the author's own policy unless `rollout.written_by` or a move's column names another.
    move: its name among the recipe's moves; node: its place in the question's trees, such as 0/critique.2; parent,
    children: the trajectory that it follows, and those that follow it. judged: whether the rewards that read no other
    verdict were asked. parts: of its text, by the names that the recipe gives them; lacks: the names of
    those that were not found. prefix: how many tokens of the parent its author read; None for all. solved: the
    environment's verdict, None if it gave none. hidden: what the environment knows and the author may not, for critics.
    measured: the environment's numbers of the episode, by name.
    """

    prompt: Prompt
    turns: list[Turn]
    stop_reason: StopReason
    text: str = ""
    scores: dict[str, Score] = field(default_factory=dict)
    components: dict[str, float] = field(default_factory=dict)
    reward: float = 0.0
    turn_rewards: list[float | None] = field(default_factory=list)
    token_rewards: dict[int, float] = field(default_factory=dict)
    failure: Failure | None = None
    author: str = ACTOR
    compared: str = ""
    writer: str = POLICY
    episode: Episode | None = field(default=None, repr=False, compare=False)
    move: str = ""
    node: str = ""
    parent: Trajectory | None = field(default=None, repr=False, compare=False)
    children: list[Trajectory] = field(default_factory=list, repr=False, compare=False)
    judged: bool = field(default=False, repr=False, compare=False)
    parts: Mapping[str, str] = field(default_factory=dict)
    lacks: tuple[str, ...] = ()
    prefix: int | None = None
    solved: bool | None = None
    hidden: str | None = None
    measured: dict[str, float] = field(default_factory=dict)

    @property
    def path(self) -> list[Trajectory]:
        """The trajectories from the question's first answer to this one."""
        return [*(self.parent.path if self.parent else []), self]

    @property
    def below(self) -> list[Trajectory]:
        """This trajectory and all that follow it, each before those that follow it."""
        return [self, *(one for child in self.children for one in child.below)]

    @property
    def own_turns(self) -> list[Turn]:
        """The author's turns."""
        return [turn for turn in self.turns if turn.author == self.author]

    @property
    def correct(self) -> bool | None:
        """True if every verifier, and the environment, agreed of those that gave a verdict; None if none did."""
        given = [self.solved, *(score.correct for score in self.scores.values())]
        verdicts = [verdict for verdict in given if verdict is not None]
        return all(verdicts) if verdicts else None

    @property
    def verdict(self) -> str | None:
        """The verdict on the one that it follows, one of VERDICTS; None for what is no critique."""
        return next((score.verdict for score in self.scores.values() if score.verdict is not None), None)

    @property
    def audits(self) -> dict[str, float]:
        """The values of the rewards of weight 0, by name: what is measured and not trained on."""
        return {name: score.value for name, score in self.scores.items() if name not in self.components}

    @property
    def grade(self) -> int | None:
        """The lowest grade that a verifier gave; None if none gave one."""
        return min((score.grade for score in self.scores.values() if score.grade is not None), default=None)

    @property
    def verdict_or_reward(self) -> float:
        """The verdict if there is one, else the sum of all rewards; dynamic sampling reads it."""
        return self.total_reward if self.correct is None else float(self.correct)

    @property
    def total_reward(self) -> float:
        """The reward and all that was given for single turns and tokens."""
        of_turns = [*(turn.reward for turn in self.own_turns), *self.turn_rewards]
        given = [reward for reward in of_turns if reward is not None]
        return math.fsum([self.reward, *given, *self.token_rewards.values()])

    @property
    def parts_of_turns(self) -> list[tuple[tuple[int, ...], list[Turn]]]:
        """The contexts that the author read, each with the turns that follow it: one, unless a turn restarts."""
        found: list[tuple[tuple[int, ...], list[Turn]]] = [(self.prompt.token_ids, [])]
        for turn in self.turns:
            if turn.restarts:
                found.append((tuple(turn.token_ids), []))
            else:
                found[-1][1].append(turn)
        return found

    @property
    def completion_tokens(self) -> int:
        return sum(len(turn.token_ids) for turn in self.own_turns)


@dataclass
class Episode:
    """One asking of a question: the trajectories of every author, in the order they began.

    number: this episode's place among those of the question.
    """

    prompt: Prompt
    trajectories: list[Trajectory] = field(default_factory=list)
    number: int = 0

    def of(self, author: str) -> list[Trajectory]:
        """One author's trajectories, in order."""
        return [trajectory for trajectory in self.trajectories if trajectory.author == author]


@dataclass
class Group:
    """Trajectories of one author that are compared with each other. Groups stay whole until the advantage has run.

    prompt: the question. place: the question's place in its round. known: the providers' fields of the question.
    besides: trajectories that providers sampled to measure these fields, and that are never trained on.
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
