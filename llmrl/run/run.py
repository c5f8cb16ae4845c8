"""A run: the stages of a plan one after the other, resumable, stoppable."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from rich.console import Console

from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, RunStopped
from llmrl.recipe_file import Plan
from llmrl.rewards.workers import Workers
from llmrl.run.build import (
    Samplers,
    load_stage_prompts,
    make_collector,
    make_role,
    make_source,
    prepare_origin,
    resolve_pieces,
    reward_workers,
)
from llmrl.run.checkpoint import Checkpoints
from llmrl.run.progress import RunProgress
from llmrl.run.resume import continued
from llmrl.run.sandbox_check import check_isolation
from llmrl.run.stage import Stage, StopAsked
from llmrl.run_folder.atomic import partial_of, publish, writing
from llmrl.run_folder.folder import RunFolder
from llmrl.train.sources import Rollouts, StaticValues


class Signals:
    """Turns the first SIGINT or SIGTERM into a request to stop; a second one ends the process at once.

    What follows within a second is the same request: a launcher passes on what its terminal sent to all of us.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0

    @contextmanager
    def caught(self) -> Iterator[Signals]:
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received, self._since = number, time.monotonic()
        elif time.monotonic() - self._since > 1.0:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def run_plan(
    plan: Plan,
    *,
    resume: bool,
    console: Console,
    samplers: Samplers | None = None,
    workers: Workers | None = None,
) -> int:
    """Train every stage that is not done; returns the exit code: 0, or 128 + signal when asked to stop.

    samplers, workers: where runs of one process share theirs; they stay open.
    Raises RecipeError if the run folder is in use and `resume` is not asked, or if a run cannot go on with this
    recipe; RunStopped if the run cannot go on for another reason.
    """
    had_group = dist.is_initialized()  # of a sampler that other runs share
    device = _start_process(plan)
    made_group = not had_group and (samplers is None or _is_sharded(plan))
    ranks = Ranks(deadline_seconds=max(recipe.rollout.deadline_seconds for recipe in plan.stages.values()))
    folder = RunFolder(plan.run_dir, writes=ranks.is_first)
    progress = RunProgress(console, shown=ranks.is_first)
    signals = Signals()
    concurrent = max(recipe.trajectories_per_step for recipe in plan.stages.values())
    with ExitStack() as parts:
        if made_group:
            parts.callback(_leave_group)
        samplers = samplers or parts.enter_context(closing(Samplers(max_concurrent=concurrent)))
        workers = workers or parts.enter_context(closing(reward_workers(ranks.size)))
        parts.enter_context(signals.caught())
        parts.enter_context(progress)
        try:
            if _start(plan, folder, progress, ranks, resume=resume):
                return 0
            _try_sandbox(plan, progress)
            checkpoints = Checkpoints(plan.run_dir / "checkpoints", ranks)
            checkpoints.sweep()
            done = folder.done(plan.stages)
            for name in plan.stages:
                if name in done:
                    progress.say(f"stage {name}: done before")
                    continue
                if any(ranks.gather(signals.received is not None, "agreeing whether to stop")):
                    raise StopAsked(f"stopped before stage {name}")
                stage = _build(plan, name, device, ranks, folder, progress, checkpoints, samplers, workers, signals)
                latest = checkpoints.latest(name) if resume else None
                if latest:
                    stage.resume(latest)
                    progress.say(f"stage {name}: resumed after step {stage.step}")
                folder.rewind(list(plan.stages), name, stage.step if latest else None)
                stage.run()
                _finish_stage(stage, plan.run_dir / "stages" / name)
            folder.finish(list(plan.stages)[-1])
        except StopAsked as stopped:
            progress.say(f"{stopped}; continue with --resume")
            return 128 + (signals.received or signal.SIGTERM)
        except OSError as error:
            raise RunStopped(f"the run stopped: {error}; continue with --resume once that is mended") from error
    return 0


