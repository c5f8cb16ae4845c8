"""Roles in recipe files: each is a view of its stage, nonsense is refused, and `llmrl check` tells roles apart."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from checking import checked, shared_workers

from llmrl.errors import RecipeError
from llmrl.recipe_file import Plan, load_plan
from llmrl.run.resume import continued

TWO = """
model: some/model
data: {train: {path: rows.jsonl}}
training: {steps: 9, learning_rate: 1.0e-5}
rollout: {group_size: 4, temperature: 0.9}
roles:
  actor: {method: grpo, rewards: {math_verifier: {}}}
  critiquer:
    method: reinforce_pp
    rewards: {length_penalty: {target_tokens: 3}}
    training: {learning_rate: 2.0e-5}
    rollout: {max_completion_tokens: 8}
"""


@pytest.fixture
def load(tmp_path):
    def write_and_load(text: str = TWO, *overrides: str, name: str = "r.yaml", **files: str) -> Plan:
        for file, content in files.items():
            (tmp_path / f"{file}.yaml").write_text(content)
        (tmp_path / name).write_text(text)
        return load_plan(tmp_path / name, list(overrides))

    return write_and_load


@pytest.fixture
def faults(load):
    def faults_of(text: str = TWO, *overrides: str) -> list[str]:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides)
        return caught.value.faults

    return faults_of


def with_role(text: str) -> str:
    """The recipe with another critiquer."""
    return TWO.partition("  critiquer:")[0] + f"  critiquer: {text}\n"


# what each role sees


def test_a_role_sees_its_stage_with_its_own_method_over_it(load):
    stage = load().stages["train"]
    actor, critiquer = stage.by_role.values()
    assert list(stage.by_role) == ["actor", "critiquer"]
    assert actor.advantage == "grpo" and critiquer.advantage == {
        "reinforce": {"baseline": "batch_mean", "normalize_std": True}
    }
    assert set(actor.rewards) == {"math_verifier"} and set(critiquer.rewards) == {"length_penalty"}
    assert (actor.training.learning_rate, critiquer.training.learning_rate) == (1e-5, 2e-5)
    assert (actor.rollout.max_completion_tokens, critiquer.rollout.max_completion_tokens) == (256, 8)
    assert [view.rollout.temperature for view in (actor, critiquer)] == [0.9, 0.9]
    # the stage is as its first role sees it
    assert stage.model_copy(update={"roles": {}}) == actor


def test_a_stage_without_roles_is_the_actors(load):
    stage = load("model: m\ndata: {train: {path: a}}\nmethod: grpo\nrewards: {math_verifier: {}}\n").stages["train"]
    assert stage.by_role == {"actor": stage} and stage.roles == {}


def test_a_role_over_the_stages_own_method(load):
    text = TWO.replace("model: some/model", "model: some/model\nmethod: dapo").replace("method: grpo, ", "")
    actor, critiquer = load(text).stages["train"].by_role.values()
    assert actor.keep == "mixed_outcomes" and "overlong_penalty" in actor.rewards
    assert critiquer.advantage == {"reinforce": {"baseline": "batch_mean", "normalize_std": True}}


@pytest.mark.parametrize(
    "change",
    [
        "{method: reinforce_pp, rewards: {length_penalty: {target_tokens: 3}}, rollout: {max_completion_tokens: 8}}",
        "{method: grpo, rewards: {math_verifier: {}}, model: {role: actor}}",
        "{method: grpo, rewards: {math_verifier: {}}, model: {path: x, lora: {rank: 2}}, trained: false}",
    ],
)
def test_a_dump_of_roles_loads_to_the_same_plan(load, change):
    plan = load(with_role(change))
    again = load(plan.dump(), name="dumped.yaml")
    assert again == plan and again.dump() == plan.dump()
    stage = yaml.safe_load(plan.dump())["stages"]["train"]
    # what is the stage's is said once, what is a role's under its name
    assert stage["rollout"]["group_size"] == 4 and "temperature" not in stage["rollout"]
    assert stage["roles"]["actor"]["rollout"]["temperature"] == 0.9
    assert "group_size" not in stage["roles"]["actor"]["rollout"] and "training" not in stage


# overrides


def test_an_override_names_its_role(load):
    stage = load(TWO, "roles.critiquer.training.learning_rate=0.5", "training.weight_decay=0.25").stages["train"]
    assert [view.training.learning_rate for view in stage.by_role.values()] == [1e-5, 0.5]
    assert [view.training.weight_decay for view in stage.by_role.values()] == [0.25, 0.25]


def test_an_override_of_a_stages_role_names_the_stage(load, faults):
    common, _, roles = TWO.partition("roles:\n")
    text = common + "stages:\n  one:\n    roles:\n" + "".join(f"    {line}\n" for line in roles.splitlines())
    key = "roles.critiquer.training.learning_rate=0.5"
    views = load(text, f"stages.one.{key}").stages["one"].by_role
    assert views["critiquer"].training.learning_rate == 0.5 and list(views) == ["actor", "critiquer"]
    assert faults(text, key) == [
        "override 'roles.critiquer.training.learning_rate': set by a stage, so say which one: "
        "stages.one.roles.critiquer.training.learning_rate"
    ]
    assert faults(text, "roles.critiquer.training.threads=1") == [
        "override 'roles.critiquer.training.threads': the role of a stage, so say which one: "
        "stages.one.roles.critiquer.training.threads"
    ]


def test_an_override_makes_no_role(load, faults):
    assert faults(TWO, "roles.critquer.trained=false") == [
        "override 'roles.critquer.trained': no role named 'critquer'; did you mean 'critiquer'?"
    ]
    # the roles of an included file are roles too
    base, own = TWO, "include: base.yaml\nmethod: grpo\n"
    stage = load(own, "roles.critiquer.trained=false", base=base).stages["train"]
    assert [view.trained for view in stage.by_role.values()] == [True, False]


# faults


@pytest.mark.parametrize(
    ("critiquer", "messages"),
    [
        ("{method: grpo, trainde: false}", ["trainde: unknown key (value False); did you mean 'trained'?"]),
        ("{method: grpo, seed: 3}", ["seed: belongs to the whole stage; write it outside of roles"]),
        ("{method: grpo, env: single_turn}", ["env: belongs to the whole stage; write it outside of roles"]),
        (
            "{method: grpo, rollout: {group_size: 3}}",
            [
                "rollout.group_size: belongs to the whole stage; a role sets max_completion_tokens, temperature, "
                "top_p, top_k, stop, engine_options"
            ],
        ),
        (
            "{method: grpo, training: {steps: 3}}",
            ["training.steps: 3, but the first role has 9; the roles of a stage take their steps together"],
        ),
        ("{method: grppo}", ["no method named 'grppo'; did you mean 'grpo'?"]),
        ("{method: grpo, training: {stps: 3}}", ["training.stps: unknown key (value 3); did you mean 'steps'?"]),
        (
            "{method: grpo, model: {role: actr}}",
            ["model.role: no role with a model of its own named 'actr'; did you mean 'actor'?"],
        ),
        (
            "{method: grpo, model: {role: critiquer}}",
            ["model.role: no role with a model of its own named 'critiquer'; valid: actor"],
        ),
        (
            "{method: grpo, model: {role: actor}, training: {learning_rate: 1.0}}",
            ["training: differs from actor's, but actor's weights are shared; leave it out"],
        ),
        (
            "{method: grpo, model: {role: actor, path: x}}",
            ["model: give exactly one of path, build, gguf, merge, role"],
        ),
    ],
)
def test_a_role_that_cannot_be_meant(faults, critiquer, messages):
    found = faults(with_role(critiquer))
    assert len(found) == len(messages)
    for fault, message in zip(found, messages, strict=True):
        assert fault.startswith("roles.critiquer.") and message in fault


def test_a_role_that_shares_weights_leaves_the_stages_own_model_alone(load):
    for model in ("some/model", "{path: some/model}", "{build: {characters: ab}}"):
        text = with_role("{method: grpo, model: {role: actor}}").replace("some/model", model)
        shared = load(text).stages["train"].by_role["critiquer"].model
        assert (shared.role, shared.path, shared.build) == ("actor", None, None)
    lora = with_role("{method: grpo, model: {role: actor}}").replace("some/model", "{path: a, lora: {rank: 3}}")
    # the critiquer shares the actor's adapter, as it names none of its own
    views = load(lora).stages["train"].by_role
    assert (views["actor"].model.lora.rank, views["critiquer"].model.lora) == (3, None)


def test_a_role_adapts_another_with_a_training_of_its_own(load):
    adapter = "{method: grpo, model: {role: actor, lora: {rank: 2}}, training: {learning_rate: 1.0}}"
    text = with_role(adapter).replace("some/model", "{path: a, lora: {rank: 3}}")
    assert load(text).stages["train"].by_role["critiquer"].training.learning_rate == 1.0


def test_an_adapter_needs_a_base_that_stays(faults):
    fault = "roles.critiquer.model.lora: adapts actor's base, but actor trains all of it; give actor a lora too"
    assert fault in faults(with_role("{method: grpo, model: {role: actor, lora: {rank: 2}}}"))


def test_an_adapter_is_trained_and_sampled_as_its_base_is(faults):
    adapter = (
        "{method: grpo, model: {role: actor, lora: {}}, training: {dtype: bf16}, rollout: {engine_options: {a: 1}}}"
    )
    assert faults(with_role(adapter).replace("some/model", "{path: a, lora: {}}")) == [
        "roles.critiquer.rollout.engine_options: differ from actor's, whose sampler serves both; leave it out",
        "roles.critiquer.training.dtype: bf16, but actor, whose base it adapts, has fp32; leave it out",
    ]


@pytest.mark.parametrize("name", ["eval", "reward", "environment"])
def test_a_role_may_not_have_the_name_of_metrics(faults, name):
    found = faults(with_role("{method: grpo}").replace("critiquer", name))
    assert found == [f"roles: '{name}' is no name for a role: metrics of its own begin with it"]


def test_an_override_of_a_key_that_a_role_sets_has_to_name_the_role(faults):
    text = with_role("{method: grpo, training: {learning_rate: 1.0}}")
    assert faults(text, "training.learning_rate=2.0") == [
        "override 'training.learning_rate': set by a role, so say which one: roles.critiquer.training.learning_rate"
    ]


def test_a_model_of_a_role_whose_model_is_a_role_is_nobodys(faults):
    chain = with_role("{method: grpo, model: {role: actor}}") + "  third: {method: grpo, model: {role: critiquer}}\n"
    assert faults(chain) == ["roles.third.model.role: no role with a model of its own named 'critiquer'; valid: actor"]


NO_NAME = "is no name for a role: expected a letter, then letters, digits, - and _"


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ("{a b: {method: grpo}}", f"roles: 'a b' {NO_NAME}"),
        ("{a/b: {method: grpo}}", f"roles: 'a/b' {NO_NAME}"),
        ("{1: {method: grpo}}", f"roles: '1' {NO_NAME}"),
        ("[actor]", "roles: expected a mapping of role names to what each role changes"),
        ("{actor: 3}", "roles: expected a mapping of role names to what each role changes"),
    ],
)
def test_roles_that_are_none(faults, roles, message):
    assert faults(TWO.partition("roles:\n")[0] + f"rewards: {{math_verifier: {{}}}}\nroles: {roles}\n") == [message]


def test_faults_of_all_roles_are_told(faults):
    found = faults(TWO.replace("grpo,", "grpo, keeep: everything,").replace("temperature: 0.9", "top_p: 2"))
    keys = ["roles.actor.keeep", "rollout.top_p"]  # what every role has is told once
    assert sorted(fault.partition(":")[0] for fault in found) == keys


# stages


STAGES = TWO + "run_dir: out\nstages: {one: {}, two: {}}\n"


def paths(plan: Plan, stage: str = "two") -> dict[str, str | None]:
    return {name: view.model.path for name, view in plan.stages[stage].by_role.items()}


def test_each_role_of_a_later_stage_starts_from_its_own_folder(load):
    plan = load(STAGES)
    assert paths(plan, "one") == {"actor": "some/model", "critiquer": "some/model"}
    assert paths(plan) == {"actor": "out/stages/one/actor", "critiquer": "out/stages/one/critiquer"}


def test_roles_that_come_or_go_start_from_the_first_role(load):
    fewer = load(STAGES.replace("two: {}", "two: {method: grpo, rewards: {math_verifier: {}}, roles: null}"))
    assert paths(fewer) == {"actor": "out/stages/one/actor"}
    more = load(STAGES.replace("two: {}", "two: {roles: {third: {method: grpo, rewards: {math_verifier: {}}}}}"))
    assert paths(more)["third"] == "out/stages/one/actor"
    alone = "one: {method: grpo, rewards: {math_verifier: {}}, roles: null}"
    assert paths(load(STAGES.replace("one: {}", alone))) == dict.fromkeys(("actor", "critiquer"), "out/stages/one")


def test_a_role_of_a_later_stage_may_name_its_own_model_or_share_one(load):
    own = load(STAGES.replace("two: {}", "two: {roles: {critiquer: {model: x}}}"))
    assert paths(own) == {"actor": "out/stages/one/actor", "critiquer": "x"}
    same = "{model: {role: actor}, training: {learning_rate: 1.0e-5}}"
    shared = load(STAGES.replace("two: {}", f"two: {{roles: {{critiquer: {same}}}}}"))
    assert shared.stages["two"].by_role["critiquer"].model.role == "actor"


APART = """
model: some/model
data: {train: {path: rows.jsonl}}
rewards: {math_verifier: {}}
method: grpo
run_dir: out
stages:
  first: {}
  second: {model: {path: some/model, lora: {rank: 3}}}
  pair: {roles: {actor: {}, critiquer: {}}}
  last:
    roles:
      actor: {model: "${run_dir}/stages/first", reference: {model: "${run_dir}/stages/second/adapter", every: 2}}
      critiquer: {model: {path: "${run_dir}/stages/pair/critiquer", lora: {rank: 2}}}
