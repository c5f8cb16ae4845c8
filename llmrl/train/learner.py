"""A Learner: a trained model with its engine, and its passes over batches that are cut into micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn

from llmrl.batch import Batch
from llmrl.engines.engine import Engine, Update
from llmrl.engines.ranks import Ranks
from llmrl.models.weights import Form, Weights, merged_weights
from llmrl.recipe import Training
from llmrl.spans import span
from llmrl.train.micro_batches import CreditedBatch, MetricSums, MicroBatch, Outputs, join, micro_batches

Forward = Callable[[Batch, frozenset[str], Mapping[str, Tensor]], Outputs]


class Objective(Protocol):
    """A loss bound to the trajectories of one optimizer step. wanted: the model's outputs that it reads."""

    @property
    def wanted(self) -> frozenset[str]: ...

    def __call__(self, part: CreditedBatch, rows: Tensor, found: Outputs) -> Loss:
        """The loss of the rows of a micro-batch; found: the model's outputs for them, with gradient."""
        ...


@dataclass(frozen=True)
class Loss:
    """A micro-batch's part of an objective. total: the sum over its tokens. sums, stats, shares: for metrics, as sums,
    as [N, T] statistics of the tokens in `mask`, and as parts with their wholes. said: [N, T], for the caller."""

    total: Tensor
    sums: Mapping[str, Tensor]
    stats: Mapping[str, Tensor]
    mask: Tensor
    shares: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    said: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Learner:
    """Forward and backward passes of one trained model, cut to `training.tokens_per_micro_batch`.

    name: of its files in a checkpoint. loss_metric: the metric of its whole loss; None if its objectives log it.
    whole_groups: a group's trajectories are never parted.
    """

    name: str
    engine: Engine
    training: Training
    ranks: Ranks
    loss_metric: str | None = None
    whole_groups: bool = False

    @property
    def draws_dropout(self) -> bool:
        """Whether a training pass draws dropout, so that its log-probabilities are not the sampling model's."""
        layers = self.engine.model.modules()
        return any(isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0 for layer in layers)

    def cut(self, batch: Batch) -> list[MicroBatch]:
        """This rank's micro-batches."""
        packed, most = self.engine.model.packs, self.training.micro_batch_tokens(self.engine.device.type)
        return micro_batches(batch, self.ranks, max_tokens=most, packed=packed, whole_groups=self.whole_groups)

    @torch.no_grad()
    def measure(self, batch: Batch, *names: str) -> Outputs:
        """The model's outputs `names` for all rows, on every rank: [N, T, ...] or [N] each.

        Without gradient, and without an adapter's dropout, as the sampler.
        """
        with measuring(self.engine):
            return self.collect(self._forward, batch, names)

    @torch.no_grad()
    def measure_base(self, batch: Batch, *names: str) -> Outputs:
        """`measure` with the adapter switched off: the frozen base of a LoRA model."""
        with measuring(self.engine), self.engine.model.without_adapter():
            return self.collect(self._forward, batch, names)

    def collect(self, forward: Forward, batch: Batch, names: Sequence[str]) -> Outputs:
        """`forward` over all rows, each rank its share: the outputs `names` on every rank."""
        parts = []
        for micro in self.cut(batch):
            rows = batch.rows(micro.rows).to(self.engine.device)
            found = forward(rows, frozenset(names), {})
            if micro.counts:
                parts.append((micro.rows, {name: found[name].cpu() for name in names}))
        return join(self.ranks, parts, *batch.token_ids.shape)

    @torch.no_grad()
    def total(self, batch: Batch, name: str, **known: Tensor) -> Tensor:
        """The sum over all micro-batches and ranks of the output `name`; known: [N, T, ...] inputs of the forward."""
        total: Tensor | None = None
        with measuring(self.engine):
            for micro in self.cut(batch):
                rows = batch.rows(micro.rows).to(self.engine.device)
                width = rows.token_ids.shape[1]
                cut = {key: value[micro.rows, :width].to(self.engine.device) for key, value in known.items()}
                found = self._forward(rows, frozenset({name}), cut)[name].cpu() * micro.counts
                total = found if total is None else total + found
        return torch.stack(self.ranks.gather(total, f"adding up {name}")).sum(dim=0)

    def accumulate(
        self, mini: CreditedBatch, objectives: Sequence[Objective], sums: MetricSums, *, last: bool = True
    ) -> Outputs:
        """Forward and backward over one optimizer step's trajectories; returns their logprobs, if the model has them,
        and what the losses say.

        The gradients of all objectives add up. last: nothing else is accumulated before `step`.
        """
        wanted = frozenset(name for objective in objectives for name in objective.wanted)
        parts = []
        for micro in self.cut(mini.batch):
            part = mini.rows(micro.rows).to(self.engine.device)
            found = self._forward(part.batch, wanted, part.batch.data)
            with span("loss"):
                losses = [objective(part, micro.rows, found) for objective in objectives]
                total = sum((loss.total for loss in losses[1:]), losses[0].total)
            with span("backward"):
                self.engine.backward(total * micro.counts, last=last and micro.last)
            if not micro.counts:
                continue
            sums.add_share("padding", max(0, micro.places - micro.tokens), micro.places)
            sums.add_share("shared_tokens", max(0, micro.tokens - micro.places), micro.tokens)
            said = {name: found[name] for name in ("logprobs",) if name in found}
            said |= {name: tensor for loss in losses for name, tensor in loss.said.items()}
            parts.append((micro.rows, {name: tensor.detach().cpu() for name, tensor in said.items()}))
            if self.loss_metric:
                sums.add(self.loss_metric, total.detach())
            for loss in losses:
                for name, value in loss.sums.items():
                    sums.add(name, value)
                sums.add_tokens(loss.stats, loss.mask)
                for name, share in loss.shares.items():
                    sums.add_share(name, *share)
        return join(self.ranks, parts, *mini.batch.token_ids.shape)

    def weights(self, form: Form = merged_weights) -> Weights:
        """The language model's whole weights in a form of models/weights.py; every rank consumes them all."""
        self.engine.model.activate()
        return self.engine.weights(form)

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained on a frozen base."""
        return isinstance(self.engine.model.lm, PeftModel)

    def step(self) -> Update:
        """One optimizer step with the gradients accumulated since the last."""
        with span("optimizer"):
            return self.engine.step()

    def save(self, folder: Path) -> None:
        """Write everything that `load` needs to continue exactly; all ranks call it."""
        self.engine.save(folder, self.name)

    def load(self, folder: Path) -> None:
        """Restore the state that `save` wrote."""
        self.engine.load(folder, self.name)

    def _forward(self, batch: Batch, wanted: frozenset[str], known: Mapping[str, Tensor]) -> Outputs:
        with span("forward"):
            return self.engine.forward(*inputs(batch), wanted=wanted, known=known)


def inputs(batch: Batch) -> tuple[Tensor, ...]:
    """The tensors of a batch that every model reads."""
    return batch.token_ids, batch.attention_mask, batch.response_mask


@contextmanager
def measuring(engine: Engine) -> Iterator[None]:
    """Puts the engine's model into evaluation mode."""
    engine.model.eval()
    try:
        yield
    finally:
        engine.model.train()
