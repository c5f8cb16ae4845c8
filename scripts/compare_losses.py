"""Compare preference losses and their gradients with those of TRL 1.16, on the same log-probabilities.

    scripts/peer_setup.sh /tmp/peer
    python scripts/compare_losses.py /tmp/peer/bin/python

TRL's side is the code of its trainers (scripts/compare_losses_peer.py); llmrl's is a recipe's whole objective: the
preference losses in the mean over pairs or completions, and a policy loss or regularizers under their reduction. It
prints a table for docs/preference_losses.md; the exit code is 1 if a loss or a gradient differs by more than 1e-5 of
its size.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.recipe import Recipe
from llmrl.resolve import resolve_pieces
from llmrl.train.preferences import PreferenceObjective

PAIRS, WIDTH = 6, 24
TOLERANCE = 1e-5


def one(name: str, weight: float = 1.0, **settings: Any) -> dict[str, Any]:
    return {"preference_loss": {name: {"weight": weight} | settings}}


def nll(weight: float) -> dict[str, Any]:
    return {"regularizers": {"nll": {"weight": weight, "tokens": "chosen_tokens"}}, "reduce": "token_mean"}


def dpo(loss: str = "sigmoid", beta: float = 0.1, **settings: Any) -> tuple[str, dict[str, Any]]:
    return "dpo", {"loss_types": [loss], "beta": beta, **settings}


MPO = {"loss_types": ["sigmoid", "bco_pair", "sft"], "loss_weights": [0.8, 0.2, 1.0]}
COMPARED: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]]]] = {
    "dpo": (one("dpo"), dpo()),
    "robust_dpo": (one("robust_dpo"), dpo("robust", label_smoothing=0.1)),
    "length_normalized_dpo": (one("length_normalized_dpo"), dpo("sigmoid_norm", 5.0)),
    "ld_dpo": (one("ld_dpo"), dpo(ld_alpha=0.5)),
    "forward_kl_dpo": (one("forward_kl_dpo"), dpo(f_divergence_type="forward_kl")),
    "jensen_shannon_dpo": (one("jensen_shannon_dpo"), dpo(f_divergence_type="js_divergence")),
    "alpha_dpo, alpha 0.3": (
        one("alpha_dpo", alpha=0.3),
        dpo(f_divergence_type="alpha_divergence", f_alpha_divergence_coef=0.7),
    ),
    "hinge": (one("hinge"), dpo("hinge", 0.05)),
    "ipo, per_token": (one("ipo", per_token=True), dpo("ipo")),
    "exo": (one("exo"), dpo("exo_pair", label_smoothing=0.001)),
    "nca": (one("nca"), dpo("nca_pair", 0.01)),
    "infonca": (one("infonca"), dpo("sigmoid", 0.01)),
    "bco_pair": (one("bco_pair"), dpo("bco_pair")),
    "sppo, weight 2": (one("sppo", 2.0, beta=0.01), dpo("sppo_hard", 0.01)),
    "aot": (one("aot"), dpo("aot", 0.01)),
    "aot_unpaired": (one("aot_unpaired"), dpo("aot_unpaired", 0.01)),
    "apo_zero": (one("apo_zero"), dpo("apo_zero")),
    "apo_down": (one("apo_down"), dpo("apo_down")),
    "discopop": (one("discopop"), dpo("discopop", 0.05)),
    "method mpo": (
        {"preference_loss": {"dpo": {"weight": 0.8}, "bco_pair": {"weight": 0.2, "beta": 0.1}}} | nll(1.0),
        ("dpo", MPO | {"beta": 0.1}),
    ),
    "kto": (one("kto"), ("kto", {"loss_type": "kto", "beta": 0.1})),
    "simpo": (one("simpo"), ("cpo", {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0})),
    "alphapo": (one("alphapo"), ("cpo", {"loss_type": "simpo", "beta": 2.5, "simpo_gamma": 0.1, "alpha": 0.25})),
    "cpo": (one("cpo"), ("cpo", {"loss_type": "sigmoid", "beta": 0.1})),
    "orpo, weight 0.1": (one("orpo", 0.1), ("orpo", {"beta": 0.1})),
}
"""A recipe's losses, and the trainer and its settings that should be the same."""


