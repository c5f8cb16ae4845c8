"""One stage of a run: everything it is made of, and its loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, set_seed

from llmrl.data.packing import pack
from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError
from llmrl.evaluation.evaluate import evaluate
from llmrl.models.loading import export
from llmrl.recipe import Recipe
from llmrl.rollout.collect import Collector
from llmrl.rollout.sampler import derive_seed
from llmrl.run.checkpoint import Checkpoints, State, random_state, read_state, reading, set_random_state
from llmrl.run.progress import RunProgress
from llmrl.run_folder.folder import RunFolder
from llmrl.train.annotate import annotate
from llmrl.train.reasoning import with_answer_logprobs
from llmrl.train.roles import Role
from llmrl.train.sources import Source, StaticValues, sampling_params
from llmrl.train.step import Metrics, update
from llmrl.types import ACTOR, Prompt


class StopAsked(Exception):
    """A signal asked the run to stop; its state is in a checkpoint."""


@dataclass
class Stage:
    """step: the last one done. best: (metric, step) of the best checkpoint so far."""

    name: str
    recipe: Recipe
    role: Role
    source: Source
    tokenizer: PreTrainedTokenizerBase
    stop_token_ids: tuple[int, ...]
    eval_prompts: Sequence[Prompt]
    ranks: Ranks
    folder: RunFolder
    progress: RunProgress
    checkpoints: Checkpoints
    collector: Collector | None = None  # none: nothing is sampled in this stage
    static_values: StaticValues | None = None
    stop_asked: Callable[[], bool] = lambda: False
    step: int = 0
    best: tuple[float, int] | None = None
    _synced: int = -1  # the step whose weights the sampler holds

    def run(self) -> None:
        """Train from `step` to the recipe's last; raises StopAsked after a checkpoint if asked to stop."""
        steps, every = self.recipe.training.steps, self.recipe.checkpoint.every
        self.progress.stage(self.name, steps=steps, done=self.step)
        if self.step == 0:
            set_seed(derive_seed(self.recipe.seed, self.name, self.ranks.rank) % 2**32)
            self._log({"step": 0} | self._evaluate())
        if self.static_values and self.step < steps:
            self._sync_weights()
            seed = derive_seed(self.recipe.seed, self.name)
            record = partial(self.folder.rollouts, f"{self.name}-{self.step:06d}-static")
            self.static_values.prepare(steps=steps, seed=seed, first_policy=self.step == 0, record=record)
        while self.step < steps:
            row = self._train_step()
            stop = any(self.ranks.gather(self.stop_asked(), "agreeing whether to stop"))
            if stop or (every and self.step % every == 0):
                self._checkpoint(row)
            if stop and self.step < steps:
                raise StopAsked(f"stopped after step {self.step} of stage {self.name}")

    def export(self, folder: Path) -> None:
        """The weights as a Hugging Face folder; every rank calls it, rank 0 writes."""
        engine, writes = self.role.engine, self.ranks.is_first
        # every rank has to walk through all weights, since sharded ones are put together on the way
        weights = [pair for pair in engine.weights() if writes]
        adapter = engine.trained_weights() if self.recipe.model.lora else None
        if writes:
            export(engine.model.lm, self.tokenizer, folder, weights, adapter)

    def resume(self, checkpoint: Path) -> None:
        """Go on exactly where `checkpoint` was written; raises RecipeError if this run cannot."""
        with reading(checkpoint):
            state = read_state(checkpoint)
            self._check(checkpoint, state)
            self.role.load(checkpoint)
        self.source.stream.load_state_dict(state["stream"])
        set_random_state(state["random"][self.ranks.rank])
        self.step, self.best = state["step"], state["best"]
        self.role.controllers.update(state["controllers"])

    def _check(self, checkpoint: Path, state: State) -> None:
        ranks, steps = len(state["random"]), self.recipe.training.steps
        if ranks != self.ranks.size:
            raise RecipeError(f"--nproc: {self.ranks.size}, but {checkpoint} was made with {ranks}")
        if steps < state["step"]:
            raise RecipeError(f"stages.{self.name}.training.steps: {steps}, but {checkpoint} is further already")

    def _train_step(self) -> dict[str, Any]:
        """One step and, where it is due, an evaluation; returns the row that was logged."""
        started = time.monotonic()
        seed = derive_seed(self.recipe.seed, self.name, self.step + 1)
        if self.recipe.learn_from == "rollouts":
            self._sync_weights()
        sync_seconds = time.monotonic() - started
        collected = self.source.collect(seed)
        collected_at = time.monotonic()
        progress = self.step / self.recipe.training.steps
        batch = annotate(self.role, pack(collected.groups, ACTOR), seed=seed, progress=progress)
        if "answer_logprobs" in self.role.algorithm.needs:
            batch = with_answer_logprobs(self.role, batch, collected.groups, self.tokenizer, self.recipe.reasoning)
        limit = self.recipe.rollout.max_mismatch
        metrics = update(self.role, batch, seed=seed, max_mismatch=limit, step=self.step)
        self.step += 1
        seconds = time.monotonic() - started
        row: dict[str, Any] = {"step": self.step, "epoch": self.source.stream.epoch} | metrics | collected.metrics
        row |= {
            "sync_seconds": sync_seconds,
            "collect_seconds": collected_at - started - sync_seconds,
            "train_seconds": seconds + started - collected_at,
            "step_seconds": seconds,
            "tokens_per_second": float(batch.response_mask.sum()) / seconds,
        }
        self.folder.rollouts(f"{self.name}-{self.step:06d}", collected.sampled)
        every = self.recipe.evaluation.every
        last = self.step == self.recipe.training.steps
        if last or (every and self.step % every == 0):
            row |= self._evaluate()
        self.role.control({name: value for name, value in row.items() if isinstance(value, int | float)})
        self._log(row | self.role.controller_metrics())
        return row

    def _sync_weights(self) -> None:
        """Make what samples what trains."""
        if self.collector and self._synced != self.step:
            self.collector.sampler.load_weights(self.role.engine.weights(), self.step)
            self._synced = self.step

    def _evaluate(self) -> Metrics:
        if not self.collector or not self.eval_prompts:
            return {}
        self._sync_weights()
        settings = self.recipe.evaluation
        # one seed for every evaluation: two of them differ by their weights alone
        params = sampling_params(
            self.recipe.rollout, self.stop_token_ids, derive_seed(self.recipe.seed, self.name, "eval")
        )
        prompts = self.eval_prompts[: settings.limit]
        metrics, groups = evaluate(self.collector, prompts, settings, params)
        self.folder.rollouts(f"{self.name}-{self.step:06d}-eval", groups)
        return metrics

    def _checkpoint(self, row: dict[str, Any]) -> None:
        """Save, then prune; a step whose row lacks the metric (nothing was evaluated) cannot be the best."""
        settings = self.recipe.checkpoint
        found = row.get(settings.metric, math.nan)
        if settings.keep_best and found > (self.best[0] if self.best else -math.inf):  # false for nan
            self.best = (found, self.step)
        state = {
            "best": self.best,
            "stream": self.source.stream.state_dict(),
            "controllers": self.role.controllers,
            "random": self.ranks.gather(random_state(), "gathering random states"),
        }

        def write(folder: Path) -> None:
            self.role.save(folder)
            self.export(folder / "model")

        self.checkpoints.save(self.name, self.step, state, write)
        self.checkpoints.prune(self.name, keep_last=settings.keep_last, best=self.best[1] if self.best else None)

    def _log(self, row: dict[str, Any]) -> None:
        row = {"stage": self.name} | row
        self.folder.log(row)
        self.progress.row(row)
