"""The reward of tasks of the reasoning_gym library, each of which has its own scorer."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from llmrl.rewards.extraction import last_line, last_tag, text_after
from llmrl.types import Score


def reasoning_gym(
    completion: str,
    row: Mapping[str, Any],
    *,
    extract: Literal["last_line", "all", "tag"] = "last_line",
    tag: str = "answer",
    after: str | None = None,
) -> Score:
    """The task's own score in [0, 1] of the completion's answer, which is correct if the score is 1.

    row: a reasoning_gym entry: question, answer, metadata (a mapping or its JSON), whose `source_dataset`
    names the task. extract: the part of the completion that is the answer: its last line that is not blank, all
    of it, or the text in the last `<tag>...</tag>`. after: a marker; only the text after its last occurrence
    counts. A completion without the marker or the tag is wrong. Raises ValueError for a row of an unknown task.
    """
    entry = _entry(row)
    scorer = _scorer(entry["metadata"]["source_dataset"])
    text = completion if after is None else text_after(completion, after)
    if text is not None:
        text = {"last_line": last_line, "all": str.strip}[extract](text) if extract != "tag" else last_tag(text, tag)
    if not text:
        return Score(0.0, False)
    value = float(scorer(answer=text.strip(), entry=entry))
    return Score(value, value >= 1.0)


def warm_up() -> None:
    """Import the library before the first grading."""
    import reasoning_gym as _  # noqa: F401


def _entry(row: Mapping[str, Any]) -> dict[str, Any]:
    missing = [name for name in ("answer", "metadata") if name not in row]
    if missing:
        raise ValueError(f"the data row has no '{missing[0]}': it is not a reasoning_gym entry")
    metadata = row["metadata"]
    metadata = json.loads(metadata) if isinstance(metadata, str) else metadata
    if not isinstance(metadata, Mapping) or "source_dataset" not in metadata:
        raise ValueError("the data row's metadata has no 'source_dataset': it is not a reasoning_gym entry")
    return {**row, "metadata": metadata}


@functools.lru_cache(maxsize=256)
def _scorer(task: str) -> Callable[..., float]:
    from reasoning_gym.factory import get_score_answer_fn

    return get_score_answer_fn(task)
