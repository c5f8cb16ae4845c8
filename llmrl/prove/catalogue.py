"""The tasks of `llmrl prove`, and which methods are measured on each."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml

from llmrl.errors import RecipeError, unknown_name
from llmrl.other_policies import needs_past
from llmrl.recipe_file import method_recipe, methods
from llmrl.resolve import resolve_pieces
from llmrl.rewards.reward import Reward

HERE = resources.files("llmrl.prove")


@dataclass(frozen=True)
class Task:
    """A task's row in tasks.yaml.

    family: the tasks that one document shows. start: the recipe that makes the checkpoint from which its runs start;
    None for a task that brings its own model. yardstick: the method that the others are compared with.
    """

    family: str
    start: str | None
    yardstick: str


TASKS: Mapping[str, Task] = {
    name: Task(**fields) for name, fields in yaml.safe_load((HERE / "tasks.yaml").read_text(encoding="utf-8")).items()
}
COMMON = ("arithmetic", "sparse", "noisy")


def task_file(name: str) -> Path:
    """The recipe file of a task, or of a task's start."""
    return Path(str(HERE / "tasks" / f"{name}.yaml"))


def tasks_named(names: Collection[str]) -> list[str]:
    """The tasks that are named, or whose family is; raises RecipeError for an unknown name."""
    families = {task.family for task in TASKS.values()}
    unknown = [name for name in names if name not in TASKS.keys() | families]
    if unknown:
        raise RecipeError(*(unknown_name("tasks", name, {*TASKS, *families}, "task") for name in unknown))
    return [name for name, task in TASKS.items() if {name, task.family} & set(names)]


def suits(method: str, task: str) -> bool:
    """Whether a method is measured on a task; the yardstick is on all its tasks."""
    return task in tasks_of(method) or method == TASKS[task].yardstick


def tasks_of(method: str) -> tuple[str, ...]:
    """The tasks that have what a method reads: pairs, routers, grades of programs, a tool, or nothing special.

    Labels of steps, several objectives, verdicts on answers, named states, recorded turns and completions to replay are
    in no task, so neither are methods that bring a verifier or a reward that reads other texts. In the table the policy
    alone writes completions, so methods with other writers are measured on sampled text.
    """
    recipe = method_recipe(method)
    algorithm = resolve_pieces(recipe).algorithm
    if algorithm.scores:
        return () if {"turn_rewards", "reward_components"} & algorithm.needs else ("scored_pairs",)
    if "win_rate" in recipe.rewards:
        return ("opinions",)
    own = methods()[method].get("rewards") or {}
    rewards = [Reward.from_spec(name, recipe.rewards[name] or {}) for name in own if name in recipe.rewards]
    if any(one.may_give_verdicts or "trajectory" in one.piece.data for one in rewards):
        return ()
    if any(weight.mark("drops_other_writers") for weight in algorithm.token_weights):
        return ()
    if "state_ids" in algorithm.needs or recipe.data.train.transform is not None:
        return ()
    beyond = needs_past(recipe, algorithm) or bool(recipe.rollout.written_by)
    if algorithm.compares or beyond:
        on_samples = ("online_pairs",) if beyond else ("online_pairs", "table")
        return on_samples if algorithm.samples else ("pairs", "table")
    if "router_drift" in algorithm.needs:
        return ("experts",)
    if "grades" in algorithm.needs:
        return ("programs",)
    return COMMON if recipe.env == "single_turn" else ("tools",)
