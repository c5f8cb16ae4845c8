"""Every metric that a run writes: its meaning, its healthy values, and advice for others.

The live table, the warnings on the console and docs/metrics.md are all made from METRICS. A user's own loss may add
statistics of its own, which are in no table.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]
RECENT = 5


@dataclass(frozen=True)
class Range:
    """The bounds of a metric in a healthy run.

    of: the unit of the bounds: 1, the stage's first value, or the largest of the RECENT values before. rows: how many
    consecutive values have to lie outside. least: no value up to it is too high. when: whether a row can be judged.
    """

    low: float = -math.inf
    high: float = math.inf
    of: Literal["one", "first", "recent"] = "one"
    rows: int = 1
    least: float = -math.inf
    when: Callable[[Row], bool] = lambda row: True

    def is_left(self, values: Sequence[float]) -> bool:
        """Whether the last of a stage's values lie outside."""
        last = range(len(values) - self.rows, len(values))
        return last.start >= 0 and all(self._is_outside(values, place) for place in last)

    def _is_outside(self, values: Sequence[float], place: int) -> bool:
        before = values[max(place - RECENT, 0) : place]
        unit = {"one": 1.0, "first": values[0], "recent": max(before, default=math.inf)}[self.of]
        return values[place] < self.low * unit or values[place] > max(self.high * unit, self.least)


@dataclass(frozen=True)
class Metric:
    """One metric. A name such as reward/<name> stands for every name with a text in place of the brackets.

    healthy: the values of a run that learns, in words; advice: for a run with others. range: a value outside causes
    a warning. heading: the column's in the live table; a metric without one is not shown there. hides_zero: a 0 is not
    shown, since it says nothing.
    """

    name: str
    meaning: str
    unit: str = ""
    healthy: str = ""
    advice: str = ""
    format: str = ".3f"
    range: Range | None = None
    heading: str = ""
    hides_zero: bool = False

    def shown(self, value: float) -> str:
        """The value as text; empty for a 0 that says nothing."""
        text = format(value, self.format)
        return "" if self.hides_zero and float(text.replace(",", "")) == 0 else text

    @functools.cached_property
    def pattern(self) -> re.Pattern[str]:
        """Matches the names that this one stands for."""
        return re.compile(re.sub(r"<\w+>", "[^/]+", re.escape(self.name)))


def metric_of(name: str, roles: Collection[str] = ()) -> Metric | None:
    """The table's row for a name in metrics.jsonl, or None. roles: the roles whose metrics begin with `<role>/`."""
    role, _, own = name.partition("/")
    return _known(own if role in roles else name)


@functools.cache
def _known(name: str) -> Metric | None:
    return next((metric for metric in METRICS if metric.pattern.fullmatch(name)), None)


def _was_sampled(row: Row) -> bool:
    """A model that imitates demonstrations may be as certain as it likes."""
    return "reward" in row


def _has_groups(row: Row) -> bool:
    """A group of one is never mixed."""
    return row.get("trajectories", 0) > row.get("groups_kept", math.inf)


LOWER_RATE = "Lower training.learning_rate"
NEVER_ZERO = 1e-12

