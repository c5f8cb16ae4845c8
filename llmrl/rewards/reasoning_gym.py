"""The reward of tasks of the reasoning_gym library, each of which has its own scorer."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from llmrl.errors import unknown_name
from llmrl.marks import reads_answers
from llmrl.rewards.extraction import last_line, last_tag, text_after
from llmrl.rewards.guarded_eval import guarding
from llmrl.rewards.thoughts import after_thoughts
from llmrl.types import Score

TASK_SETTINGS = "task_settings"
"""The column with the settings that a row's task was made with, as JSON."""

Extract = Literal["last_line", "all", "tag"]


def read_answer(
    completion: str,
    prompt: str = "",
    *,
    row: Mapping[str, Any] | None = None,
    extract: Extract | None = None,
    tag: str = "answer",
    after: str | None = None,
    thoughts_end: str | None = None,
) -> str | None:
    """The completion's answer; by default as many last lines as the row's answer has, and one without a row."""
    text = after_thoughts(completion, prompt, thoughts_end=thoughts_end)
    if text is not None and after is not None:
        text = text_after(text, after)
    if text is None:
        return None
    ways = {
        None: lambda text: _last_lines(text, _line_count(row["answer"] if row else "")),
        "last_line": last_line,
        "all": str.strip,
        "tag": lambda text: last_tag(text, tag, prompt),
    }
    found = ways[extract](text)
    return found.strip() or None if found else None


@reads_answers(read_answer)
def reasoning_gym(
    completion: str,
    row: Mapping[str, Any],
    prompt: str = "",
    *,
    extract: Extract | None = None,
    tag: str = "answer",
    after: str | None = None,
    thoughts_end: str | None = None,
) -> Score:
    """The task's own score in [0, 1] of the completion's answer, which is correct if the score is 1.

    row: a reasoning_gym entry: question, answer, metadata (a mapping or its JSON), whose `source_dataset` names the
    task, and `task_settings`, JSON of the settings that the task was made with; default: the task's own. extract: the
    part of the completion that is the answer: its last line that is not blank, all of it, or the text in the last
    `<tag>...</tag>`; default: as many last lines as the row's answer has. after: a marker; only the text after its last
    occurrence counts. thoughts_end: the tag that ends the thoughts, see llmrl.rewards.thoughts. A completion without
    an answer is wrong, and so is one that the scorer fails on. Raises ValueError for a row of an unknown task, and if
    the scorer fails on the row's own answer.
    """
    entry, task = entry_of(row)
    answer = read_answer(completion, prompt, row=row, extract=extract, tag=tag, after=after, thoughts_end=thoughts_end)
    if answer is None:
        return Score(0.0, False)
    value = task.score_or_zero(answer, entry)
    return Score(value, value >= 1.0)


def warm_up() -> None:
    """Import the library before the first grading."""
    import reasoning_gym as _  # noqa: F401


@dataclass(frozen=True)
class Task:
    """A task as its settings make it; tuples: whether its scorer compares metadata with tuples."""

    dataset: Any
    tuples: bool = False

    def score(self, answer: Any, entry: Mapping[str, Any]) -> float:
        with guarding("reasoning_gym"):
            return float(self.dataset.score_answer(answer=answer, entry=entry))

    def score_or_zero(self, answer: str, entry: Mapping[str, Any]) -> float:
        """The score of an answer, 0 where the scorer fails on it; raises ValueError if it fails on the gold too."""
        try:
            return self.score(answer, entry)
        except Exception:  # a scorer may raise anything on a text of another form
            _try_gold(self, entry)
            return 0.0


@functools.lru_cache(maxsize=256)
def _task(name: str, settings: str) -> Task:
    from reasoning_gym.factory import DATASETS, create_dataset

    if name not in DATASETS:
        raise ValueError(unknown_name("metadata.source_dataset", name, DATASETS, "reasoning-gym task"))
    try:
        dataset = create_dataset(name, **{"size": 1, "seed": 0} | json.loads(settings))
        example = dataset[0]
    except Exception as error:  # the library checks settings by assertions and by failing
        raise ValueError(f"{name} cannot be made with the settings {settings}: {error}") from error
    task = Task(dataset)
    lists, tuples = ({**example, "metadata": _all_as(kind, example["metadata"])} for kind in (list, tuple))
    # JSON and parquet make lists of tuples, and some scorers then refuse their own gold
    return Task(dataset, task.score(example["answer"], lists) < 1.0 <= task.score(example["answer"], tuples))


def entry_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], Task]:
    """The row as an entry, and its task; raises ValueError for a row that is no entry, or of an unknown task."""
    missing = [name for name in ("answer", "metadata") if name not in row]
    if missing:
        raise ValueError(f"the data row has no '{missing[0]}': it is not a reasoning_gym entry")
    metadata = row["metadata"]
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    if not isinstance(metadata, Mapping) or "source_dataset" not in metadata:
        raise ValueError("the data row's metadata has no 'source_dataset': it is not a reasoning_gym entry")
    task = _task(metadata["source_dataset"], row.get(TASK_SETTINGS) or "{}")
    return {**row, "metadata": _all_as(tuple, metadata) if task.tuples else metadata}, task


def _all_as(kind: type[list[Any]] | type[tuple[Any, ...]], value: Any) -> Any:
    """The value with every list and tuple inside it made anew as `kind`."""
    if isinstance(value, Mapping):
        return {key: _all_as(kind, one) for key, one in value.items()}
    return kind(_all_as(kind, one) for one in value) if isinstance(value, list | tuple) else value


def _try_gold(task: Task, entry: Mapping[str, Any]) -> None:
    try:
        task.score(entry["answer"], entry)
    except Exception as error:
        name = entry["metadata"]["source_dataset"]
        raise ValueError(f"the scorer of {name} fails on the row's own answer: {error}") from error


def _line_count(gold: Any) -> int:
    return sum(bool(line.strip()) for line in str(gold).splitlines()) or 1


def _last_lines(text: str, count: int) -> str:
    """The shortest end of the text with `count` lines that are not blank; the fences of a code block are left out."""
    lines = [line for line in text.split("\n") if not line.lstrip().startswith("```")]
    filled = [number for number, line in enumerate(lines) if line.strip()]
    return "\n".join(lines[filled[-count] if count <= len(filled) else 0 :])
