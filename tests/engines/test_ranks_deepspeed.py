"""One batch trained by two processes under every ZeRO stage, against one process with plain torch.

All stages share one launch, as starting up takes most of the time; what is asserted is asserted per stage.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import deepspeed_actor_critic as actor_critic
import pytest
import torch
from torch import nn
from training_cases import (
    GRPO,
    GSPO_KL,
    fixed_batch,
    largest_difference,
    make_algorithm,
    make_training,
    record_gradients,
    tiny_lm,
    tiny_policy,
    weights_of,
    with_lora,
)

from llmrl.data.packing import schedule
from llmrl.engines.engine import TorchEngine
from llmrl.engines.ranks import Ranks
from llmrl.recipe import Training
from llmrl.train.annotate import annotate
from llmrl.train.roles import Role
from llmrl.train.step import update

WORKER = Path(__file__).parent.parent / "support" / "deepspeed_worker.py"
STAGES = [0, 1, 2, 3]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": (GSPO_KL, {}),
    "several": (GRPO, {"updates_per_step": 2, "epochs_per_step": 2}),
    "lora": (GSPO_KL, {}),
    "bf16": (GSPO_KL, {"dtype": "bf16"}),
}


LAUNCHER = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def run_worker(folder: Path, launcher: list[str], stages: list[int]) -> None:
    command = [sys.executable, *launcher, str(WORKER), str(folder), *map(str, stages)]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=450
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("ranks")
    run_worker(found, LAUNCHER, STAGES)
    return found


@pytest.fixture(scope="module", params=STAGES, ids=lambda stage: f"zero{stage}")
def ranks(request, folder) -> list[dict[str, Any]]:
    """What the two ranks saw."""
    files = [folder / f"stage{request.param}-rank{rank}.pt" for rank in (0, 1)]
    return [torch.load(file, weights_only=False) for file in files]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """The same cases in this process, with plain torch."""
    found = {}
    for case, (pieces, settings) in CASES.items():
        lm = with_lora(tiny_lm()) if case == "lora" else tiny_lm()
        training = make_training(**settings)
        reference = None
        if case in ("full", "bf16"):
            reference = tiny_policy(tiny_lm(seed=3)).eval().requires_grad_(False)
        engine = TorchEngine(tiny_policy(lm), training, torch.device("cpu"))
        role = Role("actor", make_algorithm(**pieces), engine, training, Ranks(), reference)
        gradients = record_gradients(engine)
        metrics = update(role, annotate(role, fixed_batch()), seed=0)
        found[case] = {"gradients": gradients, "metrics": metrics, "weights": weights_of(engine)}
        found[case]["trained"] = engine.trained_weights()
    return found


def test_the_batch_gives_the_ranks_unequal_work():
    plans = schedule(fixed_batch().lengths, ranks=2, max_tokens=make_training().tokens_per_micro_batch)
    assert sorted(sum(len(rows) > 0 for rows in plan) for plan in plans) == [2, 3]


def test_every_rank_can_export_the_whole_adapter(ranks, alone):
    """ZeRO-3 holds a slice of it on each rank; an adapter folder needs all of it."""
    expected = alone["lora"]["trained"]
    assert expected and all("lora_" in name for name in expected)
    for rank in ranks:
        found = rank["lora"]["trained"]
        assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in expected.items()}
        assert largest_difference(found, expected) < 1e-4


@pytest.mark.parametrize("case", ["full", "several", "lora"])
def test_gradients_weights_and_metrics_are_those_of_one_process(case, ranks, alone):
    expected = alone[case]
    for rank in ranks:
        found = rank[case]
        assert len(found["gradients"]) == len(expected["gradients"])
        for gradients, others in zip(found["gradients"], expected["gradients"], strict=True):
            assert max(float(gradient.abs().max()) for gradient in others.values()) > 0.05
            assert largest_difference(gradients, others) < 1e-5
        # Adam divides by the gradient's size, so where it is small its rounding errors count for more
        assert largest_difference(found["weights"], expected["weights"]) < 1e-4
        assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-5)
    assert ranks[0][case]["metrics"] == ranks[1][case]["metrics"]


def test_the_weights_are_whole_and_the_same_on_every_rank(ranks, alone):
    for case in CASES:
        first, second = (rank[case]["weights"] for rank in ranks)
        assert largest_difference(first, second) == 0.0
        assert {n: w.shape for n, w in first.items()} == {n: w.shape for n, w in alone[case]["weights"].items()}


def test_bf16_is_close_to_fp32(ranks, alone):
    exact, rough = alone["full"], ranks[0]["bf16"]
    assert rough["metrics"]["grad_norm"] == pytest.approx(exact["metrics"]["grad_norm"], rel=0.03)
    for name, gradient in exact["gradients"][0].items():
        assert float((rough["gradients"][0][name].float() - gradient).norm() / gradient.norm()) < 0.1, name
    assert {weight.dtype for weight in rough["weights"].values()} == {torch.bfloat16}


@pytest.mark.parametrize("case", ["nan", "bf16_nan"])
def test_a_bad_number_on_one_rank_stops_all_with_weights_untouched(case, ranks):
    for rank in ranks:
        assert "stopped before the update, weights are untouched" in rank[case]["message"]
        assert rank[case]["untouched"]


def test_a_loaded_engine_goes_on_bit_for_bit(ranks):
    assert [rank["continued"] for rank in ranks] == [True, True]


def test_gather_gives_every_rank_what_each_one_gave(ranks):
    assert [rank["gathered"] for rank in ranks] == [["rank 0", "rank 1"]] * 2


def test_a_missing_rank_is_named(folder):
    """Rank 1 came 2 seconds late to a barrier with a deadline of 1."""
    message = (folder / "missing0.txt").read_text(encoding="utf-8")
    assert message.startswith("rank 0 waited 1 s at 'a test': ")
    assert "Ranks 1 failed to pass" in message


# critics, and losses that read more of the policy than its log-probabilities


@pytest.fixture(scope="module", params=STAGES[1:], ids=lambda stage: f"zero{stage}")
def actor_critic_ranks(request, folder) -> list[dict[str, Any]]:
    files = [folder / f"actor_critic{request.param}-rank{rank}.pt" for rank in (0, 1)]
    return [torch.load(file, weights_only=False) for file in files]


@pytest.fixture(scope="module")
def actor_critic_alone() -> dict[str, Any]:
    def make_engine(model: nn.Module, training: Training) -> TorchEngine:
        return TorchEngine(model, training, torch.device("cpu"))

    found = {name: actor_critic.run(case, make_engine, Ranks()) for name, case in actor_critic.CASES.items()}
    return found | {"at_the_head": actor_critic.measured_at_the_head(make_engine, Ranks())}


def assert_same_updates(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The gradients of every optimizer step of every engine, and the metrics of every step."""
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, updates in expected["gradients"].items():
        for gradients, others in zip(found["gradients"][name], updates, strict=True):
            largest = max(float(gradient.abs().max()) for gradient in others.values())
            assert largest > 0.2
            assert largest_difference(gradients, others) < 2e-6 * max(1.0, largest), name
    for row, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", actor_critic.CASES)
