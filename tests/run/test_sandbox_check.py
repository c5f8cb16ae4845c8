"""Whether the sandbox that a recipe needs can be had, and what is said where it cannot."""

from __future__ import annotations

import pytest

from llmrl.envs.catalogue import CATALOGUE as ENVS
from llmrl.errors import RecipeError
from llmrl.pieces import resolve
from llmrl.recipe import Recipe
from llmrl.run.sandbox_check import check_isolation
from llmrl.sandbox import PROCESS, Sandbox, SandboxError
from llmrl.sandbox import sandbox as sandboxes


def recipe(**rewards: object) -> Recipe:
    given = {"name": "n", "run_dir": "r", "model": "m", "data": {"train": {"path": "a.jsonl"}}, "policy_loss": "nll"}
    return Recipe.model_validate({**given, "rewards": rewards or {"math_verifier": None}})


def env(spec: object = "single_turn"):
    return resolve(spec, ENVS, key="env", what="environment")  # pyright: ignore[reportArgumentType]


@pytest.fixture
def weak_machine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sandboxes, "tiers", lambda: (PROCESS,))


def test_nothing_is_started_for_recipes_that_run_no_programs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Sandbox, "__init__", lambda *a, **k: pytest.fail("started a sandbox"))
    assert check_isolation(recipe(), env()) is None


@pytest.mark.usefixtures("weak_machine")
def test_a_weak_sandbox_is_a_fault_of_each_that_does_not_allow_it():
    with pytest.raises(RecipeError) as caught:
        check_isolation(recipe(code_verifier=None), env("python_tool"))
    keys = [fault.partition(":")[0] for fault in caught.value.faults]
    assert keys == ["env.python_tool.allow_weak", "rewards.code_verifier.allow_weak"]
    assert all("'process', which lacks" in fault and "namespaces of its own" in fault for fault in caught.value.faults)


@pytest.mark.usefixtures("weak_machine")
def test_a_weak_sandbox_that_is_allowed_comes_with_what_it_lacks():
    found = check_isolation(recipe(code_verifier={"allow_weak": True}), env({"python_tool": {"allow_weak": True}}))
    assert found is not None
    tier, missing = found
    assert tier is PROCESS and "namespaces of its own" in missing
    with pytest.raises(RecipeError, match=r"^env.python_tool.allow_weak: false"):
        check_isolation(recipe(code_verifier={"allow_weak": True}), env("python_tool"))


def test_no_sandbox_at_all_names_who_needs_one(monkeypatch: pytest.MonkeyPatch):
    def none_here(*args: object, **settings: object) -> None:
        raise SandboxError("no sandbox can be had here: process: no Python")

    monkeypatch.setattr(Sandbox, "__init__", none_here)
    with pytest.raises(RecipeError, match=r"rewards\.code_verifier: no sandbox can be had here: process: no Python"):
        check_isolation(recipe(code_verifier=None), env())
