"""The products of stages: the model folders that a stage leaves for those after it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmrl.errors import nearest
from llmrl.recipe import Recipe
from llmrl.run_folder.layout import CRITIC

ADAPTER = "/adapter"


def products(stages: Mapping[str, Recipe], before: str) -> list[str]:
    """The names, below stages/, of the models that the stages before `before` leave: STAGE, or with several roles
    STAGE/ROLE."""
    earlier = list(stages)[: list(stages).index(before)]
    return [name for stage in earlier for name in ([f"{stage}/{role}" for role in stages[stage].roles] or [stage])]


def product_of(path: str | None, stages: Mapping[str, Recipe], before: str) -> str | None:
    """The name of the product of a stage before `before` whose folder, or whose critic's, `path` is."""
    folder = f"{stages[before].run_dir}/stages/"
    known = products(stages, before)
    return next((name for name in known if path in (f"{folder}{name}", f"{folder}{name}/{CRITIC}")), None)


def missing_products(stages: Mapping[str, Recipe], stage: str, view: Recipe) -> list[str]:
    """A fault for each value of `view`, a role's recipe of `stage`, that names a folder below stages/ that no earlier
    stage leaves and that is not there."""
    known = products(stages, stage)
    folder = f"{view.run_dir}/stages/"
    faults = []
    for key, value in _texts(view.model_dump(exclude={"roles", "run_dir"})):
        name = value.removeprefix(folder).removesuffix(ADAPTER).removesuffix(f"/{CRITIC}")
        if not value.startswith(folder) or name in known or Path(value).exists():
            continue
        left = [one for one in known if one.startswith(f"{name}/")]
        guess = nearest(name, known)
        hint = f"did you mean '{folder}{guess}'?" if guess else f"they leave {', '.join(known) or 'nothing'}"
        hint = f"of its roles it has {', '.join(f'{folder}{one}' for one in left)}" if left else hint
        faults.append(f"{key}: no stage before '{stage}' leaves the model '{value}'; {hint}")
    return faults


def dropped_adapters(stages: Mapping[str, Recipe], stage: str) -> list[str]:
    """A fault for each role of `stage` that would begin anew as an adapter on another role's base, while the stage
    before has trained such an adapter for it: only the merged model of that one is left, and no base fits under it."""
    earlier = list(stages)[: list(stages).index(stage)]
    views = stages[earlier[-1]].by_role if earlier else {}
    faults = []
    for name, view in stages[stage].by_role.items():
        before, owner = views.get(name), view.model.role
        if before and before.trained and before.model.lora and view.model.lora and owner and before.model.role == owner:
            folder, rank = f"{view.run_dir}/stages/{earlier[-1]}/{name}", view.model.lora.rank
            faults.append(
                f"roles.{name}.model.role: {owner}, so {name} would begin with a new adapter, and lose the one that "
                f"stage '{earlier[-1]}' trains; go on from its model: {{role: null, path: '{folder}', "
                f"lora: {{rank: {rank}}}}}"
            )
    return faults


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The texts in nested mappings and lists, by their keys in the recipe."""
    if isinstance(value, str):
        yield key, value
    for name, inner in value.items() if isinstance(value, dict) else ():
        yield from _texts(inner, f"{key}.{name}" if key else str(name))
    for inner in value if isinstance(value, list | tuple) else ():
        yield from _texts(inner, key)
