"""Combinations that cannot work are refused with their reason, and their legal neighbours are not."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.combinations import check_rows
from llmrl.errors import RecipeError
from llmrl.recipe import Recipe, Rollout, Training
from llmrl.recipe_file import method_recipe
from llmrl.recipe_layers import merge
from llmrl.resolve import resolve_pieces

SOUND: dict[str, Any] = {
    "name": "r",
    "run_dir": "runs/r",
    "model": "some/model",
    "data": {"train": {"path": "rows.jsonl", "completion": "solution"}},
    "rewards": {"math_verifier": {}},
    "policy_loss": "ppo_clip",
    "advantage": "grpo",
    "rollout": {"prompts_per_step": 4, "group_size": 4},
    "training": {"steps": 10},
}
GAE = {"advantage": "gae"}
FOUR_UPDATES = {"training": {"updates_per_step": 4}}


def faults(**changes: Any) -> list[str]:
    try:
        resolve_pieces(Recipe.model_validate(merge(SOUND, changes)))
    except RecipeError as error:
        return error.faults
    return []


@pytest.fixture(autouse=True)
def own_pieces(tmp_path, monkeypatch):
    """Pieces of a user's own, importable."""
    (tmp_path / "own_pieces.py").write_text(
        "from llmrl.ops.advantages.group import rloo\n"
        "class Rloo:\n"
        "    def __call__(self, rewards, response_mask, group_ids):\n"
        "        return rloo(rewards, response_mask, group_ids)\n"
        "called = Rloo()\n"
        "def last(outputs):\n"
        "    return outputs[..., -1]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_a_stage_that_trains_nothing_has_to_sample():
    assert faults(trained=False) == [] == faults(trained=False, policy_loss=None, advantage=None)
    [fault] = faults(trained=False, learn_from="demonstrations", policy_loss="nll", advantage=None)
    assert fault == "trained: false, and learn_from demonstrations samples nothing, so there is nothing to do"


def test_a_loss_of_advantages_needs_an_advantage():
    message = "policy_loss: ppo_clip uses advantages, but the recipe names no advantage"
    assert faults(advantage=None) == [message]
    assert faults(advantage=None, policy_loss="nll") == []
    assert faults(advantage=None, policy_loss="pacs") == []


@pytest.mark.parametrize(
    ("changes", "key", "name"),
    [
        ({}, "advantage", "grpo"),
        ({"advantage": None, "policy_loss": "pacs"}, "policy_loss", "pacs"),
        ({"advantage": "reinforce", "reward_shaping": {"unlikeliness": {}}}, "reward_shaping", "unlikeliness"),
        ({"advantage": "reinforce", "advantage_shaping": {"novelty": {}}}, "advantage_shaping", "novelty"),
        (
            {"advantage": "reinforce", "regularizers": {"kl_k3": {"weight": 0.1, "tokens": "difficulty"}}},
            "token_weights",
            "difficulty",
        ),
    ],
)
def test_pieces_that_compare_need_something_to_compare_with(changes, key, name):
    message = f"{key}: {name} compares trajectories of one prompt, so rollout.group_size must be at least 2, got 1"
    assert faults(**changes, rollout={"group_size": 1}) == [message]
    assert faults(**changes, rollout={"group_size": 2}) == []


def test_one_completion_a_prompt_is_enough_without_groups():
    for advantage in ("reinforce", "gae", "remax", "static_baseline", "accepted"):
        assert faults(advantage=advantage, rollout={"group_size": 1}) == []


def test_the_best_of_a_group_leaves_nothing_to_compare_with():
    message = (
        "keep: best_of takes a part of each group, but advantage grpo compares a trajectory with all of its group; "
        "use keep: everything, or pieces without groups such as the advantage accepted"
    )
    assert faults(keep="best_of") == [message]
    assert faults(keep={"best_of": {"count": 2}}) == [message]
    assert faults(keep="mixed_outcomes") == []
    assert faults(keep="best_of", advantage="accepted") == []
    assert faults(keep="best_of", advantage=None, policy_loss="nll") == []
    [fault] = faults(keep="best_of", advantage=None, policy_loss="pacs")
    assert "policy_loss pacs compares" in fault


def test_changed_rewards_have_a_reader():
    shaping = {"reward_shaping": {"unlikeliness": {}}}
    message = "reward_shaping.unlikeliness: changes the rewards that the advantage reads, but that is {}"
    assert faults(**shaping, advantage=None, policy_loss="pacs") == [message.format("none")]
    assert faults(**shaping, advantage="gdpo") == [message.format("gdpo, which does not")]
    assert faults(**shaping) == []


def test_a_coupled_loss_is_a_function_of_log_probabilities(tmp_path, monkeypatch):
    (tmp_path / "own_coupled.py").write_text(
        "from llmrl.types import TokenLoss\n"
        "def sharp(logprobs, entropy, group_ids):\n    return TokenLoss(-logprobs * entropy)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert faults(policy_loss="own_coupled:sharp") == [
        "policy_loss: own_coupled:sharp reads group_ids, so it is differentiated over the whole update by its "
        "log-probabilities alone, but it also reads entropy"
    ]


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"advantage": "remax"}, "greedy_rewards"),
        ({"advantage": "static_baseline"}, "static_values"),
        ({"advantage": "reinforce"}, "rewards"),
        ({"advantage": "gdpo"}, "reward_components"),
        ({"advantage": None, "policy_loss": "pacs"}, "correct"),
        ({"advantage": None, "policy_loss": "nll", "token_weights": {"truncated_is": {}}}, "rollout_logprobs"),
    ],
)
def test_demonstrations_have_nothing_that_comes_of_sampling(changes, name):
    message = f"learn_from: demonstrations samples and scores nothing, but a piece reads {name}"
    assert message in faults(learn_from="demonstrations", **changes)
    assert faults(**changes) == []


