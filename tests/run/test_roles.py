"""Several models in one run: what is trained moves, what is frozen stays, and a run that goes on is the same run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from llmrl.engines.ranks import Ranks
from llmrl.recipe_file import load_plan
from llmrl.rewards.workers import Workers
from llmrl.run.models import make_roles, prepare_origins
from llmrl.run.run import resolve_plan, run_plan
from llmrl.run.sampling import Samplers, make_collector

RECIPE = Path(__file__).parents[2] / "recipes" / "roles" / "exchange.yaml"
SHORT = ["training.steps=4", "rollout.prompts_per_step=8", "rollout.group_size=4", "evaluation.every=null"]
SHARED = "roles.checker.model={role: actor, build: null}"
LORA = "model.lora={rank: 4}"
ADAPTER = "roles.checker.model={role: actor, build: null, lora: {rank: 2}}"


def train(run_dir: Path, *overrides: str, resume: bool = False, recipe: Path = RECIPE) -> Path:
    plan = load_plan(recipe, [f"run_dir={run_dir}", *SHORT, *overrides])
    assert run_plan(plan, resume=resume, console=Console(quiet=True)) == 0
    return run_dir


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def moved(run: Path, role: str, *, since: str | None = None) -> bool:
    """Whether a role's final weights differ from those it started with."""
    before, after = weights(run / "origin" / (since or role)), weights(run / "final" / role)
    assert before.keys() == after.keys()
    return any(not torch.equal(before[name], after[name]) for name in before)


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    own = ("seconds", "per_second", "peak_memory")  # of the machine, not of the run
    return [{k: v for k, v in row.items() if not any(part in k for part in own)} for row in found]


def launched(run_dir: Path, *arguments: str) -> None:
    """The same on two ranks, by the command."""
    command = [Path(sys.executable).parent / "llmrl", "train", RECIPE, f"run_dir={run_dir}", *SHORT, "--nproc", "2"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def as_if_killed(whole: Path, killed: Path) -> Path:
    """A copy of a run as a kill after its third step would have left it."""
    shutil.copytree(whole, killed)
    for folder in ("final", "stages", "checkpoints/train-000004"):
        shutil.rmtree(killed / folder)
    return killed


def assert_equal(found: Path, expected: Path) -> None:
    """Metrics row by row, and final weights bit for bit."""
    assert rows(found) == rows(expected)
    for role in ("actor", "checker"):
        before, after = weights(expected / "final" / role), weights(found / "final" / role)
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("roles") / "run", "checkpoint.every=2", "checkpoint.keep_last=9")


@pytest.fixture(scope="module")
def refined_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("refined")
    return train(folder / "run", "checkpoint.every=2", "checkpoint.keep_last=9", recipe=refined(folder))


def test_both_roles_are_trained_by_their_own_methods(run):
    assert moved(run, "actor") and moved(run, "checker")
    last = rows(run)[-1]
    assert last["grad_norm"] > 0 and last["checker/grad_norm"] > 0
    assert "kl_k3" not in last and "checker/kl_k3" in last  # only the checker's method reads a reference
    assert {"reward/exchange:right_answer", "checker/reward/exchange:right_verdict"} <= last.keys()
    assert not any(name.startswith("checker/reward/exchange:right_answer") for name in last)


def test_both_roles_learn(tmp_path):
    """In 24 steps the actor's accuracy rises from chance, and the checker learns that most answers are wrong."""
    run = train(tmp_path / "run", "training.steps=24", "rollout.prompts_per_step=16", "rollout.group_size=8")
    found = rows(run)
    assert found[1]["accuracy"] < 0.1 and found[-1]["accuracy"] > 0.4
    assert found[1]["checker/accuracy"] < 0.15 and max(row.get("checker/accuracy", 0) for row in found) > 0.4


REFINED = f"""
include: {RECIPE}
env: single_turn
moves:
  draft: {{by: actor}}
  critique: {{by: checker, of: draft, samples: 2, ask: "{{prompt}}{{draft}}?", max_completion_tokens: 1}}
  refinement: {{by: actor, of: critique, compared_within: draft, ask: "{{prompt}}{{critique}}>"}}
roles:
  checker:
    method: ppo
    rewards: {{"exchange:right_verdict": null, "roles_rewards:sign": {{}}, refined: {{}}}}
    critic: {{learning_rate: 1.0e-3}}
    reference: {{every: 1}}
    training: {{updates_per_step: 2, learning_rate: 1.0e-3}}
rollout: {{max_prompt_tokens: 16}}
"""
"""Drafts, critiques and refinements; the checker has a method, a critic, a reference and updates of its own."""


