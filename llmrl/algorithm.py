"""An Algorithm: the pieces of one policy-optimisation method, bound to their settings.

    Credit      = advantage(rewards + sum of weight * token_rewards, ...)      before the batch is cut
    token loss  = policy_loss(log_ratio, advantages, ...) + sum of weight * regularizers
    step loss   = sum over tokens of token loss * reduce(response_mask)

The names of the pieces' positional parameters say what a run must provide; `needs` is their union.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from llmrl.errors import RecipeError, unknown_name
from llmrl.ops import advantages, log_ratios, policy_losses, reductions, regularizers
from llmrl.pieces import Piece, catalogue, resolve
from llmrl.recipe import Recipe
from llmrl.types import Batch, Credit, TokenLoss

BATCH_FIELDS = frozenset(f.name for f in fields(Batch))
CREDIT_DATA = BATCH_FIELDS | {"logprobs"}
LOSS_DATA = CREDIT_DATA | {"advantages", "returns", "log_ratio", "entropy"}


@dataclass(frozen=True)
class Weighted:
    """A piece that is added to a sum with a weight."""

    piece: Piece
    weight: float


@dataclass(frozen=True)
class Algorithm:
    policy_loss: Piece
    reduce: Piece
    log_ratio: Piece
    advantage: Piece | None = None
    token_rewards: tuple[Weighted, ...] = ()
    regularizers: tuple[Weighted, ...] = ()

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Algorithm:
        """Resolve the recipe's pieces; raises RecipeError for names, settings and combinations that cannot work."""
        algorithm = cls(
            policy_loss=resolve(recipe.policy_loss, catalogue(policy_losses), key="policy_loss", what="policy loss"),
            reduce=resolve(recipe.reduce, catalogue(reductions), key="reduce", what="reduction"),
            log_ratio=resolve(recipe.log_ratio, catalogue(log_ratios), key="log_ratio", what="log ratio"),
            advantage=resolve(recipe.advantage, catalogue(advantages), key="advantage", what="advantage")
            if recipe.advantage
            else None,
            token_rewards=_weighted(recipe.token_rewards, "token_rewards"),
            regularizers=_weighted(recipe.regularizers, "regularizers"),
        )
        algorithm._check(recipe)
        return algorithm

    @property
    def needs(self) -> frozenset[str]:
        """Names of all data that some piece reads."""
        names = set(self.policy_loss.data)
        pieces = [w.piece for w in (*self.token_rewards, *self.regularizers)]
        if "log_ratio" in names:
            pieces.append(self.log_ratio)
        if "advantages" in names and self.advantage:
            pieces.append(self.advantage)
        return frozenset(names.union(*(piece.data for piece in pieces)))

    @property
    def credit_needs_logprobs(self) -> bool:
        """Whether the trainer's log-probabilities must be known before the advantage."""
        before = [w.piece for w in self.token_rewards] + ([self.advantage] if self.advantage else [])
        return any({"logprobs", "old_logprobs"} & set(piece.data) for piece in before)

    def credit(self, batch: Batch) -> Credit:
        """Advantages of the whole batch, from rewards plus token rewards: [N, T], zero off the response."""
        if self.advantage is None:
            return Credit(torch.zeros_like(batch.rewards))
        available = batch_data(batch) | {"logprobs": batch.old_logprobs}
        rewards = batch.rewards
        for extra in self.token_rewards:
            rewards = rewards - extra.weight * extra.piece(available) * batch.response_mask
        return self.advantage(batch_data(replace(batch, rewards=rewards)) | {"logprobs": batch.old_logprobs})

    def token_weights(self, batch: Batch) -> Tensor:
        """What each token's loss counts in the mean, over all trajectories of one optimizer step: [N, T]."""
        return self.reduce(batch_data(batch))

    def token_loss(self, data: Mapping[str, Any]) -> TokenLoss:
        """Policy loss plus weighted regularizers per token; `data` has the batch's fields, logprobs, entropy,
        advantages."""
        data = dict(data)
        if "log_ratio" in self.policy_loss.data:
            data["log_ratio"] = self.log_ratio(data)
        result: TokenLoss = self.policy_loss(data)
        loss, stats = result.loss, dict(result.stats)
        for regularizer in self.regularizers:
            penalty = regularizer.piece(data)
            stats[regularizer.piece.name] = penalty.detach()
            loss = loss + regularizer.weight * penalty
        return TokenLoss(loss, stats)

    def _check(self, recipe: Recipe) -> None:
        faults = []
        placed = [("policy_loss", self.policy_loss, LOSS_DATA), ("reduce", self.reduce, CREDIT_DATA)]
        placed += [("log_ratio", self.log_ratio, CREDIT_DATA)]
        placed += [("regularizers", w.piece, LOSS_DATA) for w in self.regularizers]
        placed += [("token_rewards", w.piece, CREDIT_DATA) for w in self.token_rewards]
        if self.advantage:
            placed.append(("advantage", self.advantage, CREDIT_DATA))
        for key, piece, known in placed:
            faults += [
                unknown_name(f"{key}.{piece.name}", name, known, "data field, for its positional parameter,")
                for name in piece.data
                if name not in known
            ]
        if "advantages" in self.policy_loss.data and self.advantage is None:
            faults.append(f"policy_loss: {self.policy_loss.name} uses advantages, but the recipe names no advantage")
        if self.advantage and "group_ids" in self.advantage.data and recipe.rollout.group_size < 2:
            faults.append(
                f"advantage: {self.advantage.name} compares trajectories of one prompt, so rollout.group_size "
                f"must be at least 2, got {recipe.rollout.group_size}"
            )
        for regularizer in self.regularizers:
            reason = regularizers.REWARD_ONLY.get(regularizer.piece.name)
            if reason:
                faults.append(f"regularizers.{regularizer.piece.name}: {reason}")
        if faults:
            raise RecipeError(*faults)


def batch_data(batch: Batch) -> dict[str, Any]:
    """The batch's fields by name, as pieces read them."""
    return {f.name: getattr(batch, f.name) for f in fields(batch)}


def _weighted(specs: Mapping[str, Mapping[str, Any] | None], key: str) -> tuple[Weighted, ...]:
    """`{kl_k3: {weight: 0.001}}` as weighted pieces."""
    found = []
    for name, settings in specs.items():
        settings = dict(settings or {})
        weight = settings.pop("weight", None)
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise RecipeError(f"{key}.{name}.weight: expected a number, got {weight!r}")
        piece = resolve({name: settings}, catalogue(regularizers), key=key, what="token penalty")
        found.append(Weighted(piece, float(weight)))
    return tuple(found)