def test_demonstrations_are_imitated_with_penalties_and_weights_of_the_model():
    imitation = {"learn_from": "demonstrations", "advantage": None, "policy_loss": "nll"}
    assert faults(**imitation, regularizers={"kl_k3": {"weight": 0.1}}, token_weights={"top_entropy": {}}) == []
    # an advantage that nobody reads is not computed
    assert faults(**imitation | {"advantage": "grpo"}) == []


def test_demonstrations_cannot_be_allocated():
    imitation = {"learn_from": "demonstrations", "advantage": None, "policy_loss": "nll"}
    message = "allocate: learn_from demonstrations samples nothing that could be allocated"
    assert faults(**imitation, allocate="xrpo") == [message]
    assert faults(allocate="xrpo") == []


@pytest.mark.parametrize("training", [{"updates_per_step": 2}, {"epochs_per_step": 2}])
def test_a_loss_without_a_ratio_takes_one_update(training):
    message = (
        "policy_loss: reinforce: it has no ratio, so it is exact only for the policy that sampled, "
        "but training.updates_per_step x epochs_per_step is 2; set both to 1"
    )
    assert faults(policy_loss="reinforce", advantage="rloo", training=training) == [message]
    assert faults(policy_loss="reinforce", advantage="rloo") == []
    assert faults(policy_loss="ppo_clip", advantage="rloo", training=training) == []


@pytest.mark.parametrize("advantage", ["asymre", "opmd", "accepted", "vtrace"])
def test_an_advantage_for_stale_samples_lets_a_plain_loss_take_several(advantage):
    assert faults(policy_loss="reinforce", advantage=advantage, **FOUR_UPDATES) == []


def test_only_the_sampler_of_transformers_searches_with_beams():
    message = "evaluation.beams: 4, but rollout.engine vllm has no beam search; use transformers"
    assert faults(evaluation={"beams": 4}) == [message]
    assert faults(evaluation={"beams": 4}, rollout={"engine": "transformers"}) == []


def test_the_baseline_of_opo_takes_one_update_under_any_loss():
    message = (
        "advantage: opo: its baseline is optimal only for the policy that sampled, "
        "but training.updates_per_step x epochs_per_step is 4; set both to 1"
    )
    assert faults(advantage="opo", **FOUR_UPDATES) == [message]
    both = faults(advantage="opo", policy_loss="reinforce", **FOUR_UPDATES)
    assert [fault.partition(":")[0] for fault in both] == ["advantage", "policy_loss"]
    assert faults(advantage="opo") == []


