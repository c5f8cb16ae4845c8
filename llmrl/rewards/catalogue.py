"""The built-in reward functions, by the names that recipes use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmrl.rewards.code.verifier import code_verifier
from llmrl.rewards.math_verifier import math_verifier
from llmrl.rewards.reasoning_gym import reasoning_gym
from llmrl.rewards.shaping import format_pattern, length_penalty, overlong_penalty, repetition_penalty

CATALOGUE: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        math_verifier,
        code_verifier,
        reasoning_gym,
        format_pattern,
        overlong_penalty,
        length_penalty,
        repetition_penalty,
    )
}
