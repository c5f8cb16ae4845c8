"""The llmrl command."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

import llmrl
from llmrl.completion import bench_parts, entry_names, kinds, method_names, override_keys, recipe_files
from llmrl.ending import Commands, ended
from llmrl.engines.catalogue import engine_kind
from llmrl.engines.launch import launch
from llmrl.errors import RecipeError
from llmrl.recipe_file import Plan, load_plan
from llmrl.run_folder.lock import refuse_if_locked

app = typer.Typer(cls=Commands, pretty_exceptions_enable=False)

RecipePath = Annotated[Path, typer.Argument(help="a recipe file", autocompletion=recipe_files)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="key=value, such as training.steps=20", autocompletion=override_keys)
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.callback(invoke_without_command=True)
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Post-train language models."""
    if version:
        print(f"llmrl {llmrl.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option(help="continue from the last checkpoint")] = False,
    overwrite: Annotated[bool, typer.Option(help="delete what the run folder holds")] = False,
    nproc: Annotated[int, typer.Option(help="processes on this machine, one per device", min=1)] = 1,
    profile: Annotated[bool, typer.Option(help="tell where the time of a step goes")] = False,
) -> None:
    """Train the model of a recipe."""
    if resume and overwrite:
        raise RecipeError("--resume --overwrite: one goes on with the run, the other deletes it; give one of them")
    plan = load_plan(recipe, overrides)
    launched = "LOCAL_RANK" in os.environ
    size = int(os.environ.get("WORLD_SIZE", "1")) if launched else nproc
    if size > 1:
        _refuse_single_process(plan, size)
    refuse_if_locked(plan.run_dir)  # run_plan would refuse as well, after its libraries are imported
    if nproc > 1 and not launched:
        raise typer.Exit(launch([sys.executable, "-m", "llmrl.cli", *sys.argv[1:]], nproc))
    _quiet()
    from llmrl.run.run import run_plan

    raise typer.Exit(run_plan(plan, resume=resume, overwrite=overwrite, profile=profile, console=Console()))


@app.command()
def check(
    recipe: RecipePath,
    overrides: Overrides = None,
    nproc: Annotated[int, typer.Option(help="processes the run would use", min=1)] = 1,
    dump: Annotated[bool, typer.Option(help="print the resolved recipe")] = False,
) -> None:
    """Check everything that can be checked before a weight loads."""
    plan = load_plan(recipe, overrides)
    if dump:
        print(plan.dump())
        return
    _quiet()
    from llmrl.check import check_plan

    raise typer.Exit(check_plan(plan, ranks=nproc, console=Console()))