def test_a_penalty_whose_gradient_is_zero_is_no_regularizer():
    for name in ("kl_k1", "adaptive_kl_k1"):
        assert faults(regularizers={name: {"weight": 0.1}}) == [
            f"regularizers.{name}: its gradient as a loss is zero on average, so it regularizes nothing; subtract it "
            f"from the token rewards, or use kl_k2 or kl_k3 here"
        ]
        assert faults(advantage="reinforce", token_rewards={name: {"weight": 0.1}}) == []


KL = {"token_rewards": {"kl_k1": {"weight": 0.1}}}


def test_a_penalty_in_the_reward_is_not_divided_by_each_groups_spread():
    message = (
        "token_rewards: advantage {} divides by each group's standard deviation, which gives every prompt another "
        "weight of the penalty; put it into regularizers, or set normalize_std: false"
    )
    assert faults(**KL) == [message.format("grpo")]
    assert faults(**KL, advantage="best_of_group") == [message.format("best_of_group")]
    assert faults(**KL, advantage={"grpo": {"normalize_std": False}}) == []
    assert faults(**KL, advantage="rloo") == []
    # one spread for the whole batch weighs every prompt's penalty alike
    assert faults(**KL, advantage={"grpo": {"batch_std": True}}) == []
    assert faults(**KL, advantage={"reinforce": {"normalize_std": True}}) == []
    assert faults(regularizers={"kl_k3": {"weight": 0.1}}) == []


@pytest.mark.parametrize("name", ["truncated_is", "sequence_is", "icepop"])
def test_the_ratio_to_the_sampler_counts_once(name):
    weights = {"token_weights": {name: {}}}
    assert faults(log_ratio="behaviour", **weights) == [
        f"token_weights.{name}: log_ratio behaviour is against the sampler's probabilities already, so this would "
        f"count their ratio twice; use log_ratio: token"
    ]
    assert faults(advantage="vtrace", **weights) == [
        f"token_weights.{name}: advantage vtrace weighs its credit by the ratio to the sampler's probabilities "
        f"already, so this would count it twice; leave it out"
    ]
    assert faults(**weights) == []
    # nobody reads the log ratio
    assert faults(log_ratio="behaviour", policy_loss="reinforce", **weights) == []


def test_vtrace_already_weighs_by_the_ratio_to_the_sampler():
    assert faults(advantage="vtrace", log_ratio="behaviour") == [
        "log_ratio: behaviour is against the sampler's probabilities, and so are the weights in advantage vtrace, "
        "so this would count their ratio twice; use log_ratio: token"
    ]
    assert faults(advantage="vtrace") == []
    assert faults(log_ratio="behaviour") == []


@pytest.mark.parametrize("name", ["masked_is", "drop_stale_negatives"])
def test_leaving_out_is_no_weight(name):
    assert faults(log_ratio="behaviour", token_weights={name: {}}) == []
    assert faults(advantage="vtrace", token_weights={name: {}}) == []


@pytest.mark.parametrize(
    ("critic", "messages"),
    [
        (
            {"frozen": True},
            ["critic.frozen: the critic would stay as it was initialised; give critic.warmup_steps or critic.model"],
        ),
        ({"frozen": True, "model": "some/value_model"}, []),
        ({"frozen": True, "warmup_steps": 9}, []),
        (
            {"frozen": True, "warmup_steps": 10},
            ["critic.warmup_steps: 10 leaves the policy none of training.steps 10"],
        ),
        ({"warmup_steps": 3}, []),
        (
            {"backbone": "shared", "model": "some/value_model"},
            ["critic.model: a critic with the policy's backbone (critic.backbone: shared) has no model of its own"],
        ),
        ({"backbone": "shared", "detach": True}, []),
        (
            {"backbone": "shared", "head_only": True},
            ["critic.head_only: only a backbone of the critic's own can be frozen; use critic.detach: true"],
        ),
        ({"head_only": True}, []),
        (
            {"detach": True},
            ["critic.detach: only a critic that shares the policy's backbone can be detached from it"],
        ),
    ],
)
def test_a_critic_learns_before_it_is_frozen_and_has_one_backbone(critic, messages):
    assert faults(**GAE, critic=critic) == messages
    # without a piece that reads values nothing of this matters
    assert faults(critic=critic) == []


