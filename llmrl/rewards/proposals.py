"""Rewards of a role that writes questions, by how those who answer them fare.

The question is a trajectory, and the answers to it are its children. They are scored before the question is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from llmrl.marks import reads_earlier
from llmrl.rewards.extraction import has_box
from llmrl.rewards.similarity import jaccard
from llmrl.types import Failure, Score, Trajectory

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Informativeness = Literal["range", "advantage", "variance"]
UNANSWERED = "unanswered"
_WORD = re.compile(r"\w+|[^\w\s]")


def proposal_fault(question: str | None, answer: str | None) -> str | None:
    """The name of what is wrong with a proposed question and its answer; None for a sound proposal.

        no_question, no_answer       the text has none, or an empty one
        answer_in_question           the question gives its answer away
        question_in_answer           the answer repeats the question
        box_in_question              the question holds a boxed answer

    Source: the checks of PasoDoble, arXiv 2511.11881.
    """
    question, answer = (question or "").strip(), (answer or "").strip()
    if not question:
        return "no_question"
    if not answer:
        return "no_answer"
    if has_box(question):
        return "box_in_question"
    if answer in question:
        return "answer_in_question"
    return "question_in_answer" if question in answer else None


async def learnable(trajectory: Trajectory, *, least: PositiveInt = 2, spare: NonNegativeInt = 1) -> Score | Failure:
    """1 for a question from which something can be learned: some of its answers are right, but not all.

        r = 1 if least <= number of right answers <= n - spare, else 0

    The number is the sum of verdicts, or of rewards where no verifier speaks, such as those of `majority_answer`: then
    it is the number of answers that are the most frequent one. A question without answers gets 0. Source: SQLM, arXiv
    2508.03682, which for programs has least 1.
    """
    outcomes = outcomes_of_children(trajectory)
    if isinstance(outcomes, Failure):
        return outcomes
    right = sum(outcomes)
    found = bool(outcomes) and least <= right <= len(outcomes) - spare
    return Score(float(found), outcome=None if outcomes else UNANSWERED, metrics=_share(outcomes))


async def regret(trajectory: Trajectory, *, kind: Informativeness = "range") -> Score | Failure:
    """How much those who answer a question could gain: what their best answer earns above the others.

    kind: see `informativeness`. A question without answers gets 0. Source: eva, arXiv 2411.00062.
    """
    rewards = _of_children(trajectory, "reward")
    if isinstance(rewards, Failure):
        return rewards
    value = informativeness(rewards, kind) if rewards else 0.0
    return Score(value, outcome=None if rewards else UNANSWERED)


@reads_earlier("last")
async def difficulty_and_diversity(
    trajectory: Trajectory,
    earlier: Sequence[Mapping[str, str]],
    *,
    question: str = "question",
    answer: str = "answer",
    least_solved: Share = 0.2,
    least_diversity: Share = 0.3,
    bonus: NonNegativeFloat = 0.1,
    diversity_weight: NonNegativeFloat = 0.2,
    similar: Share = 0.8,
    last: PositiveInt = 100,
) -> Score | Failure:
    """The reward of a sound question that is hard, can be answered, and is unlike the ones before it.

        p = share of its answers that are right, 0 for a question with a fault (`proposal_fault`)
        d = its diversity among the `last` questions of earlier steps (`diversity`)
        r = 1 + bonus - p + diversity_weight * d    if p > least_solved and d > least_diversity, else 0

    earlier: the parts of the proposals of earlier steps. question, answer: the names of a proposal's parts, which the
    recipe gives its move. The fault is the outcome, and p and d are metrics. Source: PasoDoble, arXiv 2511.11881.
    """
    asked = trajectory.parts.get(question)
    fault = proposal_fault(asked, trajectory.parts.get(answer))
    outcomes = outcomes_of_children(trajectory)
    if isinstance(outcomes, Failure):
        return outcomes
    solved = sum(outcomes) / len(outcomes) if outcomes and fault is None else 0.0
    known = [parts[question] for parts in earlier if question in parts]
    new = diversity(asked or "", known[-last:], similar=similar)
    accepted = solved > least_solved and new > least_diversity
    value = 1 + bonus - solved + diversity_weight * new if accepted else 0.0
    outcome = fault or (None if outcomes else UNANSWERED)
    return Score(value, outcome=outcome, metrics={"solved": solved, "diversity": new})


def diversity(question: str, earlier: Sequence[str], *, similar: float = 0.8) -> float:
    """The share of earlier questions that are unlike a question; 1 if there are none.

    similarity = |A and B| / |A or B|    of the sets of words and signs of two questions; alike: over `similar`
    """
    own = _words(question)
    unlike = [jaccard(own, _words(other)) <= similar for other in earlier]
    return sum(unlike) / len(unlike) if unlike else 1.0


def informativeness(rewards: Sequence[float], kind: Informativeness) -> float:
    """How much a question's rewards tell: 0 where all are the same.

    range: max r - min r        advantage: max r - mean r        variance: mean of (r - mean r)^2
    """
    mean = sum(rewards) / len(rewards)
    if kind == "variance":
        return sum((reward - mean) ** 2 for reward in rewards) / len(rewards)
    return max(rewards) - (min(rewards) if kind == "range" else mean)


def outcomes_of_children(trajectory: Trajectory) -> list[float] | Failure:
    """The verdicts on what follows a text, 1 or 0, or the rewards where no verifier speaks; the first failure there."""
    return _of_children(trajectory, "verdict_or_reward")


def _of_children(trajectory: Trajectory, name: str) -> list[float] | Failure:
    failed = next((child.failure for child in trajectory.children if child.failure), None)
    return failed or [getattr(child, name) for child in trajectory.children]


def _share(outcomes: Sequence[float]) -> dict[str, float]:
    return {"solved": sum(outcomes) / len(outcomes)} if outcomes else {}


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))
