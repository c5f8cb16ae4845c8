"""One batch trained by two processes with every engine for several, against one process with plain torch.

All engines share one launch, as starting up takes most of the time; what is asserted is asserted per engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import actor_critic_cases as actor_critic
import pytest
import torch
from preference_cases import moved, scored
from training_cases import (
    GRPO,
    GSPO_KL,
    STRATEGIES,
    fixed_batch,
    largest_difference,
    make_training,
    record_gradients,
    role_of,
    tiny_lm,
    train,
    weights_of,
    with_lora,
)

from llmrl.data.schedule import schedule
from llmrl.engines.ranks import Ranks

WORKER = Path(__file__).parent.parent / "support" / "ranks_worker.py"
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "full": (GSPO_KL, {}),
    "several": (GRPO, {"updates_per_step": 2, "epochs_per_step": 2}),
    "lora": (GSPO_KL, {}),
    "bf16": (GSPO_KL, {"dtype": "bf16"}),
    "bf16_lora": (GSPO_KL, {"dtype": "bf16"}),
}
EXACT = [case for case in CASES if not case.startswith("bf16")]
# accelerate's launcher is torchrun, and tells Accelerators of its configuration: precision is the recipe's all the same
LAUNCHER = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1"]
LAUNCHER += ["--main_process_port=0", "--dynamo_backend=no", "--mixed_precision=bf16"]


def run_worker(folder: Path, launcher: list[str], strategies: list[str]) -> None:
    command = [sys.executable, *launcher, str(WORKER), str(folder), *strategies]
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=450
    )
    assert done.returncode == 0, done.stderr[-4000:]


def seen(folder: Path, strategy: str, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"{strategy}-rank{rank}.pt", weights_only=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("ranks")
    run_worker(found, LAUNCHER, list(STRATEGIES))
    return found


@pytest.fixture(scope="module", params=STRATEGIES)
def both(request, folder) -> list[dict[str, Any]]:
    """What the two ranks saw with one engine."""
    return [seen(folder, request.param, rank) for rank in (0, 1)]


@pytest.fixture
def ranks(both) -> list[dict[str, Any]]:
    return [rank["policy"] for rank in both]


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """The same cases in this process, with plain torch."""
    found = {}
    for case, (pieces, settings) in CASES.items():
        role = role_of(pieces, lm=with_lora(tiny_lm()) if case.endswith("lora") else None, **settings)
        gradients = record_gradients(role.learner.engine)
        metrics = train(role, fixed_batch())
        found[case] = {"gradients": gradients, "metrics": metrics, "weights": weights_of(role.learner.engine)}
        found[case]["trained"] = role.learner.engine.trained_weights()
    return found


def test_the_batch_gives_the_ranks_unequal_work():
    batch, most = fixed_batch(), make_training().tokens_per_micro_batch
    rows = [row[:length].numpy() for row, length in zip(batch.token_ids, batch.lengths, strict=True)]
    plans = schedule(rows, ranks=2, max_tokens=most, packed=True)
    assert sorted(sum(len(rows) > 0 for rows in plan) for plan in plans) == [2, 3]


def test_every_rank_can_export_the_whole_adapter(ranks, alone):
    """ZeRO-3 and FSDP hold a slice of it on each rank; an adapter folder needs all of it."""
    expected = alone["lora"]["trained"]
    assert expected and all("lora_" in name for name in expected)
    for rank in ranks:
        found = rank["lora"]["trained"]
        assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in expected.items()}
        assert largest_difference(found, expected) < 1e-4


@pytest.mark.parametrize("case", EXACT)
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


@pytest.mark.parametrize("case", ["moved", "moved_lora"])
def test_dpo_with_a_reference_that_moves_is_that_of_one_process(case, ranks):
    if case not in ranks[0]:
        pytest.skip("not run with this engine")
    expected = moved(lora=case == "moved_lora")
    assert len(expected["gradients"]) == 2
    for rank in ranks:
        for gradients, others in zip(rank[case]["gradients"], expected["gradients"], strict=True):
            assert max(float(gradient.abs().max()) for gradient in others.values()) > 0.05
            assert largest_difference(gradients, others) < 1e-5
        for row, other in zip(rank[case]["metrics"], expected["metrics"], strict=True):
            assert row == pytest.approx(other, rel=1e-4, abs=1e-5)
        assert largest_difference(rank[case]["reference"], expected["reference"]) < 1e-4
        assert largest_difference(rank[case]["trained"], expected["trained"]) < 1e-4
    assert ranks[0][case]["metrics"] == ranks[1][case]["metrics"]
    assert largest_difference(ranks[0][case]["reference"], ranks[1][case]["reference"]) == 0.0


@pytest.fixture(scope="module")
def scored_alone() -> dict[str, dict[str, Any]]:
    """A reward model in this process, with plain torch."""
    found = {case: scored(lora=case == "scored_lora") for case in ("scored", "scored_lora")}
    return found | {"scored_bf16": scored(lora=False, dtype="bf16")}


@pytest.mark.parametrize("case", ["scored", "scored_lora", "scored_bf16"])
def test_a_reward_model_is_that_of_one_process(case, ranks, scored_alone):
    """In bf16 engines sum gradients in other orders and dtypes; see below."""
    if case not in ranks[0]:
        pytest.skip("not run with this engine")
    expected, exact = scored_alone[case], case != "scored_bf16"
    for rank in ranks:
        for gradients, others in zip(rank[case]["gradients"], expected["gradients"], strict=True):
            largest = max(float(gradient.abs().max()) for gradient in others.values())
            assert largest > 0.5 and any("score" in name for name in others)
            assert largest_difference(gradients, others) < (1e-5 if exact else 0.05) * max(1.0, largest)
        for row, other in zip(rank[case]["metrics"], expected["metrics"], strict=True):
            assert row == pytest.approx(other, **({"rel": 1e-4, "abs": 1e-5} if exact else {"rel": 0.05, "abs": 0.1}))
        assert largest_difference(rank[case]["trained"], expected["trained"]) < (1e-4 if exact else 0.03)
        assert largest_difference(rank[case]["weights"], expected["weights"]) < (1e-4 if exact else 0.03)
        tolerance = {"abs": 1e-4 if exact else 0.05}
        assert rank[case]["held_out"] == pytest.approx(expected["held_out"], **tolerance)
    assert ranks[0][case]["metrics"] == ranks[1][case]["metrics"]
    assert ranks[0][case]["held_out"] == ranks[1][case]["held_out"]


def test_the_weights_are_whole_and_the_same_on_every_rank(ranks, alone):
    for case in CASES:
        first, second = (rank[case]["weights"] for rank in ranks)
        assert largest_difference(first, second) == 0.0
        assert {n: w.shape for n, w in first.items()} == {n: w.shape for n, w in alone[case]["weights"].items()}


@pytest.mark.parametrize("case", ["bf16", "bf16_lora"])
def test_bf16_is_close_to_fp32_and_to_one_process(case, ranks, alone):
    exact, rough = alone["lora" if case == "bf16_lora" else "full"], ranks[0][case]
    assert rough["metrics"]["grad_norm"] == pytest.approx(exact["metrics"]["grad_norm"], rel=0.03)
    for name, gradient in exact["gradients"][0].items():
        assert float((rough["gradients"][0][name].float() - gradient).norm() / gradient.norm()) < 0.1, name
    merged = {torch.float32} if case == "bf16_lora" else set()  # a sum with an adapter is not rounded
    assert {weight.dtype for weight in rough["weights"].values()} == {torch.bfloat16} | merged
    assert {weight.dtype for weight in rough["trained"].values()} == {torch.bfloat16}


@pytest.mark.parametrize("case", ["bf16", "bf16_lora"])
def test_bf16_gradients_are_summed_in_fp32(case, request, ranks, alone):
    """The same micro-batches are rounded to bf16 alike, so fp32 sums of them differ by fp32's rounding errors."""
    if "zero" in request.node.callspec.params["both"]:
        pytest.skip("DeepSpeed sums them as it likes")
    for name, gradient in alone[case]["gradients"][0].items():
        found = ranks[0][case]["gradients"][0][name]
        assert found.dtype == torch.float32
        assert float((found - gradient).norm() / gradient.norm()) < 0.02, name