def test_a_distribution_over_values_is_read_as_one():
    bins, ends = {"critic": {"outputs": 11}}, {"low": -1.0, "high": 1.0}
    for key, piece, fault in (
        ("value", "expectation", "value_loss: squared with value: expectation"),
        ("value_loss", "categorical", "value_loss: categorical with value: mean"),
    ):
        assert faults(**GAE, **bins, **{key: {piece: ends}}) == [
            f"{fault}; categorical and expectation need each other, as the outputs are the logits of a distribution"
        ]
    assert faults(**GAE, **bins, value={"expectation": ends}, value_loss={"categorical": ends}) == []
    other = {"low": -1.0, "high": 2.0}
    assert faults(**GAE, **bins, value={"expectation": ends}, value_loss={"categorical": other}) == [
        "value.expectation.high: 1.0, but value_loss.categorical.high is 2.0; they measure the same thing and have "
        "to be equal"
    ]


def test_a_spread_over_heads_takes_two_heads():
    spread = {"advantage_shaping": {"value_spread": {}}}
    message = "critic.outputs: a piece reads value_std, the spread over heads; give at least 2"
    assert faults(**GAE, **spread) == [message]
    assert faults(**GAE, **spread, critic={"outputs": 2}) == []


def test_a_critic_needs_something_to_learn():
    flow = {"policy_loss": {"subtrajectory_balance": {"temperature": 0.2}}}
    message = "advantage: a piece reads values, but {} no returns that a critic could learn; use one such as gae"
    assert faults(**flow, advantage=None) == [message.format("without one there are")]
    assert faults(**flow, advantage={"log_flow": {"temperature": 0.2}}) == []
    spread = {"advantage_shaping": {"value_spread": {}}, "critic": {"outputs": 2}}
    assert faults(**spread) == [message.format("grpo gives")]
    # a frozen critic learns nothing any more
    frozen = {"critic": {"outputs": 2, "frozen": True, "model": "some/value_model"}}
    assert faults(**spread | frozen) == []


GRADES = {"advantage": "remax", "advantage_shaping": {"outcome_likelihood": {}}, "critic": {"outputs": 4}}
OF_GRADES = {"value_loss": "grade_cross_entropy"}


def test_a_critic_of_grades_is_taught_grades():
    assert faults(**GRADES, **OF_GRADES) == []
    for advantage in ("remax", "grpo"):
        assert faults(**GRADES | {"advantage": advantage}) == [
            "advantage_shaping.outcome_likelihood: reads the critic's outputs as the logits of grades, but "
            "value_loss: squared does not teach it these; use value_loss: grade_cross_entropy"
        ]


def test_logits_of_grades_are_no_values():
    message = (
        "value_loss: grade_cross_entropy makes the critic's outputs the logits of grades, but a piece reads "
        "them as values by value: {}"
    )
    for reading in ("mean", "softmin"):
        assert faults(**GAE, **OF_GRADES, critic={"outputs": 4}, value=reading) == [message.format(reading)]
    assert faults(**GRADES | GAE, **OF_GRADES) == [message.format("mean")]
    # a reading of one's own may make values of them
    assert faults(**GRADES | GAE, **OF_GRADES, value="own_pieces:last") == []


def test_grades_need_outputs_and_verdicts():
    single = {"critic": {"outputs": 1}}
    message = "critic.outputs: 1 is not valid, expected at least 2, one for each grade"
    places = ("advantage_shaping.outcome_likelihood", "value_loss.grade_cross_entropy")
    assert faults(**GRADES | single, **OF_GRADES) == [f"{place}: {message}" for place in places]
    found = faults(**GRADES, **OF_GRADES, learn_from="demonstrations")
    assert "learn_from: demonstrations samples and scores nothing, but a piece reads grades" in found


def test_a_flow_and_its_credit_have_one_temperature():
    flow = {"policy_loss": {"subtrajectory_balance": {"temperature": 0.2}}}
    assert faults(**flow, advantage={"log_flow": {"temperature": 0.5}}) == [
        "advantage.log_flow.temperature: 0.5, but policy_loss.subtrajectory_balance.temperature is 0.2; they measure "
        "the same thing and have to be equal"
    ]
    # a temperature of the advantage alone is nobody else's
    assert faults(advantage={"opmd": {"temperature": 0.5}}) == []


def test_sets_are_smaller_than_a_group():
    message = (
        "advantage.polychromic.set_size: 4 leaves no two sets of a group to compare; expected less than "
        "rollout.group_size 4"
    )
    assert faults(advantage="polychromic") == [message]
    assert faults(advantage={"polychromic": {"set_size": 3}}) == []
    assert faults(advantage="polychromic", rollout={"group_size": 5}) == []


