from __future__ import annotations

import math

import pytest
import torch

from llmrl.ops.adaptation import least_squares_step, sampled_tilt, tilted

LOGITS = {"w": torch.tensor([0.5, -0.3, 0.1], dtype=torch.float64)}


def logprobs(given):
    return torch.log_softmax(given["w"], dim=-1)


def test_the_closed_form_maximises_reward_less_kl():
    """Of a half and two quarters, reward log 2 on the first doubles it: 2/3, 1/6, 1/6."""
    start = torch.tensor([0.5, 0.25, 0.25]).log()
    rewards = torch.tensor([math.log(2), 0, 0])
    torch.testing.assert_close(tilted(start, rewards).exp(), torch.tensor([2 / 3, 1 / 6, 1 / 6], dtype=torch.float64))
    best = tilted(start, rewards, beta=0.5).exp()

    def worth(policy):
        return (policy * (rewards - 0.5 * (policy.log() - start))).sum()

    for moved in ([0.01, -0.01, 0], [-0.01, 0, 0.01], [0, 0.01, -0.01]):
        assert worth(best + torch.tensor(moved, dtype=torch.float64)) < worth(best)


def test_the_shift_of_what_was_sampled_is_that_of_the_closed_form():
    start = torch.tensor([0.5, 0.25, 0.25]).log()
    whole = tilted(start, torch.tensor([0.0, -1.0, 0.0]), beta=0.5) - start
    found = sampled_tilt(start[None, 1:2], torch.tensor([-1.0]), torch.ones(1, 1).bool(), beta=0.5)
    torch.testing.assert_close(found[0], whole[1:2])
    # two tokens of chance 1/2 and 1/2 are one sample of 1/4, whose shift they share; a padded third has none
    mask = torch.tensor([[True, True, False]])
    found = sampled_tilt(torch.tensor([[math.log(0.5), math.log(0.5), 9.0]]), torch.tensor([-1.0]), mask, beta=0.5)
    torch.testing.assert_close(found[0], torch.tensor([1, 1, 0]) * whole[1] / 2)


def test_a_rare_sample_moves_by_its_reward_and_a_certain_one_not_at_all():
    mask = torch.ones(2, 1).bool()
    found = sampled_tilt(torch.tensor([[-40.0], [0.0]]), torch.tensor([-1.0, -1.0]), mask, beta=0.1)
    assert found[:, 0].tolist() == pytest.approx([-10.0, 0.0], abs=1e-6)


def test_the_step_of_a_softmax_is_the_least_squares_solution():
    start = logprobs(LOGITS)
    target = tilted(start, torch.tensor([1.0, -1.0, 0.0])) - start
    jacobian = torch.func.jacrev(lambda w: torch.log_softmax(w, dim=-1))(LOGITS["w"])
    for damping in (0.0, 0.1):
        found = least_squares_step(logprobs, LOGITS, target, damping=damping)["w"]
        whole = jacobian.T @ jacobian + damping * torch.eye(3)
        torch.testing.assert_close(found, torch.linalg.pinv(whole.double(), hermitian=True) @ (jacobian.T @ target))


def test_one_step_reaches_a_small_target_and_a_punished_answer_becomes_rarer():
    """The tilt is in the softmax's reach, so that to first order the step arrives at it."""
    start = logprobs(LOGITS)
    target = tilted(start, torch.tensor([0.0, -0.01, 0.0])) - start
    step = least_squares_step(logprobs, LOGITS, target, damping=0.0)
    moved = logprobs({"w": LOGITS["w"] + step["w"]}) - start
    torch.testing.assert_close(moved, target, atol=1e-5, rtol=0)
    assert moved[1] < 0 < moved[0]


def test_several_parameters_and_fewer_samples_than_numbers():
    """Of two tokens of a two-layer model: both shifts are reached, as there are more parameters than targets."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    parameters, inputs = {"a": draw(4, 3), "b": draw(5, 4)}, draw(2, 3)

    def sampled(given):
        hidden = torch.tanh(inputs @ given["a"].T)
        return torch.log_softmax(hidden @ given["b"].T, dim=-1)[[0, 1], [2, 4]]

    step = least_squares_step(sampled, parameters, torch.tensor([-1e-4, 2e-4]), damping=0.0)
    moved = sampled({name: parameters[name] + step[name] for name in parameters}) - sampled(parameters)
    assert moved.tolist() == pytest.approx([-1e-4, 2e-4], rel=1e-2)
    assert all(change.any() for change in step.values())


def test_what_cannot_be_solved_is_refused():
    with pytest.raises(ValueError, match=r"gives \(3,\), expected the target's \(2,\)"):
        least_squares_step(logprobs, LOGITS, torch.zeros(2))
    with pytest.raises(ValueError, match="damping"):
        least_squares_step(logprobs, LOGITS, torch.zeros(3), damping=-1.0)
    with pytest.raises(ValueError, match="beta"):
        sampled_tilt(torch.zeros(1, 1), torch.zeros(1), torch.ones(1, 1).bool(), beta=0.0)
