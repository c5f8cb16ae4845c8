"""A run: the stages of a plan one after the other, resumable, stoppable."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from rich.console import Console

from llmrl.combinations import check_rows
from llmrl.data.contexts import check_contexts
from llmrl.data.prompts import LoadedPrompts
from llmrl.engines.catalogue import start_process_group
from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, RunStopped, gathered
from llmrl.pieces import catalogue, resolve
from llmrl.recipe import Recipe, with_steps
from llmrl.recipe_file import Plan, of_roles, of_stages
from llmrl.recipe_moves import check_columns, part_columns
from llmrl.resolve import Pieces, faults_of_play, resolve_pieces
from llmrl.rewards.base import Rewards
from llmrl.rewards.golds import check_graded
from llmrl.rewards.workers import Workers
from llmrl.rollout import weight_transport
from llmrl.run.checkpoint import Checkpoints
from llmrl.run.closest_rows import keep_closest
from llmrl.run.frozen import FrozenRole
from llmrl.run.lost_tasks import LostTasks
from llmrl.run.measured_once import MeasuredOnce
from llmrl.run.models import Origin, make_roles, prepare_origins
from llmrl.run.precompute import precompute
from llmrl.run.progress import RunProgress
from llmrl.run.resume import changed_lengths, continued, done_stages, refuse_unfit
from llmrl.run.sampling import (
    Samplers,
    load_stage_prompts,
    make_collector,
    make_held_out,
    make_source,
    params_of,
    reward_workers,
    rewards_of,
)
from llmrl.run.sandbox_check import check_isolation
from llmrl.run.signals import Signals
from llmrl.run.stage import Stage, StopAsked, measuring_once
from llmrl.run.surroundings import Surroundings, changes, surroundings
from llmrl.run.warnings import Watch
from llmrl.run_folder import layout
from llmrl.run_folder.atomic import partial_of, writing
from llmrl.run_folder.lock import locked
from llmrl.run_folder.writer import RunFolder
from llmrl.train.provide import while_gathering

PiecesOf = dict[str, dict[str, Pieces]]
"""Every stage's pieces, role by role."""


def run_plan(
    plan: Plan,
    *,
    resume: bool,
    overwrite: bool = False,
    console: Console,
    profile: bool = False,
    samplers: Samplers | None = None,
    workers: Workers | None = None,
) -> int:
    """Train every stage that is not done; returns the exit code: 0, or 128 + signal when asked to stop.

    overwrite: delete what the run folder holds. profile: make one of a step of each stage. samplers, workers: those
    that several runs of one process share; they stay open. Raises RecipeError if another process writes the run folder,
    if it holds a run and neither `resume` nor `overwrite` is asked, or if a run cannot go on with this recipe;
    RunStopped if it cannot go on for another reason.
    """
    signals = Signals()
    with opened(
        plan, overwrite=overwrite, console=console, profile=profile, samplers=samplers, workers=workers, signals=signals
    ) as run, signals.caught():  # fmt: skip
        try:
            if not run.start(resume=resume):
                run.train(resume=resume)
        except StopAsked as stopped:
            run.progress.say(f"{stopped}; continue with --resume")
            return 128 + (signals.received or signal.SIGTERM)
        except OSError as error:
            raise RunStopped(f"the run stopped: {error}; continue with --resume once that is mended") from error
    return 0


@contextmanager
def opened(
    plan: Plan,
    *,
    overwrite: bool = False,
    console: Console,
    profile: bool = False,
    samplers: Samplers | None = None,
    workers: Workers | None = None,
    signals: Signals | None = None,
) -> Iterator[Run]:
    """A plan's run, whose folder is locked and whose samplers are open meanwhile; see `run_plan`."""
    pieces = resolve_plan(plan)
    had_group = dist.is_initialized()  # a sampler that several runs share has made it
    device, sharded = _start_process(plan)
    made_group = not had_group and (samplers is None or sharded)
    ranks = Ranks(deadline_seconds=max(recipe.rollout.deadline_seconds for recipe in plan.stages.values()))
    folder = RunFolder(plan.run_dir, writes=ranks.is_first)
    others = dict.fromkeys(role for recipe in plan.stages.values() for role in list(recipe.roles)[1:])
    progress = RunProgress(console, shown=ranks.is_first, roles=tuple(others))
    concurrent = max(recipe.in_flight(ranks.size) for recipe in plan.stages.values())
    with ExitStack() as parts:
        if made_group:
            parts.callback(_leave_group)
        samplers = samplers or parts.enter_context(closing(Samplers(max_concurrent=concurrent)))
        workers = workers or parts.enter_context(closing(reward_workers(ranks.size)))
        if warning := parts.enter_context(_only_writer(folder, ranks, overwrite=overwrite)):
            progress.say(warning)
        parts.enter_context(progress)
        yield Run(plan, pieces, device, ranks, folder, progress, samplers, workers, signals or Signals(), profile)


