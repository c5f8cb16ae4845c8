"""An Algorithm: the pieces of one policy-optimisation method, bound to their settings.

    rewards     = reward_shaping(rewards - sum of weight * token_rewards)       before the batch is cut
    Credit      = advantage_shaping(advantage(rewards, ...))                    before the batch is cut
    token loss  = token_weights * policy_loss(log_ratio, advantages, ...) + sum of weight * tokens * regularizers
    step loss   = sum over tokens of token loss * reduce(response_mask)
                + sum of weight * mean over pairs, or over completions, of preference_loss

The pieces' positional parameters name the data that a run must provide; `needs` is their union.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from llmrl.axes import AXES, OF_CRITIC, ONE, WEIGHTED
from llmrl.batch import Batch
from llmrl.fields import (
    BY_NAME,
    COMPARED,
    CREDITED,
    CRITIC,
    CURRENT,
    FIELDS,
    PACKED,
    PROVIDED,
    REFERENCE,
    TARGET,
    names,
)
from llmrl.ops.shared.targets import any_output, off_mask
from llmrl.pieces import Piece
from llmrl.types import Credit, TokenLoss

CRITICS = frozenset(field.name for field in FIELDS if field.by == CRITIC)
"""Fields that only a critic gives: its outputs, and the values read from them."""
OF_TARGET = frozenset(field.name for field in FIELDS if field.by == TARGET)
"""Fields that only a slow copy of the critic gives."""
OF_REFERENCE = frozenset(field.name for field in FIELDS if field.by == REFERENCE)
"""Fields that only a reference gives."""
OUTPUTS_OF_CRITIC = frozenset({"old_outputs", "old_outputs_after"})
READINGS = CRITICS - OUTPUTS_OF_CRITIC
OF_CURRENT_POLICY = names(CURRENT) - OF_CRITIC
OLD = {field.name: field.of_model for field in FIELDS if field.moment == PROVIDED and field.of_model in names(CURRENT)}
"""Fields of the old policy, each with the current policy's field that replaces it while the two are the same."""


@dataclass(frozen=True)
class Weighted:
    """A piece that is added to a sum with a weight; tokens: a token weight for this piece alone."""

    piece: Piece
    weight: float
    tokens: Piece | None = None


@dataclass(frozen=True)
class ImplicitReward:
    """The reward of a completion that a preference loss teaches the model, but for a constant of the prompt.

        reward = scale * completion_<of>

    of: a sum or a mean over tokens, as llmrl/ops/shared/comparisons.py names them, such as log_ratios. scale: None
    where the loss is of no logistic kind, so that sigmoid(reward difference) is no probability.
    """

    of: str
    scale: float | None = None


