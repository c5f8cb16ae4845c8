"""Policies beside the one in training: when a recipe needs them, and what cannot work with them."""

from __future__ import annotations

from collections.abc import Iterator

from llmrl.algorithm import Algorithm
from llmrl.axes import BY_KEY
from llmrl.errors import gathered
from llmrl.fields import FIELDS, PAST
from llmrl.pieces import Piece
from llmrl.recipe import Recipe
from llmrl.recipe_rollout import Guide
from llmrl.rollout.readings import reading_of
from llmrl.types import POLICY, REFERENCE

OF_PAST = frozenset(field.name for field in FIELDS if field.by == PAST)
"""Fields that only earlier policies give."""
OF_HIDDEN = frozenset(field.name for field in FIELDS if "ref_hidden" in field.compared_with)
"""Fields that are made of a reference's hidden states."""
NO_GUIDE = "{engine} draws tokens from its own model's distribution alone; use rollout.engine: transformers"
NO_MIXTURE = "{engine} computes with one model at each token; use rollout.engine: transformers, or leave share out"


def needs_reference(recipe: Recipe, algorithm: Algorithm) -> bool:
    """Whether a piece reads a reference, or the reference writes completions."""
    return algorithm.has_reference or REFERENCE in recipe.rollout.written_by


def needs_past(recipe: Recipe, algorithm: Algorithm) -> bool:
    """Whether a piece reads earlier policies, or they write completions."""
    return bool(OF_PAST & algorithm.needs) or bool(recipe.rollout.past_writers)


def written_by_faults(recipe: Recipe, algorithm: Algorithm, keep: Piece, allocate: Piece | None) -> Iterator[str]:
    """The faults of a recipe in which others write some of a group's completions."""
    writers = recipe.rollout.written_by
    for name, settings in recipe.rewards.items():
        against = (settings.get("against") if isinstance(settings, dict) else None) or {}
        for absent in set(against) - {POLICY, *writers}:
            yield f"rewards.{name}.against.{absent}: writes no completion here; add rollout.written_by.{absent}"
    if not writers or not algorithm.samples:
        return
    if allocate is not None:
        yield f"rollout.written_by: allocate {allocate.name} shares out the policy's completions alone; leave one out"
    if not recipe.trained and set(writers) - {"dataset"}:
        yield "rollout.written_by: the role is not trained, so it has no reference and no earlier policies"
    for name, writer in writers.items():
        if writer.share < 1 and recipe.rollout.engine == "vllm":
            yield f"rollout.written_by.{name}.share: {writer.share}, but " + NO_MIXTURE.format(engine="vllm")
    if REFERENCE in writers and recipe.reference.momentum:
        yield "rollout.written_by.reference: with reference.momentum the reference has no weights that could write"
    loss = algorithm.policy_loss
    masked = any(weight.mark("drops_other_writers") for weight in algorithm.token_weights)
    if loss and "advantages" in loss.data and keep.mark("takes_all_writers") and not masked:
        yield (
            f"keep: {keep.name} leaves {', '.join(writers)} among the completions that policy_loss {loss.name} takes "
            "for the policy's own; use keep: own_completions, or token_weights: {policy_completions: {}}"
        )


def guide_faults(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    """The faults of the guides of a recipe's sampling."""
    engine = recipe.rollout.engine
    for key, guide in guides_of(recipe).items():
        if engine == "vllm":
            yield f"{key}: " + NO_GUIDE.format(engine=engine)
        faults: list[str] = []
        with gathered(faults):
            reading_of(guide, key)
        yield from faults
        rolled = guide.roll_in
        if rolled is not None and not rolled.learned and recipe.env != BY_KEY["env"].default:
            yield f"{key}.roll_in.learned: false, but {recipe.env} may ask for a turn in parts; use env: single_turn"
    if recipe.evaluation.guide is not None and recipe.evaluation.beams > 1:
        yield f"evaluation.beams: {recipe.evaluation.beams}, but a beam search has no guide; leave one of the two out"
    if recipe.rollout.guide is not None and any(writer.share < 1 for writer in recipe.rollout.written_by.values()):
        yield "rollout.guide: a mixture with another writer's distribution has no guide; leave share out"


def search_faults(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    """The faults of the searches of a recipe's sampling."""
    for key, search in (("rollout.search", recipe.rollout.search), ("evaluation.search", recipe.evaluation.search)):
        if search is not None and search.best_first is not None and search.width > 1:
            yield f"{key}.width: {search.width}, but best_first keeps all partial answers; leave one of the two out"
    if recipe.evaluation.search is not None and recipe.evaluation.beams > 1:
        yield "evaluation.beams: the greedy answer is replaced by evaluation.search too; leave one of the two out"
    if recipe.rollout.search is not None and "rollout_logprobs" in algorithm.needs:
        yield (
            "rollout.search: what a search finds has no log-probabilities, but a piece reads rollout_logprobs; leave "
            "one of the two out"
        )


def guides_of(recipe: Recipe) -> dict[str, Guide]:
    """The guides of a recipe's sampling, by their keys."""
    found = {"rollout.guide": recipe.rollout.guide, "evaluation.guide": recipe.evaluation.guide}
    return {key: guide for key, guide in found.items() if guide is not None}


def momentum_faults(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    """The faults of a recipe whose reference goes beyond the policy's last move."""
    settings = recipe.reference
    if not settings.momentum or not algorithm.has_reference:
        return
    if settings.every is None or settings.mix < 1:
        yield (
            f"reference.momentum: {settings.momentum}, but the reference has no last move; set reference.every, and "
            "leave reference.mix at 1"
        )
    if settings.model is not None:
        yield "reference.momentum: the policy's moves alone are extrapolated; leave reference.model out"
    for name in sorted(OF_HIDDEN & algorithm.needs):
        yield f"reference.momentum: extrapolates log-probabilities, but a piece reads {name}; leave one of the two out"


def replay_faults(source: Piece, algorithm: Algorithm) -> list[str]:
    """The fault of a policy loss that would take trajectories of older policies for the policy's own."""
    loss = algorithm.policy_loss
    if not source.mark("replays") or loss is None or "rollout_logprobs" in algorithm.needs:
        return []
    if "advantages" not in loss.data:
        return []
    return [
        f"learn_from: {source.name} gives trajectories of older policies, which policy_loss {loss.name} would take for "
        f"the policy's own; compare with the policies that sampled them: log_ratio: behaviour, token_weights: "
        f"{{truncated_is: {{}}}}, or advantage: vtrace"
    ]