def refined(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "refined.yaml").write_text(REFINED)
    shutil.copy(RECIPE.with_name("exchange.py"), folder)
    (folder / "roles_rewards.py").write_text("async def sign(completion):\n    return float(completion[:1] in '+-')\n")
    return folder / "refined.yaml"


@pytest.mark.parametrize("frozen", ["actor", "checker"])
def test_a_frozen_role_samples_and_stays_bit_equal(tmp_path, frozen):
    """Also the one that answers the questions, and whose refinements say what a critique is worth."""
    trained = "checker" if frozen == "actor" else "actor"
    settings = [f"roles.{frozen}.trained=false", "training.steps=2"]
    run = train(tmp_path / "run", *settings, recipe=refined(tmp_path))
    assert moved(run, trained) and not moved(run, frozen)
    last, prefixes = rows(run)[-1], {"actor": "", "checker": "checker/"}
    assert f"{prefixes[trained]}grad_norm" in last and f"{prefixes[frozen]}grad_norm" not in last
    assert f"{prefixes[frozen]}reward" in last


def test_each_role_has_settings_files_and_metrics_of_its_own(refined_run):
    assert moved(refined_run, "actor") and moved(refined_run, "checker")
    last, checkpoint = rows(refined_run)[-1], refined_run / "checkpoints" / "train-000004"
    assert (last["learning_rate"], last["checker/learning_rate"]) == (3e-3, 1e-3)
    states = [torch.load(checkpoint / f"{name}.pt") for name in ("actor", "checker", "checker.critic")]
    assert [state["updates"] for state in states] == [4, 8, 8]
    assert not [*checkpoint.glob("actor.*.pt")]
    assert "checker/value_loss" in last and "value_loss" not in last
    # what the checker's reference moved to is the checker as it is
    reference, own = torch.load(checkpoint / "checker.reference.pt"), states[1]["weights"]
    assert all(torch.equal(reference[name], own[name]) for name in own)


def test_roles_that_share_weights_take_their_steps_together(tmp_path):
    run = train(tmp_path / "run", SHARED)
    actor, checker = weights(run / "final" / "actor"), weights(run / "final" / "checker")
    assert moved(run, "actor") and all(torch.equal(actor[name], checker[name]) for name in actor)
    last = rows(run)[-1]
    assert last["grad_norm"] == last["checker/grad_norm"]  # one gradient, the sum of both roles'


def test_a_role_may_learn_in_every_second_step_alone(tmp_path):
    run = train(tmp_path / "run", "roles.checker.trained_every=2", "roles.checker.training.schedule=linear")
    learnt = [row for row in rows(run) if row["step"]]
    assert ["checker/grad_norm" in row for row in learnt] == [False, True, False, True]
    assert all("grad_norm" in row and "checker/reward" in row for row in learnt)
    rates = [row["checker/learning_rate"] for row in learnt if row["step"] % 2 == 0]
    assert rates == pytest.approx([3e-3, 1.5e-3])  # of two updates in all


def test_roles_that_share_weights_may_learn_at_times_of_their_own(tmp_path):
    run = train(tmp_path / "run", SHARED, "training.schedule=linear", "roles.actor.trained_every=4")
    learnt = [row for row in rows(run) if row["step"]]
    assert ["grad_norm" in row for row in learnt] == [False, False, False, True]
    assert learnt[3]["grad_norm"] == learnt[3]["checker/grad_norm"]
    rates = [row["checker/learning_rate"] for row in learnt]  # the checker learns in all of the four steps
    assert rates == pytest.approx([3e-3, 2.25e-3, 1.5e-3, 0.75e-3])


def test_an_untrained_role_uses_the_weights_that_another_trains(tmp_path):
    run = train(tmp_path / "run", SHARED, "roles.checker.trained=false", "training.steps=2")
    actor, checker = weights(run / "final" / "actor"), weights(run / "final" / "checker")
    assert moved(run, "actor") and all(torch.equal(actor[name], checker[name]) for name in actor)


