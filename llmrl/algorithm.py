"""An Algorithm: the pieces of one policy-optimisation method, bound to their settings.

    Credit      = advantage(rewards + sum of weight * token_rewards, ...)      before the batch is cut
    token loss  = policy_loss(log_ratio, advantages, ...) + sum of weight * regularizers
    step loss   = sum over tokens of token loss * reduce(response_mask)

The names of the pieces' positional parameters say what a run must provide; `needs` is their union.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from llmrl.errors import RecipeError, gathered, unknown_name
from llmrl.ops import advantages, log_ratios, policy_losses, reductions, regularizers
from llmrl.pieces import Piece, catalogue, resolve
from llmrl.recipe import Recipe
from llmrl.types import Batch, Credit, TokenLoss

BATCH_FIELDS = frozenset(f.name for f in fields(Batch)) - {"values"}  # no critic predicts them
CREDIT_DATA = BATCH_FIELDS | {"logprobs"}
LOSS_DATA = CREDIT_DATA | {"advantages", "log_ratio", "entropy"}
PLACES = (
    ("policy_loss", "policy loss", policy_losses),
    ("reduce", "reduction", reductions),
    ("log_ratio", "log ratio", log_ratios),
    ("advantage", "advantage", advantages),
)


@dataclass(frozen=True)
class Weighted:
    """A piece that is added to a sum with a weight."""

    piece: Piece
    weight: float


@dataclass(frozen=True)
class Algorithm:
    """The resolved pieces of one stage; the trainer calls its methods and knows no more of a method."""

    policy_loss: Piece
    reduce: Piece
    log_ratio: Piece
    advantage: Piece | None = None
    token_rewards: tuple[Weighted, ...] = ()
    regularizers: tuple[Weighted, ...] = ()

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Algorithm:
        """Resolve the recipe's pieces, and call each one once on a tiny batch.

        Raises RecipeError with every fault: names, settings, combinations that cannot work, results of a wrong kind.
        """
        faults: list[str] = []
        found: dict[str, Any] = {}
        for key, what, module in PLACES:
            spec = getattr(recipe, key)
            if spec is not None:
                with gathered(faults):
                    found[key] = resolve(spec, catalogue(module), key=key, what=what)
        for key in ("token_rewards", "regularizers"):
            with gathered(faults):
                found[key] = _weighted(getattr(recipe, key), key)
        if faults:
            raise RecipeError(*faults)
        algorithm = cls(**found)
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
            unknown = [
                unknown_name(f"{key}.{piece.name}", name, known, "data field, for its positional parameter,")
                for name in piece.data
                if name not in known
            ]
            faults += unknown or _try(key, piece)
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
    found: list[Weighted] = []
    faults: list[str] = []
    for name, settings in specs.items():
        settings = dict(settings or {})
        weight = settings.pop("weight", None)
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
            faults.append(f"{key}.{name}.weight: expected a number, got {weight!r}")
            weight = 0.0
        with gathered(faults):
            piece = resolve({name: settings}, catalogue(regularizers), key=key, what="token penalty")
            found.append(Weighted(piece, float(weight)))
    if faults:
        raise RecipeError(*faults)
    return tuple(found)


def _try(key: str, piece: Piece) -> list[str]:
    """The fault that one call on a tiny batch shows: a setting out of range, or a result of the wrong kind."""
    data = _tiny_data()
    shape = tuple(data["response_mask"].shape)
    try:
        result = piece(data)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return [f"{key}.{piece.name}: {kind}{error}"]
    expected = {"advantage": Credit, "policy_loss": TokenLoss}.get(key, Tensor)
    tensor = {"advantage": "advantages", "policy_loss": "loss"}.get(key)
    per_token = getattr(result, tensor, None) if tensor else result
    if isinstance(result, expected) and isinstance(per_token, Tensor) and tuple(per_token.shape) == shape:
        return []
    got = f"a tensor of shape {tuple(per_token.shape)}" if isinstance(per_token, Tensor) else type(result).__name__
    return [
        f"{key}.{piece.name}: returned {got} for a batch of shape {shape}, expected a {expected.__name__} per token"
    ]


def _tiny_data() -> dict[str, Any]:
    """Two groups of two trajectories, prompts of one token, answers of one to three."""
    response_mask = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]).bool()
    logprobs = torch.where(response_mask, -0.5, 0.0)
    outcomes = torch.tensor([1.0, 0.0, 0.0, 1.0])
    last = response_mask.int().cumsum(dim=1).argmax(dim=1)
    batch = Batch(
        token_ids=torch.arange(16).reshape(4, 4),
        attention_mask=response_mask | (torch.arange(4) == 0),
        response_mask=response_mask,
        rewards=torch.zeros(4, 4).scatter(1, last[:, None], outcomes[:, None]),
        group_ids=torch.tensor([0, 0, 1, 1]),
        rollout_logprobs=logprobs,
        correct=outcomes,
        policy_version=torch.zeros(4, dtype=torch.long),
        old_logprobs=logprobs,
        ref_logprobs=logprobs,
    )
    trained = logprobs.clone().requires_grad_()
    advantages = torch.where(response_mask, outcomes[:, None] - 0.5, 0.0)
    extra = {"logprobs": trained, "log_ratio": trained - logprobs, "entropy": -trained, "advantages": advantages}
    return batch_data(batch) | extra
