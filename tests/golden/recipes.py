"""The golden runs: three training steps of every method, and of some settings that no method has, from a fixed start.

Only what a user sees of llmrl is used: recipe files, a run's metrics.jsonl and its final weights.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from safetensors import safe_open
from tokenizers import Tokenizer, decoders, models
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from llmrl.recipe_file import Plan, load_plan, methods

THREADS = 1
CHARACTERS = "0123456789+="
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "tie_word_embeddings": True, "max_position_embeddings": 64,
}  # fmt: skip
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LARGEST_WEIGHT = 0.3  # large enough that the start prefers some tokens, small enough that all outcomes occur
START_SEED = 14  # of the weights and of the order of the rows; this one leaves some groups without contrast

COMMON: dict[str, Any] = {
    "seed": 7,
    "data": {
        "train": {"path": "sums.jsonl", "completion": "answer", "chosen": "answer", "rejected": "wrong"},
        "eval": {"path": "held_out.jsonl"},
    },
    "rewards": {"golden.pieces:low_digits": {}},
    "rollout": {
        "engine": "transformers", "prompts_per_step": 4, "group_size": 6, "max_prompt_tokens": 8,
        "max_completion_tokens": 6,
    },
    # two updates, so that the policy has moved when clips look at it; few tokens, so that each takes several passes
    "training": {
        "threads": THREADS, "steps": 3, "learning_rate": 5e-3, "updates_per_step": 2, "tokens_per_micro_batch": 96,
    },
    "critic": {"learning_rate": 1e-2},
    "evaluation": {"samples": 2},
}  # fmt: skip
"""It lies under the method, which therefore keeps whatever it sets itself."""

TURNS = {"env": {"golden.pieces:asks_on": {}}}
STATES = {"env": {"golden.pieces:asks_on": {"states": True}}}
# two roles whose texts are their actions, and who share a reward
PAIR = {
    "env": {"golden.pieces:passes_on": {}},
    "turns": {"max_tokens": 2},
    "roles": {"actor": {}, "other": {}},
    "rollout": {"max_completion_tokens": 16},
}
# the sampler says another probability than the trainer, which is what some methods correct for
MISMATCH = {"rollout": {"top_k": 3}}
# the opinion on two answers alone rewards
WINS = {"rewards": {"golden.pieces:low_digits": {"weight": 0.0}, "win_rate": {"opinion": "golden.pieces:prefers_low"}}}
# of the three steps, some come after moves
OFTEN = {"history": {"every": 1}}
HINDSIGHT = {"goal": "{prompt}", "reached": "{completion}="}  # as if the answer had been asked for
LABELS = {"right": "1", "wrong": "2"}  # which the model writes often enough


def _critiqued(
    method: str, rewards: dict[str, Any], *, refined: bool = True, actor: dict[str, Any] | None = None
) -> dict[str, Any]:
    """A critiquer's method, and what it needs: drafts to critique, and refinements where it reads them.

    rewards: settings of the method's rewards; actor: what the actor changes, who is frozen unless it says so.
    """
    read = {"max_completion_tokens": 1}  # a text that is nothing but the label
    moves = {
        "draft": {"by": "actor"},
        "critique": {"by": "critiquer", "of": "draft", "samples": 3, "ask": "{prompt}{draft}=", **read},
        "refinement": {"by": "actor", "of": "critique", "ask": "{prompt}{critique}=", "trained": False, "greedy": True},
    }
    critiquer = {"method": method, "rewards": {"golden.pieces:low_digits": None, **rewards}}
    return {
        "moves": moves if refined else {name: moves[name] for name in ("draft", "critique")},
        "roles": {"actor": {"trained": False} | (actor or {}), "critiquer": critiquer},
        "rollout": {"group_size": 2, "max_prompt_tokens": 16},
    }


WRITTEN = ("completion", "chosen", "rejected")


def _of_recorded_turns(method: str, **transform: Any) -> dict[str, Any]:
    """A method that learns from the rollouts of an earlier stage; transform: it, with settings for these rewards."""
    recorded = dict.fromkeys(WRITTEN) | {"path": "${run_dir}/rollouts/explore-*.parquet", "transform": transform}
    values = {"method": method, "data": {"train": recorded}, "rollout": {"max_prompt_tokens": 16}}
    return {"stages": {"explore": {"method": "grpo", "training": {"steps": 2}} | TURNS, "values": values}}


def _digi_q() -> dict[str, Any]:
    """Turns are recorded, a critic learns from them alone, and it judges actions that no reward scores."""
    recipe = _of_recorded_turns("digi_q", turn_states={})
    critic = _of_recorded_turns("digi_q_critic", recorded_episodes={})["stages"]["values"]
    policy = recipe["stages"].pop("values") | {"rewards": {"golden.pieces:low_digits": None}}
    stages = recipe["stages"] | {"values": critic, "policy": policy}
    return {"stages": stages}


REWARDS = ["golden.pieces:low_digits", "overlong_penalty"]
OWN: dict[str, dict[str, Any]] = {
    "accelerated_dpo": {"reference": {"every": 1}},
    "agent_prm": _of_recorded_turns("agent_prm", turn_values={"low": -20.0, "high": 20.0}),
    "agent_r": {  # texts that the model's characters can make
        "learn_from": {
            "spliced_paths": {"flag": "{prompt}{path}{action}", "revisions": ["=", "+"], "least_good": 0.0},
        },
        "rollout": {"max_completion_tokens": 16},
    },
    "nash_md": WINS,
    "nash_mp": WINS | OFTEN,
    "online_sppo": WINS,
    "onpo": WINS,
    "spin": {"rewards": {"golden.pieces:low_digits": {"weight": 0.0}}, "reference": {"every": 2}},
    "spo_minimax": WINS,
    "multi_objective_reward_model": {
        "model": {"path": "start", "heads": 2},
        "data": {"train": {**dict.fromkeys(WRITTEN[1:]), "components": ["size", "parity"]}},
    },
    "process_reward_model": {
        "data": {
            "train": {
                **dict.fromkeys(WRITTEN),
                "prompt": "question",
                "steps": "steps",
                "step_labels": "labels",
                "separator": "=",
            },
        },
    },
    "bilevel_gae": TURNS,
    "collm_cc": PAIR | {"method": "collm_cc", "critic": {"others": "{text}="}},
    "collm_dc": PAIR | {"method": "collm_dc"},
    "ippo": PAIR | {"method": "ippo"},
    "ilql": _of_recorded_turns("ilql", recorded_episodes={}),
    "magrpo": PAIR | {"method": "magrpo"},
    "mappo": PAIR | {"method": "mappo", "critic": {"others": "{text}="}},
    "archer": TURNS
    | {
        "critic": {
            "warmup_steps": 1,
            "updates_per_step": 3,
            "replay": {"batch": 8, "capacity": 30, "prioritised": {}},
        },
    },
    "cgi": {"providers": {"row_weights": {"of": "size"}}},
    "critique_rl1": _critiqued("critique_rl1", {"discrimination": LABELS}, refined=False),
    "critique_rl2": _critiqued("critique_rl2", {"discrimination": LABELS}),
    "ctrl": _critiqued("ctrl", {"discrimination": LABELS, "refined": {"score": "golden.pieces:low_digits"}}),
    "decoupled_ppo": MISMATCH,
    "echo": _critiqued("echo", {}),
    "refcritic": _critiqued("refcritic", {"discrimination": LABELS}),
    "rl4f": _critiqued("rl4f", {"refined": {"score": "golden.pieces:low_digits"}}),
    "rlanything": _critiqued(
        "rlanything_judge",
        {"consistency": LABELS},
        refined=False,
        actor={"method": "rlanything", "trained": True, "rewards": {"integrated": LABELS}},
    ),
    "rlanything_judge": _critiqued("rlanything_judge", {"consistency": LABELS}, refined=False),
    # labels and a form that the model's characters can make
    "gui_critic_r1": {
        "rewards": {
            "right_verdict": {"labels": [*"0123456789"]},
            "format_pattern": {"pattern": "[0-9]+"},
            "suggestion": {"tag": None, "columns": {"answer": "answer"}},
        },
    },
    "llava_critic_r1": {
        "rewards": {"right_verdict": {"labels": [*"0123456789"]}, "format_pattern": {"pattern": "[0-9]+"}},
    },
    "direct_advantage": {"providers": {"step_ids": {"delimiter": "+"}}},
    "dpa": {
        "data": {
            "train": {"prompt": "{percent.0}{question}", "direction": {"rewards": REWARDS, "between": [0, 90]}},
            "eval": {
                "prompt": "{percent.0}{question}",
                "direction": {"rewards": REWARDS, "among": [0, 90]},
                "category": "angle",
            },
        },
        "rewards": {REWARDS[1]: {"max_tokens": 6, "buffer_tokens": 4}},
    },
    "drlc": {"rewards": {"span_critique": None, "golden.pieces:marked_digits": {"weight": 0.2}}},
    "genac": {
        "roles": {
            "actor": {"method": "genac"},
            "appraiser": {
                "method": "rloo",
                "trained": False,
                "rewards": {"golden.pieces:low_digits": None, "appraisal": {"high": 9}},
                "rollout": {"max_completion_tokens": 1},
            },
        },
        "rollout": {"max_prompt_tokens": 16},
        "moves": {
            "draft": {"by": "actor"},
            "appraisal": {
                "by": "appraiser",
                "of": "draft",
                "ask": "{prompt}{draft}",
                "prefixes": {"delimiter": "+", "most": 3},
            },
        },
    },
    "gigpo": STATES,
    "icepop": MISMATCH,
    "mt_grpo": TURNS,  # its own environment runs programs, as that of thor
    "masked_is": {"rollout": {"top_p": 0.9}},  # less of it, or every trajectory would be masked
    "sweet_rl": _of_recorded_turns("sweet_rl", turn_states={}),
    "sweet_rl_critic": _of_recorded_turns("sweet_rl_critic", privileged_pairs={"context": "{answer}="}),
    "stepwise_think_critique": {
        "rewards": {"step_critiques": None, "golden.pieces:marked_digits": {"weight": 0.2}},
    },
    "tis": MISMATCH,
    "digi_q": _digi_q(),
    "digi_q_critic": _of_recorded_turns("digi_q_critic", recorded_episodes={}),
    "sac_glam": _of_recorded_turns("sac_glam", recorded_choices=HINDSIGHT) | {"rollout": {"prompts_per_step": 24}},
    "qlass": _of_recorded_turns("qlass", tree_values={"gamma": 0.5}),
    "repro": {"providers": {"answer_logprobs": {"delimiter": "+"}}},
    "router_aware": {"model": "experts"},
    "salt": STATES,
    "spc": {"rollout": {"written_by": {"dataset": 1}}},
    # its own environment runs programs, which takes a sandbox
    "thor": TURNS
    | {
        "learn_from": {"regenerated_turns": {"least": 1.0, "marker": None}},
        "rollout": {"max_prompt_tokens": 16},  # which holds an answer up to its last turn
    },
}
"""What a method needs beside what is common."""

BEYOND: dict[str, dict[str, Any]] = {
    "dapo-refills": {"method": "dapo", "rollout": {"group_size": 2}},
    "grpo-lora-epochs": {
        "method": "grpo",
        "model": {"path": "start", "lora": {"rank": 4, "dropout": 0.1}},
        "training": {"epochs_per_step": 2},
    },
    "dpo-prompted-pairs": {
        "method": "dpo",
        "learn_from": {"prompted_pairs": {"rubric": "{quality}{prompt}", "best": 9, "gap": 6, "shrinks_over": 2}},
        "rollout": {"max_completion_tokens": 24},  # or most answers would be cut short
    },
    "grpo-padding-free": {"method": "grpo", "training": {"padding_free": True}},
    "online_dpo-evolved-prompts": {
        "method": "online_dpo",
        "learn_from": {"evolved_prompts": {"rubric": "{prompt}", "parents": 4, "children": 2}},
    },
    "grpo-shaped-sampling": {
        "method": "grpo",
        "rollout": {"temperature": 0.7, "top_p": 0.9, "top_k": 8, "stop": ["="]},
    },
    "ppo-shared-backbone": {"method": "ppo", "critic": {"backbone": "shared"}},
    "thor-whole-trajectories": {
        "method": "thor",
        "learn_from": "rollouts",
        "advantage": {"turn_grpo": {"min_turn_reward": 1.0}},
    }
    | TURNS,
    "grpo-states": {"method": "grpo", "advantage": "state_returns"} | STATES,
    "grpo-steps": {"method": "grpo", "advantage": "step_grpo"} | TURNS,
    "rebn-turns": {"method": "rebn"} | TURNS,
    "tis-capped": {"method": "tis", "token_weights": {"truncated_is": {"cap": 0.7}}} | MISMATCH,
    "vl_dac-turns": {"method": "vl_dac", "critic": {"warmup_steps": 1}} | TURNS,
    "safe-open-gate": {  # it only opens far from the reference
        "method": "safe",
        "controllers": {"kl_gate": {"threshold": 0.01}},
        "training": {"learning_rate": 0.01, "steps": 5},
    },
    "heads-then-gate": {
        "data": {"train": {"completion": None, "chosen": "answer", "rejected": "wrong"}},
        "model": {"path": "start", "heads": 2},
        "stages": {
            "heads": {
                "method": "multi_objective_reward_model",
                "data": {
                    "train": {
                        "completion": "answer",
                        "chosen": None,
                        "rejected": None,
                        "components": ["size", "parity"],
                    },
                },
            },
            "gate": {"method": "reward_model", "model": {"gate": {"layers": [8], "temperature": 2.0}}},
        },
    },
    "sft-then-grpo": {
        "stages": {
            "warm_start": {
                "method": "sft",
                "data": {"eval": {"completion": "answer"}},
                "rollout": {"prompts_per_step": 8, "group_size": 1},
                "training": {"schedule": "cosine", "warmup_steps": 1, "weight_decay": 0.1},
            },
            "rl": {"method": "grpo", "training": {"schedule": "linear"}},
        },
    },
}


def names() -> list[str]:
    """Return the names of all golden runs: the methods that ship, and what goes beyond them."""
    return [*methods(), *BEYOND]


def lay_out(folder: Path) -> Path:
    """Write into `folder` the starts, the rows and what is common to the recipes; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(THREADS)
    _save_start(Qwen3ForCausalLM, Qwen3Config(**SHAPE), folder / "start")
    _save_start(Qwen3MoeForCausalLM, Qwen3MoeConfig(**SHAPE, **EXPERTS), folder / "experts")
    sums = [
        {
            "question": f"{a}+{b}=",
            "answer": str(a + b),
            "wrong": f"{b}{a}",  # of another length
            "size": (a + b) / 10,
            "parity": None if a == 3 else (a + b) % 2,
            "steps": [f"{b}+{a}", str(a + b if a < b else a)],
            "labels": [0.75, a < b],
        }
        for a in range(6)
        for b in range(6)
    ]
    random.Random(START_SEED).shuffle(sums)
    common = json.loads(json.dumps(COMMON))
    for part, name, rows in (("train", "sums", sums[4:]), ("eval", "held_out", sums[:4])):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        common["data"][part]["path"] = str(file)
    (folder / "common.yaml").write_text(yaml.safe_dump(common))
    return folder