def main() -> int:
    """Evaluate both sides, print the table."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    data = _data()
    mask = data["response_mask"][:, 1:]
    mismatched = torch.linspace(-20, -10, 2 * PAIRS)
    tensors = {
        "logprobs": data["logprobs"][:, 1:], "ref_logprobs": data["ref_logprobs"][:, 1:], "mask": mask.int(),
        "labels": torch.arange(2 * PAIRS) < PAIRS, "kl_logprobs": mismatched + 0.7, "kl_ref_logprobs": mismatched,
    }  # fmt: skip
    asked = {
        "tensors": {name: value.tolist() for name, value in tensors.items()},
        "losses": {name: peer for name, (_, peer) in COMPARED.items()},
    }
    worker = Path(__file__).with_name("compare_losses_peer.py")
    said = subprocess.run([sys.argv[1], worker], input=json.dumps(asked), text=True, stdout=subprocess.PIPE, check=True)
    theirs = json.loads(said.stdout)
    print("| llmrl | TRL 1.16 | loss | loss differs by | gradient differs by |\n| --- | --- | --- | --- | --- |")
    worst = 0.0
    for name, (recipe, peer) in COMPARED.items():
        loss, gradient = _ours(recipe, data)
        their_loss, their_gradient = theirs[name][0], torch.tensor(theirs[name][1]) * mask
        of_loss = abs(loss - their_loss) / abs(their_loss)
        of_gradient = float((gradient[:, 1:] - their_gradient).abs().max() / their_gradient.abs().max())
        worst = max([worst, of_loss, of_gradient], key=lambda value: math.inf if math.isnan(value) else value)
        print(f"| {name} | {_named(*peer)} | {their_loss:.6f} | {of_loss:.0e} | {of_gradient:.0e} |")
    return int(not worst <= TOLERANCE)


def _data() -> dict[str, Tensor]:
    """Pairs of unequal lengths; the chosen ones first. Column 0 is a prompt of one token."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(4, WIDTH, (2 * PAIRS, 1), generator=generator)
    mask = (torch.arange(WIDTH) > 0) & (torch.arange(WIDTH) <= lengths)
    policy = -torch.rand(2 * PAIRS, WIDTH, generator=generator) * 2
    reference = policy + 0.3 * torch.randn(2 * PAIRS, WIDTH, generator=generator)
    rewards = (torch.arange(2 * PAIRS) < PAIRS).float()[:, None] * (torch.arange(WIDTH) == 1)
    return {
        "token_ids": torch.ones(2 * PAIRS, WIDTH, dtype=torch.int64),
        "attention_mask": torch.arange(WIDTH) <= lengths,
        "response_mask": mask,
        "logprobs": policy * mask,
        "ref_logprobs": reference.clamp(max=-0.01) * mask,
        "rewards": rewards,
        "group_ids": torch.arange(2 * PAIRS) % PAIRS,
        "mismatched_kl": torch.tensor(0.7),
    }


def _ours(losses: dict[str, Any], data: dict[str, Tensor]) -> tuple[float, Tensor]:
    """The loss of a recipe with these losses, and its gradient with respect to the log-probabilities."""
    rows = {"path": "unused", "chosen": "chosen", "rejected": "rejected"}
    recipe = Recipe.model_validate(
        {"name": "compared", "run_dir": "unused", "model": "unused", "data": {"train": rows}}
        | {"learn_from": "preferences", "rollout": {"group_size": 2}}
        | losses
    )
    algorithm = resolve_pieces(recipe).algorithm
    leaf = data["logprobs"].clone().requires_grad_()
    batch = Batch(**{name: value for name, value in data.items() if name != "logprobs"})
    total = torch.stack(list(_parts(algorithm, batch, leaf))).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    return total.item(), gradient


def _parts(algorithm: Any, batch: Batch, logprobs: Tensor) -> Iterator[Tensor]:
    yield PreferenceObjective(algorithm, PAIRS, 2 * PAIRS, {}).loss(batch, {"logprobs": logprobs})
    if algorithm.trains_tokens:
        advantages = torch.zeros_like(logprobs)
        known = {**batch.data, "logprobs": logprobs, "advantages": advantages}
        yield algorithm.objective(known, algorithm.shares(batch), algorithm.fixed_weights(batch, advantages)).loss.sum()


def _named(trainer: str, settings: dict[str, Any]) -> str:
    classes = {"dpo": "DPOTrainer", "kto": "KTOTrainer", "cpo": "CPOTrainer", "orpo": "ORPOTrainer"}
    shown = ", ".join(f"{name} {_listed(value)}" for name, value in settings.items())
    return f"{classes[trainer]}: {shown}"


def _listed(value: Any) -> str:
    return " + ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    sys.exit(main())
