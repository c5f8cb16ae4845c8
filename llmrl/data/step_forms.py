"""Public data of solutions whose steps have labels, as the columns `prompt`, `steps` and `step_labels`.

A row may hold several solutions: `steps` is then a list of lists of texts, and so are the labels. A label is one that
llmrl.data.steps reads: right or wrong, a chance from 0 to 1, NEUTRAL, or None for a step that nobody rated.
"""

from __future__ import annotations

from typing import Any

from llmrl.columns import as_json
from llmrl.data.files import Row
from llmrl.errors import short

Example = dict[str, Any]
Rated = list[tuple[str, Any]]
"""A solution: each step with its label."""

NEUTRAL = "neutral"
RATINGS = {1: True, 0: NEUTRAL, -1: False, None: None}
"""The ratings of PRM800K: right, neither wrong nor of any use, wrong, not rated."""
UNSOLVED = ("give_up", "bad_problem")
"""Of PRM800K, why a labeller left a problem without a solution."""
TAG = "ки"
"""The mark of Math-Shepherd at the end of each step."""
FIRST_STEP = "Step 1:"


def stepwise(row: Row) -> Example:
    """TRL's stepwise supervision: a list of steps as `completions`, and a list of their `labels`."""
    return {"prompt": row["prompt"], "steps": row["completions"], "step_labels": row["labels"]}


def process_bench(row: Row) -> Example:
    """ProcessBench: `label` is the place of the first wrong step, or -1; steps after a wrong one have no label."""
    steps, wrong = list(as_json(row["steps"])), row["label"]
    if isinstance(wrong, bool) or not isinstance(wrong, int) or not -1 <= wrong < len(steps):
        raise ValueError(f"label: expected -1 or the place of one of {len(steps)} steps, got {short(wrong)}")
    right = len(steps) if wrong < 0 else wrong
    labels = [True] * right + ([] if wrong < 0 else [False]) + [None] * (len(steps) - right - 1)
    return {"prompt": row["problem"], "steps": steps, "step_labels": labels}


def math_shepherd(row: Row) -> Example:
    """Math-Shepherd: `input` is the question and the solution, with TAG behind each step, and `label` the same text
    with + or - in place of the tags."""
    said, labelled = str(row["input"]), str(row["label"])
    start = said.find(FIRST_STEP)
    if start < 0 or TAG not in said[start:]:
        raise ValueError(f"input: expected '{FIRST_STEP}' and '{TAG}' after each step, got {short(said)}")
    labels = _signs(said.split(TAG), labelled)
    steps = [step.strip() for step in said[start:].split(TAG)]
    if rest := steps.pop():
        raise ValueError(f"input: expected '{TAG}' after the last step, got {short(rest)} behind it")
    return {"prompt": said[:start].rstrip(), "steps": steps, "step_labels": labels}


def _signs(parts: list[str], labelled: str) -> list[str]:
    """The sign that stands in `labelled` behind each part of the text but the last."""
    signs, rest = [], labelled
    for part in parts[:-1]:
        signs += [rest[len(part) : len(part) + 1]] if rest.startswith(part) else []
        rest = rest[len(part) + 1 :]
    if rest != parts[-1] or len(signs) < len(parts) - 1 or set(signs) - {"+", "-"}:
        raise ValueError(f"label: expected the text of input with + or - for each '{TAG}', got {short(labelled)}")
    return signs


def prm800k(row: Row) -> Example:
    """PRM800K: the solution of the chosen steps, and one that ends with each step that was rated and not chosen.

    A rating is read once: in the solutions of steps that were not chosen only the last step has a label. A step that
    the labeller wrote has none. Problems that were given up, or are faulty, have no solution.
    """
    question, label = as_json(row["question"]), as_json(row["label"])
    asked = {"prompt": question["problem"]}
    if label.get("finish_reason") in UNSOLVED:
        return asked | {"steps": [], "step_labels": []}
    solutions, path = _solutions(label["steps"])
    found = [path, *solutions] if path else solutions
    return asked | {
        "steps": [[text for text, _ in one] for one in found],
        "step_labels": [[rating for _, rating in one] for one in found],
    }


def _solutions(steps: list[Any]) -> tuple[list[Rated], Rated]:
    """The solutions that end with a step that was not chosen, and the path of the chosen ones."""
    ended: list[Rated] = []
    path: Rated = []
    for step in steps:
        completions, chosen = step.get("completions") or [], step.get("chosen_completion")
        before = [(text, None) for text, _ in path]
        rated = [(str(one["text"]), _rating(one.get("rating"))) for one in completions]
        ended += [[*before, one] for place, one in enumerate(rated) if place != chosen and one[1] is not None]
        written = step.get("human_completion")
        if chosen is not None:
            path = [*path, rated[chosen]]
        elif written:
            path = [*path, (str(written["text"]), None)]
        else:
            break
    return ended, path


def _rating(rating: Any) -> Any:
    if rating not in RATINGS or isinstance(rating, bool):
        raise ValueError(f"rating: expected -1, 0, 1 or null, got {short(rating)}")
    return RATINGS[rating]
