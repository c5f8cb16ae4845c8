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
from collections.abc import Iterable, Iterator, Mapping
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
    AdapterSampler,
    adapter_options,
    dropped_layers,
    multiply_once,
    put_aside,
)
from llmrl.rollout.vllm_draw import SEED, draw_by_seed, likeliest
from llmrl.rollout.vllm_options import machine_options
from llmrl.spans import span

# read when vllm is imported: the engine must live in this process, where the trainer's weights are
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
SMALL_WEIGHTS_BYTES = 64 * 2**20
"""A model under this size is sampled with one thread, since handing work to others costs as much as the work."""


class VllmSampler:
    """Starts with dummy weights; the real ones come from the trainer.

    adapters: the settings of each, by name; this is the sampler of the first. vLLM is given the adapters themselves,
    unless `reason_to_merge` has one not to.

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
        adapters: Mapping[str, Lora] | None = None,
    ):
        adapters = adapters or {}
        config = AutoConfig.from_pretrained(str(folder))
        self.policy_version, self.base = -1, self
        self._vocabulary: int = config.get_text_config().vocab_size
        self._tied = bool(config.get_text_config().tie_word_embeddings)
        with torch.device("meta"):
            self._shape: Any = AutoModelForCausalLM.from_config(config)
        self._conversions = bool(get_model_conversion_mapping(self._shape, add_legacy=False))
        self.takes_adapter = bool(adapters) and not any(reason_to_merge(config, lora) for lora in adapters.values())
        self._adapter = next(iter(adapters)) if self.takes_adapter else None
        self._requests: dict[str | None, Any] = {}
        self._folders: dict[str | None, tempfile.TemporaryDirectory[str]] = {}
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
        arguments |= machine_options(config.get_text_config(), arguments, options, weights)
        if self.takes_adapter:
            self._outlines: dict[str | None, Any] = {n: adapted_outline(config, lora) for n, lora in adapters.items()}
            arguments |= adapter_options(self._outlines.values(), adapters)
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
        return await self.sample_by(self._adapter, token_ids, params)

    def with_adapter(self, adapter: str | None) -> VllmSampler | AdapterSampler:
        return self if adapter == self._adapter else AdapterSampler(self, adapter)

    async def sample_by(self, adapter: str | None, token_ids: list[int], params: SamplingParams) -> Completion:
        """`sample`, by one of the adapters; None: by the base alone."""
        name = str(next(self._names))
        prompt = {"prompt_token_ids": list(token_ids)}
        params = replace(params, alternatives=min(params.alternatives, self._vocabulary))
        with span("engine"):
            asked = _vllm_params(params, generator=not self._draws_by_seed)
            self._engine.add_request(name, prompt, asked, lora_request=self._requests.get(adapter))
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
        self.load_of(self._adapter, weights)
        self.policy_version = policy_version

    def load_of(self, adapter: str | None, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Replace the base, or the factors of one of the adapters, or both."""
        factors: dict[str, Tensor] = {}
        base = put_aside(weights, factors)
        for first in base:
            self._load_base(itertools.chain([first], base))
        if factors:
            self._load_adapter(adapter, factors)
        # keys and values computed with the old weights must not be reused
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("weights were replaced while completions were being sampled")

    def _load_base(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        pairs = self._with_tied_head(weights) if self._tied else weights
        if self._conversions:
            pairs = self._as_published(pairs)
        if not torch.cuda.is_available():
            self._llm.apply_model(_forget_expert_kernels)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(pairs)})

    def _load_adapter(self, adapter: str | None, factors: dict[str, Tensor]) -> None:
        """Replace an adapter; raises RuntimeError if vLLM has no place for one of its layers."""
        from vllm.lora.request import LoRARequest

        # vLLM knows an adapter by its number, and keys and values by its name and path: each version has its own
        number = next(self._versions)
        folder = tempfile.TemporaryDirectory(prefix="llmrl-adapter-")
        self._outlines[adapter].active_peft_config.save_pretrained(folder.name)
        save_file({name: one.contiguous() for name, one in factors.items()}, f"{folder.name}/adapter_model.safetensors")
        request = LoRARequest(f"version-{number}", number, folder.name)
        if before := self._requests.pop(adapter, None):  # the slots are as many as the adapters
            self._engine.remove_lora(before.lora_int_id)
        self._engine.add_lora(request)
        if dropped := sorted({name for one in self._llm.apply_model(dropped_layers) for name in one}):
            raise RuntimeError(f"vLLM drops the adapter of {len(dropped)} layers, {dropped[0]} among them")
        self._requests[adapter] = request
        self._folders[adapter] = folder  # kept, because vLLM reads it again after the base is replaced

    def close(self) -> None:
        """Release the engine and its memory; another sampler can be made in this process afterwards."""
        if self._engine is None:
            return
        engine_core = self._engine.engine_core
        self._llm = self._engine = None
        self._folders.clear()
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
