"""Adding to a batch exactly the fields that pieces read, before any weight changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.errors import RecipeError, RunStopped, first_line, unknown_name
from llmrl.fields import BY_NAME, PROVIDED, names
from llmrl.pieces import Piece
from llmrl.resolve import Pieces, fields_of
from llmrl.spans import span
from llmrl.train.roles import Role
from llmrl.types import Group


def provide(
    role: Role,
    batch: Batch,
    *,
    groups: Sequence[Group] = (),
    tokenizer: Any = None,
    seed: int = 0,
    share_done: float = 0.0,
    steps_done: int = 0,
    fields: frozenset[str] | None = None,
) -> Batch:
    """The batch with every field that the role's pieces read and the batch does not have yet.

    groups: those that the batch was packed from. fields: in place of those that the role's pieces read. Raises
    RunStopped if a provider fails or gives a wrong shape.
    """
    if role.critic:
        batch = role.critic.with_context(batch, groups, tokenizer)
    training = role.learner.training
    updates = training.updates_per_step * training.epochs_per_step
    read = role.algorithm.measured(updates=updates, sampled=bool(batch.rollout_logprobs.any()))
    missing = (read if fields is None else fields) - batch.data.keys()
    available = role.models | {
        "groups": groups,
        "tokenizer": tokenizer,
        "seed": seed,
        "share_done": share_done,
        "steps_done": steps_done,
        "reading": role.algorithm.value if role.algorithm.reads_values else None,
    }
    for provider, wanted in in_order(role.pieces.providers, missing, batch.data.keys()):
        with span(provider.name):
            given = _given(provider, {**batch.data, **available, "batch": batch, "wanted": wanted}, batch)
        batch = batch.with_(**given)
    return batch


def _given(provider: Piece, data: Mapping[str, Any], batch: Batch) -> dict[str, Tensor]:
    """The provider's fields as tensors; raises RunStopped if the provider fails or a field has a wrong shape."""
    place = f"providers.{provider.name}"
    try:
        given = provider(data)
        found = dict(given) if isinstance(given, Mapping) else {fields_of(provider)[0]: given}
        tensors = {name: torch.as_tensor(value) for name, value in found.items()}
    except (RecipeError, RunStopped):
        raise
    except Exception as error:  # a user's function may raise anything
        raise RunStopped(f"{place}: {first_line(error)}") from error
    if missing := [name for name in data["wanted"] if name not in tensors]:
        raise RunStopped(f"{place}: gave no {missing[0]}, which it says that it provides")
    rows, width = batch.token_ids.shape
    for name, tensor in tensors.items():
        shape = BY_NAME[name].shape if name in BY_NAME else None
        per_token, per_row = tensor.shape[:2] == (rows, width), tensor.shape[:1] == (rows,)
        right = tensor.dim() == 0 or (per_token if tensor.dim() > 1 else per_row)
        if not (per_token if shape and shape.startswith("N T") else right or shape == "K"):
            raise RunStopped(
                f"{place}: gave {name} the shape {tuple(tensor.shape)}, expected [N, T] = ({rows}, {width})"
                + ("" if shape and shape.startswith("N T") else f", [N] = ({rows},) or a single number")
            )
    return tensors


def in_order(
    providers: Mapping[str, Piece], missing: Collection[str], there: Collection[str]
) -> list[tuple[Piece, list[str]]]:
    """The providers of the missing fields, each with its fields that are read and after the providers that it reads."""
    wanted, open_ = set(missing), list(missing)
    while open_:
        name = open_.pop()
        provider = providers.get(name)
        if provider is None:
            raise RecipeError(unknown_name("providers", name, providers, "provider of a field"))
        read = (set(provider.data) & (names(PROVIDED) | providers.keys())) - wanted - set(there)
        wanted |= read
        open_ += read
    order: list[tuple[Piece, list[str]]] = []
    done = set(there)
    while wanted - done:
        ready = sorted(name for name in wanted - done if not set(providers[name].data) & (wanted - done))
        if not ready:
            raise RecipeError(f"providers: {', '.join(sorted(wanted - done))} wait for each other")
        provider = providers[ready[0]]
        fields = sorted(name for name in wanted if providers[name] is provider)
        order.append((provider, fields))
        done |= set(fields)
    return order


def while_gathering(pieces: Pieces, *, updates: int = 1) -> list[Piece]:
    """The providers that have to run before there is a batch, one for each field that some piece reads."""
    read = pieces.algorithm.measured(updates=updates, sampled=True) | pieces.gathering
    found = {name: pieces.providers[name] for name in sorted(read) if name in pieces.providers}
    return [piece for piece in found.values() if {"collector", "measured_once"} & set(piece.data)]


def for_allocation(pieces: Pieces, models: Mapping[str, Any]) -> dict[str, Any]:
    """The providers of an allocation's fields, by field, as functions of the groups."""

    def function(piece: Piece) -> Any:
        return lambda groups: piece({**models, "groups": groups})

    asked = pieces.allocate.data if pieces.allocate else ()
    return {name: function(pieces.providers[name]) for name in asked if name in pieces.providers}


def vectors_of(batch: Batch) -> dict[str, Tensor]:
    """The provided fields of shape [K], which describe the whole step and are metrics too."""
    return {name: tensor for name, tensor in batch.data.items() if tensor.dim() == 1 and name in STEP_VECTORS}


STEP_VECTORS = names(PROVIDED, shape="K")
