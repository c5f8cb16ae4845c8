"""Calling each piece once on a tiny batch, so that a wrong setting or result is a fault before anything loads."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from llmrl.errors import unknown_name
from llmrl.ops import controllers
from llmrl.pieces import Piece, catalogue
from llmrl.types import Batch, Credit, TokenLoss

BATCH_FIELDS = frozenset(f.name for f in fields(Batch))
CURRENT = frozenset({"logprobs", "entropy", "log_ratio", "top_logprobs", "router_drift"})
"""What only the current policy can say, while it is trained."""
CONTROLLERS = frozenset(catalogue(controllers))
BEFORE = BATCH_FIELDS | CONTROLLERS
DATA = {
    "reduce": BATCH_FIELDS,
    "token_rewards": BEFORE | {"logprobs"},
    "reward_shaping": BEFORE | {"logprobs"},
    "advantage": BEFORE | {"logprobs"},
    "advantage_shaping": BEFORE | {"logprobs", "advantages"},
    "log_ratio": BATCH_FIELDS | {"logprobs", "router_drift"},
    "policy_loss": BEFORE | CURRENT | {"advantages"},
    "token_weights": BEFORE | CURRENT | {"advantages"},
    "regularizers": BEFORE | CURRENT | {"advantages"},
    "value": frozenset({"outputs"}),
    "value_loss": frozenset({"outputs", "old_outputs", "returns", "grades", "uniform_noise", "response_mask"}),
}
RESULTS = {"advantage": (Credit, "advantages"), "policy_loss": (TokenLoss, "loss"), "value_loss": (TokenLoss, "loss")}


BUDGET = 8
OF_PROMPTS = {
    "samples": torch.tensor([4.0, 4.0], dtype=torch.float64),
    "successes": torch.tensor([1.0, 3.0], dtype=torch.float64),
    "means": torch.tensor([0.25, 0.75], dtype=torch.float64),
    "stds": torch.tensor([0.5, 0.5], dtype=torch.float64),
    "gradient_norms": torch.tensor([1.0, 2.0], dtype=torch.float64),
    "budget": BUDGET,
}
"""What an allocation may read: two prompts of four completions, and how many more there are to give."""


def probe(placed: Sequence[tuple[str, Piece]], *, outputs: int, rewards: int) -> list[str]:
    """The faults of pieces under their keys: data that nothing provides, settings out of range, wrong results.

    outputs: numbers per token of the critic. rewards: how many reward functions there are.
    """
    faults: list[str] = []
    for key, piece in placed:
        known = DATA[key]
        unknown = [
            unknown_name(f"{key}.{piece.name}", name, known, "data field, for its positional parameter,")
            for name in piece.data
            if name not in known
        ]
        faults += unknown or _try(key, piece, tiny_data(outputs, rewards))
    return faults


def _try(key: str, piece: Piece, data: dict[str, Any]) -> list[str]:
    """The fault that one call shows: a setting out of range, or a result of the wrong kind."""
    shape = tuple(data["response_mask"].shape)
    try:
        result = piece(data)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        return [f"{key}.{piece.name}: {kind}{error}"]
    expected, tensor = RESULTS.get(key, (Tensor, None))
    per_token = getattr(result, tensor, None) if tensor else result
    if isinstance(result, expected) and isinstance(per_token, Tensor) and tuple(per_token.shape) == shape:
        return []
    got = f"a tensor of shape {tuple(per_token.shape)}" if isinstance(per_token, Tensor) else type(result).__name__
    return [
        f"{key}.{piece.name}: returned {got} for a batch of shape {shape}, expected a {expected.__name__} per token"
    ]


def tiny_data(outputs: int = 1, rewards: int = 1) -> dict[str, Any]:
    """Two groups of two trajectories, prompts of one token, answers of one to three; every field there is."""
    response_mask = torch.tensor([[0, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1]]).bool()
    logprobs = torch.where(response_mask, -0.5, 0.0)
    outcomes = torch.tensor([1.0, 0.0, 0.0, 1.0])
    last = response_mask.int().cumsum(dim=1).argmax(dim=1)
    turn_ends = torch.arange(4) == last[:, None]
    top = torch.log_softmax(torch.arange(8, 0, -1.0), dim=0).expand(4, 4, 8)
    advantages = torch.where(response_mask, outcomes[:, None] - 0.5, 0.0)
    trained = logprobs.clone().requires_grad_()
    predictions = torch.zeros(4, 4, outputs)
    return {
        "token_ids": torch.arange(16).reshape(4, 4),
        "attention_mask": response_mask | (torch.arange(4) == 0),
        "response_mask": response_mask,
        "rewards": torch.zeros(4, 4).scatter(1, last[:, None], outcomes[:, None]),
        "group_ids": torch.tensor([0, 0, 1, 1]),
        "rollout_logprobs": logprobs,
        "correct": outcomes,
        "policy_version": torch.zeros(4, dtype=torch.long),
        "turn_ids": torch.where(response_mask, 0, -1),
        "turn_rewards": torch.where(turn_ends, outcomes[:, None], math.nan),
        "answer_ids": torch.tensor([0, 1, 1, 0]),
        "reward_components": outcomes[:, None].expand(4, rewards),
        "greedy_rewards": outcomes,
        "static_values": outcomes / 2,
        "grades": outcomes.long(),
        "uniform_noise": torch.linspace(0, 0.9, 16).reshape(4, 4),
        "progress": torch.tensor(0.5),
        "old_logprobs": logprobs,
        "old_entropy": -logprobs,
        "old_top_ids": torch.arange(8).expand(4, 4, 8),
        "old_top_logprobs": top,
        "old_router_ids": torch.zeros(4, 4, 1, 1, dtype=torch.long),
        "old_router_logprobs": torch.zeros(4, 4, 1, 1),
        "answer_logprobs": logprobs - 0.5,
        "ref_logprobs": logprobs,
        "old_outputs": predictions,
        "values": advantages,
        "value_std": advantages.abs(),
        "logprobs": trained,
        "entropy": -trained,
        "log_ratio": trained - logprobs,
        "top_logprobs": top.clone().requires_grad_(),
        "router_drift": torch.zeros(4, 4),
        "advantages": advantages,
        "outputs": predictions.clone().requires_grad_(),
        "returns": advantages,
        **{name: _initial_output(controller) for name, controller in catalogue(controllers).items()},
    }


def _initial_output(controller: Callable[..., dict[str, float]]) -> Tensor:
    state = controller({}, {})
    return torch.tensor(state["value"] if "value" in state else [state["value/0"]])


def probe_allocation(piece: Piece) -> list[str]:
    """The faults of an allocation, as two prompts show them."""
    unknown = [
        unknown_name(f"allocate.{piece.name}", name, OF_PROMPTS, "data field, for its positional parameter,")
        for name in piece.data
        if name not in OF_PROMPTS
    ]
    if unknown:
        return unknown
    try:
        counts = torch.as_tensor(piece(OF_PROMPTS))
    except Exception as error:  # a user's function may raise anything
        return [_raised(f"allocate.{piece.name}", error)]
    if counts.shape == (2,) and counts.sum() == BUDGET and (counts >= 0).all() and (counts == counts.round()).all():
        return []
    return [
        f"allocate.{piece.name}: gave {counts.tolist()} for 2 prompts and a budget of {BUDGET}, expected 2 whole "
        f"numbers whose sum is the budget"
    ]


def probe_controller(piece: Piece) -> list[str]:
    """The fault of a controller that cannot start."""
    try:
        piece({"state": {}, "metrics": {}})
    except Exception as error:
        return [_raised(f"controllers.{piece.name}", error)]
    return []


def _raised(place: str, error: Exception) -> str:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return f"{place}: {kind}{error}"
