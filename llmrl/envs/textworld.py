"""Games of textworld, as worlds: its generator makes a game of each seed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from llmrl.envs.hosts import HostedWorld, Hosts, shared
from llmrl.envs.packages import require
from llmrl.envs.textworld_games import default_folder, game_file
from llmrl.envs.world import Outcome
from llmrl.errors import unknown_name
from llmrl.marks import settings_checked_by, tried_with

Name = Annotated[str, Field(min_length=1)]
STATUS = re.compile(r"\n?>?\s*-= [^\n]* =-\s*-?\d+/-?\d+\s*$")
"""The prompt and the line of room, score and moves at the end of what the game says."""
OBJECTIVE_CHARACTERS = 40
"""So many of its first characters tell the objective, which the game spells with other quotation marks."""
COMMAND_CHARACTERS = 100
OUTSIDE = frozenset(
    ("save", "restore", "restart", "quit", "q", "undo", "script", "transcript", "unscript", "recording", "replay")
)
"""Commands to the interpreter: they would write files, read another episode's, or begin anew."""


def _check(*, challenge: str | None, settings: Mapping[str, Any] | None, quest_length: int, **others: Any) -> None:
    """Raises ValueError for a missing package, and for a challenge that textworld does not have."""
    require("textworld")
    if challenge is None:
        if settings:
            raise ValueError("settings are those of a challenge; name one")
        return
    from textworld.challenges import CHALLENGES

    if challenge not in CHALLENGES:
        raise ValueError(unknown_name("challenge", challenge, CHALLENGES, "challenge of textworld"))


@settings_checked_by(_check)
@tried_with(lambda **settings: "look")
def textworld(
    *,
    rooms: PositiveInt = 2,
    objects: PositiveInt = 4,
    quest_length: PositiveInt = 2,
    quest_breadth: PositiveInt = 1,
    parallel_quests: PositiveInt = 1,
    challenge: Name | None = None,
    settings: dict[str, Any] | None = None,
    max_steps: PositiveInt = 50,
    admissible_commands: bool = False,
    normalized: bool = False,
    hidden: bool = False,
    folder: Name | None = None,
    deadline_seconds: PositiveFloat = 60.0,
    processes: PositiveInt | None = None,
) -> Textworld:
    """A game that textworld's generator makes of the row's seed, in a host process.

    rooms, objects, quest_length, quest_breadth, parallel_quests: the generator's; challenge: one of textworld's in
    place of these, such as tw-cooking, with its settings. Each game is made once, which takes some seconds, and kept in
    `folder`; default: the user's cache. The reward of a command is what it adds to the score; normalized: over the
    highest score. max_steps: commands after which the episode is truncated; a won or lost game is terminated. A command
    that the game does not understand is invalid, and so are several at once and those to the interpreter, such as save.
    admissible_commands: tell the commands that the state admits. hidden: let critics see commands that win.
    deadline_seconds: of each call. processes: that hold the games; default: half of the cores.
    """
    options = {
        "rooms": rooms,
        "objects": objects,
        "quest_length": quest_length,
        "quest_breadth": quest_breadth,
        "parallel_quests": parallel_quests,
    }
    if challenge is not None:
        options = {"challenge": challenge, "settings": settings or {}}
    told = {"max_steps": max_steps, "admissible": admissible_commands, "normalized": normalized, "hidden": hidden}
    place = Path(folder).expanduser() if folder else default_folder()
    return Textworld(shared(processes), {"challenge": None} | options, told, place, deadline_seconds)


