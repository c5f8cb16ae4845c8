"""Keep functions: the trajectories of a scored group that are trained on. A group with none left is replaced."""

from __future__ import annotations

import random
from typing import Annotated

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from llmrl.marks import takes_all_writers
from llmrl.rewards.proposals import proposal_fault
from llmrl.rewards.sneaky_steps import PROBE, hurts, solved_after
from llmrl.types import DATASET, POLICY, Group, Trajectory

Share = Annotated[float, Field(ge=0.0, le=1.0)]


@takes_all_writers
def everything(group: Group) -> list[Trajectory]:
    """All trajectories that were scored."""
    return group.trajectories


@takes_all_writers
def mixed_outcomes(group: Group) -> list[Trajectory]:
    """The whole group if its outcomes differ, else nothing: a group without contrast has no advantage.

    The outcome is the verifier's verdict, not the shaped reward, since a length term makes every group differ.
    Source: dynamic sampling in DAPO, arXiv 2503.14476.
    """
    outcomes = {trajectory.verdict_or_reward for trajectory in group.trajectories}
    return group.trajectories if len(outcomes) > 1 else []


@takes_all_writers
def solved_between(group: Group, *, above: Share = 0.0, below: Share = 1.0) -> list[Trajectory]:
    """The whole group if above < share of its outcomes that are right < below, else nothing.

    The outcome is the verdict, or the reward where no verifier speaks. Source: the questions that PasoDoble's solver
    learns from, arXiv 2511.11881.
    """
    outcomes = [trajectory.verdict_or_reward for trajectory in group.trajectories]
    return group.trajectories if outcomes and above < sum(outcomes) / len(outcomes) < below else []


@takes_all_writers
def sound_proposals(group: Group, *, question: str = "question", answer: str = "answer") -> list[Trajectory]:
    """The proposed questions without a fault, such as one that gives its answer away.

    question, answer: the names of a proposal's parts. See `proposal_fault` in llmrl/rewards/proposals.py. Source:
    PasoDoble, arXiv 2511.11881.
    """
    return [one for one in group.trajectories if not proposal_fault(one.parts.get(question), one.parts.get(answer))]


@takes_all_writers
def followed(group: Group) -> list[Trajectory]:
    """The texts that another move followed: of proposed questions those that could be asked."""
    return [trajectory for trajectory in group.trajectories if trajectory.children]


@takes_all_writers
def solvable_steps(group: Group, *, probe: str = PROBE) -> list[Trajectory]:
    """The steps after which a solver succeeds at least once: only those can be changed for the worse.

    Source: SPC, arXiv 2504.19162.
    """
    return [one for one in group.trajectories if (solved_after(one, probe) or 0.0) > 0]


@takes_all_writers
def harmful_steps(group: Group, *, probe: str = PROBE, least_drop: NonNegativeFloat = 0.0) -> list[Trajectory]:
    """The steps that a solver succeeds less often after than after the steps that they replace, and first steps.

    See `hurts` in llmrl/rewards/sneaky_steps.py. Source: SPC, arXiv 2504.19162.
    """
    return [one for one in group.trajectories if one.parent is None or hurts(one, probe=probe, least_drop=least_drop)]


@takes_all_writers
def best_of(group: Group, *, count: int = 1, min_reward: float = 0.0) -> list[Trajectory]:
    """The `count` trajectories of highest reward, among those above `min_reward`; earlier samples win ties.

    With policy_loss nll this is rejection sampling: supervised learning on the best of n samples.
    Source: RAFT, arXiv 2304.06767.
    """
    passed = [trajectory for trajectory in group.trajectories if trajectory.reward > min_reward]
    return sorted(passed, key=lambda trajectory: -trajectory.reward)[:count]


@takes_all_writers
def best_and_worst(group: Group, *, length_cost: float = 0.0) -> list[Trajectory]:
    """A pair for a preference loss: the trajectories of highest and of lowest reward; nothing if these are equal.

    A draw among equals depends on the group's tokens and not on their order. length_cost: taken off the reward for
    each token of the completion when the two are chosen, and off nothing else. Source: iterative DPO, arXiv 2405.07863.
    """

    def worth(trajectory: Trajectory) -> float:
        return trajectory.reward - length_cost * trajectory.completion_tokens

    if not group.trajectories:
        return []
    mixed = _shuffled(group)
    best, worst = max(mixed, key=worth), min(mixed, key=worth)
    return [best, worst] if best.reward > worst.reward else []


@takes_all_writers
def halves(group: Group) -> list[Trajectory]:
    """A pair for a preference loss: a trajectory of the half with the higher rewards, and one of the other half.

    Both are drawn by the group's tokens; the middle one of an odd number is in neither half. Nothing if their rewards
    are equal. Source: pairs of ranked actions, SWEET-RL, arXiv 2503.15478.
    """
    mixed, half = _shuffled(group), len(group.trajectories) // 2
    if not half:
        return []
    ranked = sorted(range(len(mixed)), key=lambda place: -mixed[place].reward)
    better, worse = (mixed[min(places)] for places in (ranked[:half], ranked[-half:]))
    return [better, worse] if better.reward > worse.reward else []


