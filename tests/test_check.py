"""The check of a plan, on models of a few thousand parameters: what it prints, what it refuses, what it only warns of.

The sound recipe asks 20 sums such as "1+3=" of a character model; grading goes through real worker processes.
"""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from checking import checked, shared_workers
from rich.console import Console
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from llmrl.check import machine
from llmrl.check.writing import GARBAGE
from llmrl.errors import RecipeError
from llmrl.models.origins import materialize
from llmrl.recipe_file import Plan, load_plan
from llmrl.recipe_layers import merge
from llmrl.resolve import resolve_pieces
from llmrl.run.run import run_plan

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
BUILD = {"characters": "0123456789+=<>qz ", "config": SIZES | HEADS}
LIMITS = {"max_prompt_tokens": 32, "max_completion_tokens": 16}
ROWS = [{"question": f"{a}+{b}", "answer": str(a + b)} for a in range(4) for b in range(5)]
OWN_REWARDS = """
import time
from llmrl.types import Score

def yes(completion):
    return Score(1.0, True)

def shape(completion):
    return float(len(completion))

def crash(completion):
    raise RuntimeError("no such luck")

def unsteady(size, seed):
    return [{"question": str(time.perf_counter_ns()), "answer": "1"} for _ in range(size)]

def few(size, seed):
    return [{"question": str(n % 3), "answer": "1"} for n in range(size)]

def slow(completion):
    time.sleep(60)

def odd(completion, answer):
    return Score(1.0, completion == answer and int(answer) != 0)
"""


