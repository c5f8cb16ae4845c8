"""The check of how fast a CPU computes in bf16."""

from __future__ import annotations

import functools
import time

import torch

from llmrl.check.report import Report
from llmrl.recipe import Recipe

PRODUCT, SLOW_BF16 = 256, 2.0


def check_bf16(recipe: Recipe, report: Report) -> None:
    """Warn of bf16 on a CPU that computes it slowly, as one product of matrices shows."""
    if recipe.training.dtype != "bf16" or torch.cuda.is_available():
        return
    ratio = bf16_slowdown()
    if ratio > SLOW_BF16:
        report.warn(
            f"training.dtype bf16: on this CPU a product of {PRODUCT} x {PRODUCT} matrices takes {ratio:.0f} times as "
            f"long in bf16 as in fp32; set training.dtype=fp32, if the memory allows"
        )


@functools.cache
def bf16_slowdown() -> float:
    """The time of one product of matrices in bf16 over that in fp32, on one thread, the best of three each."""
    threads = torch.get_num_threads()

    def seconds(dtype: torch.dtype) -> float:
        matrix = torch.ones(PRODUCT, PRODUCT, dtype=dtype)
        took = []
        for _ in range(3):
            started = time.thread_time()  # on a machine that does other things too, the thread's own time
            torch.mm(matrix, matrix)
            took.append(time.thread_time() - started)
        return min(took)

    torch.set_num_threads(1)
    try:
        return seconds(torch.bfloat16) / seconds(torch.float32)
    finally:
        torch.set_num_threads(threads)
