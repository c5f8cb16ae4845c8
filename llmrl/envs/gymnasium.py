"""Environments with gymnasium's interface, as worlds: text or named actions in, text out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, PositiveFloat, PositiveInt

from llmrl.envs.hosts import HostedWorld, shared
from llmrl.envs.packages import import_module, imported, is_path, require
from llmrl.envs.world import Outcome
from llmrl.errors import unknown_name
from llmrl.marks import settings_checked_by, tried_with
from llmrl.templates import RowTemplate

Name = Annotated[str, Field(min_length=1)]
RENDERED = "render"
COLOURED = re.compile(r"\x1b\[[\d;]+m(.*?)\x1b\[0?m", re.DOTALL)
VERDICTS = ("is_success", "success")
"""The keys of a step's info that say whether the task was solved."""


def _check(*, id: str, actions: Any, action: str | None, observation: str | None, **others: Any) -> None:
    """Raises ValueError for a missing package, an unknown environment, or a function that cannot be imported."""
    require("gymnasium")
    if actions is not None and action is not None:
        raise ValueError("actions and action exclude each other: name the actions or read them by a function")
    if not _is_registered(id):
        imported(id)
    if action is not None:
        imported(action)
    if observation is not None:
        imported(observation) if is_path(observation) else RowTemplate(observation)


def _example(*, actions: Sequence[str] | None = None, **others: Any) -> str:
    return actions[0] if actions else "0"


@settings_checked_by(_check)
@tried_with(_example)
def gymnasium(
    *,
    id: Name,
    settings: dict[str, Any] | None = None,
    actions: list[Name] | None = None,
    action: Name | None = None,
    observation: Name | None = None,
    solved_from: float | None = None,
    max_steps: PositiveInt | None = None,
    deadline_seconds: PositiveFloat = 60.0,
    processes: PositiveInt | None = None,
) -> HostedWorld:
    """An environment of gymnasium, or one with its interface, in a host process.

    id: a registered id, `module:Id` of one that a module registers, or `module:function` of what makes one; settings:
    what it is made with. actions: names of the actions of a discrete action space, in order, told apart by no case;
    default: their numbers. action: `module:function` that makes an action of the text, or raises ValueError for an
    invalid one; default: the text itself, where the action space is no discrete one. observation: a template of the
    parts of the observation, such as "{mission} {image}", of `observation`, `info` and `render`, which is the
    environment's own drawing as text; or `module:function` of observation and info; default: the text, or the parts
    line by line. solved_from: the sum of rewards from which an episode is solved; default: what the last step's info
    says under `is_success` or `success`. max_steps: in place of the environment's own limit, after which the episode
    is truncated. deadline_seconds: of each call. processes: that hold the environments; default: half of the cores.
    """
    given = {
        "id": id,
        "settings": settings or {},
        "actions": actions,
        "action": action,
        "observation": observation,
        "solved_from": solved_from,
        "max_steps": max_steps,
    }
    return shared(processes).world(Gymnasium, given, name=f"gymnasium:{id}", deadline_seconds=deadline_seconds)


