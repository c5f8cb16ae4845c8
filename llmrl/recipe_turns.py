"""The recipe's schema of turns: how what a model writes becomes an action, and what becomes of an invalid one.

turns:
  most: 20
  action: "<action>(.*?)</action>"
  invalid: {tell: "That is no action.", reward: -0.1, most_in_a_row: 3}
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, FiniteFloat, PositiveFloat, PositiveInt

from llmrl.recipe_moves import pattern
from llmrl.recipe_rows import Strict


class Invalid(Strict):
    """The answer to a text in which no action is found, or whose action the environment refuses."""

    tell: str | None = Field(
        default=None,
        description="told to the author; default: what the environment says, or that this is no valid action",
    )
    reward: FiniteFloat | None = Field(default=None, description="of such a turn, beside what the environment gives")
    most_in_a_row: PositiveInt = Field(default=3, description="with so many in a row the episode ends, unsolved")


class Turns(Strict):
    """How the turns of an environment that speaks text are taken."""

    most: PositiveInt | str | None = Field(
        default=None,
        description="an author's turns, or the row's column with their number; then the episode is cut short",
    )
    most_factor: PositiveFloat = Field(
        default=1.0,
        description="of `most`, rounded up: 2.0 gives twice the turns of the row's column, such as those of an expert",
    )
    past_most: Literal["truncated", "lost"] = Field(
        default="truncated",
        description="what an episode is that reaches them: truncated, so that its state still has a value, or lost",
    )
    max_tokens: PositiveInt | None = Field(default=None, description="of one turn; default: all that are left")
    action: Annotated[str, AfterValidator(pattern)] | None = Field(
        default=None,
        description="a regular expression whose first group is the action, in the last place that matches; default: "
        "the whole text",
    )
    thoughts_end: str | None = Field(
        default=None, description="the tag that ends thoughts, which are no part of an action; default: none are"
    )
    invalid: Invalid = Field(default=Invalid(), description="what follows a text without a valid action")