@pytest.mark.parametrize("case", ["nan", "bf16_nan"])
def test_a_bad_number_on_one_rank_stops_all_with_weights_untouched(case, ranks):
    for rank in ranks:
        assert "stopped before the update, weights are untouched" in rank[case]["message"]
        assert rank[case]["untouched"]


@pytest.mark.parametrize("case", ["continued", "bf16_continued"])
def test_a_loaded_engine_goes_on_bit_for_bit(case, ranks):
    if case not in ranks[0]:
        pytest.skip("not run with this engine")
    assert [rank[case] for rank in ranks] == [True, True]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_loads_what_accelerate_saved_on_two(strategy, folder):
    """The file holds whole tensors, of a first step with the schedule's warmup."""
    warm = {"schedule": "linear", "warmup_steps": 4}
    trained, loaded = role_of(GSPO_KL, **warm), role_of(GSPO_KL, **warm)
    train(trained, fixed_batch())
    loaded.learner.engine.load(folder / f"{strategy}-fp32")
    first, second = (train(role, fixed_batch(), 1) for role in (trained, loaded))
    assert second == pytest.approx(first, rel=1e-4, abs=1e-5)
    assert largest_difference(loaded.learner.engine.trained_weights(), trained.learner.engine.trained_weights()) < 1e-4


