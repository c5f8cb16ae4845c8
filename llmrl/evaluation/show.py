"""The command `llmrl show`: some episodes of a run as trees, with verdicts and rewards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.text import Text
from rich.tree import Tree

from llmrl.ending import readable
from llmrl.errors import RecipeError, nearest, unknown_name
from llmrl.evaluation.critique import outcome_of
from llmrl.run_folder.layout import Kind, StepName
from llmrl.run_folder.reader import RunReader
from llmrl.run_folder.rows import trajectories_of
from llmrl.types import POLICY, RIGHT, UNREADABLE, WRONG, Trajectory

FAILED = "failed"
OUTCOMES = tuple(f"{before}_to_{after}" for before in (RIGHT, WRONG) for after in (RIGHT, WRONG))
CONDITIONS = (*OUTCOMES, RIGHT, WRONG, f"says_{RIGHT}", f"says_{WRONG}", UNREADABLE, FAILED)
"""Of --where: an outcome of a refinement, a verdict of the verifier or of a critique, or a failure."""
STYLES = {RIGHT: "green", WRONG: "red", FAILED: "yellow"}


def show(
    run: Path,
    console: Console,
    *,
    stage: str | None,
    step: int | None,
    evaluation: bool,
    count: int,
    where: str | None,
    characters: int,
) -> None:
    """Print the first `count` episodes of a step, or of the evaluation after it, that fulfil a condition.

    characters: the longest text that is shown whole. Raises RecipeError for a run, stage, step or condition that is not
    there.
    """
    if where is not None and where not in CONDITIONS:
        raise RecipeError(unknown_name("--where", where, CONDITIONS, "condition"))
    name = chosen_step(run, stage=stage, step=step, kind="eval" if evaluation else "train")
    rows = RunReader(run).rollouts(stage=name.stage, step=name.step, kind=name.kind).to_pylist()
    roots = [one for one in trajectories_of(rows) if one.parent is None]
    found = [root for root in roots if where is None or any(where in conditions_of(one) for one in root.below)]
    told = f"step {name.step} of {name.stage}{', evaluation' if evaluation else ''}: {len(roots)} episodes"
    if where is not None:
        told += f", {len(found)} with {where}"
    console.print(told, markup=False, highlight=False)
    for root in found[:count]:
        console.print()
        console.print(_tree(root, characters))


def chosen_step(run: Path, *, stage: str | None, step: int | None, kind: Kind) -> StepName:
    """The name of the rollouts of a stage and step, by default of the last ones.

    Raises RecipeError for what is not there.
    """
    if not run.is_dir():
        raise RecipeError(f"RUN: {missing_run(run)}")
    files = [name for name, _ in RunReader(run).rollout_files() if name.kind == kind]
    what = "evaluations" if kind == "eval" else "rollouts of training"
    if not files:
        raise RecipeError(f"RUN: '{run}' holds no {what}")
    stages = dict.fromkeys(name.stage for name in files)
    if stage is not None and stage not in stages:
        raise RecipeError(unknown_name("--stage", stage, stages, f"stage with {what}"))
    order = list(RunReader(run).recipe.get("stages", {}))
    last = stage or max(stages, key=lambda name: order.index(name) if name in order else -1)
    steps = {name.step: name for name in files if name.stage == last}
    if step is not None and step not in steps:
        near = min(steps, key=lambda one: (abs(one - step), one))
        raise RecipeError(f"--step: no {what} of step {step} of stage {last}; the nearest is step {near}")
    return steps[max(steps) if step is None else step]


def missing_run(path: Path) -> str:
    """The fault of a folder that is not there, with the nearest run beside it."""
    beside = [one.name for one in path.parent.iterdir() if RunReader(one).starts] if path.parent.is_dir() else []
    guess = nearest(path.name, beside)
    hint = f"did you mean '{path.parent / guess}'?" if guess else "expected a run's, such as runs/first"
    return f"no folder '{path}'; {hint}"


def conditions_of(trajectory: Trajectory) -> set[str]:
    """The conditions that a trajectory fulfils."""
    if trajectory.failure is not None:
        return {FAILED}
    found = {outcome_of(trajectory)}
    if trajectory.verdict is not None:
        found.add(trajectory.verdict if trajectory.verdict not in (RIGHT, WRONG) else f"says_{trajectory.verdict}")
    elif trajectory.correct is not None:
        found.add(RIGHT if trajectory.correct else WRONG)
    return {one for one in found if one}


def _tree(root: Trajectory, characters: int) -> Tree:
    """An episode: the question, and below it each trajectory with what it says."""
    answer = str(root.prompt.row.get("answer", ""))
    head = Text(f"question {readable(root.prompt.id)}", style="bold")
    if answer:
        head.append(f", expected answer {readable(_cut(answer, characters))}")
    head.append("\n").append(_shown(root.prompt.text, characters, style="not bold"))
    tree = Tree(head, guide_style="dim")
    _add(tree, root, characters)
    return tree


def _add(tree: Tree, trajectory: Trajectory, characters: int) -> None:
    text = _heading(trajectory)
    for author, said in _said(trajectory):
        text.append("\n")
        if len(trajectory.turns) > 1:
            text.append(f"{readable(author)}: ", style="dim")
        text.append(_shown(said, characters))
    if trajectory.failure is not None:
        failure = trajectory.failure
        text.append(f"\n{readable(f'{failure.source} {failure.kind}: {failure.message}')}", style=STYLES[FAILED])
    branch = tree.add(text)
    for child in trajectory.children:
        _add(branch, child, characters)


def _heading(trajectory: Trajectory) -> Text:
    """The move, its author, its verdict, and its rewards."""
    found = Text(f"{readable(trajectory.move or 'answer')} by {readable(trajectory.author)}", style="bold")
    if trajectory.writer != POLICY:
        found.append(f" (written by {readable(trajectory.writer)})")
    if trajectory.failure is not None:
        return found.append(": ").append(FAILED, style=STYLES[FAILED])
    if trajectory.verdict is not None:
        says = "an unreadable verdict" if trajectory.verdict not in STYLES else f"says {trajectory.verdict}"
        found.append(": ").append(says, style=STYLES.get(trajectory.verdict, STYLES[FAILED]))
    elif trajectory.correct is not None:
        truth = RIGHT if trajectory.correct else WRONG
        found.append(": ").append(truth, style=STYLES[truth])
    found.append(f", reward {trajectory.reward:.3f}", style="not bold")
    if len(trajectory.scores) > 1:
        scores = ", ".join(f"{readable(name)} {score.value:.3f}" for name, score in trajectory.scores.items())
        found.append(f" ({scores})", style="not bold dim")
    return found


def _said(trajectory: Trajectory) -> Iterator[tuple[str, str]]:
    """Each turn's author and text; those of rows without texts of turns have the completion alone."""
    if any(turn.text for turn in trajectory.turns):
        yield from ((turn.author, turn.text) for turn in trajectory.turns)
    else:
        yield trajectory.author, trajectory.text


def _shown(text: str, characters: int, *, style: str = "") -> Text:
    return Text(readable(_cut(text, characters), keep="\n"), style=style)


def _cut(text: str, characters: int) -> str:
    """The text without the middle of what is longer."""
    left = len(text) - characters
    half = characters // 2
    return text if left <= 0 else f"{text[:half]} [{left} characters] {text[len(text) - half :]}"
