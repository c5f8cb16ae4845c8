"""Settings of a critic that cannot work, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from llmrl.algorithm import OUTPUTS_OF_CRITIC, Algorithm
from llmrl.ops import value_losses, values
from llmrl.pieces import Piece, catalogue
from llmrl.probe import OWN_SHAPES, tiny
from llmrl.recipe import Recipe


def _critic_can_learn(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    critic = recipe.critic
    if not algorithm.has_critic:
        return
    if critic.frozen and not critic.warmup_steps and critic.model is None:
        yield "critic.frozen: the critic would stay as it was initialised; give critic.warmup_steps or critic.model"
    steps = recipe.training.steps
    if critic.frozen and steps is not None and critic.warmup_steps >= steps:
        yield f"critic.warmup_steps: {critic.warmup_steps} leaves the policy none of training.steps {steps}"
    if critic.backbone == "shared" and critic.model is not None:
        yield "critic.model: a critic with the policy's backbone (critic.backbone: shared) has no model of its own"
    for key in ("context", "others") if critic.backbone == "shared" else ():
        if getattr(critic, key) is not None:
            yield (
                f"critic.{key}: with the policy's backbone (critic.backbone: shared) the policy would read the context "
                "too; use critic.backbone: own"
            )
    if critic.backbone == "shared" and algorithm.has_target:
        yield (
            "critic.backbone: shared, but a piece reads the outputs of the critic's slow copy, which would be one of "
            "the policy too; use own"
        )
    if critic.backbone == "shared" and critic.replay is not None:
        yield (
            "critic.replay: a critic with the policy's backbone (critic.backbone: shared) moves with it, so it cannot "
            "learn apart; use critic.backbone: own"
        )
    target = algorithm.value_target
    if critic.replay is not None and target is not None and "group_ids" in target.data:
        yield (
            f"critic.replay: draws trajectories one by one, but value_target {target.name} compares those of a group; "
            "leave one of the two out"
        )
    if critic.backbone == "shared" and critic.frozen:
        yield "critic.frozen: a critic with the policy's backbone moves with it; use critic.backbone: own"
    if critic.detach and critic.backbone == "own":
        yield "critic.detach: only a critic that shares the policy's backbone can be detached from it"
    if critic.head_only and critic.backbone == "shared":
        yield "critic.head_only: only a backbone of the critic's own can be frozen; use critic.detach: true"
    learns_returns = "returns" in algorithm.value_loss.data and not _grade_readers(algorithm)
    if learns_returns and (critic.warmup_steps or not critic.frozen) and not _gives_returns(recipe, algorithm):
        given = f"{algorithm.advantage.name} gives" if algorithm.advantage else "without one there are"
        yield f"advantage: a piece reads values, but {given} no returns that a critic could learn; use one such as gae"
    reading, loss = algorithm.value, algorithm.value_loss
    kinds = reading.mark("reads_logits"), loss.mark("reads_logits")
    if kinds[0] != kinds[1]:
        pairs = [", ".join(_marked(module, "reads_logits", kinds[0] or kinds[1])) for module in (values, value_losses)]
        yield (
            f"value_loss: {loss.name} with value: {reading.name}; {pairs[1]} and {pairs[0]} need each other, as the "
            f"outputs are the logits of a distribution"
        )
    if "value_std" in algorithm.needs and critic.outputs < 2:
        yield "critic.outputs: a piece reads value_std, the spread over heads; give at least 2"


def _grades_are_learnt(recipe: Recipe, algorithm: Algorithm) -> Iterator[str]:
    loss = algorithm.value_loss.name
    if algorithm.predicts_grades and algorithm.reads_values and algorithm.value.mark("reads_heads"):
        yield (
            f"value_loss: {loss} makes the critic's outputs the logits of grades, but a piece reads them as "
            f"values by value: {algorithm.value.name}"
        )
    for key, piece in [] if algorithm.predicts_grades else _grade_readers(algorithm):
        yield (
            f"{key}.{piece.name}: reads the critic's outputs as the logits of grades, but value_loss: "
            f"{loss} does not teach it these; use value_loss: grade_cross_entropy"
        )


def _grade_readers(algorithm: Algorithm) -> list[tuple[str, Piece]]:
    """The pieces, with their keys, that read a critic's outputs as the logits of grades."""
    credit = [(key, piece) for key, piece in algorithm.placed() if key != "value_loss"]
    return [(key, piece) for key, piece in credit if OUTPUTS_OF_CRITIC & set(piece.data) and "grades" in piece.data]


def _gives_returns(recipe: Recipe, algorithm: Algorithm) -> bool:
    """Whether the advantage has targets for a critic, tried on a tiny batch."""
    advantage = algorithm.advantage
    if algorithm.value_target is not None:
        return True
    if advantage is None:
        return False
    for shape in OWN_SHAPES:
        data = tiny(recipe.critic.outputs, len(recipe.rewards), advantage.data, shape)
        with suppress(Exception):  # a field of the recipe's own has another shape
            return advantage(data).returns is not None
    return False


def _marked(module: Any, mark: str, value: Any) -> list[str]:
    return [name for name, function in catalogue(module).items() if getattr(function, mark, None) == value]


CRITIC_RULES = (_critic_can_learn, _grades_are_learnt)
