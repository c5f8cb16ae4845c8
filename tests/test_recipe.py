"""The schema: ranges, and the faults that only several keys together show."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from llmrl.recipe import Model, Recipe
from llmrl.recipe_rows import Rows, Strict


def recipe(**changes: Any) -> Recipe:
    sound = {
        "name": "r",
        "run_dir": "runs/r",
        "model": {"path": "some/model"},
        "data": {"train": {"path": "rows.jsonl"}},
        "rewards": {"math_verifier": {}},
        "policy_loss": "nll",
    }
    return Recipe.model_validate(sound | changes)


def fault(make, *args: Any, **changes: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        make(*args, **changes)
    return str(caught.value)


def test_a_plain_string_is_a_models_path():
    assert recipe(model="some/model") == recipe(model={"path": "some/model"})


def test_trajectories_are_prompts_times_group():
    assert recipe(rollout={"prompts_per_step": 12, "group_size": 5}).trajectories_per_step == 60


def test_trajectories_must_divide_into_updates():
    # 6 x 4 = 24 trajectories: 8 updates of 3, but not 5 updates
    rollout = {"prompts_per_step": 6, "group_size": 4}
    assert recipe(rollout=rollout, training={"updates_per_step": 8})
    message = fault(recipe, rollout=rollout, training={"updates_per_step": 5})
    assert (
        "rollout.prompts_per_step 6 x rollout.group_size 4 = 24 trajectories, "
        "not divisible by training.updates_per_step 5" in message
    )


def test_the_longest_trajectory_must_fit_a_micro_batch():
    # 100 + 50 = 150 tokens
    rollout = {"max_prompt_tokens": 100, "max_completion_tokens": 50}
    assert recipe(rollout=rollout, training={"tokens_per_micro_batch": 150})
    message = fault(recipe, rollout=rollout, training={"tokens_per_micro_batch": 149})
    assert "= 150 tokens for the longest trajectory, more than training.tokens_per_micro_batch 149" in message
    # by default a longer one is a micro-batch of its own
    training = recipe(rollout={"max_prompt_tokens": 9000, "max_completion_tokens": 50}).training
    assert (training.micro_batch_tokens("cpu"), training.micro_batch_tokens("cuda")) == (2048, 8192)


def test_a_micro_group_is_a_part_of_the_group():
    rollout = {"prompts_per_step": 6, "group_size": 4}
    assert recipe(rollout=rollout | {"micro_group": 3}).in_flight(4) == 2 * 3
    assert recipe(rollout=rollout).in_flight(1) == 24
    message = fault(recipe, rollout=rollout | {"micro_group": 5})
    assert "rollout.micro_group 5 is more than rollout.group_size 4" in message
    assert "rollout.micro_group" in fault(recipe, rollout=rollout | {"micro_group": 0})


def test_warmup_ends_before_the_run():
    assert recipe(training={"steps": 10, "warmup_steps": 9})
    assert "training.warmup_steps 10 must be less than training.steps 10" in fault(
        recipe, training={"steps": 10, "warmup_steps": 10}
    )


@pytest.mark.parametrize("origins", [{}, {"path": "a", "build": {"characters": "ab"}}])
def test_a_model_has_one_origin(origins):
    given = ", ".join(origins) or "none"
    assert f"give exactly one of path, build, gguf, merge, role; got {given}" in fault(Model, **origins)


def test_rows_have_one_origin_and_a_system_prompt_needs_chat():
    assert "got path, task" in fault(Rows, path="a.jsonl", task="chain_sum")
    assert "system_prompt needs chat: true" in fault(Rows, path="a.jsonl", system_prompt="Be brief.")
    assert Rows(path="a.jsonl", system_prompt="Be brief.", chat=True)


def test_a_latex_command_that_yaml_made_a_control_character_is_refused():
    for text, command in (("\boxed{{}}", "boxed"), ("\frac{{1}}{{2}}", "frac"), ("5 \text{{ cm}}", "text")):
        written = f"YAML reads '\\{command}' in double quotes as a control character; write '\\\\{command}' or use"
        assert written in fault(Rows, path="a.jsonl", prompt=text)
    assert Rows(path="a.jsonl", prompt="a\tb\ttotal\n\\boxed{{}}")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("training", "learning_rate", 0.0),
        ("training", "steps", -1),
        ("training", "zero_stage", 4),
        ("training", "betas", [0.9, 1.5]),
        ("rollout", "temperature", 0.0),
        ("rollout", "top_p", 1.5),
        ("training", "dtype", "fp8"),
        ("checkpoint", "keep_last", 0),
        ("evaluation", "samples", -1),
    ],
)
def test_values_out_of_range_are_refused(part, key, value):
    assert f"{part}.{key}" in fault(recipe, **{part: {key: value}})


def schemas(schema: type[BaseModel] = Recipe, found: tuple[type[BaseModel], ...] = ()) -> tuple[type[BaseModel], ...]:
    """Every part of the schema once: a role of a recipe is a recipe again."""
    found = (*found, schema)
    for field in schema.model_fields.values():
        for option in (field.annotation, *getattr(field.annotation, "__args__", ())):
            if isinstance(option, type) and issubclass(option, BaseModel) and option not in found:
                found = schemas(option, found)
    return found


def test_every_part_is_strict_and_every_key_says_what_it_means():
    assert {Recipe, Model, Rows} < set(schemas())
    for schema in schemas():
        assert issubclass(schema, Strict)
        assert [name for name, field in schema.model_fields.items() if not field.description] == []
