"""Every metric that a run writes: its meaning, its healthy values, and advice for others.

The live table, the warnings on the console and docs/metrics.md are all made from METRICS. A user's own loss may add
statistics of its own, which are in no table.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from llmrl.troubles import RECENT, Drifted, Exploited, Fallen, Outside, Row, Trouble


@dataclass(frozen=True)
class Metric:
    """One metric. A name such as reward/<name> stands for every name with a text in place of the brackets.

    healthy: the values of a run that learns, in words; advice: for a run with others. troubles: each causes a warning.
    heading: the column's in the live table; a metric without one is not shown there. hides_zero: a 0 is not shown,
    since it says nothing.
    """

    name: str
    meaning: str
    unit: str = ""
    healthy: str = ""
    advice: str = ""
    format: str = ".3f"
    troubles: tuple[Trouble, ...] = ()
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


def _is_open(row: Row) -> bool:
    """A task that is nearly solved leaves little contrast and little entropy, and should."""
    return _was_sampled(row) and row.get("accuracy", 0.0) < NEARLY_SOLVED


def _lacks_contrast(row: Row) -> bool:
    """Groups without contrast are a trouble of their own, which leaves no gradient."""
    return _has_groups(row) and row.get("groups_mixed", 1.0) == 0.0


def _compares(row: Row) -> bool:
    """Preferences are learnt, so longer answers are no sign of longer thoughts."""
    return "preference_accuracy" in row or "eval/preference_accuracy" in row


def _has_pairs(row: Row) -> bool:
    """Few pairs say little."""
    return row.get("eval/pairs", 0) >= FEW_PAIRS


LOWER_RATE = "Lower training.learning_rate"
FEW_PAIRS = 50
FOLLOWS_LENGTH = "Use a loss per token such as simpo or length_normalized_dpo, or ld_dpo, or pairs of like lengths."
NEVER_ZERO = 1e-12
NEARLY_SOLVED, SOLVED = 0.9, 0.99

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
           troubles=(
               Fallen("accuracy has fallen below its start", draws="groups_sampled", window=RECENT),
               Outside("the task is solved, so nothing is left to learn", high=SOLVED, rows=5,
                       advice="Stop here, or train on harder data; if `eval/accuracy` is far lower, the reward is "
                              "exploited or the training data is remembered."),
           ), heading="accuracy"),
    Metric("reward_std", "The standard deviation of the reward over all sampled trajectories.", "", "above 0",
           "The reward is constant, or the task is too hard or too easy for this model: look at samples in rollouts/.",
           troubles=(Outside("all answers earn the same reward, so nothing can be learned", low=NEVER_ZERO, rows=5,
                             when=lambda row: _is_open(row) and not _has_groups(row)),)),
    Metric("reward/<name>", "The mean value of one reward function, before its weight."),
    Metric("reward/<name>/parse_failures", "The replies of a judge, a comparison or an answer, that had no verdict.",
           "replies", "near 0", "Say in the rubric how the verdict is written, and raise max_tokens.",
           troubles=(Outside("many replies of the judge have no verdict", high=0.3, rows=3),)),
    Metric("reward/<name>/unanswered", "The share of comparisons on which there is no opinion.", "share", "0",
           "See parse_failures, and the judge's server.", format=".1%"),
    Metric("reward/<name>/order_consistency", "The share of comparisons whose winner is the same in both orders.",
           "share", "above 0.7", "The judge looks at places more than at answers: take a larger one, or logprobs.",
           format=".1%", troubles=(Outside("the judge's verdicts follow the order of the answers", low=0.5, rows=3),)),
    Metric("reward/<name>/ties", "The share of comparisons that nobody wins.", "share", "well below 1",
           "Take logprobs: true; if the completions themselves are alike, raise the temperature.", format=".1%"),
    Metric("reward/<name>/preferred_longer_by", "How much longer the preferred completion of a comparison is.",
           "tokens", "near 0", "The judge pays for length: tell it not to in the rubric, or add a length penalty.",
           format=".1f"),
    Metric("reward/<name>/<entry>", "The mean of a further number that a reward function gave with its reward."),
    Metric("outcome/<name>/<outcome>", "The share of trajectories that a verifier says ended in this way.", "share"),
    Metric("turn_reward", "The mean reward that the environment gave for a turn."),
    Metric("rewarded_turns", "The turns of a trajectory that the environment rewarded, on average.", "turns"),
    Metric("evolved/<entry>", "Of prompts that evolve: the share asked, and how many are made, refused or waiting."),
    Metric("prompted/<entry>", "Of prompted pairs: the gap that was asked for, and the share of prompts with a pair."),
    Metric("completion_tokens", "The mean length of a trajectory, without prompt and environment.", "tokens",
           "changes slowly", "A climb without a gain in accuracy is padding: add overlong_penalty, or set `reduce`.",
           format=".1f", heading="length",
           troubles=(Drifted("completions get longer", factor=1.5, window=RECENT, advice=FOLLOWS_LENGTH,
                             when=lambda row: _was_sampled(row) and _compares(row)),)),
    Metric("completion_tokens_max", "The length of the longest trajectory.", "tokens", format=".0f"),
    Metric("truncated", "The share of trajectories cut short, by a limit of tokens or of the environment.", "share",
           "near 0",
           "Answers are cut and count as wrong: raise rollout.max_completion_tokens, or teach the model to stop.",
           troubles=(Outside("answers are cut short", high=0.3, rows=3),), heading="truncated", hides_zero=True),
    Metric("groups_mixed", "The share of groups whose outcomes differ; others teach a group-relative method nothing.",
           "share", "well above 0",
           "The task is too hard or too easy for this model: warm it up, change the data, or raise rollout.group_size.",
           troubles=(Outside("hardly any group has outcomes that differ, so hardly anything can be learned", low=0.05,
                             rows=5, when=lambda row: _is_open(row) and _has_groups(row)),)),
    Metric("groups_sampled", "The groups that were sampled, refills included.", "groups", format=".0f"),
    Metric("groups_kept", "The groups that `keep` left something of.", "groups", "rollout.prompts_per_step",
           "Raise rollout.max_refills, or choose data on which outcomes differ more often.", format=".0f"),
    Metric("failures", "The trajectories that a reward, a judge or the environment could not answer.", "trajectories",
           "0", "They are left out of training; `failures/<source>/<kind>` says whose they are.",
           format=".0f", heading="failed", hides_zero=True),
    Metric("failures/<source>/<kind>", "The failures of one source, by kind: timeout, crash or invalid.",
           "trajectories", "0",
           "These trajectories are left out of training; the `failure` column of the rollouts has the message.",
           format=".0f", troubles=(Outside("trajectories fail", high=0.0),)),
)  # fmt: skip
EVALUATION = (
    Metric("eval/accuracy", "The share of held-out prompts whose greedy answer is correct.", "share", "rises",
           f"{LOWER_RATE}; if `accuracy` still rises, the model remembers its training data or exploits the reward.",
           troubles=(Fallen("held-out accuracy has fallen below its start", draws="eval/prompts"),),
           heading="eval acc"),
    Metric("eval/reward", "The mean reward of the greedy answers.", "", "rises", "See eval/accuracy."),
    Metric("eval/reward/<name>", "The mean value of one of several reward functions on the greedy answers."),
    Metric("eval/reward_error", "The standard error of eval/reward over prompts, if a reward of weight 0 audits it."),
    Metric("eval/audit/<name>", "The mean of a reward of weight 0 for the greedy answers: measured, not trained on.",
           "", "rises with eval/reward", "The policy exploits the reward: go back to the step where the audit was best "
           "(checkpoint.metric keeps that one), give kl_k1 more weight under token_rewards, train the reward model on "
           "pairs of this policy's completions, or combine several reward models by their lowest score.",
           troubles=(Exploited("the audited reward falls while the reward that is trained on rises",
                               rising="eval/reward"),)),
    Metric("eval/audit_error/<name>", "The standard error of that mean over prompts."),
    Metric("eval/completion_tokens", "The mean length of the greedy answers.", "tokens", "steady where preferences are "
           "learnt", FOLLOWS_LENGTH, format=".1f",
           troubles=(Drifted("held-out answers get longer", factor=1.5, when=_compares),)),
    Metric("eval/prompts", "The held-out prompts that were asked.", "prompts", format=".0f"),
    Metric("eval/failures", "The answers that could not be graded; they are left out.", "trajectories", "0",
           "The message is in the `failure` column of the evaluation's rollouts.", format=".0f",
           troubles=(Outside("held-out answers fail to be graded", high=0.0),)),
    Metric("eval/sampled_reward", "The mean reward of the samples.", "", "rises", "See eval/reward."),
    Metric("eval/sampled_audit/<name>", "The mean of a reward of weight 0 for the samples.", "", "rises",
           "See eval/audit/<name>."),
    Metric("eval/kl", "The estimated divergence of the policy from its reference, KL(policy || reference), over the "
           "samples; an estimate near 0 may be below it.", "nats per completion", "grows slowly", "See kl_k3."),
    Metric("eval/pass@<k>", "The chance that at least one of k samples is correct, estimated without bias.", "share",
           "pass@1 rises and no other falls",
           "Larger k that fall while pass@1 rises mean that answers become alike: keep the entropy up."),
    Metric("eval/maj@<k>", "The share of prompts whose most frequent answer of k is correct; no answer is no vote.",
           "share", "rises", "See eval/accuracy."),
    Metric("eval/pairs", "The held-out pairs that were compared.", "pairs", format=".0f"),
    Metric("eval/preference_accuracy",
           "The share of held-out pairs whose chosen completion is preferred; a tie is half.", "share", "rises",
           f"{LOWER_RATE}, or stop at the best checkpoint: the model learns what does not carry over to other pairs.",
           format=".1%", heading="eval pairs",
           troubles=(Fallen("held-out pairs are told apart worse than at the start", draws="eval/pairs"),)),
    Metric("eval/preference_ties", "The share of held-out pairs of which neither is preferred; all at step 0 where the "
           "reference is the policy's start.", "share", "0 after step 0", "See preference_ties.", format=".1%",
           troubles=(Outside("no held-out pair is told apart", high=0.99, rows=2, when=lambda row: row["step"] > 0),)),
    Metric("eval/nll", "The mean negative log-probability of a token of held-out completions, where rows are imitated.",
           "nats", "falls", "Rises while loss falls: the rows are learned by heart; take fewer epochs or more rows."),
    Metric("eval/preference_margin", "See preference_margin, of held-out pairs.", "nats or score", "rises"),
    Metric("eval/calibration_error", "The expected calibration error of the chance that the chosen completion is the "
           "better one, sigmoid(beta margin) or sigmoid(score difference), in 10 bins.", "share", "near 0",
           "See eval/overconfidence."),
    Metric("eval/brier_score", "The mean squared error of that chance; 0.25 where all are ties.", "", "falls",
           "See eval/overconfidence."),
    Metric("eval/overconfidence", "The mean confidence, the chance of the completion that is preferred, less the "
           "accuracy.", "share", "at most 0.1",
           f"Margins grow on what is learnt by heart: {LOWER_RATE.lower()}, train for fewer steps or epochs, use a "
           "loss with a bounded margin such as ipo or cdpo, or clean the labels.",
           troubles=(Outside("margins grow without held-out accuracy", high=0.15, rows=2, when=_has_pairs),)),
    Metric("eval/length_correlation", "Spearman's rank correlation of the margin with how much longer the chosen "
           "completion is.", "", "near 0", FOLLOWS_LENGTH,
           troubles=(Outside("held-out preferences follow the length", low=-0.6, high=0.6, rows=2, when=_has_pairs),)),
    Metric("eval/chosen_<output>", "See chosen_scores, chosen_log_ratios and chosen_logprobs, of held-out pairs."),
    Metric("eval/rejected_<output>", "See rejected_scores, rejected_log_ratios and rejected_logprobs, of held-out "
           "pairs."),
    Metric("eval/labels", "The held-out completions with a label that were judged.", "completions", format=".0f"),
    Metric("eval/label_auroc", "The chance that a good held-out completion has a higher implicit reward than a bad "
           "one; a tie counts as half.", "share", "rises", "See eval/preference_accuracy."),
    Metric("eval/<category>/<metric>", "The same of the held-out rows of one category (data.eval.category)."),
    Metric("eval/<category>/reward/<name>", "The metric eval/reward/<name> of the held-out rows of one category."),
)  # fmt: skip
POLICY = (
    Metric("trajectories", "The trajectories that were trained on.", "trajectories", format=".0f"),
    Metric("padding", "The part of the places in micro-batches that hold no token; none where rows are packed.",
           "share", format=".1%"),
    Metric("shared_tokens", "The part of the tokens that packed rows share with others, so that no place is theirs.",
           "share", format=".1%"),
    Metric("loss", "The mean loss of the step's updates; a policy gradient's is near 0 on fresh samples in any case.",
           "", "falls while demonstrations are imitated", "Change training.learning_rate; else look at the reward.",
           heading="loss", hides_zero=True),
    Metric("policy_loss", "The part of a coupled loss that has no regularizers in it."),
    Metric("preference_loss", "The preference losses, each times its weight, in the mean of its pairs or completions.",
           "", "falls", "Change training.learning_rate.", heading="preference loss"),
    Metric("preference_accuracy", "The share of pairs whose chosen completion is preferred; a tie counts as half.",
           "share", "rises", "Look whether chosen and rejected are the right way round in the rows.", format=".1%",
           heading="accuracy"),
    Metric("preference_ties", "The share of pairs of which neither is preferred; all at the first step.", "share",
           "0 after the first step", "Nothing has been learned: raise training.learning_rate; see grad_norm.",
           format=".1%",
           troubles=(Outside("no pair is told apart", high=0.99, rows=3, when=lambda row: row["step"] > 1),)),
    Metric("preference_margin", "How much larger the chosen completion's log ratio to the reference is, or its "
           "log-probability where there is no reference, or its score by a reward model.", "nats or score", "rises",
           format=".3f", heading="margin"),
    Metric("completion_log_ratios", "The mean log ratio of all completions to the reference.", "nats", format=".3f"),
    Metric("step_accuracy", "The share of labelled steps that a process reward model calls what their label says.",
           "share", "rises", "Change training.learning_rate; look whether most steps have one label.", format=".1%",
           heading="step acc"),
    Metric("first_error_accuracy", "The share of solutions with a wrong step whose first wrong step is found.",
           "share", "rises", "See step_accuracy.", format=".1%"),
    Metric("error_free_accuracy", "The share of solutions without a wrong step of which no step is called wrong.",
           "share", "rises", "See step_accuracy.", format=".1%"),
    Metric("first_error_f1", "The harmonic mean of the two, as in ProcessBench.", "share", "rises",
           "See step_accuracy.", format=".1%", heading="error F1"),
    Metric("chosen_scores", "The mean score of a chosen completion by a reward model.", "score"),
    Metric("rejected_scores", "The mean score of a rejected completion by a reward model.", "score"),
    Metric("chosen_log_ratios", "The mean log ratio of chosen completions to the reference.", "nats", "not far below 0",
           f"{LOWER_RATE}, raise beta, or use a loss that holds them up, such as method dpop.", format=".3f",
           troubles=(Outside("chosen completions become unlikely along with the rejected ones", low=-5.0, rows=5,
                             when=lambda row: row.get("rejected_log_ratios", 0.0) < 0.0),)),
    Metric("rejected_log_ratios", "The mean log ratio of rejected completions to the reference.", "nats",
           format=".3f"),
    Metric("chosen_logprobs", "The mean log-probability of a chosen completion.", "nats", "steady",
           f"{LOWER_RATE}, or add the chosen completions' likelihood: regularizers: {{nll: {{weight: 1.0, tokens: "
           "chosen_tokens}}.", format=".3f",
           troubles=(Drifted("chosen completions become unlikely", drop=0.5, window=RECENT, per="chosen_lengths",
                             when=lambda row: "chosen_log_ratios" not in row),)),
    Metric("rejected_logprobs", "The mean log-probability of a rejected completion.", "nats", format=".3f"),
    Metric("chosen_lengths", "The mean length of a chosen completion.", "tokens", format=".1f"),
    Metric("rejected_lengths", "The mean length of a rejected completion.", "tokens", format=".1f"),
    Metric("kl_k3", "The estimated distance to the reference; never negative.", "nats per token", "grows slowly",
           f"{LOWER_RATE}, or give kl_k3 more weight under regularizers.",
           format=".4f", heading="KL",
           troubles=(Outside("the policy leaps away from its reference", high=5.0, of="recent", least=0.3),)),
    Metric("kl_k1", "The unbiased estimate of the distance to the reference.", "nats per token", format=".4f"),
    Metric("kl_k2", "Half the mean squared log-ratio to the reference.", "nats per token", format=".4f"),
    Metric("entropy", "The mean entropy of the policy's next token.", "nats per token", "falls slowly",
           f"The samples of a prompt become alike: {LOWER_RATE.lower()}, raise clip_high, or add entropy_bonus.",
           troubles=(Outside("the entropy is gone", low=0.01, rows=5, when=_is_open),), heading="entropy"),
    Metric("grad_norm", "The norm of the policy's gradient before it is clipped.", "", "steady, above 0",
           "At 0 nothing is learned: look at advantage_std and token_weight, and at what `trained` and LoRA leave "
           "trainable; after spikes lower training.learning_rate.",
           troubles=(Outside("there is no gradient", low=NEVER_ZERO, rows=3,
                             when=lambda row: not _lacks_contrast(row)),)),
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
    Metric(
        "past_kl",
        "The regularizer's mean: half the mean squared log-ratio to an earlier policy.",
        "nats per token",
        format=".4f",
    ),
    Metric(
        "kl_full",
        "The regularizer's mean: KL(policy || reference) over the whole vocabulary.",
        "nats per token",
        format=".4f",
    ),
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
           format=".1e", troubles=(Outside("sampler and trainer disagree", high=0.1, rows=3),), heading="mismatch"),
    Metric("mismatch_max", "The largest such difference.", "nats", "fp32 1e-4, bf16 1", "Do as for mismatch_mean.",
           format=".1e"),
    Metric("mismatch_k3", "The estimated divergence of the sampler from the trainer.", "nats per token", "bf16 1e-3",
           "Do as for mismatch_mean.", format=".1e"),
    Metric("adapter_kept", "The share of the adapter's change that rounding leaves in merged weights, as sampled from.",
           "share", "near 1",
           "The sampler hardly sees what is learned: choose layers under model.lora.target_modules that can be sampled "
           "from unmerged, raise training.learning_rate, or set training.dtype=fp32.",
           troubles=(Outside("rounding undoes what the adapter changes", low=0.9),)),
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
           "Widen low and high of value and value_loss.",
           troubles=(Outside("returns lie outside of the critic's bins", high=0.05, rows=3),)),
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
MEMORY = (
    Metric("peak_memory", "The most memory that any process has held so far: torch's on the GPU, else its RAM.",
           "GiB", "within what `llmrl check` estimates",
           "Lower training.tokens_per_micro_batch, or set training.gradient_checkpointing.", format=".2f"),
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
    "Memory": MEMORY,
}
METRICS: tuple[Metric, ...] = tuple(metric for section in SECTIONS.values() for metric in section)