def resolve_plan(plan: Plan) -> PiecesOf:
    """The pieces of every role of every stage; raises RecipeError with every fault, before anything loads."""
    found: PiecesOf = {}
    faults: dict[str, list[str]] = {name: [] for name in plan.stages}
    for name, recipe in plan.stages.items():
        found[name], own = {}, {role: [] for role in recipe.by_role}
        for role, view in recipe.by_role.items():
            with gathered(own[role]):
                found[name][role] = resolve_pieces(view)
        faults[name] += of_roles(own) + faults_of_play(found[name], recipe)
    if any(faults.values()):
        raise RecipeError(*of_stages(faults))
    return found


@dataclass
class Run:
    """A run's plan and the objects that its stages share."""

    plan: Plan
    pieces: PiecesOf
    device: torch.device
    ranks: Ranks
    folder: RunFolder
    progress: RunProgress
    samplers: Samplers
    workers: Workers
    signals: Signals
    profile: bool = False
    _unrecorded: tuple[str, Surroundings] | None = field(default=None, init=False, repr=False)

    def start(self, *, resume: bool) -> bool:
        """Record the plan of a new run; returns whether the run is finished already."""
        plan, folder, progress = self.plan, self.folder, self.progress
        if folder.reader.in_use and not resume:
            raise RecipeError(
                f"run_dir: {plan.run_dir} holds a run already; continue it with --resume, replace it with --overwrite, "
                f"or name another with run_dir=..."
            )
        if not folder.reader.is_ours:
            raise RecipeError(f"run_dir: {plan.run_dir} holds a recipe.yaml that no run wrote; name another folder")
        recorded = plan.dump()
        if folder.reader.in_use:
            done = done_stages(plan, folder.reader)
            recorded, changed = continued((plan.run_dir / layout.RECIPE).read_text(encoding="utf-8"), plan, done)
            for sentence in [*changed, *changed_lengths(plan, self.pieces, folder.reader)]:
                progress.say(sentence)
        elif resume:
            progress.say(f"{plan.run_dir} holds no run to go on with: this starts one")
        finished = len(self._done()) == len(plan.stages) and folder.reader.is_final(list(plan.stages)[-1])
        self.ranks.barrier("starting the run")
        if finished:
            progress.say(f"this run is finished: its model is {folder.reader.final}")
            return True
        self._unrecorded = recorded, self._surroundings()
        if not folder.reader.in_use:
            self._record()
        return False

    def _record(self) -> None:
        """Record this start, unless that is done; a resumed run's only when nothing has refused it."""
        if self._unrecorded is not None:
            self.folder.start(*self._unrecorded)
            self._unrecorded = None

    def _surroundings(self) -> Surroundings:
        """The start's surroundings; prints what has changed since the last start, or raises RecipeError for it."""
        reader, now = self.folder.reader, {}
        faults: list[str] = []
        if self.ranks.is_first:
            now = surroundings(self.plan, [name for name in self.plan.stages if name not in self._done()])
            if reader.in_use and reader.starts:
                warnings, faults = changes(reader.environment, now)
                for warning in warnings:
                    self.progress.say(warning)
        if faults := self.ranks.gather(faults, "comparing with the start before")[0]:
            raise RecipeError(*faults)
        return now

    def _done(self) -> list[str]:
        return done_stages(self.plan, self.folder.reader)

    def train(self, *, resume: bool) -> None:
        """Every stage that is not done."""
        self._try_sandbox()
        stages, folder = self.plan.stages, self.folder
        checkpoints = Checkpoints(self.plan.run_dir / layout.CHECKPOINTS, self.ranks)
        checkpoints.sweep()
        done = self._done()
        watch = Watch(self.progress.roles)
        for name in stages:
            if name in done:
                self.progress.say(f"stage {name}: done before")
                continue
            if any(self.ranks.gather(self.signals.received is not None, "agreeing whether to stop")):
                raise StopAsked(f"stopped before stage {name}")
            latest = checkpoints.latest(name) if resume else None
            if latest:
                refuse_unfit(latest, name, stages[name], self.ranks.size)
            stage = self.make_stage(name, checkpoints, watch)
            if latest:
                stage.resume(latest)
                self.progress.say(f"stage {name}: resumed after step {stage.step}")
            self._record()
            folder.rewind(list(stages), name, stage.step if latest else None)
            for row in folder.reader.metrics if latest else ():
                watch.see(row)
            stage.run()
            self._finish(stage, folder.reader.stage_model(name))
        self._record()
        folder.finish(list(stages)[-1])
        self._say_end()

    def _say_end(self) -> None:
        """Print where the model is, and how many warnings there were."""
        reader = self.folder.reader
        if warned := dict.fromkeys(warning["metric"] for warning in reader.warnings):
            self.progress.say(f"warnings of this run, in {reader.path / layout.WARNINGS}: {', '.join(warned)}")
        self.progress.say(f"the trained model is {reader.path / layout.FINAL}")

    def make_stage(self, name: str, checkpoints: Checkpoints, watch: Watch) -> Stage:
        """A stage with its models loaded; raises RecipeError for rows or models that do not fit it."""
        recipe, pieces = self.plan.stages[name], self.pieces[name]
        views = recipe.by_role
        first = next(iter(views))
        scoring = [role for role in views if pieces[role].algorithm.scores]
        origins = prepare_origins(recipe, self.plan.run_dir, self.ranks, scoring=scoring)
        prompts = _prompts(recipe, pieces[first], origins[first], self.workers)
        recipe = with_steps(recipe, prompts.in_an_epoch)
        for part in prompts.sources:
            self._say_data(name, part, prompts)
        prompts, told = keep_closest(prompts, recipe, origins[first], self.ranks, self.device)
        if told:
            self.progress.say(f"stage {name}: data.train: {told}")
        samples = pieces[first].samples or (recipe.rewarded and prompts.eval and not scoring)
        roles = make_roles(recipe, pieces, origins, self.ranks, self.device)
        for role, one in roles.items():
            if one.critic:
                one.critic.open_replay(
                    self.plan.run_dir / layout.REPLAY / name / role, recipe.checkpoint.every is not None
                )
        collector = None
        if samples:
            shared = self.samplers, self.workers, self.ranks, self.device
            collector = make_collector(recipe, pieces[first].env, origins, *shared, written=prompts.comparisons)
        threads = recipe.training.threads or max(1, len(os.sched_getaffinity(0)) // self.ranks.size)
        torch.set_num_threads(threads)  # after the sampler, which sets the number for itself
        params, measured_once = params_of(recipe, origins), None
        asking = [piece for role in roles for piece in while_gathering(pieces[role]) if piece.mark("measured_once_by")]
        if collector and asking:
            folder, writes = self.plan.run_dir / "measured_once", self.ranks.is_first
            measured_once = MeasuredOnce(folder, name, asking, collector, params, recipe.rollout, writes)
        values = measured_once.values if measured_once else {}
        source, stream = make_source(recipe, pieces, prompts, origins, collector, roles, values, self.ranks)
        return Stage(
            name=name,
            recipe=recipe,
            roles=roles,
            frozen={role: FrozenRole(origins[role]) for role in views if role not in roles},
            origins=origins,
            source=source,
            epoch=lambda: stream.epoch,
            params=params,
            eval_prompts=prompts.eval,
            held_out=make_held_out(recipe, prompts, roles),
            ranks=self.ranks,
            folder=self.folder,
            progress=self.progress,
            checkpoints=checkpoints,
            transport=_transport(recipe),
            collector=collector,
            watch=watch,
            lost_tasks=LostTasks([name for one in rewards_of(collector).values() for name in one.row_columns]),
            prepare=[precompute, *([measuring_once(measured_once, stream)] if measured_once else [])],
            stop_asked=lambda: self.signals.received is not None,
            profile=self.profile,
        )

    def _say_data(self, stage: str, part: str, prompts: LoadedPrompts) -> None:
        """Print the form of a part's rows, where it was recognised, and how many were left out and why."""
        form = f"form: {prompts.forms[part]}" if part in prompts.forms else ""
        if told := "; ".join(filter(None, (form, prompts.told_dropped(part)))):
            self.progress.say(f"stage {stage}: data.{part}: {told}")

    def _finish(self, stage: Stage, target: Path) -> None:
        """Export the stage's model; a stage is done once the folder exists and says so."""
        with writing(f"the model of stage {stage.name}", target.parent.parent):
            roundings = stage.export(partial_of(target))
            stage.export_critics(partial_of(target))
        self.ranks.barrier("exporting a stage's model")
        self.folder.publish_stage(stage.name, stage.step, stage.recipe.training.epochs)
        self.ranks.barrier("publishing a stage's model")
        for role, found in roundings.items():
            whose = f"stage {stage.name}, {role}" if stage.recipe.roles else f"stage {stage.name}"
            self.progress.say(
                f"{whose}: the adapter is merged in fp32; rounded to bf16, {found.kept:.0%} of its change is left "
                f"(relative error {found.error:.2f})"
            )

    def _try_sandbox(self) -> None:
        """Raises RecipeError if a stage runs programs and has no sandbox; prints what a weak sandbox lacks."""
        found = [
            check_isolation(view, self.pieces[name][role].env)
            for name, recipe in self.plan.stages.items()
            for role, view in recipe.by_role.items()
        ]
        for lack in dict.fromkeys(lack for one in found if one for lack in one[1]):
            self.progress.say(f"warning: the sandbox lacks {lack}")


@contextmanager
def _only_writer(folder: RunFolder, ranks: Ranks, *, overwrite: bool) -> Iterator[str]:
    """Rank 0 holds the folder's lock, and deletes what is in it if that is asked; gives the lock's warning."""
    faults: list[str] = []
    warning = ""
    with ExitStack() as held:
        if ranks.is_first:
            with gathered(faults):
                warning = held.enter_context(locked(folder.path))
                if overwrite:
                    folder.clear()
        if faults := ranks.gather(faults, "locking the run folder")[0]:
            raise RecipeError(*faults)
        yield warning


def _prompts(recipe: Recipe, pieces: Pieces, origin: Origin, workers: Workers) -> LoadedPrompts:
    """The stage's prompts; raises RecipeError if a reward cannot score one that is graded, or use its gold answer."""
    prompts = load_stage_prompts(recipe, origin)
    check_rows(recipe, pieces.algorithm, *prompts.counts)
    prompts.check_step(recipe.rollout.prompts_per_step)
    check_columns(recipe.moves, prompts.train + prompts.eval)
    check_contexts(recipe, prompts.train + prompts.eval)
    for view in recipe.by_role.values():
        if view.rewards:
            rewards = Rewards.from_specs(view.rewards, workers=workers)
            rewards.check_roles(recipe.by_role)
            rewards.load_models()
            check_graded(rewards, prompts.graded(samples=pieces.samples), part_columns(recipe.moves))
    return prompts


def _transport(recipe: Recipe) -> Callable[..., None]:
    name = recipe.rollout.weight_transport
    piece = resolve(name, catalogue(weight_transport), key="rollout.weight_transport", what="weight transport")
    return lambda weights, sampler, version: piece({"weights": weights, "sampler": sampler, "policy_version": version})


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _start_process(plan: Plan) -> tuple[torch.device, bool]:
    """The rank's device, and whether the run has a group of processes."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        device = torch.device("cpu")
    views = [view for recipe in plan.stages.values() for view in recipe.by_role.values()]
    return device, start_process_group([view.training.strategy for view in views], device)
