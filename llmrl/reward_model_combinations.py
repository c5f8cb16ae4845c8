"""Reward models: the kinds that losses train, and settings that cannot work, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator

from llmrl.algorithm import Algorithm
from llmrl.recipe import Recipe


def gate_weighs_heads(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    """The faults of a gate without heads that it could weigh."""
    if recipe.model.gate is None:
        return
    if not algorithm.scores or algorithm.scores_tokens:
        yield "model.gate: only a reward model of completions has heads that a gate can weigh"
    elif "completion_head_scores" in algorithm.needs:
        yield "model.gate: the loss reads each head, but a gate makes one score of them; use bradley_terry"
    if recipe.model.heads < 2:
        yield f"model.heads: {recipe.model.heads}, which leaves model.gate nothing to weigh; give those of the model"
    if recipe.model.lora is not None:
        yield "model.lora: a gate is trained alone, on frozen weights; leave one of model.lora and model.gate out"


def head_is_there(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    """The faults of a head that is to be trained alone."""
    if not recipe.model.head_only:
        return
    if not algorithm.scores:
        yield "model.head_only: only a reward model has a head to train alone; leave it out"
    for key in ("lora", "gate"):
        if getattr(recipe.model, key) is not None:
            yield f"model.{key}: with model.head_only the head alone is trained; leave one of the two out"


def labels_steps(algorithm: Algorithm) -> bool:
    """Whether a reward model learns labels of steps, and not the outcome of whole completions."""
    return algorithm.scores_tokens and "turn_rewards" in algorithm.needs
