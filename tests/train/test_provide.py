"""provide adds what the pieces read, and nothing else: every field costs a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import SHOWN, log_p_of, tokens_of
from training_cases import GRPO, LAYOUTS, VOCABULARY, fixed_batch, role_of, tiny_lm, turn_ids
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from llmrl.batch import Batch
from llmrl.train.provide import provide
from llmrl.train.roles import Role
from llmrl.train.step import update
from llmrl.types import Group, Prompt, Trajectory

TWICE = {"epochs_per_step": 2}
ALL_AT_ONCE = {"tokens_per_micro_batch": 10**6}
PPO = {"advantage": "gae", "policy_loss": "ppo_clip"}
READS_PROGRESS = PPO | {"critic": {"outputs": 3}, "advantage_shaping": {"value_spread": {}}}
NLL = {"policy_loss": "nll", "learn_from": "demonstrations", "data": SHOWN}
ROUTED = GRPO | {"log_ratio": "router_aware"}
CHOICES = {"old_router_ids", "old_router_logprobs"}
VALUES = {"old_outputs", "values", "value_std"}

# pieces, settings, what is added; passes of the policy, of the reference, of the critic
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], set[str], tuple[int, int, int]]] = {
    "one update": (GRPO, {}, set(), (0, 0, 0)),
    "two updates": (GRPO, TWICE, {"old_logprobs"}, (1, 0, 0)),
    "old entropy, in the loss": (GRPO | {"policy_loss": "aspo"}, {}, set(), (0, 0, 0)),
    "old entropy, twice": (GRPO | {"policy_loss": "aspo"}, TWICE, {"old_logprobs", "old_entropy"}, (1, 0, 0)),
    "old entropy, before": (GRPO | {"token_weights": {"top_entropy": {}}}, {}, {"old_entropy"}, (1, 0, 0)),
    "likely tokens": (GRPO | {"policy_loss": "simko"}, {}, {"old_top_ids"}, (1, 0, 0)),
    "likely tokens, twice": (
        GRPO | {"policy_loss": "simko"}, TWICE, {"old_logprobs", "old_entropy", "old_top_ids"}, (1, 0, 0),
    ),
    "experts": (ROUTED, {}, CHOICES, (1, 0, 0)),
    "experts, twice": (ROUTED, TWICE, CHOICES | {"old_logprobs"}, (1, 0, 0)),
    "a penalty on the reference": (
        GRPO | {"regularizers": {"kl_k3": {"weight": 0.1}}}, {}, {"ref_logprobs"}, (0, 1, 0),
    ),
    "a penalty in the reward": (
        PPO | {"token_rewards": {"kl_k1": {"weight": 0.1}}}, {}, VALUES | {"ref_logprobs", "old_logprobs"}, (1, 1, 1),
    ),
    "random numbers": (
        GRPO | {"token_weights": {"drop_covariant": {}}}, {}, {"old_logprobs", "uniform_noise"}, (1, 0, 0),
    ),
    "progress to the answer": (
        GRPO | {"advantage_shaping": {"rectify": {}}}, {}, {"old_entropy", "answer_logprobs"}, (2, 0, 0),
    ),
    "progress of the stage": (READS_PROGRESS, {}, VALUES | {"progress"}, (0, 0, 1)),
    "agreement of the rewards": (
        GRPO | {"rewards": {"math_verifier": {}, "test_provide:second": {}},
                "reward_shaping": {"test_provide:weighed": {}}},
        {}, {"influence"}, (1, 0, 0),
    ),
    "a critic": (PPO, {}, VALUES, (0, 0, 1)),
    "a critic that draws": (PPO | {"value_loss": "bootstrapped"}, {}, VALUES | {"uniform_noise"}, (0, 0, 1)),
    "a critic on the policy's backbone": (PPO | {"critic": {"backbone": "shared"}}, {}, VALUES, (1, 0, 0)),
    "coupled trajectories": (GRPO | {"policy_loss": "pacs"}, {}, {"old_logprobs"}, (1, 0, 0)),
    "demonstrations": (NLL, TWICE, set(), (0, 0, 0)),
}  # fmt: skip


def tiny_moe() -> Any:
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        moe_intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=5,
        num_experts_per_tok=3,
        max_position_embeddings=64,
        initializer_range=0.1,
        attn_implementation="sdpa",
        use_cache=False,
    )
    torch.manual_seed(0)
    return Qwen3MoeForCausalLM(config)


def counted(role: Role) -> list[str]:
    """A list that grows by the name of each model that is run."""
    runs: list[str] = []
    models = {"policy": role.learner.engine.model, "reference": role.reference}
    models["critic"] = role.critic.learner.engine.model if role.critic and role.critic.learner else None
    for name, model in models.items():
        if model is not None:
            model.register_forward_hook(lambda module, given, result, name=name: runs.append(name))
    return runs


class Tokenizer:
    """Every gold answer is the tokens 3 4, and no token has a delimiter."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [3, 4]

    def decode(self, token_ids: list[int], **settings: bool) -> str:
        return "."


def groups_of_rows() -> list[Group]:
    """A group for each row, as the fixed batch might have been packed from."""
    asked = Prompt("p", (1,), "", {"answer": "42"})
    return [Group(asked, [Trajectory(asked, [], "stop")]) for _ in LAYOUTS]


def second(completion: str) -> float:
    """A reward beside the first."""
    return 0.0


def weighed(rewards: torch.Tensor, reward_influence: torch.Tensor) -> torch.Tensor:
    """Reads the weights that the controller makes of the rewards' influence."""
    return rewards * reward_influence.sum()


