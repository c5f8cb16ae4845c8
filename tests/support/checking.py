"""Checks of plans that share their reward workers: to start these is most of what the check of a small plan takes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
from rich.console import Console

from llmrl.check import check_plan
from llmrl.check import plan as plan_module
from llmrl.errors import RecipeError
from llmrl.recipe_file import Plan
from llmrl.rewards.workers import Workers


@contextmanager
def shared_workers(*folders: object) -> Iterator[None]:
    """Every check within uses the same two worker processes, which find a user's own modules in `folders`."""
    with pytest.MonkeyPatch.context() as patch, Workers(2) as workers:
        for folder in folders:
            patch.syspath_prepend(str(folder))
        patch.setattr(plan_module, "Workers", lambda count: nullcontext(workers))
        yield


def checked(plan: Plan, *, ranks: int = 1, width: int = 200) -> tuple[list[str], str]:
    """The faults that `llmrl check` finds in a plan, and what it prints."""
    out = io.StringIO()
    try:
        assert check_plan(plan, ranks=ranks, console=Console(file=out, width=width)) == 0
    except RecipeError as error:
        return error.faults, out.getvalue()
    return [], out.getvalue()
