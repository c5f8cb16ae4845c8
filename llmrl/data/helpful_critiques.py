"""Critiques of a run's rollouts after which the answer became right, made into demonstrations."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import PositiveInt

from llmrl.data.files import Row
from llmrl.data.trees import MOVE, NODE, texts_of, trees_of
from llmrl.rewards.thoughts import after_thoughts
from llmrl.templates import RowTemplate, Template


def helpful_critiques(
    rows: Sequence[Row],
    *,
    ask: Template,
    draft: str = "draft",
    critique: str = "critique",
    refinement: str = "refinement",
    per_draft: PositiveInt | None = None,
    thoughts_end: str | None = None,
) -> list[Row]:
    """The critiques in a run's rollouts of moves that a right refinement followed, to imitate.

    ask: the prompt under which a critique is imitated, a template of {prompt}, the question as its author read it, of
    {draft}, and of the rollouts' columns. It need not show what the critique's author was told besides, such as the
    result of running the draft, so that the critiquer learns to do without. draft, critique, refinement: the names of
    the moves. per_draft: the most critiques of one draft, the first ones. thoughts_end: as of the draft's move, whose
    thoughts are not shown. Raises ValueError if nothing is kept. Source: the supervised stage of CTRL, arXiv
    2502.03492.
    """
    template, made = RowTemplate(ask), []
    written = [row for row in rows if NODE in row and MOVE in row]
    for question, roots in trees_of(written).items():
        drafts = texts_of(roots, draft)
        for one in drafts:
            kept = [x for x in one.following(critique) if any(after.right for after in x.following(refinement))]
            shown = after_thoughts(one.row["completion"], question, thoughts_end=thoughts_end or "") or ""
            asked = template.fill({**one.row, "prompt": question, "draft": shown})
            made += [
                {"prompt": asked, "completion": x.row["completion"], "answer": x.row["answer"]}
                for x in kept[:per_draft]
            ]
    if not made:
        raise ValueError(f"the rollouts have no {critique} after which a {refinement} is right")
    return made