def test_actor_and_critic_get_the_gradients_of_one_process(case, actor_critic_ranks, actor_critic_alone):
    for rank in actor_critic_ranks:
        assert_same_updates(rank[case], actor_critic_alone[case])
    assert actor_critic_ranks[0][case]["metrics"] == actor_critic_ranks[1][case]["metrics"]


def test_every_case_makes_the_updates_that_it_is_about(actor_critic_alone):
    updates = {
        case: {name: len(found) for name, found in actor_critic_alone[case]["gradients"].items()}
        for case in actor_critic.CASES
    }
    assert updates == {
        "own": {"policy": 1, "critic": 1},
        "own_several": {"policy": 2, "critic": 2},
        "own_warmup": {"policy": 1, "critic": 1},  # first the critic alone, then the policy alone
        "own_lora": {"policy": 2, "critic": 2},
        "shared": {"policy": 2},
        "coupled": {"policy": 2},
        "candidates": {"policy": 2},
    }


def test_loaded_actor_and_critic_go_on_bit_for_bit(actor_critic_ranks):
    assert [rank["continued"] for rank in actor_critic_ranks] == [True, True]


def test_gradients_at_the_head_are_those_of_one_process(actor_critic_ranks, actor_critic_alone):
    """The ranks need unequal numbers of slices; the second prompt has no success."""
    expected = actor_critic_alone["at_the_head"]
    norms = expected["success_gradient_norms"]
    assert norms[1] == 0.0 and norms[0] > 1.0 and norms[2] > 1.0
    for rank in actor_critic_ranks:
        for name, values in expected.items():
            assert rank["at_the_head"][name] == pytest.approx(values, rel=2e-6), name


def test_one_process_needs_no_launcher(tmp_path, alone, actor_critic_alone):
    run_worker(tmp_path, [], [2])
    found = torch.load(tmp_path / "stage2-rank0.pt", weights_only=False)
    for case in ("full", "several", "lora"):
        for gradients, others in zip(found[case]["gradients"], alone[case]["gradients"], strict=True):
            assert largest_difference(gradients, others) < 1e-5
    assert found["continued"]
    found = torch.load(tmp_path / "actor_critic2-rank0.pt", weights_only=False)
    for case in actor_critic.CASES:
        assert_same_updates(found[case], actor_critic_alone[case])
