"""Lessons for a model that writes, criticizes and revises the tiny programs of llmrl/tasks/programs.py.

question      1:5 2:7 4:11 9:21>
draft         x+4
critique      2:7[[-]]          a test that the draft fails, and the verdict; [[+]] for a draft that passes all
revision      2*x+3             after question, draft and critique

A critiquer that is told how the draft failed only has to copy the test; one that is not has to find it.
"""

from __future__ import annotations

import random
from typing import Any

from llmrl.rewards.code.grader import Verdict
from llmrl.rewards.code.verifier import feedback
from llmrl.tasks.programs import INPUTS, demonstration, problems


def lessons(size: int, seed: int) -> list[dict[str, Any]]:
    """Rows to imitate: a third each of programs, critiques by one who is told how the draft ended, and revisions."""
    made = []
    for place, row in enumerate(problems(size, seed)):
        asked, draft = row["question"], demonstration(row)
        critique, told = review(row, draft)
        prompt, completion = [
            (asked, draft),
            (f"{asked}{draft}!{told}?", critique),
            (f"{asked}{draft};{critique}>", row["answer"] if "-" in critique[-3:] else draft),
        ][place % 3]
        made.append({"question": prompt, "answer": row["answer"], "completion": completion})
    random.Random(seed).shuffle(made)
    return made


def review(row: dict[str, Any], draft: str) -> tuple[str, str]:
    """The critique of a draft, and how the verifier tells its outcome."""
    function = eval(f"lambda x: {draft}")  # safe: drafts come from the task's forms
    pairs = [(x, y, function(x)) for x, y in zip(INPUTS, row["tests"]["outputs"], strict=True)]
    failed = [(x, y, gave) for x, y, gave in pairs if y != gave]
    if not failed:
        return "[[+]]", feedback(Verdict("passed", len(pairs), len(pairs)), counted=True)
    x, y, gave = failed[0]
    told = f"gave {gave}, expected {y}, for [{x}]"
    return f"{x}:{y}[[-]]", feedback(Verdict("wrong", len(pairs) - len(failed), len(pairs), told), counted=True)
