"""A run of TRL's GRPOTrainer on a case's work; it is run by TRL's own interpreter, and imports nothing of llmrl.

Its only argument is JSON with the fields of `Settings`; its last line of output is JSON: the seconds of each step, the
mean tokens of each step's completions, and TRL's version.
"""

from __future__ import annotations

import json
import runpy
import sys
import time
from typing import Any, TypedDict

import torch
import trl  # pyright: ignore[reportMissingImports]
from datasets import Dataset
from transformers import TrainerCallback


class Settings(TypedDict):
    """The work. data: a file of questions; rewards: a file with the function `even`; rows: completions that go through
    the model at once; checkpointing: gradient checkpointing, TRL's default."""

    model: str
    data: str
    rewards: str
    prompts: int
    rows: int
    group_size: int
    completion_tokens: int
    steps: int
    beta: float
    learning_rate: float
    threads: int
    checkpointing: bool


class Clock(TrainerCallback):
    """Takes the time of each step: sampling, rewards, and the update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._started = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds.append(time.monotonic() - self._started)


def main() -> None:
    """Train, and print what it took."""
    given: Settings = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    with open(given["data"], encoding="utf-8") as file:
        rows = [{"prompt": json.loads(line)["question"]} for line in file]
    even = runpy.run_path(given["rewards"])["even"]
    clock = Clock()
    config = trl.GRPOConfig(
        output_dir="trl",
        per_device_train_batch_size=given["rows"],
        gradient_accumulation_steps=given["prompts"] * given["group_size"] // given["rows"],
        num_generations=given["group_size"],
        max_completion_length=given["completion_tokens"],
        beta=given["beta"],
        learning_rate=given["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_steps=given["steps"],
        gradient_checkpointing=given["checkpointing"],
        model_init_kwargs={"dtype": "float32"},
        bf16=False,
        use_cpu=True,
        shuffle_dataset=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = trl.GRPOTrainer(
        model=given["model"],
        reward_funcs=lambda completions, **row: [even(completion) for completion in completions],
        args=config,
        train_dataset=Dataset.from_list(rows),
        callbacks=[clock],
    )
    trainer.train()
    tokens = [row["completions/mean_length"] for row in trainer.state.log_history if "completions/mean_length" in row]
    print(json.dumps({"seconds": clock.seconds, "tokens": tokens, "version": trl.__version__}))


if __name__ == "__main__":
    main()
