"""The check of a whole plan: stage by stage, every fault collected before any is raised."""

from __future__ import annotations

import glob
import re
import tempfile
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.console import Console

from llmrl.check.adapter import check_adapter
from llmrl.check.bf16 import check_bf16
from llmrl.check.data import check_data, check_providers, check_sources
from llmrl.check.hub import cache_only_if_unreachable
from llmrl.check.machine import Sized, check_disk, check_engines, check_machine, device_text
from llmrl.check.model import ModelFound, check_model, check_reference, keep_outline, with_critic
from llmrl.check.overlap import Asked, check_overlap
from llmrl.check.pieces import check_pieces
from llmrl.check.report import Report
from llmrl.check.trial import Tried, check_by_trial
from llmrl.check.unused import Unused
from llmrl.check.verifier import check_rewards
from llmrl.combinations import check_rows
from llmrl.data.contexts import check_contexts
from llmrl.data.prompts import LoadedPrompts
from llmrl.errors import RecipeError, gathered, unknown_name
from llmrl.evaluation.pass_at_k import powers_up_to
from llmrl.models.origins import locate, locate_parent
from llmrl.recipe import Recipe, with_steps
from llmrl.recipe_file import Plan, of_roles, of_stages
from llmrl.recipe_moves import check_columns, part_columns, tree_in_words
from llmrl.recipe_products import product_of
from llmrl.resolve import Pieces, check_grades, faults_of_play, resolve_pieces, trained_on
from llmrl.rewards.base import Rewards
from llmrl.rewards.golds import check_graded
from llmrl.rewards.workers import Workers
from llmrl.run.sandbox_check import check_isolation
from llmrl.run_folder import layout
from llmrl.run_folder.atomic import check_place
from llmrl.sandbox import Tier


def check_plan(plan: Plan, *, ranks: int, console: Console) -> int:
    """Check every stage and print the results; returns exit code 0, or raises RecipeError with every fault."""
    console.print(f"{plan.name} on {device_text()}, {ranks} process{'es' if ranks > 1 else ''}", highlight=False)
    reports = {name: Report(console) for name in plan.stages}
    last = Report(console)
    sized: list[Sized] = []
    unsized = 0
    with (
        tempfile.TemporaryDirectory() as scratch,
        Workers(2) as workers,
        cache_only_if_unreachable(plan) as unreachable,
    ):
        if unreachable:
            last.warn("the hub does not answer, so only what is in its cache was looked at")
        checker = _Checker(plan, ranks, Path(scratch), workers)
        for name, report in reports.items():
            console.print(f"stage {name}", style="bold", highlight=False)
            found = checker.check(name, report)
            sized += found or []
            unsized += found is None
        checker.unused.warn(last)
    with gathered(last.faults):
        check_place(plan.run_dir, "run_dir")
    if not unsized:
        check_disk(plan.run_dir, sized, last)
    else:
        last.skipped("disk", "a model's size is not known")
    faults = [*of_stages({name: report.faults for name, report in reports.items()}), *last.faults]
    warnings = sum(len(report.warnings) for report in (*reports.values(), last))
    verdict = f"{_counted(len(faults) or 'no', 'fault')}, {_counted(warnings, 'warning')}"
    console.print(verdict, style="bold red" if faults else "bold green", highlight=False)
    if faults:
        raise RecipeError(*faults)
    return 0


