"""Training with a critic that predicts how trajectories end, against autograd, and through a whole small run."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from by_hand import tokens_of
from rich.console import Console
from test_critic_training import PerToken, gradients_of, policy_loss_of, recorded, said
from torch import Tensor
from training_cases import LAYOUTS, fixed_batch, largest_difference, role_of, tiny_lm, value_head

from llmrl.batch import Batch
from llmrl.errors import RecipeError
from llmrl.recipe_file import load_plan
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader
from llmrl.train.provide import provide
from llmrl.train.step import update

WEIGHT = 0.5
GRADES = {
    "advantage": "remax",
    "advantage_shaping": {"outcome_likelihood": {}},
    "policy_loss": "reinforce",
    "value_loss": "grade_cross_entropy",
    "critic": {"outputs": 3},
    "reduce": "sequence_mean",
}
SHARED = GRADES | {"critic": {"outputs": 3, "backbone": "shared", "weight": WEIGHT}}
GRADE_OF = [2, 0, 1, -1, 0, 2, 1]  # of LAYOUTS' trajectories; the fourth's is not known, the sixth never spoke
SPEAKING = [row for row, layout in enumerate(LAYOUTS) if "A" in layout]
KNOWN = [row for row in SPEAKING if GRADE_OF[row] >= 0]


def batch_with_grades() -> Batch:
    greedy = torch.tensor([0.3, 0.6, 0.1, 0.9, 0.5, 0.2, 0.4])
    return fixed_batch().with_(grades=torch.tensor(GRADE_OF), greedy_rewards=greedy)


def grade_loss_of(outputs: PerToken) -> Tensor:
    """The mean over trajectories of the cross-entropy of their largest logits."""
    terms = []
    for row in KNOWN:
        largest = torch.stack([outputs[row, t] for t in tokens_of(LAYOUTS[row])]).max(dim=0).values
        terms.append(-torch.log_softmax(largest, dim=0)[GRADE_OF[row]])
    return torch.stack(terms).mean()


def credit_of(outputs: PerToken, batch: Batch) -> PerToken:
    """(outcome - greedy outcome) softmax(outputs)[grade], by a factor that makes the mean over tokens one over
    trajectories: of M tokens and S trajectories a token of L counts M / (S L)."""
    lengths = {row: len(tokens_of(LAYOUTS[row])) for row in SPEAKING}
    found = {}
    for row, t in outputs:
        gained = float(batch.rewards[row].sum() - batch.greedy_rewards[row])
        chance = torch.softmax(outputs[row, t].detach(), dim=0)[GRADE_OF[row]].item() if row in KNOWN else 0.0
        found[row, t] = gained * chance * sum(lengths.values()) / (len(SPEAKING) * lengths[row])
    return found


@pytest.mark.parametrize("pieces", [GRADES, SHARED], ids=["own", "shared"])
def test_one_update_is_autograd_of_both_losses(pieces):
    lm, head, shared = tiny_lm(), value_head(3), pieces is SHARED
    critic_lm = lm if shared else tiny_lm(seed=4)
    outputs = said(critic_lm, head)
    grade_loss = grade_loss_of(outputs)
    policy_loss = policy_loss_of(lm, credit_of(outputs, batch_with_grades()))
    if shared:
        expected = gradients_of(policy_loss + WEIGHT * grade_loss, **{"": lm}, value_head__=head)
    else:
        expected = gradients_of(policy_loss, **{"": lm})
        expected |= gradients_of(grade_loss, backbone__=critic_lm.model, head__=head)
    weight = "value_head.weight" if shared else "head.weight"
    assert float(expected[weight].abs().max()) > 1e-2

    metrics, gradients, provided = recorded(role_of(pieces), batch_with_grades())
    assert largest_difference(gradients, expected) < 1e-5
    assert metrics["value_loss"] == pytest.approx(grade_loss.item(), abs=1e-6)
    chances = [torch.softmax(outputs[row, t], dim=0)[GRADE_OF[row]].item() for row, t in outputs if row in KNOWN]
    assert metrics["grade_probability"] == pytest.approx(statistics.fmean(chances), abs=1e-5)
    # nobody reads the logits as values, and nothing is logged of such
    assert "values" not in provided and "value_std" not in provided and "old_outputs" in provided
    assert not {"value", "explained_variance", "value_error"} & metrics.keys()
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("pieces", [GRADES, SHARED], ids=["own", "shared"])
@pytest.mark.parametrize("padding_free", [False, True], ids=["padded", "padding_free"])
def test_micro_batches_change_nothing(padding_free, pieces):
    metrics, gradients, _ = recorded(role_of(pieces, tokens_per_micro_batch=10**6), batch_with_grades())
    cut = role_of(pieces, tokens_per_micro_batch=1, padding_free=padding_free)
    other_metrics, other_gradients, _ = recorded(cut, batch_with_grades())
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    assert largest_difference(other_gradients, gradients) < 1e-6 * largest
    assert other_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-6)


def test_without_a_known_grade_nothing_moves():
    role = role_of(GRADES)
    batch = batch_with_grades().with_(grades=torch.full((7,), -1))
    metrics, gradients, _ = recorded(role, batch)
    assert not any(gradient.any() for gradient in gradients.values())
    assert (metrics["value_loss"], metrics["advantage_max"]) == (0.0, 0.0)


def test_a_warm_up_teaches_the_grades():
    """On the same trajectories again and again the critic tells them apart; the policy waits."""
    role = role_of(GRADES | {"critic": {"outputs": 3, "warmup_steps": 40}}, max_grad_norm=1.0)
    rows = [update(role, provide(role, batch_with_grades()), seed=0, step=step) for step in range(40)]
    assert rows[0]["value_loss"] > 0.8 and rows[0]["grade_accuracy"] < 0.9
    assert rows[-1]["value_loss"] < 0.05 and rows[-1]["grade_accuracy"] == 1.0
    assert not any("grad_norm" in row for row in rows)


# a whole run

OWN = """
from llmrl.marks import gives_grades
from llmrl.types import Score

