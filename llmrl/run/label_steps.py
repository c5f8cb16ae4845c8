"""The command `llmrl label-steps`: rows of solutions whose steps are labelled by Monte-Carlo continuations."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from llmrl.engines.ranks import Ranks
from llmrl.errors import RecipeError, RunStopped
from llmrl.recipe import Recipe
from llmrl.recipe_file import Plan
from llmrl.resolve import resolve_pieces
from llmrl.rewards.base import Rewards
from llmrl.rollout.sampler import derive_seed
from llmrl.rollout.step_labels import StepCounts, StepLabeller
from llmrl.run.frozen import FrozenRole
from llmrl.run.models import prepare_origins
from llmrl.run.sampling import Samplers, load_stage_prompts, make_collector, params_of, reward_workers
from llmrl.run.surroundings import digests_of_model
from llmrl.run_folder.atomic import check_place
from llmrl.types import ACTOR, Prompt

SETTINGS = ".settings.json"
"""The ending of the file beside the rows that says how they were made."""


def label_steps(plan: Plan, out: Path, *, solutions: int, continuations: int, delimiter: str, console: Console) -> int:
    """Write a row for each solution into `out`, and go on with what is there; returns the exit code 0.

    Raises RecipeError for a recipe of several stages or roles, of an environment with turns, without verdicts, or for
    rows that were made with other settings; RunStopped past the recipe's deadline.
    """
    recipe = _recipe(plan)
    pieces = resolve_pieces(recipe)
    if pieces.env.name != "single_turn":
        raise RecipeError(f"env: {pieces.env.name}, but steps are continued within an answer of one turn")
    check_place(out.parent.absolute(), "--out")
    ranks, device = Ranks(deadline_seconds=recipe.rollout.deadline_seconds), _device()
    with ExitStack() as parts:
        in_flight = recipe.in_flight(1)
        samplers = parts.enter_context(closing(Samplers(max_concurrent=in_flight)))
        workers = parts.enter_context(closing(reward_workers(1)))
        origins = prepare_origins(recipe, plan.run_dir, ranks)
        prompts = load_stage_prompts(recipe, origins[ACTOR]).train
        made_with = _made_with(recipe, origins[ACTOR].folder, solutions, continuations, delimiter)
        done = _begin(out, made_with)
        coming = [prompt for prompt in prompts if prompt.id not in done]
        if done:
            console.print(f"{out} has {len(done)} of {len(prompts)} prompts already")
        if not coming:
            return 0
        shared = samplers, workers, ranks, device
        collector = make_collector(recipe, pieces.env, origins, *shared, written={})
        author = collector.authors[ACTOR]
        _check_verdicts(author.scorer, coming)
        author.sampler.load_weights(FrozenRole(origins[ACTOR]).weights(), 0)
        params = params_of(recipe, origins)(derive_seed(recipe.seed, "label_steps"))
        labeller = StepLabeller(author, params, solutions, continuations, delimiter, in_flight)
        _write(labeller, coming, out, recipe, console)
    return 0


def _write(labeller: StepLabeller, prompts: Sequence[Prompt], out: Path, recipe: Recipe, console: Console) -> None:
    """Append the rows of all prompts, a part of them at a time."""
    size, deadline = recipe.rollout.prompts_per_step, recipe.rollout.deadline_seconds
    found: list[StepCounts] = []
    with asyncio.Runner() as runner, out.open("a", encoding="utf-8") as file:
        for start in range(0, len(prompts), size):
            part = prompts[start : start + size]
            try:
                labelled = runner.run(asyncio.wait_for(labeller.label(part), deadline))
            except TimeoutError:
                raise RunStopped(
                    f"labelling {len(part)} prompts passed its deadline of {deadline:g} s (rollout.deadline_seconds); "
                    f"what is done is in {out}, and the same command goes on with it"
                ) from None
            rows = [one.row(prompt) for prompt, own in zip(part, labelled, strict=True) for one in own]
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            found += [one for own in labelled for one in own]
            console.print(_told(found, start + len(part), len(prompts)))


def _told(found: Sequence[StepCounts], done: int, prompts: int) -> str:
    samples, right, failed = (sum(map(sum, (getattr(one, name) for one in found))) for name in
                              ("samples", "successes", "failures"))  # fmt: skip
    steps = sum(len(one.steps) for one in found)
    return (
        f"{done} of {prompts} prompts: {len(found)} solutions of {steps} steps; {right} of {samples} verdicts are "
        f"right, {failed} continuations have none"
    )


def _recipe(plan: Plan) -> Recipe:
    """The recipe's only stage."""
    if len(plan.stages) > 1:
        raise RecipeError(f"stages: {', '.join(plan.stages)}; expected a recipe of one stage, whose model labels steps")
    [recipe] = plan.stages.values()
    if recipe.roles:
        raise RecipeError(f"roles: {', '.join(recipe.roles)}; expected a recipe of one model, which labels steps")
    return recipe


def _check_verdicts(scorer: Any, prompts: Sequence[Prompt]) -> None:
    """Raises RecipeError if no reward can tell whether a continuation is right."""
    if not isinstance(scorer, Rewards) or not any(reward.may_give_verdicts for reward in scorer.rewards):
        raise RecipeError("rewards: none says whether an answer is right; name a verifier, such as math_verifier: {}")
    scorer.load_models()
    scorer.check_rows([prompt.row for prompt in prompts])


def _made_with(recipe: Recipe, folder: Path, solutions: int, continuations: int, delimiter: str) -> dict[str, Any]:
    """Everything that a row depends on."""
    keys = ("seed", "data", "rewards", "rollout", "model")
    return {
        "solutions": solutions,
        "continuations": continuations,
        "delimiter": delimiter,
        "weights": digests_of_model(str(folder)),
        "recipe": json.loads(recipe.model_dump_json(include=set(keys))),
    }


def _begin(out: Path, made_with: Mapping[str, Any]) -> set[str]:
    """The prompts that have rows already; what a killed process left of a prompt's rows is cut off.

    Raises RecipeError if the rows that are there were made otherwise.
    """
    note = out.with_name(out.name + SETTINGS)
    if not out.is_file() or not out.stat().st_size:
        note.write_text(json.dumps(made_with), encoding="utf-8")
        out.touch()
        return set()
    before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else {}
    if changed := [name for name in made_with if before.get(name) != made_with[name]]:
        raise RecipeError(
            f"--out: '{out}' has rows that were made with other {', '.join(changed)}; go on with the same, or name "
            f"another file"
        )
    lines = [line for line in out.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    ids = [json.loads(line)["id"] for line in lines]
    if ids and (left := ids.count(ids[-1])) < made_with["solutions"]:
        lines, ids = lines[:-left], ids[:-left]
    with out.open("r+b") as file:
        file.truncate(sum(map(len, lines)))
    return set(ids)


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
