"""One stage of a run: everything it is made of, and its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from llmrl.data.packing import pack
from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, RunStopped
from llmrl.evaluation.evaluate import evaluate
from llmrl.models.critic import export_critic
from llmrl.models.gate import save_gate
from llmrl.models.loading import export
from llmrl.models.weights import Rounding, adapter_weights, merged_weights
from llmrl.recipe import Recipe
from llmrl.rewards.base import Rewards
from llmrl.rollout.collect import Collected, Collector
from llmrl.rollout.sampler import Sampler, SamplingParams, derive_seed
from llmrl.run.checkpoint import Checkpoints, random_state, read_state, reading, set_random_state
from llmrl.run.frozen import FrozenRole
from llmrl.run.lost_tasks import LostTasks
from llmrl.run.measured_once import MeasuredOnce
from llmrl.run.memory import peak_memory
from llmrl.run.models import Origin
from llmrl.run.profile import PROFILED, Profile, wait_for_device
from llmrl.run.progress import RunProgress
from llmrl.run.sampling import rewards_of
from llmrl.run.warnings import Warned, Watch
from llmrl.run.weight_sync import Transport, send
from llmrl.run_folder import layout
from llmrl.run_folder.writer import RunFolder
from llmrl.spans import recording, span
from llmrl.train.critic_replay import learn_from_replay
from llmrl.train.divergence import divergence, is_measurable
from llmrl.train.held_out import HeldOut, compare
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.sources import Source
from llmrl.train.step import Metrics, update_together, what_trains
from llmrl.types import Group, Prompt


class StopAsked(Exception):
    """A signal asked the run to stop; its state is in a checkpoint."""


@dataclass
class Stage:
    """A stage and its state. roles: the trained ones; frozen: the others. origins, params: of every role. step: the
    last one done. profile: make one of a step. best: (metric, step) of the best checkpoint so far. collector: None if
    nothing is sampled. eval_prompts: those that are answered; held_out: completions that are compared."""

    name: str
    recipe: Recipe
    roles: Mapping[str, Role]
    frozen: Mapping[str, FrozenRole]
    origins: Mapping[str, Origin]
    source: Source
    epoch: Callable[[], float]
    params: Callable[[int], SamplingParams]
    eval_prompts: Sequence[Prompt]
    held_out: HeldOut
    ranks: Ranks
    folder: RunFolder
    progress: RunProgress
    checkpoints: Checkpoints
    transport: Transport
    collector: Collector | None = None
    watch: Watch = field(default_factory=Watch)
    lost_tasks: LostTasks = field(default_factory=LostTasks)
    prepare: Sequence[Callable[[Stage], None]] = ()
    stop_asked: Callable[[], bool] = lambda: False
    profile: bool = False
    step: int = 0
    best: tuple[float, int] | None = None
    _synced: int = field(default=-1, repr=False)  # the step whose weights the samplers hold
    _sent: Metrics = field(default_factory=dict, repr=False)  # of the weights that the samplers hold

    @property
    def first(self) -> str:
        """The role that answers the questions; its metrics have no prefix."""
        return next(iter(self.recipe.by_role))

    def run(self) -> None:
        """Train from `step` to the recipe's last; raises StopAsked after a checkpoint if asked to stop."""
        steps, every = self.recipe.training.known_steps, self.recipe.checkpoint.every
        profiled = min(self.step + PROFILED, steps) if self.profile else None
        self.progress.stage(self.name, steps=steps, done=self.step)
        if self.step == 0:
            set_seed(derive_seed(self.recipe.seed, self.name, self.ranks.rank) % 2**32)
        for prepare in self.prepare if self.step < max(steps, 1) else ():  # evaluations may read what they measure
            prepare(self)
        if self.step == 0:
            self._log({"step": 0} | self._evaluate())
        while self.step < steps:
            row = self._profiled_step() if self.step + 1 == profiled else self._train_step()
            stop = any(self.ranks.gather(self.stop_asked(), "agreeing whether to stop"))
            if stop or (every and (self.step % every == 0 or self.step == steps)):
                self._checkpoint(row)
            if stop and self.step < steps:
                raise StopAsked(f"stopped after step {self.step} of stage {self.name}")

    def export(self, folder: Path) -> dict[str, Rounding]:
        """The weights as a Hugging Face folder, of several roles as one each; every rank calls it, rank 0 writes.

        Returns what bf16 would leave of each role's adapter.
        """
        roundings: dict[str, Rounding] = {}
        for name, view in self.recipe.by_role.items():
            target = folder / name if self.recipe.roles else folder
            holder = view.shares_with or name
            if holder in self.frozen:
                self.frozen[holder].export(target, writes=self.ranks.is_first)
                continue
            learner, writes = self.roles[holder].learner, self.ranks.is_first
            # every rank has to walk through all weights, since sharded ones are put together on the way
            # and each is brought to the host, since a GPU may not hold all of them beside a run
            rounding = roundings[name] = Rounding(torch.bfloat16)
            merged = learner.weights(partial(merged_weights, rounding=rounding))
            weights = [(key, weight.cpu()) for key, weight in merged if writes]
            adapter = {key: weight.cpu() for key, weight in learner.weights(adapter_weights)}
            gate = getattr(learner.engine.model, "gate", None)
            trained = learner.engine.trained_weights() if gate is not None else {}
            if writes:
                export(learner.engine.model.lm, self.origins[name].tokenizer, target, weights, adapter, rounding)
            if writes and gate is not None:
                own = {key.removeprefix("gate."): value for key, value in trained.items() if key.startswith("gate.")}
                save_gate(target, own, gate.temperature)
        return {name: rounding for name, rounding in roundings.items() if rounding.wanted}

    def export_critics(self, folder: Path) -> None:
        """The critics that have a backbone of their own, each below its role's model; as `export`."""
        for name, role in self.roles.items():
            target = folder / name if self.recipe.roles else folder
            if role.critic is None or (learner := role.critic.learner) is None:
                continue
            weights = [(key, weight.cpu()) for key, weight in learner.engine.weights() if self.ranks.is_first]
            trained = learner.engine.trained_weights()
            if self.ranks.is_first:
                head = {key: trained[f"head.{key}"] for key in ("weight", "bias")}
                lm, tokenizer, settings = learner.engine.model.lm, self.origins[name].tokenizer, role.critic.settings
                context = settings.context or settings.others
                export_critic(lm, tokenizer, target / layout.CRITIC, weights, head, context=context)

    def resume(self, checkpoint: Path) -> None:
        """Continue from `checkpoint`, exactly if as many processes made it; raises RecipeError if it is damaged."""
        with reading(checkpoint):
            state = read_state(checkpoint)
            for role in self.roles.values():
                role.load(checkpoint)
                role.controllers.update(state["controllers"][role.name])
            for name, rewards in self._rewards.items():
                rewards.load_state_dict(state["rewards"][name])
        self.source.load_state_dict(state["source"])
        self.step, self.best = state["step"], state["best"]
        if self.step > self.recipe.training.known_steps:
            epochs, steps = self.recipe.training.epochs, self.recipe.training.known_steps
            raise RecipeError(
                f"training.epochs: {epochs}, which is {steps} steps, but {checkpoint} has {self.step} steps"
            )
        if len(state["random"]) == self.ranks.size:
            set_random_state(state["random"][self.ranks.rank])
        else:
            set_seed(derive_seed(self.recipe.seed, self.name, self.step, self.ranks.rank) % 2**32)

    def _profiled_step(self) -> dict[str, Any]:
        """`_train_step`, with a profile of its spans in the run folder and on the console."""
        with recording(wait_for_device) as spans:
            row = self._train_step()
        found = Profile.of(spans, stage=self.name, row=row)
        self.folder.save_profile(found.as_json())
        self.progress.say(found.text())
        return row

    def _train_step(self) -> dict[str, Any]:
        """One step and, if it is due, an evaluation; returns the row that was logged."""
        started = time.monotonic()
        seed = derive_seed(self.recipe.seed, self.name, self.step + 1)
        if self.collector and (not self.roles or next(iter(self.roles.values())).algorithm.samples):
            with span("sync"):
                self.sync_weights()
        sync_seconds, sent = time.monotonic() - started, dict(self._sent)
        with span("collect"):
            collected = self._collected(seed)
        collected_at = time.monotonic()
        with span("update"):
            metrics, tokens = self._update(collected, seed)
        self.step += 1
        for role in self.roles.values():
            role.after(self.step)
        seconds = time.monotonic() - started
        row: dict[str, Any] = {"step": self.step, "epoch": self.epoch()} | metrics | sent | collected.metrics
        row |= {
            "sync_seconds": sync_seconds,
            "collect_seconds": collected_at - started - sync_seconds,
            "train_seconds": seconds + started - collected_at,
            "step_seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "peak_memory": max(self.ranks.gather(peak_memory(), "comparing peaks of memory")) / 2**30,
        }
        with span("save"):
            self.folder.save_rollouts(collected.sampled, stage=self.name, step=self.step)
        self._warn_of_lost(collected.sampled, "training", "failures")
        every = self.recipe.evaluation.every
        last = self.step == self.recipe.training.known_steps
        if last or (every and self.step % every == 0):
            with span("evaluate"):
                row |= self._evaluate()
        for name, role in self.roles.items():
            if self._learns(name, self.step):
                role.control(self._of_role(row, name))
            row |= self._prefixed(role.controller_metrics(), name)
        self._log(row)
        return row

    def _collected(self, seed: int) -> Collected:
        collected = self.source.collect(seed)
        if isinstance(collected, Collected) and any(group.trajectories for group in collected.groups):
            for name, rewards in self._rewards.items():
                rewards.remember([group for group in collected.sampled if group.author == name])
            return collected
        given = "no group to train on" if isinstance(collected, Collected) else type(collected).__name__
        raise RunStopped(f"learn_from: the source gave {given}, expected a Collected with groups")

    def _update(self, collected: Collected, seed: int) -> tuple[Metrics, float]:
        """Train every role on its groups, roles that share a model together; returns metrics and tokens."""
        share_done = self.step / self.recipe.training.known_steps
        sharing: dict[int, list[tuple[Role, Any]]] = {}
        tokens, metrics = 0.0, Metrics()
        for name, role in self.roles.items():
            groups = [group for group in collected.groups if group.author == name and group.trajectories]
            if not groups or not self._learns(name, self.step + 1):
                continue
            own = seed if name == self.first else derive_seed(seed, name)
            tokenizer = self.origins[name].tokenizer
            with span("pack"):
                packed = pack(groups, name)
            of_step = {"tokenizer": tokenizer, "seed": own, "steps_done": self.step}
            trains = what_trains(role, self.step)[1]
            metrics |= self._prefixed(learn_from_replay(role, groups, trains=trains, **of_step), name)
            batch = provide(role, packed, groups=groups, share_done=share_done, **of_step)
            tokens += float(batch.response_mask.sum())
            sharing.setdefault(id(role.learner), []).append((role, batch))
        limit = self.recipe.rollout.max_mismatch
        for together in sharing.values():
            found = update_together(together, seed=seed, max_mismatch=limit, step=self.step)
            for (role, _), own_metrics in zip(together, found, strict=True):
                metrics |= self._prefixed(own_metrics, role.name)
        return metrics, tokens

    def _learns(self, role: str, step: int) -> bool:
        """Whether a role is trained in a step, counted from 1."""
        return step % self.recipe.by_role[role].trained_every == 0

    def _prefixed(self, metrics: Metrics, name: str) -> Metrics:
        return metrics if name == self.first else {f"{name}/{key}": value for key, value in metrics.items()}

    def _of_role(self, row: Mapping[str, Any], name: str) -> Metrics:
        """One role's metrics, without its prefix."""
        numbers = {key: float(value) for key, value in row.items() if isinstance(value, int | float)}
        prefix = f"{name}/"
        own = {key.removeprefix(prefix): value for key, value in numbers.items() if key.startswith(prefix)}
        return numbers if name == self.first else own

    def sync_weights(self) -> None:
        """Give the samplers the trained weights; a base that several share is sent once, and frozen weights once."""
        if self.collector is None or self._synced == self.step:
            return
        authors, fresh, based = self.collector.authors, self._synced < 0, set[int]()
        for name, frozen in self.frozen.items() if fresh else ():
            if not self.recipe.by_role[name].shares_with:
                sampler = authors[name].sampler
                self.transport(frozen.weights() if _lacks_base(sampler, based) else iter(()), sampler, 0)
        for name, role in self.roles.items():
            if role.owns:
                sampler = authors[name].sampler
                first = fresh and _lacks_base(sampler, based)
                sent = send(role.learner, sampler, self.transport, self.step, first=first)
                self._sent |= self._prefixed(sent, name)
        self._sync_writers()
        self._synced = self.step

    def _sync_writers(self) -> None:
        """Give the samplers that write in the policy's place their weights, where these are others than before."""
        assert self.collector is not None
        for writer, sampler in self.collector.authors[self.first].writers.items():
            version, weights = self.roles[self.first].written_by(writer, self.step)
            if self._synced < 0 or sampler.policy_version != version:
                self.transport(weights(), sampler, version)

    def _evaluate(self) -> Metrics:
        """The metrics of held-out prompts that are answered, and of held-out completions that are compared."""
        compared = compare(self.roles[self.first], self.held_out) if self.held_out.groups else {}
        return compared | (self._answered() if self._asks else {})

    @property
    def _rewards(self) -> Mapping[str, Rewards]:
        """The rewards of each role that samples."""
        return rewards_of(self.collector) if self.collector else {}

    @property
    def _asks(self) -> bool:
        """Whether held-out prompts are answered."""
        return self.collector is not None and bool(self.eval_prompts)

    def _answered(self) -> Metrics:
        assert self.collector is not None
        self.sync_weights()
        settings = self.recipe.evaluation
        # one seed for every evaluation, so that evaluations differ by the weights alone
        params = replace(self.params(derive_seed(self.recipe.seed, self.name, "eval")), evaluating=True)
        prompts = self.eval_prompts[: settings.limit]
        answers = {name: rewards.answers for name, rewards in rewards_of(self.collector).items()}
        categories = self.held_out.categories
        views = self.recipe.by_role
        measurable = {name: role for name, role in self.roles.items() if is_measurable(views[name], role.algorithm)}
        divergences = {name: partial(divergence, role) for name, role in measurable.items()}
        metrics, groups = evaluate(self.collector, prompts, settings, params, answers, categories, divergences)
        self.folder.save_rollouts(groups, stage=self.name, step=self.step, kind="eval")
        self._warn_of_lost(groups, "evaluation", "eval/failures")
        return metrics

    def _warn_of_lost(self, groups: Sequence[Group], where: str, metric: str) -> None:
        self._warn(self.lost_tasks.see(groups, where=where, metric=metric, stage=self.name, step=self.step))

    def _warn(self, warnings: Sequence[Warned]) -> None:
        for warning in warnings:
            self.folder.warn(asdict(warning))
            self.progress.say(f"warning: {warning.message}")

    def _checkpoint(self, row: dict[str, Any]) -> None:
        """Save, then prune; a step whose row lacks the metric (nothing was evaluated) cannot be the best."""
        settings = self.recipe.checkpoint
        metric = settings.metric or ("eval/accuracy" if self._asks else "eval/preference_accuracy")
        found = row.get(metric, math.nan)
        if settings.keep_best and found > (self.best[0] if self.best else -math.inf):  # false for nan
            self.best = (found, self.step)
        state = {
            "best": self.best,
            "source": self.source.state_dict(),
            "rewards": {name: rewards.state_dict() for name, rewards in self._rewards.items()},
            "controllers": {name: role.controllers for name, role in self.roles.items()},
            "random": self.ranks.gather(random_state(), "gathering random states"),
        }

        def write(folder: Path) -> None:
            for role in self.roles.values():
                role.save(folder)
            self.export(folder / "model")

        self.checkpoints.save(self.name, self.step, state, write)
        self.checkpoints.prune(self.name, keep_last=settings.keep_last, best=self.best[1] if self.best else None)
        for role in self.roles.values():
            if role.critic:
                role.critic.keep_replay_of(self.checkpoints.newest(self.name, settings.keep_last))

    def _log(self, row: dict[str, Any]) -> None:
        row = {"stage": self.name} | row
        self.folder.log(row)
        self.progress.row(row)
        self._warn(self.watch.see(row))


def measuring_once(measured_once: MeasuredOnce, stream: Any) -> Callable[[Stage], None]:
    """The measurement before a stage's first step, for the providers that need one."""

    def prepare(stage: Stage) -> None:
        stage.sync_weights()
        measured_once.measure(
            stream,
            steps=stage.recipe.training.known_steps,
            seed=derive_seed(stage.recipe.seed, stage.name),
            first_policy=stage.step == 0,
            record=partial(stage.folder.save_rollouts, stage=stage.name, step=stage.step, kind="once"),
        )

    return prepare


def _lacks_base(sampler: Sampler, based: set[int]) -> bool:
    """Whether the sampler's base is not among those that have weights; it is added to them."""
    base = id(getattr(sampler, "base", sampler))
    lacks = base not in based
    based.add(base)
    return lacks
