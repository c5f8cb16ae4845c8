"""The list of runs, and the processes that make them. An interrupted command resumes: no run is made twice.

folder/starts/     the warm-started checkpoints that runs start from
folder/results/    one JSON file per run
folder/runs/       folders of unfinished runs; each is deleted once its result is written
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

from rich.console import Console

from llmrl.errors import RecipeError, RunStopped, unknown_name
from llmrl.prove.catalogue import TASKS, suits
from llmrl.prove.results import Result, Run, is_done, read_results
from llmrl.recipe_file import methods
from llmrl.run_folder.lock import locked

SEEDS = (0, 1, 2)
RUNS_A_PROCESS = 60  # a process is replaced after so many runs, since each run adds some 10 MB to its memory
# one core a process: vLLM would otherwise bind all processes to the same cores
ONE_CORE = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}


def prove(
    names: Sequence[str],
    tasks: Sequence[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    jobs: int = 1,
    overrides: Sequence[str] = (),
    console: Console,
) -> list[Result]:
    """Train the methods `names` on `tasks` with `seeds`, in `jobs` processes; returns all results in `folder`.

    The result of a run that cannot be finished says why. overrides: key=value for the warm start and for every run.
    Raises RecipeError for an unknown method or task, or if another process makes runs in `folder`; RunStopped if a
    process ended before its work was done.
    """
    _check_names(names, tasks)
    pairs = [(name, task) for name in dict.fromkeys(names) for task in tasks if suits(name, task)]
    runs = [Run(task, name, seed) for name, task in pairs for seed in seeds]
    left = [run for run in runs if not is_done(folder, run)]
    console.print(f"{len(runs)} runs, {len(runs) - len(left)} of them done before", highlight=False)
    if left:
        with locked(folder, "--folder") as warning:
            if warning:
                console.print(warning, highlight=False, soft_wrap=True)
            _make(left, folder, jobs=jobs, overrides=list(overrides), console=console)
    return read_results(folder)


def _make(left: Sequence[Run], folder: Path, *, jobs: int, overrides: list[str], console: Console) -> None:
    """Make the starts that are missing, then the runs."""
    for start in dict.fromkeys(TASKS[run.task].start for run in left):
        if start is not None and not start_folder(folder, start).is_dir():
            console.print(f"making the checkpoint {start}", highlight=False)
            _in_processes(1, _make_start, folder, start, overrides)
    share = jobs * RUNS_A_PROCESS
    for first in range(0, len(left), share):
        queue = _filled([*left[first : first + share], *[None] * jobs])
        _in_processes(jobs, _make_runs, folder, overrides, queue)


def start_folder(folder: Path, start: str) -> Path:
    """Return the folder of a start's checkpoint."""
    return folder / "starts" / start / "final"


def _check_names(names: Iterable[str], tasks: Iterable[str]) -> None:
    known = methods()
    faults = [unknown_name("methods", name, known, "method") for name in names if name not in known]
    faults += [unknown_name("tasks", task, TASKS, "task") for task in tasks if task not in TASKS]
    if faults:
        raise RecipeError(*faults)


_SPAWN = multiprocessing.get_context("spawn")


def _filled(items: list[Run | None]) -> Any:
    queue: Any = _SPAWN.Queue()
    queue.cancel_join_thread()  # an interrupted command need not wait until the whole queue is read
    for item in items:
        queue.put(item)
    return queue


def _in_processes(count: int, work: Callable[..., None], *arguments: Any) -> None:
    """Run `work` in `count` processes, which are asked to stop if this process is interrupted."""
    processes = [_SPAWN.Process(target=_begin, args=(work, *arguments)) for _ in range(count)]
    try:
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
    codes = [process.exitcode for process in processes if process.exitcode]
    if codes:
        raise RunStopped(f"a process ended with exit code {codes[0]}; what is done is kept: start again to go on")


def _begin(work: Callable[..., None], *arguments: Any) -> None:
    os.environ.update(ONE_CORE)  # torch reads these when it is imported, so the functions below import it late
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work(*arguments)


def _end_with_parent() -> None:
    """End this process when its parent ends, since nobody else would stop its runs."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)


def _make_start(folder: Path, start: str, overrides: list[str]) -> None:
    from llmrl.prove.worker import make_start

    make_start(folder, start, overrides)


def _make_runs(folder: Path, overrides: list[str], queue: Any) -> None:
    from llmrl.prove.worker import RunMaker

    with RunMaker(folder, overrides) as maker:
        while (run := queue.get()) is not None:
            maker.make(run)