def _counted(number: int | str, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


@dataclass
class _Checker:
    """Checks stage after stage.

    outlines: of each stage that could be read, a folder with its output's tokenizer. asked: the questions of each.
    prompts, resolved, tried: of the stage that is being checked, the latter two by role.
    """

    plan: Plan
    ranks: int
    scratch: Path
    workers: Workers
    outlines: dict[str, Path] = field(default_factory=dict)
    prompts: LoadedPrompts | None = None
    asked: dict[str, Asked] = field(default_factory=dict)
    resolved: dict[str, Pieces] = field(default_factory=dict)
    tried: dict[str, Tried] = field(default_factory=dict)
    unused: Unused = field(default_factory=Unused)

    def check(self, name: str, report: Report) -> list[Sized] | None:
        """Everything about one stage; returns the models that it holds, or None if a shape cannot be known."""
        recipe = self.plan.stages[name]
        views = recipe.by_role
        first = next(iter(views))
        sized: list[Sized] = []
        self.resolved, self.tried = {}, {}
        faults: dict[str, list[str]] = {role: [] for role in views}
        for role, view in views.items():
            if recipe.roles:
                report.say("role", f"{role}, {_kind(view)}")
            own = Report(report.console, faults[role], report.warnings)
            found = self._role(name, role, view, own, leads=role == first)
            sized += [found] if found else []
        report.faults += of_roles(faults)
        played = faults_of_play(self.resolved, recipe)
        report.faults += played
        if self.prompts and not played and len(self.tried) == len(views) and self.tried[first].pieces.samples:
            with gathered(report.faults):
                check_columns(recipe.moves, self.prompts.train + self.prompts.eval)
                check_contexts(recipe, self.prompts.train + self.prompts.eval)
                check_by_trial(recipe, self.tried, self.prompts.train[0], report)
        if len(sized) < len(views):
            report.skipped("memory", "the model or the algorithm is not known")
            return None
        check_machine(sized, self.ranks, report)
        return sized

    def _role(self, name: str, role: str, recipe: Recipe, report: Report, *, leads: bool) -> Sized | None:
        """Everything about one role of a stage; the stage's data and batch are checked with the first."""
        pieces = rewards = prompts = None
        with gathered(report.faults):
            pieces = self.resolved[role] = resolve_pieces(recipe)
        with gathered(report.faults):
            rewards = Rewards.from_specs(recipe.rewards, workers=self.workers)
            rewards.check_roles(self.plan.stages[name].by_role)
        with gathered(report.faults):
            if pieces and rewards:
                check_grades(recipe, pieces.algorithm)
                _say_isolation(check_isolation(recipe, pieces.env), report)
        with gathered(report.faults):
            if rewards:
                rewards.check_folders(lambda path: self._stage_of(path, name) is not None)
        if recipe.data.train.closest and leads and not self._stage_of(recipe.data.train.closest.model, name):
            with gathered(report.faults):
                locate("data.train.closest.model", recipe.data.train.closest.model)
        check_pieces(recipe, pieces, report)
        if pieces and recipe.trained:
            self.unused.see(recipe, pieces)
        check_engines(recipe, pieces, self.ranks, report)
        if recipe.trained:
            check_bf16(recipe, report)
        if leads:
            _check_evaluation(recipe, self.plan.stages[name].roles, pieces, report.faults)
        found = self._model(name, role, recipe, pieces, report)
        samples = pieces is None or pieces.samples
        if found and pieces and samples:
            check_adapter(recipe, found.config, report)
        if leads:
            self.prompts = self._prompts(name, recipe, pieces, found, report)
        prompts = self.prompts
        if leads:
            with gathered(report.faults):
                _say_arithmetic(recipe, samples, prompts.in_an_epoch if prompts else None, report)
        if found and prompts and rewards:
            with gathered(report.faults):
                check_graded(rewards, prompts.graded(samples=samples), part_columns(recipe.moves))
                check_rewards(rewards, recipe, prompts, found.origin, self.workers, report, samples=samples)
        elif recipe.rewards:
            report.skipped(
                "rewards", "not run, for want of prompts" if found else "not run, because of the faults before"
            )
        if prompts and pieces:
            with gathered(report.faults):
                check_providers(prompts, pieces)
        if not (found and pieces):
            return None
        self.tried[role] = Tried(recipe, pieces, found.origin)
        return Sized(role, recipe, pieces, found.shape)

    def _prompts(
        self, name: str, recipe: Recipe, pieces: Pieces | None, found: ModelFound | None, report: Report
    ) -> LoadedPrompts | None:
        """The stage's prompts; None where they cannot be rendered before the run."""
        if writer := self._writer_of(recipe, name):
            report.skipped("prompts", f"they are rollouts that stage {writer} will write")
            return None
        if not found:
            check_sources(recipe, report.faults)
            report.skipped("prompts", "not rendered, for want of a tokenizer; only files and columns were looked at")
            return None
        prompts = None
        with gathered(report.faults):
            prompts = check_data(recipe, found.origin, report)
            if pieces:
                check_rows(recipe, pieces.algorithm, *prompts.counts)
            if recipe.training.steps != 0:
                before = self._ancestors(name)
                asked = {stage: one for stage, one in self.asked.items() if stage in before}
                check_overlap(recipe.data, prompts, asked, report)
                read = any(self._writer_of(stage, later) == name for later, stage in self.plan.stages.items())
                if recipe.trained or read:
                    self.asked[name] = Asked.of(recipe.data, prompts)
        return prompts

    def _model(self, name: str, role: str, recipe: Recipe, pieces: Pieces | None, report: Report) -> ModelFound | None:
        owner = recipe.model.role
        if owner is not None:
            model = self.plan.stages[name].by_role[owner].model
            adapted = model.model_copy(update={"lora": recipe.model.lora or model.lora})
            recipe = recipe.model_copy(update={"model": adapted})
        earlier = self._stage_of(recipe.model.path, name)
        made = filter(None, (earlier, *(self._parent_stage(path, name) for path in recipe.model.paths)))
        if faulty := [stage for stage in made if stage not in self.outlines]:
            report.skipped("model", f"it is the output of stage {faulty[0]}, which has faults of its own")
            return None
        found = None
        with gathered(report.faults):
            source = self.outlines[earlier] if earlier else None
            scratch = self.scratch / f"{name}-{role}"
            origin = scratch.with_name(f"{scratch.name}-origin")
            found = check_model(recipe, origin, source, report, pieces, partial(self._parent, name))
            self._keep(name, role, keep_outline(found, scratch.with_name(f"{scratch.name}-output")))
        if found and pieces and pieces.algorithm.has_reference and recipe.reference.model is not None:
            self._check_reference(found, name, recipe, report)
        if found and pieces and pieces.algorithm.has_critic and recipe.critic.backbone == "own":
            return self._with_critic(found, name, recipe, report)
        return found

    def _keep(self, stage: str, role: str, outline: Path) -> None:
        """Remember the outline under the folders, below stages/, that the stage's export will have."""
        roles = self.plan.stages[stage].roles
        self.outlines[f"{stage}/{role}" if roles else stage] = outline

    def _with_critic(self, found: ModelFound, name: str, recipe: Recipe, report: Report) -> ModelFound:
        earlier = self._stage_of(recipe.critic.model, name)
        if earlier and earlier not in self.outlines:
            report.skipped("critic", f"it is the output of stage {earlier}, which has faults of its own")
            return found
        with gathered(report.faults):
            return with_critic(found, recipe, self.outlines[earlier] if earlier else None, report)
        return found

    def _check_reference(self, found: ModelFound, name: str, recipe: Recipe, report: Report) -> None:
        if earlier := self._stage_of(recipe.reference.model, name):
            report.say("reference", f"the output of stage {earlier}")
            return
        with gathered(report.faults):
            check_reference(found, recipe, report)

    def _parent(self, name: str, key: str, path: str) -> Path:
        """The outline of a model of a sum that stage `name` starts from."""
        stage = self._parent_stage(path, name)
        return self.outlines[stage] if stage else locate_parent(key, path)

    def _parent_stage(self, path: str, name: str) -> str | None:
        """The stage before `name`, or the role of one, whose output, or whose output's adapter, `path` is."""
        stage = self._stage_of(path.removesuffix("/adapter"), name)
        return None if stage and path.endswith("/adapter") and not self._has_adapter(stage) else stage

    def _ancestors(self, name: str) -> set[str]:
        """The stages that the models of stage `name` come from, or whose rollouts it learns from, and theirs."""
        recipe = self.plan.stages[name]
        paths = [path for view in recipe.by_role.values() for path in view.model.paths]
        stages = {stage.partition("/")[0] for path in paths if (stage := self._parent_stage(path, name))}
        if writer := self._writer_of(recipe, name):
            stages.add(writer)
        return stages.union(*map(self._ancestors, stages))

    def _has_adapter(self, stage: str) -> bool:
        stage, _, role = stage.partition("/")
        recipe = self.plan.stages[stage]
        return (recipe.roles[role] if role else recipe).model.lora is not None

    def _writer_of(self, recipe: Recipe, name: str) -> str | None:
        """The stage before `name` whose rollouts are the training rows, unless they are written already."""
        before = list(self.plan.stages)[: list(self.plan.stages).index(name)]
        path = recipe.data.train.path
        if not isinstance(path, str) or glob.glob(path):
            return None
        folder = f"{recipe.run_dir}/{layout.ROLLOUTS}"
        return next((stage for stage in before if re.match(rf"{re.escape(f'{folder}/{stage}-')}[\d?*]", path)), None)

    def _stage_of(self, path: str | None, name: str) -> str | None:
        """The stage before `name`, or the role of one, whose output `path` is."""
        return product_of(path, self.plan.stages, name)


def _kind(view: Recipe) -> str:
    shared = (
        f"; {'an adapter on' if view.model.lora else 'with'} the weights of {view.model.role}"
        if view.model.role
        else ""
    )
    return ("trained" if view.trained else "frozen") + shared


def _say_isolation(found: tuple[Tier, list[str]] | None, report: Report) -> None:
    if found is None:
        return
    tier, missing = found
    report.say("sandbox", f"{tier.name}: {tier.summary}")
    for lack in missing:
        report.warn(f"the sandbox lacks {lack}")


def _say_arithmetic(recipe: Recipe, samples: bool, prompts_in_train: int | None, report: Report) -> None:
    """The batch in numbers: how many trajectories, updates, steps, and passes over the data."""
    rollout, training = recipe.rollout, recipe.training
    group = rollout.group_size if samples else 1
    whole = rollout.prompts_per_step * group
    updates = f"{training.updates_per_step} update{'s' if training.updates_per_step > 1 else ''}"
    asked = f"{rollout.prompts_per_step} prompts x {group} = {whole}"
    text = f"{asked} trajectories per step; {updates} of {whole // training.updates_per_step}"
    if samples and recipe.moves:  # of which each role learns from some, and from some of what follows
        text = f"{asked} first texts per step; {updates}"
    if training.epochs_per_step > 1:
        text += f", {training.epochs_per_step} times over"
    if training.steps is not None:
        steps = training.steps * training.updates_per_step * training.epochs_per_step
        text += f"; {training.steps} steps = {steps} optimizer steps"
    report.say("batch", text)
    if samples and recipe.moves:
        report.say("moves", tree_in_words(recipe.moves, group))
    if samples and rollout.written_by:
        others = ", ".join(f"{writer.count} by {name}" for name, writer in rollout.written_by.items())
        report.say("", f"a prompt's {group} completions: {rollout.own_completions} by the policy, {others}")
    if not prompts_in_train:
        return
    more = "" if recipe.keep == "everything" else " or more, as `keep` drops some"
    if training.epochs:
        each, left = -(-prompts_in_train // rollout.prompts_per_step), prompts_in_train % rollout.prompts_per_step
        last = f", of which the last has {left} prompt{'s' if left > 1 else ''}" if left else ""
        steps = with_steps(recipe, prompts_in_train).training.known_steps
        length = f"{training.epochs} epoch{'s' if training.epochs > 1 else ''} of {prompts_in_train} prompts"
        report.say("", f"{length} = {steps} steps, {each} an epoch{last}{more}")
    elif training.steps:
        drawn = training.steps * rollout.prompts_per_step
        passes = drawn / prompts_in_train
        report.say("", f"{drawn} prompts drawn of {prompts_in_train} in train = {passes:.3g} epochs{more}")


def _check_evaluation(recipe: Recipe, roles: Collection[str], pieces: Pieces | None, faults: list[str]) -> None:
    """The faults of evaluation's settings: an unknown checkpoint.metric, an answer_pattern without one group."""
    settings = recipe.evaluation
    asks, compares = bool(recipe.rewarded or (pieces and pieces.samples)), pieces and pieces.algorithm.compares
    if recipe.data.eval is None or not (asks or compares):
        return
    known = [f"eval/{name}" for name in ("accuracy", "reward", "completion_tokens")] if asks else []
    known += [f"eval/audit/{name}" for name in recipe.rewards.keys() - set(trained_on(recipe))] if asks else []
    known += [f"eval/pass@{k}" for k in powers_up_to(settings.samples)] if asks and settings.samples else []
    known += [f"eval/maj@{settings.samples}"] if asks and settings.samples else []
    known += ["eval/preference_accuracy", "eval/preference_margin", "eval/label_auroc"] if compares else []
    known += [f"{role}/{name}" for role in list(roles)[1:] for name in known]
    metric = recipe.checkpoint.metric
    if recipe.checkpoint.keep_best and metric is not None and metric not in known:
        faults.append(unknown_name("checkpoint.metric", metric, known, "metric of this evaluation"))
    if settings.answer_pattern is not None:
        try:
            groups = re.compile(settings.answer_pattern).groups
        except re.error as error:
            faults.append(f"evaluation.answer_pattern: {settings.answer_pattern!r} is no regular expression: {error}")
        else:
            if groups != 1:
                faults.append(f"evaluation.answer_pattern: expected one group (...), which is voted on; got {groups}")
