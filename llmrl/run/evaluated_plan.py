"""The plan of an evaluation: one stage of a recipe or of a run, of 0 steps, with the models that are measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmrl.errors import RecipeError, nearest, unknown_name
from llmrl.evaluation.show import missing_run
from llmrl.recipe import ORIGINS, Recipe
from llmrl.recipe_file import Plan, load_plan
from llmrl.resolve import resolve_pieces
from llmrl.run_folder import layout
from llmrl.run_folder.layout import StepName
from llmrl.run_folder.reader import RunReader


@dataclass(frozen=True)
class Source:
    """A stage of a recipe, or of a run, whose folder `run` reads then."""

    plan: Plan
    stage: str
    run: RunReader | None = None

    @property
    def recipe(self) -> Recipe:
        """The stage's recipe."""
        return self.plan.stages[self.stage]

    @property
    def weights(self) -> list[str]:
        """The roles that have weights of their own."""
        return [name for name, view in self.recipe.by_role.items() if view.shares_with is None]


def source_of(path: Path, overrides: Sequence[str], stage: str | None) -> Source:
    """A recipe file's stage, or that of a run's folder, by default the last; overrides change it.

    Raises RecipeError for what is not there, and for a recipe with faults.
    """
    if not path.exists() and path.suffix not in (".yaml", ".yml"):
        raise RecipeError(f"SOURCE: {missing_run(path)}")
    if not path.is_dir():
        plan = load_plan(path, list(overrides))
        return Source(plan, _stage_of(plan, stage))
    run = RunReader(path)
    if not (path / layout.RECIPE).is_file() or not run.is_ours:
        raise RecipeError(f"SOURCE: '{path}' is no run's folder and no recipe file")
    if folder := run.environment.get("recipe_folder"):  # its modules may be named by the recipe
        sys.path.append(folder)
    name = _stage_of(load_plan(path / layout.RECIPE), stage)
    own = [one if one.startswith("stages.") else f"stages.{name}.{one}" for one in overrides]
    plan = replace(load_plan(path / layout.RECIPE, own), run_dir=path)
    return Source(plan, name, run)


def trained_models(source: Source, step: int | None) -> dict[str, str]:
    """The folders of the models that a run's stage left, by role; step: those of a checkpoint.

    Raises RecipeError for a stage without a model, or a step without a checkpoint.
    """
    assert source.run is not None
    run, name = source.run, source.stage
    if step is None:
        if run.trained_steps(name) is None:
            done = ", ".join(run.done()) or "none"
            steps = [one.step for one in run.checkpoints if one.stage == name]
            hint = f"; it has checkpoints of steps {', '.join(map(str, steps))} (--step)" if steps else ""
            raise RecipeError(f"--stage: stage '{name}' of {run.path} has no model yet{hint}; stages with one: {done}")
        return _by_role(source, run.stage_model(name))
    found = run.checkpoints.get(StepName(name, step))
    if found is None:
        steps = [one.step for one in run.checkpoints if one.stage == name]
        near = f"the nearest is step {min(steps, key=lambda one: abs(one - step))}" if steps else "it has none"
        raise RecipeError(f"--step: no checkpoint of step {step} of stage '{name}' of {run.path}; {near}")
    return _by_role(source, found / "model")


def given_models(source: Source, given: Sequence[str]) -> dict[str, str]:
    """The models of --model, each FOLDER or ROLE=FOLDER, by role; raises RecipeError for a role that is none.

    A FOLDER with a folder for each role gives each its own; any other is the only role's.
    """
    found: dict[str, str] = {}
    for one in given:
        role, equals, folder = one.partition("=")
        if equals and role in source.recipe.by_role:
            if role not in source.weights:
                owner = source.recipe.by_role[role].model.role
                raise RecipeError(f"--model: {role} has the weights of {owner}; give --model {owner}={folder}")
            found[role] = folder
        elif all((Path(one) / role).is_dir() for role in source.recipe.roles) or len(source.weights) == 1:
            found |= _by_role(source, Path(one))
        elif equals and not Path(one).exists() and (guess := nearest(role, source.weights)):
            raise RecipeError(f"--model: no role named '{role}'; did you mean '{guess}'?")
        else:
            roles = ", ".join(source.weights)
            raise RecipeError(f"--model: '{one}' has no folder for each of {roles}; say whose it is, as ROLE=FOLDER")
    return found


def evaluated(
    source: Source, models: Mapping[str, str], run_dir: Path, *, samples: int | None = None, limit: int | None = None
) -> Plan:
    """The plan that measures models in place of those that the stage starts from, and writes into `run_dir`.

    Roles are frozen where the stage samples, so that their weights are held once. samples: of each question. limit: the
    most questions.
    """
    recipe = source.recipe
    frozen = resolve_pieces(next(iter(recipe.by_role.values()))).samples
    views = {name: _view(view, name, source, models.get(name), frozen) for name, view in recipe.by_role.items()}
    views = {name: _asking(view, samples, limit) for name, view in views.items()}
    first = next(iter(views.values()))
    whole = first.model_copy(update={"roles": views if recipe.roles else {}})
    return replace(source.plan, run_dir=run_dir, stages={source.stage: whole})


def _view(view: Recipe, role: str, source: Source, model: str | None, frozen: bool) -> Recipe:
    length = {"steps": 0, "epochs": None, "warmup_steps": 0, "updates_per_step": 1}
    reference = view.reference.model_copy(update={"precompute": False})
    if model is not None and not frozen and reference.model is None:
        reference = reference.model_copy(update={"model": _start(view, role, source)})
    changed: dict[str, object] = {"training": view.training.model_copy(update=length), "reference": reference}
    if frozen:
        changed["trained"] = False
    if model is not None:
        kept = dict.fromkeys((*ORIGINS, "lora"))
        changed["model"] = view.model.model_copy(update=kept | {"path": model})
    return view.model_copy(update=changed)


def _start(view: Recipe, role: str, source: Source) -> str | None:
    """The model that the stage started from, which its reference is."""
    if view.model.path is not None:
        return view.model.path
    made = source.plan.run_dir / "origin" / role if source.recipe.roles else source.plan.run_dir / "origin"
    if not made.is_dir():
        raise RecipeError(f"reference.model: missing, and {made}, from which the stage started, is gone; name it")
    return str(made)


def _asking(view: Recipe, samples: int | None, limit: int | None) -> Recipe:
    rollout, evaluation = view.rollout, view.evaluation
    if samples is not None:
        rollout = rollout.model_copy(update={"group_size": samples, "micro_group": None})
        evaluation = evaluation.model_copy(update={"samples": samples})
    if limit is not None:
        evaluation = evaluation.model_copy(update={"limit": limit})
    return view.model_copy(update={"rollout": rollout, "evaluation": evaluation})


def _by_role(source: Source, folder: Path) -> dict[str, str]:
    if not source.recipe.roles:
        [role] = source.weights
        return {role: str(folder)}
    return {role: str(folder / role if (folder / role).is_dir() else folder) for role in source.weights}


def _stage_of(plan: Plan, stage: str | None) -> str:
    if stage is not None and stage not in plan.stages:
        raise RecipeError(unknown_name("--stage", stage, plan.stages, "stage"))
    return stage or list(plan.stages)[-1]
