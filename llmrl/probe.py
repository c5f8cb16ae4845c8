"""Calls each piece once on a tiny batch, so that a wrong setting or result is a fault before anything loads."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from llmrl.axes import BY_KEY, COMPARISON, CREDIT, LOSS, TARGETS
from llmrl.errors import unknown_name
from llmrl.fields import BUDGET, BY_NAME, tiny_data
from llmrl.ops import controllers
from llmrl.pieces import Piece, bind, catalogue
from llmrl.types import Credit, TokenLoss

RESULTS = {CREDIT: (Credit, "advantages"), LOSS: (TokenLoss, "loss")}
CONTROLLERS = frozenset(catalogue(controllers))


def readable(key: str, provided: Collection[str] = ()) -> frozenset[str]:
    """The data that a piece under `key` may read; provided: what the recipe's own providers and controllers
    bring."""
    axis = BY_KEY[key]
    whole = axis.reads | (CONTROLLERS if axis.controlled else frozenset())
    return whole | frozenset(provided) if axis.moments else whole


OWN_SHAPES = ((4, 4), (4,), ())
"""The shapes of a recipe's own field: [N, T], [N] or a single number; nothing declares which, so all are tried."""


def tiny(
    outputs: int,
    rewards: int,
    provided: Collection[str] = (),
    shape: tuple[int, ...] = OWN_SHAPES[0],
    *,
    heads: int = 1,
    past: int = 1,
) -> dict[str, Any]:
    """The tiny batch, the controllers' first outputs, and zeros of `shape` for the recipe's own fields."""
    own = dict.fromkeys(provided, torch.zeros(shape))
    bound = {name: bind(name, function, {}, key="controllers") for name, function in catalogue(controllers).items()}
    initial = {name: control_output(start(controller)) for name, controller in bound.items()}
    return own | tiny_data(outputs, rewards, heads, past) | initial


def probe(
    placed: Sequence[tuple[str, Piece]],
    *,
    outputs: int,
    rewards: int,
    heads: int = 1,
    past: int = 1,
    provided: Collection[str] = (),
) -> list[str]:
    """The faults of pieces under their keys: data that nobody provides, settings out of range, wrong results.

    outputs, heads: numbers per token of the critic and of the reward model. rewards, past: how many reward functions
    and earlier policies there are. provided: what the recipe's own providers and controllers bring.
    """
    faults: list[str] = []
    for key, piece in placed:
        shapes = OWN_SHAPES if set(piece.data) & set(provided) else OWN_SHAPES[:1]
        found = unread(key, piece, provided)
        if not found:
            batches = [tiny(outputs, rewards, provided, shape, heads=heads, past=past) for shape in shapes]
            tries = [_try(key, piece, batch) for batch in batches]
            found = tries[0] if all(tries) else []
        faults += found
    return faults


def unread(key: str, piece: Piece, provided: Collection[str] = ()) -> list[str]:
    """The faults of positional parameters that nobody provides."""
    known = readable(key, provided)
    return [unknown_data(key, piece, name, known) for name in piece.data if name not in known]


def unknown_data(key: str, piece: Piece, name: str, known: Collection[str]) -> str:
    """The fault of one positional parameter that nobody provides; one with a default was meant as a setting."""
    parameter = inspect.signature(piece.function).parameters.get(name)
    if parameter and parameter.default is not parameter.empty:
        return (
            f"{key}.{piece.name}: its parameter '{name}' has a default, as settings have, but stands where data "
            f"stand, and no data field has that name; write the star before its settings: def "
            f"{piece.function.__name__}({', '.join([*piece.data[: piece.data.index(name)], '*', f'{name}=...'])})"
        )
    return unknown_name(f"{key}.{piece.name}", name, known, "data field, for its positional parameter,")


