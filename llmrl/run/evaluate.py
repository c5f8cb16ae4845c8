"""The command `llmrl eval`: measure models on held-out prompts, their critiques, or what a run has recorded."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llmrl.errors import RecipeError, RunStopped, unknown_name
from llmrl.evaluation.critique import Interval, intervals, rates, total
from llmrl.evaluation.first_errors import (
    ASK,
    Solution,
    check_template,
    first_error_rates,
    first_error_tally,
    load_solutions,
    shown,
)
from llmrl.evaluation.show import chosen_step
from llmrl.evaluation.trees import tallies
from llmrl.metrics.table import metric_of
from llmrl.recipe_file import Plan
from llmrl.rewards.base import Rewards
from llmrl.rollout.sampler import derive_seed
from llmrl.run.checkpoint import Checkpoints
from llmrl.run.evaluated_plan import Source, evaluated, given_models, source_of, trained_models
from llmrl.run.run import opened
from llmrl.run.sampling import reward_workers, rewards_of
from llmrl.run.stage import Stage
from llmrl.run.warnings import Watch
from llmrl.run_folder import layout
from llmrl.run_folder.rows import trajectories_of
from llmrl.types import Group, Prompt

CRITIQUER = "critiquer"
"""The role that is asked about steps, if a recipe has it; else its last role."""


@dataclass(frozen=True)
class Asked:
    """The options of the command; see llmrl/cli.py."""

    source: Path
    overrides: Sequence[str] = ()
    stage: str | None = None
    step: int | None = None
    models: Sequence[str] = ()
    critique: bool = False
    samples: int | None = None
    steps: str | None = None
    template: str | None = None
    role: str | None = None
    neutral: str = "drop"
    limit: int | None = None
    keep: Path | None = None


@dataclass(frozen=True)
class Measured:
    """Metrics by name, the intervals of some, and what they were measured on; roles: those whose names begin some."""

    about: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    models: Mapping[str, str] = field(default_factory=dict)
    roles: Sequence[str] = ()

    def data(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        ends = {name: list(interval) for name, interval in self.intervals.items()}
        return {"about": self.about, "models": dict(self.models), "metrics": dict(self.metrics), "intervals": ends}


def run(asked: Asked, console: Console, *, out: Path | None, as_json: bool) -> None:
    """Measure what is asked, and print it as a table or as JSON; out: a file for the JSON.

    Raises RecipeError for options that do not go together, and for what is not there.
    """
    _check(asked)
    measured = measure(asked)
    text = json.dumps({"source": str(asked.source), **measured.data()}, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(text)
        return
    console.print(measured.about, markup=False, highlight=False, soft_wrap=True)
    console.print(_table(measured))


def measure(asked: Asked) -> Measured:
    """Measure what is asked."""
    source = source_of(asked.source, asked.overrides, asked.stage)
    sampled = asked.samples is not None or asked.models or asked.steps is not None
    if asked.critique and source.run is not None and not sampled:
        return _recorded(source, asked.step)
    models = trained_models(source, asked.step) if source.run is not None else {}
    models |= given_models(source, asked.models)
    if asked.critique and asked.steps is None and not source.recipe.moves:
        raise RecipeError(f"--critique: stage '{source.stage}' has no moves, so nobody critiques; see docs/critique.md")
    if asked.steps is None and source.recipe.data.eval is None:
        raise RecipeError("data.eval: missing, so there are no held-out prompts; name some, as data.eval.path=FILE")
    solutions = load_solutions(asked.steps, asked.limit, asked.neutral) if asked.steps is not None else []
    samples = asked.samples or source.recipe.rollout.group_size if asked.critique else asked.samples
    with _folder(asked.keep) as folder:
        plan = evaluated(source, models, folder, samples=samples, limit=asked.limit)
        with _stage(plan, source.stage) as stage:
            if solutions:
                found = _first_errors(stage, asked, solutions)
            elif asked.critique:
                found = _critiques(stage, samples or 1)
            else:
                found = _held_out(stage)
    return replace(found, models=models)


def _check(asked: Asked) -> None:
    """Raises RecipeError for options that do not go together."""
    faults = []
    if asked.steps is not None and not asked.critique:
        faults.append("--steps: the steps of solutions are judged by critiques; add --critique")
    for name in ("template", "role"):
        if getattr(asked, name) is not None and asked.steps is None:
            faults.append(f"--{name}: only with --critique --steps FILE, whose solutions are asked about")
    if asked.steps is not None and asked.samples is not None:
        faults.append("--samples: critiques of steps are greedy; leave out one of --samples and --steps")
    if asked.step is not None and not asked.source.is_dir():
        faults.append(f"--step: '{asked.source}' is no run's folder, whose step this would be")
    if asked.step is not None and asked.models:
        faults.append("--step and --model both name models; leave one out")
    if asked.template is not None:
        check_template(asked.template)
    if asked.keep is not None and asked.keep.exists() and (not asked.keep.is_dir() or any(asked.keep.iterdir())):
        faults.append(f"--keep: '{asked.keep}' holds something already; name a new folder")
    if faults:
        raise RecipeError(*faults)


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    """The folder of the evaluation's records, which is deleted afterwards unless it is kept."""
    if keep is not None:
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="llmrl-eval-") as folder:
        yield Path(folder)


