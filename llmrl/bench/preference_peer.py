"""A run of TRL's DPOTrainer or SFTTrainer on given rows; it is run by TRL's own interpreter, and imports nothing of
llmrl.

Its only argument is JSON with the fields of `Settings`; its last line of output is JSON: the seconds of each step, the
loss of each step before its update, the tokens that were trained on, and TRL's version.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any, TypedDict

import torch
import trl  # pyright: ignore[reportMissingImports]
from datasets import Dataset
from transformers import TrainerCallback


class Settings(TypedDict):
    """The work. kind: of trainer, DPO or SFT; data: a file of rows with the columns that TRL reads; rows: of one step;
    checkpointing: gradient checkpointing, TRL's default; settings: more of TRL's own for this kind."""

    kind: str
    model: str
    data: str
    rows: int
    steps: int
    learning_rate: float
    threads: int
    checkpointing: bool
    settings: dict[str, Any]


class Clock(TrainerCallback):
    """Takes the time of each step."""

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
        rows = [json.loads(line) for line in file]
    config, trainer = (getattr(trl, f"{given['kind']}{part}") for part in ("Config", "Trainer"))
    losses: list[float] = []

    class Recorded(trainer):
        """The trainer, which keeps each loss as it is: the log has four decimals of it."""

        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            found = super().compute_loss(*arguments, **named)
            losses.append(float(found[0] if isinstance(found, tuple) else found))
            return found

    clock = Clock()
    settings = config(
        output_dir="trl",
        per_device_train_batch_size=given["rows"],
        learning_rate=given["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        max_steps=given["steps"],
        gradient_checkpointing=given["checkpointing"],
        model_init_kwargs={"dtype": "float32"},
        bf16=False,
        use_cpu=True,
        train_sampling_strategy="sequential",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **given["settings"],
    )
    made = Recorded(model=given["model"], args=settings, train_dataset=Dataset.from_list(rows), callbacks=[clock])
    made.train()
    print(json.dumps({"seconds": clock.seconds, "losses": losses, "version": trl.__version__}))


if __name__ == "__main__":
    main()
