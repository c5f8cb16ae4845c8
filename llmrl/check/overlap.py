"""Questions that two sources share: of one stage and an earlier one, or of training and evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llmrl.check.report import Report
from llmrl.data.prompts import LoadedPrompts, asked
from llmrl.data.tasks import TASKS
from llmrl.recipe_rows import Data, Rows


@dataclass(frozen=True)
class Asked:
    """The questions that a stage asks in training, and where they come from."""

    source: Rows
    questions: frozenset[tuple[str, int | None]]

    @classmethod
    def of(cls, data: Data, prompts: LoadedPrompts) -> Asked:
        """The training questions of a stage whose prompts are loaded."""
        return cls(data.train, frozenset(asked(prompts.questions[one.id], one.row) for one in prompts.train))


def check_overlap(data: Data, prompts: LoadedPrompts, earlier: Mapping[str, Asked], report: Report) -> None:
    """Warn of questions that an earlier stage has trained on.

    Training questions are only counted, without a warning, if both stages name the same file or data set, which the
    recipe shows, or if different seeds of a task with few questions drew the same ones by chance.
    """
    for stage, before in earlier.items():
        for part, source, found in (("train", data.train, prompts.train), ("eval", data.eval, prompts.eval)):
            shared = sum(asked(prompts.questions[one.id], one.row) in before.questions for one in found)
            if not shared or source is None or source.closest:  # which is meant to train on the same rows again
                continue
            text = f"data.{part}: {shared} of {len(found)} questions are trained on in stage {stage} too"
            if seeds_overlap(source, before.source):
                report.warn(f"{text}; {way_out(f'data.{part}.seed', before.source)}")
            elif part == "train" and (_same_rows(source, before.source) or source.task is not None):
                report.say("", text)
            else:
                report.warn(text)


def seeds_overlap(one: Rows, other: Rows) -> bool:
    """Whether two sources are one reasoning-gym task whose seeds are so near that they give the same rows, shifted."""
    near = one.seed < other.seed + other.size and other.seed < one.seed + one.size
    of_library = one.task is not None and one.task not in TASKS and ":" not in one.task
    return of_library and (one.task, one.settings) == (other.task, other.settings) and near


def way_out(key: str, other: Rows) -> str:
    """The advice that keeps a task's rows apart from those of `other`, whose seed s + i begins at row i of seed s."""
    return f"near seeds give the same rows, shifted: set {key} to {other.seed + other.size} or more"


def _same_rows(one: Rows, other: Rows) -> bool:
    return (one.path, one.dataset, one.subset, one.split) == (other.path, other.dataset, other.subset, other.split)
