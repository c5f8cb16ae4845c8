"""`llmrl eval`: the numbers of training again, of critiques sampled and recorded, and of labelled steps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.evaluation.critique import rates, tally
from llmrl.recipe_file import load_plan
from llmrl.run.evaluate import Asked, measure, run
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader
from llmrl.run_folder.rows import trajectories_of

MODEL = {
    "build": {
        "characters": "0123456789+-=?",
        "config": {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 1,
                   "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 32, "initializer_range": 0.3},
    }
}  # fmt: skip
REVIEW = {
    "model": MODEL,
    "data": {"train": {"path": "rows.jsonl"}, "eval": {"path": "held.jsonl"}},
    "moves": {
        "draft": {"by": "actor"},
        "critique": {"by": "critiquer", "of": "draft", "samples": 2, "ask": "{question}{draft}?"},
        "refinement": {"by": "actor", "of": "critique", "ask": "{question}{draft}?{critique}="},
    },
    "roles": {
        "actor": {"trained": False, "rewards": {"own_digits:same_parity": {}}},
        "critiquer": {"method": "rloo", "rewards": {"own_digits:parity_verdict": {}}},
    },
    "rollout": {"engine": "transformers", "prompts_per_step": 2, "group_size": 2, "max_prompt_tokens": 16,
                "max_completion_tokens": 1},
    "training": {"steps": 1, "learning_rate": 1e-2, "threads": 1},
    "evaluation": {"samples": 2},
}  # fmt: skip
PAIRS = {
    "model": MODEL,
    "method": "dpo",
    "data": {"train": {"path": "pairs.jsonl"}, "eval": {"path": "held_pairs.jsonl"}},
    "rollout": {"prompts_per_step": 2, "max_prompt_tokens": 8, "max_completion_tokens": 2},
    "training": {"steps": 1, "learning_rate": 1e-2, "threads": 1},
}
OWN = '''
from llmrl.types import Score


async def same_parity(completion: str, answer: str) -> bool:
    return completion.isdigit() and int(completion) % 2 == int(answer) % 2


async def parity_verdict(completion: str, trajectory) -> Score:
    """An odd digit says right, an even one wrong."""
    said = ("right" if int(completion) % 2 else "wrong") if completion.isdigit() else "unreadable"
    agrees = said == ("right" if trajectory.parent.correct else "wrong")
    return Score(float(agrees), agrees, verdict=said)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run of critiques in `run`, one of pairs in `paired`, and a file of labelled steps."""
    folder, threads = tmp_path_factory.mktemp("evaluated"), torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("own_digits.py").write_text(OWN)
        sums = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(3)]
        pairs = [{"prompt": row["question"], "chosen": row["answer"], "rejected": "9"} for row in sums]
        steps = [{"problem": "1+2=", "steps": ["3", "4"], "label": place} for place in (-1, 0, 1, 1)]
        files = {"rows": sums[5:], "held": sums[:5], "pairs": pairs[5:], "held_pairs": pairs[:5], "steps": steps}
        for name, rows in files.items():
            Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        for name, recipe in {"review": REVIEW, "paired": PAIRS}.items():
            Path(f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
        for name, run_dir in {"review": "run", "paired": "paired"}.items():
            plan = load_plan(f"{name}.yaml", [f"run_dir={run_dir}"])
            assert run_plan(plan, resume=False, console=Console(quiet=True)) == 0
        yield folder
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", ["run", "paired"])
def test_a_run_is_measured_as_its_last_evaluation_did(folder, name):
    last = RunReader(folder / name).metrics[-1]
    expected = {key: value for key, value in last.items() if "eval/" in key and not key.endswith("eval/kl")}
    assert expected and measure(Asked(folder / name)).metrics == pytest.approx(expected, abs=1e-5)


def test_critiques_of_given_models_are_sampled_and_kept(folder, capsys):
    """The start in place of what was trained; the rows that are kept give the printed numbers again."""
    asked = Asked(Path("review.yaml"), models=["run/final"], critique=True, samples=3, limit=4, keep=Path("kept"))
    run(asked, Console(quiet=True), out=Path("numbers.json"), as_json=True)
    found = json.loads(Path("numbers.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["models"] == {"actor": "run/final/actor", "critiquer": "run/final/critiquer"}
    assert found["about"].startswith("train: 4 held-out prompts, 3 drafts of each")
    texts = trajectories_of(RunReader(folder / "kept").rollouts(kind="eval").to_pylist())
    assert [sum(one.move == move for one in texts) for move in REVIEW["moves"]] == [12, 24, 24]
    again = rates(tally(texts))
    assert {name: found["metrics"][name] for name in again} == pytest.approx(again)
    assert {"maj@2", "filtered_maj@2", "refinements_changed"} <= found["metrics"].keys()
    low, high = found["intervals"]["verdicts_alike"]
    assert low <= found["metrics"]["verdicts_alike"] <= high


def test_the_options_ask_fewer_prompts_more_often(folder):
    metrics = measure(Asked(Path("run"), samples=3, limit=2)).metrics
    assert metrics["eval/prompts"] == 2.0 and "eval/pass@3" in metrics


def test_recorded_critiques_need_no_model(folder):
    found = measure(Asked(folder / "run", critique=True))
    texts = trajectories_of(RunReader(folder / "run").rollouts(kind="eval", step=1).to_pylist())
    expected = rates(tally(texts))
    assert found.about.startswith("train: evaluation after step 1, 5 prompts")
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected)


def test_steps_are_judged_by_the_critiquer(folder):
    asked = Asked(folder / "run", critique=True, steps="steps.jsonl", template="{last}?")
    found = measure(asked)
    assert found.about.startswith("critiquer: 4 solutions, 3 with a wrong step")
    assert set(found.metrics) >= {"first_error_accuracy", "error_free_accuracy", "first_error_f1"}
    assert found.metrics["verdicts_unreadable"] in (0.0, 1.0)  # the one question has one greedy answer


@pytest.mark.parametrize(
    ("asked", "fault"),
    [
        (Asked(Path("rum")), "SOURCE: no folder 'rum'; did you mean 'run'?"),
        (Asked(Path("run"), stage="trian"), "--stage: no stage named 'trian'; did you mean 'train'?"),
        (Asked(Path("run"), step=3), "--step: no checkpoint of step 3 of stage 'train' of run; it has none"),
        (Asked(Path("run"), step=3, critique=True), "--step: no rollouts of training of step 3 of stage train; the "
         "nearest is step 1"),
        (Asked(Path("review.yaml"), step=3), "--step: 'review.yaml' is no run's folder, whose step this would be"),
        (Asked(Path(".")), "SOURCE: '.' is no run's folder and no recipe file"),
        (Asked(Path("review.yaml"), ["data.eval=null"]), "data.eval: missing, so there are no held-out prompts; name "
         "some, as data.eval.path=FILE"),
        (Asked(Path("review.yaml"), models=["acter=run/final/actor"]), "--model: no role named 'acter'; did you mean "
         "'actor'?"),
        (Asked(Path("review.yaml"), models=["run/final/actor"]), "--model: 'run/final/actor' has no folder for each of "
         "actor, critiquer; say whose it is, as ROLE=FOLDER"),
        (Asked(Path("review.yaml"), models=["actor=./gone"]), "roles.actor.model.path: no folder './gone'"),
        (Asked(Path("paired.yaml"), critique=True), "--critique: stage 'train' has no moves, so nobody critiques; see "
         "docs/critique.md"),
        (Asked(Path("paired"), critique=True), "RUN: 'paired' holds no rollouts of training"),
        (Asked(Path("run"), steps="steps.jsonl"), "--steps: the steps of solutions are judged by critiques; add "
         "--critique"),
        (Asked(Path("run"), critique=True, role="actor"), "--role: only with --critique --steps FILE, whose solutions "
         "are asked about"),
        (Asked(Path("run"), keep=Path("run")), "--keep: 'run' holds something already; name a new folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_named(folder, asked, fault):
    with pytest.raises(RecipeError) as error:
        run(asked, Console(quiet=True), out=None, as_json=False)
    assert error.value.faults == [fault]
