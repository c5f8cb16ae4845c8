"""The table of axes: every key of a recipe that names exchangeable pieces.

A published method is a choice on these axes and nothing else. The recipe's schema, the resolution of pieces, their
trial before launch, `llmrl methods`, `llmrl check` and the reference page are all made from the rows below.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmrl.fields import ALLOCATING, COMPARED, CREDITED, CURRENT, PACKED, PROVIDED, names
from llmrl.pieces import catalogue

ONE, CHAIN, WEIGHTED = "one", "chain", "weighted"
"""How many pieces a key names: one; several, applied in the recipe's order; several that are added up by weight."""
OF_CRITIC = frozenset({"outputs", "outputs_after"})
"""Fields that only the critic's training pass has; no other axis may read them."""
OF_SCORER = frozenset({"scores"})
"""A field that only the training pass of a reward model has, whose losses are of pairs and completions."""
TOKENS, CREDIT, LOSS = "a tensor per token", "a Credit", "a TokenLoss"
TARGETS = "a target per token, or per token and output of the critic"
COMPARISON = "a tensor per pair, or per completion if nothing of pairs is read"
"""The kinds of results that one call on the tiny batch can check."""


@dataclass(frozen=True)
class Axis:
    """One row of the table.

    what: a name for one piece, as in faults. catalogue: the module whose public functions are the built-in pieces.
    moments: moments of llmrl/fields.py whose fields a piece may read; also: other data that it may read. returns:
    TOKENS, CREDIT, LOSS, TARGETS, COMPARISON or none. runs: when, in words. outside: the pieces run while trajectories
    are gathered, not by the Algorithm. of_role: each role of a run chooses its own.
    """

    key: str
    what: str
    catalogue: str
    about: str
    runs: str
    kind: str = ONE
    default: str | None = None
    moments: tuple[str, ...] = ()
    also: frozenset[str] = frozenset()
    controlled: bool = True
    returns: str | None = None
    outside: bool = False
    of_role: bool = True

    @functools.cached_property
    def pieces(self) -> Mapping[str, Callable[..., Any]]:
        """The built-in pieces by name; they are imported here, as no recipe needs all of them."""
        module = importlib.import_module(self.catalogue)
        return getattr(module, "CATALOGUE", None) or catalogue(module)

    @functools.cached_property
    def reads(self) -> frozenset[str]:
        """The data that a piece of this axis may read, apart from controllers' outputs."""
        lacking = OF_CRITIC if COMPARED in self.moments else OF_CRITIC | OF_SCORER
        return names(*self.moments) - lacking | self.also


BEFORE = (PACKED, PROVIDED)
OLD = frozenset({"logprobs"})
"""Before the batch is cut, `logprobs` are the old policy's."""
AT_LOSS = (PACKED, PROVIDED, CURRENT)

AXES: tuple[Axis, ...] = (
    Axis("learn_from", "source", "llmrl.train.sources", "where the trajectories of a step come from",
         "at the start of a step", default="rollouts", outside=True, of_role=False, controlled=False,
         also=frozenset({"stream", "collector", "sample_groups", "keep", "rollout", "params", "author",
                         "demonstrations", "comparisons", "solutions", "asker", "ranks", "replay_folder"})),
    Axis("env", "environment", "llmrl.envs.catalogue", "the environment that answers a completion",
         "while completions are sampled", default="single_turn", outside=True, of_role=False, controlled=False,
         also=frozenset({"prompt", "row", "seed", "encode", "decode", "authors"})),
    Axis("allocate", "allocation", "llmrl.ops.allocation",
         "how many completions each prompt gets; default: group_size", "between rounds of sampling", outside=True,
         of_role=False, controlled=False, moments=(ALLOCATING,)),
    Axis("keep", "keep function", "llmrl.rollout.selection", "which of a scored group is trained on", "after scoring",
         default="everything", outside=True, controlled=False, also=frozenset({"group"})),
    Axis("providers", "provider", "llmrl.providers",
         "settings of providers, which pieces bring by reading their fields", "before credit is given", kind=CHAIN,
         outside=True, controlled=False),
    Axis("token_rewards", "token penalty", "llmrl.ops.regularizers", "penalties subtracted from token rewards",
         "before the batch is cut", kind=WEIGHTED, moments=BEFORE, also=OLD, returns=TOKENS),
    Axis("reward_shaping", "reward shaping", "llmrl.ops.reward_shaping", "changes of the rewards, in this order",
         "before the batch is cut", kind=CHAIN, moments=BEFORE, also=OLD, returns=TOKENS),
    Axis("advantage", "advantage", "llmrl.ops.advantages", "credit of each token, and targets for a critic",
         "before the batch is cut", moments=BEFORE, also=OLD, returns=CREDIT),
    Axis("advantage_shaping", "advantage shaping", "llmrl.ops.advantage_shaping",
         "changes of the credit, in this order", "before the batch is cut", kind=CHAIN, moments=BEFORE,
         also=OLD | {"advantages"}, returns=TOKENS),
    Axis("log_ratio", "log ratio", "llmrl.ops.log_ratios", "how the new and the old policy are compared",
         "with the loss", default="token", moments=BEFORE, also=frozenset({"logprobs", "router_drift"}),
         controlled=False, returns=TOKENS),
    Axis("policy_loss", "policy loss", "llmrl.ops.policy_losses", "loss of each token", "with the loss",
         moments=AT_LOSS, also=frozenset({"advantages"}), returns=LOSS),
    Axis("preference_loss", "preference loss", "llmrl.ops.preference_losses",
         "losses of pairs of completions, or of whole completions", "with the loss", kind=WEIGHTED,
         moments=(*AT_LOSS, COMPARED), returns=COMPARISON),
    Axis("token_weights", "token weight", "llmrl.ops.token_weights", "factors of each token's policy loss",
         "with the loss; on the whole update if they read `logprobs` of the current policy alone, on the whole batch "
         "if nothing of it", kind=CHAIN, moments=AT_LOSS, also=frozenset({"advantages"}), returns=TOKENS),
    Axis("regularizers", "token penalty", "llmrl.ops.regularizers",
         "penalties added to the loss; `tokens` names a token weight for one", "with the loss", kind=WEIGHTED,
         moments=AT_LOSS, also=frozenset({"advantages"}), returns=TOKENS),
    Axis("reduce", "reduction", "llmrl.ops.reductions", "what each token weighs in the mean",
         "before micro-batches are cut", default="token_mean", moments=BEFORE, controlled=False, returns=TOKENS),
    Axis("value", "reading of a critic's outputs", "llmrl.ops.values", "how a critic's outputs become a value",
         "before credit is given", default="mean", also=frozenset({"outputs"}), controlled=False, returns=TOKENS),
    Axis("value_target", "target of a critic", "llmrl.ops.value_targets",
         "targets of a critic's outputs; default: the returns that the advantage gives", "before the batch is cut",
         moments=BEFORE, controlled=False, returns=TARGETS),
    Axis("value_loss", "value loss", "llmrl.ops.value_losses", "loss of a critic's outputs", "with the critic's loss",
         default="squared", moments=(PACKED, PROVIDED, CREDITED), also=OF_CRITIC, controlled=False,
         returns=LOSS),
    Axis("controllers", "controller", "llmrl.ops.controllers",
         "settings of controllers, which pieces bring by naming their output", "after each step", kind=CHAIN,
         also=frozenset({"state", "metrics"}), controlled=False),
)  # fmt: skip
BY_KEY: dict[str, Axis] = {axis.key: axis for axis in AXES}
ONE_PIECE = frozenset(axis.key for axis in AXES if axis.kind == ONE)
