"""Providers in their order, and those that a recipe brings itself."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from training_cases import fixed_batch, make_algorithm, make_recipe, role_of

from llmrl.batch import Batch
from llmrl.errors import RecipeError, RunStopped
from llmrl.marks import provides
from llmrl.pieces import Piece, bind
from llmrl.resolve import resolve_pieces
from llmrl.train.provide import in_order, provide, while_gathering
from llmrl.train.step import update
from llmrl.types import Credit


def difficulty(batch: Batch, *, scale: float = 1.0) -> Tensor:
    """scale times the row's number, [N]."""
    return scale * torch.arange(len(batch)).float()


@provides("eased", "hardened")
def of_difficulty(difficulty: Tensor, response_mask: Tensor, wanted: list[str]) -> dict[str, Tensor]:
    """Half and twice the difficulty on every response token, [N, T]; only what is read is made."""
    made = {"eased": difficulty / 2, "hardened": difficulty * 2}
    return {name: made[name][:, None] * response_mask for name in wanted}


def weighed(rewards: Tensor, difficulty: Tensor, response_mask: Tensor) -> Credit:
    """The outcome times the row's difficulty."""
    return Credit(rewards.sum(dim=1, keepdim=True) * difficulty[:, None] * response_mask)


def by_hardness(hardened: Tensor) -> Tensor:
    """A token weight."""
    return hardened


def lonely(rewards: Tensor, nowhere: Tensor) -> Tensor:
    """Reads what nobody provides."""
    return rewards + nowhere


NAME = "test_own_providers"
OWN = {"advantage": f"{NAME}:weighed", "policy_loss": "reinforce"}
DIFFICULTY = {"providers": {f"{NAME}:difficulty": {"scale": 0.5}}}
BOTH = {"providers": {f"{NAME}:of_difficulty": {}, f"{NAME}:difficulty": {"scale": 0.5}}}


def test_a_field_of_a_users_provider_reaches_a_users_piece():
    role = role_of(OWN | DIFFICULTY)
    batch = provide(role, fixed_batch())
    assert batch.difficulty.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    credit = role.algorithm.credit(batch).advantages
    outcomes = fixed_batch().rewards.sum(dim=1)
    assert credit[3, 4:6].tolist() == pytest.approx([1.5 * float(outcomes[3])] * 2)
    assert "loss" in update(role, batch, seed=0)  # it is cut with the batch


def with_targets(rewards: Tensor, values: Tensor, difficulty: Tensor, response_mask: Tensor) -> Credit:
    """Reads a critic and a field of its own, and gives the critic its targets."""
    returns = (rewards.sum(dim=1, keepdim=True) - difficulty[:, None]) * response_mask
    return Credit((returns - values) * response_mask, returns)


def test_an_advantage_that_reads_a_users_field_may_teach_a_critic():
    role = role_of({"advantage": f"{NAME}:with_targets", "policy_loss": "ppo_clip"} | DIFFICULTY)
    batch = provide(role, fixed_batch())
    metrics = update(role, batch, seed=0)
    errors = (batch.rewards.sum(dim=1) - batch.difficulty)[:, None] - batch.values
    expected = errors[batch.response_mask].square().mean() / 2
    assert metrics["value_loss"] == pytest.approx(expected.item(), rel=1e-4)


def test_a_provider_may_read_what_another_provides_and_makes_only_what_is_read():
    role = role_of(OWN | BOTH | {"token_weights": {f"{NAME}:by_hardness": {}}})
    batch = provide(role, fixed_batch())
    assert "eased" not in batch
    assert batch.hardened[3].tolist() == [3.0 * one for one in batch.response_mask[3].tolist()]
    metrics = update(role, batch, seed=0)
    assert metrics["token_weight"] == pytest.approx(float(batch.hardened[batch.response_mask].mean()))


def test_a_provider_that_no_piece_reads_does_not_run():
    def never(batch: Batch) -> Tensor:
        raise AssertionError("it ran")

    role = role_of({"advantage": "grpo", "policy_loss": "ppo_clip"})
    role.pieces.providers["never"] = bind("never", never, {}, key="providers")  # type: ignore[index]
    assert "never" not in provide(role, fixed_batch())