@app.command("methods")
def show_methods(
    name: Annotated[
        str | None, typer.Argument(help="one method, to see its pieces", autocompletion=method_names)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List every method with its paper, pieces and proof, or show the resolved pieces of one."""
    _quiet()
    from llmrl.listing import list_methods, show_method

    show_method(name, Console(), as_json=as_json) if name else list_methods(Console(), as_json=as_json)


@app.command("list")
def list_catalogue(
    kind: Annotated[str, typer.Argument(help="rewards, envs, pieces, tasks or recipes", autocompletion=kinds)],
    name: Annotated[
        str | None, typer.Argument(help="one of them, or an axis of pieces", autocompletion=entry_names)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List what a recipe can name: each with a sentence, its settings and its place; or show all about one."""
    _quiet()
    from llmrl.listing import list_entries

    list_entries(kind, name, Console(), as_json=as_json)


@app.command("prove")
def prove_methods(
    names: Annotated[
        list[str] | None, typer.Argument(help="methods; default: all", autocompletion=method_names)
    ] = None,
    folder: Annotated[Path, typer.Option(help="where results are kept; what is there is not done again")] = Path(
        "runs/prove"
    ),
    tasks: Annotated[
        str, typer.Option(help="tasks or families (policy, preference), comma-separated; default: all")
    ] = "",
    seeds: Annotated[str, typer.Option(help="comma-separated")] = "0,1,2",
    jobs: Annotated[int, typer.Option(help="processes, one core each", min=1)] = 1,
    quick: Annotated[bool, typer.Option(help="a few methods on one task with one seed, in minutes")] = False,
    write: Annotated[Path | None, typer.Option(help="write the tables here, such as docs/methods.md")] = None,
) -> None:
    """Train methods on small standard tasks from one start, and write what they reached."""
    _quiet()
    from llmrl.prove.command import run

    run(names or [], folder, tasks=tasks, seeds=seeds, jobs=jobs, quick=quick, write=write, console=Console())


@app.command()
def overoptimization(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of runs of one recipe")],
    write: Annotated[
        Path | None, typer.Option(help="write the tables here, such as docs/overoptimization.md, and the figure beside")
    ] = None,
    audit: Annotated[str | None, typer.Option(help="the gold reward, of several of weight 0")] = None,
) -> None:
    """Show how a reward that is optimized and one that audits it change with the distance from the start."""
    from llmrl.overoptimization.command import run

    run(runs, write=write, audit=audit, console=Console())


@app.command("sandbox")
def show_sandbox(
    tier: Annotated[str | None, typer.Option(help="bubblewrap, namespaces or process; default: the strongest")] = None,
    attack: Annotated[bool, typer.Option(help="let hostile programs loose in it; exit code 1 if one got out")] = False,
    bench: Annotated[bool, typer.Option(help="measure how many programs a second it runs and grades")] = False,
    markdown: Annotated[bool, typer.Option(help="print tables for a document")] = False,
    at_once: Annotated[int, typer.Option(help="attacks at once", min=1)] = 4,
) -> None:
    """Show which sandbox this machine gives and what it lacks, attack it, or measure it."""
    _quiet()
    from llmrl.rewards.code.trial import grade
    from llmrl.sandbox.command import run

    works = {
        "a program graded by its output": "llmrl.rewards.code.trial:grade_output",
        "a function graded by 3 assertions": "llmrl.rewards.code.trial:grade_calls",
    }
    code = run(
        tier=tier,
        attack=attack,
        bench=bench,
        markdown=markdown,
        at_once=at_once,
        grade=grade,
        works=works,
        console=Console(),
    )
    raise typer.Exit(code)


@app.command("bench")
def measure_speed(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="peer, overhead, growth, logprobs, sync, padding, preference, critique, environments, memory; "
            "default: all of them",
            autocompletion=bench_parts,
        ),
    ] = None,
    write: Annotated[Path | None, typer.Option(help="put the tables here, such as docs/speed.md")] = None,
    peer_python: Annotated[
        Path | None, typer.Option(help="the interpreter that has TRL; scripts/peer_setup.sh makes one")
    ] = None,
    peer_checkpointing: Annotated[bool, typer.Option(help="TRL checkpoints gradients, its default")] = False,
    case: Annotated[list[str] | None, typer.Option(help="only this case, such as small; may be repeated")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of everything measured", min=1)] = 2,
    rounds: Annotated[int, typer.Option(help="times that each measurement is made", min=1)] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="keep models, runs and outputs here; default: in a folder that is deleted")
    ] = None,
    quick: Annotated[bool, typer.Option(help="a tiny case, to try the benchmark itself")] = False,
) -> None:
    """Measure what a step takes: against a peer, against its engines alone, and part by part."""
    _quiet()
    from llmrl.bench.command import run
    from llmrl.bench.measure import Setting

    setting = Setting(
        folder=folder.absolute() if folder else Path(),
        threads=threads,
        rounds=1 if quick else rounds,
        quick=quick,
        peer_python=peer_python.absolute() if peer_python else None,
        peer_checkpointing=peer_checkpointing,
        only=tuple(case or ()),
    )
    raise typer.Exit(run(names or [], setting=setting, write=write, console=Console()))


