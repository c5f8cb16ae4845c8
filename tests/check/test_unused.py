"""Settings that nothing reads are named; a setting that some stage or role reads is not."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from llmrl.check.report import Report
from llmrl.check.unused import READERS, ROWS_OF, Unused
from llmrl.data.forms import COMPARISONS, DEMONSTRATIONS, SOLUTIONS
from llmrl.engines.catalogue import OWN_KEYS
from llmrl.recipe import Training
from llmrl.recipe_file import load_plan, method_recipe, methods
from llmrl.recipe_layers import keys_at, merge
from llmrl.recipe_rows import Rows
from llmrl.resolve import read_for, resolve_pieces

RECIPES = Path(__file__).parents[2] / "recipes"
SOUND = {
    "model": "m",
    "data": {"train": {"path": "rows.jsonl"}, "eval": {"path": "held_out.jsonl"}},
    "rewards": {"math_verifier": {}},
    "method": "grpo",
    "rollout": {"engine": "transformers"},
}
CRITIC = "no piece reads values, as advantage: gae would"


def warned(path: Path) -> list[str]:
    unused, report = Unused(), Report(Console(file=io.StringIO()))
    for recipe in load_plan(path).stages.values():
        for view in recipe.by_role.values():
            if view.trained:
                unused.see(view, resolve_pieces(view))
    unused.warn(report)
    return report.warnings


def warnings_of(folder: Path, changes: dict[str, Any]) -> list[str]:
    (folder / "recipe.yaml").write_text(json.dumps(merge(SOUND, changes)))
    return warned(folder / "recipe.yaml")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"critic": {"learning_rate": 1e-5, "outputs": 2}},
         [f"critic.outputs has no effect: {CRITIC}", f"critic.learning_rate has no effect: {CRITIC}"]),
        ({"method": "ppo", "critic": {"learning_rate": 1e-5}}, []),
        ({"method": "ppo", "critic": {"weight": 0.5}},
         ["critic.weight has no effect: the critic has a backbone of its own"]),
        ({"method": "a2c", "critic": {"learning_rate": 1e-5}},
         ["critic.learning_rate has no effect: the critic shares the policy's backbone"]),
        ({"data": {"eval": {"chosen": "better", "rejected": "worse"}, "train": {"category": "part"}}},
         ["data.train.category has no effect: metrics of held-out rows alone are told by category",
          *(f"data.eval.{side} has no effect: there is no preference_loss to compare them by"
            for side in ("chosen", "rejected"))]),
        ({"value_loss": {"squared": {"clip": 0.2}}}, [f"value_loss has no effect: {CRITIC}"]),
        ({"training": {"zero_stage": 3}},
         ["training.zero_stage has no effect: training.strategy torch does not read it"]),
        ({"training": {"zero_stage": 2}}, []),  # the default
        ({"training": {"strategy": "deepspeed", "zero_stage": 3, "accelerate": {"fsdp": True}}},
         ["training.accelerate has no effect: training.strategy deepspeed does not read it"]),
        ({"rollout": {"engine_options": {"max_num_seqs": 4}}},
         ["rollout.engine_options has no effect: rollout.engine transformers takes no options"]),
        ({"rollout": {"engine": "vllm", "engine_options": {"max_num_seqs": 4}}}, []),
        ({"rollout": {"first_samples": 2}}, ["rollout.first_samples has no effect: there is no `allocate`"]),
        ({"controllers": {"adaptive_kl": {"target": 0.2}}},
         ["controllers.adaptive_kl has no effect: no piece reads adaptive_kl"]),
        ({"controllers": {"adaptive_kl": {"target": 0.2}}, "advantage": "reinforce",
          "token_rewards": {"adaptive_kl_k1": {"weight": 0.1}}}, []),
        ({"providers": {"static_values": {"samples": 4}}},
         ["providers.static_values has no effect: no piece reads static_values"]),
        ({"providers": {"static_values": {"samples": 4}}, "method": "pvpo"}, []),
        ({"evaluation": {"answer_pattern": "(.)"}},
         ["evaluation.answer_pattern has no effect: evaluation.samples is 0"]),
        ({"data": {"train": {"subset": "main", "completion": "answer"}, "eval": {"shuffle": False, "size": 5}}},
         ["data.train.subset has no effect: the rows come from no dataset",
          "data.train.completion has no effect: nothing imitates it",
          "data.eval.size has no effect: the rows come from no task",
          "data.eval.shuffle has no effect: held-out rows keep their order"]),
        ({"method": "sft", "data": {"train": {"completion": "answer"}, "eval": None}, "rollout": {"top_p": 0.9}},
         ["rewards.math_verifier has no effect: nothing is sampled",
          "rollout.engine has no effect: nothing is sampled",
          "rollout.top_p has no effect: nothing is sampled"]),
        ({"method": "sft", "data": {"train": {"completion": "answer"}, "eval": {"prompt": "{question}"}},
          "rewards": None, "rollout": {"engine": None}},
         ["data.eval.path has no effect: nothing is measured on held-out rows, without rewards, a "
          "preference_loss or completions to imitate"]),
        ({"method": "sft", "data": {"train": {"completion": "answer"}, "eval": {"completion": "answer"}},
          "rewards": None, "rollout": {"engine": None}}, []),
        ({"method": "dpo", "data": {"train": {"chosen": "a", "rejected": "b"}}, "rewards": None,
          "rollout": {"engine": None}}, []),
        ({"policy_loss": "nll", "regularizers": None}, ["advantage has no effect: no piece reads advantages"]),
    ],
)  # fmt: skip
def test_a_setting_that_nothing_reads_is_named(tmp_path, changes, expected):
    assert sorted(warnings_of(tmp_path, changes)) == sorted(expected)


def test_a_setting_that_one_stage_reads_is_in_use(tmp_path):
    warm = {"method": "sft", "data": {"train": {"completion": "answer"}}}
    both = {"rollout": {"max_mismatch": 0.1}, "stages": {"warm": warm, "rl": {}}}
    assert warnings_of(tmp_path, both) == []
    alone = {"stages": {"warm": warm | {"rollout": {"max_mismatch": 0.1}}, "rl": {}}}
    assert warnings_of(tmp_path, alone) == ["rollout.max_mismatch has no effect: it trains on no samples"]


COLUMNS = {
    DEMONSTRATIONS: {"completion"},
    COMPARISONS: {"chosen", "rejected"},
    SOLUTIONS: {"steps", "step_labels"},
}


def test_shipped_recipes_and_methods_set_nothing_in_vain():
    assert {str(path): warned(path) for path in RECIPES.rglob("*.yaml") if warned(path)} == {}
    found = {}
    for name in methods():
        unused, report, recipe = Unused(), Report(Console(file=io.StringIO())), method_recipe(name)
        unread = dict.fromkeys(set().union(*COLUMNS.values()) - COLUMNS.get(read_for(recipe) or "", set()))
        needed = recipe.data.train.model_copy(update=unread)
        data, rewards = (
            recipe.data.model_copy(update={"train": needed}),
            recipe.rewards if resolve_pieces(recipe).samples else {},
        )
        recipe = recipe.model_copy(update={"data": data, "rewards": rewards})
        unused.see(recipe, resolve_pieces(recipe))
        unused.warn(report)
        found |= {name: report.warnings} if report.warnings else {}
    assert found == {}


def test_the_tables_name_keys_that_exist():
    for key in (key for reader in READERS for key in reader.keys):
        *above, last = key.rstrip(".").split(".")
        assert last in keys_at(above), key
    assert set(Training.model_fields) >= OWN_KEYS
    assert {key for keys in ROWS_OF.values() for key in keys} | set(ROWS_OF) <= set(Rows.model_fields)