def _try_sandbox(plan: Plan, progress: RunProgress) -> None:
    """Raises RecipeError if a stage runs programs and has no sandbox; says what the one it has lacks."""
    found = [check_isolation(recipe, resolve_pieces(recipe).env) for recipe in plan.stages.values()]
    for lack in dict.fromkeys(lack for one in found if one for lack in one[1]):
        progress.say(f"warning: the sandbox lacks {lack}")


def _leave_group() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _start(plan: Plan, folder: RunFolder, progress: RunProgress, ranks: Ranks, *, resume: bool) -> bool:
    """Record the plan; returns whether the run is finished already."""
    if folder.in_use and not resume:
        raise RecipeError(
            f"run_dir: {plan.run_dir} holds a run already; continue it with --resume, replace it with --overwrite, "
            f"or name another with run_dir=..."
        )
    recorded, changed, done = plan.dump(), [], folder.done(plan.stages)
    if folder.in_use:
        recorded, changed = continued((plan.run_dir / "recipe.yaml").read_text(encoding="utf-8"), plan, done)
    for key in changed:
        progress.say(f"{key}: changed" + (", without effect: its stage is done" if key.split(".")[1] in done else ""))
    finished = (plan.run_dir / "final").is_dir()
    ranks.barrier("starting the run")
    if finished:
        progress.say(f"this run is finished: its model is {plan.run_dir / 'final'}")
        return True
    folder.start(recorded)
    return False


def _build(
    plan: Plan,
    name: str,
    device: torch.device,
    ranks: Ranks,
    folder: RunFolder,
    progress: RunProgress,
    checkpoints: Checkpoints,
    samplers: Samplers,
    workers: Workers,
    signals: Signals,
) -> Stage:
    recipe = plan.stages[name]
    pieces = resolve_pieces(recipe)
    origin = prepare_origin(recipe, plan.run_dir, ranks)
    prompts = load_stage_prompts(recipe, origin)
    samples = recipe.learn_from == "rollouts" or (recipe.rewards and prompts.eval)
    role = make_role(recipe, origin, ranks, device)
    collector = None
    if samples:
        sampler = samplers.get(recipe, origin, device)
        collector = make_collector(recipe, pieces, origin, sampler, workers, ranks)
    _set_threads(recipe.training.threads, ranks)  # after the sampler, which sets them for itself
    source = make_source(recipe, pieces, prompts, origin, collector, role)
    static_values = None
    if "static_values" in role.algorithm.needs and isinstance(source, Rollouts):
        static_values = StaticValues(source, folder.path / "static_values" / f"{name}.json", ranks.is_first)
    return Stage(
        name,
        recipe,
        role,
        source,
        origin.tokenizer,
        origin.stop_token_ids,
        prompts.eval,
        ranks,
        folder,
        progress,
        checkpoints,
        collector,
        static_values,
        lambda: signals.received is not None,
    )


def _finish_stage(stage: Stage, target: Path) -> None:
    """Export the stage's model; that the folder exists says that the stage is done."""
    with writing(f"the model of stage {stage.name}", target.parent.parent):
        stage.export(partial_of(target))
    stage.ranks.barrier("exporting a stage's model")
    if stage.ranks.is_first:
        publish(target)
    stage.ranks.barrier("publishing a stage's model")


def _start_process(plan: Plan) -> torch.device:
    """The rank's device; with DeepSpeed, its process group."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        device = torch.device("cpu")
    if _is_sharded(plan):
        from llmrl.engines.deepspeed_engine import start_process_group

        start_process_group(device)
    return device


def _is_sharded(plan: Plan) -> bool:
    return any(recipe.training.strategy == "deepspeed" for recipe in plan.stages.values())


def _set_threads(asked: int | None, ranks: Ranks) -> None:
    torch.set_num_threads(asked or max(1, len(os.sched_getaffinity(0)) // ranks.size))
