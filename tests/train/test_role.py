"""What a role keeps from step to step: its controllers, and with its weights those of its critic."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from by_hand import log_p_of, tokens_of
from training_cases import GRPO, LAYOUTS, engines_of, fixed_batch, identical, role_of, tiny_lm

from llmrl.errors import RunStopped
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.step import update

WINDOW = {"regularizers": {"entropy_window": {"weight": 1.0, "low": 0.99, "high": 1.01, "anneal": False}}}
PPO = {"advantage": "gae", "policy_loss": "ppo_clip"}
CRITICS: dict[str, dict[str, Any]] = {
    "own": PPO,
    "shared": PPO | {"critic": {"backbone": "shared"}},
}


def test_a_controller_that_nothing_reads_has_no_state():
    role = role_of(GRPO | {"controllers": {"adaptive_kl": {"target": 0.2}}})
    role.control({"entropy": 1.0, "kl_k1": 1.0, "trajectories": 8.0})
    assert role.controllers == {} == role.controlled == role.controller_metrics()


def test_a_controller_moves_once_a_step():
    """Entropies 2, 4 and 9: their means so far are 2, 3 and 5."""
    role = role_of(GRPO | WINDOW)
    assert role.controlled["entropy_history"].isnan() and role.controller_metrics() == {}
    for entropy, mean in ((2.0, 2.0), (4.0, 3.0), (9.0, 5.0)):
        role.control({"entropy": entropy, "loss": 7.0})
        for _ in range(2):  # reading moves nothing
            assert role.controlled["entropy_history"].item() == pytest.approx(mean)
        assert role.controller_metrics() == pytest.approx({"control/entropy_history": mean})
    role.control({"loss": 7.0})  # a step without an entropy
    assert role.controllers["entropy_history"] == pytest.approx({"value": 5.0, "steps": 3.0})


def test_a_controllers_settings_are_the_recipes():
    # error = clip(0.5 / 0.4 - 1, -0.2, 0.2) = 0.2; the factor is 1 + 0.2 * 50 / 100 = 1.1
    settings = {"controllers": {"adaptive_kl": {"target": 0.4, "horizon": 100.0}}}
    role = role_of(GRPO | settings | {"token_weights": {"test_role:controlled": {}}})
    assert role.controlled["adaptive_kl"].item() == 1.0
    role.control({"kl_k1": 0.5, "trajectories": 50.0})
    assert role.controlled["adaptive_kl"].item() == pytest.approx(1.1)


def controlled(adaptive_kl: torch.Tensor, response_mask: torch.Tensor) -> torch.Tensor:
    """A weight that is the controller's output."""
    return adaptive_kl * response_mask


def test_what_a_controller_says_reaches_the_loss():
    """Before the first step the window is open; then it lies around the mean of the entropies before."""
    role, lm = role_of(GRPO | WINDOW), tiny_lm()
    entropies = []
    for row, layout in enumerate(LAYOUTS):
        log_p = log_p_of(lm, fixed_batch().token_ids[row, : len(layout)].tolist()).detach()
        entropies += [-(log_p[t - 1].exp() * log_p[t - 1]).sum().item() for t in tokens_of(layout)]
    mean = sum(entropies) / len(entropies)
    assert update(role, provide(role, fixed_batch()), seed=0)["entropy_window"] == 0.0
    role = role_of(GRPO | WINDOW)
    role.control({"entropy": mean})
    metrics = update(role, provide(role, fixed_batch()), seed=0)
    penalties = [max(0.99 * mean - one, 0) + max(one - 1.01 * mean, 0) for one in entropies]
    assert metrics["entropy"] == pytest.approx(mean, abs=1e-5)
    assert metrics["entropy_window"] == pytest.approx(sum(penalties) / len(penalties), abs=1e-5)
    assert sum(penalties) > 0.1


# checkpoints


def step(role: Role, number: int) -> dict[str, float]:
    metrics = update(role, provide(role, fixed_batch(), seed=number), seed=number)
    role.control(metrics)
    return metrics


def weights(role: Role) -> dict[str, torch.Tensor]:
    engines = engines_of(role)
    return {f"{n}.{name}": p.clone() for n, engine in engines.items() for name, p in engine.trained_weights().items()}


@pytest.mark.parametrize("kind", CRITICS)
def test_a_loaded_role_goes_on_bit_for_bit(kind, tmp_path):
    def make() -> Role:
        return role_of(CRITICS[kind] | WINDOW, updates_per_step=2, schedule="cosine", warmup_steps=1)

    role, fresh = make(), make()
    for number in range(2):
        step(role, number)
    role.save(tmp_path)
    names = {"own": ["actor.critic.pt", "actor.pt"], "shared": ["actor.pt"]}
    assert sorted(file.name for file in Path(tmp_path).iterdir()) == names[kind]
    state = {name: dict(one) for name, one in role.controllers.items()}
    expected = [step(role, number) for number in (2, 3)]

    fresh.load(tmp_path)
    fresh.controllers.update(state)
    assert [step(fresh, number) for number in (2, 3)] == expected
    assert identical(weights(fresh), weights(role)) and fresh.controllers == role.controllers
    other = make()
    other.load(tmp_path)
    step(other, 2)
    assert math.isfinite(other.controllers["entropy_history"]["value"])
    assert other.controllers != role.controllers  # the state is not the engine's: Stage keeps it


def test_a_critics_checkpoint_is_not_a_policys(tmp_path):
    role = role_of(PPO)
    role.save(tmp_path)
    (tmp_path / "actor.critic.pt").replace(tmp_path / "actor.pt")
    with pytest.raises(RunStopped, match="holds other weights than are trained here"):
        role.load(tmp_path)
