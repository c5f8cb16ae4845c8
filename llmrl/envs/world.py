"""The World protocol: an environment that speaks text. llmrl/envs/dialogue.py plays one for models that speak tokens.

    world: opening text        actor: action        world: answer, reward        actor: action        ...

A world knows nothing of models, tokens, templates or how an action is found in what a model wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Outcome:
    """A world's opening, or its answer to an action.

    text: told to the role that acts next; messages: chat messages, of the roles user and tool, in place of a text.
    reward: of the action just taken, None for none. terminated: the task is over. truncated: a limit ended it, so that
    its last state still has a value. valid: whether the action was one in this world; an invalid one changes nothing,
    and the recipe's `turns.invalid` says what follows. solved: the world's verdict on the episode so far, False until
    the task is solved; None in a world without verdicts. player: the role that acts next; None: the same one. told,
    rewards: what other roles are told before their next action, and their rewards for their last one. state: the name
    of the state in which the next action is taken, equal for equal states; None: the text. hidden: what the world knows
    and the actor may not, such as the solution, which a critic may read; None: as before. metrics: numbers of the
    episode; a later one of the same name counts.
    """

    text: str = ""
    messages: Sequence[Mapping[str, Any]] = ()
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    valid: bool = True
    solved: bool | None = None
    player: str | None = None
    told: Mapping[str, str] = field(default_factory=dict)
    rewards: Mapping[str, float] = field(default_factory=dict)
    state: str | None = None
    hidden: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class World(Protocol):
    """One episode's world: made for one question, used once.

    The function that makes it takes, by name, any of the data of an environment (llmrl/envs/base.py). A world may have
    `async def end(self) -> Outcome`, whose reward, verdict and numbers count where a limit of the recipe's ends the
    episode, and `async def close(self)`, which is always called once. All worlds of a process share one event loop:
    work that takes long belongs into a host process (llmrl/envs/hosts.py).
    """

    async def reset(self, seed: int) -> Outcome:
        """The opening; equal seeds give equal episodes after equal actions, whatever else the process does."""
        ...

    async def act(self, action: str) -> Outcome:
        """The answer to an action of the role whose turn it is."""
        ...