def run(name: str, folder: Path) -> dict[str, Any]:
    """Train the golden run `name` in a laid out folder; return its record, which is what runs.json holds."""
    run_dir = folder / "runs" / name
    shutil.rmtree(run_dir, ignore_errors=True)
    plan = _plan(name, folder, run_dir)
    _train(plan)
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    *_, last = plan.stages.values()
    final = run_dir / "final" / next((role for role, view in last.roles.items() if view.trained), "")
    places = [f"{row.pop('stage')} step {row.pop('step')}" for row in rows]
    record = {"rows": places, "metrics": _by_metric(rows), "digest": digest(final), "weights": _summary(final)}
    shutil.rmtree(run_dir)
    return record


def digest(model: Path) -> str:
    """Return what identifies the weights of a model folder bit for bit."""
    found = hashlib.blake2b(digest_size=16)
    for name, tensor in _tensors(model):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _train(plan: Plan) -> None:
    from llmrl.run.run import run_plan  # the one place that knows where the trainer is

    code = run_plan(plan, resume=False, console=Console(quiet=True))
    assert code == 0, f"the run ended with {code}"


def _plan(name: str, folder: Path, run_dir: Path) -> Plan:
    recipe = {"include": "common.yaml", "model": "start"} | (BEYOND.get(name) or _of_method(name))
    if isinstance(recipe["model"], str):
        recipe["model"] = {"path": recipe["model"]}
    recipe["model"] = recipe["model"] | {"path": str(folder / recipe["model"]["path"])}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return load_plan(file, [f"run_dir={run_dir}"])