def test_gather_gives_every_rank_what_each_one_gave(ranks):
    assert [rank["gathered"] for rank in ranks] == [["rank 0", "rank 1"]] * 2


def test_a_missing_rank_is_named(folder):
    """Rank 1 came 2 seconds late to a barrier with a deadline of 1."""
    message = (folder / "missing0.txt").read_text(encoding="utf-8")
    assert message.startswith("rank 0 waited 1 s at 'a test': ")
    assert "Ranks 1 failed to pass" in message


# critics, and losses that read more of the policy than its log-probabilities


@pytest.fixture
def actor_critic_ranks(both) -> list[dict[str, Any]]:
    if "actor_critic" not in both[0]:
        pytest.skip("not run with this engine")
    return [rank["actor_critic"] for rank in both]


@pytest.fixture(scope="module")
def actor_critic_alone() -> dict[str, Any]:
    found = {name: actor_critic.run(case, {}, Ranks()) for name, case in actor_critic.CASES.items()}
    return found | {"at_the_head": actor_critic.measured_at_the_head({}, Ranks())}


def assert_same_updates(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """The gradients of every optimizer step of every engine, and the metrics of every step.

    Ranks add the rows up in another order than one process, and Adam makes more of last bits.
    """
    assert found["gradients"].keys() == expected["gradients"].keys()
    for name, updates in expected["gradients"].items():
        for gradients, others in zip(found["gradients"][name], updates, strict=True):
            largest = max(float(gradient.abs().max()) for gradient in others.values())
            assert largest > 0.1
            assert largest_difference(gradients, others) < 1e-5 * max(1.0, largest), name
    for row, other in zip(found["metrics"], expected["metrics"], strict=True):
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("case", actor_critic.CASES)
def test_actor_and_critic_get_the_gradients_of_one_process(case, actor_critic_ranks, actor_critic_alone):
    if case not in actor_critic_ranks[0]:
        pytest.skip("not run with this engine")
    for rank in actor_critic_ranks:
        assert_same_updates(rank[case], actor_critic_alone[case])
    assert actor_critic_ranks[0][case]["metrics"] == actor_critic_ranks[1][case]["metrics"]


def test_every_case_makes_the_updates_that_it_is_about(actor_critic_alone):
    updates = {
        case: {name: len(found) for name, found in actor_critic_alone[case]["gradients"].items()}
        for case in actor_critic.CASES
    }
    assert updates == {
        "own": {"policy": 2, "critic": 2},
        "own_warmup": {"policy": 1, "critic": 1},  # first the critic alone, then the policy alone
        "own_lora": {"policy": 2, "critic": 2},
        "shared": {"policy": 2},
        "coupled": {"policy": 2},
        "candidates": {"policy": 2},
    }


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_ddp_waits_for_no_gradient_that_does_not_come(dtype, folder):
    """Rank 0's first micro-batch reaches the value head, and no other; then none at all, and it is left alone."""
    expected = actor_critic.left_out({"dtype": dtype}, Ranks())
    assert [("value_head.weight" in gradients) for gradients in expected] == [True, False]
    for rank in (0, 1):
        found = seen(folder, "ddp", rank)["left_out"][dtype]
        for gradients, others in zip(found, expected, strict=True):
            largest = max(float(gradient.abs().max()) for gradient in others.values())
            assert largest_difference(gradients, others) < (1e-5 if dtype == "fp32" else 1e-2) * largest


def test_loaded_actor_and_critic_go_on_bit_for_bit(actor_critic_ranks):
    if "continued" not in actor_critic_ranks[0]:
        pytest.skip("not run with this engine")
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
    strategies = ["zero2", "ddp", "fsdp"]
    run_worker(tmp_path, [], strategies)
    for strategy in strategies:
        found = seen(tmp_path, strategy, 0)
        for case in EXACT:
            for gradients, others in zip(found["policy"][case]["gradients"], alone[case]["gradients"], strict=True):
                assert largest_difference(gradients, others) < 1e-5
        assert found["policy"]["continued"]
        assert_same_updates(found["actor_critic"]["own"], actor_critic_alone["own"])
