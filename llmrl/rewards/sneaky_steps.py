"""A game of two roles about steps of a solution: one turns a right step into a wrong one, the other one finds it out.

    step (right) ──> probe: a solver goes on with it, n times
         ├──> critique: is it right?
         └──> sneaky (wrong?) ──> probe: the same after the changed step
                   └──> critique

A changed step hurts if the solver's chance of the right answer is lower after it than after the right step. Only such
steps count as wrong. In a recipe the probes come before the moves that `choose` by them. Source: SPC, arXiv 2504.19162.
"""

from __future__ import annotations

from pydantic import NonNegativeFloat

from llmrl.rewards.critiques import verdict_of
from llmrl.types import RIGHT, UNREADABLE, WRONG, Failure, Score, Trajectory

PROBE = "probe"
HARMLESS = "harmless"


async def fools_critiquer(
    trajectory: Trajectory, *, probe: str = PROBE, critique: str = "critique", least_drop: NonNegativeFloat = 0.0
) -> Score | Failure:
    """The reward of a step that should be wrong and look right, from -1 to 1.

        r = -1                                                if it does not hurt (see `hurts`)
        r = share of critiques that miss it - share that find it    else

    A critique misses what it does not call wrong, also if it cannot be read. probe, critique: the moves that go on with
    the step, and that judge it. A step that hurts and that nobody judged gets 0. The outcome is harmless, fooling or
    caught, and the verdict of this reward is whether the step is still right.
    """
    failed = _failure_among(trajectory, probe, critique)
    if failed:
        return failed
    if not hurts(trajectory, probe=probe, least_drop=least_drop):
        return Score(-1.0, True, outcome=HARMLESS)
    found = [_found(one) for one in trajectory.children if one.move == critique]
    value = 1 - 2 * sum(found) / len(found) if found else 0.0
    return Score(value, False, outcome=None if not found else "fooling" if value > 0 else "caught")


async def judges_step(
    completion: str,
    trajectory: Trajectory,
    prompt: str = "",
    *,
    sneaky: str = "sneaky",
    probe: str = PROBE,
    least_drop: NonNegativeFloat = 0.0,
    right: str = "Correct",
    wrong: str = "Incorrect",
    thoughts_end: str | None = None,
) -> Score | Failure:
    """1 for a critique that is right about the step that it follows, else -1, also if it cannot be read.

    The step is wrong if it is of the move `sneaky` and hurts (see `hurts`), and right if it is of another move. One
    that should be wrong and does not hurt is neither: the critique gets 0 and no verdict. right, wrong: the labels, as
    in [[Correct]]; the last one counts.
    """
    step = trajectory.parent
    if step is None:
        return Failure("judges_step", "invalid", f"the move {trajectory.move} follows no step")
    verdict = verdict_of(completion, prompt, right=right, wrong=wrong, thoughts_end=thoughts_end)
    if step.move == sneaky:
        failed = _failure_among(step, probe)
        if failed:
            return failed
        if not hurts(step, probe=probe, least_drop=least_drop):
            return Score(0.0, outcome=HARMLESS, verdict=verdict)
    agrees = verdict == (WRONG if step.move == sneaky else RIGHT)
    metrics = {"parse_failures": float(verdict == UNREADABLE)}
    return Score(1.0 if agrees else -1.0, agrees, outcome=verdict, metrics=metrics, verdict=verdict)


def hurts(step: Trajectory, *, probe: str = PROBE, least_drop: float = 0.0) -> bool:
    """Whether a solver succeeds less often after a step than after the step that it replaces, its parent.

        share of right probes after the parent - share after the step > least_drop

    False without probes of both.
    """
    before, after = solved_after(step.parent, probe), solved_after(step, probe)
    return before is not None and after is not None and before - after > least_drop


def solved_after(step: Trajectory | None, probe: str) -> float | None:
    """The share of right probes after a step; None without a probe."""
    outcomes = [one.verdict_or_reward for one in (step.children if step else ()) if one.move == probe]
    return sum(outcomes) / len(outcomes) if outcomes else None


def _failure_among(step: Trajectory, *moves: str) -> Failure | None:
    """The first failure of a text of these moves after the step, or of the probes after the step that it replaces; and
    the lack of these probes, without which nothing says whether the step hurts."""
    before = [one for one in (step.parent.children if step.parent else ()) if one.move == moves[0]]
    if not before:
        return Failure(step.move, "invalid", f"no text of the move {moves[0]} follows the step that it replaces")
    told = [*before, *(one for one in step.children if one.move in moves)]
    return next((one.failure for one in told if one.failure), None)


def _found(critique: Trajectory) -> float:
    """1 if a critique calls the step wrong."""
    return float(any(score.verdict == WRONG for score in critique.scores.values()))
