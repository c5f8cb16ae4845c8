"""Schema, resolution, listing and reference come from the table of axes; a user's piece is like a built-in one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from llmrl.axes import AXES, BY_KEY, CHAIN, ONE, ONE_PIECE, WEIGHTED, Axis
from llmrl.errors import RecipeError
from llmrl.fields import BY_NAME
from llmrl.listing import placed_of, show_method
from llmrl.recipe import Recipe
from llmrl.recipe_file import method_recipe, methods
from llmrl.recipe_layers import merge
from llmrl.resolve import Pieces, resolve_pieces

sys.path.append(str(Path(__file__).parent.parent / "scripts"))
import recipe_reference

KEYS = [axis.key for axis in AXES]
SOUND: dict[str, Any] = {
    "name": "r",
    "run_dir": "runs/r",
    "model": "some/model",
    "data": {"train": {"path": "rows.jsonl", "completion": "solution"}},
    "rewards": {"math_verifier": {}},
    "policy_loss": "ppo_clip",
    "advantage": "grpo",
    "rollout": {"prompts_per_step": 4, "group_size": 4},
    "training": {"steps": 10},
}
OWN = """
import torch

from llmrl.marks import (
    exact_on_policy, made_for_stale_samples, provides, reads_heads, reads_logits, rejects_only, reward_only
)
from llmrl.types import Credit, TokenLoss


def source(stream, author):
    raise NotImplementedError


def env(prompt):
    raise NotImplementedError


def allocate(samples, budget):
    return torch.full_like(samples, budget / len(samples))


def keep(group):
    return group


def penalty(logprobs):
    return -logprobs


@reward_only("it is a constant as a loss")
def only_rewards(logprobs):
    return -logprobs.detach()


def shaped(rewards):
    return rewards


def shaped_credit(advantages):
    return advantages


def advantage(rewards, response_mask):
    return Credit(rewards * response_mask)


@made_for_stale_samples
def stale(rewards, response_mask):
    return advantage(rewards, response_mask)


def pair_loss(chosen_logprobs, rejected_logprobs):
    return rejected_logprobs - chosen_logprobs


@exact_on_policy("it was derived so")
def exact(rewards, response_mask):
    return advantage(rewards, response_mask)


def ratio(logprobs, old_logprobs):
    return logprobs - old_logprobs


def loss(logprobs, advantages):
    return TokenLoss(-advantages * logprobs)


def weight(old_logprobs, rollout_logprobs):
    return (old_logprobs - rollout_logprobs).exp()


@rejects_only
def rejects(old_logprobs, rollout_logprobs):
    return (old_logprobs < rollout_logprobs) * 1.0


def shares(response_mask):
    return response_mask / response_mask.sum()


def value(outputs):
    return outputs.mean(dim=-1)


@reads_logits
def value_of_logits(outputs):
    return outputs.softmax(dim=-1)[..., -1]


@reads_heads
def value_of_heads(outputs):
    return outputs.amin(dim=-1)


def value_target(rewards):
    return rewards


def value_loss(outputs, returns):
    return TokenLoss((outputs.mean(dim=-1) - returns) ** 2)


@reads_logits
def loss_of_logits(outputs, returns):
    return TokenLoss((outputs.log_softmax(dim=-1)[..., -1] - returns) ** 2)


def surprise(old_logprobs):
    return -old_logprobs


@provides("surprise", "doubt")
def two(old_logprobs, wanted):
    return {name: -old_logprobs for name in wanted}


def surprised(advantages, surprise):
    return advantages + surprise


def doubting(advantages, doubt):
    return advantages - doubt
