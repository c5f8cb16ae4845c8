"""The log ratio of completions after other prompts, against the two models asked directly."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import log_p_of, tokens_of
from training_cases import LAYOUTS, fixed_batch, role_of, tiny_lm

from llmrl.errors import RecipeError, RunStopped
from llmrl.train.provide import provide
from llmrl.train.step import update

DATA = {"train": {"path": "unused", "chosen": "good", "rejected": "bad"}}
KTO = {"learn_from": "preferences", "data": DATA, "rollout": {"group_size": 2}}
KTO |= {"preference_loss": {"kto": {"weight": 1.0, "beta": 0.4}}}


def batch_of(group_ids: list[int]):
    batch, rewards = fixed_batch(), torch.zeros_like(fixed_batch().rewards)
    for row, layout in enumerate(LAYOUTS):
        if tokens := tokens_of(layout):
            rewards[row, tokens[-1]] = float(row % 2)
    ids = torch.tensor(group_ids)
    return batch.with_(rewards=rewards, rollout_logprobs=torch.zeros_like(rewards), group_ids=ids)


def mean_ratio(batch: Any, own: Any, reference: Any) -> float:
    """The mean log ratio of each prompt of groups {0, 1, 2}, {3, 4, 5}, {6} with a completion of the next group."""
    ratios = []
    speaking = [row for row in range(len(LAYOUTS)) if tokens_of(LAYOUTS[row])]
    groups = [[row for row in speaking if row in members] for members in ({0, 1, 2}, {3, 4, 5}, {6})]
    for number, group in enumerate(groups):
        following = groups[(number + 1) % 3]
        for place, row in enumerate(group):
            other = following[place % len(following)]
            prompt = batch.token_ids[row, : tokens_of(LAYOUTS[row])[0]].tolist()
            start = tokens_of(LAYOUTS[other])[0]
            token_ids = prompt + batch.token_ids[other, start : len(LAYOUTS[other])].tolist()
            places = [len(prompt) + t - start for t in tokens_of(LAYOUTS[other])]
            difference = (log_p_of(own, token_ids) - log_p_of(reference, token_ids)).detach()
            ratios.append(sum(float(difference[t - 1, token_ids[t]]) for t in places))
    return sum(ratios) / len(ratios)


def test_each_prompt_takes_a_completion_of_the_next_group():
    batch, found, expected = batch_of([0, 0, 0, 1, 1, 1, 2]), [], []
    for own, other in ((0, 3), (3, 0)):  # one sign each
        role = role_of(KTO, lm=tiny_lm(seed=own))
        role.reference.lm.load_state_dict(tiny_lm(seed=other).state_dict())
        found.append(float(provide(role, batch).mismatched_kl))
        expected.append(mean_ratio(batch, tiny_lm(seed=own), tiny_lm(seed=other)))
    assert expected[0] == pytest.approx(-expected[1]) and abs(expected[0]) > 0.01
    assert found == pytest.approx([max(0.0, ratio) for ratio in expected], abs=1e-5)


def test_kto_and_bco_learn_from_single_completions():
    """The mean over the six completions with tokens; the controller of BCO starts at 0."""
    batch = batch_of([0, 0, 0, 1, 1, 1, 2])
    for name, settings in (("kto", {"beta": 0.4}), ("bco", {"beta": 0.4})):
        role = role_of(KTO | {"preference_loss": {name: {"weight": 1.0} | settings}})
        provided, losses, ratios = provide(role, batch), [], []
        own, reference = tiny_lm(), tiny_lm(seed=3)
        for row, layout in enumerate(LAYOUTS):
            if not tokens_of(layout):
                continue
            token_ids = batch.token_ids[row, : len(layout)].tolist()
            difference = (log_p_of(own, token_ids) - log_p_of(reference, token_ids)).detach()
            ratios.append(sum(float(difference[t - 1, token_ids[t]]) for t in tokens_of(layout)))
            z = float(provided.mismatched_kl) if name == "kto" else 0.0
            sign = 1 if row % 2 else -1
            likelihood = 1 / (1 + math.exp(-sign * 0.4 * (ratios[-1] - z)))
            losses.append(1 - likelihood if name == "kto" else -math.log(likelihood))
        metrics = update(role, provided, seed=0)
        assert metrics["preference_loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
        assert metrics["completion_log_ratios"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-5)
        assert metrics["grad_norm"] > 0
        role.control(metrics)
    assert role.controllers["mean_log_ratio"]["value"] == pytest.approx(sum(ratios) / len(ratios), abs=1e-5)


def test_a_step_of_one_prompt_is_refused():
    with pytest.raises(RecipeError, match="prompts_per_step must be at least 2, got 1"):
        role_of(KTO | {"rollout": {"group_size": 2, "prompts_per_step": 1}})
    with pytest.raises(RunStopped, match=r"mismatched_kl: .*at least two prompts"):
        provide(role_of(KTO), batch_of([4] * 7))