def test_a_field_that_nobody_provides_is_named():
    with pytest.raises(RecipeError, match=r"reward_shaping\.test_own_providers:lonely: .* named 'nowhere'"):
        make_algorithm(**OWN, **DIFFICULTY, reward_shaping={f"{NAME}:lonely": {}})
    with pytest.raises(RecipeError, match=r"advantage\.test_own_providers:weighed: .* named 'difficulty'"):
        make_algorithm(**OWN)
    with pytest.raises(RecipeError, match=r"providers: .*'nowhere'"):
        in_order({}, {"nowhere"}, ())


def test_a_provider_that_reads_what_nobody_gives_is_named():
    with pytest.raises(RecipeError, match=r"providers\.test_own_providers:of_difficulty: no data named 'difficulty'"):
        make_algorithm(advantage="grpo", policy_loss="ppo_clip", providers={f"{NAME}:of_difficulty": {}})


# the order


def pieces(**read_by: str) -> dict[str, Piece]:
    """A provider for each name, which reads the fields named."""
    return {name: Piece(name, lambda **data: None, {}, tuple(read.split())) for name, read in read_by.items()}


def order(providers: dict[str, Piece], missing: set[str], there: tuple[str, ...] = ()) -> list[tuple[str, list[str]]]:
    return [(piece.name, fields) for piece, fields in in_order(providers, missing, there)]


def test_what_a_provider_reads_is_provided_before():
    """d reads b and c, which read a; e is not read by anybody."""
    providers = pieces(a="batch", b="a", c="a policy", d="b c", e="a")
    assert [name for name, _ in order(providers, {"d"})] == ["a", "b", "c", "d"]
    assert [name for name, _ in order(providers, {"a", "d"})] == ["a", "b", "c", "d"]
    # and what is there is not provided again, nor what only it would need
    assert [name for name, _ in order(providers, {"d"}, ("b", "c"))] == ["d"]
    assert [name for name, _ in order(providers, {"d"}, ("b",))] == ["a", "c", "d"]
    assert order(providers, set()) == []


def test_several_fields_of_one_provider_are_provided_at_once():
    both = Piece("both", lambda **data: None, {}, ("a",))
    providers = pieces(a="", last="one") | {"one": both, "two": both, "three": both}
    assert order(providers, {"two", "last"}) == [("a", ["a"]), ("both", ["one", "two"]), ("last", ["last"])]


def test_providers_that_wait_for_each_other_are_refused():
    with pytest.raises(RecipeError, match="providers: a, b wait for each other"):
        order(pieces(a="b", b="a", c=""), {"a", "c"})


# before there is a batch


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ({"advantage": "grpo", "policy_loss": "ppo_clip"}, []),
        ({"advantage": "remax", "policy_loss": "ppo_clip"}, ["greedy_rewards"]),
        ({"advantage": "grpo", "policy_loss": "ppo_clip", "keep": "triage"}, ["static_values"]),
        # a provider's settings are the recipe's
        (
            {"advantage": "remax", "policy_loss": "ppo_clip", "keep": "triage"}
            | {"providers": {"static_values": {"samples": 3}}},
            ["greedy_rewards", "static_values"],
        ),
    ],
)
def test_what_is_provided_while_a_round_is_gathered(recipe: dict[str, Any], expected: list[str]):
    found = while_gathering(resolve_pieces(make_recipe(**recipe)))
    assert [piece.name for piece in found] == expected
    assert all(
        piece.settings.get("samples") == 3 for piece in found if "providers" in recipe and piece.name == "static_values"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(8), "gave difficulty the shape (8,), expected [N, T] = (7, 13), [N] = (7,) or a single number"),
        (torch.ones(7, 14), "gave difficulty the shape (7, 14), expected"),
        ("hard", "providers.own:difficulty: "),
        ({"other": torch.ones(7)}, "gave no difficulty, which it says that it provides"),
        (ValueError("no luck"), "no luck"),
    ],
)
def test_a_provider_that_gives_something_else_stops_the_run_by_name(given, message):
    role = role_of(OWN | DIFFICULTY)

    def difficulty(batch: Batch) -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    own = {**role.pieces.providers, "difficulty": bind("own:difficulty", difficulty, {}, key="providers")}
    role.pieces = replace(role.pieces, providers=own)
    with pytest.raises(RunStopped, match=re.escape(message)):
        provide(role, fixed_batch())