"""
ONE_OF_EACH: dict[str, Any] = {
    "learn_from": "source",
    "env": "env",
    "allocate": "allocate",
    "keep": "keep",
    "providers": "surprise",
    "token_rewards": "penalty",
    "reward_shaping": "shaped",
    "advantage": "advantage",
    "advantage_shaping": "shaped_credit",
    "log_ratio": "ratio",
    "policy_loss": "loss",
    "preference_loss": "pair_loss",
    "token_weights": "weight",
    "regularizers": "penalty",
    "reduce": "shares",
    "value": "value",
    "value_target": "value_target",
    "value_loss": "value_loss",
}


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A user's module of pieces."""
    (tmp_path / "own_axes.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)


def resolved(**changes: Any) -> Pieces:
    return resolve_pieces(Recipe.model_validate(merge(SOUND, changes)))


def faults(**changes: Any) -> list[str]:
    try:
        resolved(**changes)
    except RecipeError as error:
        return error.faults
    return []


def spelt(axis: Axis, name: str) -> Any:
    """How a recipe names one piece on the axis."""
    return name if axis.kind == ONE else {name: {"weight": 0.1} if axis.kind == WEIGHTED else {}}


# the table


@pytest.mark.parametrize("axis", AXES, ids=KEYS)
def test_each_axis_is_a_key_of_a_recipe(axis):
    field = Recipe.model_fields[axis.key]
    assert field.description == axis.about
    assert field.get_default(call_default_factory=True) == (axis.default if axis.kind == ONE else {})
    assert (axis.key in ONE_PIECE) == (axis.kind == ONE) and axis.kind in (ONE, CHAIN, WEIGHTED)


@pytest.mark.parametrize("axis", AXES, ids=KEYS)
def test_each_axis_has_pieces_that_say_what_they_are_and_read_what_there_is(axis):
    assert axis.pieces and axis.what and axis.runs
    assert axis.default is None or axis.default in axis.pieces
    assert all(piece.__doc__ for piece in axis.pieces.values())
    assert axis.reads <= BY_NAME.keys() | axis.also


@pytest.mark.parametrize("axis", AXES, ids=KEYS)
def test_an_unknown_piece_is_a_fault_that_names_the_key_and_the_nearest_piece(axis):
    name = next(iter(axis.pieces))
    [fault] = faults(**{axis.key: spelt(axis, f"{name}x")})
    assert fault == f"{axis.key}: no {axis.what} named '{name}x'; did you mean '{name}'?"


@pytest.mark.parametrize("axis", AXES, ids=KEYS)
def test_an_unknown_setting_is_a_fault_that_names_the_piece(axis):
    name = next(iter(axis.pieces))
    settings = {"no_such_setting": 1} | ({"weight": 0.1} if axis.kind == WEIGHTED else {})
    assert faults(**{axis.key: {name: settings}})[0].startswith(f"{axis.key}.{name}: no setting 'no_such_setting'")


def test_the_reference_has_every_axis_and_every_piece():
    text = recipe_reference.pieces()
    for axis in AXES:
        section = next(part for part in text.split("\n### ") if f"`{axis.key}`" in part.partition("\n")[0])
        assert axis.about[1:] in section
        assert [name for name in axis.pieces if f"| `{name}` |" not in section] == []


@pytest.mark.parametrize("name", ["grpo", "vapo", "pvpo", "gvm_raft", "reward_weighting_hypervolume"])
def test_a_method_is_listed_by_its_axes(name, capsys):
    show_method(name, Console(), as_json=True)
    listed = [(one["axis"], one["piece"]) for one in json.loads(capsys.readouterr().out)["pieces"]]
    pieces = resolve_pieces(method_recipe(name))
    assert set(listed) == {(key, piece.name) for key, piece in placed_of(pieces)}
    assert [key for key, _ in listed] == sorted((key for key, _ in listed), key=KEYS.index)
    named = {key for key, value in methods()[name].items() if key in BY_KEY and value}
    assert named - {"providers"} <= {key for key, _ in listed}  # what provides is told by what it provides


# pieces of a user's own


@pytest.mark.parametrize("key", ONE_OF_EACH)
def test_a_piece_of_ones_own_may_stand_on_each_axis(key):
    name = f"own_axes:{ONE_OF_EACH[key]}"
    needed = {"advantage": "gae"} if key in ("value", "value_target", "value_loss", "token_rewards") else {}
    if key == "learn_from":
        needed = {"policy_loss": "nll", "advantage": None}
    assert faults(**needed, **{key: spelt(BY_KEY[key], name)}) == []
    misspelt = faults(**needed, **{key: spelt(BY_KEY[key], f"{name}x")})
    assert len(misspelt) == 1 and misspelt[0].startswith(f"{key}: cannot import '{name}x': AttributeError")


def test_every_axis_takes_a_piece_of_ones_own_but_for_controllers():
    """A controller is brought by a piece that reads its output, so its name is the name of a field."""
    assert set(KEYS) - set(ONE_OF_EACH) == {"controllers"}


def test_a_weight_that_only_rejects_is_no_second_ratio():
    twice = faults(log_ratio="behaviour", token_weights={"own_axes:weight": {}})
    assert len(twice) == 1 and "would count their ratio twice" in twice[0]
    assert faults(log_ratio="behaviour", token_weights={"own_axes:rejects": {}}) == []
    assert faults(advantage="vtrace", token_weights={"own_axes:rejects": {}}) == []


def test_a_reading_of_logits_goes_with_a_loss_of_logits():
    bins = {"advantage": "gae", "critic": {"outputs": 5}}
    ends = {"low": 0.0, "high": 1.0}
    for reading, loss, fits in (
        ("own_axes:value_of_logits", "own_axes:loss_of_logits", True),
        ("own_axes:value_of_logits", {"categorical": ends}, True),
        ({"expectation": ends}, "own_axes:loss_of_logits", True),
        ("own_axes:value_of_logits", "own_axes:value_loss", False),
        ("own_axes:value", "own_axes:loss_of_logits", False),
    ):
        found = faults(**bins, value=reading, value_loss=loss)
        assert len(found) == (not fits)
        assert fits or "need each other" in found[0]


def test_a_reading_of_heads_cannot_read_grades():
    grades = {"advantage": "gae", "critic": {"outputs": 4}, "value_loss": "grade_cross_entropy"}
    [fault] = faults(**grades, value="own_axes:value_of_heads")
    assert fault.endswith("a piece reads them as values by value: own_axes:value_of_heads")
    assert faults(**grades, value="own_axes:value") == []


def test_a_penalty_for_rewards_only_is_no_regularizer():
    own = {"own_axes:only_rewards": {"weight": 0.1}}
    assert faults(regularizers=own) == ["regularizers.own_axes:only_rewards: it is a constant as a loss"]
    assert faults(advantage="reinforce", token_rewards=own) == []


def test_what_is_exact_on_policy_takes_one_update():
    several = {"training": {"updates_per_step": 4}}
    assert faults(advantage="own_axes:exact") == []
    assert faults(advantage="own_axes:exact", **several) == [
        "advantage: own_axes:exact: it was derived so, but training.updates_per_step x epochs_per_step is 4; "
        "set both to 1"
    ]


def test_an_advantage_for_stale_samples_lets_a_plain_loss_take_several_updates():
    several = {"policy_loss": "reinforce", "training": {"updates_per_step": 4}}
    assert len(faults(advantage="own_axes:advantage", **several)) == 1
    assert faults(advantage="own_axes:stale", **several) == []


def test_a_provider_of_ones_own_brings_fields_that_pieces_read():
    reads = {"advantage_shaping": {"own_axes:surprised": {}}}
    [fault] = faults(**reads)
    assert fault.startswith("advantage_shaping.own_axes:surprised: no data field, ") and "'surprise'" in fault
    assert faults(**reads, providers={"own_axes:surprise": {}}) == []
    both = {"advantage_shaping": {"own_axes:surprised": {}, "own_axes:doubting": {}}}
    pieces = resolved(**both, providers={"own_axes:two": {}})
    assert pieces.providers["surprise"] is pieces.providers["doubt"]
    # what the provider itself reads is measured before it
    assert {"surprise", "doubt"} <= pieces.algorithm.measured(updates=1, sampled=True)


def test_a_provider_of_ones_own_replaces_the_built_in_one(tmp_path):
    (tmp_path / "own_reference.py").write_text("def ref_logprobs(response_mask):\n    return response_mask * -1.0\n")
    pieces = resolved(regularizers={"kl_k3": {"weight": 0.1}}, providers={"own_reference:ref_logprobs": {}})
    assert pieces.providers["ref_logprobs"].name == "own_reference:ref_logprobs"
    assert torch.equal(pieces.providers["ref_logprobs"]({"response_mask": torch.ones(1, 2)}), -torch.ones(1, 2))


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"learn_from": "demonstrations", "policy_loss": "nll", "data": {"train": {"path": "x", "prompt": "q"}}},
            "learn_from: demonstrations needs data.train.completion (the text to imitate)",
        ),
        (
            {"policy_loss": "nll", "rewards": {}},
            "learn_from: rollouts needs at least one reward under rewards, such as math_verifier: {}, or an "
            "environment that rewards",
        ),
    ],
)
def test_a_source_says_what_it_needs_of_the_recipe(changes, fault):
    recipe = {"name": "r", "run_dir": "r", "model": "m", "data": {"train": {"path": "x.jsonl"}}}
    with pytest.raises(RecipeError) as caught:
        resolve_pieces(Recipe.model_validate(recipe | {"rewards": {"math_verifier": {}}} | changes))
    assert caught.value.faults == [fault]


def test_actions_that_a_critic_judges_need_no_reward():
    """A critic that learned before and a credit that reads no rewards; one that learns on still needs them."""
    recipe = method_recipe("digi_q").model_copy(update={"rewards": {}})
    assert resolve_pieces(recipe).algorithm.has_critic
    learning = recipe.critic.model_copy(update={"frozen": False})
    target = {"value_target": "monte_carlo", "value_loss": "twin_squared", "critic": learning}
    with pytest.raises(RecipeError, match="needs at least one reward"):
        resolve_pieces(recipe.model_copy(update=target))
