"""What the environment says is never trained on: its tokens' numbers reach no advantage, no mean and no loss."""

from __future__ import annotations

import pytest
import torch

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.recipe_file import method_recipe
from llmrl.resolve import resolve_pieces
from llmrl.types import ACTOR, ENVIRONMENT, Group, Prompt, Trajectory, Turn

PROMPT = Prompt("p", (1, 2), "", {})


def episode(place: int, restarts: bool) -> Trajectory:
    """Two turns with an observation between them, which in some episodes is a new context."""
    turns = [
        Turn(ACTOR, [10, 11], [-1.0, -2.0], reward=1.0 + place, state="a", action="x"),
        Turn(ENVIRONMENT, [1, 2, 20, 21] if restarts else [20, 21], restarts=restarts),
        Turn(ACTOR, [12, 13, 14], [-3.0, -1.0, -0.5], reward=2.0 - place, state="b", action="y"),
    ]
    return Trajectory(PROMPT, turns, "stop", reward=float(place))


def learned(method: str, batch: Batch) -> list[torch.Tensor]:
    """Advantages, shares, losses and gradients of the response's tokens, and the gradient of all others."""
    algorithm = resolve_pieces(method_recipe(method)).algorithm
    credit, shares = algorithm.credit(batch), algorithm.shares(batch)
    logprobs = (batch.old_logprobs + 0.1 * batch.noise).requires_grad_()
    known = {**batch.data, "advantages": credit.advantages, "logprobs": logprobs, "entropy": batch.noise}
    loss = algorithm.objective(known, shares, algorithm.fixed_weights(batch, credit.advantages)).loss
    loss.sum().backward()
    assert logprobs.grad is not None
    told = [credit.advantages, shares, loss, logprobs.grad]
    return [*(one[batch.response_mask].detach() for one in told), logprobs.grad[~batch.response_mask]]


@pytest.mark.parametrize("method", ["grpo", "gspo", "ppo", "vl_dac", "mt_grpo", "gigpo", "bilevel_gae", "rebn"])
def test_numbers_of_observations_change_nothing(method):
    batch = pack([Group(PROMPT, [episode(0, True), episode(1, False), episode(2, False)])], ACTOR)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(batch.token_ids.shape, generator=generator)
    old = batch.rollout_logprobs + 0.01 * torch.where(batch.response_mask, noise, 0.0)
    known = {"old_logprobs": old, "ref_logprobs": old - 0.2, "values": noise, "noise": noise}
    found = []
    for off in (0.0, 7.0):
        fields = {
            name: torch.where(batch.response_mask, value, off + value if off else torch.zeros(()))
            for name, value in (known | {"rollout_logprobs": batch.rollout_logprobs}).items()
        }
        scores = torch.zeros(len(batch), 1)
        found.append(
            learned(method, batch.with_(reward_components=scores, final_values=torch.zeros(len(batch)), **fields))
        )
    for without, moved in zip(*found, strict=True):
        torch.testing.assert_close(without, moved)
    assert found[0][2].abs().sum() > 0 and not found[0][4].any()