def test_adapters_on_one_base_are_trained_apart(tmp_path):
    run = train(tmp_path / "run", LORA, ADAPTER)
    assert moved(run, "actor") and moved(run, "checker", since="actor")
    base, actor, checker = (weights(run / folder) for folder in ("origin/actor", "final/actor", "final/checker"))
    adapted = [name for name in base if not torch.equal(base[name], actor[name])]
    assert adapted and all("proj" in name for name in adapted)
    for name in adapted:
        delta = checker[name] - base[name]
        assert torch.linalg.matrix_rank(delta, tol=1e-6) <= 2  # the checker's adapter and nothing of the actor's
    configs = [run / "final" / role / "adapter" / "adapter_config.json" for role in ("actor", "checker")]
    assert [json.loads(config.read_text())["r"] for config in configs] == [4, 2]


ON_A_THIRD = f"""
include: {RECIPE}
roles:
  actor: {{model: {{role: base, lora: {{rank: 4}}}}}}
  checker: {{model: {{role: base, lora: {{rank: 2}}}}}}
  base: {{trained: false}}
"""


@pytest.mark.parametrize("third", [False, True], ids=["on_the_actors_base", "on_a_third_model"])
def test_adapters_hold_their_base_once_in_trainer_and_sampler(tmp_path, third):
    (tmp_path / "third.yaml").write_text(ON_A_THIRD)
    settings = [f"run_dir={tmp_path}/run", *SHORT, *([] if third else [LORA, ADAPTER])]
    plan = load_plan(tmp_path / "third.yaml" if third else RECIPE, settings)
    recipe, pieces, ranks, cpu = plan.stages["train"], resolve_plan(plan)["train"], Ranks(), torch.device("cpu")
    origins = prepare_origins(recipe, plan.run_dir, ranks)
    roles = make_roles(recipe, pieces, origins, ranks, cpu)
    actor, checker = (roles[name].learner.engine for name in ("actor", "checker"))
    assert actor.model.lm is checker.model.lm
    ranks_of = [{len(w) for n, w in e.trained_weights().items() if "lora_A" in n} for e in (actor, checker)]
    assert ranks_of == [{4}, {2}]
    with closing(Samplers(max_concurrent=8)) as samplers, closing(Workers(1)) as workers:
        env = pieces["actor"].env
        collector = make_collector(recipe, env, origins, samplers, workers, ranks, cpu, written={})
        bases = [author.sampler.base for author in collector.authors.values()]
        assert all(base is bases[0] for base in bases) and len(samplers._open) == 1
        assert [author.sampler.takes_adapter for author in collector.authors.values()] == [True, True, False][
            : len(bases)
        ]


@pytest.mark.parametrize("overrides", [[], [SHARED], [LORA, ADAPTER]], ids=["own", "shared", "adapters"])
def test_a_run_that_goes_on_is_bit_equal(tmp_path, run, overrides):
    kept = ["checkpoint.every=2", "checkpoint.keep_last=9", *overrides]
    whole = run if not overrides else train(tmp_path / "whole", *kept)
    killed = as_if_killed(whole, tmp_path / "killed")
    train(killed, *kept, resume=True)
    assert_equal(killed, whole)


def test_co_training_with_moves_goes_on_bit_equal(tmp_path, refined_run):
    """With the checker's critic and its moving reference."""
    killed = as_if_killed(refined_run, tmp_path / "killed")
    train(killed, "checkpoint.every=2", "checkpoint.keep_last=9", resume=True, recipe=refined(tmp_path))
    assert_equal(killed, refined_run)


def test_two_ranks_train_as_one_process_does_and_go_on_bit_equal(tmp_path, run):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    launched(whole, "training.strategy=accelerate", "checkpoint.every=2", "checkpoint.keep_last=9")
    for expected, found in zip(rows(run), rows(whole), strict=True):
        assert found == pytest.approx(expected, abs=2e-5, nan_ok=True)
    as_if_killed(whole, killed)
    launched(killed, "training.strategy=accelerate", "checkpoint.every=2", "checkpoint.keep_last=9", "--resume")
    assert_equal(killed, whole)


def test_every_author_has_rows_of_its_own(run):
    import pyarrow.parquet as pq

    found = pq.read_table(run / "rollouts" / "train-000001.parquet").to_pylist()
    assert len(found) == 2 * 8 * 4 and {row["author"] for row in found} == {"actor", "checker"}
    actor = next(row for row in found if row["author"] == "actor")
    checker = next(
        row
        for row in found
        if row["author"] == "checker" and (row["prompt_id"], row["episode"]) == (actor["prompt_id"], actor["episode"])
    )
    assert checker["prompt"] == f"{actor['prompt']}{actor['completion'][:1]}?"
    assert checker["turns"][0]["text"] == checker["completion"] and checker["turns"][0]["author"] == "checker"
