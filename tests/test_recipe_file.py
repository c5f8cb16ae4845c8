"""From files to plans: layers, methods, stages, overrides, interpolation, the dump, and the wording of faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmrl.axes import ONE_PIECE
from llmrl.errors import RecipeError
from llmrl.recipe import Recipe
from llmrl.recipe_file import Plan, load_plan, methods
from llmrl.recipe_layers import merge

BASE = """
model: some/model
data: {train: {path: rows.jsonl, completion: solution}}
rewards: {math_verifier: {}}
"""
GRPO = BASE + "method: grpo\n"


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str, *overrides: str, name: str = "r.yaml", **files: str) -> Plan:
        for file, content in files.items():
            (tmp_path / f"{file}.yaml").write_text(content)
        (tmp_path / name).write_text(text)
        return load_plan(tmp_path / name, list(overrides))

    return write_and_load


@pytest.fixture
def one(load):
    return lambda text, *overrides, **files: next(iter(load(text, *overrides, **files).stages.values()))


@pytest.fixture
def faults(load):
    def faults_of(text: str, *overrides: str, **files: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides, **files)
        return caught.value.faults

    return faults_of


# merging


def test_mappings_merge_and_everything_else_replaces():
    lower = {"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}
    upper = {"a": {"y": [3], "w": 4}, "b": {"n": 2}, "c": 5}
    assert merge(lower, upper) == {"a": {"x": 1, "y": [3], "w": 4}, "b": {"n": 2}, "c": 5}


def test_a_key_of_one_piece_merges_only_the_same_piece():
    clip = {"policy_loss": {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.28}}}
    same = merge(clip, {"policy_loss": {"ppo_clip": {"clip_high": 0.3}}})
    assert same == {"policy_loss": {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.3}}}
    other = {"policy_loss": {"cispo": {"clip_high": 4.0}}}
    assert merge(clip, other) == other
    assert merge(clip, {"policy_loss": "nll"}) == {"policy_loss": "nll"}
    assert merge({"policy_loss": {"ppo_clip": None}}, {"policy_loss": {"ppo_clip": {"clip_low": 0.1}}}) == {
        "policy_loss": {"ppo_clip": {"clip_low": 0.1}}
    }


def test_several_rewards_merge():
    lower = {"rewards": {"a": {"weight": 1}, "b": {}}}
    assert merge(lower, {"rewards": {"a": {"weight": 2}, "c": {}}})["rewards"] == {"a": {"weight": 2}, "b": {}, "c": {}}


keys = st.sampled_from(["a", "b", "policy_loss", "advantage"])
leaves = st.one_of(st.none(), st.integers(), st.text(max_size=2), st.lists(st.integers(), max_size=2))
layers = st.recursive(
    st.dictionaries(keys, leaves, max_size=3), lambda inner: st.dictionaries(keys, leaves | inner, max_size=3)
)


@given(layers)
def test_merging_with_nothing_or_itself_changes_nothing(layer):
    assert merge(layer, {}) == layer
    assert merge({}, layer) == layer
    assert merge(layer, layer) == layer


@given(layers, layers)
def test_every_plain_value_of_the_upper_layer_wins(lower, upper):
    before = (repr(lower), repr(upper))
    merged = merge(lower, upper)
    assert (repr(lower), repr(upper)) == before
    for key, value in upper.items():
        if not isinstance(value, dict) or not isinstance(lower.get(key), dict):
            assert merged[key] == value
    for key in lower.keys() - upper.keys():
        assert merged[key] == lower[key]


@given(layers, layers, layers)
def test_layers_without_nulls_and_pieces_can_be_merged_in_any_grouping(low, middle, high):
    """A mapping over a plain value drops the mapping below it too, so only layers of one shape are associative."""

    def shaped(layer: dict[str, Any]) -> dict[str, Any]:
        return {k: dict.fromkeys(v, 1) if isinstance(v, dict) else {} for k, v in layer.items() if k not in ONE_PIECE}

    low, middle, high = shaped(low), shaped(middle), shaped(high)
    assert merge(merge(low, middle), high) == merge(low, merge(middle, high))


# methods and interpolation


def test_the_recipe_lies_over_its_method(one):
    assert methods()["dapo"]["policy_loss"] == {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.28}}
    resolved = one(BASE + "method: dapo\npolicy_loss: {ppo_clip: {clip_high: 0.3}}\nreduce: sequence_mean\n")
    assert resolved.policy_loss == {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.3}}
    assert (resolved.reduce, resolved.keep) == ("sequence_mean", "mixed_outcomes")
    assert set(resolved.rewards) == {"math_verifier", "overlong_penalty"}


def test_null_removes_what_the_method_brings(one):
    resolved = one(BASE + "method: dapo\nkeep: null\n", "rewards.overlong_penalty=null")
    assert set(resolved.rewards) == {"math_verifier"}
    assert resolved.keep == "everything"  # the schema's default


def test_interpolation_takes_the_recipes_value_or_the_default(one):
    text = BASE + "method: dr_grpo\n"
    assert one(text).reduce == {"fixed_length": {"length": 256}}
    assert one(text, "rollout.max_completion_tokens=77").reduce == {"fixed_length": {"length": 77}}
    assert one(BASE + "method: sft\nrun_dir: ${name}\n").run_dir == "r"


def test_interpolation_of_nothing_is_a_fault(faults):
    text = BASE + "policy_loss: nll\nreduce: {fixed_length: {length: '${rollout.max_completions_tokens}'}}\n"
    assert faults(text) == [
        "${rollout.max_completions_tokens}: the recipe has no key 'rollout.max_completions_tokens'; "
        "did you mean 'rollout.max_completion_tokens'?"
    ]


def test_numbers_with_exponents_are_numbers(one):
    assert one(GRPO + "training: {learning_rate: 1e-5}\n").training.learning_rate == 1e-5


# includes


def test_an_include_lies_under_the_file_that_names_it(one):
    common = "training: {steps: 7, learning_rate: 1.0e-3}\nmodel: other/model\n"
    resolved = one(GRPO + "include: common.yaml\ntraining: {steps: 9}\n", common=common)
    assert (resolved.training.steps, resolved.training.learning_rate) == (9, 1e-3)
    assert resolved.model.path == "some/model"


def test_later_includes_win_and_includes_nest(one):
    text = GRPO + "include: [a.yaml, b.yaml]\n"
    a, b, c = "training: {steps: 1}\nseed: 1\n", "include: c.yaml\ntraining: {steps: 2}\n", "seed: 3\n"
    resolved = one(text, a=a, b=b, c=c)
    assert (resolved.training.steps, resolved.seed) == (2, 3)


def test_yaml_anchors_and_merge_keys_work(one):
    text = BASE.replace("rows.jsonl, completion: solution}", "rows.jsonl, completion: solution, limit: 5}")
    text = text.replace("train: {", "train: &rows {").replace("}}\nrew", "}, eval: {<<: *rows, limit: 2}}\nrew")
    resolved = one(text + "method: grpo\n")
    assert (resolved.data.train.limit, resolved.data.eval.limit) == (5, 2)
    assert resolved.data.eval.completion == "solution"


def test_what_cannot_be_included(faults):
    assert "includes itself" in faults(GRPO + "include: r.yaml\n")[0]
    assert "no such recipe file; did you mean" in faults(GRPO + "include: comon.yaml\n", common="seed: 1")[0]
    assert "expected a file name or a list of them" in faults(GRPO + "include: {a: b}\n")[0]


# stages


TWO = (
    BASE
    + """
