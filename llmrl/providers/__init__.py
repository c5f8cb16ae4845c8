"""Providers: they fill in the fields of llmrl/fields.py that some piece reads and a batch does not have by itself.

A provider is a piece like any other: its positional parameters are data, its keyword-only ones are settings. It fills
in the field of its own name, or those of its mark `provides`, and runs if a piece reads one of them. It may read other
fields, which are then provided first, and

    batch, groups           the packed trajectories, and the groups that they came from
    policy, critic          the trained models (see Learner.measure), as they are before the step's first update
    reference               a frozen model
    tokenizer               the policy's
    seed, share_done        the step's seed; the share of the stage's steps that is done
    wanted                  which of its fields are read
    reading                 the piece that reads a critic's outputs as values

It returns a tensor, or a mapping of its fields to tensors. A provider that reads `collector` or `measured_once` runs
while a round is gathered, before there is a batch, and returns the groups with its field in `known`. A provider of a
field for an allocation reads `groups` and `policy`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from llmrl.fields import FIELDS
from llmrl.pieces import functions_of, import_function

BESIDE = [import_function(field.provider, "providers") for field in FIELDS if field.provider]
"""Providers that are defined beside the only piece that reads them, as the rows of their fields say."""
CATALOGUE: dict[str, Callable[..., Any]] = {
    **functions_of(sys.modules[__name__]),
    **{function.__name__: function for function in BESIDE},
}
