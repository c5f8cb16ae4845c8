"""The reading that a guide's settings name, checked before any model loads."""

from __future__ import annotations

from llmrl.errors import RecipeError
from llmrl.ops import guidance
from llmrl.pieces import Piece, catalogue, resolve
from llmrl.recipe_rollout import Guide

DATA = ("outputs", "before", "logprobs", "ref_logprobs", "own_logprobs")
"""The data that a reading may name."""


def reading_of(settings: Guide, key: str) -> Piece:
    """The reading that a guide's settings name; raises RecipeError for one that reads what the guide has not."""
    reading = resolve(settings.reading, catalogue(guidance), key=f"{key}.reading", what="reading of a guide")
    if unknown := [name for name in reading.data if name not in DATA]:
        raise RecipeError(f"{key}.reading: {reading.name} reads {unknown[0]}; a reading may read {', '.join(DATA)}")
    if ("ref_logprobs" in reading.data) != (settings.reference is not None):
        said = "needs the model to which the guide's log ratio is taken" if settings.reference is None else "is unused"
        raise RecipeError(f"{key}.reference: {said} (reading {reading.name})")
    if {"outputs", "logprobs"} <= set(reading.data):
        raise RecipeError(f"{key}.reading: {reading.name} reads outputs and logprobs; a guide has one of the two")
    if "outputs" in reading.data and len(settings.models) > 1:
        raise RecipeError(f"{key}.model: {len(settings.models)} models, but reading {reading.name} reads one")
    return reading
