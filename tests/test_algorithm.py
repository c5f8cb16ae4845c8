"""An Algorithm from a recipe: what it needs, what it computes on a batch small enough to do by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from llmrl.batch import Batch
from llmrl.fields import PACKED, PROVIDED, names, tiny_data
from llmrl.recipe import Recipe
from llmrl.recipe_file import methods
from llmrl.recipe_layers import merge
from llmrl.resolve import resolve_pieces
from llmrl.train.objectives import coupled_coefficients


def recipe(method: str | None = None, **changes: Any) -> Recipe:
    sound: dict[str, Any] = {
        "name": "r",
        "run_dir": "runs/r",
        "model": "some/model",
        "data": {"train": {"path": "rows.jsonl", "completion": "solution"}},
        "rewards": {"math_verifier": {}},
    }
    layer = merge(sound, methods()[method]) if method else sound
    return Recipe.model_validate(merge(layer, changes))


SHAPING = """
from llmrl.types import Credit

def add(rewards):
    return add_credit(rewards)

def double(rewards):
    return 2 * rewards

def add_credit(advantages):
    shaped = advantages.clone()
    shaped[:, 1] += 1.0
    return shaped

def double_credit(advantages):
    return 2 * advantages

def everywhere(rewards, values):
    return Credit(rewards, values + 1)
