"""A Sampler on vLLM, in this process. The only file that imports vllm."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import revert_weight_conversion

from llmrl.models.lora import adapted_outline
from llmrl.models.weights import base_parameters
from llmrl.recipe import Lora
from llmrl.rollout import vllm_shared_state
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.vllm_adapter import (
    adapter_options,
    dropped_layers,
    multiply_once,
    put_aside,
)
from llmrl.rollout.vllm_draw import SEED, draw_by_seed, likeliest
from llmrl.spans import span

# read when vllm is imported: the engine must live in this process, where the trainer's weights are
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
CPU_STEP_TOKENS = 2048
BLOCK = 32
"""Tokens of a block of the cache on a CPU, the least that vLLM takes there."""
SMALL_WEIGHTS_BYTES = 64 * 2**20
"""A model under this size is sampled with one thread, since handing work to others costs as much as the work."""
CPU_KV_CACHE_LIMIT_BYTES = 4 * 2**30
LEAST_KV_CACHE_BYTES = 64 * 2**20
GPU_MEMORY = ("gpu_memory_utilization", "kv_cache_memory_bytes")
"""Options that say how much of a GPU vLLM takes."""


class VllmSampler:
    """Starts with dummy weights; the real ones come from the trainer.

    lora: the adapter's settings. vLLM is given the adapter itself, unless `reason_to_merge` has one not to.

    max_model_len: prompt plus completion, in tokens. max_concurrent: completions that will be asked for at once.
    options: fields of vllm's EngineArgs, over the defaults chosen here. With several ranks, all of them must make
    their sampler together; afterwards each samples on its own.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        dtype: str,
        max_model_len: int,
        max_concurrent: int,
        options: dict[str, Any],
        lora: Lora | None = None,
    ):
        config = AutoConfig.from_pretrained(str(folder))
        self.policy_version = -1
        self._vocabulary: int = config.get_text_config().vocab_size
        self._tied = bool(config.get_text_config().tie_word_embeddings)
        with torch.device("meta"):
            self._shape: Any = AutoModelForCausalLM.from_config(config)
        self._conversions = bool(get_model_conversion_mapping(self._shape, add_legacy=False))
        self.takes_adapter = lora is not None and reason_to_merge(config, lora) is None
        self._adapter_request: Any = None
        self._adapter_folder: tempfile.TemporaryDirectory[str] | None = None
        self._versions = itertools.count(1)
        arguments: dict[str, Any] = {
            "model": str(folder),
            "load_format": "dummy",
            "dtype": DTYPES[dtype],
            "max_model_len": max_model_len,
            "max_num_seqs": max(8, min(max_concurrent, 256)),
            "logprobs_mode": "processed_logprobs",
            "max_logprobs": -1,
            "disable_log_stats": True,
            "seed": 0,
        }
        weights = sum(weight.numel() for weight in self._shape.parameters()) * (4 if dtype == "fp32" else 2)
        self._one_thread = weights < SMALL_WEIGHTS_BYTES and not torch.cuda.is_available()
        if torch.cuda.is_available():
            free, whole = torch.cuda.mem_get_info()
            arguments |= _gpu_options(config.get_text_config(), arguments, options, weights, free, whole)
        else:
            arguments |= _cpu_options(config.get_text_config(), arguments)
        if lora is not None and self.takes_adapter:
            self._adapter: Any = adapted_outline(config, lora)
            arguments |= adapter_options(self._adapter, lora)
        if dist.is_initialized() and dist.get_world_size() > 1:
            arguments["distributed_executor_backend"] = "external_launcher"
        with _left_as_it_was(), _quiet(), vllm_shared_state.begins(self):
            from vllm import LLM

            self._llm: Any = LLM(**(arguments | options))
        if self.takes_adapter and not torch.cuda.is_available():
            self._llm.apply_model(multiply_once)
        self._draws_by_seed = all(self._llm.collective_rpc(_draw_by_seed))
        self._engine: Any = self._llm.llm_engine
        self._futures: dict[str, asyncio.Future[Any]] = {}
        self._names = itertools.count()
        self._pump: asyncio.Task[None] | None = None

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        name = str(next(self._names))
        prompt = {"prompt_token_ids": list(token_ids)}
        params = replace(params, alternatives=min(params.alternatives, self._vocabulary))
        asked = _vllm_params(params, generator=not self._draws_by_seed)
        self._engine.add_request(name, prompt, asked, lora_request=self._adapter_request)
        future = self._futures[name] = asyncio.get_running_loop().create_future()
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run_engine())
        try:
            output = (await future).outputs[0]
        finally:
            if self._futures.pop(name, None):  # cancelled, or the engine failed
                self._engine.abort_request([name])
        sampled = list(output.token_ids)
        logprobs = []
        if params.temperature > 0:
            logprobs = [at[token].logprob for at, token in zip(output.logprobs, sampled, strict=True)]
        reason = "stop" if output.finish_reason == "stop" else "length"
        alternatives = likeliest(output.logprobs, params.alternatives) if params.alternatives else []
        return Completion(sampled, logprobs, reason, self.policy_version, alternatives)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> None:
        factors: dict[str, Tensor] = {}
        base = put_aside(weights, factors)
        for first in base:
            self._load_base(itertools.chain([first], base))
        if factors:
            self._load_adapter(factors)
        # keys and values computed with the old weights must not be reused
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("weights were replaced while completions were being sampled")
        self.policy_version = policy_version

    def _load_base(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        pairs = self._with_tied_head(weights) if self._tied else weights
        if self._conversions:
            pairs = self._as_published(pairs)
        if not torch.cuda.is_available():
            self._llm.apply_model(_forget_expert_kernels)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(pairs)})

    def _load_adapter(self, factors: dict[str, Tensor]) -> None:
        """Replace the adapter; raises RuntimeError if vLLM has no place for one of its layers."""
        from vllm.lora.request import LoRARequest

        # vLLM knows an adapter by its number, and keys and values by its name and path: each version has its own
        number = next(self._versions)
        folder = tempfile.TemporaryDirectory(prefix="llmrl-adapter-")
        self._adapter.active_peft_config.save_pretrained(folder.name)
        save_file({name: one.contiguous() for name, one in factors.items()}, f"{folder.name}/adapter_model.safetensors")
        request = LoRARequest(f"version-{number}", number, folder.name)
        self._engine.add_lora(request)
        if dropped := sorted({name for one in self._llm.apply_model(dropped_layers) for name in one}):
            raise RuntimeError(f"vLLM drops the adapter of {len(dropped)} layers, {dropped[0]} among them")
        self._adapter_request = request
        self._adapter_folder = folder  # kept, because vLLM reads it again after the base is replaced

    def close(self) -> None:
        """Release the engine and its memory; another sampler can be made in this process afterwards."""
        if self._engine is None:
            return
        engine_core = self._engine.engine_core
        self._llm = self._engine = self._adapter_folder = None
        with vllm_shared_state.ends(self):
            engine_core.shutdown()
        del engine_core
        gc.collect()

    async def _run_engine(self) -> None:
        """Step the engine while requests are unfinished; between steps other work of the event loop goes on."""
        await asyncio.sleep(0)  # let every caller of this turn of the loop add its request first
        try:
            while self._engine.has_unfinished_requests():
                outputs = self._step()
                for output in outputs:
                    if output.finished:
                        future = self._futures.pop(output.request_id, None)
                        if future and not future.done():
                            future.set_result(output)
                await asyncio.sleep(0)
        except Exception as error:
            for future in self._futures.values():
                if not future.done():
                    future.set_exception(RuntimeError(f"vLLM failed: {type(error).__name__}: {error}"))

    def _step(self) -> list[Any]:
        """One step of the engine, which may draw from the global random stream, and uses torch's threads."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1 if self._one_thread else threads)
        try:
            with torch.random.fork_rng(_devices()), span("engine"):
                return self._engine.step()
        finally:
            torch.set_num_threads(threads)

    def _as_published(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Weights in the form of checkpoints; transformers holds some in another form, such as all experts in one."""
        for name, weight in weights:
            yield from revert_weight_conversion(self._shape, {name: weight}).items()

    @staticmethod
    def _with_tied_head(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Adds the tied head: vLLM's CPU head keeps a packed copy of the embedding, which has to be sent too."""
        for name, weight in weights:
            yield name, weight
            if name.endswith(("embed_tokens.weight", "wte.weight")):
                yield "lm_head.weight", weight


def reason_to_merge(config: Any, lora: Lora) -> str | None:
    """The reason why vLLM is given merged weights and not the adapter; None if it is given the adapter.

    vLLM adapts the linear layers of the architectures that it says so of; experts on GPUs alone, and in another form.
    """
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.interfaces import supports_lora

    adapted = adapted_outline(config, lora)
    lm = adapted.get_base_model()
    layers = {name: layer for name, layer in lm.named_modules() if isinstance(layer, LoraLayer)}
    head = lm.get_output_embeddings()
    others = sorted({
        name.replace(".base_layer", "").rpartition(".")[2]
        for name, layer in layers.items()
        if not isinstance(layer.get_base_layer(), nn.Linear) or head in (layer, layer.get_base_layer())
    })  # fmt: skip
    if others:
        return f"vLLM does not adapt {', '.join(others)} of {config.model_type}"
    architecture = ModelRegistry.models.get(type(lm).__name__)
    if architecture is None or not supports_lora(architecture.load_model_cls()):
        return f"vLLM adapts no {config.model_type} models"
    renamed = [name for name in base_parameters(adapted) if name.removesuffix(".weight") in layers]
    if get_model_conversion_mapping(lm, add_legacy=False):
        renamed = [name for name in renamed if [*revert_weight_conversion(lm, {name: head.weight})] != [name]]
        if renamed:
            return f"vLLM has other names for {renamed[0]}"
    return None


def _draw_by_seed(worker: Any) -> bool:
    from vllm.v1.outputs import LogprobsTensors
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

    return draw_by_seed(worker, shaped=apply_top_k_top_p, pack=LogprobsTensors)


def _vllm_params(params: SamplingParams, *, generator: bool) -> Any:
    """generator: whether vLLM makes one of the seed."""
    from vllm import SamplingParams as VllmParams

    return VllmParams(
        max_tokens=params.max_tokens,
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k or 0,
        stop=list(params.stop) or None,
        stop_token_ids=list(params.stop_token_ids),
        ignore_eos=True,  # stop_token_ids has the end-of-sequence tokens
        seed=params.seed if generator else None,
        extra_args={SEED: params.seed},
        logprobs=params.alternatives if params.temperature > 0 or params.alternatives else None,
        detokenize=bool(params.stop),
        skip_special_tokens=False,  # a stop string may be one
    )


def _cpu_options(config: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """vLLM's settings for a CPU: no compilation, small blocks, a cache as large as the work, prefills in parts."""
    wanted = _kv_cache_bytes(config, arguments)
    return {
        "enforce_eager": True,
        "block_size": BLOCK,
        "kv_cache_memory_bytes": max(LEAST_KV_CACHE_BYTES, min(wanted, CPU_KV_CACHE_LIMIT_BYTES)),
        "enable_chunked_prefill": True,
        "max_num_batched_tokens": max(CPU_STEP_TOKENS, arguments["max_num_seqs"]),
    }


def _gpu_options(
    config: Any, arguments: dict[str, Any], given: dict[str, Any], weights: int, free: int, whole: int
) -> dict[str, Any]:
    """vLLM's share of a GPU that the trainer lives on too: a cache as large as the work, unless the recipe says.

    By itself vLLM takes nine tenths of the GPU and refuses to start where less is free. weights: the sampler's bytes;
    free, whole: the GPU's. The cache gets at most half of what the weights leave, since training needs room as well.
    """
    if any(name in given for name in GPU_MEMORY):
        return {}
    cache = max(LEAST_KV_CACHE_BYTES, min(_kv_cache_bytes(config, arguments), (free - weights) // 2))
    # with a given cache this is only what has to be free at the start
    return {"kv_cache_memory_bytes": cache, "gpu_memory_utilization": min(0.9, (weights + cache) / whole)}


def _kv_cache_bytes(config: Any, arguments: dict[str, Any]) -> int:
    """The keys and values of all completions that run at once, in whole blocks, and a block that vLLM keeps empty."""
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    per_token = 2 * config.num_hidden_layers * heads * head_dim * (4 if arguments["dtype"] == "float32" else 2)
    blocks = arguments["max_num_seqs"] * -(-arguments["max_model_len"] // BLOCK) + 1
    return per_token * blocks * BLOCK


def _devices() -> list[int]:
    """The GPU whose random stream is this process's, if there is one."""
    return [torch.cuda.current_device()] if torch.cuda.is_available() else []


def _forget_expert_kernels(model: Any) -> None:
    """Remove the kernels of expert layers, which are then made anew when weights are loaded.

    vLLM packs and pads experts' weights for a CPU when it makes a kernel; an old kernel would read unpacked weights.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if isinstance(method, UnquantizedFusedMoEMethod):
            method.moe_kernel = None


@contextmanager
def _left_as_it_was() -> Iterator[None]:
    """Restores the global random streams and torch's thread setting, which building an engine changes."""
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    python_state, numpy_state = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(_devices()):
            yield
    finally:
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
        random.setstate(python_state)
        np.random.set_state(numpy_state)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides standard error, that of C++ too, unless the body raises or LLMRL_VERBOSE is set."""
    if os.environ.get("LLMRL_VERBOSE"):
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as notes, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        os.dup2(notes.fileno(), 2)
        try:
            yield
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
