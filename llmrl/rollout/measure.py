"""Metrics of sampled groups: rewards, verdicts, lengths, failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmrl.evaluation.critique import rates, tally
from llmrl.types import CUT_SHORT, POLICY, Group, Score, Trajectory


def metrics_of(
    sampled: Sequence[Group], kept: Sequence[Group], authors: Sequence[str], seconds: float
) -> dict[str, float]:
    """Counts and means over each author's trajectories; the names of authors after the first begin with `author/`.

    An author without scored trajectories has counts alone, and one without trajectories has no metrics. What other
    writers than the policy wrote counts where the policy itself writes nothing, and among the failures.
    """
    found: dict[str, float] = {}
    for author in authors:
        own, left = ([group for group in groups if group.author == author] for groups in (sampled, kept))
        if any(group.trajectories for group in own):
            prefix = "" if author == authors[0] else f"{author}/"
            found |= {prefix + name: value for name, value in _of_author(own, left, seconds).items()}
    return found


def _of_author(sampled: list[Group], kept: list[Group], seconds: float) -> dict[str, float]:
    failures = [t.failure for group in sampled for t in group.trajectories if t.failure]
    every = [t for group in sampled for t in group.trajectories if not t.failure]
    scored = [t for t in every if t.writer == POLICY] or every
    verdicts = [float(t.correct) for t in scored if t.correct is not None]
    lengths = [t.completion_tokens for t in scored]
    rewards = [t.reward for t in scored]
    contrast = [len({_outcome(t) for t in group.trajectories if not t.failure}) > 1 for group in sampled]
    metrics: dict[str, float] = {}
    if scored:
        metrics |= {
            "reward": _mean(rewards),
            "reward_std": _mean([(r - _mean(rewards)) ** 2 for r in rewards]) ** 0.5,
            "completion_tokens": _mean(lengths),
            "completion_tokens_max": float(max(lengths)),
            "truncated": _mean([float(t.stop_reason in CUT_SHORT) for t in scored]),
            "groups_mixed": _mean([float(mixed) for mixed in contrast]),
        }
    metrics |= {
        "groups_sampled": float(len(sampled)),
        "groups_kept": float(len(kept)),
        "failures": float(len(failures)),
        "rollout_seconds": seconds,
        "rollout_tokens_per_second": sum(lengths) / max(seconds, 1e-9),
    }
    if verdicts:
        metrics["accuracy"] = _mean(verdicts)
    if apart := [float(bool(t.lacks)) for t in scored if t.parts or t.lacks]:
        metrics["parts_missing"] = _mean(apart)
    metrics |= rates(tally(scored))
    metrics |= _of_turns(scored)
    for name in sorted({name for t in scored for name in t.scores}):
        scores = [t.scores[name] for t in scored if name in t.scores]
        metrics[f"reward/{name}"] = _mean([score.value for score in scores])
        metrics |= {f"reward/{name}/{entry}": _mean(values) for entry, values in _entries(scores).items()}
        outcomes = Counter(score.outcome for score in scores if score.outcome is not None)
        for outcome, count in outcomes.items():
            metrics[f"outcome/{name}/{outcome}"] = count / outcomes.total()
    for (source, kind), count in Counter((f.source, f.kind) for f in failures).items():
        metrics[f"failures/{source}/{kind}"] = float(count)
    return metrics


def _of_turns(scored: Sequence[Trajectory]) -> dict[str, float]:
    """Metrics of what an environment said of turns and episodes, where it said something."""
    turns = [turn for t in scored for turn in t.own_turns]
    found: dict[str, float] = {}
    if rewards := [turn.reward for turn in turns if turn.reward is not None]:
        found |= {"turn_reward": _mean(rewards), "rewarded_turns": len(rewards) / len(scored)}
    if found or any(turn.state is not None or turn.action is not None for turn in turns):
        found["total_reward"] = _mean([t.total_reward for t in scored])
        found["turns"] = len(turns) / len(scored)
        found["invalid_actions"] = _mean([float(not turn.valid) for turn in turns])
    if any(turn.restarts for t in scored for turn in t.turns):
        found["restarts"] = sum(turn.restarts for t in scored for turn in t.turns) / len(scored)
    for name in sorted({name for t in scored for name in t.measured}):
        found[f"env/{name}"] = _mean([t.measured[name] for t in scored if name in t.measured])
    return found


def _outcome(trajectory: Trajectory) -> tuple[object, ...]:
    """The trajectory's outcome, with the rewards of its tokens where it has some."""
    return trajectory.verdict_or_reward, *sorted(trajectory.token_rewards.items())


def _entries(scores: Sequence[Score]) -> dict[str, list[float]]:
    """The further numbers of a reward's scores, by name."""
    found: dict[str, list[float]] = {}
    for score in scores:
        for entry, value in score.metrics.items():
            found.setdefault(entry, []).append(value)
    return found


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
