import math
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from llmrl.errors import RecipeError
from llmrl.prove import runs
from llmrl.prove.catalogue import TASKS, suits, task_file, tasks_named
from llmrl.prove.runs import prove
from llmrl.prove.worker import kl_to_start
from llmrl.recipe_file import load_plan

SMALL = [
    "training.steps=2",
    "training.warmup_steps=0",
    "rollout.engine=transformers",
    "rollout.prompts_per_step=2",
    "rollout.group_size=4",
    "evaluation.limit=3",
    "data.train.size=50",
]


def run(folder, seeds, *overrides):
    return prove(["grpo"], ["noisy"], seeds, folder, overrides=[*SMALL, *overrides], console=Console(quiet=True))


@pytest.mark.timeout(300)
def test_runs_are_made_measured_and_not_made_again(tmp_path, monkeypatch):
    in_processes, apart = runs._in_processes, []

    def mostly_here(count, work, *arguments):
        """Start a process for the first run alone: every further process would import torch again."""
        if work is runs._make_runs and not apart:
            apart.append(work)
            in_processes(count, work, *arguments)
        else:
            work(*arguments)

    monkeypatch.setattr(runs, "_in_processes", mostly_here)
    # with almost no learning rate the policy stays like its start, so their divergence must be 0
    (still,) = run(tmp_path, [0], "training.learning_rate=1.0e-30")
    assert still.fault is None
    assert still.before == still.after and set(still.after) == {"accuracy", "greedy", "pass@8"}
    assert still.kl == pytest.approx(0.0, abs=1e-5)
    assert still.entropy == pytest.approx((2.8, 2.8), abs=0.2)  # a random model: near log 18, uniform over its tokens
    assert 2 * 8 <= still.tokens <= 2 * 8 * 8  # 2 steps x 8 completions x 1 to 8 tokens
    assert still.cpu_seconds > 0
    assert list((tmp_path / "runs").rglob("*.*")) == []

    again, moved, broken = (
        run(tmp_path, [0, 1], "training.learning_rate=1.0e-2") + run(tmp_path, [2], "rollout.max_mismatch=1.0e-12")[2:]
    )
    assert again == still
    assert moved.kl is not None and moved.kl > 1e-3
    assert broken.fault is not None and "trainer and sampler disagree" in broken.fault and broken.after == {}


def test_divergence_from_the_start_in_hand_arithmetic():
    def start(input_ids):  # after token v, token v + 1 has probability 1/2 and the nine others 1/18 each
        logits = torch.zeros(*input_ids.shape, 10)
        return SimpleNamespace(logits=logits.scatter(-1, (input_ids[..., None] + 1) % 10, math.log(9)))

    def sample(prompt, token_ids, logprobs):
        digits = [int(digit) for digit in prompt]
        return {
            "prompt_token_ids": digits,
            "turns": [{"author": "actor", "token_ids": token_ids}],
            "rollout_logprobs": logprobs,
        }

    rows = [sample("12", [3, 7], [-0.5, -1.0]), sample("4567", [8], [-0.1]), sample("1", [2], [])]
    rows[1]["turns"] += [{"author": "environment", "token_ids": [1, 2]}, {"author": "actor", "token_ids": [3]}]
    rows[1]["rollout_logprobs"] += [-0.3]
    # start: log 1/2 + log 1/18 for the first; log 1/2 twice for the second, without the environment's turn; the third
    # was greedy
    expected = ((-0.5 - 1.0 - 0.1 - 0.3) - (3 * math.log(1 / 2) + math.log(1 / 18))) / 4
    found = kl_to_start(rows, start)
    assert found == pytest.approx(expected, abs=1e-6)


def test_unknown_names_are_faults_before_anything_starts(tmp_path):
    with pytest.raises(RecipeError) as caught:
        prove(["grpa"], ["spares"], [0], tmp_path, console=Console(quiet=True))
    assert "methods: no method named 'grpa'; did you mean 'grpo'?" in caught.value.faults
    assert "tasks: no task named 'spares'; did you mean 'sparse'?" in caught.value.faults
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", [name for name, task in TASKS.items() if task.start])
def test_tasks_share_the_settings_of_their_start(task):
    """One sampler can serve all runs only if these settings are equal."""
    start = load_plan(task_file(TASKS[task].start)).stages["train"]
    own = load_plan(task_file(task), [f"method={TASKS[task].yardstick}", "model=somewhere"]).stages["train"]
    lengths = {"programs": (24, 16), "tools": (12, 40)}.get(task, (8, 8))
    for recipe in (start, own):
        assert (recipe.rollout.max_prompt_tokens, recipe.rollout.max_completion_tokens) == lengths
        assert recipe.rollout.engine == "vllm" and recipe.training.dtype == "fp32"
    held_out = {"chosen": None, "rejected": None}  # the same questions, with pairs where a task compares them
    assert own.data.eval.model_copy(update=held_out) == start.data.eval
    assert own.data.train.seed != start.data.train.seed


@pytest.mark.parametrize(
    "method, tasks",
    [
        ("router_aware", ["experts"]),
        ("coderl", ["programs"]),
        ("thor", ["tools"]),
        ("dapo", ["arithmetic", "sparse", "noisy"]),
        ("grpo", ["arithmetic", "sparse", "noisy", "experts", "programs", "tools"]),  # the yardstick
        ("dpo", ["table", "pairs"]),
        ("online_dpo", ["table", "online_pairs"]),
        ("xpo", ["online_pairs"]),
        ("nash_md", ["opinions"]),
        ("reward_model", ["scored_pairs"]),
        ("process_reward_model", []),
        ("llava_critic_r1", []),
        ("critique_rl2", []),
    ],
)
def test_a_method_is_measured_on_the_tasks_that_have_what_it_reads(method, tasks):
    assert [task for task in TASKS if suits(method, task)] == tasks


def test_tasks_are_named_alone_or_by_their_family():
    assert tasks_named(["preference"]) == ["table", "pairs", "online_pairs", "opinions", "scored_pairs"]
    assert tasks_named(["pairs", "noisy"]) == ["noisy", "pairs"]
    with pytest.raises(RecipeError, match="no task named 'pair'; did you mean 'pairs'"):
        tasks_named(["pair"])