def provided_of(role: Role, batch: Batch) -> Batch:
    return provide(role, batch, groups=groups_of_rows(), tokenizer=Tokenizer())


def batch_of(pieces: dict[str, Any]) -> Batch:
    components = torch.tensor([[1.0, 0.3], [0, 0.1], [1, 0.9], [0, 0.4], [1, 0.2], [0, 0], [1, 0.7]])
    batch = fixed_batch().with_(reward_components=components)
    return batch.with_(rollout_logprobs=torch.zeros(7, 13)) if "learn_from" in pieces else batch


@pytest.mark.parametrize("case", CASES)
def test_what_is_read_is_added(case):
    pieces, settings, expected, passes = CASES[case]
    lm = tiny_moe() if pieces is ROUTED else None
    role = role_of(pieces, lm=lm, **settings | ALL_AT_ONCE)
    runs, batch = counted(role), batch_of(pieces)
    before = set(batch.data)
    assert provided_of(role, batch).data.keys() - before == expected
    assert tuple(runs.count(name) for name in ("policy", "reference", "critic")) == passes
    assert set(batch.data) == before


@pytest.mark.parametrize("case", CASES)
def test_what_is_added_is_enough(case):
    """An update runs on it, with each epoch's passes over the batch and no more."""
    pieces, settings, _, _ = CASES[case]
    role = role_of(pieces, lm=tiny_moe() if pieces is ROUTED else None, **settings | ALL_AT_ONCE)
    batch = batch_of(pieces).with_(correct=torch.tensor([1.0, 0, 1, 0, 1, 1, 0]), turn_ids=turn_ids())
    provided = provided_of(role, batch)
    runs = counted(role)
    update(role, provided, seed=0)
    assert runs.count("policy") == (2 if settings else 1)
    assert runs.count("reference") == 0


def test_what_the_batch_has_already_is_not_measured_again():
    role = role_of(PPO | {"token_rewards": {"kl_k1": {"weight": 0.1}}}, **ALL_AT_ONCE)
    whole = provide(role, fixed_batch())
    runs = counted(role)
    assert provide(role, whole).data == whole.data and runs == []
    again = provide(role, Batch(**{name: value for name, value in whole.data.items() if name != "ref_logprobs"}))
    assert runs == ["reference"] and torch.equal(again.ref_logprobs, whole.ref_logprobs)


def test_entropies_and_likely_tokens_are_those_of_each_trajectory_alone():
    role = role_of(GRPO | {"policy_loss": "simko"}, **TWICE)
    batch = provide(role, fixed_batch())
    assert batch.old_top_ids.shape == (7, 13, 8) and batch.old_top_ids.dtype == torch.int64
    lm = tiny_lm()
    for row, layout in enumerate(LAYOUTS):
        log_p = log_p_of(lm, batch.token_ids[row, : len(layout)].tolist()).detach()
        for t in tokens_of(layout):
            entropy = -sum(one.exp() * one for one in log_p[t - 1]).item()
            assert batch.old_entropy[row, t].item() == pytest.approx(entropy, abs=1e-5)
            ranked = sorted(range(VOCABULARY), key=lambda v: -log_p[t - 1, v].item())
            assert batch.old_top_ids[row, t].tolist() == ranked[:8]
    assert not batch.old_entropy[~batch.response_mask].any() and not batch.old_top_ids[~batch.response_mask].any()


def test_experts_are_those_of_the_batch_run_at_once():
    role = role_of(ROUTED, lm=tiny_moe(), tokens_per_micro_batch=16)
    batch = provide(role, fixed_batch())
    whole = role_of(ROUTED, lm=tiny_moe(), **ALL_AT_ONCE).learner.measure(fixed_batch(), *CHOICES)
    assert batch.old_router_ids.shape == (7, 13, 2, 3)
    assert torch.equal(batch.old_router_ids, whole["old_router_ids"])
    torch.testing.assert_close(batch.old_router_logprobs, whole["old_router_logprobs"], atol=1e-5, rtol=0)


def test_a_router_has_not_drifted_at_the_only_update_and_has_after_it():
    role = role_of(ROUTED, lm=tiny_moe())
    batch = provide(role, fixed_batch())
    assert "old_logprobs" not in batch  # they are those of the pass itself: the drift alone is in the ratio
    assert update(role, batch, seed=0)["ratio"] == pytest.approx(1.0, abs=1e-6)
    assert update(role, batch, seed=0)["ratio"] < 1 - 1e-4


def test_random_numbers_depend_on_the_seed_alone():
    pieces = PPO | {"value_loss": "bootstrapped"}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = provide(role_of(pieces, lm=tiny_lm(seed=5)), fixed_batch(), seed=2**62 + 1).uniform_noise
    torch.manual_seed(2)
    again = provide(
        role_of(pieces, tokens_per_micro_batch=1), fixed_batch(), seed=2**62 + 1, share_done=0.5
    ).uniform_noise
    other = provide(role_of(pieces), fixed_batch(), seed=2**62 + 2).uniform_noise
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert first.shape == (7, 13) and 0 <= float(first.min()) < 0.1 and 0.9 < float(first.max()) < 1
    role = role_of(pieces)
    torch.set_rng_state(state)
    provide(role, fixed_batch(), seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # training's own stream is left alone


def test_progress_is_one_number_for_every_row():
    batch = provide(role_of(READS_PROGRESS), fixed_batch(), share_done=0.25)
    assert batch.progress.shape == () and batch.progress.item() == 0.25
    assert batch.rows(torch.tensor([3, 1])).progress.item() == 0.25
