"""The environments that a recipe can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmrl.envs.python_tool import python_tool
from llmrl.envs.single_turn import single_turn

CATALOGUE: dict[str, Callable[..., Any]] = {"python_tool": python_tool, "single_turn": single_turn}