class Gymnasium:
    """One episode, in a host; the settings are those of `gymnasium`."""

    def __init__(
        self,
        *,
        id: str,
        settings: Mapping[str, Any],
        actions: Sequence[str] | None = None,
        action: str | None = None,
        observation: str | None = None,
        solved_from: float | None = None,
        max_steps: int | None = None,
    ):
        written = observation is not None and not is_path(observation)
        self._template = RowTemplate(str(observation)) if written else None
        drawn = self._template is not None and RENDERED in self._template.columns
        self._env = _made(id, dict(settings), max_steps, drawn)
        self._act = imported(action) if action else _reader(self._env.action_space, actions)
        self._show = imported(observation) if observation and not written else self._filled
        self._solved_from = solved_from
        self._return = 0.0
        self._over = False

    def reset(self, seed: int) -> Outcome:
        observation, info = self._env.reset(seed=seed)
        return Outcome(self._show(observation, info), solved=self._verdict(info))

    def act(self, action: str) -> Outcome:
        """One step; an action that the space does not have is none, and changes nothing."""
        if self._over:
            raise RuntimeError("act after the end of the episode")
        try:
            taken = self._act(action)
        except ValueError as error:
            return Outcome(str(error), valid=False)
        observation, reward, terminated, truncated, info = self._env.step(taken)
        self._return += float(reward)
        self._over = bool(terminated or truncated)
        return Outcome(
            self._show(observation, info),
            reward=float(reward),
            terminated=bool(terminated),
            truncated=bool(truncated and not terminated),
            solved=self._verdict(info),
        )

    def close(self) -> None:
        self._env.close()

    def _verdict(self, info: Mapping[str, Any]) -> bool | None:
        if self._solved_from is not None:
            return self._return >= self._solved_from
        told = next((info[key] for key in VERDICTS if key in info), None)
        return None if told is None else bool(told)

    def _filled(self, observation: Any, info: Mapping[str, Any]) -> str:
        """The observation in the template, or as it is."""
        parts = observation if isinstance(observation, Mapping) else {}
        if self._template is None:
            return "\n".join(f"{name}: {value}" for name, value in parts.items()) if parts else str(observation)
        drawn = _plain(str(self._env.render())) if RENDERED in self._template.columns else ""
        told = {name: str(value) for name, value in {"observation": observation, RENDERED: drawn, **parts}.items()}
        return self._template.fill({"info": info, **told})


def _made(id: str, settings: dict[str, Any], max_steps: int | None, drawn: bool) -> Any:
    """The environment; of registered ones without the checker, which warns of each text with a space in it."""
    import gymnasium as library

    if drawn:
        settings = {"render_mode": "ansi"} | settings
    if _is_registered(id):
        env: Any = library.make(id, max_episode_steps=max_steps, disable_env_checker=True, **settings)
    else:
        env = imported(id)(**settings)
        if max_steps is not None:
            env = library.wrappers.TimeLimit(env, max_steps)
    if isinstance(env, library.vector.VectorEnv):
        raise ValueError(f"{id} is a vector environment, whose episodes begin one step late; give a single one")
    return env


def _reader(space: Any, names: Sequence[str] | None) -> Callable[[str], Any]:
    """The function that makes an action of a text; raises ValueError for an action space of another kind."""
    import gymnasium as library

    if isinstance(space, library.spaces.Discrete):
        count, first = int(space.n), int(space.start)
        names = [str(first + place) for place in range(count)] if names is None else names
        if len(names) != count:
            raise ValueError(f"actions: {len(names)} names, but the environment has {count} actions")
        numbers = {name.casefold(): first + place for place, name in enumerate(names)}
        return lambda text: _numbered(text, numbers, names)
    if names is not None:
        raise ValueError(f"actions: the action space {space} is no discrete one, so it has no names")
    if isinstance(space, library.spaces.Text) or space is None:
        return lambda text: text  # not compared with the space, which by default has neither spaces nor punctuation
    raise ValueError(f"the action space {space} is neither discrete nor text; give `action`, a module:function")


def _numbered(text: str, numbers: Mapping[str, int], names: Sequence[str]) -> int:
    if text.strip().casefold() not in numbers:
        raise ValueError(f"There is no such action. Valid actions: {', '.join(names)}.")
    return numbers[text.strip().casefold()]


def _plain(drawing: str) -> str:
    """A drawing in which brackets stand for colours, which often mark the player's place."""
    return COLOURED.sub(r"[\1]", drawing).strip("\n")


def _is_registered(id: str) -> bool:
    """Whether gymnasium knows the id; of `module:Id` the module is imported first. Raises ValueError for no module."""
    import gymnasium as library

    module, separator, name = id.rpartition(":")
    if separator:
        import_module(module, id)
        return name in library.registry
    if id not in library.registry:
        raise ValueError(unknown_name("id", id, library.registry, "environment of gymnasium"))
    return True
