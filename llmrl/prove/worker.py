"""The work of one process: it makes run after run on one sampler, and measures each run."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from torch.nn.utils.rnn import pad_sequence

from llmrl.errors import RecipeError, RunStopped
from llmrl.models.loading import load_language_model, load_tokenizer
from llmrl.prove import tabular
from llmrl.prove.catalogue import TASKS, task_file
from llmrl.prove.results import Result, Run, write_result
from llmrl.prove.runs import start_folder
from llmrl.recipe_file import Plan, load_plan
from llmrl.rewards.workers import Workers
from llmrl.run.models import Origin
from llmrl.run.run import run_plan
from llmrl.run.sampling import Samplers
from llmrl.run_folder.reader import RunReader
from llmrl.types import ACTOR

MEASURED = {"accuracy": "eval/pass@1", "greedy": "eval/accuracy", "pass@8": "eval/pass@8"}
PREFERRED = "eval/preference_accuracy"
MOST_CONCURRENT = 256


def make_start(folder: Path, start: str, overrides: list[str]) -> None:
    """Train a checkpoint that runs start from; an interrupted training continues where it stopped."""
    plan = load_plan(task_file(start), [f"run_dir={start_folder(folder, start).parent}", *overrides])
    console = Console()
    console.quiet = not console.is_terminal  # a log of so many steps would be long, so only a terminal gets its table
    _finish(plan, resume=True, console=console)


class RunMaker:
    """A maker of runs, one after the other, which share its sampler and its reward workers; used in a `with` block."""

    def __init__(self, folder: Path, overrides: list[str]):
        self._folder = folder
        self._overrides = overrides
        self._console = Console()
        self._samplers = Samplers(max_concurrent=MOST_CONCURRENT)
        self._workers = Workers(1)
        self._opened = ""

    def __enter__(self) -> RunMaker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._samplers.close()
        self._workers.close()

    def make(self, run: Run) -> None:
        """Train, measure, write the result, delete the run's folder. An exception in the run becomes its result."""
        run_dir, start = self._folder / "runs" / run.name, TASKS[run.task].start
        if start is not None:
            self._open(start)
        shutil.rmtree(run_dir, ignore_errors=True)  # a killed process may have left the folder
        began = time.process_time()
        try:
            result = tabular.make(run) if start is None else self._train(run, run_dir, start)
            result = dataclasses.replace(result, cpu_seconds=time.process_time() - began)
        except Exception as error:  # one method's fault must not keep the others from being measured
            known = isinstance(error, RecipeError | RunStopped)
            result = Result(run, fault=str(error) if known else f"{type(error).__name__}: {error}")
            if not known:  # the sampler itself may have failed
                self._samplers.close()
                self._opened = ""
        write_result(self._folder, result)
        shutil.rmtree(run_dir, ignore_errors=True)
        self._console.print(f"{run.name}: {_line(result)}", highlight=False, markup=False, soft_wrap=True)

    def _open(self, start: str) -> None:
        """Load the start and its sampler outside of any run, so that no run's time includes the engine's start."""
        if self._opened == start:
            return
        folder = start_folder(self._folder, start)
        self._start: Any = load_language_model(folder)
        self._tokenizer: Any = load_tokenizer(folder)
        recipe = next(iter(load_plan(task_file(start), self._overrides).stages.values()))
        self._samplers.get(recipe, Origin(folder, self._tokenizer, ()), torch.device("cpu"))
        self._opened = start

    def _train(self, run: Run, run_dir: Path, start: str) -> Result:
        plan = self._plan(run, run_dir, start)
        _finish(plan, resume=False, console=Console(quiet=True), samplers=self._samplers, workers=self._workers)
        return self._measure(run, plan)

    def _plan(self, run: Run, run_dir: Path, start: str) -> Plan:
        recipe = run_dir.with_suffix(".yaml")
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(f"include: {task_file(run.task)}\nmethod: {run.method}\nseed: {run.seed}\n", encoding="utf-8")
        own = [f"model={start_folder(self._folder, start)}", f"run_dir={run_dir}"]
        plan = load_plan(recipe, [*own, *self._overrides])
        recipe.unlink()
        return plan

    def _measure(self, run: Run, plan: Plan) -> Result:
        reader = RunReader(plan.run_dir)
        rows = reader.metrics
        entropies = [row["entropy"] for row in rows if "entropy" in row]
        samples = reader.rollouts(stage=rows[-1]["stage"], step=rows[-1]["step"], kind="eval").to_pylist()
        return Result(
            run,
            before=_measured(rows[0]),
            after=_measured(rows[-1]),
            entropy=(entropies[0], entropies[-1]) if entropies else None,
            kl=kl_to_start(samples, self._start) if samples else None,
            tokens=_sampled_tokens(reader),
        )


def _measured(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of MEASURED that a row of metrics has; a reward model's accuracy is that of pairs."""
    found = {name: row[metric] for name, metric in MEASURED.items() if metric in row}
    return found or {"accuracy": row[PREFERRED]}


@torch.no_grad()
def kl_to_start(samples: Sequence[Mapping[str, Any]], start: Any) -> float:
    """Return KL(pi || pi_start) per token, in nats: the mean over sampled tokens of log pi - log pi_start.

    samples: recorded trajectories; those without log-probabilities were greedy and are left out. An environment's
    tokens are context, and no part of the mean.
    """
    rows = [row for row in samples if row["rollout_logprobs"]]
    parts = [[(False, row["prompt_token_ids"]), *_authored(row["turns"])] for row in rows]
    token_ids = pad_sequence(
        [torch.tensor([token for _, tokens in part for token in tokens]) for part in parts], batch_first=True
    )
    own = pad_sequence(
        [torch.tensor([sampled for sampled, tokens in part for _ in tokens]) for part in parts], batch_first=True
    )
    logprobs = start(input_ids=token_ids).logits[:, :-1].log_softmax(-1)
    of_start = logprobs.gather(-1, token_ids[:, 1:, None])[..., 0]
    sampled = torch.tensor([logprob for row in rows for logprob in row["rollout_logprobs"]])
    return float((sampled - of_start[own[:, 1:]]).mean())


def _authored(turns: Sequence[Mapping[str, Any]]) -> list[tuple[bool, list[int]]]:
    """Return, for every turn, whether the actor is its author, and its tokens."""
    return [(turn["author"] == ACTOR, turn["token_ids"]) for turn in turns]


def _finish(plan: Plan, **options: Any) -> None:
    """Run the plan to its end; if a signal stops the plan before, this process ends too."""
    if code := run_plan(plan, **options):
        raise SystemExit(code)


def _sampled_tokens(reader: RunReader) -> int:
    tables = [reader.rollouts(kind=kind, columns=["turns"]) for kind in ("train", "once")]
    rows = [turns for table in tables for turns in table["turns"].to_pylist()]
    return sum(len(turn["token_ids"]) for turns in rows for turn in turns if turn["author"] == ACTOR)


def _line(result: Result) -> str:
    if result.fault:
        return f"fault: {result.fault.splitlines()[0]}"
    before, after = result.before["accuracy"], result.after["accuracy"]
    return f"accuracy {before:.1%} -> {after:.1%}, {result.cpu_seconds:.1f} CPU seconds"