"""


def test_roles_start_from_products_of_different_stages(load):
    plan = load(APART)
    assert paths(plan, "last") == {"actor": "out/stages/first", "critiquer": "out/stages/pair/critiquer"}
    actor, critiquer = plan.stages["last"].by_role.values()
    assert (actor.reference.every, critiquer.reference.every) == (2, None)
    assert load(plan.dump(), name="dumped.yaml") == plan
    # a run folder that was moved holds the same products
    assert continued(plan.dump(), load(APART, "run_dir=elsewhere"), [])[1] == []


BESIDE = """
run_dir: out
model: some/model
data: {train: {path: rows.jsonl}}
rewards: {math_verifier: {}}
method: grpo
roles:
  actor: {model: {role: base, lora: {rank: 4}}}
  critiquer: {model: {role: base, lora: {rank: 2}}, trained: false}
  base: {trained: false}
stages: {one: {}, two: {}}
"""


def test_an_adapter_beside_another_is_not_begun_anew_in_silence(load):
    with pytest.raises(RecipeError) as caught:
        load(BESIDE)
    assert caught.value.faults == [
        "stage two: roles.actor.model.role: base, so actor would begin with a new adapter, and lose the one that stage "
        "'one' trains; go on from its model: {role: null, path: 'out/stages/one/actor', lora: {rank: 4}}"
    ]
    told = "{role: null, path: 'out/stages/one/actor', lora: {rank: 4}}"
    plan = load(BESIDE.replace("two: {}", f"two: {{roles: {{actor: {{model: {told}}}}}}}"))
    assert paths(plan, "two") == {name: f"out/stages/one/{name}" for name in ("actor", "base")} | {"critiquer": None}


def test_settings_of_a_roles_model_leave_its_start_alone(load):
    view = load(STAGES.replace("two: {}", "two: {roles: {critiquer: {model: {lora: {rank: 4}}}}}")).stages["two"]
    assert view.by_role["critiquer"].model.lora.rank == 4
    assert view.by_role["critiquer"].model.path == "out/stages/one/critiquer"


@pytest.mark.parametrize(
    ("key", "path", "hint"),
    [
        ("roles.actor.model.path", "frist", "did you mean 'out/stages/first'?"),
        ("roles.critiquer.model.path", "pair", "of its roles it has out/stages/pair/actor, out/stages/pair/critiquer"),
        ("roles.critiquer.model.path", "pair/actr", "did you mean 'out/stages/pair/actor'?"),
        ("roles.actor.reference.model", "last", "they leave first, second, pair/actor, pair/critiquer"),
    ],
)
def test_a_product_that_no_earlier_stage_leaves(faults, key, path, hint):
    assert faults(APART, f"stages.last.{key}=out/stages/{path}") == [
        f"stage last: {key}: no stage before 'last' leaves the model 'out/stages/{path}'; {hint}"
    ]


def test_what_a_checkpoint_depends_on_is_fixed_for_every_role(load):
    recorded = load().dump()
    for override, key in (
        ("roles.critiquer.model={path: x}", "roles.critiquer.model.path"),
        ("roles.critiquer.trained=false", "roles.critiquer.trained"),
        ("training.dtype=bf16", "roles.actor.training.dtype"),
    ):
        with pytest.raises(RecipeError) as refused:
            continued(recorded, load(TWO, override), [])
        assert any(fault.startswith(f"{key}: ") for fault in refused.value.faults)
    _, changed = continued(recorded, load(TWO, "roles.critiquer.training.learning_rate=0.5"), [])
    assert changed == ["stages.train.roles.critiquer.training.learning_rate: changed from 2e-05 to 0.5"]


# the check, with the example of docs/recipes.md


BUILD: dict[str, Any] = {
    "characters": "".join(chr(c) for c in range(32, 127)),
    "config": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    | {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 128},
}


@pytest.fixture(scope="module", autouse=True)
def workers():
    with shared_workers():
        yield


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The recipe of the guide's section on roles, with its environment, its rows, and a model that is made."""
    section = (Path(__file__).parent.parent / "docs" / "recipes.md").read_text().partition("## Roles\n")[2]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("review.yaml").write_text(re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)[0])
    Path("review.py").write_text(re.findall(r"```python\n(.*?)```", section, re.DOTALL)[0])
    rows = [{"question": f"{a}+{b}", "answer": str(a + b)} for a in range(4) for b in range(4)]
    Path("sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lambda *overrides: checked(
        load_plan("review.yaml", [f"model={json.dumps({'build': BUILD})}", *overrides]), width=400
    )


