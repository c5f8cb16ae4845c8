"""AccelerateEngine in one process; over two see test_ranks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from training_cases import (
    GSPO_KL,
    fixed_batch,
    identical,
    make_training,
    record_gradients,
    role_of,
    tiny_lm,
    tiny_policy,
    train,
    with_lora,
)

from llmrl.engines.accelerate_engine import AccelerateEngine
from llmrl.engines.catalogue import start_process_group
from llmrl.errors import RecipeError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"fspd": True}, "training.accelerate: no setting named 'fspd'; did you mean 'fsdp'?"),
        ({"fsdp": "yes"}, "training.accelerate.fsdp: 'yes' is not true or false"),
        ({"min_num_params": 5}, "training.accelerate.min_num_params: is a setting of FSDP2; set fsdp: true"),
        (
            {"fsdp": True, "min_num_parms": 5},
            "training.accelerate: no setting named 'min_num_parms'; did you mean 'min_",
        ),
        ({"fsdp": True, "fsdp_version": 1}, "training.accelerate: no setting named 'fsdp_version'"),
    ],
)
def test_a_setting_it_does_not_know_is_a_fault(settings, fault):
    with pytest.raises(RecipeError) as raised:
        AccelerateEngine(torch.nn.Linear(1, 1), make_training(strategy="accelerate", accelerate=settings), CPU)
    assert str(raised.value).startswith(fault)


def test_the_launcher_may_not_ask_for_another_engine(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(RecipeError, match=r"training.strategy: ACCELERATE_USE_DEEPSPEED is set"):
        AccelerateEngine(torch.nn.Linear(1, 1), make_training(strategy="accelerate"), CPU)


def test_fsdp_is_refused_where_two_roles_share_a_model():
    training, lm = make_training(strategy="accelerate", accelerate={"fsdp": True}), with_lora(tiny_lm())
    policies = tiny_policy(lm), tiny_policy(lm)
    start_process_group(["accelerate"], CPU)
    try:
        AccelerateEngine(policies[0], training, CPU)
        with pytest.raises(RecipeError, match=r"training.accelerate.fsdp: FSDP2 cannot divide a model that two roles"):
            AccelerateEngine(policies[1], training, CPU)
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_alone_it_is_the_torch_engine_and_reads_its_file(dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # of a user's `accelerate config`
    settings = {"dtype": dtype, "schedule": "linear", "warmup_steps": 4}
    roles = [role_of(GSPO_KL, strategy=strategy, **settings) for strategy in ("torch", "accelerate", "accelerate")]
    seen = [record_gradients(role.learner.engine) for role in roles]
    metrics = [train(role, fixed_batch()) for role in roles[:2]]
    roles[0].learner.engine.save(tmp_path)
    roles[2].learner.engine.load(tmp_path)
    metrics += [train(role, fixed_batch(), 1) for role in roles]
    assert metrics[0] == metrics[1] and metrics[2] == metrics[3] == metrics[4]
    assert all(identical(a, b) for a, b in zip(seen[0], seen[1], strict=True))
    assert identical(roles[0].learner.engine.trained_weights(), roles[2].learner.engine.trained_weights())
