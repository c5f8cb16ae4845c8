"""Training on trajectories with tool calls: against autograd, and through a whole small run with programs that run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from by_hand import assert_close, log_p_of, naive_gradients, tokens_of
from rich.console import Console
from torch import Tensor
from training_cases import LAYOUTS, fixed_batch, make_algorithm, record_gradients, role_of, tiny_lm, turn_ids

from llmrl.batch import Batch
from llmrl.recipe_file import load_plan, methods
from llmrl.run.run import run_plan
from llmrl.run_folder.reader import RunReader
from llmrl.train.provide import provide
from llmrl.train.step import update

PIECES = {
    key: value for key, value in methods()["thor"].items() if key not in ("summary", "paper", "env", "learn_from")
}
PIECES["advantage"] = {"turn_grpo": {"min_turn_reward": 1.0}}
# LAYOUTS' turns that were given a reward, by row and number of the turn; groups are rows 0 3 6, 1 4, 2 5
TURN_REWARDS = {(0, 0): 1.0, (1, 0): 1.0, (3, 0): 0.0, (3, 1): 1.0, (4, 0): 1.0, (4, 1): 0.0}
OUTCOMES = [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0]


def batch_with_calls() -> Batch:
    batch, turns = fixed_batch(), turn_ids()
    turn_rewards = torch.full(turns.shape, math.nan)
    for (row, turn), reward in TURN_REWARDS.items():
        turn_rewards[row, turns[row].eq(turn).nonzero().max()] = reward
    components = torch.tensor(OUTCOMES)[:, None]
    return batch.with_(turn_ids=turns, turn_rewards=turn_rewards, reward_components=components)


def expected_credit() -> dict[tuple[int, int], float]:
    """Of each token that the actor sampled.

    outcomes of 0 and 6 (3 has a failed call): 1, 0; of 1 (4 has one): nothing to compare with; of 2: the same
    calls of 0 and 3: 1, 0, 1; of 1 and 4: 1, 1, 0. Three numbers, one of them 0: 1 is (1/3) / std, 0 is (-2/3) / std
    """
    std = math.sqrt(1 / 3)
    by_outcome = {0: 0.5 / math.sqrt(0.5), 6: -0.5 / math.sqrt(0.5)}
    turns = turn_ids()
    found = {}
    for row, layout in enumerate(LAYOUTS):
        for t in tokens_of(layout):
            reward = TURN_REWARDS.get((row, int(turns[row, t])))
            step = 0.0 if reward is None else (1 / 3 if reward else -2 / 3) / std
            found[row, t] = by_outcome.get(row, 0.0) + step
    return found


def test_the_gradient_is_that_of_the_sampled_tokens():
    """Mean of -A log p over what the actor sampled, and 0.01 of the mean of -log p over those with A > 0."""
    batch, credit, lm = batch_with_calls(), expected_credit(), tiny_lm()
    positive = {token for token, value in credit.items() if value > 0}
    assert 0 < len(positive) < len(credit)
    terms = []
    for row, layout in enumerate(LAYOUTS):
        token_ids = batch.token_ids[row, : len(layout)].tolist()
        log_p = log_p_of(lm, token_ids)
        for t in tokens_of(layout):
            logprob = log_p[t - 1, token_ids[t]]
            ratio = (logprob - logprob.detach()).exp()
            terms.append(-ratio * credit[row, t] / len(credit))
            if (row, t) in positive:
                terms.append(-0.01 * logprob / len(positive))
    expected = naive_gradients(lm, torch.stack(terms).sum())

    role = role_of(PIECES, max_grad_norm=1.0)
    gradients = record_gradients(role.learner.engine)
    metrics = update(role, provide(role, batch), seed=0)
    assert_close(gradients[0], expected)
    assert metrics["loss"] == pytest.approx(torch.stack(terms).sum().item(), abs=1e-5)
    assert metrics["advantage_max"] == pytest.approx(max(map(abs, credit.values())), abs=1e-5)


def objective(batch: Batch, logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """The step's loss, and its gradient with respect to the log-probabilities."""
    algorithm, leaf = make_algorithm(**PIECES), logprobs.clone().requires_grad_()
    advantages = algorithm.credit(batch).advantages
    fixed = algorithm.fixed_weights(batch, advantages)
    data = {**batch.data} | {"advantages": advantages, "logprobs": leaf, "old_logprobs": logprobs - 0.1}
    loss = algorithm.objective(data, algorithm.shares(batch), fixed).loss.sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return loss.detach(), gradient


