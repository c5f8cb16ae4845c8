"""Every metric that a run writes: its meaning, its healthy values, and advice for others.

The live table, the warnings on the console and docs/metrics.md are all made from METRICS. A user's own loss may add
statistics of its own, which are in no table.
"""

from __future__ import annotations

import functools
from collections.abc import Collection

from llmrl.metrics.critiques import CRITIQUES, HELD_OUT
from llmrl.metrics.metric import Metric
from llmrl.metrics.sampling import EVALUATION, SAMPLES
from llmrl.metrics.training import CRITIC, MISMATCH, PENALTIES, POLICY

PROGRESS = (
    Metric("step", "The training step that the row describes; 0 is before the first.", format="d", heading="step"),
    Metric("epoch", "How often the training data has been used up.", "epochs", format=".2f"),
)
TIME = (
    Metric("sync_seconds", "The time to give the sampler the trained weights.", "s"),
    Metric("collect_seconds", "The time to sample and score.", "s", "most of a step with long answers"),
    Metric("train_seconds", "The time to train.", "s"),
    Metric("step_seconds", "The time of the whole step, evaluation aside.", "s"),
    Metric("tokens_per_second", "The trained tokens per second of the whole step.", "tokens per s", format=",.0f",
           heading="tok/s"),
    Metric("rollout_seconds", "The time to sample and score, as the collector measures it.", "s"),
    Metric("rollout_tokens_per_second", "The sampled tokens per second of it.", "tokens per s", format=",.0f"),
)  # fmt: skip
MEMORY = (
    Metric("peak_memory", "The most memory that any process has held so far: torch's on the GPU, else its RAM.",
           "GiB", "within what `llmrl check` estimates",
           "Lower training.tokens_per_micro_batch, or set training.gradient_checkpointing.", format=".2f"),
)  # fmt: skip

SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Progress": PROGRESS,
    "What was sampled": SAMPLES,
    "Critiques and refinements": CRITIQUES,
    "Evaluation": (*EVALUATION, *HELD_OUT),
    "Policy": POLICY,
    "Regularizers and controllers": PENALTIES,
    "Trainer against sampler": MISMATCH,
    "Critic": CRITIC,
    "Time": TIME,
    "Memory": MEMORY,
}
METRICS: tuple[Metric, ...] = tuple(metric for section in SECTIONS.values() for metric in section)


def metric_of(name: str, roles: Collection[str] = ()) -> Metric | None:
    """The table's row for a name in metrics.jsonl, or None. roles: the roles whose metrics begin with `<role>/`."""
    role, _, own = name.partition("/")
    return _known(own if role in roles else name)


@functools.cache
def _known(name: str) -> Metric | None:
    return next((metric for metric in METRICS if metric.pattern.fullmatch(name)), None)
