"""The table of metrics knows what runs write, and docs/metrics.md says what the table says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
import trees
from golden import recipes
from judge_server import judging_in_thread
from rich.console import Console

from llmrl.evaluation.critique import rates, total
from llmrl.evaluation.trees import tallies
from llmrl.metrics.table import METRICS, metric_of
from llmrl.rollout.measure import metrics_of
from llmrl.run_folder.reader import RunReader
from llmrl.types import Group, Turn

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

import metrics_table  # noqa: E402

RUBRIC = ROOT / "reward_models" / "better_answer.md"
GOLDEN = ROOT / "tests" / "golden" / "runs.json"
OWN = '''
import torch


async def low_digit(completion: str, answer: str) -> dict:
    """`async` keeps it in this process; what it cannot answer fails."""
    if completion[:1] == "9":
        raise ValueError("9")
    return {"score": completion[:1] in set("01234"), "digits": len(completion)}


async def unpaid(completion: str) -> float:
    return float(len(completion))


def nothing(logprobs: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(logprobs)


def merging(folder, tokenizer, dtype, device):
    """A sampler that takes no adapter."""
    from llmrl.rollout.catalogue import transformers

    return transformers(folder, tokenizer, dtype, device)
'''
RECIPE = {
    "seed": 3,
    "model": {
        "build": {
            "config": {
                "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
                "num_key_value_heads": 1, "head_dim": 32, "initializer_range": 0.2, "tie_word_embeddings": True,
                "max_position_embeddings": 32,
            },
            "characters": "0123456789+=",
        },
        "lora": {"rank": 2},
    },
    "data": {"train": {"path": "sums.jsonl"}, "eval": {"path": "held_out.jsonl"}},
    "rewards": {"own_metrics:low_digit": {}, "own_metrics:unpaid": {"weight": 0.0}},
    "method": "ppo",
    "critic": {"outputs": 3, "learning_rate": 1e-2},
    "value": {"expectation": {"low": 0.0, "high": 0.5}},
    "value_loss": {"categorical": {"low": 0.0, "high": 0.5}},
    "regularizers": {"own_metrics:nothing": {"weight": 1.0}, "kl_full": {"weight": 0.01}},
    "rollout": {
        "engine": "own_metrics:merging", "max_prompt_tokens": 8, "max_completion_tokens": 2, "prompts_per_step": 4,
        "group_size": 6,
    },
    "training": {"steps": 2, "learning_rate": 1e-3, "threads": 1},
    "evaluation": {"samples": 2},
}  # fmt: skip
"""What golden runs lack: functions of the user's own, a judge, failures, returns outside of a critic's bins, merges."""
PAIRS = {
    **{key: RECIPE[key] for key in ("seed", "model")},
    "data": {
        "train": {"path": "compared.jsonl"},
        "eval": {"path": "held_pairs.jsonl", "category": "kind"},
    },
    "method": "dpo",
    "reference": {"precompute": True},
    "rollout": {"max_prompt_tokens": 8, "max_completion_tokens": 4, "prompts_per_step": 4},
    "training": {"steps": 1, "learning_rate": 1e-2, "threads": 1},
}
"""Held-out rows of pairs and of single answers, by category, with a reference that is measured beforehand."""


def names_of_trees() -> set[str]:
    """Every metric of drafts, critiques and refinements, of which a text lacks a part."""
    draft = trees.answer("8")
    draft.lacks = ("sum",)
    trees.answer("7", parent=trees.critique("wrong", draft))
    trees.answer("9", parent=draft)
    tree = trees.all_of(draft)
    measured = metrics_of([Group(draft.prompt, tree)], [], ["actor"], seconds=1.0)
    held_out = rates(total(tallies([Group(draft.prompt, tree)])))
    return {*measured, *(f"eval/{name}" for name in held_out)}


def names_of_episodes() -> set[str]:
    """Every metric of an episode of turns, one of which restarts."""
    played = trees.answer("8")
    played.turns = [Turn("actor", [1], reward=1.0, action="up"), Turn("environment", [2], restarts=True)]
    played.measured = {"moves": 3.0}
    return set(metrics_of([Group(played.prompt, [played])], [], ["actor"], seconds=1.0))


OF_RELABELLED = {"hindsight/successes", "hindsight/relabelled", "hindsight/undecided"}
"""The metrics of a source that no golden run has; tests/train/test_relabelled.py reads their values."""


def golden_names() -> set[str]:
    """Every metric of three steps of every method, without roles; what is about time is not recorded there."""
    runs = json.loads(GOLDEN.read_text(encoding="utf-8"))["runs"]
    named = [recipe.get("roles", {}) for recipe in (*recipes.OWN.values(), *recipes.BEYOND.values())]
    prefix = re.compile(f"({'|'.join({role for roles in named for role in roles})})/")
    names = [name for run in runs.values() for name in run["metrics"]]
    return {name[found.end() :] if (found := prefix.match(name)) else name for name in names}


@pytest.fixture(scope="module")
def row(tmp_path_factory) -> dict:
    """The metrics of the last rows of two small runs."""
    from llmrl.recipe_file import load_plan  # late: the other tests need no trainer
    from llmrl.run.run import run_plan

    folder, threads = tmp_path_factory.mktemp("metrics"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        Path("own_metrics.py").write_text(OWN)
        sums = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(4)]
        for name, rows in (("sums", sums[4:]), ("held_out", sums[:4])):
            Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        with judging_in_thread(lambda judge, shown, body: "[[C]]") as judge:
            opinion = {"judge_pairwise": {"url": judge.url, "model": "j", "rubric": str(RUBRIC)}}
            rewards = RECIPE["rewards"] | {"win_rate": {"opinion": opinion, "weight": 0.0}}
            Path("small.yaml").write_text(json.dumps(RECIPE | {"rewards": rewards}))
            assert run_plan(load_plan("small.yaml", ["run_dir=run"]), resume=False, console=Console(quiet=True)) == 0
        compared = [
            {"prompt": f"{a}+{b}=", "kind": "single", "completions": [f"{a}{b}"], "scores": [b % 2]}
            if a % 2
            else {"prompt": f"{a}+{b}=", "kind": "pair", "completions": [f"{9 * b}", f"{a}{b}{a}"], "scores": [b, 7]}
            for a in range(4)
            for b in range(4)
        ]
        for name, rows_of in (("compared", compared[8:]), ("held_pairs", compared[:8])):
            Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of))
        Path("pairs.yaml").write_text(json.dumps(PAIRS))
        assert run_plan(load_plan("pairs.yaml", ["run_dir=pairs"]), resume=False, console=Console(quiet=True)) == 0
        last = [RunReader(Path(run)).metrics[-1] for run in ("pairs", "run")]
    torch.set_num_threads(threads)
    return last[0] | last[1]


def test_the_table_knows_every_metric_of_a_run(row):
    assert row["failures/own_metrics:low_digit/invalid"] > 0 and "own_metrics:nothing" in row
    assert [
        name for name in {*row, *names_of_trees(), *names_of_episodes()} if name != "stage" and metric_of(name) is None
    ] == []


def test_the_table_knows_every_metric_of_every_method():
    assert sorted(name for name in golden_names() if metric_of(name) is None) == []


def test_the_table_has_no_metric_that_nobody_writes(row):
    written = {
        metric_of(name) for name in golden_names() | row.keys() | names_of_trees() | names_of_episodes() | OF_RELABELLED
    }
    assert [metric.name for metric in METRICS if metric not in written] == []


def test_a_metric_is_found_by_its_name_and_by_its_pattern():
    for name, found in {
        "reward": "reward",
        "reward/my_module:mine": "reward/<name>",
        "reward/my_module:mine/digits": "reward/<name>/<entry>",
        "outcome/code_verifier/passed": "outcome/<name>/<outcome>",
        "eval/pass@16": "eval/pass@<k>",
        "control/reward_influence/1": "control/<controller>/<k>",
        "my_module:mine": "<file>:<function>",
    }.items():
        metric = metric_of(name)
        assert metric is not None and metric.name == found
    for name in ("rewards", "reward/a/b/c", "stage", "", "critiquer/reward"):
        assert metric_of(name) is None


def test_a_roles_metrics_are_those_of_the_table():
    for name in ("reward", "eval/accuracy", "failures/judge/timeout"):
        assert metric_of(f"critiquer/{name}", roles=["critiquer"]) is metric_of(name, roles=["critiquer"]) is not None


def test_every_entry_is_whole():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        sentences = [metric.meaning, *filter(None, [metric.advice])]
        assert all(text[0].isupper() and text.endswith(".") for text in sentences), metric.name
        assert metric.healthy or not metric.advice, metric.name
        assert all(metric.advice or trouble.advice for trouble in metric.troubles), metric.name
        assert format(1, metric.format)


def test_a_zero_that_says_nothing_is_not_shown():
    loss, accuracy, speed = (metric_of(name) for name in ("loss", "accuracy", "tokens_per_second"))
    assert [loss.shown(value) for value in (0.0, -4e-4, 6e-4, -1.5)] == ["", "", "0.001", "-1.500"]
    assert accuracy.shown(0.0) == "0.000" and speed.shown(12345.6) == "12,346"


def test_the_page_is_current():
    found = metrics_table.PAGE.read_text(encoding="utf-8")
    assert found == metrics_table.page(), "run python scripts/metrics_table.py"
