"""Tasks of mixed data that a step learned nothing of, because every trajectory of theirs failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmrl.rewards.reward import value_at
from llmrl.run.warnings import Warned
from llmrl.types import Group, Trajectory

TASK_COLUMNS = ("data_source", "source_dataset", "metadata.source_dataset")
"""The columns in which public data say which task a row is of."""


class LostTasks:
    """Sees the groups of a run's steps, in order, and warns of each task when it is lost and when it is lost again.

    columns: columns, or paths into them, whose values tell tasks apart, besides TASK_COLUMNS.
    """

    def __init__(self, columns: Sequence[str] = ()):
        self._columns = tuple(dict.fromkeys((*columns, *TASK_COLUMNS)))
        self._lost: set[tuple[str, str]] = set()

    def see(self, groups: Sequence[Group], *, where: str, metric: str, stage: str, step: int) -> list[Warned]:
        """The warnings of one step; where: what the groups are for, as a word of the sentence; metric: the one that
        counts their failures."""
        tasks: dict[str, list[Trajectory]] = {}
        for group in groups:
            tasks.setdefault(self._task(group), []).extend(group.trajectories)
        warnings = []
        for task, trajectories in tasks.items():
            failures = [t.failure for t in trajectories if t.failure]
            if not failures or len(failures) < len(trajectories):
                self._lost.discard((where, task))
            elif (where, task) not in self._lost:
                self._lost.add((where, task))
                reason, count = Counter(f"{f.source} {f.kind}: {f.message}" for f in failures).most_common(1)[0]
                message = f"all {len(failures)} {where} trajectories{task} failed at step {step}, "
                message += f"{count} of them by {reason}"
                warnings.append(Warned(stage, step, step, metric, float(len(failures)), message))
        return warnings

    def _task(self, group: Group) -> str:
        values = {name: value_at(group.prompt.row, name) for name in self._columns}
        told = ", ".join(f"{name} {value!r}" for name, value in values.items() if value is not None)
        author = f" of {group.author}"
        return author + (f" on rows with {told}" if told else "")
