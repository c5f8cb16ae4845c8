"""The reward of answers whose author criticizes its own steps: each step is followed by a critique with a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmrl.marks import needs_verdicts, reads_token_texts
from llmrl.models.text import Decode
from llmrl.rewards.respondents import Respondent
from llmrl.rewards.thoughts import after_thoughts
from llmrl.rewards.token_places import decode_of, token_behind
from llmrl.rewards.verdicts import written_labels
from llmrl.types import CUT_SHORT, RIGHT, UNREADABLE, WRONG, Failure, Group, Score, Trajectory


@dataclass(frozen=True)
class Verdict:
    """A verdict on a step: whether it says that the step is right, and the number of characters up to the step's end;
    None for a step without text."""

    right: bool
    end: int | None


@reads_token_texts
@needs_verdicts
async def step_critiques(
    group: Group,
    authors: Mapping[str, Respondent],
    *,
    right: str = "Correct",
    wrong: str = "Wrong",
    agree: float = 1.0,
    disagree: float = 0.0,
    unreadable: float = 0.0,
    well_formed: float = 0.0,
    step_right: float = 1.0,
    step_wrong: float = 0.0,
    trusted: bool = True,
    critique_begins: str | None = None,
    thoughts_end: str | None = None,
) -> list[Score | Failure]:
    """Whether an answer's critique of its own steps agrees with the outcome, and the verdicts as rewards of the steps.

        7 + 5 = 13. The carry is missing. [[Wrong]] 7 + 5 = 12. It adds up. [[Correct]]
        value        (agree if the last verdict says what the verifier says, else disagree) + well_formed
        token value  step_right or step_wrong, as the verdict says, on the token that ends the step

    right, wrong: the two labels. unreadable: the value of an answer without a verdict. well_formed: added where every
    verdict follows a text and nothing follows the last one. trusted: steps are rewarded only in answers whose last
    verdict agrees, so that praise of a wrong answer pays nothing. critique_begins: the text between a step and its
    critique, such as "Check:"; default: the brackets. thoughts_end: see `after_thoughts`. A failure where no other
    reward says whether the answer is right. Source: Stepwise Think-Critique, arXiv 2512.15662; the values, and that the
    last verdict stands for the answer, are a reconstruction.
    """
    decode = decode_of(authors, group.author)

    def scored(one: Trajectory) -> Score | Failure:
        if one.correct is None:
            return Failure("step_critiques", "invalid", "no other reward says whether the answer is right")
        answer = after_thoughts(one.text, one.prompt.text, thoughts_end=thoughts_end) or ""
        verdicts, formed = verdicts_on_steps(answer, right, wrong, critique_begins)
        formed = formed and one.stop_reason not in CUT_SHORT
        metrics = {"steps": float(len(verdicts)), "well_formed": float(formed)}
        if not verdicts:
            return Score(unreadable, outcome=UNREADABLE, metrics=metrics | {"parse_failures": 1.0})
        agrees = verdicts[-1].right == one.correct
        metrics |= {"parse_failures": 0.0, "agreement": float(agrees)}
        values = {True: step_right, False: step_wrong}
        return Score(
            (agree if agrees else disagree) + well_formed * formed,
            outcome=RIGHT if verdicts[-1].right else WRONG,
            metrics=metrics,
            token_values=_placed(one, answer, verdicts, values, decode) if agrees or not trusted else {},
        )

    return [scored(one) for one in group.trajectories]


def verdicts_on_steps(
    answer: str, right: str, wrong: str, critique_begins: str | None = None
) -> tuple[list[Verdict], bool]:
    """The verdicts in an answer, in order, and whether each follows a text and nothing follows the last one."""
    verdicts, formed, start = [], True, 0
    for label, place, end in written_labels(answer, (right, wrong)):
        step = answer[start:place]
        if critique_begins is not None:
            step = step.partition(critique_begins)[0]
        formed = formed and bool(step.strip())
        verdicts.append(Verdict(label == right, start + len(step.rstrip()) if step.strip() else None))
        start = end
    return verdicts, formed and bool(verdicts) and not answer[start:].strip()


def _placed(
    trajectory: Trajectory, answer: str, verdicts: Sequence[Verdict], values: Mapping[bool, float], decode: Decode
) -> dict[int, float]:
    """The verdicts' values on the tokens that end their steps."""
    found: dict[int, float] = {}
    for verdict in verdicts:
        if verdict.end is not None:
            place = token_behind(trajectory, answer, verdict.end, decode)
            found[place] = found.get(place, 0.0) + values[verdict.right]
    return found