@dataclass(frozen=True)
class Algorithm:
    """The resolved pieces of one role. The trainer knows a method only through this class.

    samples: the trajectories are the current policy's own samples, and scored; False for demonstrations. given: the
    fields of scored completions that a source brings which samples nothing.
    """

    reduce: Piece
    log_ratio: Piece
    value: Piece
    value_loss: Piece
    value_target: Piece | None = None
    policy_loss: Piece | None = None
    preference_loss: tuple[Weighted, ...] = ()
    advantage: Piece | None = None
    token_rewards: tuple[Weighted, ...] = ()
    reward_shaping: tuple[Piece, ...] = ()
    advantage_shaping: tuple[Piece, ...] = ()
    token_weights: tuple[Piece, ...] = ()
    regularizers: tuple[Weighted, ...] = ()
    controllers: Mapping[str, Piece] = field(default_factory=dict)
    samples: bool = True
    given: frozenset[str] = frozenset()

    def placed(self) -> list[tuple[str, Piece]]:
        """Every piece that runs, except controllers, with its key in the recipe."""
        pairs: list[tuple[str, Piece | None]] = []
        for axis in AXES:
            if axis.outside or axis.key == "controllers" or (axis.key.startswith("value") and not self.has_critic):
                continue
            own = getattr(self, axis.key)
            for one in (own,) if axis.kind == ONE else own:
                if axis.kind == WEIGHTED:
                    pairs += [(axis.key, one.piece), ("token_weights", one.tokens)]
                elif axis.key != "value" or self.reads_values:
                    pairs.append((axis.key, one))
        return [(key, piece) for key, piece in pairs if piece is not None]

    @property
    def running_controllers(self) -> dict[str, Piece]:
        """The controllers whose output some piece reads."""
        return {name: piece for name, piece in self.controllers.items() if name in self.needs}

    @property
    def needs(self) -> frozenset[str]:
        """Names of all data that some piece reads."""
        at_loss = _names(self._of_tokens()) | self._comparison_needs()
        if "log_ratio" in at_loss:
            at_loss |= _names([self.log_ratio])
        return at_loss | self._credit_needs()

    @property
    def trains_tokens(self) -> bool:
        """Whether there is a loss of tokens, beside those of pairs and completions."""
        return self.policy_loss is not None or bool(self.regularizers)

    @property
    def scores(self) -> bool:
        """Whether a reward model is trained: some piece reads its scores."""
        return "scores" in self.needs

    @property
    def scores_tokens(self) -> bool:
        """Whether the reward model scores tokens within completions, such as the ends of steps, and not whole ones."""
        return "scores" in _names(one.piece for one in self.preference_loss)

    @property
    def trained(self) -> str:
        """The output of the model in training that losses of pairs and completions are made of."""
        return "scores" if self.scores else "logprobs"

    @property
    def implicit_reward(self) -> ImplicitReward:
        """The reward by which the model prefers completions: a reward model's score, else the log ratio to the
        reference, without a reference the log-probability; the mean over tokens if the first loss reads that alone."""
        read = self._comparison_needs()
        of = "scores" if self.scores else "log_ratios" if "ref_logprobs" in read else "logprobs"
        first = self.preference_loss[0].piece
        if f"chosen_mean_{of}" in first.data and f"chosen_{of}" not in first.data:
            of = f"mean_{of}"
        scales = [1.0] if self.scores else [first.setting(name) for name in ("beta", "tau", "eta")]
        return ImplicitReward(of, next((float(scale) for scale in scales if isinstance(scale, int | float)), None))

    @property
    def compares(self) -> bool:
        """Whether there is a loss of pairs or completions."""
        return bool(self.preference_loss)

    @property
    def compares_all(self) -> bool:
        """Whether a preference loss needs all completions of an update at once, and not those of a group alone."""
        return any(one.piece.mark("compares_all") for one in self.preference_loss)

    @property
    def wanted(self) -> frozenset[str]:
        """The outputs of the model in training that some piece reads."""
        fields = (BY_NAME[name] for name in self.needs if name in BY_NAME)
        return frozenset(field.name for field in fields if field.moment == CURRENT and field.of_model)

    def measured(self, *, updates: int, sampled: bool) -> frozenset[str]:
        """The provided fields that a step needs before its batch is cut.

        updates: optimizer steps on the batch. With a single one, old fields equal those of the training pass, so they
        are left out unless a piece reads them earlier, which saves a forward pass. sampled: whether a sampler gave
        log-probabilities, to be compared with the old ones.
        """
        needs = self.needs | _names(self.running_controllers.values())
        if self.has_critic:
            needs |= {"old_outputs", *self.value_loss.data, *(self.value_target.data if self.value_target else ())}
        compared = {name for need in needs & BY_NAME.keys() for name in BY_NAME[need].compared_with}
        several = (needs & OLD.keys()) | ({"old_logprobs"} if sampled else set()) if updates > 1 else set()
        read = frozenset((needs - OLD.keys()) | (self.needs_before_updates & OLD.keys()) | compared | several)
        return read - self._unprovided

    @property
    def measured_by_critic(self) -> frozenset[str]:
        """The provided fields that a critic's own batch needs."""
        if self.value_target is None:
            return self.measured(updates=1, sampled=False)
        return _names([self.value_loss, self.value_target]) - self._unprovided

    @property
    def _unprovided(self) -> frozenset[str]:
        """The data that no provider gives."""
        return names(PACKED, CREDITED, CURRENT, COMPARED) | {"state", "metrics"} | self.controllers.keys()

    @property
    def has_critic(self) -> bool:
        """Whether some piece reads a critic's field."""
        return bool(CRITICS & self.needs)

    @property
    def has_target(self) -> bool:
        """Whether some piece reads the outputs of the critic's slow copy."""
        read = [self.value_loss, *([self.value_target] if self.value_target else [])]
        return self.has_critic and bool(OF_TARGET & (self.needs | _names(read)))

    @property
    def has_reference(self) -> bool:
        """Whether some piece reads a reference's field."""
        return bool(OF_REFERENCE & self.needs)

    @property
    def reads_values(self) -> bool:
        """Whether some piece reads a critic's outputs as values."""
        return bool(READINGS & self.needs)

    @property
    def reads_credit(self) -> bool:
        """Whether some piece reads what the advantage gives: the advantages, or a critic that learns its returns."""
        return self.advantage is not None and bool(({"advantages"} | CRITICS) & _names(self._of_tokens()))

    @property
    def predicts_grades(self) -> bool:
        """Whether there is a critic that learns the grades of trajectories."""
        return self.has_critic and "grades" in self.value_loss.data

    @property
    def is_coupled(self) -> bool:
        """Whether the policy loss compares trajectories, so that it needs all trajectories of an update at once."""
        return self.policy_loss is not None and "group_ids" in self.policy_loss.data

    @property
    def reads_whole_updates(self) -> bool:
        """Whether a piece reads the current log-probabilities of all trajectories of an update at once."""
        return self.is_coupled or self.compares_all or bool(self._weights_of_update)

    @property
    def needs_before_updates(self) -> frozenset[str]:
        """Data that is read before the batch is cut, where `logprobs` are the old ones."""
        pieces = [*self.token_weights, *self._penalties()]
        early = _names(piece for piece in pieces if _is_fixed(piece)) | _names(self._weights_of_update)
        names = self._credit_needs() | early
        if self.is_coupled or (self.compares_all and not self.scores):
            names |= {"old_logprobs"}
        return names - {"logprobs"} | ({"old_logprobs"} if "logprobs" in names else frozenset())

    def credit(self, batch: Batch, extra: Mapping[str, Tensor] | None = None) -> Credit:
        """Advantages of the whole batch, [N, T], zero off the response; `extra` holds the controllers' outputs.

        Credit is given to whole trajectories: the rows of one are joined.
        """
        if self.advantage is None:
            return Credit(torch.zeros_like(batch.rewards))
        joined = batch.joined()
        credit = self._credit(joined.batch, extra)
        returns = None if credit.returns is None else joined.back(credit.returns, math.nan)
        return Credit(joined.back(credit.advantages), returns)

    def _credit(self, batch: Batch, extra: Mapping[str, Tensor] | None) -> Credit:
        assert self.advantage is not None
        known = {**batch.data, "logprobs": batch.get("old_logprobs"), **(extra or {})}
        rewards = batch.rewards
        for penalty in self.token_rewards:
            rewards = rewards - penalty.weight * penalty.piece(known) * batch.response_mask
        for shaping in self.reward_shaping:
            rewards = shaping(known | {"rewards": rewards})
        known["rewards"] = rewards
        credit: Credit = self.advantage(known)
        advantages = credit.advantages
        for shaping in self.advantage_shaping:
            advantages = shaping(known | {"advantages": advantages})
        returns = self.value_target(known) if self.value_target and self.has_critic else credit.returns
        return Credit(advantages, None if returns is None else off_mask(returns, batch.response_mask))

    def critic_credit(self, batch: Batch, extra: Mapping[str, Tensor] | None = None) -> Credit:
        """The targets of a critic that is trained on a batch of its own, whose advantages nobody reads."""
        if self.value_target is None:
            return self.credit(batch, extra)
        joined = batch.joined()
        targets = off_mask(self.value_target(joined.batch.data), joined.batch.response_mask)
        return Credit(torch.zeros_like(batch.rewards), joined.back(targets, math.nan))

    def shares(self, batch: Batch) -> Tensor:
        """Each token's weight in the mean over all trajectories of one optimizer step: [N, T]."""
        joined = batch.joined()
        return joined.back(self.reduce(joined.batch.data))

    def value_targets(self, batch: Batch, credit: Credit) -> Tensor:
        """The response tokens at which all targets that the value loss reads are known: [N, T]."""
        known = batch.response_mask
        if "returns" in self.value_loss.data:
            assert credit.returns is not None
            known = known & any_output(credit.returns.isfinite())
        if "grades" in self.value_loss.data:
            known = known & (batch.grades >= 0).unsqueeze(1)
        drawn = batch.get("replay_weights")
        return known if drawn is None else known & (drawn > 0)

    def fixed_weights(
        self, batch: Batch, advantages: Tensor, extra: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The token weights that do not depend on the current policy, by piece: [N, T] each."""
        joined = batch.joined()
        known = {**joined.batch.data, "advantages": joined.there(advantages), **(extra or {})}
        return {_key(piece): joined.back(piece(known)) for piece in self._weights if _is_fixed(piece)}

    def update_weights(
        self, mini: Batch, logprobs: Tensor, advantages: Tensor, extra: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The token weights of all trajectories of an update that read its log-probabilities, by piece: [N, T] each."""
        known = with_old_as_current({**mini.data, "logprobs": logprobs, "advantages": advantages, **extra})
        return {_key(piece): piece(known).detach() for piece in self._weights_of_update}

    def objective(
        self, data: Mapping[str, Any], shares: Tensor, fixed: Mapping[str, Tensor], coefficients: Tensor | None = None
    ) -> TokenLoss:
        """Each token's part of the step's loss: policy loss plus weighted regularizers, times its share.

        data: the batch's fields, advantages, and the current policy's logprobs, entropy and so on. fixed: the rows'
        part of `fixed_weights` and `update_weights`. coefficients: the gradient of a coupled loss with respect to the
        log-probabilities, used in place of that loss.
        """
        data = with_old_as_current(data)
        if "log_ratio" in self.needs:
            data["log_ratio"] = self.log_ratio(data)
        weight = math.prod((self._weight(piece, data, fixed) for piece in self.token_weights), start=1.0)
        loss, stats = torch.zeros_like(data["logprobs"]), {}
        if coefficients is not None:
            loss = coefficients * data["logprobs"] * weight
        elif self.policy_loss is not None:
            result: TokenLoss = self.policy_loss(data)
            loss, stats = result.loss * weight * shares, dict(result.stats)
        if self.token_weights:
            stats["token_weight"] = weight * torch.ones_like(loss.detach())
        for regularizer in self.regularizers:
            penalty = regularizer.piece(data)
            stats[regularizer.piece.name] = penalty.detach()
            tokens = self._weight(regularizer.tokens, data, fixed) if regularizer.tokens else 1.0
            loss = loss + regularizer.weight * penalty * tokens * shares
        return TokenLoss(torch.where(data["response_mask"], loss, 0.0), stats)

    def _credit_needs(self) -> frozenset[str]:
        """The data that the credit reads; none if no piece reads the credit."""
        if self.advantage is None or not self.reads_credit:
            return frozenset()
        chain = [*(w.piece for w in self.token_rewards), *self.reward_shaping, *self.advantage_shaping]
        return _names([self.advantage, *chain])

    def _of_tokens(self) -> list[Piece]:
        """The pieces of the token loss."""
        losses = [] if self.policy_loss is None else [self.policy_loss]
        return [*losses, *self.token_weights, *self._penalties()]

    def _comparison_needs(self) -> frozenset[str]:
        """The data that the preference losses read, and what it is made of."""
        read = _names(one.piece for one in self.preference_loss)
        return read | {source for name in read if name in BY_NAME for source in BY_NAME[name].made_of}

    def _penalties(self) -> list[Piece]:
        return [piece for w in self.regularizers for piece in (w.piece, w.tokens) if piece is not None]

    @property
    def _weights(self) -> list[Piece]:
        return [*self.token_weights, *(w.tokens for w in self.regularizers if w.tokens is not None)]

    @property
    def _weights_of_update(self) -> list[Piece]:
        """The token weights that read of the current policy its log-probabilities alone."""
        return [piece for piece in self._weights if OF_CURRENT_POLICY & set(piece.data) == {"logprobs"}]

    def _weight(self, piece: Piece, data: Mapping[str, Any], fixed: Mapping[str, Tensor]) -> Tensor:
        return fixed[_key(piece)] if _key(piece) in fixed else piece(data).detach()


def with_old_as_current(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data, its unmeasured old fields filled in from the current policy, which has had no update since."""
    missing = {name: data[now].detach() for name, now in OLD.items() if now in data and name not in data}
    return {**data, **missing}


def _is_fixed(piece: Piece) -> bool:
    return not OF_CURRENT_POLICY & set(piece.data)


def _key(piece: Piece) -> str:
    return f"{piece.name}{sorted(piece.settings.items())}"


def _names(pieces: Iterable[Piece]) -> frozenset[str]:
    return frozenset(name for piece in pieces for name in piece.data)
