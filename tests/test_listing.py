"""`llmrl methods` and `llmrl list`: whole where they are piped, fitted to a terminal, and JSON."""

from __future__ import annotations

import io
import json

import pytest
from golden.recipes import OWN
from rich.console import Console

from llmrl.axes import AXES
from llmrl.catalogues import CATALOGUES, RECIPES
from llmrl.envs.catalogue import CATALOGUE as ENVIRONMENTS
from llmrl.errors import RecipeError
from llmrl.listing import list_entries, list_methods, read_proofs, show_method
from llmrl.prove.catalogue import tasks_of
from llmrl.recipe_file import methods
from llmrl.rewards.catalogue import CATALOGUE as REWARDS


def shown(work, *arguments) -> str:
    console = Console(file=io.StringIO(), width=80)
    work(*arguments, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_method_is_listed_with_paper_pieces_and_proof():
    text, proofs = shown(list_methods), read_proofs()
    for name, fragment in methods().items():
        assert name in text
        assert fragment["paper"][:15] in text
        # what has been proved says so in numbers
        samples = not {"learn_from", "preference_loss", "rewards"} & fragment.keys()
        samples = samples and tasks_of(name) and "roles" not in OWN.get(name, {})  # the tasks of proofs have one role
        assert not proofs or not samples or name in proofs, f"{name} has no proof: run llmrl prove {name}"
    assert "advantage: gae, policy_loss: ppo_clip" in " ".join(text.split())


def test_a_method_is_shown_with_its_settings_and_the_defaults_it_leaves_alone():
    text = shown(show_method, "vapo")
    cells = {cell for line in text.splitlines() for part in line.split("  ") for cell in part.strip().split(", ")}
    assert {"gae", "length_adaptive: 0.05", "lam_returns: 1.0", "lam: 0.95", "clip_high: 0.28"} <= cells
    assert {"nll", "weight: 0.1", "correct_tokens", "squared", "clip: 0.5"} <= cells
    assert "a critic (own backbone, 1 output, 5 steps of warm-up)" in text


def test_what_a_run_has_to_provide_is_said():
    assert "a greedy completion of each prompt" in shown(show_method, "remax")
    assert "a frozen reference model" in shown(show_method, "grpo")
    assert "the gradient norm of each prompt's successes" in shown(show_method, "gvm_raft")
    assert "a run provides: nothing besides the model" in shown(show_method, "dr_grpo")
    assert "entropy_history" in shown(show_method, "epo")


def test_an_unknown_method_is_a_fault_with_the_nearest():
    with pytest.raises(RecipeError, match="methods: no method named 'grp'; did you mean 'grpo'"):
        show_method("grp", Console(file=io.StringIO()))


def test_a_terminal_gets_a_table_that_fits():
    console = Console(file=io.StringIO(), width=70, force_terminal=True, color_system=None)
    list_entries("rewards", None, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 70
    assert all(f"│ {name} " in text for name in REWARDS)


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in text.splitlines()]


def test_a_piped_list_has_a_whole_line_for_each_entry():
    found = {row[0]: row for row in rows_of(shown(list_entries, "rewards", None))[1:]}
    assert set(found) == set(REWARDS)
    assert found["math_verifier"] == [
        "math_verifier",
        "rewards",
        "The value 1 if the completion's final answer equals the gold `answer`, or one of several golds, else 0.",
        "extract=boxed_or_last, tag=answer, percent=unit, thoughts_end=null",
        "llmrl.rewards.math_verifier:math_verifier",
    ]


def test_pieces_are_listed_by_axis():
    rows = rows_of(shown(list_entries, "pieces", None))[1:]
    assert {row[1] for row in rows} == {axis.key for axis in AXES}
    assert {row[0] for row in rows_of(shown(list_entries, "pieces", "reduce"))[1:]} == {
        row[0] for row in rows if row[1] == "reduce"
    }
    assert {row[0] for row in rows_of(shown(list_entries, "envs", None))[1:]} == set(ENVIRONMENTS)


def test_tasks_are_llmrls_own_and_reasoning_gyms(capsys):
    list_entries("tasks", None, Console(), as_json=True)
    tasks = {task["name"]: task for task in json.loads(capsys.readouterr().out)}
    assert len(tasks) > 100 and all(task["about"] for name, task in tasks.items() if ":" in name)
    products = tasks["llmrl.tasks.products:products"]["settings"]
    assert products == {"digits": {"name": "digits", "type": "integer", "default": "2"}}
    assert tasks["chain_sum"]["settings"]["min_terms"] == {"name": "min_terms", "type": "integer", "default": "2"}
    assert "seed" not in tasks["chain_sum"]["settings"]


def test_recipes_are_those_of_the_checkout(capsys, monkeypatch, tmp_path):
    list_entries("recipes", None, Console(), as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {one["where"] for one in found} == {str(file) for file in RECIPES.rglob("*.yaml")}
    assert all(one["about"] for one in found)
    assert "From nothing to a better model" in shown(list_entries, "recipes", "quickstart.yaml")
    monkeypatch.setattr("llmrl.catalogues.RECIPES", tmp_path / "recipes")  # an installed package
    assert shown(list_entries, "recipes", None) == "no recipes here: they are in recipes/ of a checkout of llmrl\n"


def test_one_entry_is_told_with_its_docstring_and_its_settings():
    text = shown(list_entries, "rewards", "math_verifier")
    assert 'percent: the meaning of 50%. "unit": 50,' in text and "reads: completion, answer, prompt" in text
    assert ["percent", "unit, ratio, either", "unit"] in rows_of(text)


@pytest.mark.parametrize(
    ("kind", "name", "fault"),
    [
        ("reward", None, "list: no list named 'reward'; did you mean 'rewards'?"),
        ("rewards", "math_verifer", "list rewards: no entry of rewards named 'math_verifer'; did you mean"),
        ("pieces", "advantages", "list pieces: no entry of pieces named 'advantages'; did you mean 'advantage'?"),
    ],
)
def test_an_unknown_list_or_name_is_a_fault_with_the_nearest(kind, name, fault):
    with pytest.raises(RecipeError) as caught:
        list_entries(kind, name, Console(file=io.StringIO()))
    assert str(caught.value).startswith(fault)


def test_methods_are_json_too(capsys):
    list_methods(Console(), as_json=True)
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert set(found) == set(methods())
    assert found["ppo"]["pieces"]["advantage"] == ["gae"]
    show_method("grpo", Console(), as_json=True)
    grpo = json.loads(capsys.readouterr().out)
    [loss] = [piece for piece in grpo["pieces"] if piece["axis"] == "policy_loss"]
    assert loss["piece"] == "ppo_clip" and loss["settings"]["clip_high"] == 0.2
    assert "a frozen reference model" in grpo["provides"]


def test_every_list_can_be_had():
    assert all(len(rows_of(shown(list_entries, kind, None))) > 2 for kind in CATALOGUES)
