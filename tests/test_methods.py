"""The methods that ship: each resolves with a minimal recipe, needs what its paper needs and is set as it says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from llmrl.recipe import Recipe
from llmrl.recipe_file import load_plan, methods
from llmrl.resolve import resolve_pieces
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers

MINIMAL = """
model: some/model
data: {train: {path: rows.jsonl, completion: solution}}
rewards: {math_verifier: {}}
rollout: {max_completion_tokens: 100}
"""
ORDINARY = {"advantages", "log_ratio", "logprobs", "old_logprobs", "response_mask", "rewards"}
# source, and what the method's pieces read besides the ordinary: groups, a reference, a critic's values ...
METHODS = {
    "a2c": ("2205.09123", "entropy values"),
    "apo_asymmetric": ("2506.21655", "correct group_ids ref_logprobs"),
    "aspo": ("2510.06062", "group_ids old_entropy ref_logprobs"),
    "asym_re": ("2506.20520", "group_ids"),
    "best_of_n_sft": ("2304.06767", ""),
    "cde": ("2509.09675", "progress value_std values"),
    "cispo": ("2506.13585", "group_ids"),
    "clip_cov": ("2505.22617", "uniform_noise group_ids"),
    "coderl": ("2207.01780", "greedy_rewards old_outputs grades"),
    "d3s": ("2509.22115", "group_ids old_entropy progress"),
    "d_ppo": ("2310.20380", "values"),
    "dapo": ("2503.14476", "group_ids"),
    "decoupled_ppo": ("2110.00641", "group_ids rollout_logprobs"),
    "dr_grpo": ("2503.20783", "group_ids"),
    "drpo": ("2510.04474", "correct group_ids"),
    "dvpo": ("2502.16944", "ref_logprobs values"),
    "epo": ("2509.22576", "entropy entropy_history group_ids progress"),
    "erc": ("2512.05591", "entropy group_ids old_entropy"),
    "gfn_subtb": ("2310.04363", "ref_logprobs values"),
    "gfn_tb": ("2310.04363", "group_ids ref_logprobs"),
    "gmpo": ("2507.20673", "group_ids"),
    "gppo": ("2508.07629", "group_ids"),
    "grpo": ("2402.03300", "group_ids ref_logprobs"),
    "gspo": ("2507.18071", "group_ids"),
    "gvm_raft": ("2505.02391", "ref_logprobs"),
    "icepop": ("2510.18855", "group_ids rollout_logprobs"),
    "kl_cov": ("2505.22617", "group_ids"),
    "ktae": ("2505.16826", "correct group_ids ref_logprobs token_ids"),
    "masked_is": ("Liu et al. 2025", "group_ids rollout_logprobs"),
    "mdpo": ("2005.09814", "values"),
    "opmd": ("2509.24203", "group_ids ref_logprobs"),
    "opo": ("2505.23585", "group_ids"),
    "pacs": ("2509.02522", "correct group_ids"),
    "polychromic": ("2509.25424", "answer_ids group_ids ref_logprobs"),
    "ppo": ("1707.06347", "ref_logprobs values"),
    "pvpo": ("2508.21104", "ref_logprobs static_values"),
    "raft_pp": ("2504.11343", "ref_logprobs"),
    "rebn": ("2510.01051", "turn_ids"),
    "reinforce": ("Williams 1992", ""),
    "reinforce_pp": ("2501.03262", "ref_logprobs"),
    "reinforce_pp_baseline": ("2501.03262", "group_ids ref_logprobs"),
    "remax": ("2310.10505", "greedy_rewards"),
    "rent": ("2505.22660", "group_ids old_entropy ref_logprobs"),
    "repro": ("2512.01925", "answer_logprobs group_ids"),
    "reward_weighting_gradient": ("2509.11452", "group_ids reward_components reward_influence"),
    "reward_weighting_hypervolume": ("2509.11452", "group_ids hypervolume"),
    "rloo": ("2402.14740", "group_ids ref_logprobs"),
    "router_aware": ("2510.23027", "group_ids router_drift"),
    "safe": ("2602.04651", "entropy kl_gate ref_logprobs values"),
    "sapo": ("2511.20347", "group_ids"),
    "sft": ("2203.02155", ""),
    "simko": ("2510.14807", "correct group_ids old_entropy old_top_ids token_ids top_logprobs"),
    "spo_simple": ("2401.16025", "group_ids"),
    "thor": ("2509.13761", "group_ids reward_components turn_ids turn_rewards"),
    "tis": ("Yao et al. 2025", "group_ids rollout_logprobs"),
    "top_entropy": ("2506.01939", "group_ids old_entropy"),
    "topr": ("2503.14286", "group_ids rollout_logprobs"),
    "unlikeliness": ("2506.02355", "group_ids ref_logprobs"),
    "vapo": ("2504.05118", "correct values"),
    "vc_ppo": ("2503.01491", "values"),
    "vl_dac": ("2508.04280", "ref_logprobs turn_ids values"),
    "vtrace": ("1802.01561", "entropy rollout_logprobs values"),
    "xrpo": ("2510.06672", "correct group_ids"),
}
NO_ADVANTAGE = {"best_of_n_sft", "drpo", "gfn_subtb", "gfn_tb", "pacs", "sft"}
COUPLED = {"drpo", "gfn_tb", "pacs"}
ONE_UPDATE = {"a2c", "coderl", "opo", "reinforce", "remax", "rloo"}
CRITICS = {"values", "old_outputs"}
AGAINST_THE_SAMPLER = {"topr"}
WITH_A_TOOL = {"thor"}

# what a paper's formula or its released settings say, by method and key
CLIP = {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.2}}
CLIP_HIGHER = {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.28}}
LENGTH = {"fixed_length": {"length": 100}}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("grpo", {"advantage": "grpo", "policy_loss": CLIP, "reduce": "sequence_mean"}),
    ("dr_grpo", {"advantage": {"grpo": {"normalize_std": False}}, "policy_loss": CLIP, "reduce": LENGTH}),
    ("dapo", {"policy_loss": CLIP_HIGHER, "reduce": "token_mean", "keep": "mixed_outcomes", "regularizers": {}}),
    ("gspo", {"log_ratio": "sequence", "reduce": "sequence_mean", "regularizers": {}}),
    ("gspo", {"policy_loss": {"ppo_clip": {"clip_low": 3e-4, "clip_high": 4e-4}}}),
    ("gmpo", {"policy_loss": {"gmpo": {"clip_low": 0.4, "clip_high": 0.4}}, "reduce": "sequence_mean"}),
    ("cispo", {"policy_loss": {"cispo": {"clip_low": 1.0, "clip_high": 4.0}}, "keep": "mixed_outcomes"}),
    ("sapo", {"policy_loss": {"sapo": {"tau_positive": 1.0, "tau_negative": 1.05}}, "reduce": "sequence_mean"}),
    ("spo_simple", {"policy_loss": {"spo": {"epsilon": 0.2}}}),
    ("rloo", {"token_rewards": {"kl_k1": {"weight": 0.05}}, "policy_loss": "reinforce", "reduce": LENGTH}),
    ("remax", {"advantage": "remax", "policy_loss": "reinforce", "reduce": LENGTH}),
    ("opo", {"advantage": "opo", "policy_loss": "reinforce", "regularizers": {}, "token_rewards": {}}),
    ("reinforce_pp", {"advantage": {"reinforce": {"baseline": "batch_mean", "normalize_std": True}}}),
    ("reinforce_pp_baseline", {"advantage": {"grpo": {"normalize_std": False, "whiten": True}}}),
    ("reinforce_pp_baseline", {"regularizers": {"kl_k2": {"weight": 0.001}}}),
    ("rebn", {"advantage": {"rebn": {"gamma": 1.0}}}),
    ("asym_re", {"advantage": {"asymre": {"shift": -0.1}}, "policy_loss": "reinforce"}),
    ("opmd", {"advantage": {"opmd": {"temperature": 1.0}}, "regularizers": {"kl_k2": {"weight": 0.1}}}),
    ("topr", {"log_ratio": "behaviour", "policy_loss": {"topr": {"cap": 1.0}}}),
    ("aspo", {"policy_loss": {"aspo": {"clip_low_entropy": 0.2, "clip_high_entropy": 0.4}}}),
    ("aspo", {"regularizers": {"kl_k3": {"weight": 0.001, "tokens": "low_entropy"}}}),
    ("erc", {"token_weights": {"entropy_ratio": {"low": 0.95, "high": 1.05}}, "keep": "mixed_outcomes"}),
    ("simko", {"policy_loss": {"simko": {"candidates": 3, "share": 0.01}}}),
    ("clip_cov", {"token_weights": {"drop_covariant": {"fraction": 2e-4, "low": 1.0, "high": 5.0}}}),
    (
        "kl_cov",
        {"regularizers": {"absolute_log_ratio": {"weight": 1.0, "tokens": {"top_covariant": {"fraction": 2e-4}}}}},
    ),
    ("top_entropy", {"token_weights": {"top_entropy": {"fraction": 0.2}}, "policy_loss": CLIP_HIGHER}),
    ("tis", {"token_weights": {"truncated_is": {"cap": 2.0}}}),
    ("icepop", {"token_weights": {"icepop": {"low": 0.5, "high": 5.0}}}),
    ("masked_is", {"token_weights": {"masked_is": {"low": 0.5, "high": 2.0}}}),
    ("decoupled_ppo", {"token_weights": {"icepop": {"low": 0.0, "high": 5.0}}}),
    ("pacs", {"policy_loss": {"pacs": {"scale": 1.0, "balanced": True}}, "advantage": None}),
    ("drpo", {"policy_loss": {"drpo": {"tau": 10.0, "length_temperature": 0.1, "max_tokens": 100}}}),
    ("pvpo", {"keep": {"triage": {}}, "advantage": "static_baseline", "reduce": "sequence_mean"}),
    ("unlikeliness", {"reward_shaping": {"unlikeliness": {"weight": 0.25}}, "keep": "mixed_outcomes"}),
    ("repro", {"advantage_shaping": {"rectify": {"weight": 0.1}}}),
    ("xrpo", {"advantage_shaping": {"novelty": {"weight": 2.5, "cap": 0.5}}}),
    ("xrpo", {"allocate": {"xrpo": {"confidence": 0.05, "exploration": 0.1}}}),
    ("apo_asymmetric", {"regularizers": {"kl_k3": {"weight": 0.001, "tokens": "difficulty"}}}),
    ("apo_asymmetric", {"advantage_shaping": {"length_control": {"base": 1.00001}}}),
    ("gvm_raft", {"allocate": {"gvm": {"alpha": 0.001, "beta": 2.0}}, "advantage": "accepted"}),
    (
        "epo",
        {
            "regularizers": {
                "entropy_bonus": {"weight": 0.001},
                "entropy_window": {"weight": 0.001, "low": 0.8, "high": 1.2},
            }
        },
    ),
    ("router_aware", {"log_ratio": {"router_aware": {"floor": 0.8}}}),
    ("polychromic", {"advantage": {"polychromic": {"set_size": 4}}, "regularizers": {"kl_k3": {"weight": 0.01}}}),
    ("a2c", {"advantage": {"gae": {"gamma": 1.0, "lam": 1.0, "whiten": False}}}),
    ("ppo", {"advantage": {"gae": {"gamma": 1.0, "lam": 0.95}}, "value_loss": {"squared": {"clip": 0.2}}}),
    ("vc_ppo", {"advantage": {"gae": {"gamma": 1.0, "lam": 0.95, "lam_returns": 1.0}}, "reduce": "sequence_mean"}),
    ("vapo", {"advantage": {"gae": {"gamma": 1.0, "lam_returns": 1.0, "length_adaptive": 0.05}}}),
    ("vapo", {"regularizers": {"nll": {"weight": 0.1, "tokens": "correct_tokens"}}, "policy_loss": CLIP_HIGHER}),
    ("vl_dac", {"advantage": {"step_gae": {"gamma": 0.99, "lam": 0.95}}, "regularizers": {"kl_k3": {"weight": 0.04}}}),
    ("vl_dac", {"policy_loss": {"ppo_clip": {"clip_low": 0.1, "clip_high": 0.1}}}),
    ("coderl", {"advantage": "remax", "advantage_shaping": {"outcome_likelihood": {}}, "policy_loss": "reinforce"}),
    ("coderl", {"value_loss": "grade_cross_entropy", "reduce": "sequence_mean"}),
    ("cde", {"value_loss": {"bootstrapped": {"fraction": 0.5}}}),
    ("safe", {"value": {"softmin": {"temperature": 0.3}}}),
    ("mdpo", {"policy_loss": "surrogate", "regularizers": {"proximal_kl": {"weight": 1.0}}}),
    ("thor", {"advantage": {"turn_grpo": {"min_turn_reward": 1.0}}, "reduce": "token_mean", "keep": "everything"}),
    ("thor", {"policy_loss": {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}}}),
    ("thor", {"regularizers": {"nll": {"weight": 0.01, "tokens": "positive_advantage"}}, "token_rewards": {}}),
    ("thor", {"env": {"python_tool": {"max_calls": 5, "reward_ran": 1.0, "reward_failed": 0.0}}}),
    ("best_of_n_sft", {"policy_loss": "nll", "keep": {"best_of": {"count": 1, "min_reward": 0.0}}}),
]


@pytest.fixture
def resolved(tmp_path):
    def load(method: str) -> Recipe:
        (tmp_path / "r.yaml").write_text(f"{MINIMAL}method: {method}\n")
        return load_plan(tmp_path / "r.yaml").stages["train"]

    return load


def test_what_ships():
    assert sorted(methods()) == sorted(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_resolves_and_needs_what_it_says(method, resolved):
    recipe = resolved(method)
    algorithm = resolve_pieces(recipe).algorithm
    assert algorithm.needs - ORDINARY == set(METHODS[method][1].split())
    assert algorithm.has_critic == bool(CRITICS & set(METHODS[method][1].split()))
    assert ("advantages" in algorithm.needs) == (method not in NO_ADVANTAGE)
    assert algorithm.is_coupled == (method in COUPLED)
    against = "rollout_logprobs" if method in AGAINST_THE_SAMPLER else "old_logprobs"
    assert against in algorithm.log_ratio.data
    pieces = resolve_pieces(recipe)
    assert pieces.env.name == ("python_tool" if method in WITH_A_TOOL else "single_turn")
    assert (pieces.allocate is not None) == (recipe.allocate is not None)
    assert "math_verifier" in Rewards.from_specs(recipe.rewards, workers=Workers(1)).weights


@pytest.mark.parametrize("method", METHODS)
def test_each_method_cites_its_source_and_says_what_it_is(method):
    layer = methods()[method]
    source = METHODS[method][0]
    assert (f"arXiv {source}" if re.fullmatch(r"\d{4}\.\d{5}", source) else source) in layer["paper"]
    assert layer["summary"] and not layer["summary"].endswith(".")


@pytest.mark.parametrize("method", METHODS)
def test_methods_that_are_exact_on_policy_take_one_update(method, resolved):
    training = resolved(method).training
    ones = {"updates_per_step": 1, "epochs_per_step": 1}
    assert (ones.items() <= methods()[method].get("training", {}).items()) == (method in ONE_UPDATE)
    assert method not in ONE_UPDATE or (training.updates_per_step, training.epochs_per_step) == (1, 1)


@pytest.mark.parametrize(("method", "settings"), SETTINGS, ids=[f"{m}-{'-'.join(s)}" for m, s in SETTINGS])
def test_settings_are_the_papers(method, settings, resolved):
    recipe = resolved(method)
    assert {key: getattr(recipe, key) for key in settings} == settings


def test_critics_are_as_their_papers_have_them(resolved):
    found = {name: resolved(name).critic for name in METHODS if CRITICS & set(METHODS[name][1].split())}
    assert {name for name, critic in found.items() if critic.backbone == "shared"} == {"a2c", "vl_dac"}
    assert {name for name, critic in found.items() if critic.detach} == {"vl_dac"}
    assert {name for name, critic in found.items() if critic.warmup_steps} == {"coderl", "dvpo", "vapo", "vc_ppo"}
    assert {name for name, critic in found.items() if critic.frozen} == {"dvpo"}
    several = {name: critic.outputs for name, critic in found.items() if critic.outputs > 1}
    assert several == {"cde": 4, "coderl": 4, "safe": 2}
    assert {name: critic.weight for name, critic in found.items() if critic.weight != 1} == dict.fromkeys(
        ("a2c", "vl_dac"), 0.5
    )


def test_the_soft_penalty_covers_the_last_fifth_of_the_limit(resolved):
    specs = {"overlong_penalty": resolved("dapo").rewards["overlong_penalty"]}
    piece = Rewards.from_specs(specs, workers=Workers(1)).rewards[0].piece
    # 100 tokens at most, a fifth of it is 20: 0 up to 80, -(90 - 80) / 20 = -0.5 at 90, -1 at 100 and over
    values = [piece({"completion_tokens": tokens}).value for tokens in (80, 90, 100, 101)]
    assert values == [0.0, -0.5, -1.0, -1.0]
