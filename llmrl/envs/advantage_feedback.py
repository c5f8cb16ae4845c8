"""A world behind a critic: an action that adds too little is answered by words, and planned again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt

from llmrl.envs.base import AuthorText
from llmrl.envs.world import Outcome, World
from llmrl.errors import unknown_name
from llmrl.marks import settings_checked_by
from llmrl.pieces import PieceSpec, import_function, resolve
from llmrl.templates import RowTemplate
from llmrl.types import Prompt

Advantage = Callable[[str, str], float]
"""From what was told and done so far, and an action, to what the action adds to the critic's value."""
SAYS = ("advantage", "action")
KEY = "env.advantage_feedback"


def _check(*, tell: str, **others: Any) -> None:
    """Raises ValueError for a template of other names than SAYS."""
    RowTemplate(tell).check(SAYS)


@settings_checked_by(_check)
def advantage_feedback(
    prompt: Prompt,
    row: Mapping[str, Any],
    seed: int,
    authors: Mapping[str, AuthorText],
    *,
    world: PieceSpec,
    critic: Annotated[str, Field(min_length=1)],
    threshold: float = 0.0,
    most: NonNegativeInt = 2,
    tell: str = "The action {action} has the advantage {advantage}. Propose a better one.",
) -> AdvantageFeedback:
    """Another world whose actions a critic checks first: one whose advantage is below the threshold is not taken.

        advantage = score(history, action) - score(history)

    world: the other world, as env names one; it may read prompt, row, seed and authors. critic: a reward model's
    folder, which scores texts, or `module:function` of history and action. most: how many proposals in a row are
    answered by `tell`, a template of advantage and action; of these and the one after them the best is taken. The
    metric replanned counts the answers. Raises ValueError for a world that reads other data or speaks tokens. The
    checks are a reconstruction for single actors. Source: ReAd, arXiv 2405.14314.
    """
    from llmrl.envs.catalogue import CATALOGUE  # late: the catalogue names this function

    piece = resolve(world, CATALOGUE, key=f"{KEY}.world", what="environment")
    known: dict[str, Any] = {"prompt": prompt, "row": row, "seed": seed, "authors": authors}
    if unknown := [name for name in piece.data if name not in known]:
        raise ValueError(unknown_name(f"{KEY}.world.{piece.name}", unknown[0], known, "data"))
    inner = piece(known)
    if not isinstance(inner, World):
        raise ValueError(f"{KEY}.world: {piece.name} speaks tokens, expected a world that speaks text")
    advantage = import_function(critic, f"{KEY}.critic") if ":" in critic else functools.partial(_scored, critic)
    return AdvantageFeedback(inner, advantage, threshold, most, RowTemplate(tell))


class AdvantageFeedback:
    """One episode of a world behind a critic; the settings are those of `advantage_feedback`."""

    def __init__(self, world: World, advantage: Advantage, threshold: float, most: int, tell: RowTemplate):
        self._world, self._advantage = world, advantage
        self._threshold, self._most, self._tell = threshold, most, tell
        self._history, self._replanned = "", 0
        self._proposed: dict[str, float] = {}
        self._state: Outcome = Outcome()

    async def reset(self, seed: int) -> Outcome:
        return self._known(await self._world.reset(seed))

    async def act(self, action: str) -> Outcome:
        value = await asyncio.to_thread(self._advantage, self._history, action)
        self._proposed[action] = value
        if value < self._threshold and len(self._proposed) <= self._most:
            self._replanned += 1
            text = self._tell.fill({"advantage": f"{value:.3g}", "action": action})
            state = None if self._state.state is None else f"{self._state.state}\n{text}"
            return replace(
                self._state,
                text=text,
                messages=(),
                reward=None,
                told={},
                rewards={},
                state=state,
                metrics=self._counted,
            )
        taken = max(self._proposed, key=lambda one: self._proposed[one])
        self._proposed = {}
        self._history += f"{taken}\n"
        return self._known(await self._world.act(taken))

    async def end(self) -> Outcome:
        """The other world's last words where a limit ends the episode."""
        end = getattr(self._world, "end", None)
        return await end() if end is not None else Outcome(solved=self._state.solved)

    async def close(self) -> None:
        """Close the other world."""
        if (close := getattr(self._world, "close", None)) is not None:
            await close()

    @property
    def _counted(self) -> dict[str, float]:
        return {"replanned": float(self._replanned)}

    def _known(self, outcome: Outcome) -> Outcome:
        self._state = outcome
        said = outcome.text or "\n".join(str(one.get("content", "")) for one in outcome.messages)
        self._history += f"{said}\n"
        return replace(outcome, metrics={**outcome.metrics, **self._counted})


def _scored(folder: str, history: str, action: str) -> float:
    """The gain of an action in a reward model's score of a text, the mean of its heads."""
    from llmrl.models.frozen_scorer import any_scorer  # late: most worlds load no model

    model = any_scorer(Path(folder).expanduser())
    rows = [model.tokenizer.encode(text) for text in (history, history + action)]
    before, after = model.scores([(tokens, len(tokens)) for tokens in rows])
    return (sum(after) - sum(before)) / len(after)