PROGRESS = (
    Metric("step", "The training step that the row describes; 0 is before the first.", format="d", heading="step"),
    Metric("epoch", "How often the training data has been used up.", "epochs", format=".2f"),
)
SAMPLES = (
    Metric("reward", "The mean reward of the sampled trajectories.", "", "rises",
           "Read samples in rollouts/: a verifier may reject right answers; then look at groups_mixed.",
           heading="reward"),
    Metric("accuracy", "The share of sampled trajectories that all verifiers call correct.", "share", "rises",
           f"{LOWER_RATE}, and check that no reward pays for what the verifier calls wrong.",
           range=Range(low=0.5, of="first", rows=5), heading="accuracy"),
    Metric("reward_std", "The standard deviation of the reward over all sampled trajectories.", "", "above 0",
           "All answers are worth the same, so nothing can be learned: look at groups_mixed."),
    Metric("reward/<name>", "The mean value of one reward function, before its weight."),
    Metric("outcome/<name>/<outcome>", "The share of trajectories that a verifier says ended in this way.", "share"),
    Metric("turn_reward", "The mean reward that the environment gave for a turn."),
    Metric("rewarded_turns", "The turns of a trajectory that the environment rewarded, on average.", "turns"),
    Metric("completion_tokens", "The mean length of a trajectory, without prompt and environment.", "tokens",
           "changes slowly", "A climb without a gain in accuracy is padding: add overlong_penalty, or set `reduce`.",
           format=".1f", heading="length"),
    Metric("completion_tokens_max", "The length of the longest trajectory.", "tokens", format=".0f"),
    Metric("truncated", "The share of trajectories cut short, by a limit of tokens or of the environment.", "share",
           "near 0",
           "Answers are cut and count as wrong: raise rollout.max_completion_tokens, or teach the model to stop.",
           range=Range(high=0.3, rows=3), heading="truncated", hides_zero=True),
    Metric("groups_mixed", "The share of groups whose outcomes differ; others teach a group-relative method nothing.",
           "share", "well above 0",
           "The task is too hard or too easy for this model: warm it up, change the data, or raise rollout.group_size.",
           range=Range(low=NEVER_ZERO, rows=5, when=_has_groups)),
    Metric("groups_sampled", "The groups that were sampled, refills included.", "groups", format=".0f"),
    Metric("groups_kept", "The groups that `keep` left something of.", "groups", "rollout.prompts_per_step",
           "Raise rollout.max_refills, or choose data on which outcomes differ more often.", format=".0f"),
    Metric("failures", "The trajectories that a reward, a judge or the environment could not answer.", "trajectories",
           "0", "They are left out of training; `failures/<source>/<kind>` says whose they are.",
           format=".0f", heading="failed", hides_zero=True),
    Metric("failures/<source>/<kind>", "The failures of one source, by kind: timeout, crash or invalid.",
           "trajectories", "0",
           "These trajectories are left out of training; the `failure` column of the rollouts has the message.",
           format=".0f", range=Range(high=0.0)),
)  # fmt: skip
EVALUATION = (
    Metric("eval/accuracy", "The share of held-out prompts whose greedy answer is correct.", "share", "rises",
           f"{LOWER_RATE}; if `accuracy` still rises, the model remembers its training data or exploits the reward.",
           range=Range(low=0.8, of="first", rows=2), heading="eval acc"),
    Metric("eval/reward", "The mean reward of the greedy answers.", "", "rises", "See eval/accuracy."),
    Metric("eval/completion_tokens", "The mean length of the greedy answers.", "tokens", format=".1f"),
    Metric("eval/prompts", "The held-out prompts that were asked.", "prompts", format=".0f"),
    Metric("eval/failures", "The answers that could not be graded; they are left out.", "trajectories", "0",
           "The message is in the `failure` column of the evaluation's rollouts.", format=".0f", range=Range(high=0.0)),
    Metric("eval/pass@<k>", "The chance that at least one of k samples is correct, estimated without bias.", "share",
           "pass@1 rises and no other falls",
           "Larger k that fall while pass@1 rises mean that answers become alike: keep the entropy up."),
    Metric("eval/maj@<k>", "The share of prompts whose most frequent answer of k is correct; no answer is no vote.",
           "share", "rises",
           "See eval/accuracy."),
)  # fmt: skip
POLICY = (
    Metric("trajectories", "The trajectories that were trained on.", "trajectories", format=".0f"),
    Metric("loss", "The mean loss of the step's updates; a policy gradient's is near 0 on fresh samples in any case.",
           "", "falls while demonstrations are imitated", "Change training.learning_rate; else look at the reward.",
           heading="loss", hides_zero=True),
    Metric("policy_loss", "The part of a coupled loss that has no regularizers in it."),
    Metric("kl_k3", "The estimated distance to the reference; never negative.", "nats per token", "grows slowly",
           f"{LOWER_RATE}, or give kl_k3 more weight under regularizers.",
           format=".4f", range=Range(high=5.0, of="recent", least=0.3), heading="KL"),
    Metric("kl_k1", "The unbiased estimate of the distance to the reference.", "nats per token", format=".4f"),
    Metric("kl_k2", "Half the mean squared log-ratio to the reference.", "nats per token", format=".4f"),
    Metric("entropy", "The mean entropy of the policy's next token.", "nats per token", "falls slowly",
           f"The samples of a prompt become alike: {LOWER_RATE.lower()}, raise clip_high, or add entropy_bonus.",
           range=Range(low=0.01, rows=5, when=_was_sampled), heading="entropy"),
    Metric("grad_norm", "The norm of the policy's gradient before it is clipped.", "", "steady, above 0",
           "At 0 nothing is learned: look at groups_mixed; after spikes lower training.learning_rate.",
           range=Range(low=NEVER_ZERO, rows=3)),
    Metric("learning_rate", "The policy's learning rate in the step's last update.", format=".2e"),
    Metric("advantage_std", "The standard deviation of the tokens' advantages.", "", "above 0", "See groups_mixed."),
    Metric("advantage_max", "The largest size of an advantage.", "", "a few standard deviations",
           "A few tokens decide the step: whiten the advantages or bound the rewards."),
    Metric("ratio", "The mean ratio of a token's probability to the old one.", "", "near 1",
           "Use fewer updates_per_step, or a lower learning rate."),
    Metric("clip_fraction_low", "The share of tokens past the lower bound of the loss.", "share", "a few percent",
           "Use fewer updates_per_step, or widen clip_low."),
    Metric("clip_fraction_high", "The share of tokens past the upper bound of the loss.", "share",
           "a few percent; more with the narrow bounds of gspo", "Use fewer updates_per_step, or widen clip_high."),
    Metric("clip_fraction_dual", "The share of tokens at the second bound on negative advantages.", "share", "near 0",
           "Use fewer updates_per_step, or a lower learning rate."),
    Metric("gate", "The mean factor by which sapo's gate fades a token.", "share", "near 1", "Do as for ratio."),
    Metric("spread_fraction", "The share of tokens whose success simko spreads over likely tokens.", "share"),
    Metric("penalized_fraction", "The share of tokens that simko blames more for failing at the argmax.", "share"),
    Metric("token_weight", "The mean product of the token weights.", "", "well above 0",
           "Hardly any token is trained on: loosen the token weights."),
    Metric("score_margin", "How far pacs tells right from wrong: above 0 where it is right.", "nats", "rises"),
    Metric("residual", "The mean error of the balance that a flow loss is after.", "nats", "near 0"),
    Metric("log_partition", "The mean logarithm of what a prompt's answers are worth in all.", "nats"),
    Metric("kl", "The distance to the old policy that drpo limits.", "nats per token", format=".2e"),
    Metric("kl_coefficient", "The factor of that distance in drpo's loss.", "", "mostly 0", f"{LOWER_RATE}."),
)  # fmt: skip
PENALTIES = (
    Metric("absolute_log_ratio", "The regularizer's mean: the distance to the old log-probability.", "nats per token"),
    Metric("entropy_bonus", "The regularizer's mean: minus the entropy.", "nats per token"),
    Metric("entropy_window", "The regularizer's mean: the entropy's distance to its window.", "nats per token"),
    Metric("gated_kl", "The regularizer's mean: kl_k2 times its gate.", "nats per token", format=".4f"),
    Metric("nll", "The regularizer's mean: minus the log-probability of the tokens.", "nats per token"),
    Metric("proximal_kl", "The regularizer's mean: the distance to the old policy.", "nats per token", format=".4f"),
    Metric("<file>:<function>", "The mean of a regularizer of your own."),
    Metric("control/<controller>", "The number that a controller gives the next step."),
    Metric("control/<controller>/<k>", "The k-th number of such a controller."),
    Metric("influence/<k>", "How far the gradient of the k-th reward function agrees with all of them."),
)
MISMATCH = (
    Metric("mismatch_mean", "The mean difference between the trainer's and the sampler's log-probabilities.",
           "nats per token", "fp32 1e-6, bf16 1e-2",
           "Trainer and sampler are different models: check top_p, top_k and dtype, or use truncated_is.",
           format=".1e", range=Range(high=0.1, rows=3), heading="mismatch"),
    Metric("mismatch_max", "The largest such difference.", "nats", "fp32 1e-4, bf16 1", "Do as for mismatch_mean.",
           format=".1e"),
    Metric("mismatch_k3", "The estimated divergence of the sampler from the trainer.", "nats per token", "bf16 1e-3",
           "Do as for mismatch_mean.", format=".1e"),
)  # fmt: skip
CRITIC = (
    Metric("value_loss", "The mean loss of the critic.", "", "falls",
           "Raise critic.learning_rate, or critic.warmup_steps."),
    Metric("value", "The mean value that the critic gives to what stands before a token.", "", "follows the reward",
           "Do as for value_loss."),
    Metric("value_error", "The mean distance of a value to its target.", "", "falls", "Do as for value_loss."),
    Metric("explained_variance", "The share of the targets' variance that the critic predicts.", "share",
           "rises above 0",
           "Near 0 a group's mean is as good and cheaper; warm the critic up, or raise its learning rate."),
    Metric("critic_grad_norm", "The norm of the critic's gradient before it is clipped.", "", "steady",
           "Lower critic.learning_rate after spikes."),
    Metric("value_clip_fraction", "The share of values that moved further than the clip.", "share", "a few percent",
           "Use fewer updates_per_step, or widen the clip of value_loss."),
    Metric("returns_outside", "The share of targets that lie outside the critic's bins.", "share", "0",
           "Widen low and high of value and value_loss.", range=Range(high=0.05, rows=3)),
    Metric("grade_accuracy", "How often the critic names the verifier's outcome.", "share", "rises",
           "Do as for value_loss."),
    Metric("grade_probability", "The mean probability that it gives that outcome at a token.", "share", "rises",
           "Do as for value_loss."),
)  # fmt: skip
TIME = (
    Metric("sync_seconds", "The time to give the sampler the trained weights.", "s"),
    Metric("collect_seconds", "The time to sample and score.", "s", "most of a step with long answers"),
    Metric("train_seconds", "The time to train.", "s"),
    Metric("step_seconds", "The time of the whole step, evaluation aside.", "s"),
    Metric("tokens_per_second", "The trained tokens per second of the whole step.", "tokens per s", format=",.0f",
           heading="tok/s"),
    Metric("rollout_seconds", "The time to sample and score, as the collector measures it.", "s"),
    Metric("rollout_tokens_per_second", "The sampled tokens per second of it.", "tokens per s", format=",.0f"),
)  # fmt: skip

SECTIONS: dict[str, tuple[Metric, ...]] = {
    "Progress": PROGRESS,
    "What was sampled": SAMPLES,
    "Evaluation": EVALUATION,
    "Policy": POLICY,
    "Regularizers and controllers": PENALTIES,
    "Trainer against sampler": MISMATCH,
    "Critic": CRITIC,
    "Time": TIME,
}
METRICS: tuple[Metric, ...] = tuple(metric for section in SECTIONS.values() for metric in section)
