"""What a stage's pieces ask of models, data and machine, known before a weight loads."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from checking import checked, shared_workers
from rich.console import Console
from transformers import AutoModelForCausalLM

from llmrl.check import hub
from llmrl.check.data import check_providers
from llmrl.check.model import check_model, with_critic
from llmrl.check.pieces import check_pieces
from llmrl.check.report import Report
from llmrl.data.prompts import LoadedPrompts
from llmrl.errors import RecipeError
from llmrl.models.critic import Critic, ValueHead
from llmrl.models.loading import load_language_model
from llmrl.models.origins import materialize
from llmrl.recipe import Model, Recipe
from llmrl.recipe_file import load_plan
from llmrl.recipe_layers import merge
from llmrl.resolve import resolve_pieces
from llmrl.types import Prompt

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64}
BUILD = {"characters": "0123456789+=", "config": SIZES | HEADS}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SOUND: dict[str, Any] = {
    "name": "r",
    "run_dir": "runs/r",
    "model": {"build": BUILD},
    "data": {"train": {"path": "sums.jsonl", "prompt": "{question}="}},
    "rewards": {"math_verifier": {}},
    "policy_loss": "ppo_clip",
    "advantage": "gae",
    "rollout": {"engine": "transformers", "prompts_per_step": 4, "group_size": 4}
    | {"max_prompt_tokens": 16, "max_completion_tokens": 16},
    "training": {"steps": 10},
}
ROWS = [{"question": f"{a}+{b}", "answer": str(a + b)} for a in range(2) for b in range(2)]


@pytest.fixture(scope="module", autouse=True)
def workers(tmp_path_factory):
    """The processes that grade, which can import own_verdicts."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_verdicts.py").write_text(
        "from llmrl.marks import gives_grades\nfrom llmrl.types import Score\n\n"
        "@gives_grades(3)\ndef graded(completion, answer):\n"
        "    return Score(1.0, completion == answer, grade=2 * (completion == answer))\n"
    )
    with shared_workers(folder):
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with sums.jsonl and own_allocations.py in it."""
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "own_allocations.py").write_text(
        "def none(samples):\n    return samples * 0\n\n"
        "def misspelt(sample):\n    return sample\n\n"
        "def all_to_the_first(successes, budget):\n    return successes.new_tensor([budget, 0])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def recipe_of(**changes: Any) -> Recipe:
    return Recipe.model_validate(merge(SOUND, changes))


def silent() -> Report:
    return Report(Console(file=io.StringIO(), width=400))


def printed(report: Report) -> str:
    assert isinstance(report.console.file, io.StringIO)
    return report.console.file.getvalue()


def model_faults(recipe: Recipe, folder: Path) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        found = check_model(recipe, folder / "outline", None, silent(), resolve_pieces(recipe))
        with_critic(found, recipe, None, silent())
    return caught.value.faults


# pieces


def pieces_report(**changes: Any) -> Report:
    recipe, report = recipe_of(**changes), silent()
    check_pieces(recipe, resolve_pieces(recipe), report)
    return report


def test_all_kinds_of_pieces_are_told_with_their_settings():
    report = pieces_report(
        allocate="xrpo",
        reward_shaping={"scaled": {}},
        advantage_shaping={"whiten": {}},
        token_weights={"truncated_is": {"cap": 3}},
        regularizers={"kl_k3": {"weight": 0.1, "tokens": {"low_entropy": {"quantile": 0.5}}}},
    )
    assert report.faults == [] and report.warnings == []
    text = printed(report)
    for line in (
        "log_ratio: token",
        "value: mean  value_loss: squared(clip=None)",
        "env: single_turn  allocate: xrpo(confidence=0.05, exploration=0.1)  keep: everything",
        "0.1 x kl_k3 on low_entropy(quantile=0.5)",
        "reward_shaping scaled",
        "advantage_shaping whiten",
        "token_weights truncated_is(cap=3.0)",
        "controllers  hypervolume(objectives=('eval/accuracy',), reference=None)",
    ):
        assert line in text
    # without a critic, allocation and controllers nothing is said of them
    plain = printed(pieces_report(advantage="grpo"))
    assert not any(word in plain for word in ("value", "allocate", "controllers", "token_weights"))


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        ("gvm", []),
        ({"xrpo": {"exploration": 0.0}}, []),
        ("own_allocations:all_to_the_first", []),
        (
            "own_allocations:none",
            [
                "allocate.own_allocations:none: gave [0.0, 0.0] for 2 prompts and a budget of 8, expected 2 whole "
                "numbers whose sum is the budget"
            ],
        ),
        (
            "own_allocations:misspelt",
            [
                "allocate.own_allocations:misspelt: no data field, for its positional parameter, named 'sample'; "
                "did you mean 'samples'?"
            ],
        ),
    ],
)
def test_an_allocation_is_tried(spec, faults):
    assert faults_of(allocate=spec) == faults


def faults_of(**changes) -> list[str]:
    try:
        return pieces_report(**changes).faults
    except RecipeError as error:  # before the check, as in training
        return error.faults


def test_settings_out_of_range_of_allocations_and_controllers():
    found = faults_of(allocate={"xrpo": {"confidence": 2.0}})
    assert len(found) == 1 and found[0].startswith("allocate.xrpo: confidence: 2.0 is not valid")
    wrong = {"controllers": {"adaptive_kl": {"horizon": 0}}}
    used = {"advantage": "reinforce", "token_rewards": {"adaptive_kl_k1": {"weight": 0.1}}}
    found = faults_of(**wrong, **used)
    assert len(found) == 1 and found[0].startswith("controllers.adaptive_kl: horizon: 0.0 is not valid")
    # one that no piece brings never runs
    assert faults_of(**wrong) == []


def test_an_allocation_without_anything_left_is_a_warning():
    found = pieces_report(allocate="gvm", rollout={"first_samples": 4}).warnings
    assert found == ["rollout.first_samples 4 is the whole group: nothing is left for gvm"]
    assert pieces_report(allocate="gvm", rollout={"first_samples": 3}).warnings == []


# models


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_critics_size_is_that_of_a_real_one(lora, outputs, folder):
    recipe = recipe_of(model={"lora": lora}, critic={"outputs": outputs})
    found = check_model(recipe, folder / "outline", None, silent())
    shape = with_critic(found, recipe, None, silent()).shape.critic
    assert shape is not None
    lm = load_language_model(materialize(recipe.model, folder / "model", 0), "fp32", recipe.model.lora)
    critic = Critic(lm, ValueHead(32, outputs, seed=0))
    assert shape.trained == sum(p.numel() for p in critic.parameters() if p.requires_grad)
    adapters = sum(p.numel() for n, p in critic.named_parameters() if "lora" in n)
    assert shape.parameters == sum(p.numel() for p in critic.parameters()) - adapters


@pytest.fixture
def value_model(folder) -> dict[str, Any]:
    """A folder with a model of the same vocabulary and three layers; returns its Build."""
    build = BUILD | {"config": SIZES | HEADS | {"num_hidden_layers": 3}}
    materialize(Model.model_validate({"build": build}), folder / "value_model", 0)
    return build


def test_a_critic_from_a_model_of_its_own(folder, value_model):
    recipe, report = recipe_of(critic={"model": "value_model"}), silent()
    found = with_critic(check_model(recipe, folder / "outline", None, report), recipe, None, report)
    assert found.shape.layers == 2 and found.shape.critic and found.shape.critic.layers == 3
    assert "model.safetensors: whole" in printed(report)
    assert "critic       value_model: qwen3, " in printed(report)
    size = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained("value_model").base_model.parameters())
    assert found.shape.critic.parameters == size + 33


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("./valu_model", "critic.model: no folder './valu_model'; did you mean 'value_model'?"),
        ("empty", "critic.model: folder 'empty' has no config.json"),
    ],
)
def test_a_critic_that_is_not_there(model, fault, folder, value_model):
    (folder / "empty").mkdir()
    assert model_faults(recipe_of(critic={"model": model}), folder) == [fault]


def test_a_critic_whose_weights_are_not_whole(folder, value_model):
    (folder / "value_model" / "model.safetensors").unlink()
    found = model_faults(recipe_of(critic={"model": "value_model"}), folder)
    assert found[0].startswith("critic.model: folder 'value_model' has no weights")


def test_a_critic_reads_what_the_policy_writes(folder):
    few = Model.model_validate({"build": BUILD | {"characters": "012"}})
    short = Model.model_validate({"build": BUILD | {"config": SIZES | HEADS | {"max_position_embeddings": 16}}})
    materialize(few, folder / "few", 0)
    materialize(short, folder / "short", 0)
    # <pad>, <eos>, <unk> and the characters
    assert model_faults(recipe_of(critic={"model": "few"}), folder) == [
        "critic.model: its vocabulary of 6 lacks some of the policy's 15 tokens"
    ]
    assert model_faults(recipe_of(critic={"model": "short"}), folder) == [
        "rollout: max_prompt_tokens 16 + max_completion_tokens 16 = 32, more than the critic's 16 positions"
    ]


def test_router_drift_needs_a_mixture_of_experts(folder):
    routed = {"advantage": "grpo", "log_ratio": "router_aware"}
    assert model_faults(recipe_of(**routed), folder) == [
        "log_ratio: router_aware reads router_drift, which needs a mixture-of-experts model, 'qwen3' has no routers "
        "that can be read"
    ]
    sizes = {name: size for name, size in (SIZES | HEADS | EXPERTS).items() if name != "head_dim"}
    build = BUILD | {"architecture": "qwen3_moe", "config": sizes}
    mixture = Recipe.model_validate(merge(SOUND, routed) | {"model": {"build": build}})
    check_model(mixture, folder / "outline", None, silent(), resolve_pieces(mixture))
    # a log ratio that nobody reads asks for nothing
    unread = recipe_of(**routed | {"policy_loss": "reinforce"})
    check_model(unread, folder / "outline", None, silent(), resolve_pieces(unread))


def test_a_critics_hub_name_asks_for_the_hub(monkeypatch):
    def needs_hub(**critic: Any) -> bool:
        stages = {"warm": {}, "train": {"critic": critic}}
        Path("recipe.yaml").write_text(json.dumps(merge(SOUND, {"stages": stages})))
        return hub._needs_hub(load_plan("recipe.yaml"))

    assert not needs_hub()
    assert needs_hub(model="some/value_model")
    assert not needs_hub(model="runs/r/stages/warm")


# data

READS_ANSWERS = {"advantage_shaping": {"rectify": {}}}


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("{answer}", None),
        ("so \\boxed{{{answer}}}", None),
        ("no column", None),
        ("{anser}", "no column 'anser'; did you mean 'answer'? (columns: question, answer, grade)"),
        ("{note}", "no column 'note' (columns: question, answer, grade)"),
        ("{grade}", "column 'grade' is empty in 1 rows, the first is train:1"),
    ],
)
def test_the_gold_answer_can_be_written_for_every_row(answer, fault):
    rows = [
        {"question": "1+1", "answer": "2", "grade": "easy", "note": "odd"},
        {"question": "1+2", "answer": "3", "grade": None},
    ]
    prompts = LoadedPrompts([Prompt(f"train:{i}", (3,), "", row) for i, row in enumerate(rows)])
    pieces = resolve_pieces(recipe_of(**READS_ANSWERS, providers={"answer_logprobs": {"answer": answer}}))
    if fault is None:
        check_providers(prompts, pieces)
        return
    with pytest.raises(RecipeError) as caught:
        check_providers(prompts, pieces)
    assert caught.value.faults == [f"providers.answer_logprobs.answer: {fault}"]


def test_a_gold_answer_that_is_no_template_is_refused_before_the_data_is_read():
    wrong = recipe_of(**READS_ANSWERS, providers={"answer_logprobs": {"answer": "\\boxed{answer"}})
    with pytest.raises(RecipeError) as caught:
        resolve_pieces(wrong)
    assert caught.value.faults == [
        "providers.answer_logprobs.answer: '\\\\boxed{answer' is not valid: single '{' at character 6 of "
        "'\\\\boxed{answer'; double it to mean a brace"
    ]


def test_columns_of_a_provider_that_nobody_reads_do_not_matter():
    prompts = LoadedPrompts([Prompt("train:0", (3,), "", {"question": "1+1"})])
    check_providers(prompts, resolve_pieces(recipe_of(providers={"answer_logprobs": {"answer": "{none}"}})))


# the whole plan


def check(recipe: dict[str, Any]) -> tuple[list[str], str]:
    """The faults and what was printed."""
    Path("recipe.yaml").write_text(json.dumps(merge(SOUND, recipe)))
    return checked(load_plan("recipe.yaml"))


def test_a_critic_counts_in_memory_and_on_disk():
    faults, report = check({})
    assert faults == []
    for item in ("critic weights", "critic gradients", "critic Adam"):
        assert item in report
    disk = next(line for line in report.splitlines() if "checkpoint x" in line)
    faults, shared = check({"critic": {"backbone": "shared"}})
    assert faults == [] and "critic" not in shared
    assert disk not in shared


def test_faults_of_the_critic_and_the_gold_answer_are_told_with_all_others():
    changes = {"critic": {"model": "./none"}, "providers": {"answer_logprobs": {"answer": "{gold}"}}} | READS_ANSWERS
    faults, report = check(changes)
    assert [fault.partition(":")[0] for fault in faults] == ["critic.model", "providers.answer_logprobs.answer"]
    # the rest was looked at all the same
    assert "accepts their own answers" in report and "memory" in report


def test_grades_are_given_one_for_each_output():
    grades = {"advantage": "remax", "advantage_shaping": {"outcome_likelihood": {}}, "critic": {"outputs": 3}}
    grades |= {"value_loss": "grade_cross_entropy", "rewards": {"math_verifier": None, "own_verdicts:graded": {}}}
    faults, report = check(grades)
    assert faults == []
    assert "value_loss: grade_cross_entropy" in report and "value: mean" not in report
    assert check(grades | {"critic": {"outputs": 4}})[0] == [
        "critic.outputs: 4, but rewards.own_verdicts:graded gives 3 grades; give one output for each"
    ]
    [fault] = check(grades | {"rewards": {"math_verifier": {}}})[0]
    assert fault.startswith("rewards: a piece reads grades, but none of math_verifier gives any; use a ")
    assert fault.endswith("or mark your own with llmrl.marks.gives_grades")


def test_a_critic_may_be_what_an_earlier_stage_made():
    stages = {
        "warm": {"policy_loss": "nll", "advantage": None, "learn_from": "demonstrations"},
        "rl": {"critic": {"model": "runs/r/stages/warm"}},
    }
    demonstrations = {"data": {"train": {"completion": "answer"}}}
    faults, report = check({"stages": stages} | demonstrations)
    assert faults == []
    assert "critic       runs/r/stages/warm: qwen3, " in report
    wrong = {"warm": {"model": {"build": {"architecture": "qwen33"}}}, "rl": {"model": {"build": BUILD}}}
    faults, report = check({"stages": merge(stages, wrong)} | demonstrations)
    assert faults == [
        "stage warm: model.build.architecture: no causal language model named 'qwen33'; did you mean 'qwen3'?"
    ]
    assert "critic       NOT CHECKED: it is the output of stage warm, which has faults of its own" in report
