"""The table of data fields: everything that a piece may read by naming it before its star.

Shapes are written in these letters:

    N  trajectories of the batch     T  tokens of its longest row     K  several numbers, such as the top tokens
    L  layers, k  chosen experts     H  outputs of a critic           P  prompts of a round of sampling
    C  tokens of the longest            or of a reward model
       context of a critic
    M  pairs: two trajectories of a group with different rewards, the chosen one's reward is higher

A field is known at one of six moments, and a piece may read the fields that are known when it runs:

    PACKED      with the batch itself, made of the trajectories
    PROVIDED    before credit is given; a provider measures the field where some piece reads it (llmrl/providers)
    CREDITED    after the advantage has run
    CURRENT     in the training pass: the current policy's, with gradient
    COMPARED    in the training pass: sums over whole completions, and those of pairs (llmrl/ops/shared/comparisons.py)
    ALLOCATING  between rounds of sampling, for each prompt of a step
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TARGET = "a copy of the critic that follows it slowly"
CRITIC, REFERENCE, SCORER = "a critic", "a frozen reference model", "the reward model in training"
PAST = "earlier policies"
PACKED, PROVIDED, CREDITED, CURRENT, ALLOCATING = "packed", "provided", "credited", "current", "allocating"
COMPARED = "compared"
BUDGET = 8
"""Completions to give out in the example of an allocation."""


@dataclass(frozen=True)
class Field:
    """One row of the table.

    shape: letters as above, "" for a single number. by: where it comes from, in words. example: its value in the tiny
    batch of `tiny_data`. sampled: only sampled and scored completions have it. fill: its value for a trajectory that
    lacks it. of_model: the output of a model's forward pass that it is. compared_with: for a CURRENT field, the
    PROVIDED ones that the training pass compares it with. special: its origin exists only in runs with a piece that
    reads it. provider: module:function, for a provider outside of llmrl/providers. made_of: the fields that a COMPARED
    one is computed from.
    """

    name: str
    shape: str
    moment: str
    by: str
    about: str
    example: Callable[[Tiny], Any]
    sampled: bool = False
    fill: float = 0.0
    of_model: str | None = None
    compared_with: tuple[str, ...] = ()
    special: bool = False
    provider: str | None = None
    made_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tiny:
    """Two groups of two trajectories, prompts of one token, answers of one to three; a critic's outputs, the reward
    functions, a reward model's heads and earlier policies are as many as a recipe has."""

    outputs: int = 1
    rewards: int = 1
    heads: int = 1
    past: int = 1

    @property
    def mask(self) -> Tensor:
        return _tensor([[0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]).bool()

    @property
    def last(self) -> Tensor:
        """The column of each row's last response token."""
        return self.mask.int().cumsum(dim=1).argmax(dim=1)

    @property
    def verdicts(self) -> Tensor:
        return _tensor([1.0, 0.0, 0.0, 1.0])

    @property
    def logprobs(self) -> Tensor:
        return self.mask * -0.5

    @property
    def advantages(self) -> Tensor:
        return self.mask * (self.verdicts[:, None] - 0.5)

    @property
    def trained(self) -> Tensor:
        return self.logprobs.clone().requires_grad_()

    @property
    def sums(self) -> Tensor:
        """Log-probabilities of whole answers, with gradient."""
        return self.trained.sum(dim=1)

    @property
    def scores(self) -> Tensor:
        """A reward model's scores at each token, with gradient."""
        return self.zeros(4, 4, self.heads).requires_grad_()

    @property
    def last_scores(self) -> Tensor:
        return self.scores[self.counting(4), self.last]

    def pairs(self, values: Tensor, *, chosen: bool) -> Tensor:
        """The values of the right answers, or of the wrong ones, one of each group: [N] to [M]."""
        return values[[0, 3]] if chosen else values[[1, 2]]

    @property
    def top(self) -> Tensor:
        return _tensor([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]).log_softmax(0).expand(4, 4, 8)

    def zeros(self, *shape: int) -> Tensor:
        return self.verdicts.new_zeros(shape)

    def counting(self, *shape: int) -> Tensor:
        """0, 1, 2 ... as token ids."""
        return self.zeros(*shape).flatten().add(1).cumsum(0).long().reshape(shape) - 1


def _tensor(values: Any) -> Tensor:
    import torch

    return torch.tensor(values)


def _per_prompt(*values: float) -> Callable[[Tiny], Tensor]:
    return lambda tiny: _tensor(values).double()


def _compared() -> list[Field]:
    """A field of each completion, and the same of the two completions of each pair."""
    of_completion = {
        "logprobs": ("sum of its log-probabilities, with gradient", ("logprobs",), lambda x: x.sums),
        "old_logprobs": ("sum of its log-probabilities before any update of the step", ("old_logprobs",),
                         lambda x: x.logprobs.sum(dim=1)),
        "ref_logprobs": ("sum of the reference's log-probabilities", ("ref_logprobs",),
                         lambda x: x.logprobs.sum(dim=1) - 1),
        "log_ratios": ("logprobs - ref_logprobs", ("logprobs", "ref_logprobs"), lambda x: x.sums + 1),
        "mean_logprobs": ("logprobs / lengths", ("logprobs",), lambda x: x.sums / x.mask.sum(dim=1)),
        "mean_log_ratios": ("log_ratios / lengths", ("logprobs", "ref_logprobs"),
                            lambda x: (x.sums + 1) / x.mask.sum(dim=1)),
        "past_logprobs": ("sum of each earlier policy's log-probabilities, the newest first", ("past_logprobs",),
                          lambda x: x.sums.detach()[:, None].expand(4, x.past) - 1),
        "ref_kl": ("sum over its tokens of KL(reference || policy), with gradient", ("ref_kl",),
                   lambda x: x.trained.square().sum(dim=1)),
        "scores": ("a reward model's score at its last token, the mean of the heads, with gradient", ("scores",),
                   lambda x: x.last_scores.mean(dim=1)),
        "lengths": ("number of its response tokens", (), lambda x: x.mask.sum(dim=1)),
        "rewards": ("its reward", (), lambda x: x.verdicts),
    }  # fmt: skip
    fields = [
        Field("completion_head_scores", "N H", COMPARED, "each completion",
              "a reward model's score at its last token by each head, with gradient", lambda x: x.last_scores,
              made_of=("scores",))
    ]  # fmt: skip
    fields += [
        Field(f"completion_{name}", _each("N", name), COMPARED, "each completion", about, example, made_of=made_of)
        for name, (about, made_of, example) in of_completion.items()
    ]
    for side, chosen in (("chosen", True), ("rejected", False)):
        which = "higher" if chosen else "lower"
        fields.append(
            Field(side, "M", COMPARED, "each pair", f"the row of the completion with the {which} reward",
                  lambda x, chosen=chosen: x.pairs(x.counting(4), chosen=chosen))
        )  # fmt: skip
        fields += [
            Field(f"{side}_{name}", _each("M", name), COMPARED, "each pair", f"of the {side} completion: {about}",
                  lambda x, chosen=chosen, example=example: x.pairs(example(x), chosen=chosen), made_of=made_of)
            for name, (about, made_of, example) in of_completion.items()
        ]  # fmt: skip
    return fields


def _each(rows: str, name: str) -> str:
    """The shape of a field of completions or pairs: a number of each, or one for each earlier policy."""
    return f"{rows} K" if name.startswith("past") else rows


FIELDS: tuple[Field, ...] = (
    Field("token_ids", "N T", PACKED, "the trajectories", "prompt and everything that followed",
          lambda x: x.counting(4, 4)),
    Field("attention_mask", "N T", PACKED, "the trajectories",
          "True where there is a token, False where there is padding", lambda x: x.mask | (x.counting(4) == 0)),
    Field("response_mask", "N T", PACKED, "the trajectories", "True where the trained author sampled",
          lambda x: x.mask),
    Field("rewards", "N T", PACKED, "rewards and environment",
          "turn rewards on the turns' last tokens, the trajectory's reward on its last",
          lambda x: x.zeros(4, 4).scatter(1, x.last[:, None], x.verdicts[:, None]), sampled=True),
    Field("group_ids", "N", PACKED, "the trajectories", "equal for trajectories that are compared with each other",
          lambda x: _tensor([0, 0, 1, 1])),
    Field("rollout_logprobs", "N T", PACKED, "the sampler", "log-probabilities as the sampler reported them",
          lambda x: x.logprobs, sampled=True),
    Field("correct", "N", PACKED, "verifiers", "1 correct, 0 wrong, nan where no verifier spoke",
          lambda x: x.verdicts, sampled=True, fill=math.nan),
    Field("policy_version", "N", PACKED, "the sampler",
          "training steps behind the weights that sampled the oldest turn", lambda x: x.zeros(4).long()),
    Field("from_policy", "N", PACKED, "the collector",
          "whether the policy wrote it; else a row, the reference or an earlier policy (rollout.written_by)",
          lambda x: _tensor([True, False, True, False])),
    Field("turn_ids", "N T", PACKED, "the trajectories", "which of the author's turns a token belongs to, else -1",
          lambda x: x.mask.long() - 1, fill=-1),
    Field("step_ids", "N T", PROVIDED, "the steps of an answer's text",
          "which step of its answer a token belongs to, else -1", lambda x: x.mask.long() - 1, special=True),
    Field("turn_rewards", "N T", PACKED, "what rewards single turns or steps: an environment, a reward, labels",
          "a turn's or step's own reward on its last token; nan where none was given",
          lambda x: (x.counting(4) == x.last[:, None]) / 1.0 * x.verdicts[:, None] + _nan_off(x), sampled=True,
          fill=math.nan, special=True),
    Field("trajectory_ids", "N", PACKED, "the trajectories",
          "equal for the rows of one trajectory, whose author read several contexts", lambda x: x.counting(4)),
    Field("cut_short", "N", PACKED, "the trajectories",
          "whether a limit of tokens or of the environment ended it, so that its state still has a value",
          lambda x: _tensor([False, True, False, False])),
    Field("state_ids", "N T", PACKED, "the environment",
          "equal for turns of a group that were taken in equal states; -1 where none is known",
          lambda x: x.mask.long() - 1, sampled=True, fill=-1, special=True),
    Field("action_ids", "N T", PACKED, "the environment",
          "equal for turns of a group with equal actions; -1 where none is known",
          lambda x: x.mask.long() - 1, sampled=True, fill=-1, special=True),
    Field("turn_seconds", "N T", PACKED, "the environment",
          "seconds from a turn's beginning to the environment's answer", lambda x: x.mask * 1.0, sampled=True),
    Field("answer_ids", "N", PACKED, "the trajectories", "equal where the last turns' texts are equal",
          lambda x: _tensor([0, 1, 1, 0])),
    Field("reward_components", "N K", PACKED, "rewards", "each reward function's value times its weight",
          lambda x: x.verdicts[:, None].expand(4, x.rewards), sampled=True),
    Field("grades", "N", PACKED, "a verifier that gives grades", "rank among the verifier's ordered outcomes, or -1",
          lambda x: x.verdicts.long(), sampled=True, fill=-1, special=True),
    Field("context_ids", "N C", PACKED, "critic.context",
          "tokens that the critic alone reads; -1: the prompt's place, -2: padding", lambda x: x.zeros(4, 1).long() - 1,
          special=True),
    Field("replay_weights", "N T", PACKED, "critic.replay", "what a token counts that was drawn, 0 for others",
          lambda x: x.mask * 1.0, special=True),
    Field("greedy_rewards", "N", PROVIDED, "a greedy completion of each prompt",
          "reward of the greedy answer to the same prompt, or nan", lambda x: x.verdicts, sampled=True, fill=math.nan,
          special=True),
    Field("static_values", "N", PROVIDED, "the starting policy's mean reward on each prompt",
          "mean reward of the stage's first policy on the prompt, or nan", lambda x: x.verdicts / 2, sampled=True,
          fill=math.nan, special=True),
    Field("question_accuracy", "N", PROVIDED, "the first answers to each question",
          "share of right ones among them, or nan", lambda x: x.verdicts / 2, sampled=True, fill=math.nan,
          special=True),
    Field("uniform_noise", "N T", PROVIDED, "the step's random numbers", "random numbers in [0, 1)",
          lambda x: x.counting(4, 4) * 0.06),
    Field("progress", "", PROVIDED, "the stage", "share of the stage's steps done, in [0, 1)",
          lambda x: _tensor(0.5)),
    Field("old_logprobs", "N T", PROVIDED, "the policy at step start",
          "log-probabilities before any update of the step", lambda x: x.logprobs, of_model="logprobs"),
    Field("old_entropy", "N T", PROVIDED, "the policy at step start", "entropy of the next token in nats",
          lambda x: -x.logprobs, of_model="entropy"),
    Field("old_top_ids", "N T K", PROVIDED, "the policy at step start", "its most likely tokens, most likely first",
          lambda x: x.counting(8).expand(4, 4, 8), of_model="old_top_ids"),
    Field("old_top_logprobs", "N T K", PROVIDED, "the policy at step start", "the log-probabilities of these",
          lambda x: x.top, of_model="old_top_logprobs"),
    Field("old_router_ids", "N T L k", PROVIDED, "the policy at step start", "the experts chosen in each layer",
          lambda x: x.zeros(4, 4, 1, 1).long(), of_model="old_router_ids"),
    Field("old_router_logprobs", "N T L k", PROVIDED, "the policy at step start",
          "the routers' log-probabilities of these", lambda x: x.zeros(4, 4, 1, 1), of_model="old_router_logprobs"),
    Field("answer_logprobs", "N T", PROVIDED, "the gold answer's log-probability along each completion",
          "mean over the gold answer's tokens if it were given after token t, or nan", lambda x: x.logprobs - 0.5,
          special=True),
    Field("ref_logprobs", "N T", PROVIDED, REFERENCE, "log-probabilities of the reference", lambda x: x.logprobs,
          special=True),
    Field("ref_log_partition", "N T", PROVIDED, REFERENCE, "log-sum-exp of the logits of its next token",
          lambda x: x.mask * 2.0, of_model="log_partition", special=True),
    Field("past_logprobs", "N T K", PROVIDED, PAST, "log-probabilities of each earlier policy, the newest first",
          lambda x: x.logprobs[:, :, None].expand(4, 4, x.past) - 0.5, special=True),
    Field("past_moves", "", PROVIDED, PAST, "how many times the policy was kept as an earlier one",
          lambda x: x.counting(1)[0], special=True),
    Field("mismatched_kl", "", PROVIDED, "the policy at step start and the reference",
          "mean log ratio to the reference of completions after prompts of other groups, at least 0",
          lambda x: _tensor(0.5), special=True),
    Field("ref_hidden", "N T K", PROVIDED, REFERENCE, "its hidden states, from which it predicts token t",
          lambda x: x.zeros(4, 4, 8), of_model="hidden", special=True),
    Field("old_outputs", "N T H", PROVIDED, CRITIC, "the critic's outputs for the prefix before token t",
          lambda x: x.zeros(4, 4, x.outputs), special=True),
    Field("old_outputs_after", "N T H", PROVIDED, CRITIC, "the critic's outputs for the prefix that ends with token t",
          lambda x: x.zeros(4, 4, x.outputs), special=True),
    Field("target_outputs", "N T H", PROVIDED, TARGET, "its outputs for the prefix before token t",
          lambda x: x.zeros(4, 4, x.outputs), special=True),
    Field("target_outputs_after", "N T H", PROVIDED, TARGET, "its outputs for the prefix that ends with token t",
          lambda x: x.zeros(4, 4, x.outputs), special=True),
    Field("staleness", "N", PROVIDED, "the stage", "training steps between the policy and the one that sampled it",
          lambda x: x.counting(4) % 2),
    Field("values", "N T", PROVIDED, CRITIC, "what the critic's outputs say the prefix is worth",
          lambda x: x.advantages, special=True),
    Field("value_std", "N T", PROVIDED, CRITIC, "standard deviation of the critic's outputs over heads",
          lambda x: x.advantages.abs(), special=True),
    Field("final_values", "N", PROVIDED, CRITIC,
          "what the critic says that the state after the last token is worth where a limit cut the trajectory, else 0",
          lambda x: x.verdicts / 4, special=True),
    Field("influence", "K", PROVIDED, "the rewards' gradients at the LM head",
          "how far each reward function's policy gradient agrees with those of all", lambda x: x.zeros(x.rewards),
          sampled=True, special=True),
    Field("return_moments", "K", PROVIDED, "the turns' returns", "their mean and their mean square",
          lambda x: _tensor([0.5, 1.25]), sampled=True, provider="llmrl.ops.advantages.normalized:return_moments",
          special=True),
    Field("similarity", "N", PROVIDED, "the other answers of the group",
          "sum of an answer's similarities to the others", lambda x: x.verdicts / 2,
          provider="llmrl.ops.advantages.diversity:similarity", special=True),
    Field("row_weights", "N", PROVIDED, "the data", "the weight that a trajectory's row gives itself",
          lambda x: x.verdicts + 0.5, special=True),
    Field("appraised_values", "N T", PROVIDED, "texts that a role writes on the beginnings of an answer",
          "what the prefix before token t is said to be worth, nan where nobody said", lambda x: x.verdicts[:, None] / 2
          + _nan_off(x), sampled=True, fill=math.nan, special=True),
    Field("advantages", "N T", CREDITED, "the advantage", "credit of each token, zero off the response",
          lambda x: x.advantages),
    Field("returns", "N T", CREDITED, "the advantage", "a critic's targets, nan where there is none",
          lambda x: x.advantages),
    Field("logprobs", "N T", CURRENT, "the policy in training", "log-probabilities, with gradient",
          lambda x: x.trained),
    Field("entropy", "N T", CURRENT, "the policy in training", "entropy of the next token in nats, with gradient",
          lambda x: -x.trained),
    Field("log_partition", "N T", CURRENT, "the policy in training",
          "log-sum-exp of the logits of the next token, with gradient", lambda x: -x.trained * 4,
          of_model="log_partition"),
    Field("log_ratio", "N T", CURRENT, "the log ratio", "how the policy differs from an older one",
          lambda x: x.trained - x.logprobs),
    Field("top_logprobs", "N T K", CURRENT, "the policy in training",
          "log-probabilities of old_top_ids, with gradient", lambda x: x.top.clone().requires_grad_(),
          of_model="top_logprobs", compared_with=("old_top_ids",)),
    Field("ref_kl", "N T", CURRENT, "the policy in training and a frozen reference model",
          "KL(reference || policy) over the whole vocabulary at token t, with gradient", lambda x: x.trained.square(),
          of_model="ref_kl", compared_with=("ref_hidden",), special=True),
    Field("policy_kl", "N T", CURRENT, "the policy in training and a frozen reference model",
          "KL(policy || reference) over the whole vocabulary at token t, with gradient", lambda x: x.trained.square(),
          of_model="policy_kl", compared_with=("ref_hidden",), special=True),
    Field("router_drift", "N T", CURRENT, "a mixture-of-experts model",
          "how far the routers moved from the old choices", lambda x: x.zeros(4, 4), of_model="router_drift",
          compared_with=("old_router_ids", "old_router_logprobs"), special=True),
    Field("scores", "N T H", CURRENT, SCORER, "the head's outputs at each token, with gradient", lambda x: x.scores,
          of_model="scores"),
    Field("outputs", "N T H", CURRENT, "the critic in training", "the critic's outputs, with gradient",
          lambda x: x.zeros(4, 4, x.outputs).requires_grad_()),
    Field("outputs_after", "N T H", CURRENT, "the critic in training",
          "its outputs for the prefix that ends with token t, with gradient",
          lambda x: x.zeros(4, 4, x.outputs).requires_grad_()),
    *_compared(),
    Field("samples", "P", ALLOCATING, "the rounds before", "completions so far", _per_prompt(4, 4)),
    Field("successes", "P", ALLOCATING, "the rounds before", "right ones among them", _per_prompt(1, 3)),
    Field("means", "P", ALLOCATING, "the rounds before", "their mean reward", _per_prompt(0.25, 0.75)),
    Field("stds", "P", ALLOCATING, "the rounds before", "the standard deviation of their rewards",
          _per_prompt(0.5, 0.5)),
    Field("gradient_norms", "P", ALLOCATING, "the gradient norm of each prompt's successes",
          "mean norm of the LM head's gradient of a success, 0 without one", _per_prompt(1, 2), special=True),
    Field("budget", "", ALLOCATING, "the recipe", "completions to give out in this round", lambda x: BUDGET),
)  # fmt: skip
BY_NAME: dict[str, Field] = {field.name: field for field in FIELDS}


def _nan_off(tiny: Tiny) -> Tensor:
    """nan but on each row's last response token, where it is 0."""
    return tiny.zeros(4, 4).masked_fill(tiny.counting(4) != tiny.last[:, None], math.nan)


def names(*moments: str, shape: str | None = None) -> frozenset[str]:
    """The names of all fields of these moments; shape: only fields of this shape."""
    found = (field for field in FIELDS if field.moment in moments and shape in (None, field.shape))
    return frozenset(field.name for field in found)


def tiny_data(outputs: int = 1, rewards: int = 1, heads: int = 1, past: int = 1) -> dict[str, Any]:
    """The example of every field: two groups of two trajectories (see Tiny)."""
    tiny = Tiny(outputs, rewards, heads, past)
    return {field.name: field.example(tiny) for field in FIELDS}
