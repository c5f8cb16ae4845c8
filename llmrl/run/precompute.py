"""The measurement of a frozen reference on all rows before a stage's first step; the run folder keeps the numbers."""

from __future__ import annotations

import gc
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.recipe import Recipe
from llmrl.rollout.sampler import derive_seed
from llmrl.run.checkpoint import random_state, set_random_state
from llmrl.run.models import Origin, load_reference, reference_folder
from llmrl.run.stage import Stage
from llmrl.run.surroundings import digests_of_model
from llmrl.run_folder.atomic import sweep, writing
from llmrl.train.measured_rows import MeasuredRows
from llmrl.train.references import BaseReference, FrozenReference, Reference
from llmrl.train.roles import Role

SECONDS_BETWEEN_FILES = 120.0
SECONDS_BETWEEN_WORDS = 10.0


def precompute(stage: Stage) -> None:
    """Give each role that asks for it a reference of measured rows, of all that the stage's coming steps read and of
    those that are held out.

    Rows come batch by batch as the source will give them, so that in the first epoch they are measured in the same
    micro-batches as they are trained in. What is measured is published now and then, so that a killed run loses little.
    Raises RecipeError if a file of the run folder was made with another reference or other limits.
    """
    for name, view in stage.recipe.by_role.items():
        role = stage.roles.get(name)
        if role and view.reference.precompute and role.algorithm.has_reference:
            before = random_state()
            role.measured = _measured(stage, name, view, role)
            set_random_state(before)


def _measured(stage: Stage, name: str, view: Recipe, role: Role) -> MeasuredRows:
    origin = stage.origins[name]
    found = MeasuredRows(made_with(view, origin))
    file = stage.folder.path / "reference" / f"{stage.name}-{name}.safetensors"
    if stage.ranks.is_first and file.parent.is_dir():
        sweep(file.parent)
    stage.ranks.barrier("reading the reference's log-probabilities")
    if file.is_file():
        found.load(file)
    kept, steps = len(found), stage.recipe.training.known_steps - stage.step
    published = said = time.monotonic()
    reference: Reference | None = None
    for done, batch in enumerate(_coming(stage, name, steps)):
        if found.lacks(batch):
            reference = reference or _reference(stage, view, role, origin)
            found.add(batch, reference.measure(batch, "logprobs")["logprobs"])
        if time.monotonic() - said > SECONDS_BETWEEN_WORDS:
            stage.progress.say(f"stage {stage.name}: the reference measured the rows of {done + 1} of {steps} steps")
            said = time.monotonic()
        if time.monotonic() - published > SECONDS_BETWEEN_FILES:
            _publish(stage, found, file)
            published = time.monotonic()
    del reference
    gc.collect()
    if len(found) > kept:
        _publish(stage, found, file)
        stage.progress.say(f"stage {stage.name}: the reference measured {len(found) - kept} rows, kept in {file}")
    return found


def _coming(stage: Stage, name: str, steps: int) -> Iterator[Batch]:
    """The batches of the coming steps, and those of held-out rows; the source stays where it is."""
    state = stage.source.state_dict()
    for step in range(stage.step, stage.step + steps):
        seed = derive_seed(stage.recipe.seed, stage.name, step + 1)
        collected = stage.source.collect(seed)
        groups = [group for group in collected.groups if group.author == name and group.trajectories]
        if groups:
            yield pack(groups, name)
    stage.source.load_state_dict(state)
    if name == stage.first:
        yield from (batch for _, batch in stage.held_out.batches(name))


def _reference(stage: Stage, view: Recipe, role: Role, origin: Origin) -> Reference:
    """The model that measures: the policy itself while it is its own start, else LoRA's base, else loaded weights."""
    if view.reference.model is None and view.model.lora is not None:
        return BaseReference(role.learner)
    if view.reference.model is None and stage.step == 0:
        return role.learner
    return FrozenReference(load_reference(view, origin, role.learner.engine.device), role.learner)


def _publish(stage: Stage, found: MeasuredRows, file: Path) -> None:
    if stage.ranks.is_first:
        with writing("the reference's log-probabilities", stage.folder.path):
            found.save(file)


def made_with(recipe: Recipe, origin: Origin) -> dict[str, str]:
    """Everything that a reference's log-probabilities depend on, beside the rows' tokens."""
    tokenizer: Any = origin.tokenizer
    limits = {key: getattr(recipe.rollout, key) for key in ("max_prompt_tokens", "max_completion_tokens")}
    return {
        "reference model": _digest(digests_of_model(str(reference_folder(recipe, origin)))),
        "tokenizer": _digest(sorted(tokenizer.get_vocab().items())),
        "chat template": _digest(tokenizer.chat_template),
        "limit of tokens": json.dumps(limits),
        "dtype": recipe.training.dtype,
        "temperature": f"{recipe.rollout.temperature:g}",
    }


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()