"""


@pytest.fixture
def batch() -> Batch:
    """One prompt, two trajectories of 2 and 1 response tokens; the first one earned 1."""
    response_mask = torch.tensor([[False, True, True], [False, True, False]])
    return Batch(
        token_ids=torch.tensor([[5, 6, 7], [5, 8, 0]]),
        attention_mask=torch.tensor([[True, True, True], [True, True, False]]),
        response_mask=response_mask,
        rewards=torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]),
        group_ids=torch.tensor([0, 0]),
        rollout_logprobs=torch.zeros(2, 3),
        correct=torch.tensor([1.0, 0.0]),
        policy_version=torch.tensor([0, 0]),
        old_logprobs=torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]]),
        ref_logprobs=torch.tensor([[0.0, -1.5, -2.0], [0.0, -2.0, 0.0]]),
    )


def test_needs_are_the_pieces_positional_parameters():
    # nll reads logprobs alone, so neither the log ratio nor the advantage is ever computed
    assert resolve_pieces(recipe("sft")).algorithm.needs == {"logprobs"}
    algorithm = resolve_pieces(
        recipe(policy_loss="reinforce", advantage={"reinforce": {}}, regularizers={"entropy_bonus": {"weight": 0.1}})
    ).algorithm
    assert algorithm.needs == {"logprobs", "advantages", "rewards", "response_mask", "entropy"}


def test_credit_needs_log_probabilities_only_for_token_rewards():
    assert "old_logprobs" not in resolve_pieces(recipe("grpo")).algorithm.needs_before_updates
    assert "old_logprobs" in resolve_pieces(recipe("rloo", reduce="token_mean")).algorithm.needs_before_updates


def test_credit_subtracts_token_rewards_before_the_advantage(batch):
    algorithm = resolve_pieces(
        recipe(policy_loss="reinforce", advantage="rloo", token_rewards={"kl_k1": {"weight": 0.5}})
    ).algorithm
    # k1 = old - ref:  [0.5, 0] and [-1];  outcomes 1 - 0.5 * 0.5 = 0.75 and 0 + 0.5 * 1 = 0.5
    # rloo of two: A_1 = 0.75 - 0.5 = 0.25, A_2 = -0.25
    expected = torch.tensor([[0.0, 0.25, 0.25], [0.0, -0.25, 0.0]])
    torch.testing.assert_close(algorithm.credit(batch).advantages, expected)


def test_without_an_advantage_credit_is_zero(batch):
    credit = resolve_pieces(recipe("sft")).algorithm.credit(batch)
    assert torch.equal(credit.advantages, torch.zeros(2, 3))


def test_token_loss_adds_weighted_regularizers(batch):
    algorithm = resolve_pieces(
        recipe(policy_loss="reinforce", advantage="rloo", regularizers={"kl_k2": {"weight": 0.1}})
    ).algorithm
    logprobs = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]], requires_grad=True)
    data = {**batch.data} | {"logprobs": logprobs, "advantages": torch.ones(2, 3), "entropy": torch.zeros(2, 3)}
    result = algorithm.objective(data, torch.ones(2, 3), {})
    # -A logprob + 0.1 * d^2 / 2:   1 + 0.1 * 0.125,  2 + 0,  3 + 0.1 * 0.5
    expected = torch.tensor([[0.0, 1.0125, 2.0], [0.0, 3.05, 0.0]])
    torch.testing.assert_close(result.loss, expected)
    torch.testing.assert_close(result.stats["kl_k2"], torch.tensor([[0.0, 0.125, 0.0], [0.0, 0.5, 0.0]]))
    assert not result.stats["kl_k2"].requires_grad and result.loss.requires_grad


def test_the_log_ratio_reaches_the_loss(batch):
    old = batch.old_logprobs
    logprobs = old + torch.tensor([[0.0, 0.3, 0.1], [0.0, 0.2, 0.0]])
    data = {**batch.data} | {"logprobs": logprobs, "advantages": torch.ones(2, 3), "entropy": torch.zeros(2, 3)}
    wide = {"ppo_clip": {"clip_high": 9.0}}
    by_token = resolve_pieces(recipe(policy_loss=wide, advantage="grpo")).algorithm.objective(
        data, torch.ones(2, 3), {}
    )
    by_answer = resolve_pieces(recipe(policy_loss=wide, advantage="grpo", log_ratio="sequence")).algorithm.objective(
        data, torch.ones(2, 3), {}
    )
    # the first answer's log ratios 0.3 and 0.1 have the mean 0.2
    torch.testing.assert_close(by_token.stats["ratio"][0, 1:].log(), torch.tensor([0.3, 0.1]))
    torch.testing.assert_close(by_answer.stats["ratio"][0, 1:].log(), torch.tensor([0.2, 0.2]))


def test_rewards_and_credit_are_shaped_in_the_recipes_order(batch, monkeypatch, tmp_path):
    (tmp_path / "own_shaping.py").write_text(SHAPING)
    monkeypatch.syspath_prepend(tmp_path)
    # outcomes 1 and 0: (1 + 1) * 2 = 4 and (0 + 1) * 2 = 2, or 1 * 2 + 1 = 3 and 0 * 2 + 1 = 1; no baseline
    plain = {"policy_loss": "ppo_clip", "advantage": {"reinforce": {"baseline": "none"}}}
    for order, expected in ((["add", "double"], [4.0, 2.0]), (["double", "add"], [3.0, 1.0])):
        rewards = {f"own_shaping:{name}": {} for name in order}
        shaped = resolve_pieces(recipe(**plain, reward_shaping=rewards)).algorithm
        assert shaped.credit(batch).advantages[:, 1].tolist() == expected
        # the same after the advantage, where credit is 1 and 0 at the first response token
        credit = {f"own_shaping:{name}_credit": {} for name in order}
        credited = resolve_pieces(recipe(**plain, advantage_shaping=credit)).algorithm
        assert credited.credit(batch).advantages[:, 1].tolist() == expected


def test_penalties_come_before_the_shaping_of_rewards(batch, monkeypatch, tmp_path):
    (tmp_path / "own_shaping.py").write_text(SHAPING)
    monkeypatch.syspath_prepend(tmp_path)
    algorithm = resolve_pieces(
        recipe(
            policy_loss="reinforce",
            advantage={"reinforce": {"baseline": "none"}},
            token_rewards={"kl_k1": {"weight": 1.0}},
            reward_shaping={"own_shaping:double": {}},
        )
    ).algorithm
    # rewards less old - ref: [-0.5, 1] and [1]; doubled [-1, 2] and [2]; reward-to-go [1, 2] and [2]
    expected = torch.tensor([[0.0, 1.0, 2.0], [0.0, 2.0, 0.0]])
    torch.testing.assert_close(algorithm.credit(batch).advantages, expected)


def test_returns_are_targets_on_the_response_alone(batch):
    algorithm = resolve_pieces(recipe(policy_loss="ppo_clip", advantage={"gae": {"whiten": False}})).algorithm
    credit = algorithm.credit(batch.with_(values=torch.full((2, 3), 0.5)))
    assert credit.returns is not None
    # row 1, from the end: delta 1 - 0.5 = 0.5; before it 0.5 - 0.5 + 0.95 * 0.5 = 0.475; row 2: 0 - 0.5
    nan = torch.nan
    expected = torch.tensor([[nan, 0.975, 1.0], [nan, 0.0, nan]])
    torch.testing.assert_close(credit.returns, expected, equal_nan=True)
    assert resolve_pieces(recipe("grpo")).algorithm.credit(batch).returns is None


def test_returns_of_ones_own_advantage_are_nan_off_the_response_too(batch, monkeypatch, tmp_path):
    (tmp_path / "own_shaping.py").write_text(SHAPING)
    monkeypatch.syspath_prepend(tmp_path)
    algorithm = resolve_pieces(recipe(policy_loss="ppo_clip", advantage="own_shaping:everywhere")).algorithm
    returns = algorithm.credit(batch.with_(values=torch.ones(2, 3))).returns
    assert returns is not None
    assert torch.equal(returns.isnan(), ~batch.response_mask)


OFF = {"entropy": torch.zeros(2, 3), "advantages": torch.ones(2, 3)}


def test_fixed_token_weights_are_computed_once_and_given_back_by_row(batch):
    algorithm = resolve_pieces(
        recipe(
            policy_loss="reinforce",
            advantage="rloo",
            token_weights={"truncated_is": {"cap": 2.0}, "masked_is": {"low": 0.0, "high": 100.0}},
        )
    ).algorithm
    # w = exp(old - rollout): e and e in row 1, 1 in row 2; truncated at 2, none left out
    batch = batch.with_(rollout_logprobs=torch.tensor([[0.0, -2.0, -3.0], [0.0, -3.0, 0.0]]))
    fixed = algorithm.fixed_weights(batch, torch.ones(2, 3))
    assert len(fixed) == 2
    logprobs = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]], requires_grad=True)
    shares = torch.full((2, 3), 0.5)
    data = {**batch.data} | OFF | {"logprobs": logprobs}
    result = algorithm.objective(data, shares, fixed)
    # -logprob * weight * share: 1 * 2 / 2, 2 * 2 / 2, 3 * 1 / 2
    torch.testing.assert_close(result.loss, torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.5, 0.0]]))
    torch.testing.assert_close(result.stats["token_weight"][0, 1:], torch.tensor([2.0, 2.0]))
    # a micro-batch gets its own rows of them
    second = batch.rows(torch.tensor([1]))
    cut = {"logprobs": logprobs[1:, :2], "entropy": torch.zeros(1, 2), "advantages": torch.ones(1, 2)}
    alone = algorithm.objective(
        {**second.data} | cut, shares[1:, :2], {key: value[1:, :2] for key, value in fixed.items()}
    )
    torch.testing.assert_close(alone.loss, result.loss[1:, :2])


def test_a_weight_that_reads_the_current_policy_is_computed_with_the_loss_and_has_no_gradient(batch):
    algorithm = resolve_pieces(
        recipe(policy_loss="reinforce", advantage="rloo", token_weights={"entropy_ratio": {"low": 0.9, "high": 1.1}})
    ).algorithm
    batch = batch.with_(old_entropy=torch.ones(2, 3))
    assert algorithm.fixed_weights(batch, torch.ones(2, 3)) == {}
    entropy = torch.tensor([[0.0, 1.05, 2.0], [0.0, 0.95, 0.0]], requires_grad=True)
    logprobs = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]], requires_grad=True)
    data = {**batch.data} | {"logprobs": logprobs, "entropy": entropy, "advantages": torch.ones(2, 3)}
    result = algorithm.objective(data, torch.ones(2, 3), {})
    # the second token's entropy doubled, so its loss of 2 does not count
    torch.testing.assert_close(result.loss, torch.tensor([[0.0, 1.0, 0.0], [0.0, 3.0, 0.0]]))
    assert torch.autograd.grad(result.loss.sum(), entropy, allow_unused=True) == (None,)


def test_a_regularizers_tokens_weigh_it_alone(batch):
    algorithm = resolve_pieces(
        recipe(
            policy_loss="reinforce",
            advantage="rloo",
            regularizers={
                "nll": {"weight": 0.1, "tokens": "correct_tokens"},
                "kl_k2": {"weight": 1.0, "tokens": {"entropy_ratio": {"high": 1.1}}},
            },
        )
    ).algorithm
    batch = batch.with_(old_entropy=torch.ones(2, 3))
    fixed = algorithm.fixed_weights(batch, torch.ones(2, 3))
    assert len(fixed) == 1  # the other reads the entropy of the current policy
    logprobs = torch.tensor([[0.0, -1.0, -2.0], [0.0, -3.0, 0.0]])
    entropy = torch.tensor([[0.0, 1.0, 1.0], [0.0, 2.0, 0.0]])
    data = {**batch.data} | {"logprobs": logprobs, "entropy": entropy, "advantages": torch.ones(2, 3)}
    result = algorithm.objective(data, torch.full((2, 3), 1 / 3), fixed)
    # correct_tokens: 3 tokens, 2 of them correct: 1.5 on row 1, 0 on row 2
    # row 1: 1 + 0.1 * 1.5 * 1 + 0.5^2 / 2 = 1.275;  2 + 0.1 * 1.5 * 2 + 0 = 2.3
    # row 2: 3, since its entropy doubled and its k2 of 0.5 is left out
    torch.testing.assert_close(result.loss, torch.tensor([[0.0, 1.275, 2.3], [0.0, 3.0, 0.0]]) / 3)
    assert "token_weight" not in result.stats
    assert {"correct", "old_entropy", "entropy"} <= algorithm.needs
    assert "old_entropy" not in algorithm.needs_before_updates


def test_a_controllers_output_is_data(batch):
    algorithm = resolve_pieces(
        recipe(
            policy_loss="reinforce",
            advantage={"reinforce": {"baseline": "none"}},
            token_rewards={"adaptive_kl_k1": {"weight": 1.0}},
            reward_shaping={"scaled": {}},
            regularizers={"gated_kl": {"weight": 1.0}},
            controllers={"adaptive_kl": {"target": 0.5}},
        )
    ).algorithm
    assert {"adaptive_kl", "hypervolume", "kl_gate"} <= algorithm.needs
    assert "entropy_history" not in algorithm.needs
    assert algorithm.controllers["adaptive_kl"].settings == {"target": 0.5}
    assert algorithm.controllers["kl_gate"].settings == {}
    extra = {"adaptive_kl": torch.tensor(2.0), "hypervolume": torch.tensor(3.0), "kl_gate": torch.tensor(4.0)}
    # rewards less 2 (old - ref): [-1, 1] and [2]; times 3: [-3, 3] and [6]; reward-to-go [0, 3] and [6]
    advantages = algorithm.credit(batch, extra).advantages
    torch.testing.assert_close(advantages, torch.tensor([[0.0, 0.0, 3.0], [0.0, 6.0, 0.0]]))
    assert batch.old_logprobs is not None
    data = {**batch.data} | extra | {"logprobs": batch.old_logprobs, "advantages": advantages}
    # -A logp + 4 d^2 / 2: 0 + 4 * 0.125 and 6 + 0; 18 + 4 * 0.5
    result = algorithm.objective(data, torch.ones(2, 3), {})
    torch.testing.assert_close(result.loss, torch.tensor([[0.0, 0.5, 6.0], [0.0, 20.0, 0.0]]))


@pytest.mark.parametrize(
    "policy_loss", ["pacs", {"drpo": {"max_tokens": 4}}, {"trajectory_balance": {"temperature": 0.5}}]
)
def test_coefficients_have_the_gradient_of_a_coupled_loss_however_rows_are_divided(policy_loss):
    algorithm = resolve_pieces(recipe(policy_loss=policy_loss)).algorithm
    assert algorithm.is_coupled
    data = tiny_data()
    batch = Batch(**{name: data[name] for name in names(PACKED, PROVIDED)})
    generator = torch.Generator().manual_seed(0)
    moved = torch.where(batch.response_mask, -torch.rand(4, 4, generator=generator) * 3, 0.0)
    # directly: one graph through all four trajectories
    leaf = moved.clone().requires_grad_()
    whole = algorithm.policy_loss({**batch.data} | {"logprobs": leaf})
    (expected,) = torch.autograd.grad(whole.loss.sum(), leaf)
    assert expected[batch.response_mask].abs().min() > 1e-4
    coefficients, result = coupled_coefficients(algorithm, batch, moved, torch.zeros(4, 4), {})
    torch.testing.assert_close(result.loss, whole.loss.detach())
    assert not result.loss.requires_grad and not coefficients.requires_grad
    # in parts that split both groups; shares do not touch it
    found = torch.zeros(4, 4)
    for rows in (torch.tensor([0, 2]), torch.tensor([3]), torch.tensor([1])):
        part, leaf = batch.rows(rows), moved[rows].clone().requires_grad_()
        width = part.token_ids.shape[1]
        given = {**part.data} | {"logprobs": leaf[:, :width], "entropy": torch.zeros(len(rows), width)}
        loss = algorithm.objective(given, torch.full((len(rows), width), 9.0), {}, coefficients[rows, :width]).loss
        found[rows] = torch.autograd.grad(loss.sum(), leaf)[0]
    torch.testing.assert_close(found, expected)


def test_a_coupled_loss_of_a_batch_that_nobody_measured_starts_at_the_current_policy():
    algorithm = resolve_pieces(recipe(policy_loss="pacs")).algorithm
    data = tiny_data()
    batch = Batch(**{name: data[name] for name in names(PACKED, PROVIDED) - {"old_logprobs"}})
    coefficients, result = coupled_coefficients(algorithm, batch, data["logprobs"], torch.zeros(4, 4), {})
    # nothing has moved: every score is 0, the loss log 2, and each row's psi has the gradient (1/2 - y) / 4 of the
    # mean; the other of its pair has the opposite verdict, so s_i - s_j gives twice that
    assert float(result.loss.sum()) == pytest.approx(math.log(2))
    expected = torch.where(batch.response_mask, (0.5 - batch.correct[:, None]) / 2, 0.0)
    torch.testing.assert_close(coefficients, expected)


@pytest.mark.parametrize(
    ("changes", "early"),
    [
        ({"advantage": "grpo"}, set()),
        # a fixed weight reads it before the batch is cut, one of the current policy after
        ({"advantage": "grpo", "token_weights": {"truncated_is": {}}}, {"old_logprobs", "rollout_logprobs"}),
        ({"advantage": "grpo", "token_weights": {"top_entropy": {}}}, {"old_entropy"}),
        ({"advantage": "grpo", "token_weights": {"entropy_ratio": {}}}, set()),
        ({"advantage": "grpo", "regularizers": {"nll": {"weight": 1.0, "tokens": "low_entropy"}}}, {"old_entropy"}),
        # before the batch is cut `logprobs` are the old ones
        ({"advantage": "rloo", "token_rewards": {"kl_k1": {"weight": 1.0}}}, {"old_logprobs", "ref_logprobs"}),
        ({"advantage": "grpo", "reward_shaping": {"negative_entropy": {}}}, {"old_entropy"}),
        ({"advantage": "grpo", "advantage_shaping": {"novelty": {}}}, {"old_logprobs", "correct"}),
        ({"advantage": "vtrace"}, {"old_logprobs", "rollout_logprobs", "values"}),
        ({"advantage": None, "policy_loss": "pacs"}, {"old_logprobs"}),
        # credit that nobody reads is not computed
        ({"advantage": "vtrace", "policy_loss": "nll"}, set()),
    ],
)
def test_what_is_read_before_the_updates(changes, early):
    known = {"rewards", "response_mask", "group_ids", "advantages"}
    assert (
        resolve_pieces(recipe(**{"policy_loss": "ppo_clip"} | changes)).algorithm.needs_before_updates - known == early
    )


@pytest.mark.parametrize(
    ("changes", "has_critic", "is_coupled"),
    [
        ({"policy_loss": "ppo_clip", "advantage": "grpo"}, False, False),
        ({"policy_loss": "ppo_clip", "advantage": "gae"}, True, False),
        ({"policy_loss": "nll", "advantage": "gae"}, False, False),
        ({"policy_loss": "pacs"}, False, True),
        (
            {
                "policy_loss": {"subtrajectory_balance": {"temperature": 1.0}},
                "advantage": {"log_flow": {"temperature": 1.0}},
            },
            True,
            False,
        ),
        ({"policy_loss": "nll", "regularizers": {"nll": {"weight": 1.0, "tokens": "difficulty"}}}, False, False),
        (
            {
                "policy_loss": "reinforce",
                "advantage": "remax",
                "advantage_shaping": {"outcome_likelihood": {}},
                "critic": {"outputs": 4},
                "value_loss": "grade_cross_entropy",
            },
            True,
            False,
        ),
    ],
)
def test_what_brings_a_critic_and_what_couples_trajectories(changes, has_critic, is_coupled):
    algorithm = resolve_pieces(recipe(**changes)).algorithm
    assert (algorithm.has_critic, algorithm.is_coupled) == (has_critic, is_coupled)
    placed = {key for key, _ in algorithm.placed()}
    assert ("value_loss" in placed, "value" in placed) == (has_critic, algorithm.reads_values)
    assert algorithm.predicts_grades == (has_critic and not algorithm.reads_values)


def test_a_weight_of_the_credit_lets_the_credit_be_computed():
    """The loss reads no advantages, but a token weight does."""
    weighed = recipe(policy_loss="nll", advantage="rloo", token_weights={"top_covariant": {"fraction": 0.5}})
    assert {"rewards", "group_ids"} <= resolve_pieces(weighed).algorithm.needs