@takes_all_writers
def right(group: Group, *, count: PositiveInt | None = None) -> list[Trajectory]:
    """The completions that verifiers call right, the first `count` of them; those without a verdict are none.

    Raises ValueError where no completion has a verdict.
    """
    return _of_verdict(group, True)[:count]


@takes_all_writers
def wrong(group: Group, *, count: PositiveInt | None = None) -> list[Trajectory]:
    """The completions that verifiers call wrong, such as those worth a critique, the first `count` of them.

    Raises ValueError where no completion has a verdict.
    """
    return _of_verdict(group, False)[:count]


@takes_all_writers
def balanced(group: Group, *, count: PositiveInt | None = None, alone: NonNegativeInt = 0) -> list[Trajectory]:
    """As many right as wrong completions, the first of each, so that no constant verdict on them is right more often
    than wrong.

    count: the most of each kind; default: as many as the rarer kind has. alone: how many are kept where all are of one
    kind. Completions keep their order. Raises ValueError where no completion has a verdict.
    """
    kinds = [_of_verdict(group, verdict) for verdict in (True, False)]
    least = min(map(len, kinds))
    most = alone if least == 0 else least if count is None else min(least, count)
    taken = [one for kind in kinds for one in kind[:most]]
    return [one for one in group.trajectories if any(one is own for own in taken)]


@takes_all_writers
def validated_pair(group: Group) -> list[Trajectory]:
    """The pair of `best_and_worst` if what follows the best text is more successful than what follows the worst one.

        mean success of the texts after the best  >  mean success of those after the worst

    success: the verdict, or the reward without verdicts, of a text that did not fail. Nothing where one of the two has
    no such text. Source: multi-agent revisions that validate a judge's preferences, MultiCritique, arXiv 2410.15287.
    """
    pair = best_and_worst(group)
    if not pair:
        return []
    followed = [[one.verdict_or_reward for one in each.children if one.failure is None] for each in pair]
    if not all(followed):
        return []
    better, worse = (sum(each) / len(each) for each in followed)
    return pair if better > worse else []


def own_completions(group: Group) -> list[Trajectory]:
    """The completions that the policy wrote; those of other writers only compete with them.

    Source: a policy's completions against an opponent's, Nash-MD, arXiv 2312.00886.
    """
    return [trajectory for trajectory in group.trajectories if trajectory.writer == POLICY]


@takes_all_writers
def dataset_and_worst(group: Group, *, min_gap: float = 0.0) -> list[Trajectory]:
    """A pair of the dataset's best completion and the policy's worst one, of whatever rewards said of both.

    Nothing unless the dataset's completion is rewarded more, by over `min_gap`, and the two differ. Source: semi-online
    preference optimization, arXiv 2412.05095, whose own threshold is one of a diffusion model.
    """
    mixed = _shuffled(group)
    written = [one for one in mixed if one.writer == DATASET]
    sampled = [one for one in mixed if one.writer == POLICY]
    if not written or not sampled:
        return []
    best, worst = max(written, key=_reward), min(sampled, key=_reward)
    same = [one.token_ids for one in best.own_turns] == [one.token_ids for one in worst.own_turns]
    return [best, worst] if best.reward - worst.reward > min_gap and not same else []


def _of_verdict(group: Group, verdict: bool) -> list[Trajectory]:
    verdicts = [one.correct for one in group.trajectories]
    if verdicts and all(one is None for one in verdicts):
        raise ValueError("no reward says whether a completion is right; add a verifier, such as math_verifier: {}")
    return [one for one, own in zip(group.trajectories, verdicts, strict=True) if own is verdict]


def _reward(trajectory: Trajectory) -> float:
    return trajectory.reward


def _shuffled(group: Group) -> list[Trajectory]:
    """The trajectories in an order that their tokens determine, so that no place in the group wins ties."""
    tokens = [tuple(token for turn in one.turns for token in turn.token_ids) for one in group.trajectories]
    order = sorted(range(len(tokens)), key=tokens.__getitem__)
    random.Random(repr([group.prompt.id, *(tokens[place] for place in order)])).shuffle(order)
    return [group.trajectories[place] for place in order]


@takes_all_writers
def triage(group: Group, static_values: float, *, drop_unsolved: bool = False) -> list[Trajectory]:
    """Drops the prompts that the stage's first policy always solved, by their static value; keeps other groups whole.

    static_values: that of the group's prompt; a prompt with nan is kept. drop_unsolved: drop the prompts that the first
    policy never solved too. Source: PVPO, arXiv 2508.21104, in which a stronger model solves the unsolved ones.
    """
    solved = static_values >= 1.0
    unsolved = drop_unsolved and static_values <= 0.0
    return [] if solved or unsolved else group.trajectories


@takes_all_writers
def accuracy_between(
    group: Group, question_accuracy: float, *, low: float = 0.2, high: float = 0.8
) -> list[Trajectory]:
    """The whole group of a question whose answers are right with a share from `low` to `high`; nothing of another.

    question_accuracy: the share; a question without verdicts has nan, and its groups are kept.
    Source: the filters of tasks in RLAnything, arXiv 2602.02488.
    """
    return [] if question_accuracy < low or question_accuracy > high else group.trajectories
