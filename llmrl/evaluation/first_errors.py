"""Critiques that name the first wrong step of a solution, against the steps' labels.

Source: ProcessBench, arXiv 2412.06559.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmrl.data.datasets import load_rows
from llmrl.data.forms import KEYS, SOLUTIONS
from llmrl.data.steps import reward_of_step
from llmrl.data.transforms import read_rows
from llmrl.errors import RecipeError
from llmrl.ops.shared.steps import harmonic_mean
from llmrl.recipe_rows import Rows
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.verdicts import written_label
from llmrl.templates import RowTemplate

ASK = (
    "{prompt}\n\nA solution, step by step:\n{steps}\n\nWhich step is the first that is wrong? End with its number in "
    "double brackets, such as [[0]], or with [[-1]] if no step is wrong."
)
"""The question to a critiquer; its names are columns of the row, and those of `Solution.values`."""
PART = "steps"
NONE = -1
RIGHT_FROM = 0.5
"""The chance from which a step counts as right."""


@dataclass(frozen=True)
class Solution:
    """A question's solution; wrong: the place of its first wrong step, NONE if there is none."""

    prompt: str
    steps: tuple[str, ...]
    wrong: int

    @property
    def values(self) -> dict[str, Any]:
        """The values of a template: the question, the steps with their numbers or without, and the last number."""
        numbered = "\n".join(f"[{place}] {step}" for place, step in enumerate(self.steps))
        return {
            "prompt": self.prompt,
            "steps": numbered,
            "solution": "\n".join(self.steps),
            "last": len(self.steps) - 1,
        }

    def said(self, text: str, prompt: str = "") -> int | None:
        """The step that a critique names; None if it names none of them, nor NONE."""
        labels = [str(place) for place in range(NONE, len(self.steps))]
        found = written_label(after_thoughts(text, prompt) or "", labels)
        return None if found is None else int(found)


def load_solutions(path: str, limit: int | None, neutral: str) -> list[Solution]:
    """The solutions with labels in a file of any form that llmrl.data.forms knows.

    A step without a label counts as right; solutions of which no step has one are left out. neutral: what a neutral
    label counts as. Raises RecipeError for rows of no such form.
    """
    source = Rows(path=path, limit=limit)
    found: list[Solution] = []
    try:
        rows = read_rows(source, load_rows(source, PART), PART, SOLUTIONS).rows
    except RecipeError as error:
        key, named = f"data.{PART}", f"name the columns with {KEYS[SOLUTIONS]}, or "  # which the option cannot
        faults = [one.replace(f"{key}.path", key).replace(key, "--steps").replace(named, "") for one in error.faults]
        raise RecipeError(*faults) from None
    for place, row in enumerate(rows):
        several = bool(row["steps"]) and isinstance(row["steps"][0], list | tuple)
        pairs = list(zip(row["steps"], row["step_labels"], strict=True)) if several else [
            (row["steps"], row["step_labels"])
        ]  # fmt: skip
        for steps, labels in pairs:
            try:
                rewards = [reward_of_step(label, neutral) for label in labels]
            except ValueError as error:
                raise RecipeError(f"--steps: row {place}: {error}") from None
            if any(one is not None for one in rewards):
                wrong = [at for at, reward in enumerate(rewards) if reward is not None and reward < RIGHT_FROM]
                found.append(Solution(_text(row["prompt"]), tuple(map(str, steps)), wrong[0] if wrong else NONE))
    if not found:
        raise RecipeError(f"--steps: no solution in '{path}' has a step with a label")
    return found


def check_template(template: str) -> RowTemplate:
    """The template, read; raises RecipeError for a name that it cannot have."""
    try:
        found = RowTemplate(template)
        found.check(list(Solution("", ("",), NONE).values))
    except ValueError as error:
        raise RecipeError(f"--template: {error}") from None
    return found


def first_error_tally(solution: Solution, said: int | None) -> dict[str, float]:
    """The sums of one solution."""
    part = "error free" if solution.wrong == NONE else "erroneous"
    found = float(said == solution.wrong)
    return {part: 1.0, f"{part} found": found, "unreadable": float(said is None), "solutions": 1.0}


def first_error_rates(sums: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The metrics of sums: the shares of solutions with and without an error that are found, and their harmonic mean.

    An unreadable critique finds nothing. nan where one divides by nothing.
    """
    of = {name: np.asarray(sums.get(name, 0.0), dtype=float) for name in
          ("error free", "error free found", "erroneous", "erroneous found", "unreadable", "solutions")}  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        wrong, right = of["erroneous found"] / of["erroneous"], of["error free found"] / of["error free"]
        mean = harmonic_mean(wrong, right)
        unreadable = of["unreadable"] / of["solutions"]
    return {
        "first_error_accuracy": wrong,
        "error_free_accuracy": right,
        "first_error_f1": mean,
        "verdicts_unreadable": unreadable,
    }


def _text(prompt: Any) -> str:
    """The question as text; of messages the last one's."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def shown(solutions: Sequence[Solution]) -> str:
    """How many solutions there are, and how many have an error."""
    wrong = sum(one.wrong != NONE for one in solutions)
    return f"{len(solutions)} solutions, {wrong} with a wrong step"
