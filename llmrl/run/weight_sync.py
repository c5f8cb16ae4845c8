"""Gives a sampler the weights that a learner trains: as an adapter where the sampler takes one, else merged."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial

from llmrl.models.loading import DTYPES
from llmrl.models.weights import Rounding, adapter_weights, base_weights, merged_weights
from llmrl.rollout.sampler import Sampler
from llmrl.train.learner import Learner

Transport = Callable[..., None]


def send(learner: Learner, sampler: Sampler, transport: Transport, version: int, *, first: bool) -> dict[str, float]:
    """Send the weights of `version`; returns metrics of what was sent. Every rank must call it.

    first: the sampler lacks the base of an adapter, which is sent once.
    """
    if not learner.adapts:
        transport(learner.weights(), sampler, version)
        return {}
    if getattr(sampler, "takes_adapter", False):
        forms = (base_weights, adapter_weights) if first else (adapter_weights,)
        transport(itertools.chain.from_iterable(map(learner.weights, forms)), sampler, version)
        return {}
    rounding = Rounding(DTYPES[learner.training.dtype])
    transport(learner.weights(partial(merged_weights, rounding=rounding)), sampler, version)
    return {} if math.isnan(rounding.kept) else {"adapter_kept": rounding.kept}
