"""The settings in which a resumed run may differ from its recorded plan.

The settings that a checkpoint depends on cannot change. Others may change at each resumption, and apply to the steps
that follow it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from llmrl.engines.catalogue import engine_kind
from llmrl.errors import RecipeError, short
from llmrl.recipe import Recipe
from llmrl.recipe_file import Plan, of_stages
from llmrl.resolve import Pieces
from llmrl.run.checkpoint import read_state, reading
from llmrl.run_folder.reader import RunReader
from llmrl.train.provide import while_gathering

FIXED = (
    "seed", "model", "reference", "data", "learn_from", "trained", "training.strategy", "training.zero_stage",
    "training.dtype", "critic.replay",
)  # fmt: skip


LENGTHS = ("training.steps", "training.epochs")
"""The length of a stage, which is given by one of them from its start to its end."""


def continued(recorded: str, plan: Plan, done: Collection[str]) -> tuple[str, list[str]]:
    """The plan to record, as YAML, and a sentence for each key that has changed in it.

    recorded: the YAML in the run folder. done: the finished stages, which stay recorded as they were trained: a change
    of theirs is listed and has no effect. Raises RecipeError with each changed key that is FIXED.
    """
    before, now = yaml.safe_load(recorded), yaml.safe_load(plan.dump())
    if list(before["stages"]) != list(now["stages"]):
        names = [", ".join(one["stages"]) for one in (before, now)]
        raise RecipeError(f"stages: {names[1]}, but this run was started with {names[0]}; {_ADVICE}")
    changed: list[str] = []
    faults: dict[str, list[str]] = {}
    for name in now["stages"]:
        old, new = (dict(_flat(_portable(one["stages"][name], one["run_dir"]))) for one in (before, now))
        different = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
        without = ", without effect: its stage is done" if name in done else ""
        changed += [
            f"stages.{name}.{key}: changed from {short(old.get(key))} to {short(new.get(key))}{without}"
            for key in different
        ]
        faults[name] = [
            f"{key}: {new.get(key)!r}, but this run was started with {old.get(key)!r}; {_ADVICE}"
            for key in different
            if any(f"{_without_role(key)}.".startswith(f"{fixed}.") for fixed in FIXED)
            or (_without_role(key) in LENGTHS and new.get(key) is None)
        ]
        if name in done:
            now["stages"][name] = before["stages"][name]
    if any(faults.values()):
        raise RecipeError(*of_stages(faults))
    return yaml.safe_dump(now, sort_keys=False, allow_unicode=True), changed


def done_stages(plan: Plan, reader: RunReader) -> list[str]:
    """The stages whose models have had all the steps that the plan asks for.

    A finished stage of which the plan asks more steps is lengthened: it goes on from its last checkpoint. Raises
    RecipeError for a stage of fewer steps than are done, and for one that cannot be lengthened.
    """
    done, faults, names = [], [], list(plan.stages)
    for index, (name, recipe) in enumerate(plan.stages.items()):
        unit, length = _length(recipe.training.model_dump())
        trained, kept = reader.trained(name, unit), [one.step for one in reader.checkpoints if one.stage == name]
        reached = max([trained or 0, *kept]) if unit == "steps" else trained or 0
        key, later = f"stages.{name}.training.{unit}", [other for other in names[index + 1 :] if reader.begun(other)]
        if length < reached:
            faults.append(f"{key}: {length}, but {reached} {unit} are done; a run cannot be shortened")
        elif length == trained:
            done.append(name)
        elif trained and later:
            faults.append(
                f"{key}: {length}, but stage {later[0]} has gone on from the model of {trained} {unit}; {_LENGTHEN}"
            )
        elif trained and not kept:
            faults.append(f"{key}: {length}, but the run has no checkpoint to go on from (checkpoint.every); {_ADVICE}")
    if faults:
        raise RecipeError(*faults)
    return done


def changed_lengths(plan: Plan, pieces: Mapping[str, Mapping[str, Pieces]], reader: RunReader) -> list[str]:
    """A sentence for each stage that goes on with another number of steps on which something of it depends."""
    found = []
    for name, recipe in plan.stages.items():
        stage = reader.recipe["stages"][name]
        _, before = _length(next(iter(stage.get("roles", {"": stage}).values()))["training"])
        unit, length = _length(recipe.training.model_dump())
        reached = max([0, *(one.step for one in reader.checkpoints if one.stage == name)])
        if before != length and reached and (spans := _spanning(recipe, pieces[name])):
            found.append(
                f"stages.{name}.training.{unit}: {before} until step {reached}, then {length}; this changes "
                f"{' and '.join(spans)}, so the model will not be that of {length} {unit} from the start"
            )
    return found


def _spanning(recipe: Recipe, pieces: Mapping[str, Pieces]) -> list[str]:
    """The parts of a stage that depend on how many steps it has."""
    trained = {role: view for role, view in recipe.by_role.items() if view.trained}
    schedules = {f"the {view.training.schedule} schedule" for view in trained.values()} - {"the constant schedule"}
    reading = {"pieces that read progress" for role in trained if "progress" in pieces[role].algorithm.needs}
    providers = [piece for role in trained for piece in while_gathering(pieces[role])]
    measured = {f"{piece.name} of the start" for piece in providers if piece.mark("measured_once_by")}
    return sorted(schedules | reading | measured)


def _length(training: Mapping[str, Any]) -> tuple[str, int]:
    """The unit of a stage's length, steps or epochs, and their number."""
    unit = "steps" if training.get("epochs") is None else "epochs"
    return unit, training[unit]


_LENGTHEN = "only the last stage that was begun can be lengthened, as with stages.NAME.training.steps"


def refuse_unfit(checkpoint: Path, stage: str, recipe: Recipe, ranks: int) -> None:
    """Raises RecipeError if so many processes, or so few steps, cannot go on from the checkpoint; reads no weights."""
    with reading(checkpoint):
        state = read_state(checkpoint)
        before = len(state["random"])
    steps = recipe.training.steps
    if steps is not None and steps < state["step"]:
        raise RecipeError(f"stages.{stage}.training.steps: {steps}, but {checkpoint} has {state['step']} steps")
    strategies = {view.training.strategy for view in recipe.by_role.values() if view.trained}
    divided = sorted(name for name in strategies if not engine_kind(name).saves_whole)
    if before != ranks and divided:
        raise RecipeError(
            f"--nproc: {ranks}, but {checkpoint} was made by {before} process{'es' if before > 1 else ''}, and "
            f"training.strategy {divided[0]} keeps a part of its state in each; resume with --nproc {before}, or start "
            f"another run with model={checkpoint / 'model'} and run_dir=..."
        )


_ADVICE = "a run that goes on keeps it: give it its old value, or start another run with run_dir=..."


def _portable(value: Any, run_dir: str) -> Any:
    """The value with the paths in it relative to the run folder, which may have been moved."""
    if isinstance(value, dict):
        return {key: _portable(inner, run_dir) for key, inner in value.items()}
    if isinstance(value, list):
        return [_portable(inner, run_dir) for inner in value]
    return value.removeprefix(f"{run_dir}/") if isinstance(value, str) else value


def _without_role(key: str) -> str:
    """roles.critiquer.model.path -> model.path: fixed keys are fixed for every role."""
    return key.split(".", 2)[2] if key.startswith("roles.") and key.count(".") > 1 else key


def _flat(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict):
        yield key, value
        return
    for name, inner in value.items():
        yield from _flat(inner, f"{key}.{name}" if key else str(name))