run_dir: out
stages:
  warm: {method: sft, training: {steps: 3}}
  rl: {method: grpo}
"""
)


def test_a_later_stage_starts_from_the_earlier_ones_weights(load):
    plan = load(TWO)
    assert list(plan.stages) == ["warm", "rl"]
    assert plan.stages["warm"].model.path == "some/model"
    assert plan.stages["rl"].model.path == "out/stages/warm"
    assert (plan.stages["warm"].learn_from, plan.stages["rl"].learn_from) == ("demonstrations", "rollouts")
    assert (plan.stages["warm"].training.steps, plan.stages["rl"].training.steps) == (3, 100)


def test_lora_settings_reach_later_stages_but_the_build_does_not(load):
    text = TWO.replace("some/model", "{build: {characters: ab}, lora: {rank: 3}}")
    later = load(text).stages["rl"].model
    assert (later.path, later.build, later.lora.rank) == ("out/stages/warm", None, 3)


def test_a_stage_that_changes_settings_of_its_model_still_starts_from_the_one_before(load):
    later = load(TWO.replace("{method: grpo}", "{method: grpo, model: {lora: {rank: 2}}}")).stages["rl"].model
    assert (later.path, later.lora.rank) == ("out/stages/warm", 2)


def test_a_stage_may_name_its_own_model(load):
    assert load(TWO.replace("{method: grpo}", "{method: grpo, model: a/b}")).stages["rl"].model.path == "a/b"


def test_a_models_origin_replaces_another_and_its_other_settings_stay(load, one):
    text = TWO.replace("some/model", "{build: {characters: ab}, lora: {rank: 3}}")
    later = load(text.replace("{method: grpo}", "{method: grpo, model: {path: a/b}}")).stages["rl"].model
    assert (later.path, later.build, later.lora.rank) == ("a/b", None, 3)
    summed = GRPO.replace("some/model", "{merge: {base: a/b, vectors: {kind: {plus: c/d}}}}")
    vector = one(summed, "model.merge.vectors.kind.weight=-0.5").model.merge.vectors["kind"]
    assert (vector.plus, vector.minus, vector.weight) == ("c/d", None, -0.5)
    assert one(summed, "model.path=e/f").model.merge is None


def test_faults_name_their_stage_unless_all_have_them(faults):
    found = faults(TWO.replace("steps: 3", "stps: 3") + "sed: 1\n")
    assert found == [
        "stage warm: training.stps: unknown key (value 3); did you mean 'steps'?",
        "sed: unknown key (value 1); did you mean 'seed'?",
    ]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ("[a, b]", "stages: expected a mapping of stage names to recipe fragments"),
        ("{a: 3}", "stages: expected a mapping of stage names to recipe fragments"),
        ("{a/b: {}}", "stages: 'a/b' is no name for a stage: expected letters, digits, - and _ (it names folders)"),
        ("{a: {run_dir: x}}", "stages.a.run_dir: belongs to the whole run; write it outside of stages"),
    ],
)
def test_stages_that_are_none(faults, stages, message):
    assert faults(GRPO + f"stages: {stages}\n") == [message]


# overrides


def test_overrides_win_and_are_yaml(one):
    resolved = one(
        GRPO, "training.steps=5", "rollout.stop=[a, b]", "data.train.limit=null", "policy_loss.ppo_clip.clip_high=0.5"
    )
    assert (resolved.training.steps, resolved.rollout.stop) == (5, ["a", "b"])
    assert resolved.policy_loss == {"ppo_clip": {"clip_low": 0.2, "clip_high": 0.5}}


def test_an_override_reaches_all_stages_or_the_one_it_names(load):
    assert [r.rollout.group_size for r in load(TWO, "rollout.group_size=3").stages.values()] == [3, 3]
    plan = load(TWO, "stages.warm.training.steps=8")
    assert [r.training.steps for r in plan.stages.values()] == [8, 100]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps=5", "override 'training.steps': set by a stage, so say which one: stages.warm.training.steps"),
        ("training={steps: 5}", "override 'training': set by a stage, so say which one: stages.warm.training"),
        (
            "method=rloo",
            "override 'method': set by a stage, so say which one: stages.warm.method, stages.rl.method",
        ),
        (
            "method.x=1",
            "override 'method.x': set by a stage, so say which one: stages.warm.method.x, stages.rl.method.x",
        ),
        ("stages.wam.seed=1", "override 'stages.wam.seed': no stage named 'wam'; did you mean 'warm'?"),
        ("stages.warm=1", "override 'stages.warm': expected stages.NAME.KEY=value; stages: warm, rl"),
        ("stages=", "override 'stages': expected stages.NAME.KEY=value; stages: warm, rl"),
        ("include=b.yaml", "override 'include': files are included by a recipe file alone; write it there"),
        ("seed", "override 'seed': expected key=value, such as training.steps=20"),
        ("=3", "override '=3': expected key=value, such as training.steps=20"),
        (
            "seed=[",
            "override 'seed=[': not valid YAML: line 1, column 2: expected the node content, but found '<stream end>'",
        ),
    ],
)
def test_overrides_that_cannot_be_meant(faults, override, message):
    assert faults(TWO, override) == [message]


def test_an_override_of_a_stage_where_there_is_none(faults):
    message = "override 'stages.rl.seed': the recipe has no stages; leave 'stages.NAME.' out of the key"
    assert faults(BASE, "stages.rl.seed=1") == [message]


# the dump


@pytest.mark.parametrize("method", sorted(methods().keys() - {"digi_q"}))  # its critic is an earlier stage's
def test_a_dump_loads_to_the_same_plan(load, method):
    plan = load(BASE + f"method: {method}\ntraining: {{learning_rate: 3e-7}}\n")
    assert load(plan.dump(), name="dumped.yaml") == plan


def test_a_dump_of_stages_loads_to_the_same_plan(load):
    text = TWO.replace("some/model", "{build: {characters: ' a:#{}', config: {hidden_size: 8}}, lora: {rank: 3}}")
    # dapo brings overlong_penalty, and the null that removes it must not be forgotten
    text = text.replace("method: grpo", "method: dapo, rewards: {overlong_penalty: null}")
    plan = load(text)
    again = load(plan.dump(), name="dumped.yaml")
    assert again == plan
    assert set(again.stages["rl"].rewards) == {"math_verifier"}
    assert again.dump() == plan.dump()


def test_a_dump_spells_every_default_out(load):
    dumped = yaml.safe_load(load(GRPO).dump())
    assert set(dumped["stages"]["train"]) == set(Recipe.model_fields) - {"name", "run_dir", "roles"}
    assert dumped["stages"]["train"]["training"]["betas"] == [0.9, 0.95]


def test_name_and_folder_follow_from_the_file(load):
    plan = load(GRPO, name="my_run.yaml")
    assert (plan.name, plan.run_dir) == ("my_run", Path("runs/my_run"))


# faults


@pytest.mark.parametrize(
    ("addition", "message"),
    [
        ("sed: 1", "sed: unknown key (value 1); did you mean 'seed'?"),
        ("inclde: x", "inclde: unknown key (value 'x'); did you mean 'include'?"),
        ("stage: {}", "stage: unknown key (value {}); did you mean 'stages'?"),
        ("training: {lr: 1}", "training.lr: unknown key (value 1); valid: accelerate, betas,"),
        ("training: {stps: 1}", "training.stps: unknown key (value 1); did you mean 'steps'?"),
        ("data: {train: {promt: q}}", "data.train.promt: unknown key (value 'q'); did you mean 'prompt'?"),
        ("data: {eval: {path: a, promt: q}}", "data.eval.promt: unknown key (value 'q'); did you mean 'prompt'?"),
        ("model: {path: a, lora: {rnk: 3}}", "model.lora.rnk: unknown key (value 3); did you mean 'rank'?"),
        (
            "model: {merge: {base: a, vectors: {kind: {plus: b, wieght: 1}}}}",
            "model.merge.vectors.kind.wieght: unknown key (value 1); did you mean 'weight'?",
        ),
        (
            "model: {merge: {base: a, vectors: {}}}",
            "model.merge.vectors: {} is not valid: Dictionary should have at least",
        ),
        ("training: {steps: many}", "training.steps: 'many' is not valid: Input should be a valid integer"),
        ("training: {dtype: fp8}", "training.dtype: 'fp8' is not valid: Input should be 'fp32' or 'bf16'"),
        ("keep: 5", "keep: 5 is not valid: Input should be a valid string; or: Input should be a valid dictionary"),
        (
            "data: {train: {prompt: {question}}}",
            "data.train.prompt: {} is not valid: Input should be a valid string; "
            'to YAML {name} without quotes is a mapping, so put it in quotes: "{name}"',
        ),
        ("data: null", "data: required, and missing"),
        ("method: grppo", "method: no method named 'grppo'; did you mean 'grpo'?"),
        ("method: [a]", "method: no method named '['a']'; valid: a2c, accelerated_dpo, "),
    ],
)
def test_faults_name_the_key_the_value_and_the_nearest(faults, addition, message):
    key = addition.partition(":")[0]
    text = "\n".join(line for line in GRPO.splitlines() if not line.startswith(f"{key}:") or key == "data")
    if key == "data":
        text = text.replace("data: {train: {path: rows.jsonl, completion: solution}}", "include: base.yaml")
        base = "data: {train: {path: rows.jsonl}}" if addition != "data: null" else "seed: 1"
        found = faults(f"{text}\n{addition}\n", base=base)
    else:
        found = faults(f"{text}\n{addition}\n")
    assert len(found) == 1
    assert found[0].startswith(message)


def test_all_faults_are_told_at_once(faults):
    assert len(faults(GRPO + "sed: 1\ntraining: {steps: many, x: 1}\nrollout: {top_p: 3}\n")) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "line 1: key written twice: seed"),
        ("training: {steps: 1, steps: 2}\n", "line 1: key written twice: steps"),
        ("a: [1\n", "not valid YAML"),
        ("- a\n- b\n", "expected a mapping of keys to values, got list"),
        ("", "expected a mapping of keys to values, got NoneType"),
        ("? [a]\n: 1\n", "not valid YAML"),
        ("data:\n  prompt: {question} is\n", 'put a text with braces in quotes: "{question} is"'),
        ("data: {prompt: {question}=, seed: 1}\n", 'put a text with braces in quotes: "{question}="'),
    ],
)
def test_files_that_are_no_recipe(faults, text, message):
    found = faults(text)
    assert len(found) == 1 and "r.yaml: " in found[0] and message in found[0]


def test_a_missing_file_and_one_that_is_no_text(tmp_path):
    (tmp_path / "math.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"mth.yaml: no such recipe file; did you mean '.*math.yaml'\?"):
        load_plan(tmp_path / "mth.yaml")
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        load_plan(tmp_path / "math.yaml")


def test_a_method_lies_over_what_its_file_includes_and_under_the_file(one):
    base = "training: {updates_per_step: 4, steps: 9}\nreduce: sequence_mean\n"
    text = GRPO.replace("method: grpo", "method: rloo") + "include: base.yaml\n"
    resolved = one(text, base=base)
    assert resolved.training.updates_per_step == 1  # rloo's own, as its loss has no ratio
    assert resolved.training.steps == 9
    assert resolved.reduce == {"fixed_length": {"length": 256}}
    assert one(text + "reduce: token_mean\n", base=base).reduce == "token_mean"


def test_an_included_file_that_names_the_method_keeps_its_own_settings_of_it(one):
    text = GRPO.replace("method: grpo\n", "") + "include: base.yaml\n"
    resolved = one(text, base="method: grpo\nreduce: token_mean\nregularizers: null\n")
    assert (resolved.reduce, resolved.regularizers) == ("token_mean", {})
    # another method in the including file replaces it, and lies over what the base says
    assert one(text + "method: gspo\n", base="method: grpo\nreduce: token_mean\n").reduce == "sequence_mean"


def test_a_stage_without_a_method_keeps_the_included_one_beside_a_stage_that_names_its_own(load):
    text = GRPO.replace("method: grpo\n", "") + "include: base.yaml\nstages: {first: {}, second: {method: gspo}}\n"
    stages = load(text, base="method: dapo\nreduce: sequence_mean\n").stages
    assert stages["first"].policy_loss == methods()["dapo"]["policy_loss"]
    assert stages["first"].reduce == "sequence_mean"  # the base's own setting lies over its method
    assert "overlong_penalty" in stages["first"].rewards
    assert stages["second"].log_ratio == "sequence"
    assert "overlong_penalty" not in stages["second"].rewards
