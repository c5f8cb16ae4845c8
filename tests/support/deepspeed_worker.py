"""One rank of test_ranks_deepspeed: trains the fixed batch and leaves what it saw in a file.

torchrun ... deepspeed_worker.py FOLDER STAGE ...
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from pathlib import Path
from typing import Any

import deepspeed_actor_critic as actor_critic
import torch
from torch import nn
from training_cases import (
    GRPO,
    GSPO_KL,
    VOCABULARY,
    fixed_batch,
    identical,
    make_algorithm,
    make_training,
    record_gradients,
    tiny_lm,
    tiny_policy,
    weights_of,
    with_lora,
)

from llmrl.engines.deepspeed_engine import DeepSpeedEngine, start_process_group
from llmrl.engines.ranks import Ranks
from llmrl.errors import RunStopped
from llmrl.models import policy as policy_module
from llmrl.recipe import Training
from llmrl.train.annotate import annotate
from llmrl.train.roles import Role
from llmrl.train.step import update

CPU = torch.device("cpu")
FOLDER, STAGES = Path(sys.argv[1]), [int(stage) for stage in sys.argv[2:]]


def make_role(ranks: Ranks, stage: int, pieces: dict[str, Any], *, lora: bool = False, **settings: Any) -> Role:
    training = make_training(strategy="deepspeed", zero_stage=stage, **settings)
    lm = with_lora(tiny_lm()) if lora else tiny_lm()
    if training.gradient_checkpointing:
        lm.gradient_checkpointing_enable({"use_reentrant": False})
    engine = DeepSpeedEngine(tiny_policy(lm, padding_free=training.padding_free), training, CPU)
    reference = None
    if "regularizers" in pieces and not lora:
        dtype = torch.bfloat16 if training.dtype == "bf16" else torch.float32
        reference = tiny_policy(tiny_lm(seed=3).to(dtype)).eval().requires_grad_(False)
    return Role("actor", make_algorithm(**pieces), engine, training, ranks, reference)


def train(role: Role, seed: int = 0) -> dict[str, float]:
    return update(role, annotate(role, fixed_batch()), seed=seed)


def one_step(role: Role) -> dict[str, Any]:
    gradients = record_gradients(role.engine)
    metrics = train(role)
    return {
        "gradients": list(gradients),
        "metrics": metrics,
        "weights": weights_of(role.engine),
        "trained": role.engine.trained_weights(),
    }


def continued(role: Role, fresh: Role) -> bool:
    """Whether a saved and loaded engine goes on bit for bit."""
    role.engine.save(FOLDER / f"checkpoint{role.training.zero_stage}")
    first = train(role, seed=1), train(role, seed=2)
    fresh.engine.load(FOLDER / f"checkpoint{role.training.zero_stage}")
    second = train(fresh, seed=1), train(fresh, seed=2)
    return first == second and identical(weights_of(role.engine), weights_of(fresh.engine))


def refuses_nan(role: Role) -> dict[str, Any]:
    """One trajectory, so one rank, has a reward that is not a number."""
    before = weights_of(role.engine)
    batch = fixed_batch()
    batch.rewards[2, 4] = float("nan")
    try:
        update(role, annotate(role, batch), seed=0)
        message = ""
    except RunStopped as error:
        message = str(error)
    return {"message": message, "untouched": identical(weights_of(role.engine), before)}


def run_actor_critic(ranks: Ranks, stage: int) -> dict[str, Any]:
    def make_engine(model: nn.Module, training: Training) -> DeepSpeedEngine:
        sharded = training.model_copy(update={"strategy": "deepspeed", "zero_stage": stage})
        return DeepSpeedEngine(model, sharded, CPU)

    started = time.monotonic()
    found: dict[str, Any] = {
        name: actor_critic.run(case, make_engine, ranks) for name, case in actor_critic.CASES.items()
    }
    found["continued"] = actor_critic.continued(make_engine, ranks, FOLDER / f"actor_critic{stage}")
    found["at_the_head"] = actor_critic.measured_at_the_head(make_engine, ranks)
    found["seconds"] = time.monotonic() - started
    return found


def missing_rank() -> str:
    """Rank 1 comes late to a barrier."""
    hurried = Ranks(deadline_seconds=1)
    if hurried.rank == 1:
        time.sleep(3)
    try:
        hurried.barrier("a test")
        return ""
    except RunStopped as error:
        return str(error)


def run_stage(ranks: Ranks, stage: int) -> dict[str, Any]:
    warm = {"schedule": "linear", "warmup_steps": 4}
    started = time.monotonic()
    role = make_role(ranks, stage, GSPO_KL)
    found: dict[str, Any] = {"gathered": ranks.gather(f"rank {ranks.rank}", "a test"), "full": one_step(role)}
    role = make_role(ranks, stage, GSPO_KL, **warm)
    train(role)
    found["continued"] = continued(role, make_role(ranks, stage, GSPO_KL, **warm))
    layout = {"padding_free": True, "gradient_checkpointing": True}  # neither may change the result
    found["several"] = one_step(make_role(ranks, stage, GRPO, updates_per_step=2, epochs_per_step=2, **layout))
    found["nan"] = refuses_nan(make_role(ranks, stage, GRPO))
    found["lora"] = one_step(make_role(ranks, stage, GSPO_KL, lora=True))
    found["bf16"] = one_step(make_role(ranks, stage, GSPO_KL, dtype="bf16"))
    found["bf16_nan"] = refuses_nan(make_role(ranks, stage, GRPO, dtype="bf16"))
    found["seconds"] = time.monotonic() - started
    return found


def main() -> None:
    faulthandler.dump_traceback_later(400, exit=True)  # ranks that wait for each other say where
    torch.set_num_threads(1)
    start_process_group(CPU)
    ranks = Ranks(deadline_seconds=60)
    # so small that the ranks need unequal numbers of slices
    policy_module.LOGIT_BYTES_PER_SLICE = 4 * VOCABULARY * 3
    for stage in STAGES:
        torch.save(run_stage(ranks, stage), FOLDER / f"stage{stage}-rank{ranks.rank}.pt")
        if stage:
            torch.save(run_actor_critic(ranks, stage), FOLDER / f"actor_critic{stage}-rank{ranks.rank}.pt")
    if ranks.size > 1:
        (FOLDER / f"missing{ranks.rank}.txt").write_text(missing_rank())
    os._exit(0)  # the process group is broken by now, and taking it down would wait


main()
