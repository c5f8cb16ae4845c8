"""The trees of texts in a run's rollouts, and what can be imitated of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import AfterValidator, NonNegativeFloat, PositiveInt

from llmrl.data.files import Row
from llmrl.errors import unknown_name

NODE, MOVE = "node", "move"
"""The columns of rollouts that say where a text is in the trees of its question, and which move it is."""
DIRECT, REFINED, GIVEN = "direct", "refined", "given"
PARTS = (DIRECT, REFINED, GIVEN)
PART, WEIGHT = "part", "weight"
"""The columns of a made row's part, and of its weight in the loss."""


@dataclass
class Text:
    """A text of a tree, and those that follow it."""

    row: Row
    children: list[Text] = field(default_factory=list)

    @property
    def right(self) -> bool:
        """Whether a verifier called it right."""
        return self.row["correct"] is True

    def following(self, move: str) -> Iterator[Text]:
        """All texts of a move that come after this one, in order."""
        for child in self.children:
            if child.row[MOVE] == move:
                yield child
            yield from child.following(move)


def texts_of(roots: Sequence[Text], move: str) -> list[Text]:
    """All texts of a move in trees, in order."""
    return [one for root in roots for one in [root, *root.following(move)] if one.row[MOVE] == move]


def trees_of(rows: Sequence[Row]) -> dict[str, list[Text]]:
    """The first texts of each question, by what its author was asked, from the rollouts of training steps.

    Texts that failed or were cut short are left out, with all that follows them.
    """
    found: dict[str, list[Text]] = {}
    known: dict[tuple[str, ...], Text] = {}
    written = [row for row in rows if row["kind"] == "train" and row[NODE]]
    for row in sorted(written, key=lambda row: str(row[NODE]).count("/")):  # a text after the one that it follows
        if row["failure"] is not None or row["stop_reason"] != "stop":
            continue
        *question, node = (str(row[name]) for name in ("stage", "step", "prompt_id", NODE))
        above = node.rpartition("/")[0]
        text = Text(row)
        if not above:
            found.setdefault(row["prompt"], []).append(text)
        elif (before := known.get((*question, above))) is not None:
            before.children.append(text)
        else:
            continue
        known[*question, node] = text
    return found


def _known_parts(weights: Mapping[str, float]) -> Mapping[str, float]:
    for name in weights:
        if name not in PARTS:
            raise ValueError(unknown_name("weights", name, PARTS, "part"))
    return weights


Weights = Annotated[dict[str, NonNegativeFloat], AfterValidator(_known_parts)]


def improved_answers(
    rows: Sequence[Row],
    *,
    draft: str = "draft",
    refinement: str = "refinement",
    per_question: PositiveInt | None = 1,
    weights: Weights | None = None,
) -> list[Row]:
    """The right answers in a run's rollouts of moves, those after critiques included, to imitate.

        direct    question -> the draft if it is right, else the first right refinement of it
        refined   what the refinement's author read, with draft and critique -> the first right refinement
        given     rows of other files, which have `prompt` and `completion`

    draft, refinement: the names of the moves. per_question: the most drafts of which answers are kept, those that are
    right by themselves first. `part` says what a made row is. weights: of each part, which others are left out; a made
    row of a part p has the `weight` w_p N / n_p, so that the mean of weighted losses over the N rows is the sum over
    parts of w_p times the part's mean loss; default: all parts, and each row counts the same. Raises ValueError if
    nothing is kept, and for a part of positive weight without rows. Sources: critique-in-the-loop self-improvement,
    arXiv 2411.16579; the mixture of CGI, arXiv 2503.16024.
    """
    parts: dict[str, list[Row]] = {name: [] for name in PARTS}
    parts[GIVEN] = [row for row in rows if NODE not in row or MOVE not in row]
    for question, roots in trees_of([row for row in rows if NODE in row and MOVE in row]).items():
        drafts = texts_of(roots, draft)
        answers = [(one, next((x for x in one.following(refinement) if x.right), None)) for one in drafts]
        solved = [(one, after) for one, after in answers if one.right or after]
        for one, after in sorted(solved, key=lambda both: not both[0].right)[:per_question]:
            answer = one if one.right or after is None else after
            parts[DIRECT].append(_made(answer, question))
            parts[REFINED] += [_made(after, after.row["prompt"])] if after else []
    if not parts[DIRECT]:
        raise ValueError("the rollouts have no right answer of these moves to imitate")
    return _weighted(parts, weights)


def _made(text: Text, prompt: str) -> Row:
    return {"prompt": prompt, "completion": text.row["completion"], "answer": text.row["answer"]}


def _weighted(parts: Mapping[str, Sequence[Row]], weights: Mapping[str, float] | None) -> list[Row]:
    """The rows of the parts with their weights."""
    if weights is None:
        return [{"answer": None, **row, PART: name, WEIGHT: 1.0} for name, listed in parts.items() for row in listed]
    taken = {name: parts[name] for name, weight in weights.items() if weight}
    if lacking := [name for name, listed in taken.items() if not listed]:
        raise ValueError(f"weights.{lacking[0]}: {weights[lacking[0]]}, but there are no rows of this part")
    total = sum(map(len, taken.values()))
    return [
        {"answer": None, **row, PART: name, WEIGHT: weights[name] * total / len(listed)}
        for name, listed in taken.items()
        for row in listed
    ]
