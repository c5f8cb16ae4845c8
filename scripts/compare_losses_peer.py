"""Evaluate TRL's preference losses on given log-probabilities, for scripts/compare_losses.py; TRL's Python runs this.

Standard input: {"tensors": name -> nested lists, "losses": name -> {"trainer", settings of the trainer}}. Standard
output: name -> [loss, its gradient with respect to the log-probabilities].
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from trl import DPOTrainer, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer


class Says(torch.nn.Module):
    """A model that says given log-probabilities [2M, T - 1]."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs: torch.Tensor):
        super().__init__()
        self.log_probs = log_probs

    def forward(self, **inputs: Any) -> Any:
        zeros = torch.zeros_like(self.log_probs.detach())
        return SimpleNamespace(
            log_probs=self.log_probs, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), aux_loss=None
        )


def stub(model: Says, reference: Says, settings: dict[str, Any]) -> Any:
    """What a trainer's loss reads of the trainer."""
    same = lambda values: values  # noqa: E731
    accelerator = SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)
    arguments = SimpleNamespace(gradient_checkpointing_kwargs=None, discopop_tau=settings.get("discopop_tau", 0.05))
    plain = {
        "model": model, "ref_model": reference, "accelerator": accelerator, "args": arguments,
        "aux_loss_enabled": False, "ld_alpha": None, "precompute_ref_logps": False,
        "f_divergence_type": "reverse_kl", "label_smoothing": 0.0,
        "f_alpha_divergence_coef": 0.5, "loss_weights": [1.0], "use_weighting": False, "_total_train_tokens": 0,
        "_tp_size": 1, "_metrics": defaultdict(lambda: defaultdict(list)), "calculate_KL": True, "alpha": 0.0,
        "desirable_weight": 1.0, "undesirable_weight": 1.0, "router_aux_loss_coef": 0.0,
    }  # fmt: skip
    return SimpleNamespace(**plain | settings)


def loss_of(trainer: str, settings: dict[str, Any], tensors: dict[str, torch.Tensor], logprobs: torch.Tensor) -> Any:
    """The loss as the trainer's own code computes it."""
    mask = tensors["mask"].bool()
    model, reference = Says(logprobs), Says(tensors["ref_logprobs"])
    own = stub(model, reference, settings)
    whole = torch.nn.functional.pad(mask, (1, 0)).long()  # with the first token, which nobody predicts
    inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole), "completion_mask": whole}
    if trainer == "dpo":
        return DPOTrainer._compute_loss(own, model, inputs, False)
    if trainer == "kto":
        spoken = {id(model): tensors["kl_logprobs"], id(reference): tensors["kl_ref_logprobs"]}
        own._compute_kl_logps = lambda asked, batch: spoken[id(asked)]
        return KTOTrainer._compute_loss(own, model, inputs | {"label": tensors["labels"].bool()}, False)
    sums = logprobs.sum(dim=1)
    means = sums / mask.sum(dim=1)
    half = len(sums) // 2
    if trainer == "orpo":
        return -ORPOTrainer.odds_ratio_loss(own, means[:half], means[half:])[0].mean()
    read = means if own.loss_type == "simpo" else sums
    return CPOTrainer.cpo_loss(own, read[:half], read[half:])[0].mean()


def main() -> None:
    """Read, evaluate, write."""
    asked = json.load(sys.stdin)
    tensors = {name: torch.tensor(values) for name, values in asked["tensors"].items()}
    found = {}
    for name, (trainer, settings) in asked["losses"].items():
        logprobs = tensors["logprobs"].clone().requires_grad_()
        loss = loss_of(trainer, settings, tensors, logprobs)
        loss.backward()
        found[name] = [loss.item(), logprobs.grad.tolist()]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
