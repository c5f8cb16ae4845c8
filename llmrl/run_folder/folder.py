"""The old names of writer and reader, until llmrl/run and llmrl/prove use the new ones; then this file goes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from llmrl.run_folder import layout, writer
from llmrl.run_folder.reader import RunReader
from llmrl.types import Group


class RunFolder(writer.RunFolder):
    """The writer with the methods it had."""

    def rollouts(self, name: str, groups: Sequence[Group]) -> None:
        """Now save_rollouts."""
        place = layout.parse(name)
        assert place is not None
        self.save_rollouts(groups, stage=place.stage, step=place.step, kind=place.kind)

    @property
    def in_use(self) -> bool:
        """Now reader.in_use."""
        return self.reader.in_use

    def done(self, stages: Iterable[str]) -> list[str]:
        """Now reader.done."""
        return self.reader.done(stages)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Now RunReader(path).metrics."""
    return RunReader(path).metrics
