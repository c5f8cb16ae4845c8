"""What is wrong with a recipe's pieces is told before anything loads; each one is called once on a tiny batch."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

from llmrl.axes import AXES, BY_KEY
from llmrl.errors import RecipeError
from llmrl.fields import tiny_data
from llmrl.ops import advantages, values
from llmrl.pieces import Piece, bind, catalogue
from llmrl.probe import probe, readable, tiny
from llmrl.recipe import Recipe
from llmrl.resolve import resolve_pieces
from llmrl.types import Credit, TokenLoss

MUST_BE_GIVEN = {  # settings without a default
    "fixed_length": {"length": 4},
    "drpo": {"max_tokens": 4},
    "log_flow": {"temperature": 0.5},
    "trajectory_balance": {"temperature": 0.5},
    "subtrajectory_balance": {"temperature": 0.5},
    "expectation": {"low": -1.0, "high": 1.0},
    "categorical": {"low": -1.0, "high": 1.0},
}
SET_SIZE = {"polychromic": {"set_size": 2}}
# a penalty of the rewards cannot read them: the batch is not cut yet
OF_THE_LOSS = ("entropy", "log_ratio", "policy_kl")
EVERYTHING = [
    (axis.key, name, piece)
    for axis in AXES
    for name, piece in axis.pieces.items()
    if axis.returns and not (axis.key == "token_rewards" and piece.__code__.co_varnames[0] in OF_THE_LOSS)
]


def faults(key: str, function: Callable[..., Any], **settings: Any) -> list[str]:
    return probe([(key, bind("mine", function, settings, key=key))], outputs=2, rewards=2)


def recipe_faults(**changes: Any) -> list[str]:
    data = {"train": {"path": "rows.jsonl"}}
    plain = {"name": "r", "run_dir": "runs/r", "model": "some/model", "data": data, "rewards": {"math_verifier": {}}}
    with pytest.raises(RecipeError) as caught:
        resolve_pieces(Recipe.model_validate(plain | changes))
    return caught.value.faults


OF_ONE_HEAD = {"step_bce", "step_mse", "prefix_bce", "prefix_mse", "inverse_bce"}
OUTPUTS = {"probability": 1, "bernoulli": 1, "twin_expectile": 4}


@pytest.mark.parametrize(("key", "name", "function"), EVERYTHING, ids=[f"{key}-{name}" for key, name, _ in EVERYTHING])
def test_every_built_in_piece_passes(key, name, function):
    settings = MUST_BE_GIVEN.get(name, {}) | SET_SIZE.get(name, {})
    piece = bind(name, function, settings, key=key)
    heads = 1 if name in OF_ONE_HEAD else 2
    assert probe([(key, piece)], outputs=OUTPUTS.get(name, 2), rewards=2, heads=heads) == []


def test_the_tiny_batch_has_the_controllers_first_outputs_of_one_number_or_of_several():
    data = tiny(outputs=1, rewards=1)
    assert data["kl_gate"] == 0.0 and data["hypervolume"] == 1.0
    assert data["reward_influence"].shape == (1,)


def test_the_tiny_batch_is_sound():
    data = tiny_data()
    on = data["response_mask"]
    # the outcome of each trajectory lies on its last response token
    assert data["rewards"].nonzero().tolist() == [[0, 3], [3, 3]]
    for name in ("logprobs", "entropy", "log_ratio", "top_logprobs", "outputs"):
        assert data[name].requires_grad
    assert not data["logprobs"].detach()[~on].any()
    assert torch.allclose(data["top_logprobs"].exp().sum(dim=-1), torch.tensor(1.0))
    # a turn's reward is known on the last token of the turn alone
    assert data["turn_rewards"].isfinite().nonzero().tolist() == [[0, 3], [1, 1], [2, 2], [3, 3]]


def test_data_that_nothing_provides_is_told_with_the_nearest_name():
    def misspelt(logprob, response_mask): ...

    assert faults("policy_loss", misspelt) == [
        "policy_loss.mine: no data field, for its positional parameter, named 'logprob'; did you mean 'logprobs'?"
    ]


def test_a_setting_before_the_star_is_told_where_it_belongs():
    def gated(log_ratio, advantages, temperature=1.0): ...

    assert faults("policy_loss", gated) == [
        "policy_loss.mine: its parameter 'temperature' has a default, as settings have, but stands where data stand, "
        "and no data field has that name; write the star before its settings: "
        "def gated(log_ratio, advantages, *, temperature=...)"
    ]


def test_a_loss_without_gradient_is_a_fault():
    def detached(log_ratio, advantages):
        return TokenLoss(-(log_ratio.exp() * advantages).detach())

    def constant(advantages):
        return TokenLoss(-advantages)

    start = "policy_loss.mine: its loss has no gradient, so it trains nothing; it "
    assert faults("policy_loss", detached) == [f"{start}is detached from what it reads of the model: log_ratio"]
    assert faults("policy_loss", constant)[0].startswith(f"{start}reads nothing of the model; name one of entropy, ")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("reduce", "advantages"),
        ("reward_shaping", "advantages"),
        ("advantage", "advantages"),
        ("advantage", "entropy"),
        ("advantage_shaping", "log_ratio"),
        ("log_ratio", "advantages"),
        ("value", "values"),
        ("value_loss", "logprobs"),
        ("policy_loss", "outputs"),
        ("regularizers", "outputs"),
        ("token_rewards", "entropy"),
        ("token_rewards", "log_ratio"),
    ],
)
def test_what_is_not_known_yet_cannot_be_read(key, name):
    assert name not in readable(key)
    early = Piece("early", _bare, {}, (name,))
    found = probe([(key, early)], outputs=1, rewards=1)
    assert re.match(f"{key}.early: no data field, .* named '{name}'; ", found[0])


def test_credit_and_losses_may_read_a_controller_and_the_policy_at_step_start():
    for name in BY_KEY["controllers"].pieces:
        assert all(name in readable(key) for key in ("advantage", "policy_loss", "token_weights", "regularizers"))
        assert all(name not in readable(key) for key in ("reduce", "log_ratio", "value", "value_loss"))
    # before the batch is cut, `logprobs` are the old ones
    assert all("logprobs" in readable(key) for key in ("token_rewards", "reward_shaping", "advantage_shaping"))


def _column(rewards, response_mask):
    return Credit(rewards.sum(dim=1))


def _bare(rewards, response_mask):
    return rewards


def _loss(logprobs):
    return TokenLoss(logprobs)


def _summed(outputs):
    return TokenLoss(outputs.sum())


def _heads(outputs):
    return outputs


@pytest.mark.parametrize(
    ("key", "function", "message"),
    [
        ("advantage", _column, "returned a tensor of shape (4,) for a batch of shape (4, 4), expected a Credit"),
        ("advantage", _bare, "returned Tensor for a batch of shape (4, 4), expected a Credit"),
        ("token_weights", _loss, "returned TokenLoss for a batch of shape (4, 4), expected a Tensor"),
        ("value_loss", _summed, "returned a tensor of shape () for a batch of shape (4, 4), expected a TokenLoss"),
        ("value", _heads, "returned a tensor of shape (4, 4, 2) for a batch of shape (4, 4), expected a Tensor"),
    ],
)
def test_results_of_a_wrong_kind(key, function, message):
    found = faults(key, function)
    assert len(found) == 1
    assert found[0].endswith(f"{message} per token")


def test_an_error_is_told_by_its_kind_and_a_setting_out_of_range_by_its_own_words():
    def crashing(logprobs):
        return logprobs @ logprobs[0, 0]

    def strict(logprobs, *, limit: float = 0.0):
        raise ValueError(f"limit: {limit} is not valid, expected a number above 0")

    assert faults("policy_loss", crashing)[0].startswith("policy_loss.mine: RuntimeError: ")
    assert faults("policy_loss", strict) == ["policy_loss.mine: limit: 0.0 is not valid, expected a number above 0"]


def test_the_number_of_reward_functions_and_of_the_critics_outputs_counts():
    gdpo = bind("gdpo", catalogue(advantages)["gdpo"], {"weights": [1.0, 2.0]}, key="advantage")
    assert probe([("advantage", gdpo)], outputs=1, rewards=2) == []
    assert "expected one number for each of 3 reward functions" in probe([("advantage", gdpo)], outputs=1, rewards=3)[0]
    read = bind("expectation", values.expectation, {"low": 0.0, "high": 1.0}, key="value")
    assert len(probe([("value", read)], outputs=1, rewards=1)) == 1


def test_all_faults_are_found():
    wrong = Piece("wrong", _bare, {}, ("rewards", "response_mask"))
    unknown = Piece("unknown", _bare, {}, ("reward", "response_mask"))
    assert len(probe([("advantage", wrong), ("policy_loss", unknown)], outputs=1, rewards=1)) == 2


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"policy_loss": "ppo_clp"}, ["policy_loss: no policy loss named 'ppo_clp'; did you mean 'ppo_clip'?"]),
        (
            {"policy_loss": {"ppo_clip": {"clip_lo": 1}}, "reduce": "tokn_mean"},
            [
                "policy_loss.ppo_clip: no setting 'clip_lo' (value 1); did you mean 'clip_low'?",
                "reduce: no reduction named 'tokn_mean'; did you mean 'token_mean'?",
            ],
        ),
        (
            {"policy_loss": "nll", "regularizers": {"kl_k3": {}, "kl_k9": {"weight": 1}}},
            [
                "regularizers.kl_k3.weight: expected a number, got None",
                "regularizers: no token penalty named 'kl_k9'; did you mean 'kl_k3'?",
            ],
        ),
        (
            {"policy_loss": {"ppo_clip": {"clip_high": -0.1}}, "advantage": {"grpo": {"std_floor": 0}}},
            [
                "advantage.grpo: std_floor: 0.0 is not valid, expected a number above 0",
                "policy_loss.ppo_clip: clip_high: -0.1 is not valid, expected a number of at least 0",
            ],
        ),
        (
            {"policy_loss": "nll", "reduce": {"fixed_length": {"length": 0}}},
            ["reduce.fixed_length: length: 0 is not valid, expected a number of tokens above 0"],
        ),
    ],
)
def test_mistakes_are_told_before_anything_runs(changes, messages):
    assert recipe_faults(**changes) == messages


def test_names_and_settings_of_all_places_are_checked():
    found = recipe_faults(
        policy_loss="ppo_clip",
        advantage="grpo",
        value="meen",
        value_loss="squred",
        reward_shaping={"scald": {}},
        advantage_shaping={"whitten": {}},
        token_weights={"top_entropi": {}, "truncated_is": {"kap": 2}},
        regularizers={"nll": {"weight": 1.0, "tokens": "correct_token"}},
        token_rewards={"kl_k1": {"weight": 1.0, "tokens": "correct_tokens"}},
        controllers={"adaptive_kll": {}},
    )
    assert found == [
        "token_rewards.kl_k1.tokens: only a regularizer can be limited to some tokens",
        "reward_shaping: no reward shaping named 'scald'; did you mean 'scaled'?",
        "advantage_shaping: no advantage shaping named 'whitten'; did you mean 'whiten'?",
        "token_weights: no token weight named 'top_entropi'; did you mean 'top_entropy'?",
        "token_weights.truncated_is: no setting 'kap' (value 2); did you mean 'cap'?",
        "regularizers.nll.tokens: no token weight named 'correct_token'; did you mean 'correct_tokens'?",
        "value: no reading of a critic's outputs named 'meen'; did you mean 'mean'?",
        "value_loss: no value loss named 'squred'; did you mean 'squared'?",
        "controllers: no controller named 'adaptive_kll'; did you mean 'adaptive_kl'?",
    ]