@pytest.fixture(scope="module", autouse=True)
def workers(tmp_path_factory):
    """The processes that grade, which can import own_rewards."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_rewards.py").write_text(OWN_REWARDS)
    with shared_workers(folder):
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The working directory, with sums.jsonl in it."""
    write_rows(tmp_path / "sums.jsonl", ROWS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_rows(file: Path | str, rows: list[dict[str, Any]]) -> None:
    Path(file).write_text("".join(json.dumps(row) + "\n" for row in rows))


def plan_of(changes: dict[str, Any] | None = None) -> Plan:
    sound = {
        "model": {"build": BUILD},
        "data": {"train": {"path": "sums.jsonl", "prompt": "{question}="}},
        "method": "grpo",
        "rewards": {"math_verifier": {}},
        "rollout": {"engine": "transformers", "prompts_per_step": 8, "group_size": 4} | LIMITS,
        "training": {"steps": 10, "updates_per_step": 2, "learning_rate": 0.001},
    }
    Path("recipe.yaml").write_text(json.dumps(merge(sound, changes or {})))
    return load_plan("recipe.yaml")


def check(changes: dict[str, Any] | None = None, *, ranks: int = 1) -> tuple[list[str], str]:
    """The faults and what was printed."""
    return checked(plan_of(changes), ranks=ranks)


DEMONSTRATIONS = {"data": {"train": {"completion": "answer"}}, "method": "sft", "rewards": {"math_verifier": None}}


# what is printed


def test_a_sound_recipe_is_told_in_numbers(folder):
    faults, report = check()
    assert faults == []
    for line in (
        "8 prompts x 4 = 32 trajectories per step; 2 updates of 16; 10 steps = 20 optimizer steps",
        "80 prompts drawn of 20 in train = 4 epochs",
        "20 prompts of 4 to 4 tokens (at most 32)",
        "first prompt 4 tokens, train:0",
        "'0+0='",
        "answer       '0'",
        "a completion ends at <eos>",
        "math_verifier, weight 1: accepts their own answers, refuses garbage (20 rows)",
        "spelt otherwise (as '\\\\boxed{$0$}') 20",
        "advantage: grpo(normalize_std=True, std_floor=1e-06, batch_std=False, whiten=False)  log_ratio: token",
        "log_ratio: token  policy_loss: ppo_clip(",
        "0.001 x kl_k3",
        "no faults, 0 warnings",
    ):
        assert line in report
    # nothing is made before training starts
    assert sorted(f.name for f in folder.iterdir() if f.suffix) == ["recipe.yaml", "sums.jsonl"]
    assert not (folder / "runs").exists()


def test_demonstrations_are_shown_with_their_special_tokens():
    faults, report = check(DEMONSTRATIONS)
    assert faults == []
    assert "followed by  '0<eos>' (2 tokens)" in report
    assert "rewards      none, so nothing is graded" in report
    assert "8 prompts x 1 = 8 trajectories per step; 2 updates of 4" in report


def test_dropped_rows_are_counted():
    rows = [*ROWS, {"question": "1" * 40, "answer": "1"}]
    write_rows("sums.jsonl", rows)
    write_rows("held_out.jsonl", [ROWS[3]])
    faults, report = check({"data": {"eval": {"path": "held_out.jsonl", "prompt": "{question}="}}})
    assert faults == []
    assert "19 prompts of 4 to 4 tokens (at most 32)\n" in report
    told = (
        "warning: data.train: 2 rows dropped: 1 because the prompt is longer than rollout.max_prompt_tokens; 1 because "
    )
    assert f"{told}the question is in eval too; nothing is ever cut short" in report


def test_epochs_are_told_in_steps():
    training = {"steps": None, "epochs": 3, "updates_per_step": 1}
    faults, report = check(DEMONSTRATIONS | {"training": training})
    assert faults == []
    left = len(ROWS) % 8
    told = f"3 epochs of {len(ROWS)} prompts = {3 * -(-len(ROWS) // 8)} steps, {-(-len(ROWS) // 8)} an epoch"
    assert f"{told}, of which the last has {left} prompts" in report
    faults, _ = check(DEMONSTRATIONS | {"training": training | {"warmup_steps": 99}})
    assert faults[0].startswith("training.warmup_steps 99 must be less than training.steps")


def test_a_task_that_gives_other_rows_each_time_is_a_warning():
    _, report = check({"data": {"train": {"path": None, "task": "own_rewards:unsteady", "size": 20}}})
    assert "warning: data.train.task: own_rewards:unsteady gives other rows each time that it makes them" in report
    _, report = check({"data": {"train": {"path": None, "task": "chain_sum", "prompt": "{metadata.source_index}="}}})
    assert "each time" not in report


def test_an_answer_that_the_vocabulary_lacks_is_a_warning():
    write_rows("sums.jsonl", [{"question": "0+0", "answer": "0.0"}])
    _, report = check()
    assert "warning: data.train: the model's vocabulary cannot write 1 of 1 answers, such as '0.0'" in report
    assert "warning: rollout.prompts_per_step 8, but train has 1: a step repeats prompts" in report


# rewards


def test_a_verifier_that_rejects_the_gold_is_a_fault():
    # no form of "four" is a number
    rows = [{"question": "2+2", "answer": "four"}, {"question": "1+1", "answer": "two"}]
    write_rows("sums.jsonl", rows)
    faults, _ = check({"rewards": {"math_verifier": {"extract": "last_number"}}, "rollout": {"prompts_per_step": 2}})
    assert faults == [
        "rewards.math_verifier: does not accept the row's own gold answer 'four'; graded '\\\\boxed{four}', "
        "'The answer is four.', 'four', '<answer>four</answer>', '```\\nfour\\n```' "
        "(2 of 2 rows, the first are train:0, train:1)"
    ]


def test_a_verifier_that_rejects_some_rows_is_a_warning():
    # `odd` accepts every answer but 0, which is row 0's
    faults, report = check({"rewards": {"own_rewards:odd": {}, "math_verifier": None}})
    assert faults == []
    assert "rewards.own_rewards:odd: does not accept the row's own gold answer '0'" in report
    assert "(1 of 20 rows, the first is train:0)" in report


def test_a_verifier_that_accepts_everything_is_a_fault():
    faults, _ = check({"rewards": {"own_rewards:yes": {}}})
    assert faults == [
        f"rewards.own_rewards:yes: accepts {GARBAGE!r} as a right answer "
        "(20 of 20 rows, the first are train:0, train:1, train:2)"
    ]


def test_rewards_that_fail_are_told_by_kind():
    write_rows("sums.jsonl", ROWS[:1])
    rewards = {"own_rewards:crash": {}, "own_rewards:slow": {"deadline_seconds": 0.2, "retries": 0}}
    faults, report = check({"rewards": rewards | {"own_rewards:shape": {"weight": 0.5}}})
    assert faults == [
        "rewards.own_rewards:crash: failed (crash) on '\\\\boxed{0}': RuntimeError: no such luck "
        "(1 of 1 rows, the first is train:0)",
        "rewards.own_rewards:slow: failed (timeout) on '\\\\boxed{0}': ran past its deadline of 0.2 seconds "
        "(1 of 1 rows, the first is train:0)",
    ]
    assert "own_rewards:shape, weight 0.5: no verifier; ran without failure (1 rows)" in report


def test_tests_that_cannot_be_used_are_a_fault_in_all_rows_and_else_a_warning():
    program = "print(1)"
    sound, broken = ({"question": "1", "answer": program, "tests": {"inputs": [""], "outputs": o}} for o in (["1"], []))
    changes = {"rewards": {"math_verifier": None, "code_verifier": {}}}
    build = {"model": {"build": BUILD | {"characters": BUILD["characters"] + "print()"}}}
    why = "the tests in 'tests' cannot be used: inputs and outputs must be lists of one length: [''], []"
    write_rows("sums.jsonl", [broken, sound, sound, broken])
    faults, report = check(changes | build)
    assert faults == []
    assert f"{why} (2 of 4 rows, the first are train:0, train:3)" in report
    assert "golds accepted: in a code block 2" in report and "spelt otherwise" not in report
    write_rows("sums.jsonl", [broken, broken])
    [fault] = check(changes | build)[0]
    assert fault.endswith(f"{why} (2 of 2 rows, the first are train:0, train:1)")


@pytest.mark.parametrize(
    ("task", "size", "told"),
    [
        ("game_of_life_halting", 20, "rewards.reasoning_gym: accepts 'qqq zzz qqq' as a right answer (20 of 20 rows"),
        ("puzzle24", 8, "warning: rewards.reasoning_gym: one row's gold on every row"),
        ("coin_flip", 60, "warning: rewards.reasoning_gym: '0' earns"),
        ("game_of_life", 8, "warning: rewards.reasoning_gym: another row's gold earns"),
        (
            "complex_arithmetic",
            8,
            "warning: rewards.reasoning_gym: 'nan' earns 1 on average and is right in 8",
        ),
        ("graph_color", 8, "warning: rewards.reasoning_gym: 8 of 8 rows have no gold answer"),
        ("prime_factorization", 8, "reasoning_gym, weight 1: accepts their own answers, refuses garbage (8 rows)"),
    ],
)
def test_tasks_that_cannot_teach_are_named(task, size, told):
    train = {"path": None, "task": task, "size": size, "prompt": "{metadata.source_index}="}
    faults, report = check({"data": {"train": train}, "rewards": {"math_verifier": None, "reasoning_gym": {}}})
    assert told in "\n".join(faults) + report
    assert bool(faults) == ("accepts 'qqq" in told)


def test_what_a_verifier_reads_is_shown_on_an_example():
    _, report = check({"rewards": {"math_verifier": {"extract": "tag"}}})
    shown = "reads        '0' in '<think>Is it qqq zzz qqq?</think>\\n<answer>0</answer>'"
    assert shown in report
    _, report = check({"rewards": {"math_verifier": {"extract": "tag", "thoughts_end": ""}}})
    assert "reads        '0' in '<answer>0</answer>'" in report


def test_thoughts_that_the_template_opens_are_finished_before_an_answer():
    Path("chat.jinja").write_text(PLAIN_CHAT + "{% if add_generation_prompt %}<think>{% endif %}{# </think> #}")
    build = BUILD | {"characters": BUILD["characters"] + "thinkq[]"}
    chat = {"model": {"build": build, "chat_template": "chat.jinja"}, "data": {"train": {"chat": True}}}
    faults, report = check(chat)
    assert faults == []
    assert "thoughts     the chat template ends them with </think>" in report
    assert "reads        '0' in 'Is it qqq zzz qqq?</think>\\n\\\\boxed{0}'" in report
    assert "accepts their own answers, refuses garbage (20 rows)" in report


def test_golds_that_are_not_understood_are_counted():
    write_rows("sums.jsonl", [*ROWS, {"question": "9+9", "answer": "<q"}, {"question": "8+9", "answer": "=z>"}])
    faults, report = check()
    assert faults == []
    assert (
        "warning: rewards.math_verifier: 2 of 22 golds are not understood, so of these only the same text is right: "
        "train:20 '<q', train:21 '=z>'" in report
    )
    write_rows("sums.jsonl", [{"question": "9+9", "answer": "<q"}])
    assert check()[0] == [
        "rewards.math_verifier: 1 of 1 golds are not understood, so of these only the same text is right: train:0 '<q'"
    ]


def test_golds_that_are_no_answers_are_a_fault():
    write_rows("sums.jsonl", [*ROWS, {"question": "9+9", "answer": None}])
    assert check()[0] == [
        "data.train.answer: 1 of 21 rows have an answer that rewards.math_verifier cannot use: train:20: null is no "
        "answer; expected text, a finite number, or a list of these of which any is right"
    ]


def test_a_reward_of_none_of_the_rows_is_a_warning():
    rewards = {"math_verifier": {}, "own_rewards:shape": {"rows": {"answer": "99"}}}
    faults, report = check({"rewards": rewards})
    assert faults == []
    assert "warning: rewards.own_rewards:shape: no row of the data is one of its rows, {'answer': '99'}" in report


def test_a_reward_whose_server_is_not_there_is_a_warning():
    faults, report = check({"rewards": {"math_verifier": {}, "remote_score": {"url": "http://127.0.0.1:9"}}})
    assert faults == []
    assert "warning: rewards.remote_score: nobody answers at http://127.0.0.1:9/health" in report


def test_a_reward_that_reads_verdicts_is_given_them():
    faults, report = check({"rewards": {"cosine_length": {"max_characters": 16}}})
    assert faults == []
    assert "cosine_length, weight 1: no verifier; ran without failure (20 rows)" in report


def test_functions_of_other_frameworks_are_tried_as_they_are_called():
    names = ("accuracy_reward", "reward_func", "compute_score_dict", "fails_on_none", "one_too_few")
    rewards = {f"peer_rewards:{name}": {} for name in names}
    faults, report = check({"rewards": {"math_verifier": None, **rewards}})
    for name in names[:2]:
        assert f"peer_rewards:{name}, weight 1: no verifier; ran without failure (20 rows)" in report
    assert report.count("earned on average: the gold 1, another row's gold 0") == 2
    assert "peer_rewards:compute_score_dict, weight 1: accepts their own answers, refuses garbage (20 rows)" in report
    assert len(faults) == 2 and "rewards.peer_rewards:fails_on_none" in faults[0] and "KeyError: 'none'" in faults[0]
    assert "rewards.peer_rewards:one_too_few" in faults[1] and "one result per trajectory" in faults[1]


@pytest.mark.parametrize("reward", ["cosine_length", "group_length"])
def test_a_reward_that_reads_verdicts_needs_one_that_gives_them(reward):
    changes = {"rewards": {"math_verifier": None, reward: {}, "tag_count": {}}}
    message = f"rewards.{reward}: reads the verdict of another reward, and none gives any; add a verifier, such as"
    faults, _ = check(changes)
    assert len(faults) == 1 and faults[0].startswith(message)
    with pytest.raises(RecipeError, match=message):
        resolve_pieces(next(iter(plan_of(changes).stages.values())))


def test_whether_own_rewards_give_verdicts_is_found_by_grading():
    changes = {"rewards": {"math_verifier": None, "own_rewards:shape": {}, "cosine_length": {"max_characters": 16}}}
    assert check(changes)[0] == [
        "rewards.cosine_length: reads the verdict of another reward, and own_rewards:shape gave none on these rows; "
        "return a bool or a Score with `correct`, or add a verifier"
    ]
    changes["rewards"]["own_rewards:odd"] = {}
    assert check(changes)[0] == []


def test_a_demonstration_is_what_is_graded():
    write_rows("sums.jsonl", [{"question": "2+2", "answer": "4", "shown": "5"}])
    faults, _ = check({"data": {"train": {"completion": "shown"}}, "rollout": {"prompts_per_step": 2}})
    assert faults[0].startswith("rewards.math_verifier: does not accept the row's own gold answer '4'; graded '5' (")


# chat templates


PLAIN_CHAT = "{% for m in messages %}[{{ m.content }}]{% endfor %}"

NOT_A_PREFIX = "{% for m in messages %}<{{ m.content }}>{% endfor %}{% if add_generation_prompt %}={% endif %}"


def test_chat_needs_a_template():
    message = "data.train.chat: true, but the tokenizer has no chat template; set model.chat_template"
    assert check({"data": {"train": {"chat": True}}})[0] == [message]


def test_a_prompt_to_imitate_must_start_the_conversation():
    Path("chat.jinja").write_text(NOT_A_PREFIX)
    chat = {"model": {"chat_template": "chat.jinja"}, "data": {"train": {"chat": True}}}
    assert check(chat)[0] == []
    [fault] = check(merge(DEMONSTRATIONS, chat))[0]
    assert "after '<0+0=>' the prompt has '=', the conversation '<" in fault


# models


@pytest.fixture
def local_model(folder) -> Path:
    return materialize(plan_of().stages["train"].model, folder / "model", 0)


def test_a_folder_is_read_and_its_weights_are_not(local_model):
    faults, report = check({"model": {"build": None, "path": "model"}})
    assert faults == []
    total = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(local_model).parameters())
    assert f"model: qwen3, {total / 1000:.1f}K parameters, all trained; 20 tokens" in report
    assert "model.safetensors: whole" in report