class Textworld:
    """A World that has its game made, and plays it in a host."""

    def __init__(
        self,
        hosts: Hosts,
        options: Mapping[str, Any],
        told: Mapping[str, Any],
        folder: Path,
        deadline_seconds: float,
    ):
        self._hosts, self._options, self._told = hosts, options, told
        self._folder, self._deadline = folder, deadline_seconds
        self._world: HostedWorld | None = None

    async def reset(self, seed: int) -> Outcome:
        path = await game_file(self._options, seed, self._folder)
        given = {"path": str(path), **self._told}
        self._world = self._hosts.world(Play, given, name="textworld", deadline_seconds=self._deadline)
        return await self._world.reset(seed)

    async def act(self, action: str) -> Outcome:
        assert self._world is not None
        return await self._world.act(action)

    async def close(self) -> None:
        if self._world is not None:
            await self._world.close()


class Play:
    """One playing of a game file, in a host; the settings are those of `textworld`."""

    def __init__(self, *, path: str, max_steps: int, admissible: bool, normalized: bool, hidden: bool):
        import textworld as library

        infos = library.EnvInfos(
            feedback=True,
            score=True,
            max_score=True,
            moves=True,
            won=True,
            lost=True,
            description=True,
            inventory=True,
            objective=True,
            admissible_commands=admissible,
            policy_commands=hidden,
        )
        self._game: Any = library.start(path, infos)  # without a limit, which textworld would call the end of the game
        self._admissible, self._hidden, self._max_steps = admissible, hidden, max_steps
        self._normalized = normalized
        self._score, self._moves, self._steps = 0, 0, 0
        self._state = ""
        self._over = False

    def reset(self, seed: int) -> Outcome:
        """The opening, without the title; the seed has made the game already."""
        state = self._game.reset()
        self._score, self._moves = state.score, state.moves
        self._state = _state(state)
        text = _said(state.feedback)
        told = self._with_commands(text[max(text.find(state.objective[:OBJECTIVE_CHARACTERS]), 0) :], state)
        return Outcome(told, solved=False, state=self._state, hidden=self._inner(state))

    def act(self, action: str) -> Outcome:
        """The answer to a command."""
        if self._over:
            raise RuntimeError("act after the end of the game")
        command = " ".join(action.split())
        if fault := _fault(command):
            return Outcome(fault, valid=False, state=self._state)
        state, _, done = self._game.step(command)
        self._steps += 1
        gained, self._score = state.score - self._score, state.score
        terminated = bool(done or state.won or state.lost)
        truncated = not terminated and self._steps >= self._max_steps
        understood, self._moves = terminated or state.moves > self._moves, state.moves
        self._over, self._state = terminated or truncated, _state(state)
        return Outcome(
            self._with_commands(_said(state.feedback), state),
            reward=gained / max(state.max_score, 1) if self._normalized else float(gained),
            terminated=terminated,
            truncated=truncated,
            valid=understood,
            solved=bool(state.won),
            state=self._state,
            hidden=self._inner(state),
        )

    def close(self) -> None:
        self._game.close()

    def _with_commands(self, text: str, state: Any) -> str:
        told = ", ".join(state.admissible_commands or ()) if self._admissible else ""
        return f"{text}\n\nAdmissible commands: {told}" if told else text

    def _inner(self, state: Any) -> str | None:
        return "Commands that win: " + ", ".join(state.policy_commands or ()) if self._hidden else None


def _fault(command: str) -> str:
    """Why a text is no command to the game; empty for one that may be."""
    words = command.casefold().split()
    if not command or len(command) > COMMAND_CHARACTERS:
        return f"Give a command of 1 to {COMMAND_CHARACTERS} characters."
    if re.search(r"[.;\n]|\bthen\b", command):
        return "Give one command at a time."
    if words[0] in OUTSIDE or words[0].startswith("tw-"):
        return f"There is no command '{words[0]}' in this game."
    return ""


def _said(feedback: str) -> str:
    """The game's words, without its prompt and status line, its last question, and runs of empty space."""
    text = STATUS.sub("", feedback).partition("\nWould you like to RESTART")[0]
    return re.sub(r"\n{3,}", "\n\n", re.sub(r" {3,}", " ", text)).strip()


def _state(state: Any) -> str:
    """The player's surroundings and belongings, which name the state."""
    return f"{state.description}\n{state.inventory}"
