"""A very small run through the command, and what must be equal between two of them."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from llmrl.cli import main as llmrl

LLMRL = Path(sys.executable).parent / "llmrl"
SECONDS = 150
FORKS = multiprocessing.get_context("forkserver")
"""Forks from a server that has imported what a run does, which takes longer than a small run itself."""
FORKS.set_forkserver_preload(
    ["llmrl.run.run", "transformers.models.qwen3.modeling_qwen3", "peft", "llmrl.rollout.transformers_sampler"]
)
RECIPE = """
name: small
seed: 7
model:
  build:
    config: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 1,
      num_key_value_heads: 1, head_dim: 32, initializer_range: 0.05, tie_word_embeddings: true,
      max_position_embeddings: 64}
    characters: "0123456789+="
  lora: {rank: 4, dropout: 0.1}       # dropout draws from torch's random stream
data: {train: {path: sums.jsonl}, eval: {path: held_out.jsonl}}
rewards: {"interruptions:low_digit": {}}
rollout: {engine: transformers, max_prompt_tokens: 8, max_completion_tokens: 4}
training: {threads: 1}
stages:
  warm_start:
    learn_from: demonstrations
    policy_loss: nll
    data: {train: {completion: answer}}
    rollout: {prompts_per_step: 8, group_size: 1}
    training: {steps: 4, learning_rate: 3.0e-3, schedule: cosine, warmup_steps: 1}
    evaluation: {every: 1}
    checkpoint: {every: 2, keep_last: 1, keep_best: false}
  rl:
    advantage: grpo
    policy_loss: ppo_clip
    regularizers: {"interruptions:nothing": {weight: 1.0}}
    rollout: {prompts_per_step: 5, group_size: 4}
    training: {steps: 5, learning_rate: 1.0e-3, schedule: linear, warmup_steps: 2, updates_per_step: 2}
    evaluation: {every: 2}
    checkpoint: {every: 2}
"""


def lay_out(folder: Path) -> Path:
    """`folder` with the recipe, its rows and its functions."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(Path(__file__).with_name("interruptions.py"), folder)
    (folder / "small.yaml").write_text(RECIPE)
    sums = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(6) for b in range(6)]
    for name, rows in {"sums": sums[:28], "held_out": sums[28:]}.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def train(
    folder: Path,
    run: str,
    *arguments: str,
    interrupt: dict[str, Any] | None = None,
    command: bool = False,
    file_limit: int | None = None,
) -> tuple[int, str]:
    """`llmrl train` into folder/run, as (exit code, what it printed); with `interrupt` see interruptions.py.

    command: a process that starts anew, as a user's does; else one that is forked with llmrl already imported.
    file_limit: no file may get longer.
    """
    order = folder / "interrupt.json"
    order.unlink(missing_ok=True)
    if interrupt:
        order.write_text(json.dumps({"run": run} | interrupt))
    start = _started if command else _forked
    code, printed = start(folder, ["train", "small.yaml", f"run_dir={run}", *arguments], file_limit)
    assert not order.exists(), f"not interrupted: {printed}"
    return code, printed


def _started(folder: Path, arguments: list[str], file_limit: int | None) -> tuple[int, str]:
    assert file_limit is None
    process = subprocess.Popen(
        [LLMRL, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        printed = process.communicate(timeout=SECONDS)[0]
        return process.returncode, printed
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError("the run hangs: " + process.communicate()[0]) from None


def _forked(folder: Path, arguments: list[str], file_limit: int | None) -> tuple[int, str]:
    with tempfile.NamedTemporaryFile("r") as log:
        process = FORKS.Process(target=_main, args=(folder, arguments, log.name, file_limit), name="trainer")
        process.start()
        process.join(SECONDS)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError("the run hangs: " + log.read())
        return process.exitcode, log.read()


def _main(folder: Path, arguments: list[str], log: str, file_limit: int | None) -> None:
    os.setsid()
    written = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(written, descriptor)
    os.chdir(folder)
    sys.argv = [str(LLMRL), *arguments]
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    llmrl()


def together(*runs: Callable[[], Any]) -> list[Any]:
    """What each gives, all under way at once: most of a small run is one thread that imports."""
    with ThreadPoolExecutor() as pool:
        return [future.result() for future in [pool.submit(run) for run in runs]]


def copy_run(source: Path, folder: Path) -> Path:
    """An interrupted run, in a folder of its own."""
    lay_out(folder)
    shutil.copytree(source, folder / source.name)
    return folder


def metrics(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = ("seconds", "per_second", "peak_memory")  # of the machine, not of the run
    return [{k: v for k, v in row.items() if not any(part in k for part in own)} for row in rows]


def assert_equal_runs(found: Path, expected: Path) -> None:
    """The final weights bit for bit, metrics row by row, rollouts cell by cell; nothing half-written is left."""
    assert metrics(found) == metrics(expected)
    names = sorted(f.name for f in (expected / "rollouts").iterdir())
    assert sorted(f.name for f in (found / "rollouts").iterdir()) == names
    for name in names:
        assert cells(found / "rollouts" / name) == cells(expected / "rollouts" / name), name
    for file in ("final/model.safetensors", "stages/warm_start/model.safetensors"):
        if (expected / file).exists():
            assert (found / file).read_bytes() == (expected / file).read_bytes(), file
    assert list(found.rglob(".*.partial")) == []


def cells(file: Path) -> list[dict[str, Any]]:
    """The rows of a file of rollouts, but for what a clock says of turns."""
    rows = pq.read_table(file).to_pylist()
    turns = [[{key: turn[key] for key in turn if key != "seconds"} for turn in row["turns"]] for row in rows]
    return [row | {"turns": own} for row, own in zip(rows, turns, strict=True)]


def checkpoints(run: Path) -> list[str]:
    return sorted(f.name for f in (run / "checkpoints").iterdir())