OUTCOMES = {"compile_error": -1.0, "runtime_error": -0.6, "wrong": -0.3, "passed": 1.0}

@gives_grades(4)
def graded(completion):
    '''By the first character: 0 1 2 pass, 3 4 5 are wrong, the other digits an error, the rest does not compile.'''
    first = completion[:1] or "="
    grade = 3 if first in "012" else 2 if first in "345" else 1 if first in "6789" else 0
    outcome = list(OUTCOMES)[grade]
    return Score(OUTCOMES[outcome], grade == 3, outcome=outcome, grade=grade)

def plain(completion):
    return completion[:1] in "012"
"""
RECIPE: dict[str, Any] = {
    "method": "coderl",
    "model": {
        "build": {
            "characters": "0123456789+=",
            "config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
            | {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 32, "initializer_range": 0.1},
        }
    },
    "data": {"train": {"path": "sums.jsonl"}},
    "rewards": {"own_grades:graded": {}},
    "rollout": {"engine": "transformers", "max_prompt_tokens": 8, "max_completion_tokens": 3}
    | {"prompts_per_step": 8, "group_size": 8},
    "critic": {"warmup_steps": 30, "learning_rate": 1e-2},
    "training": {"steps": 32, "learning_rate": 1e-2, "threads": 1},
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "own_grades.py").write_text(OWN)
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(5) for b in range(5)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def run(**changes: Any) -> None:
    Path("grades.yaml").write_text(json.dumps(RECIPE | changes))
    assert run_plan(load_plan("grades.yaml"), resume=False, console=Console(quiet=True)) == 0


def rows_of_the_run() -> list[dict[str, Any]]:
    return [row for row in RunReader(Path("runs/grades")).metrics if row["step"]]


def mean(rows: list[dict[str, Any]], name: str) -> float:
    return statistics.fmean(row[name] for row in rows)


def test_the_trainer_teaches_a_critic_how_programs_end(folder):
    run()
    rows = rows_of_the_run()
    start, warm = rows[:4], rows[26:30]
    # no grade has more than 4 of the 12 characters
    assert mean(start, "grade_accuracy") < 0.55 and mean(start, "value_loss") > 1.0
    assert mean(warm, "grade_accuracy") > 0.7 and mean(warm, "value_loss") < 0.7
    assert mean(warm, "accuracy") < 0.45
    assert ["grad_norm" in row for row in rows] == [False] * 30 + [True] * 2
    first = rows[0]
    shares = {name: value for name, value in first.items() if name.startswith("outcome/")}
    outcomes = {name.rpartition("/")[2] for name in shares}
    assert outcomes <= {"compile_error", "runtime_error", "wrong", "passed"}
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["outcome/own_grades:graded/passed"] == first["accuracy"]
    table = pq.read_table("runs/grades/rollouts/train-000001.parquet").to_pylist()
    for row in table:
        [outcome] = json.loads(row["outcomes"]).values()
        assert (outcome == "passed") == (row["reward"] == 1.0)


def test_the_policy_learns_by_its_critics_grades(folder):
    """With one token an answer nothing but the grade decides about the reward, so that every seed learns."""
    rollout = RECIPE["rollout"] | {"max_completion_tokens": 1}
    run(rollout=rollout, critic={"warmup_steps": 4, "learning_rate": 1e-2}, training=RECIPE["training"] | {"steps": 20})
    rows = rows_of_the_run()
    assert mean(rows[:4], "accuracy") < 0.45 and mean(rows[-4:], "accuracy") > 0.75


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"critic": {"outputs": 3}},
            "critic.outputs: 3, but rewards.own_grades:graded gives 4 grades; give one output for each",
        ),
        (
            {"rewards": {"own_grades:plain": {}}},
            "rewards: a piece reads grades, but none of own_grades:plain gives any; use a verifier that does",
        ),
    ],
)
def test_a_run_without_the_grades_is_refused_before_a_model_loads(folder, changes, fault, monkeypatch):
    monkeypatch.setattr("llmrl.run.models.load_language_model", pytest.fail)
    with pytest.raises(RecipeError) as caught:
        run(**changes)
    assert len(caught.value.faults) == 1 and caught.value.faults[0].startswith(fault)
