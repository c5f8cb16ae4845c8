"""An Algorithm: the pieces of one policy-optimisation method, bound to their settings.

    rewards     = reward_shaping(rewards - sum of weight * token_rewards)       before the batch is cut
    Credit      = advantage_shaping(advantage(rewards, ...))                    before the batch is cut
    token loss  = token_weights * policy_loss(log_ratio, advantages, ...) + sum of weight * tokens * regularizers
    step loss   = sum over tokens of token loss * reduce(response_mask)

The names of the pieces' positional parameters say what a run must provide; `needs` is their union.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from llmrl.combinations import refused
from llmrl.errors import RecipeError, gathered
from llmrl.ops import (
    advantage_shaping,
    advantages,
    controllers,
    log_ratios,
    policy_losses,
    reductions,
    regularizers,
    reward_shaping,
    token_weights,
    value_losses,
    values,
)
from llmrl.pieces import Piece, bind, catalogue, resolve
from llmrl.probe import CURRENT, probe, probe_controller
from llmrl.recipe import Recipe
from llmrl.types import Batch, Credit, TokenLoss

PLACES: tuple[tuple[str, str, ModuleType], ...] = (
    ("policy_loss", "policy loss", policy_losses),
    ("reduce", "reduction", reductions),
    ("log_ratio", "log ratio", log_ratios),
    ("advantage", "advantage", advantages),
    ("value", "reading of a critic's outputs", values),
    ("value_loss", "value loss", value_losses),
)
CHAINS: tuple[tuple[str, str, ModuleType], ...] = (
    ("reward_shaping", "reward shaping", reward_shaping),
    ("advantage_shaping", "advantage shaping", advantage_shaping),
    ("token_weights", "token weight", token_weights),
)
VALUES = frozenset({"values", "value_std"})
CRITICS = VALUES | {"old_outputs"}
"""What only a critic says: its outputs, and what they are read as."""


@dataclass(frozen=True)
class Weighted:
    """A piece that is added to a sum with a weight; tokens: a token weight for it alone."""

    piece: Piece
    weight: float
    tokens: Piece | None = None


@dataclass(frozen=True)
class Algorithm:
    """The resolved pieces of one stage; the trainer calls its methods and knows no more of a method."""

    policy_loss: Piece
    reduce: Piece
    log_ratio: Piece
    value: Piece
    value_loss: Piece
    advantage: Piece | None = None
    token_rewards: tuple[Weighted, ...] = ()
    reward_shaping: tuple[Piece, ...] = ()
    advantage_shaping: tuple[Piece, ...] = ()
    token_weights: tuple[Piece, ...] = ()
    regularizers: tuple[Weighted, ...] = ()
    controllers: Mapping[str, Piece] = field(default_factory=dict)

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
        for key, what, module in CHAINS:
            with gathered(faults):
                found[key] = _chain(getattr(recipe, key), key, what, module)
        for key in ("token_rewards", "regularizers"):
            with gathered(faults):
                found[key] = _weighted(getattr(recipe, key), key)
        with gathered(faults):
            found["controllers"] = _controllers(recipe)
        if faults:
            raise RecipeError(*faults)
        algorithm = cls(**found)
        faults = probe(algorithm.placed(), outputs=recipe.critic.outputs, rewards=len(recipe.rewards))
        running = (piece for name, piece in algorithm.controllers.items() if name in algorithm.needs)
        faults += [fault for piece in running for fault in probe_controller(piece)]
        faults = faults or refused(recipe, algorithm)
        if faults:
            raise RecipeError(*faults)
        return algorithm

    def placed(self) -> list[tuple[str, Piece]]:
        """Every piece with its key in the recipe."""
        pairs: list[tuple[str, Piece | None]] = [
            (key, getattr(self, key)) for key in ("policy_loss", "reduce", "log_ratio", "advantage")
        ]
        pairs += [("token_rewards", w.piece) for w in self.token_rewards]
        pairs += [(key, piece) for key, _, _ in CHAINS for piece in getattr(self, key)]
        for w in self.regularizers:
            pairs += [("regularizers", w.piece), ("token_weights", w.tokens)]
        if self.has_critic:
            pairs += [("value", self.value if self.reads_values else None), ("value_loss", self.value_loss)]
        return [(key, piece) for key, piece in pairs if piece is not None]

    @property
    def needs(self) -> frozenset[str]:
        """Names of all data that some piece reads."""
        at_loss = _names([self.policy_loss, *self.token_weights, *self._penalties()])
        if "log_ratio" in at_loss:
            at_loss |= _names([self.log_ratio])
        return at_loss | self._credit_needs(at_loss)

    @property
    def has_critic(self) -> bool:
        """Whether some piece reads what a critic says."""
        return bool(CRITICS & self.needs)

    @property
    def reads_values(self) -> bool:
        """Whether some piece reads a critic's outputs as values."""
        return bool(VALUES & self.needs)

    @property
    def predicts_grades(self) -> bool:
        """Whether there is a critic that learns how trajectories end."""
        return self.has_critic and "grades" in self.value_loss.data

    @property
    def is_coupled(self) -> bool:
        """Whether the policy loss compares trajectories, so that it has to see those of an update together."""
        return "group_ids" in self.policy_loss.data

    @property
    def needs_before_updates(self) -> frozenset[str]:
        """Data that is read before the batch is cut, where `logprobs` are the old ones."""
        early = _names(piece for piece in [*self.token_weights, *self._penalties()] if _is_fixed(piece))
        names = self._credit_needs(_names([self.policy_loss])) | early
        if self.is_coupled:
            names |= {"old_logprobs"}
        return names - {"logprobs"} | ({"old_logprobs"} if "logprobs" in names else frozenset())

    def credit(self, batch: Batch, extra: Mapping[str, Tensor] | None = None) -> Credit:
        """Advantages of the whole batch, [N, T], zero off the response; `extra` holds the controllers' outputs."""
        if self.advantage is None:
            return Credit(torch.zeros_like(batch.rewards))
        known = batch_data(batch) | {"logprobs": batch.old_logprobs} | dict(extra or {})
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
        returns = None if credit.returns is None else credit.returns.masked_fill(~batch.response_mask, math.nan)
        return Credit(advantages, returns)

    def shares(self, batch: Batch) -> Tensor:
        """What each token's loss counts in the mean, over all trajectories of one optimizer step: [N, T]."""
        return self.reduce(batch_data(batch))

    def value_targets(self, batch: Batch, credit: Credit) -> Tensor:
        """The response tokens at which all targets that the value loss reads are known: [N, T]."""
        known = batch.response_mask
        if "returns" in self.value_loss.data:
            assert credit.returns is not None
            known = known & credit.returns.isfinite()
        if "grades" in self.value_loss.data:
            assert batch.grades is not None
            known = known & (batch.grades >= 0).unsqueeze(1)
        return known

    def fixed_weights(
        self, batch: Batch, advantages: Tensor, extra: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """The token weights that read nothing of the current policy, over the whole batch, by piece: [N, T] each."""
        known = batch_data(batch) | {"advantages": advantages} | dict(extra or {})
        pieces = [*self.token_weights, *(w.tokens for w in self.regularizers)]
        return {_key(piece): piece(known) for piece in pieces if piece is not None and _is_fixed(piece)}

    def objective(
        self,
        data: Mapping[str, Any],
        shares: Tensor,
        fixed: Mapping[str, Tensor],
        coefficients: Tensor | None = None,
    ) -> TokenLoss:
        """Each token's part of the step's loss: policy loss plus weighted regularizers, times its share.

        data: the batch's fields, advantages, and the current policy's logprobs, entropy and so on. fixed: rows of what
        `fixed_weights` gave. coefficients: of a coupled loss, its gradient with respect to the log-probabilities, which
        replaces it.
        """
        data = dict(data)
        if "log_ratio" in self.needs:
            data["log_ratio"] = self.log_ratio(data)
        weight = math.prod((self._weight(piece, data, fixed) for piece in self.token_weights), start=1.0)
        if coefficients is None:
            result: TokenLoss = self.policy_loss(data)
            loss, stats = result.loss * weight * shares, dict(result.stats)
        else:
            loss, stats = coefficients * data["logprobs"] * weight, {}
        if self.token_weights:
            stats["token_weight"] = weight * torch.ones_like(loss.detach())
        for regularizer in self.regularizers:
            penalty = regularizer.piece(data)
            stats[regularizer.piece.name] = penalty.detach()
            tokens = self._weight(regularizer.tokens, data, fixed) if regularizer.tokens else 1.0
            loss = loss + regularizer.weight * penalty * tokens * shares
        return TokenLoss(torch.where(data["response_mask"], loss, 0.0), stats)

    def _credit_needs(self, at_loss: frozenset[str]) -> frozenset[str]:
        """What the credit reads, if somebody reads the credit."""
        read_by = _names([*self.token_weights, *self._penalties()]) | at_loss
        if self.advantage is None or not ({"advantages"} | CRITICS) & read_by:
            return frozenset()
        chain = [*(w.piece for w in self.token_rewards), *self.reward_shaping, *self.advantage_shaping]
        return _names([self.advantage, *chain])

    def _penalties(self) -> list[Piece]:
        return [piece for w in self.regularizers for piece in (w.piece, w.tokens) if piece is not None]

    def _weight(self, piece: Piece, data: Mapping[str, Any], fixed: Mapping[str, Tensor]) -> Tensor:
        return fixed[_key(piece)] if _is_fixed(piece) else piece(data).detach()


def batch_data(batch: Batch) -> dict[str, Any]:
    """The batch's fields by name, as pieces read them."""
    return {f.name: getattr(batch, f.name) for f in fields(batch)}


def coupled_coefficients(
    algorithm: Algorithm, mini: Batch, logprobs: Tensor, advantages: Tensor, extra: Mapping[str, Tensor]
) -> tuple[Tensor, TokenLoss]:
    """The gradient of a coupled policy loss with respect to an update's log-probabilities, and the loss: [N, T].

    sum(coefficients * logprobs) then has the loss's gradient, however the trajectories are divided.
    """
    leaf = logprobs.detach().clone().requires_grad_()
    data = batch_data(mini) | {"logprobs": leaf, "advantages": advantages} | dict(extra)
    if mini.old_logprobs is None:
        data["old_logprobs"] = logprobs.detach()
    if "log_ratio" in algorithm.policy_loss.data:
        data["log_ratio"] = algorithm.log_ratio(data)
    with torch.enable_grad():
        result: TokenLoss = algorithm.policy_loss(data)
        total = torch.where(mini.response_mask, result.loss, 0.0).sum()
        (coefficients,) = torch.autograd.grad(total, leaf)
    return coefficients, replace(result, loss=result.loss.detach())


def _is_fixed(piece: Piece) -> bool:
    return not CURRENT & set(piece.data)


def _key(piece: Piece) -> str:
    return f"{piece.name}{sorted(piece.settings.items())}"


def _names(pieces: Iterable[Piece]) -> frozenset[str]:
    return frozenset(name for piece in pieces for name in piece.data)


def _chain(specs: Mapping[str, Any], key: str, what: str, module: ModuleType) -> tuple[Piece, ...]:
    found: list[Piece] = []
    faults: list[str] = []
    for name, settings in specs.items():
        with gathered(faults):
            found.append(resolve({name: settings}, catalogue(module), key=key, what=what))
    if faults:
        raise RecipeError(*faults)
    return tuple(found)


def _weighted(specs: Mapping[str, Mapping[str, Any] | None], key: str) -> tuple[Weighted, ...]:
    """`{kl_k3: {weight: 0.001}}` as weighted pieces."""
    found: list[Weighted] = []
    faults: list[str] = []
    for name, settings in specs.items():
        settings = dict(settings or {})
        weight, tokens = settings.pop("weight", None), settings.pop("tokens", None)
        if not isinstance(weight, int | float) or isinstance(weight, bool) or not math.isfinite(weight):
            faults.append(f"{key}.{name}.weight: expected a number, got {weight!r}")
            weight = 0.0
        if tokens is not None and key == "token_rewards":
            faults.append(f"{key}.{name}.tokens: only a regularizer can be limited to some tokens")
            continue
        with gathered(faults):
            piece = resolve({name: settings}, catalogue(regularizers), key=key, what="token penalty")
            if tokens is not None:
                place = f"{key}.{name}.tokens"
                tokens = resolve(tokens, catalogue(token_weights), key=place, what="token weight")
            found.append(Weighted(piece, float(weight), tokens))
    if faults:
        raise RecipeError(*faults)
    return tuple(found)


def _controllers(recipe: Recipe) -> dict[str, Piece]:
    """Every controller, with the recipe's settings where it gives some."""
    known = catalogue(controllers)
    _chain(recipe.controllers, "controllers", "controller", controllers)
    return {
        name: bind(name, function, recipe.controllers.get(name) or {}, key="controllers")
        for name, function in known.items()
    }