@contextmanager
def _stage(plan: Plan, name: str) -> Iterator[Stage]:
    """The plan's stage with its models loaded."""
    with opened(plan, console=Console(stderr=True, quiet=True)) as run:
        run.start(resume=False)
        yield run.make_stage(name, Checkpoints(plan.run_dir / layout.CHECKPOINTS, run.ranks), Watch(run.progress.roles))


def _held_out(stage: Stage) -> Measured:
    """The metrics of an evaluation while training."""
    stage.run()
    row = stage.folder.reader.metrics[-1]
    metrics = {name: value for name, value in row.items() if name.startswith("eval/") or "/eval/" in name}
    if not metrics:
        raise RecipeError("rewards: missing, so held-out prompts cannot be graded; name a verifier")
    prompts = min(len(stage.eval_prompts), stage.recipe.evaluation.limit or len(stage.eval_prompts))
    return Measured(f"{stage.name}: {prompts} held-out prompts", metrics, roles=list(stage.recipe.roles))


def _critiques(stage: Stage, samples: int) -> Measured:
    """The numbers of critiques and refinements of `samples` drafts of each held-out prompt."""
    assert stage.collector is not None
    stage.sync_weights()
    recipe = stage.recipe
    params = stage.params(derive_seed(recipe.seed, stage.name, "eval")).at(recipe.evaluation.temperature)
    prompts = stage.eval_prompts[: recipe.evaluation.limit]
    groups = stage.collector.sample(prompts, group_size=samples, params=replace(params, evaluating=True))
    stage.folder.save_rollouts(groups, stage=stage.name, step=0, kind="eval")
    rewards = rewards_of(stage.collector).get(stage.first)
    about = f"{stage.name}: {len(prompts)} held-out prompts, {samples} drafts of each"
    return _of_trees(about, groups, rewards, recipe.evaluation.answer_pattern)


def _recorded(source: Source, step: int | None) -> Measured:
    """The numbers of what a run has recorded: of its last evaluation, else of its last step of training."""
    assert source.run is not None
    kinds = [name.kind for name, _ in source.run.rollout_files() if step in (None, name.step)]
    name = chosen_step(source.run.path, stage=source.stage, step=step, kind="eval" if "eval" in kinds else "train")
    rows = source.run.rollouts(stage=name.stage, step=name.step, kind=name.kind).to_pylist()
    groups: dict[str, Group] = {}
    for one in trajectories_of(rows):
        groups.setdefault(one.prompt.id, Group(one.prompt, [], one.author)).trajectories.append(one)
    settings = next(iter(source.recipe.by_role.values())).rewards
    about = f"{name.stage}: {'evaluation after ' if name.kind == 'eval' else ''}step {name.step}, {len(groups)} prompts"
    with closing(reward_workers(1)) as workers:
        rewards = Rewards.from_specs(settings, workers=workers) if settings else None
        return _of_trees(about, list(groups.values()), rewards, source.recipe.evaluation.answer_pattern)


