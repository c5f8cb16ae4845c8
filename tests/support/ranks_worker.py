"""One rank of test_ranks: trains the fixed batch with each engine and leaves what it saw in a file.

torchrun ... ranks_worker.py FOLDER STRATEGY ...
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from pathlib import Path
from typing import Any

import actor_critic_cases as actor_critic
import torch
from preference_cases import moved, scored
from training_cases import (
    GRPO,
    GSPO_KL,
    STRATEGIES,
    VOCABULARY,
    fixed_batch,
    identical,
    record_gradients,
    role_of,
    tiny_lm,
    train,
    weights_of,
    with_lora,
)

from llmrl.engines.catalogue import start_process_group
from llmrl.engines.ranks import Ranks
from llmrl.errors import RunStopped
from llmrl.models import head as head_module

FOLDER, NAMES = Path(sys.argv[1]), sys.argv[2:]
ACTOR_CRITIC = {
    "zero2": list(actor_critic.CASES),
    # where weights are divided: what reads them in another way
    "zero3": ["own_lora", "shared", "candidates"],
    "ddp": list(actor_critic.CASES),
    "fsdp": ["own", "own_lora", "shared", "candidates"],
}


COMPARED = {"zero2", "zero3", "ddp", "fsdp"}
"""The engines that train DPO with a reference that moves, and reward models."""


def one_step(role: Any) -> dict[str, Any]:
    gradients = record_gradients(role.learner.engine)
    metrics = train(role, fixed_batch())
    return {
        "gradients": list(gradients),
        "metrics": metrics,
        "weights": weights_of(role.learner.engine),
        "trained": role.learner.engine.trained_weights(),
    }


def continued(role: Any, fresh: Any, folder: Path) -> bool:
    """Whether an engine, saved and loaded after a step, goes on bit for bit."""
    train(role, fixed_batch())
    folder.mkdir(exist_ok=True)
    role.learner.engine.save(folder)
    role.learner.ranks.barrier("saving")
    first = train(role, fixed_batch(), 1)
    fresh.learner.engine.load(folder)
    second = train(fresh, fixed_batch(), 1)
    return first == second and identical(role.learner.engine.trained_weights(), fresh.learner.engine.trained_weights())


def refuses_nan(role: Any) -> dict[str, Any]:
    """One trajectory, so one rank, has a reward that is not a number."""
    before = weights_of(role.learner.engine)
    batch = fixed_batch()
    batch.rewards[2, 4] = float("nan")
    try:
        train(role, batch)
        message = ""
    except RunStopped as error:
        message = str(error)
    return {"message": message, "untouched": identical(weights_of(role.learner.engine), before)}


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


def run_policy(name: str, ranks: Ranks) -> dict[str, Any]:
    def role(pieces: dict[str, Any], **settings: Any) -> Any:
        return role_of(pieces, ranks=ranks, **STRATEGIES[name], **settings)

    warm = {"schedule": "linear", "warmup_steps": 4}
    layout = {"padding_free": True, "gradient_checkpointing": True}  # neither may change the result
    bf16 = {"dtype": "bf16"}
    found = {
        "full": one_step(role(GSPO_KL)),
        "several": one_step(role(GRPO, updates_per_step=2, epochs_per_step=2, **layout)),
        "lora": one_step(role(GSPO_KL, lm=with_lora(tiny_lm()))),
        "continued": continued(role(GSPO_KL, **warm), role(GSPO_KL, **warm), FOLDER / f"{name}-fp32"),
    }
    if ranks.size == 1:
        return found
    found |= {
        "gathered": ranks.gather(f"rank {ranks.rank}", "a test"),
        "bf16": one_step(role(GSPO_KL, **bf16)),
        "bf16_lora": one_step(role(GSPO_KL, lm=with_lora(tiny_lm()), **bf16)),
        "nan": refuses_nan(role(GRPO)),
        "bf16_nan": refuses_nan(role(GRPO, **bf16)),
    }
    if name in COMPARED:
        of_rank = {"ranks": ranks, **STRATEGIES[name]}
        for lora, ending in ((False, ""), (True, "_lora")):
            found[f"moved{ending}"] = moved(lora=lora, **of_rank)
            found[f"scored{ending}"] = scored(lora=lora, **of_rank)
        found["scored_bf16"] = scored(lora=False, **of_rank, **bf16)
    if STRATEGIES[name]["strategy"] == "accelerate":
        pair = role(GRPO, **warm, **bf16), role(GRPO, **warm, **bf16)
        found["bf16_continued"] = continued(*pair, FOLDER / f"{name}-bf16")
    return found


def run_actor_critic(name: str, cases: list[str], ranks: Ranks) -> dict[str, Any]:
    engine = STRATEGIES[name]
    found: dict[str, Any] = {case: actor_critic.run(actor_critic.CASES[case], engine, ranks) for case in cases}
    if name != "zero3":  # by far the slowest
        found["continued"] = actor_critic.continued(engine, ranks, FOLDER / f"{name}-actor-critic")
    found["at_the_head"] = actor_critic.measured_at_the_head(engine, ranks)
    return found


def main() -> None:
    faulthandler.dump_traceback_later(400, exit=True)  # ranks that wait for each other say where
    torch.set_num_threads(1)
    start_process_group([STRATEGIES[name]["strategy"] for name in NAMES], torch.device("cpu"))
    ranks = Ranks(deadline_seconds=60)
    # so small that the ranks need unequal numbers of slices
    head_module.LOGIT_BYTES_PER_SLICE = 4 * VOCABULARY * 3
    for name in NAMES:
        started = time.monotonic()
        found = {"policy": run_policy(name, ranks)}
        if cases := ACTOR_CRITIC.get(name, []) if ranks.size > 1 else ["own"]:
            found["actor_critic"] = run_actor_critic(name, cases, ranks)
        if name == "ddp":
            settings = {dtype: STRATEGIES[name] | {"dtype": dtype} for dtype in ("fp32", "bf16")}
            found["left_out"] = {d: actor_critic.left_out(s, ranks, parts=ranks.size) for d, s in settings.items()}
        found["seconds"] = {"all": time.monotonic() - started}
        torch.save(found, FOLDER / f"{name}-rank{ranks.rank}.pt")
    if ranks.size > 1:
        (FOLDER / f"missing{ranks.rank}.txt").write_text(missing_rank())
    os._exit(0)  # the process group is broken by now, and taking it down would wait


main()
