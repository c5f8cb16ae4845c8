from __future__ import annotations

import io

import pytest
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.prove.command import QUICK, merged, run, summary
from llmrl.prove.results import Result, Run, write_result
from llmrl.recipe_file import methods


def result(task: str, method: str, seed: int, before: float, after: float) -> Result:
    scores = [{"accuracy": value, "greedy": value, "pass@8": value} for value in (before, after)]
    return Result(Run(task, method, seed), *scores, entropy=(1.0, 0.5), kl=0.1, tokens=100, cpu_seconds=36.0)


def test_a_summary_has_the_means_and_whether_every_seed_gained():
    found = summary(
        [
            result("arithmetic", "grpo", 0, 0.2, 0.6),
            result("arithmetic", "grpo", 1, 0.4, 0.9),  # means: (0.2 + 0.4) / 2 = 0.3, (0.6 + 0.9) / 2 = 0.75
            result("sparse", "rent", 0, 0.3, 0.5),
            result("sparse", "rent", 1, 0.3, 0.1),  # one seed lost
            Result(Run("noisy", "rent", 0), fault="the gradient's norm is nan"),
        ]
    )
    assert found["grpo"] == {"arithmetic": {"gains": True, "before": 0.3, "after": 0.75}}
    assert found["rent"]["sparse"] == {"gains": False, "before": 0.3, "after": 0.3}
    assert found["rent"]["noisy"] == {"gains": False, "fault": "the gradient's norm is nan"}


def test_finished_runs_are_printed_without_training(tmp_path):
    for task in ("arithmetic", "sparse"):
        write_result(tmp_path, result(task, "grpo", 0, 0.25, 0.5))
    console = Console(file=io.StringIO(), width=200)
    settings = {"tasks": "arithmetic,sparse", "seeds": "0", "jobs": 1, "quick": False, "write": None}
    run(["grpo"], tmp_path, console=console, **settings)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "2 runs, 2 of them done before" in text
    assert text.count("25.0 -> 50.0") == 2 * 3  # accuracy, greedy and pass@8 of both tasks


def test_seeds_that_are_no_numbers_are_a_fault(tmp_path):
    with pytest.raises(RecipeError, match="--seeds: '0,x' is not valid, expected numbers such as 0,1,2"):
        run(["grpo"], tmp_path, tasks="", seeds="0,x", jobs=1, quick=False, write=None, console=Console(quiet=True))


def test_the_quick_subset_exists():
    assert set(QUICK) <= set(methods())


def test_new_proofs_take_the_place_of_older_ones_of_the_same_task():
    known = {
        "grpo": {"arithmetic": {"gains": True}, "sparse": {"gains": True}},
        "gone_since": {"sparse": {"gains": True}},
    }
    found = {"grpo": {"sparse": {"gains": False}}, "dpo": {"pairs": {"gains": True}}}
    assert merged(known, found) == {
        "dpo": {"pairs": {"gains": True}},
        "grpo": {"arithmetic": {"gains": True}, "sparse": {"gains": False}},
    }
