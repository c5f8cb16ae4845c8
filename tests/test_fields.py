"""The table of data fields: each row is whole, each field has who says it, and no other module knows one by name."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import llmrl
from llmrl.axes import AXES, BY_KEY
from llmrl.batch import Batch
from llmrl.fields import (
    ALLOCATING,
    BY_NAME,
    COMPARED,
    CREDITED,
    CRITIC,
    CURRENT,
    FIELDS,
    PACKED,
    PROVIDED,
    REFERENCE,
    names,
    tiny_data,
)
from llmrl.pieces import bind
from llmrl.resolve import PROVIDER_DATA, fields_of

ROOT = Path(llmrl.__file__).parent
MOMENTS = (PACKED, PROVIDED, CREDITED, CURRENT, COMPARED, ALLOCATING)
PROVIDERS = {name: bind(name, function, {}, key="providers") for name, function in BY_KEY["providers"].pieces.items()}
SPECIAL = {
    field.name
    for field in FIELDS
    if field.special and field.moment in (PROVIDED, ALLOCATING) and field.by not in (CRITIC, REFERENCE)
}


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_field_has_an_example_of_its_shape(field):
    example = tiny_data(outputs=3, rewards=5, heads=3)[field.name]
    sizes = {"N": 4, "T": 4, "P": 2, "H": 3, "M": 2}
    shape = tuple(torch.as_tensor(example).shape)
    letters = field.shape.split()
    assert len(shape) == len(letters)
    assert all(sizes.get(letter, size) == size for letter, size in zip(letters, shape, strict=True))
    # a critic's outputs and what speaks of each reward function are as many as a recipe has
    assert field.name not in ("reward_components", "influence") or shape[-1] == 5


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_each_field_says_what_it_is_who_says_it_and_when(field):
    assert field.about and field.by and field.moment in MOMENTS
    assert not field.about.endswith(".")
    of_whom = [other for name in field.compared_with for other in [BY_NAME[name]]]
    assert all(other.moment == PROVIDED and other.of_model for other in of_whom)
    assert not of_whom or field.moment == CURRENT


def test_names_are_said_once():
    assert len(BY_NAME) == len(FIELDS)
    assert set().union(*(names(moment) for moment in MOMENTS)) == set(BY_NAME)
    assert names(PACKED, shape="N") < names(PACKED) < names(PACKED, PROVIDED)


def test_what_is_current_has_a_gradient_and_nothing_before_has():
    data = tiny_data()
    of_policy = names(CURRENT) - {"router_drift"}  # what a router chose has none
    of_policy |= {name for name in names(COMPARED) if {"logprobs", "scores", "ref_kl"} & {*BY_NAME[name].made_of}}
    assert all(data[name].requires_grad for name in of_policy)
    assert not any(getattr(data[name], "requires_grad", False) for name in BY_NAME.keys() - of_policy)


def test_a_batch_of_the_table_is_cut_into_rows():
    data = tiny_data(rewards=2)
    batch = Batch(**{name: data[name] for name in names(PACKED, PROVIDED)})
    cut = batch.rows(torch.tensor([1, 2]))
    for name, tensor in cut.data.items():
        assert tensor.shape[:1] == (2,) if BY_NAME[name].shape.startswith("N") else torch.equal(tensor, data[name])


@pytest.mark.parametrize("field", sorted(names(PROVIDED)))
def test_each_provided_field_has_one_built_in_provider(field):
    assert len([name for name, provider in PROVIDERS.items() if field in fields_of(provider)]) == 1


def test_what_an_allocation_reads_is_counted_or_has_a_provider():
    provided = {field for provider in PROVIDERS.values() for field in fields_of(provider)}
    assert names(ALLOCATING) - provided == {"samples", "successes", "means", "stds", "budget"}


@pytest.mark.parametrize("name", PROVIDERS)
def test_each_built_in_provider_gives_fields_of_the_table_from_what_a_provider_may_read(name):
    provider = PROVIDERS[name]
    assert {BY_NAME[field].moment for field in fields_of(provider)} <= {PROVIDED, ALLOCATING}
    assert set(provider.data) <= PROVIDER_DATA | names(PACKED, PROVIDED)


def named(file: Path) -> Iterator[str]:
    """Every name and every text of a module."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        for kind, attribute in (
            (ast.Constant, "value"),
            (ast.Attribute, "attr"),
            (ast.Name, "id"),
            (ast.arg, "arg"),
            (ast.keyword, "arg"),
            (ast.alias, "name"),
            (ast.FunctionDef, "name"),
        ):
            if isinstance(node, kind):
                yield getattr(node, attribute)


def of_a_catalogue(file: Path) -> bool:
    """Whether pieces stand in the module: a piece reads a field by the name of its parameter."""
    folders = [Path(str(importlib.util.find_spec(axis.catalogue).origin)) for axis in AXES]  # pyright: ignore
    return any(file == origin or (origin.name == "__init__.py" and origin.parent in file.parents) for origin in folders)


@pytest.mark.parametrize("name", sorted(SPECIAL))
def test_only_its_provider_and_the_pieces_that_read_it_know_a_special_field(name):
    files = [file for file in ROOT.rglob("*.py") if file != ROOT / "fields.py" and name in named(file)]
    beside = [ROOT / "ops", ROOT / "providers"]
    others = [file for file in files if not of_a_catalogue(file) and not set(beside) & set(file.parents)]
    assert [str(file.relative_to(ROOT)) for file in others] == []
    assert files


def test_special_fields_are_those_that_a_provider_measures_for_a_few_pieces():
    assert {"answer_logprobs", "influence", "static_values", "greedy_rewards", "gradient_norms"} <= SPECIAL
