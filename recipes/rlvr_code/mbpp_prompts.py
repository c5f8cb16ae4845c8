"""Prompts for mbpp_grpo.yaml."""

from __future__ import annotations

from typing import Any


def prompt(row: dict[str, Any]) -> str:
    """Return the description and one of the asserts, which shows the function's name."""
    return f"{row['text']}\nYour program must pass tests such as:\n{row['test_list'][0]}"
