"""The recipes that come with llmrl: each loads, and `llmrl check` passes it, with other data and models where these are
on the hub.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from checking import checked, shared_workers
from reasoning_gym import create_dataset

from llmrl.check import verifier
from llmrl.recipe_file import load_plan
from llmrl.run_folder.reader import RunReader

RECIPES = Path(__file__).parent.parent / "recipes"
REWARD_MODELS = RECIPES.parent / "reward_models"
NAMES = sorted(str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*.yaml"))
SELF_PLAY = ("pasodoble", "spc", "debate", "draft_rl")  # sqlm and eva have nothing that these lack
FEWER = ["data.train.size=600"]  # all rows of a task are made by one rule, and to make them takes a while
MEASURED = [
    f"measured_{arm}" for arm in ("start", "imitation", "one_stage", "judging", "two_stage", "echo", "co_training")
]
OFFLINE = {
    "critique/study.yaml": [
        *(f"stages.{stage}.data.train.size=200" for stage in ("base", "critiquer", "echo", "co_training")),
        *(f"stages.{stage}.data.eval.size=50" for stage in ("echo", "co_training")),
        *(
            f"stages.{stage}.{key}=50"
            for stage in ("drafts", "held_out_drafts", *MEASURED)
            for key in ("data.train.size", "rollout.prompts_per_step")
        ),
    ],
    "critique/smollm2_pair.yaml": [],
    "critique/genac.yaml": ["stages.imitation.data.train.size=600"],
    "critique/programs_ctrl.yaml": [
        "stages.start.data.train.size=600",
        "stages.told.data.train.size=300",
        "stages.rl.data.train.size=300",
    ],
    "critique/stepwise_think_critique.yaml": ["stages.imitation.data.train.size=600"],
    "critique/span_critique.yaml": ["stages.imitation.data.train.size=600"],
    "critique/cft.yaml": ["stages.cft.data.train.size=600"],
    "critique/critique_in_the_loop.yaml": [
        f"stages.{stage}.data.train.size=600" for stage in ("critiquer", "base", "samples_1", "samples_2")
    ],
    "guided/q_sharp.yaml": [f"stages.{stage}.data.train.size=300" for stage in ("warm_start", "samples", "guided")],
    "multi_turn/agent.yaml": [f"model.chat_template={RECIPES}/multi_turn/plain.jinja"],
    "multi_turn/calculator.yaml": ["data.train.size=600"],
    "multi_turn/frozen_lake.yaml": [],
    **{
        f"multi_turn/{name}.yaml": [
            "stages.warm_start.data.train.size=600",
            f"model.chat_template={RECIPES}/multi_turn/plain.jinja",
        ]
        for name in ("guess_number", "nim_one_role")
    },
    "preference/balanced_actor.yaml": FEWER,
    "preference/directional.yaml": FEWER,
    "preference/inverse_alignment.yaml": FEWER,
    "preference/poisoning_audit.yaml": FEWER,
    "preference/preference_vectors.yaml": FEWER,
    "preference/generative_reward_model.yaml": FEWER,
    "preference/critic.yaml": FEWER,
    "preference/evolved_prompts.yaml": ["stages.demonstrations.data.train.size=600"],
    "preference/prompted_pairs.yaml": ["stages.demonstrations.data.train.size=600"],
    "preference/self_rewarding.yaml": ["stages.seed.data.train.size=600"],
    "preference/hindsight.yaml": ["stages.demonstrations.data.train.size=600"],
    "preference/pairwise_judge.yaml": FEWER,
    "preference/persuasion.yaml": ["stages.stubborn.data.train.size=600"],
    "preference/self_judge.yaml": FEWER,
    "preference/rlhf.yaml": [f"stages.{stage}.data.train.size=600" for stage in ("sft", "samples")],
    "preference/smollm2_dpo.yaml": [],
    "quickstart.yaml": FEWER,
    "quickstart_dpo.yaml": FEWER,
    "rlvr_code/reasoning_gym_bf_grpo.yaml": [f"stages.{stage}.data.train.size=600" for stage in ("warm_start", "rl")],
    "rlvr_code/tiny_programs_coderl.yaml": FEWER,
    "rlvr_code/tiny_programs_grpo.yaml": FEWER,
    "rlvr_math/smollm2_arithmetic_grpo.yaml": [],
    "roles/exchange.yaml": [],
    **{f"self_play/{name}.yaml": ["stages.warm_start.data.train.size=600"] for name in SELF_PLAY},
}
CHAT = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 2048}
BUILD = {"characters": "".join(chr(c) for c in range(32, 127)) + "\n", "config": SIZES | HEADS}
GSM8K = [
    {"question": "Ann has 3 bags of 4 figs. How many figs?", "answer": "3*4 = <<3*4=12>>12 figs.\n#### 12"},
    {"question": "A van costs $1,200, half off. What is paid?", "answer": "1200/2 = 600.\n#### 600"},
    {"question": "He sells 1,500 eggs twice. How many?", "answer": "1,500*2 = 3,000\n#### 3,000"},
]
ULTRAFEEDBACK = {
    "source": "sharegpt",
    "prompt": "1+1?",
    "chosen": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}],
    "chosen-rating": 5.0,
    "rejected": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "3"}],
    "rejected-rating": 1.0,
}
CATS = {"question": "How many legs have 2 cats?", "answer": "#### 8"}
MBPP = [
    {
        "text": f"Write a function to add {number} to a number.",
        "code": f"def add(x):\n    return x + {number}",
        "test_list": [f"assert add({number}) == {2 * number}", f"assert add(0) == {number}"],
        "test_setup_code": "",
    }
    for number in range(1, 80)
]


@pytest.fixture(scope="module", autouse=True)
def workers():
    with shared_workers():
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The working directory, where no runs are; programs are graded for a few seconds only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verifier, "SECONDS", 2.0)


def elsewhere(train: list[dict], held_out: list[dict], *, chat: bool) -> list[str]:
    """Overrides that put a small model and files in the working directory where a recipe has the hub's."""
    Path("chat.jinja").write_text(CHAT)
    overrides = [f"model={json.dumps({'build': BUILD, 'chat_template': 'chat.jinja' if chat else None})}"]
    for part, rows in (("train", train), ("eval", held_out)):
        Path(f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        overrides += [f"data.{part}.{key}=null" for key in ("dataset", "subset", "split")]
        overrides.append(f"data.{part}.path={part}.jsonl")
        if not chat:
            overrides += [f"data.{part}.chat=false", f"data.{part}.system_prompt=null"]
    return overrides


@pytest.mark.parametrize("name", NAMES)
def test_each_loads_and_says_what_it_is(name):
    assert all(stage.summary for stage in load_plan(RECIPES / name).stages.values())


@pytest.mark.parametrize("name", OFFLINE)
def test_those_that_need_no_download_pass(name):
    faults, report = checked(load_plan(RECIPES / name, OFFLINE[name]), width=400)
    assert faults == []
    assert "no faults, 0 warnings" in report


@pytest.mark.parametrize(("name", "chat"), [("gsm8k_grpo", True), ("gsm8k_grpo", False), ("gsm8k_ppo", True)])
def test_the_gsm8k_recipes_pass_with_another_model_and_file(name, chat, monkeypatch):
    monkeypatch.setattr(verifier, "SECONDS", 600.0)  # all rows are graded, also where workers start slowly
    overrides = elsewhere(GSM8K * 30, [CATS], chat=chat)
    faults, report = checked(load_plan(RECIPES / "rlvr_math" / f"{name}.yaml", overrides), width=400)
    assert faults == []
    assert "math_verifier, weight 1: accepts their own answers, refuses garbage (91 rows)" in report
    assert ("[user]Ann has 3 bags" in report) == chat


def test_the_mbpp_recipe_passes_with_another_model_and_file():
    overrides = elsewhere(MBPP[5:], MBPP[:5], chat=True)
    faults, report = checked(load_plan(RECIPES / "rlvr_code" / "mbpp_grpo.yaml", overrides), width=400)
    assert faults == []
    assert "code_verifier, weight 1: accepts their own answers, refuses garbage (" in report
    # the first assert, and no other, is shown to the model
    assert "tests such as:" in report
    assert "assert add(0)" not in report


def test_the_critiquer_of_gsm8k_passes_with_another_model_and_file():
    overrides = elsewhere(GSM8K * 30, [CATS], chat=True)
    faults, report = checked(load_plan(RECIPES / "critique" / "gsm8k_two_stage.yaml", overrides), width=400)
    assert faults == []
    assert "refinement (actor) x 16 after critique" in report
    assert "stages/discrimination/critiquer (that stage's output)" in report


def test_the_critiquer_of_programs_passes_on_another_model_and_file():
    model, *overrides = elsewhere(MBPP[5:], MBPP[:5], chat=True)
    parts = json.loads(model.partition("=")[2])  # the critiquer has a model of its own: an adapter on this one
    overrides += ["model.path=null", *(f"model.{key}={json.dumps(value)}" for key, value in parts.items())]
    faults, report = checked(load_plan(RECIPES / "rlvr_code" / "mbpp_ctrl.yaml", overrides), width=400)
    assert faults == []
    assert "revision (actor) x 8 after critique" in report
    assert "critiquer, trained; an adapter on the weights of actor" in report


class TestRewardModels:
    """The training recipes in reward_models/, and the card of what they train."""

    def test_the_tiny_one_passes(self):
        faults, report = checked(load_plan(REWARD_MODELS / "sums.yaml", FEWER), width=400)
        assert faults == [] and "no faults, 0 warnings" in report

    def test_the_one_of_a_hub_s_pairs_passes_with_another_model_and_file(self):
        other = {**ULTRAFEEDBACK, "prompt": "2?", "source": "flan"}
        other |= {side: [{"role": "user", "content": "2?"}, other[side][1]] for side in ("chosen", "rejected")}
        overrides = elsewhere([ULTRAFEEDBACK] * 64, [other], chat=True)
        overrides += ["rollout.max_prompt_tokens=512", "rollout.max_completion_tokens=512"]
        faults, report = checked(load_plan(REWARD_MODELS / "ultrafeedback.yaml", overrides), width=400)
        assert faults == []
        assert "form: TRL conversational, explicit prompt" in report
        assert "'[user]1+1?<eos>[assistant]'" in report and "'2<eos>' (2 tokens, reward 1)" in report  # asked once

    def test_a_card_has_a_line_for_each_source(self, tmp_path, monkeypatch):
        monkeypatch.syspath_prepend(str(RECIPES.parent / "scripts"))
        from reward_model_card import card  # pyright: ignore[reportMissingImports]

        plan = load_plan(REWARD_MODELS / "sums.yaml", [f"run_dir={tmp_path}"])
        (tmp_path / "recipe.yaml").write_text(plan.dump())
        start = {
            "started": "2026-01-01 00:00:00",
            "command": ["llmrl", "train", "sums.yaml"],
            "packages": {"torch": "2"},
        }
        (tmp_path / "environment.json").write_text(json.dumps({"starts": [start]}))
        all_pairs = {"eval/pairs": 8.0, "eval/preference_accuracy": 0.75, "eval/brier_score": 0.2}
        near = {"eval/near/pairs": 4.0, "eval/near/preference_accuracy": 0.5}
        rows = [
            {"stage": "train", "step": 100, "eval/pairs": 9.0},
            {"stage": "train", "step": 400, **all_pairs, **near},
        ]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = card(RunReader(tmp_path))
        assert text.startswith("# sums\n") and "`llmrl train sums.yaml` on 2026-01-01" in text
        assert "| loss | bradley_terry (margin 0, centring 0.01, label_smoothing 0) |" in text
        assert "| budget | 400 steps of 64 prompts, learning rate 0.003, fp32, seed 0 |" in text
        assert "| all | 8 | 0.750 | - | - | 0.200 | - |\n| near | 4 | 0.500 | - | - | - | - |" in text


class TestBf:
    """What reasoning_gym_bf_grpo.yaml is warm-started with."""

    @pytest.fixture
    def demonstrations(self, monkeypatch):
        monkeypatch.syspath_prepend(str(RECIPES / "rlvr_code"))
        import bf_demonstrations  # pyright: ignore[reportMissingImports]

        return bf_demonstrations

    def test_a_word_is_worked_out(self, demonstrations, monkeypatch):
        monkeypatch.setattr(demonstrations, "GUESSED", 0.0)
        #           8 * 14 = 112, p         105, i   116, t          116 - 4 * 4 - 1 = 99, c    104, h
        program = ">[-]>[-]<>++++++++[<++++++++++++++>-]<.-------.+++++++++++.>++++[<---->-]<-.+++++.<"
        row = {"answer": "pitch", "metadata": {"bf_program": program, "source_index": 0}}
        assert demonstrations.completion(row) == "+8*14p-7i+11t-4*4-1c+5h\npitch"

    def test_a_word_is_guessed_from_its_first_letter(self, demonstrations, monkeypatch):
        monkeypatch.setattr(demonstrations, "GUESSED", 1.0)
        words = create_dataset("bf", size=50, seed=0)
        guesses = [demonstrations.completion(words[index]) for index in range(50)]
        assert [guess[0] for guess in guesses] == [words[index]["answer"][0] for index in range(50)]
        assert sum(guess == words[index]["answer"] for index, guess in enumerate(guesses)) < 5

    def test_the_stages_share_no_program(self, demonstrations):
        parts = {(0.0, 0.6): 1200, (0.6, 1.0): 800}
        words = [{row["answer"] for row in demonstrations.programs(n, 1, low=a, high=b)} for (a, b), n in parts.items()]
        assert [len(part) > 500 for part in words] == [True, True]
        assert words[0].isdisjoint(words[1])

    def test_the_working_of_every_program_ends_at_its_letters(self, demonstrations, monkeypatch):
        monkeypatch.setattr(demonstrations, "GUESSED", 0.0)
        for entry in create_dataset("bf", size=200, seed=0):
            working, word = demonstrations.completion(entry).split("\n")
            cell = 0
            for sum_, letter in re.findall(r"([-+*0-9]*)([a-z])", working):
                cell += eval(sum_ or "0")
                assert chr(cell) == letter
            assert word == entry["answer"] == "".join(re.findall("[a-z]", working))