def test_the_check_tells_of_every_role(example):
    faults, report = example()
    assert faults == []
    lines = [line.split(maxsplit=1) for line in report.splitlines()]
    assert [rest for label, rest in filter(lambda pair: len(pair) == 2, lines) if label == "role"] == [
        "actor, trained",
        "critiquer, trained",
    ]
    actor, _, critiquer = report.partition("  role         critiquer")
    assert "math_verifier, weight 1: accepts their own answers" in actor and "math_verifier" not in critiquer
    assert "policy_loss: ppo_clip" in actor and "advantage: reinforce(" in critiquer
    assert actor.count("first prompt") == 1 and "first prompt" not in critiquer
    for role in ("actor", "critiquer"):
        assert all(f"{role} {item}" in critiquer for item in ("weights", "gradients", "Adam", "sampler"))


def test_the_check_says_what_is_frozen_and_what_is_shared(example):
    faults, report = example("roles.critiquer.trained=false")
    assert faults == [] and "critiquer, frozen" in report and "critiquer Adam" not in report
    same = ("roles.critiquer.training.learning_rate=1.0e-6", "roles.critiquer.model={role: actor}")
    faults, report = example(*same)
    assert faults == [] and "critiquer, trained; with the weights of actor" in report
    assert "critiquer weights" not in report


def test_faults_of_the_check_begin_with_their_role(example):
    faults, _ = example("roles.critiquer.keep=mixed_outcome", "roles.actor.rewards.math_verifier={extract: tags}")
    assert len(faults) == 2
    assert faults[0].startswith("roles.actor.rewards.math_verifier.extract: 'tags' is not valid: ")
    assert faults[1].startswith("roles.critiquer.keep: no keep function named 'mixed_outcome'; ")
    Path("sums.jsonl").write_text('{"question": "2+2", "answer": "four"}\n')
    faults, _ = example("roles.actor.rewards.math_verifier={extract: last_number}")
    assert any(fault.startswith("roles.actor.rewards.math_verifier: does not accept") for fault in faults)


def test_a_trained_role_cannot_share_the_weights_of_a_frozen_one(faults):
    text = TWO.replace("actor: {", "actor: {trained: false, ", 1).replace(
        "    training: {learning_rate: 2.0e-5}\n", "    model: {role: actor}\n"
    )
    assert faults(text) == [
        "roles.critiquer.trained: true, but it shares the weights of actor, which is frozen (trained: false); "
        "train actor, or give critiquer an adapter (model.lora)"
    ]
