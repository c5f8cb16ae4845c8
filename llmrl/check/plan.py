"""The check of a whole plan: stage by stage, every fault collected before any is raised."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from rich.console import Console

from llmrl.algorithm import Algorithm
from llmrl.check.data import check_columns, check_data, check_sources
from llmrl.check.machine import check_disk, check_engines, check_machine, device_text, samples
from llmrl.check.model import ModelFound, Shape, check_model, keep_outline
from llmrl.check.report import Report
from llmrl.check.verifier import check_rewards
from llmrl.errors import RecipeError, gathered, unknown_name
from llmrl.evaluation.pass_at_k import powers_up_to
from llmrl.pieces import Piece
from llmrl.recipe import Recipe
from llmrl.recipe_file import Plan, of_stages
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.train.build import Pieces, resolve_pieces


def check_plan(plan: Plan, *, ranks: int, console: Console) -> int:
    """Check every stage and print what was found; returns exit code 0, or raises RecipeError with every fault."""
    faults: dict[str, list[str]] = {}
    warnings = 0
    outlines: dict[str, Path] = {}
    sized: list[tuple[Recipe, Shape]] = []
    console.print(f"{plan.name} on {device_text()}, {ranks} process{'es' if ranks > 1 else ''}", highlight=False)
    with tempfile.TemporaryDirectory() as scratch:
        for name, recipe in plan.stages.items():
            console.print(f"stage {name}", style="bold", highlight=False)
            report = Report(console)
            found = _check_stage(plan, name, recipe, ranks, Path(scratch), outlines, report)
            if found:
                outlines[name] = keep_outline(found, Path(scratch) / f"{name}-output")
                sized.append((recipe, found.shape))
            faults[name] = report.faults
            warnings += len(report.warnings)
    report = Report(console)
    if len(sized) == len(plan.stages):
        check_disk(plan.run_dir, sized, report)
    else:
        report.skipped("disk", "a model's size is not known")
    found_all = [*of_stages(faults), *report.faults]
    if found_all:
        count = f"{len(found_all)} fault{'s' if len(found_all) > 1 else ''}"
        console.print(f"{count}, {warnings} warnings", style="bold red", highlight=False)
        raise RecipeError(*found_all)
    console.print(f"no faults, {warnings} warnings", style="bold green", highlight=False)
    return 0


def _check_stage(
    plan: Plan, name: str, recipe: Recipe, ranks: int, scratch: Path, outlines: dict[str, Path], report: Report
) -> ModelFound | None:
    algorithm = pieces = rewards = found = prompts = None
    with gathered(report.faults):
        algorithm = Algorithm.from_recipe(recipe)
    with gathered(report.faults):
        pieces = resolve_pieces(recipe)
    with gathered(report.faults):
        rewards = Rewards.from_specs(recipe.rewards, workers=Workers(1))
    if algorithm and pieces:
        _say_pieces(recipe, algorithm, pieces, report)
    check_engines(recipe, ranks, report)
    _check_evaluation(recipe, report.faults)

    earlier = next((s for s in plan.stages if recipe.model.path == f"{recipe.run_dir}/stages/{s}"), None)
    if earlier in outlines or earlier is None:
        with gathered(report.faults):
            folder = scratch / f"{name}-origin"
            found = check_model(recipe, folder, outlines[earlier] if earlier else None, report)
    else:
        report.skipped("model", f"it is the output of stage {earlier}, which has faults of its own")
    if found:
        with gathered(report.faults):
            prompts = check_data(recipe, found.origin, report)
    else:
        check_sources(recipe, report.faults)
        report.skipped("data", "files and columns were read; prompts were not rendered, for want of a tokenizer")
    _say_arithmetic(recipe, len(prompts.train) if prompts else None, report)
    if found and prompts and rewards:
        with gathered(report.faults):
            check_columns(rewards, prompts, recipe)
            check_rewards(rewards, recipe, prompts, found.origin, report)
    else:
        report.skipped("rewards", "not run, because of the faults before")
    if found and algorithm:
        check_machine(recipe, algorithm, found.shape, ranks, report)
    else:
        report.skipped("memory", "the model or the algorithm is not known")
    return found


def _say_pieces(recipe: Recipe, algorithm: Algorithm, pieces: Pieces, report: Report) -> None:
    if recipe.paper:
        report.say("method", recipe.paper)
    named: list[tuple[str, Piece | None]] = [("advantage", algorithm.advantage), ("policy_loss", algorithm.policy_loss)]
    if "log_ratio" in algorithm.policy_loss.data:
        named.append(("log_ratio", algorithm.log_ratio))
    named.append(("reduce", algorithm.reduce))
    if recipe.learn_from == "rollouts":
        named += [("env", pieces.env), ("keep", pieces.keep)]
    report.say("pieces", "  ".join(f"{key}: {_piece(piece)}" for key, piece in named if piece))
    for key, weighted in (("token_rewards", algorithm.token_rewards), ("regularizers", algorithm.regularizers)):
        if weighted:
            report.say(key, "  ".join(f"{w.weight:g} x {_piece(w.piece)}" for w in weighted))


def _piece(piece: Piece) -> str:
    settings = (piece.function.__kwdefaults__ or {}) | dict(piece.settings)
    return piece.name + (f"({', '.join(f'{k}={v}' for k, v in settings.items())})" if settings else "")


def _say_arithmetic(recipe: Recipe, prompts_in_train: int | None, report: Report) -> None:
    """The batch in numbers: how many trajectories, updates, steps, and passes over the data."""
    rollout, training = recipe.rollout, recipe.training
    group = rollout.group_size if recipe.learn_from == "rollouts" else 1
    whole = rollout.prompts_per_step * group
    updates = f"{training.updates_per_step} update{'s' if training.updates_per_step > 1 else ''}"
    text = f"{rollout.prompts_per_step} prompts x {group} = {whole} trajectories per step; "
    text += f"{updates} of {whole // training.updates_per_step}"
    if training.epochs_per_step > 1:
        text += f", {training.epochs_per_step} times over"
    steps = training.steps * training.updates_per_step * training.epochs_per_step
    text += f"; {training.steps} steps = {steps} optimizer steps"
    report.say("batch", text)
    if prompts_in_train:
        drawn = training.steps * rollout.prompts_per_step
        more = "" if recipe.keep == "everything" else " or more, as `keep` drops some"
        passes = drawn / prompts_in_train
        report.say("", f"{drawn} prompts drawn of {prompts_in_train} in train = {passes:.2g} epochs{more}")


def _check_evaluation(recipe: Recipe, faults: list[str]) -> None:
    """What evaluation will be asked for: the metric that `best` means, the pattern that maj@k votes on."""
    settings = recipe.evaluation
    if not samples(recipe) or recipe.data.eval is None:
        return
    known = [f"eval/{name}" for name in ("accuracy", "reward", "completion_tokens")]
    known += [f"eval/pass@{k}" for k in powers_up_to(settings.samples)] if settings.samples else []
    known += [f"eval/maj@{settings.samples}"] if settings.samples else []
    if recipe.checkpoint.keep_best and recipe.checkpoint.metric not in known:
        faults.append(unknown_name("checkpoint.metric", recipe.checkpoint.metric, known, "metric of this evaluation"))
    if settings.answer_pattern is not None:
        try:
            groups = re.compile(settings.answer_pattern).groups
        except re.error as error:
            faults.append(f"evaluation.answer_pattern: {settings.answer_pattern!r} is no regular expression: {error}")
        else:
            if groups != 1:
                faults.append(f"evaluation.answer_pattern: expected one group (...), which is voted on; got {groups}")
