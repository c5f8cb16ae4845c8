"""The environments that a recipe can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmrl.envs.advantage_feedback import advantage_feedback
from llmrl.envs.agent import agent
from llmrl.envs.games.bargaining import bargaining
from llmrl.envs.games.game import Game
from llmrl.envs.games.guess_number import guess_number
from llmrl.envs.games.maze import maze
from llmrl.envs.games.nim import nim
from llmrl.envs.games.text_navigation import text_navigation
from llmrl.envs.games.twenty_questions import twenty_questions
from llmrl.envs.games.wordle import wordle
from llmrl.envs.gymnasium import gymnasium
from llmrl.envs.mcp_server import mcp
from llmrl.envs.python_tool import python_tool
from llmrl.envs.reasoning_gym import reasoning_gym
from llmrl.envs.single_turn import single_turn
from llmrl.envs.textarena import textarena
from llmrl.envs.textworld import textworld
from llmrl.envs.tools import tools, trl_environment

GAMES: dict[str, Callable[..., Game]] = {
    "bargaining": bargaining,
    "guess_number": guess_number,
    "maze": maze,
    "nim": nim,
    "text_navigation": text_navigation,
    "twenty_questions": twenty_questions,
    "wordle": wordle,
}
CATALOGUE: dict[str, Callable[..., Any]] = {
    "agent": agent,
    "advantage_feedback": advantage_feedback,
    "gymnasium": gymnasium,
    "mcp": mcp,
    "python_tool": python_tool,
    "reasoning_gym": reasoning_gym,
    "single_turn": single_turn,
    "textarena": textarena,
    "textworld": textworld,
    "tools": tools,
    "trl_environment": trl_environment,
    **GAMES,
}
