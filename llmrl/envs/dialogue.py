"""A world played by models: actions are found in what they wrote, and what they are told is appended as tokens."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from llmrl.envs.base import AuthorText, Step
from llmrl.envs.conversation import Context, Messages, context_of
from llmrl.envs.world import Outcome, World
from llmrl.errors import unknown_name
from llmrl.recipe_turns import Turns
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rollout.sampler import Completion
from llmrl.types import Prompt, StopReason

INVALID = "This is no valid action."


class Dialogue:
    """An episode of a world as an Env.

    authors: every role's text conversions; the first one is asked by the row's prompt.
    """

    def __init__(self, world: World, turns: Turns, authors: Mapping[str, AuthorText], prompt: Prompt, seed: int):
        self._world, self._turns, self._authors, self._prompt, self._seed = world, turns, authors, prompt, seed
        self._acting = self._first = next(iter(authors))
        self._pattern = None if turns.action is None else re.compile(turns.action, re.DOTALL)
        self._contexts: dict[str, Context] = {}
        self._told: dict[str, list[Mapping[str, Any]]] = {}
        self._taken: Counter[str] = Counter()
        self._invalid: Counter[str] = Counter()  # in a row
        self._most: int | None = None
        self._solved: bool | None = None
        self.turn_tokens = turns.max_tokens
        self.stop: tuple[str, ...] = tuple(getattr(world, "stop", ()))

    async def reset(self) -> Step:
        self._most = _most(self._turns, self._prompt)
        opening = await self._world.reset(self._seed)
        if opening.terminated or opening.truncated:
            raise ValueError("the world was over before the first turn")
        return self._handed_on(opening, opening.player or self._first, opens=True)

    async def step(self, completion: Completion) -> Step:
        author = self._acting
        self._contexts[author].said(completion.token_ids, completion.text)
        action = self._action(completion.text)
        outcome = Outcome(valid=False) if action is None else await self._world.act(action)
        self._taken[author] += 1
        self._invalid[author] = 0 if outcome.valid else self._invalid[author] + 1
        reason = self._ending(author, outcome)
        reward, rewards = self._reward(outcome), outcome.rewards
        known: dict[str, Any] = {"reward": reward, "action": action, "valid": outcome.valid, "rewards": rewards}
        if reason is None:
            return self._handed_on(outcome, outcome.player or author, **known)
        step = Step([], stop_reason=reason, **known, **self._known(outcome))
        over = outcome.terminated or outcome.truncated
        return step if over or (last := await self.cut()) is None else step.followed_by(last)

    async def cut(self) -> Step | None:
        """The world's last words on an episode that a limit ended, such as its reward; None if it has none."""
        if (end := getattr(self._world, "end", None)) is None:
            return None
        outcome: Outcome = await end()
        return Step([], reward=outcome.reward, rewards=outcome.rewards, **self._known(outcome))

    async def close(self) -> None:
        if (close := getattr(self._world, "close", None)) is not None:
            await close()

    def _handed_on(self, outcome: Outcome, player: str, *, opens: bool = False, **known: Any) -> Step:
        """The step after which `player` takes a turn."""
        if player not in self._authors:
            raise ValueError(unknown_name("player", player, self._authors, "role"))
        for role, text in outcome.told.items():
            self._told.setdefault(role, []).append({"role": "user", "content": text})
        told = [*self._told.pop(player, []), *self._answer(outcome)]
        self._acting = player
        known |= {"done": False, "author": player} | self._known(outcome)
        known["state"] = outcome.text if outcome.state is None else outcome.state
        context = self._contexts.get(player)
        if context is None:
            context = context_of(self._authors[player], self._prompt, asked=player == self._first)
            self._contexts[player] = context
            tokens = context.begin(told)
            return Step(tokens, **known) if opens else Step([], context=tokens, **known)
        tokens, restarts = context.follow(told)
        if not tokens:
            raise ValueError(f"the world told {player} nothing before the next turn")
        return Step(tokens, restarts=restarts, **known)

    def _answer(self, outcome: Outcome) -> Messages:
        """The world's answer as messages: a refused action is told of in any case."""
        if outcome.messages:
            return outcome.messages
        text = outcome.text
        if not outcome.valid:
            text = self._turns.invalid.tell or text or INVALID
        return [{"role": "user", "content": text}] if text else []

    def _action(self, text: str) -> str | None:
        """The action in what an author wrote; None if there is none."""
        end = self._turns.thoughts_end
        answer = text if end is None else after_thoughts(text, thoughts_end=end)
        if answer is None:
            return None
        if self._pattern is None:
            return answer.strip() or None
        found = list(self._pattern.finditer(answer))
        return found[-1][1] if found else None

    def _reward(self, outcome: Outcome) -> float | None:
        penalty = None if outcome.valid else self._turns.invalid.reward
        given = [one for one in (outcome.reward, penalty) if one is not None]
        return sum(given) if given else None

    def _known(self, outcome: Outcome) -> dict[str, Any]:
        """The parts of a step that say something of the whole episode."""
        if outcome.solved is not None:
            self._solved = outcome.solved
        return {"solved": self._solved, "hidden": outcome.hidden, "metrics": outcome.metrics}

    def _ending(self, author: str, outcome: Outcome) -> StopReason | None:
        """Why the episode is over; None if it goes on."""
        if outcome.terminated:
            return "environment_ended"
        if outcome.truncated:
            return "environment_truncated"
        if self._invalid[author] >= self._turns.invalid.most_in_a_row:
            return "invalid_action"
        if self._most is not None and self._taken[author] >= self._most:
            return "environment_truncated" if self._turns.past_most == "truncated" else "environment_ended"
        return None


def _most(turns: Turns, prompt: Prompt) -> int | None:
    """The most turns of an author; raises ValueError if the row's column holds no such number."""
    if turns.most is None:
        return None
    return math.ceil(turns.most_factor * (turns.most if isinstance(turns.most, int) else _in_row(turns.most, prompt)))


def _in_row(name: str, prompt: Prompt) -> int:
    """The number of turns in the row's column; raises ValueError if it holds none."""
    if name not in prompt.row:
        raise ValueError(unknown_name("turns.most", name, prompt.row, "column"))
    most = prompt.row[name]
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise ValueError(f"turns.most: column '{name}' holds {most!r}, expected a number of turns")
    return most
