"""Copied beside the recipes of test_resume.py: a reward, a penalty, and the place where a run is interrupted.

interrupt.json says where, once: {"place": ..., "run": ..., "after": [stage, step], "count": 1, "signals": [9]}
    place     "reward" (in a worker process), "loss" (in the trainer), or a part of "<audit event> <path>"
    run       the run folder; `after` is the stage and step of the last row in its metrics.jsonl
    count     how often the place is reached first
    signals   sent to the trainer, 2.5 s apart; "group": true sends them to all its processes, as a terminal does
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from pathlib import Path

import torch

ORDER = Path("interrupt.json").absolute()
TRAINERS = ("MainProcess", "trainer")
reached = 0
watching = False


def last_row(run: str) -> list:
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines() if (Path(run) / "metrics.jsonl").exists() else []
    row = json.loads(lines[-1]) if lines else {"stage": None, "step": None}
    return [row["stage"], row["step"]]


def reach(place: str, trainer: int) -> None:
    global reached
    try:
        order = json.loads(ORDER.read_text())
        if order["place"] not in place or order.get("after", last_row(order["run"])) != last_row(order["run"]):
            return
        reached += 1
        if reached < order.get("count", 1):
            return
        ORDER.unlink()  # only one of several workers succeeds
    except FileNotFoundError:
        return
    for index, number in enumerate(order.get("signals", [9])):
        time.sleep(2.5 * (index > 0))
        os.killpg(os.getpgid(trainer), number) if order.get("group") else os.kill(trainer, number)


def low_digit(completion: str, row: dict) -> bool:
    """Right if it begins with a digit below 5."""
    reach("reward", os.getppid())
    return completion[:1] in set("01234")


def nothing(logprobs: torch.Tensor) -> torch.Tensor:
    """A penalty of zero."""
    reach("loss", os.getpid())
    return torch.zeros_like(logprobs)


def watch(event: str, arguments: tuple) -> None:
    global watching
    if watching or event not in ("open", "os.rename", "shutil.rmtree") or ".partial" not in str(arguments[0]):
        return
    watching = True
    reach(f"{event} {arguments[0]}", os.getpid())
    watching = False


# not in the reward workers
if Path(sys.argv[0]).name in ("llmrl", "cli.py") and multiprocessing.current_process().name in TRAINERS:
    sys.addaudithook(watch)