def test_weights_that_are_missing_or_cut_short(local_model):
    file = local_model / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    changes = {"model": {"build": None, "path": "model"}}
    assert "model/model.safetensors' is not a whole safetensors file" in check(changes)[0][0]
    file.unlink()
    assert check(changes)[0] == [
        "model.path: folder 'model' has no weights "
        "(none of model.safetensors, pytorch_model.bin, model.safetensors.index.json)"
    ]


def test_shards_are_checked_against_their_index(local_model):
    tensors = load_file(local_model / "model.safetensors")
    (local_model / "model.safetensors").unlink()
    first, *rest = sorted(tensors)
    save_file({first: tensors[first]}, local_model / "a.safetensors")
    index = {
        "weight_map": {first: "a.safetensors", rest[0]: "a.safetensors"} | dict.fromkeys(rest[1:], "b.safetensors")
    }
    (local_model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert check({"model": {"build": None, "path": "model"}})[0] == [
        f"model.path: 'model/a.safetensors' lacks 1 of its tensors, such as {rest[0]}",
        "model.path: model.safetensors.index.json names b.safetensors, which is not in 'model'",
    ]


def test_without_a_tokenizer_the_data_is_still_looked_at():
    faults, report = check({"model": {"build": None, "path": "./modl"}, "data": {"train": {"prompt": "{qestion}="}}})
    assert faults == [
        "model.path: no folder './modl'",
        "data.train.prompt: no column 'qestion'; did you mean 'question'? (columns: question, answer)",
    ]
    assert "prompts      NOT CHECKED" in report and "rewards      NOT CHECKED" in report


def test_a_hub_name_that_cannot_be_had_says_what_would_help(monkeypatch):
    monkeypatch.setattr("llmrl.check.hub._answers", lambda: False)
    faults, report = check({"model": {"build": None, "path": "no-such-owner/no-such-model"}})
    assert len(faults) == 1 and faults[0].endswith("if you have the model in a folder, say model=FOLDER")
    assert "warning: the hub does not answer" in report


def test_trajectories_must_fit_the_models_positions():
    faults, _ = check({"rollout": {"max_completion_tokens": 100}})
    # 32 + 100 = 132 > 128
    assert faults == [
        "rollout: max_prompt_tokens 32 + max_completion_tokens 100 = 132, more than the model's 128 positions"
    ]


def test_packed_rows_that_see_each_other_are_a_fault_before_a_model_loads(monkeypatch):
    build = {"architecture": "qwen3_5_text", "config": {"layer_types": ["linear_attention", "full_attention"]}}
    changes = {"model": {"build": build}, "training": {"padding_free": True}}
    expected = "training.padding_free: true, but 'qwen3_5_text' models let packed rows see each other"
    faults, _ = check(changes)
    assert len(faults) == 1 and expected in faults[0]
    monkeypatch.setattr("llmrl.run.models.load_language_model", None)
    with pytest.raises(RecipeError, match=expected):
        run_plan(plan_of(changes), resume=False, console=Console(quiet=True))


def test_a_model_without_attention_has_no_keys_and_values():
    without = dict.fromkeys([*HEADS, "head_dim", "intermediate_size"])
    faults, report = check({"model": {"build": {"architecture": "mamba", "config": without | {"state_size": 4}}}})
    assert faults == []
    assert "32 completions x 48 tokens x 2 layers x 0 x 4 bytes = 0 B" in report


# stages


def test_a_later_stage_is_checked_with_the_first_ones_tokenizer():
    stages = {"warm": {"method": "sft", "data": {"train": {"completion": "answer"}}}, "rl": {"method": "grpo"}}
    faults, report = check({"stages": stages, "method": None})
    assert faults == []
    assert "runs/recipe/stages/warm (that stage's output): qwen3" in report
    assert report.count("first prompt 4 tokens, train:0") == 2


def test_stages_on_the_same_rows_are_warned_of():
    task = {"path": None, "task": "chain_sum", "size": 40, "prompt": "{metadata.source_index}="}
    held_out = {"task": "chain_sum", "size": 10, "seed": 30, "prompt": "{metadata.expression}="}
    stages = {"warm": {"method": "sft", "data": {"train": {"completion": "answer"}}}, "rl": {"method": "grpo"}}
    stages["rl"]["data"] = {"train": {"seed": 10}}
    rewards = {"math_verifier": None, "reasoning_gym": {}}
    build = {"characters": "0123456789+-=. "}
    rows = {"train": task | {"prompt": "{metadata.expression}="}, "eval": held_out}
    changes = {"stages": stages, "method": None, "data": rows, "rewards": rewards, "model": {"build": build}}
    faults, report = check(changes | {"rollout": {"max_prompt_tokens": 64, "max_completion_tokens": 16}})
    assert faults == []
    # warm has rows 0 to 39, without those of eval, 30 to 39; rl has rows 10 to 49, of which 10 to 29 are warm's
    near = "near seeds give the same rows, shifted: set data"
    assert f"warning: data.eval: 10 training rows are its rows; {near}.eval.seed to 40 or more" in report
    shared = "warning: data.train: 20 of 30 questions are trained on in stage warm too"
    assert f"{shared}; {near}.train.seed to 40 or more" in report


def test_faults_of_all_stages_are_collected():
    stages = {"one": {"keep": "mixed_outcome"}, "two": {"advantage": {"grpo": {"std": 1}}}}
    faults, report = check({"stages": stages, "model": {"build": {"architecture": "qwen33"}}})
    assert faults == [
        "stage one: keep: no keep function named 'mixed_outcome'; did you mean 'mixed_outcomes'?",
        "stage one: model.build.architecture: no causal language model named 'qwen33'; did you mean 'qwen3'?",
        "stage two: advantage.grpo: no setting 'std' (value 1); settings: normalize_std, std_floor, batch_std, whiten",
    ]
    assert "model        NOT CHECKED: it is the output of stage one, which has faults of its own" in report


# engines, evaluation


def test_engines_and_settings_that_disagree(monkeypatch):
    monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
    rollout = {"engine": "vllm", "top_p": 0.9, "max_mismatch": 1e-4}
    changes = {"rollout": rollout, "training": {"dtype": "bf16"}}
    faults, report = check(changes, ranks=2)
    assert [fault.partition(":")[0] for fault in faults] == ["training.strategy", "rollout.engine"]
    assert faults[0].endswith("torch is for one process, not 2; set training.strategy=deepspeed or accelerate")
    assert faults[1].endswith("set rollout.engine=transformers")
    assert "samples come from a cut distribution" in report
    assert "rollout.max_mismatch 0.0001: rounding alone" in report


def test_evaluation_is_checked_against_what_it_measures():
    changes = {
        "data": {"eval": {"path": "sums.jsonl", "prompt": "{question}=", "limit": 2}},
        "checkpoint": {"metric": "eval/acuracy"},
        "evaluation": {"samples": 4, "answer_pattern": "a(b)(c)"},
    }
    assert check(changes)[0] == [
        "checkpoint.metric: no metric of this evaluation named 'eval/acuracy'; did you mean 'eval/accuracy'?",
        "evaluation.answer_pattern: expected one group (...), which is voted on; got 2",
    ]
    pairs = {"chosen": "question", "rejected": "answer"}
    changes = {"data": {"train": pairs, "eval": pairs | {"path": "sums.jsonl"}}, "method": "dpo"}
    changes |= {"rewards": {"math_verifier": None}, "checkpoint": {"metric": "eval/accuracy"}}
    assert check(changes)[0][0].startswith("checkpoint.metric: no metric of this evaluation named 'eval/accuracy'")
    changes = {"data": {"eval": {"path": "sums.jsonl", "prompt": "{question}=", "limit": 2}}}
    changes |= {"checkpoint": {"metric": "eval/pass@2"}, "evaluation": {"samples": 4, "answer_pattern": "=("}}
    found = check(changes)[0]
    assert len(found) == 1 and found[0].startswith("evaluation.answer_pattern: '=(' is no regular expression")


# memory and disk


def test_a_full_disk_and_a_small_memory_are_faults(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    monkeypatch.setattr(machine, "_memory", lambda: (1000.0, 1000.0, "the machine"))
    faults, _ = check()
    assert faults[0].startswith("memory: weights, gradients and optimizer alone take ")
    assert faults[1].startswith("run_dir: runs/recipe will hold ") and "1000 B free" in faults[1]


def test_a_run_that_is_there_already_is_a_warning(folder):
    (folder / "runs" / "recipe").mkdir(parents=True)
    write_rows(folder / "runs" / "recipe" / "metrics.jsonl", [{"stage": "train", "step": 0}])
    faults, report = check(DEMONSTRATIONS)
    assert faults == [] and "warning: run_dir: runs/recipe holds a run already" in report


def test_little_free_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(machine, "_memory", lambda: (1e12, 1000.0, "the machine"))
    faults, report = check()
    assert faults == [] and "warning: memory: about " in report


# rows that cannot be asked, or that are asked twice


def test_rows_without_a_question_are_counted_over_the_whole_file():
    rows = [dict(row) for row in ROWS]
    rows[3]["question"], rows[9]["question"] = None, ""
    write_rows("sums.jsonl", rows)
    asked = {"data": {"train": {"prompt": "question"}}}
    empty = "train:9: empty, so nothing is asked"
    assert check(asked)[0] == [
        f"data.train.prompt: 2 of 20 rows cannot be used: train:3: expected text, got NoneType None; {empty}"
    ]
    rows[3]["question"] = rows[12]["question"] = ""
    write_rows("sums.jsonl", rows)
    likewise = "train:3: empty, so nothing is asked (likewise train:9, train:12)"
    assert check(asked)[0] == [f"data.train.prompt: {likewise}"]


def test_rows_that_repeat_a_question_and_rows_without_an_answer_are_warnings():
    rows = [*ROWS, ROWS[2], ROWS[3] | {"answer": "9"}, {"question": "3+3", "answer": "6"} | {"answer": None}]
    write_rows("sums.jsonl", rows)
    rewards = {"math_verifier": None, "own_rewards:shape": {}}
    faults, report = check({"rewards": rewards})
    assert faults == []
    assert "warning: data.train: 3 of 23 rows ask what an earlier row asks: train:20, train:21, train:22" in report
    assert "; 2 of them with another answer: train:21, train:22" in report
    assert "warning: data.train.answer: null or empty in 1 of 23 rows: train:22" in report


def test_a_task_may_repeat_its_questions():
    faults, report = check({"data": {"train": {"path": None, "task": "own_rewards:few", "size": 20}}})
    assert (
        faults == [] and "17 of 20 rows ask what an earlier row asks: train:3, train:4, train:5 and 14 more" in report
    )
    assert "warning: data.train: " not in report


def test_a_system_prompt_that_rows_replace_by_their_own_is_told():
    Path("chat.jinja").write_text("{% for m in messages %}{{ m['content'] }}{% endfor %}=")
    Path("own_system.py").write_text(
        "def asked(row):\n"
        "    system = [{'role': 'system', 'content': '1+1'}] if row['question'][0] in SYSTEM else []\n"
        "    return [*system, {'role': 'user', 'content': row['question']}]\n"
        "SYSTEM = '0123456789'\n"
    )
    train = {"chat": True, "system_prompt": "2+2", "prompt": "own_system:asked"}
    faults, report = check({"model": {"chat_template": "chat.jinja"}, "data": {"train": train}})
    told = "data.train.system_prompt has no effect: every row has a system message in data.train.prompt"
    assert faults == [] and f"warning: {told}" in report


TEMPLATES = {
    "question": "{% for m in messages %}{{ m['content'] if m['role'] == 'system' else '2=' }}{% endfor %}",
    "system prompt": "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}=",
}


@pytest.mark.parametrize(
    ("dropped", "told"),
    [
        ("question", "train:0 asks '0+0' and train:1 '0+1', but both are rendered as 'qqqq2='"),
        ("system prompt", "train:0: the chat template drops the system prompt 'qqqq'; all that it renders is '0+0='"),
    ],
)
def test_a_template_that_drops_a_message_is_refused_with_what_it_renders(dropped, told):
    Path("drops.jinja").write_text(TEMPLATES[dropped])
    train = {"chat": True, "system_prompt": "qqqq", "prompt": "question"}
    (fault,) = check({"model": {"chat_template": "drops.jinja"}, "data": {"train": train}})[0]
    assert f"the chat template drops the {dropped}" in fault and fault.endswith(told)


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        (
            "{{ messages[0].content + messages[-1].content }}=",
            "drops the user's earlier message '1+1'; all that it renders is '70+0='",
        ),
        (
            "{{ messages[2:] | map(attribute='content') | join }}=",
            "drops the system prompt '7'; all that it renders is",
        ),
        ("{{ messages | map(attribute='content') | join }}=", None),
    ],
)
def test_a_template_that_drops_a_part_of_the_history_is_refused(template, fault):
    Path("last.jinja").write_text(template)
    Path("history.py").write_text(
        "def asked(row):\n    texts = ['7', '1+1', '2', row['question']]\n"
        "    roles = ['system', 'user', 'assistant', 'user']\n"
        "    return [{'role': role, 'content': text} for role, text in zip(roles, texts)]\n"
    )
    train = {"chat": True, "prompt": "history:asked"}
    faults = check({"model": {"chat_template": "last.jinja"}, "data": {"train": train}})[0]
    if fault is None:
        assert faults == []
    else:
        assert faults[0].startswith("data.train.chat: train:0: the chat template ") and fault in faults[0]


@pytest.mark.parametrize(
    ("turn", "ask", "unopened"),
    [("+{{ m.content }}", "", "+"), ("+{{ m.content }}", "+", None), ("{{ m.content }}", "", None)],
)
def test_a_template_whose_prompt_ends_before_the_answer_opens(turn, ask, unopened):
    """'+' opens the assistant's turn; a template may write it for a prompt, or need none."""
    turns = "{% for m in messages %}{% if m.role == 'assistant' %}" + turn + "{% else %}{{ m.content }}={% endif %}"
    Path("turns.jinja").write_text(turns + "{% endfor %}{% if add_generation_prompt %}" + ask + "{% endif %}")
    changes = {"model": {"chat_template": "turns.jinja"}, "data": {"train": {"chat": True, "prompt": "question"}}}
    faults, report = check(changes)
    assert faults == []
    told = "the chat template does not read add_generation_prompt, so a prompt ends before '+'"
    assert (told in " ".join(report.split())) == (unopened is not None)