def _try(key: str, piece: Piece, data: dict[str, Any]) -> list[str]:
    """The fault that one call shows: a setting out of range, or a result of the wrong kind."""
    shape = _shape_of(key, piece, data)
    try:
        result = piece(data)
    except Exception as error:  # a user's function may raise anything
        return [_raised(f"{key}.{piece.name}", error)]
    expected, tensor = RESULTS.get(BY_KEY[key].returns or "", (Tensor, None))
    per_token = getattr(result, tensor, None) if tensor else result
    shapes = [shape]
    if BY_KEY[key].returns == TARGETS:
        shapes.append((*shape, data["old_outputs"].shape[-1]))
    if isinstance(result, expected) and isinstance(per_token, Tensor) and tuple(per_token.shape) in shapes:
        is_loss = BY_KEY[key].returns in (LOSS, COMPARISON)
        return [_without_gradient(key, piece, data)] if is_loss and not per_token.requires_grad else []
    got = f"a tensor of shape {tuple(per_token.shape)}" if isinstance(per_token, Tensor) else type(result).__name__
    if BY_KEY[key].returns == COMPARISON:
        return [f"{key}.{piece.name}: returned {got}, expected {COMPARISON}, here of shape {shape}"]
    return [
        f"{key}.{piece.name}: returned {got} for a batch of shape {shape}, expected a {expected.__name__} per token"
    ]


def _shape_of(key: str, piece: Piece, data: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the piece's result on the tiny batch."""
    if BY_KEY[key].returns != COMPARISON:
        return tuple(data["response_mask"].shape)
    return tuple(data["chosen" if of_pairs(piece) else "completion_rewards"].shape)


def _without_gradient(key: str, piece: Piece, data: Mapping[str, Any]) -> str:
    trained = ("is detached from what it reads of the model:", [name for name in piece.data if _trains(data[name])])
    lacking = ("reads nothing of the model; name one of", sorted(n for n in readable(key) if _trains(data[n])))
    told, names = trained if trained[1] else lacking
    return f"{key}.{piece.name}: its loss has no gradient, so it trains nothing; it {told} {', '.join(names)}"


def _trains(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def of_pairs(piece: Piece) -> bool:
    """Whether a preference loss is one of pairs; else it is one of completions."""
    return any(BY_NAME[name].shape.startswith("M") for name in piece.data if name in BY_NAME)


def start(controller: Piece) -> dict[str, float]:
    """A controller's first state, before any step was measured."""
    return controller({**dict.fromkeys(controller.data), "state": {}, "metrics": {}})


def control_output(state: Mapping[str, float]) -> Tensor:
    """A controller's output as data: a number, or a vector."""
    several = [value for key, value in state.items() if key.startswith("value/")]
    return torch.tensor(several or state["value"])


def probe_allocation(piece: Piece) -> list[str]:
    """The faults of an allocation, as two prompts show them."""
    if unknown := unread("allocate", piece):
        return unknown
    try:
        counts = torch.as_tensor(piece(tiny_data()))
    except Exception as error:  # a user's function may raise anything
        return [_raised(f"allocate.{piece.name}", error)]
    if counts.shape == (2,) and counts.sum() == BUDGET and (counts >= 0).all() and (counts == counts.round()).all():
        return []
    return [
        f"allocate.{piece.name}: gave {counts.tolist()} for 2 prompts and a budget of {BUDGET}, expected 2 whole "
        f"numbers whose sum is the budget"
    ]


class _AnyMetric(dict[str, float]):
    """Metrics of a step in which everything was measured."""

    def __missing__(self, name: str) -> float:
        return 0.5

    def get(self, name: str, default: Any = None) -> float:
        return self[name]


def probe_controller(piece: Piece) -> list[str]:
    """The fault of a controller that cannot start or take a step, or that gives no state."""
    known = BY_KEY["controllers"].reads | BY_NAME.keys()
    if unknown := [name for name in piece.data if name not in known]:
        place = f"controllers.{piece.name}"
        return [unknown_name(place, name, known, "data, for its positional parameter,") for name in unknown]
    state: Any = {}
    try:
        for metrics in ({}, _AnyMetric()):
            state = piece({**dict.fromkeys(piece.data), "state": state, "metrics": metrics})
            if fault := _state_fault(state):
                return [f"controllers.{piece.name}: {fault}"]
    except Exception as error:  # a user's function may raise anything
        return [_raised(f"controllers.{piece.name}", error)]
    return []


def _state_fault(state: Any) -> str | None:
    if not isinstance(state, Mapping):
        return f"gave {type(state).__name__}, expected a dict of numbers with its output as `value`"
    if wrong := [key for key, value in state.items() if not isinstance(value, int | float)]:
        return f"gave {type(state[wrong[0]]).__name__} as {wrong[0]!r}, expected a number"
    if not any(key == "value" or key.startswith("value/") for key in state):
        return f"gave no output: expected `value`, or `value/0` and more, among {', '.join(state) or 'nothing'}"
    return None


def _raised(place: str, error: Exception) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{place}: {kind}{error}"