@app.command("label-steps")
def make_step_labels(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option(help="the .jsonl file of the rows; what is there is not done again")],
    overrides: Overrides = None,
    solutions: Annotated[int, typer.Option(help="solutions of each prompt", min=1)] = 4,
    continuations: Annotated[int, typer.Option(help="continuations from the end of each step", min=1)] = 8,
    delimiter: Annotated[str, typer.Option(help="the text that ends a step; \\n is a new line")] = "\\n\\n",
) -> None:
    """Label the steps of sampled solutions by how often their continuations are right, for process reward models."""
    plan = load_plan(recipe, overrides)
    _quiet()
    from llmrl.run.label_steps import label_steps

    settings = {"solutions": solutions, "continuations": continuations, "delimiter": delimiter.replace("\\n", "\n")}
    raise typer.Exit(label_steps(plan, out, **settings, console=Console()))


Policy = Annotated[str, typer.Option(help="a policy that was trained on preferences: a folder or a hub name")]
ReferenceModel = Annotated[str, typer.Option("--reference", help="the model that it was trained from")]
StageName = Annotated[str | None, typer.Option(help="of a recipe or a run; default: the last")]
Beta = Annotated[float, typer.Option(help="of its preference loss", min=0.0)]


@app.command("credit")
def show_credit(
    source: Annotated[Path, typer.Argument(help="rows with completions, a recipe, or a run's folder")],
    policy: Policy,
    reference: ReferenceModel,
    stage: StageName = None,
    beta: Beta = 0.1,
    limit: Annotated[int, typer.Option(help="only the first prompts", min=1)] = 5,
    html: Annotated[Path | None, typer.Option(help="write the page here")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the implicit reward of each token, beta times its log ratio."""
    _quiet()
    from llmrl.evaluation.command import show_credit

    settings: dict[str, Any] = {"stage": stage, "beta": beta, "limit": limit, "page": html, "as_json": as_json}
    show_credit(source, policy, reference, Console(), **settings)


@app.command("audit")
def show_audit(
    source: Annotated[Path, typer.Argument(help="rows with pairs, or a recipe")],
    policy: Policy,
    reference: ReferenceModel,
    stage: StageName = None,
    beta: Beta = 0.1,
    share: Annotated[float, typer.Option(help="the most pairs that are flagged", min=0.0, max=1.0)] = 0.05,
    limit: Annotated[int | None, typer.Option(help="only the first rows", min=1)] = None,
    as_json: AsJson = False,
) -> None:
    """Look for poisoned pairs: labels that a trusted policy contradicts, and what their prompts share."""
    _quiet()
    from llmrl.evaluation.command import show_audit

    settings: dict[str, Any] = {"stage": stage, "beta": beta, "share": share, "limit": limit, "as_json": as_json}
    show_audit(source, policy, reference, Console(), **settings)


@app.command("eval")
def evaluate(
    source: Annotated[Path, typer.Argument(help="a recipe file, or the folder of a run", autocompletion=recipe_files)],
    overrides: Overrides = None,
    stage: StageName = None,
    step: Annotated[int | None, typer.Option(help="of a run: that checkpoint, or what was recorded then")] = None,
    model: Annotated[list[str] | None, typer.Option(help="FOLDER, or ROLE=FOLDER; may be repeated")] = None,
    critique: Annotated[bool, typer.Option("--critique", help="measure critiques and refinements")] = False,
    samples: Annotated[int | None, typer.Option(help="of each prompt: for pass@k, or drafts", min=1)] = None,
    steps: Annotated[str | None, typer.Option(help="a file of solutions whose steps have labels")] = None,
    template: Annotated[str | None, typer.Option(help="the question about them: {prompt}, {steps}, {last}")] = None,
    role: Annotated[str | None, typer.Option(help="who is asked about them; default: critiquer")] = None,
    neutral: Annotated[Literal["right", "wrong", "drop"], typer.Option(help="a neutral step's label")] = "drop",
    limit: Annotated[int | None, typer.Option(help="only the first prompts or solutions", min=1)] = None,
    keep: Annotated[Path | None, typer.Option(help="a new folder for the rollouts, which `llmrl show` reads")] = None,
    out: Annotated[Path | None, typer.Option(help="write JSON here")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure models on held-out prompts, the critiques that they write, or those that a run has recorded."""
    _quiet()
    from llmrl.run.evaluate import Asked, run

    of_steps: dict[str, Any] = {"steps": steps, "template": template, "role": role, "neutral": neutral}
    asked = Asked(
        source, overrides or (), stage, step, model or (), critique, samples, limit=limit, keep=keep, **of_steps
    )
    run(asked, Console(), out=out, as_json=as_json)


@app.command()
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="the folder of a run, also of one under way")],
    step: Annotated[int | None, typer.Option(help="of its rollouts; default: the last", min=0)] = None,
    stage: Annotated[str | None, typer.Option(help="of the run; default: the last with rollouts")] = None,
    evaluation: Annotated[bool, typer.Option("--eval", help="the evaluation after the step")] = False,
    count: Annotated[int, typer.Option(help="the most episodes", min=1)] = 3,
    where: Annotated[
        str | None,
        typer.Option(help="only with this: wrong_to_right, right_to_wrong, right, says_wrong, unreadable, failed ..."),
    ] = None,
    characters: Annotated[int, typer.Option(help="the longest text that is shown whole", min=20)] = 2000,
) -> None:
    """Print episodes of a run as trees: drafts, critiques, refinements, each with its verdict and reward."""
    from llmrl.evaluation.show import show

    asked: dict[str, Any] = {"stage": stage, "step": step, "evaluation": evaluation, "where": where}
    show(run, Console(), **asked, count=count, characters=characters)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="the folder of a trained reward model")],
    host: Annotated[str, typer.Option(help="the address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: a free one, which is printed", min=0, max=65535)] = 8800,
    dtype: Annotated[Literal["fp32", "bf16"] | None, typer.Option(help="default: that of the weights")] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="the longest text; default: what the model has positions for", min=1)
    ] = None,
    batch_tokens: Annotated[int, typer.Option(help="the most tokens of a batch, padding included", min=1)] = 16384,
    queue_tokens: Annotated[int, typer.Option(help="the most tokens that may wait", min=1)] = 1_000_000,
    deadline_seconds: Annotated[float, typer.Option(help="the most time that a request may take", min=0.001)] = 60.0,
) -> None:
    """Serve a reward model over HTTP."""
    _quiet()
    from llmrl.serve.app import Limits
    from llmrl.serve.command import run

    limits = Limits(batch_tokens=batch_tokens, queue_tokens=queue_tokens, deadline_seconds=deadline_seconds)
    code = run(folder, host=host, port=port, limits=limits, dtype=dtype, max_tokens=max_tokens, console=Console())
    raise typer.Exit(code)


def main() -> None:
    """Entry point of the command `llmrl`."""
    sys.exit(ended(app))


def _refuse_single_process(plan: Plan, nproc: int) -> None:
    faults = [
        f"--nproc {nproc}: stage {name} has training.strategy {view.training.strategy}, which is for one process; "
        f"set training.strategy=deepspeed or accelerate"
        for name, recipe in plan.stages.items()
        for view in recipe.by_role.values()
        if not engine_kind(view.training.strategy).several
    ]
    if faults:
        raise RecipeError(*dict.fromkeys(faults))


def _quiet() -> None:
    """Silence the libraries, whose logs would bury the run's own lines; LLMRL_VERBOSE=1 shows them."""
    if os.environ.get("LLMRL_VERBOSE"):
        return
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)


if __name__ == "__main__":
    main()