def test_what_the_environment_said_has_no_part_in_the_loss():
    """Whatever log-probabilities its tokens have, loss and gradient stay as they are, and theirs is 0."""
    batch = batch_with_calls()
    said = torch.tensor([[t < len(row) and row[t] == "E" for t in range(batch.rewards.shape[1])] for row in LAYOUTS])
    assert said.sum() == 5  # three calls' results
    logprobs = -torch.rand(batch.rewards.shape, generator=torch.Generator().manual_seed(2))
    loss, gradient = objective(batch, logprobs)
    assert not gradient[~batch.response_mask].any()
    assert gradient[batch.response_mask].ne(0).sum() > 12
    for other in (-30.0, 0.0):
        moved = objective(batch, torch.where(said, other, logprobs))
        assert torch.equal(moved[0], loss) and torch.equal(moved[1], gradient)
    # of the sampled tokens that is not so
    assert objective(batch, torch.where(said, logprobs, logprobs - 0.5))[0] != loss


# a whole run

OWN = """
def long(completion):
    return len(completion) > 12
"""
RECIPE: dict[str, Any] = {
    "method": "thor",
    "model": {
        "build": {
            "characters": "{}[]0123+=",
            "config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
            | {"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 64, "initializer_range": 0.1},
        }
    },
    "data": {"train": {"path": "sums.jsonl"}},
    "env": {
        "python_tool": {"start": "{", "end": "}", "result": "[{output}]", "max_calls": 2, "output_characters": 4}
        | {"allow_weak": True}
    },
    "rewards": {"tool_rewards:long": {}},
    "rollout": {"engine": "transformers", "max_prompt_tokens": 8, "max_completion_tokens": 40, "max_mismatch": 1e-4}
    | {"prompts_per_step": 4, "group_size": 8},
    "training": {"steps": 3, "learning_rate": 1e-2, "threads": 1, "updates_per_step": 2},
}


def test_a_small_run_calls_reads_and_learns(tmp_path, monkeypatch):
    """Sampler and trainer agree on every token of two-turn trajectories: nothing was tokenized again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("tool_rewards.py").write_text(OWN)
    rows = [{"question": f"{a}+{b}=", "answer": str(a + b)} for a in range(4) for b in range(4)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("tools.yaml").write_text(json.dumps(RECIPE))
    assert run_plan(load_plan("tools.yaml"), resume=False, console=Console(quiet=True)) == 0

    steps = [row for row in RunReader(Path("runs/tools")).metrics if row["step"]]
    assert len(steps) == 3
    for number, step in enumerate(steps, start=1):
        table = pq.read_table(f"runs/tools/rollouts/train-{number:06d}.parquet").to_pylist()
        assert not any(row["failure"] for row in table)
        turns = [row["turns"] for row in table]
        assert any(len(of_one) >= 3 for of_one in turns)
        assert {turn["author"] for of_one in turns for turn in of_one} == {"actor", "environment"}
        for row in table:
            authors = [turn["author"] for turn in row["turns"]]
            assert authors == ["actor", "environment"] * (len(authors) // 2) + ["actor"]
            sampled = [turn["token_ids"] for turn in row["turns"] if turn["author"] == "actor"]
            assert len(row["rollout_logprobs"]) == sum(map(len, sampled))
        assert step["mismatch_max"] < 1e-4
        assert 0 <= step["turn_reward"] <= 1 and step["rewarded_turns"] > 0
        assert step["grad_norm"] > 0 and math.isfinite(step["loss"])
