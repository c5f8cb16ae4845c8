"""Foreign worlds for host processes: one that draws from global random streams, and one that misbehaves on demand."""

from __future__ import annotations

import os
import random
import sys
import time
from pathlib import Path

import gymnasium
import numpy as np

from llmrl.envs.world import Outcome


class Draws:
    """Says what it draws; obeys hang, pause, die, raise, refuse and lie."""

    def __init__(self, closed_in: str | None = None):
        self.closed_in = closed_in

    def reset(self, seed: int) -> Outcome:
        return Outcome(self._drawn())

    def act(self, action: str) -> Outcome:
        if action == "hang":
            time.sleep(1000)
        if action == "pause":
            time.sleep(0.03)
        if action == "die":
            os._exit(7)
        if action == "raise":
            raise KeyError("lost")
        if action == "refuse":
            raise ValueError("not so")
        if action == "lie":
            return "a text"  # pyright: ignore[reportReturnType]
        if action == "modules":
            return Outcome(" ".join(name for name in ("torch", "transformers", "vllm") if name in sys.modules))
        return Outcome(self._drawn())

    def close(self) -> None:
        if self.closed_in:
            Path(self.closed_in).touch()

    def _drawn(self) -> str:
        return f"{random.random()} {np.random.randn()}"


class Corridor(gymnasium.Env):
    """A walk along a corridor, told as parts of an observation that no Text space contains."""

    action_space = gymnasium.spaces.Discrete(2, start=1)
    observation_space = gymnasium.spaces.Dict({"place": gymnasium.spaces.Text(5)})

    def __init__(self, length: int = 3):
        self.length, self.place = length, 0

    def reset(self, *, seed=None, options=None):
        self.place = 0
        return {"place": "at the start, here"}, {"steps": 0}

    def step(self, action):
        self.place += 1 if action == 2 else -1
        done = self.place == self.length
        return {"place": f"place {self.place}!"}, float(done), done, False, {"steps": 1, "success": done}


class Echo(gymnasium.Env):
    """Says the text that it is given."""

    action_space = gymnasium.spaces.Text(3)
    observation_space = gymnasium.spaces.Text(3)

    def reset(self, *, seed=None, options=None):
        return "say something", {}

    def step(self, action):
        return f"you said: {action}", 0.0, False, False, {}


def vector(**settings):
    return gymnasium.make_vec("FrozenLake-v1", num_envs=2)


def shout(observation, info):
    return observation["place"].upper()


def check_or_fold(observation: str) -> str:
    return "[check]" if "[check]" in observation.splitlines()[-1] else "[fold]"


if "Corridor-v0" not in gymnasium.registry:
    gymnasium.register("Corridor-v0", entry_point=Corridor, max_episode_steps=5)
