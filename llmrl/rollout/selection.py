"""Keep functions: the trajectories of a scored group that are trained on. A group with none left is replaced."""

from __future__ import annotations

from llmrl.types import Group, Trajectory


def everything(group: Group) -> list[Trajectory]:
    """All trajectories that were scored."""
    return group.trajectories


def mixed_outcomes(group: Group) -> list[Trajectory]:
    """The whole group if its outcomes differ, else nothing: a group without contrast has no advantage.

    The outcome is the verifier's verdict, not the shaped reward, since a length term makes every group differ.
    Source: dynamic sampling in DAPO, arXiv 2503.14476.
    """
    outcomes = {trajectory.verdict_or_reward for trajectory in group.trajectories}
    return group.trajectories if len(outcomes) > 1 else []


def best_of(group: Group, *, count: int = 1, min_reward: float = 0.0) -> list[Trajectory]:
    """The `count` trajectories of highest reward, among those above `min_reward`; earlier samples win ties.

    With policy_loss nll this is rejection sampling: supervised learning on the best of n samples.
    Source: RAFT, arXiv 2304.06767.
    """
    passed = [trajectory for trajectory in group.trajectories if trajectory.reward > min_reward]
    return sorted(passed, key=lambda trajectory: -trajectory.reward)[:count]


def best_and_worst(group: Group, *, length_cost: float = 0.0) -> list[Trajectory]:
    """A pair for a preference loss: the trajectories of highest and of lowest reward; nothing if these are equal.

    Earlier samples win ties. length_cost: taken off the reward for each token of the completion when the two are
    chosen, and off nothing else. Source: iterative DPO, arXiv 2405.07863.
    """

    def worth(trajectory: Trajectory) -> float:
        return trajectory.reward - length_cost * trajectory.completion_tokens

    if not group.trajectories:
        return []
    best, worst = max(group.trajectories, key=worth), min(group.trajectories, key=worth)
    return [best, worst] if best.reward > worst.reward else []


def triage(group: Group, static_values: float, *, drop_unsolved: bool = False) -> list[Trajectory]:
    """Drops the prompts that the stage's first policy always solved, by their static value; keeps other groups whole.

    static_values: that of the group's prompt; a prompt with nan is kept. drop_unsolved: drop the prompts that the first
    policy never solved too. Source: PVPO, arXiv 2508.21104, in which a stronger model solves the unsolved ones.
    """
    solved = static_values >= 1.0
    unsolved = drop_unsolved and static_values <= 0.0
    return [] if solved or unsolved else group.trajectories