def _of_trees(about: str, groups: Sequence[Group], rewards: Rewards | None, pattern: str | None) -> Measured:
    found = tallies(groups, rewards.answers if rewards is not None else None, pattern)
    if not found:
        raise RecipeError(f"--critique: {about}: nothing follows a draft, so there is no critique and no refinement")
    failed = sum(one.failure is not None for group in groups for one in group.trajectories)
    told = f"{about}; {failed} texts failed and are left out" if failed else about
    return Measured(f"{told}; intervals of 95 % over prompts", rates(total(found)), intervals(found))


def _first_errors(stage: Stage, asked: Asked, solutions: Sequence[Solution]) -> Measured:
    """How often a role names the first wrong step of a solution; those that it cannot read whole are left out."""
    if stage.collector is None:
        raise RecipeError(f"--steps: stage '{stage.name}' samples nothing, so nobody can be asked")
    views = stage.recipe.by_role
    role = asked.role or (CRITIQUER if CRITIQUER in views else list(views)[-1])
    if role not in views:
        raise RecipeError(unknown_name("--role", role, views, "role"))
    stage.sync_weights()
    text, chat = stage.collector.authors[role].text, _chats(stage)
    template, room = check_template(asked.template or ASK), stage.recipe.rollout.max_prompt_tokens
    prompts: list[tuple[Solution, Prompt]] = []
    for number, solution in enumerate(solutions):
        filled = template.fill(solution.values)
        token_ids = text.chat([{"role": "user", "content": filled}]) if chat else text.plain(filled)
        if len(token_ids) <= room:
            prompts.append((solution, Prompt(f"steps:{number}", tuple(token_ids), filled, {})))
    if not prompts:
        raise RecipeError(f"rollout.max_prompt_tokens: {room} is less than every solution takes; give more")
    params = stage.params(derive_seed(stage.recipe.seed, stage.name, "steps")).at(0.0)
    size, found = max(1, stage.recipe.in_flight(1)), []
    for start in range(0, len(prompts), size):
        part = prompts[start : start + size]
        written = stage.collector.write([prompt for _, prompt in part], params, role)
        if len(written) != len(part):
            raise RunStopped(f"{role} wrote {len(written)} texts for {len(part)} solutions")
        found += [
            first_error_tally(solution, solution.said(one.text, one.prompt.text))
            for (solution, _), one in zip(part, written, strict=True)
        ]
    left = len(solutions) - len(prompts)
    told = f"{role}: {shown([solution for solution, _ in prompts])}"
    told += f"; {left} left out, longer than rollout.max_prompt_tokens" if left else ""
    return Measured(
        f"{told}; intervals of 95 % over solutions",
        rates(total(found), first_error_rates),
        intervals(found, first_error_rates),
    )


def _chats(stage: Stage) -> bool:
    """Whether the stage's prompts are chats."""
    return any(prompt.messages is not None for prompt in stage.eval_prompts) or stage.recipe.data.train.chat


def _table(measured: Measured) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("interval" if measured.intervals else "", justify="right")
    for name, value in measured.metrics.items():
        metric = metric_of(name, measured.roles) or metric_of(f"eval/{name}")
        form = metric.format if metric is not None else ".3f"
        ends = measured.intervals.get(name)
        table.add_row(
            name, format(value, form), f"{format(ends.low, form)} to {format(ends.high, form)}" if ends else ""
        )
    return table