def test_all_faults_are_told_at_once():
    found = faults(
        policy_loss="reinforce",
        regularizers={"kl_k1": {"weight": 0.1}},
        keep="best_of",
        rollout={"group_size": 1},
        **FOUR_UPDATES,
    )
    assert [fault.partition(":")[0] for fault in found] == ["advantage", "keep", "policy_loss", "regularizers.kl_k1"]


def test_an_advantage_of_ones_own_may_be_any_callable():
    assert faults(advantage="own_pieces:called") == []
    assert faults(advantage="own_pieces:called", **KL) == []


def test_an_adapter_of_a_rank_that_vllm_does_not_serve():
    def model(rank: int) -> dict[str, Any]:
        return {"path": "some/model", "lora": {"rank": rank}}

    assert faults(model=model(1024)) == ["model.lora.rank: 1024, but vllm serves adapters of at most 512"]
    assert faults(model=model(512)) == []
    assert faults(model=model(1024), rollout={"engine": "transformers"}) == []
    assert faults(model=model(1024), learn_from="demonstrations", policy_loss="nll", advantage=None) == []


def check_rows_of(method: str, completions: list[int], **changes: Any) -> None:
    recipe = method_recipe(method).model_copy(update=changes)
    check_rows(recipe, resolve_pieces(recipe).algorithm, len(completions), completions)


def test_a_loss_of_pairs_needs_a_row_with_two_completions():
    with pytest.raises(RecipeError) as caught:
        check_rows_of("dpo", [1, 1])
    assert str(caught.value) == (
        "preference_loss: dpo compares two completions of a prompt, but every row of data.train has one with a label; "
        "use a loss of single completions, such as kto, or rows with pairs"
    )
    check_rows_of("dpo", [1, 2])
    check_rows_of("dpo", [])
    check_rows_of("kto", [1, 1])


def test_an_epoch_may_not_end_with_one_prompt_where_prompts_are_compared():
    epochs = {"training": Training(epochs=2), "rollout": Rollout(prompts_per_step=4)}
    with pytest.raises(RecipeError, match=r"training.epochs: the last step of an epoch has 1 of 9 prompts, but .* kto"):
        check_rows_of("kto", [1] * 9, **epochs)
    check_rows_of("kto", [1] * 10, **epochs)
    check_rows_of("kto", [1] * 9, rollout=Rollout(prompts_per_step=4))
    check_rows_of("dpo", [2] * 9, **epochs)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rollout": {}}, "rollout.guide: vllm draws tokens from its own model's distribution alone"),
        ({"evaluation": {}}, "evaluation.guide: vllm draws"),
        (
            {"rollout": {"engine": "transformers", "reading": {"success": {"inverse": 1}}}},
            "rollout.guide.reading.success: no setting 'inverse'",
        ),
        (
            {"rollout": {"engine": "transformers"}, "evaluation": {"beams": 2}},
            "evaluation.beams: 2, but a beam search has no guide",
        ),
    ],
)
def test_guides_are_refused_where_they_cannot_work(changes, words):
    """vLLM has no guide, a reading is checked before anything loads, and a beam search is not guided."""
    guided = {
        key: {name: value for name, value in own.items() if name != "reading"}
        | {"guide": {"model": "values", "reading": own.get("reading", "success")}}
        for key, own in changes.items()
    }
    assert words in " ".join(faults(**guided))


def test_a_soft_critic_and_its_policy_share_a_temperature_and_whole_groups():
    soft = {
        "advantage": "twin_q",
        "value_target": {"choice_td": {"alpha": 0.2}},
        "value_loss": "twin_squared",
        "critic": {"outputs": 4},
    }
    assert faults(**soft, policy_loss={"soft_choice": {"alpha": 0.2}}) == []
    assert faults(**soft, policy_loss={"soft_choice": {"alpha": 0.1}}) == [
        "value_target.choice_td.alpha: 0.2, but policy_loss.soft_choice.alpha is 0.1; they measure the same thing and "
        "have to be equal"
    ]
    assert faults(**merge(soft, {"critic": {"replay": {}}})) == [
        "critic.replay: draws trajectories one by one, but value_target choice_td compares those of a group; leave one "
        "of the two out"
    ]