def _of_method(name: str) -> dict[str, Any]:
    own = OWN.get(name, {})
    recipe = own if own.keys() & {"roles", "stages"} else {"method": name} | own
    if "warmup_steps" in (methods()[name].get("critic") or {}):  # or the policy would not be trained at all
        recipe["critic"] = {"warmup_steps": 1}
    return recipe


def _by_metric(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return every number that is not about time or memory, in the rows' order; None stands where a row lacks it."""
    keys = sorted({key for row in rows for key, value in row.items() if isinstance(value, int | float)})
    steady = [key for key in keys if "seconds" not in key and "per_second" not in key and key != "peak_memory"]
    return {key: [row.get(key) for row in rows] for key in steady}


def _summary(model: Path) -> dict[str, list[float]]:
    """Return of each tensor the sum of absolute values and the sum of squares.

    A plain sum would nearly cancel, and its last digits would differ from machine to machine.
    """
    return {name: [float(t.double().abs().sum()), float(t.double().square().sum())] for name, t in _tensors(model)}


def _tensors(model: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(model / "model.safetensors", "pt") as file:
        for name in sorted(file.keys()):
            yield name, file.get_tensor(name)


def _save_start(kind: type[Any], config: Any, folder: Path) -> None:
    """Save a model whose weights are the same on every machine, which torch's random numbers do not promise."""
    config.vocab_size, config.bos_token_id, config.pad_token_id, config.eos_token_id = 3 + len(CHARACTERS), None, 0, 1
    model = kind(config)
    draw = random.Random(START_SEED)
    with torch.no_grad():
        for _, weight in sorted(model.named_parameters()):
            if weight.dim() > 1:  # norms stay 1
                drawn = [draw.uniform(-LARGEST_WEIGHT, LARGEST_WEIGHT) for _ in range(weight.numel())]
                weight.copy_(torch.tensor(drawn).view_as(weight))
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer whose tokens are single characters, after the special ones."""
    special = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>"}
    vocabulary = {token: index for index, token in enumerate([*special.values(), *CHARACTERS])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=False))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)
