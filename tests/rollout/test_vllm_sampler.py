"""The vLLM sampler with the real engine, on the CPU and in this process: the contract, and what is its own."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.distributed as dist
from sampler_contract import (
    ADAPTERS,
    CHARACTERS,
    CONFIG,
    MAX_LEN,
    PROMPTS,
    TOLERANCE,
    SamplerContract,
    adapted,
    check_adapters,
    check_shared_base,
    language_model,
    mismatch,
    sample_all,
)
from transformers import AutoConfig

from llmrl.models.loading import load_tokenizer
from llmrl.models.origins import materialize
from llmrl.models.weights import merged_weights
from llmrl.recipe import Build, Lora, Model
from llmrl.rollout.catalogue import VLLM_RANKS
from llmrl.rollout.sampler import SamplingParams

pytest.importorskip("vllm")

from llmrl.rollout import vllm_sampler
from llmrl.rollout.vllm_options import gpu_options
from llmrl.rollout.vllm_sampler import VllmSampler


def make(folder: Path, tokenizer: Any, dtype: str = "fp32", **options: Any) -> VllmSampler:
    return VllmSampler(folder, tokenizer, dtype=dtype, max_model_len=MAX_LEN, max_concurrent=16, options=options)


@pytest.fixture(scope="module")
def sampler(folder, tokenizer):
    made = make(folder, tokenizer)
    yield made
    made.close()


class TestContract(SamplerContract):
    def break_engine(self, sampler, monkeypatch):
        step, steps = sampler._engine.step, iter(range(100))

        def fails_later() -> Any:
            if next(steps) == 3:
                raise MemoryError("out of memory")
            return step()

        monkeypatch.setattr(sampler._engine, "step", fails_later)


def test_a_cached_prefix_is_used_until_the_weights_change(sampler, lm, other_lm, monkeypatch):
    cached: list[int] = []
    step = sampler._engine.step

    def watched() -> Any:
        outputs = step()
        cached.extend(output.num_cached_tokens for output in outputs if output.finished)
        return outputs

    monkeypatch.setattr(sampler._engine, "step", watched)
    params = SamplingParams(max_tokens=8)
    sampler.load_weights(merged_weights(lm), 1)
    for expected in (0, 96):  # 100 tokens are three whole blocks of 32
        [found] = sample_all(sampler, PROMPTS[:1], params)
        assert cached.pop() == expected
        assert mismatch(lm, PROMPTS[:1], [found], 1.0) < TOLERANCE
    sampler.load_weights(merged_weights(other_lm), 2)
    [found] = sample_all(sampler, PROMPTS[:1], params)
    assert cached.pop() == 0
    assert mismatch(other_lm, PROMPTS[:1], [found], 1.0) < TOLERANCE


def test_a_group_computes_its_prompt_once(sampler, lm, monkeypatch):
    """8 completions that are asked for at once: 100 tokens, then 4 each behind the three whole blocks of 32."""
    scheduler, steps = sampler._engine.engine_core.engine_core.scheduler, []
    schedule = scheduler.schedule

    def watched(*args: Any, **kwargs: Any) -> Any:
        planned = schedule(*args, **kwargs)
        steps.append(planned.total_num_scheduled_tokens)
        return planned

    monkeypatch.setattr(scheduler, "schedule", watched)
    sampler.load_weights(merged_weights(lm), 3)  # which empties the cache
    group = sample_all(sampler, PROMPTS[:1] * 8, SamplingParams(max_tokens=3))
    assert steps == [100 + 7 * 4, 8, 8]
    assert mismatch(lm, PROMPTS[:1] * 8, group, 1.0) < TOLERANCE


def test_a_small_model_is_sampled_with_one_thread(sampler, monkeypatch):
    seen, step = set(), sampler._engine.step
    monkeypatch.setattr(sampler._engine, "step", lambda: seen.add(torch.get_num_threads()) or step())
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sample_all(sampler, PROMPTS[:1], SamplingParams(max_tokens=2))
        assert (seen, torch.get_num_threads()) == ({1}, 2)
    finally:
        torch.set_num_threads(before)


def test_a_prompt_that_is_too_long_fails_alone(sampler):
    async def both() -> list[Any]:
        work = (sampler.sample(ids, SamplingParams(max_tokens=5)) for ids in (PROMPTS[0], [3] * (MAX_LEN + 1)))
        return await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 30)

    fine, fault = asyncio.run(both())
    assert len(fine.token_ids) == 5
    assert f"{MAX_LEN} tokens" in str(fault)


def test_weights_cannot_be_replaced_while_sampling(sampler, lm):
    async def replace_early() -> None:
        work = asyncio.create_task(sampler.sample(PROMPTS[0], SamplingParams(max_tokens=50)))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="while completions were being sampled"):
            sampler.load_weights(merged_weights(lm), 9)
        await work

    asyncio.run(replace_early())


def test_a_build_that_fails_is_not_quiet(capfd, monkeypatch):
    monkeypatch.delenv("LLMRL_VERBOSE", raising=False)
    with pytest.raises(ZeroDivisionError), vllm_sampler._quiet():
        os.write(2, b"from C\n")
        raise ZeroDivisionError
    with vllm_sampler._quiet():
        os.write(2, b"nothing of interest\n")
    monkeypatch.setenv("LLMRL_VERBOSE", "1")
    with vllm_sampler._quiet():
        os.write(2, b"asked for\n")
    assert capfd.readouterr().err == "from C\nasked for\n"


# From here on the module's engine is closed, and others are made.


def test_another_sampler_outlives_the_first_and_the_process_is_left_as_it_was(sampler, folder, tokenizer, lm, capfd):
    [expected] = sample_before_closing(sampler, lm)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    capfd.readouterr()
    second = make(folder, tokenizer, max_num_batched_tokens=40)  # the prompt of 100 tokens is prefilled in parts
    assert capfd.readouterr().err == ""
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert (torch.set_num_threads, torch.get_num_threads()) == (set_threads, threads)
    sampler.close()
    sampler.close()  # twice is once
    assert dist.is_initialized()
    [found] = sample_before_closing(second, lm)
    assert (found.token_ids, found.logprobs) == (expected.token_ids, pytest.approx(expected.logprobs, abs=TOLERANCE))
    second.close()
    assert not dist.is_initialized()


@pytest.mark.parametrize(
    ("given", "free", "expected"),
    [
        # 2 x 2 layers x 2 heads x 32 x 2 bytes = 512 a token, 16 completions of 192 tokens: 1.5 MiB, at least 64
        ({}, 70 * 2**30, {"kv_cache_memory_bytes": 64 * 2**20, "gpu_memory_utilization": (2**30 + 2**26) / 80 / 2**30}),
        ({"max_model_len": 2**20}, 9 * 2**30, {"kv_cache_memory_bytes": 4 * 2**30, "gpu_memory_utilization": 5 / 80}),
        ({"gpu_memory_utilization": 0.4}, 70 * 2**30, {}),
        ({"kv_cache_memory_bytes": 777}, 70 * 2**30, {}),
    ],
)
def test_a_gpus_memory_is_shared_with_the_trainer(given, free, expected, folder):
    """Weights of 1 GiB on a GPU of 80: a cache as large as the work, within half of what the weights leave."""
    config = AutoConfig.from_pretrained(str(folder))
    arguments = {"dtype": "bfloat16", "max_num_seqs": 16, "max_model_len": MAX_LEN} | given
    assert gpu_options(config, arguments, given, 2**30, free, 80 * 2**30) == pytest.approx(expected)


def sample_before_closing(sampler: VllmSampler, lm: Any) -> Any:
    sampler.load_weights(merged_weights(lm), 7)
    return sample_all(sampler, PROMPTS[:1], SamplingParams(max_tokens=30))


def test_experts_follow_the_trainers(tmp_path):
    """vLLM knows Mixtral's experts by their published names only, and pads 48 to 64 on a CPU."""
    config = {key: value for key, value in CONFIG.items() if key != "head_dim"}
    config |= {"num_attention_heads": 2, "intermediate_size": 48, "num_local_experts": 4, "num_experts_per_tok": 2}
    spec = Model(build=Build(architecture="mixtral", config=config, characters=CHARACTERS))
    folder = materialize(spec, tmp_path / "model", 0)
    lms = [language_model(folder, seed) for seed in (1, 2)]
    with torch.no_grad():  # the same but for one expert
        lms.append(language_model(folder, 2))
        lms[2].get_parameter("model.layers.1.mlp.experts.down_proj")[3] += 0.3
    moe = make(folder, load_tokenizer(folder))
    try:
        for version, lm in enumerate(lms):
            moe.load_weights(merged_weights(lm), version)
            completions = sample_all(moe, PROMPTS, SamplingParams(max_tokens=20))
            assert mismatch(lm, PROMPTS, completions, 1.0) < 1e-5
            assert all(mismatch(other, PROMPTS, completions, 1.0) > 0.02 for other in lms if other is not lm)
    finally:
        moe.close()


def test_the_trainers_process_group_outlives_a_sampler_and_bf16(folder, tokenizer, lm, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        for dtype, lower, upper in (("bf16", 1e-3, 0.3), ("fp32", 0.0, TOLERANCE)):
            sampler = make(folder, tokenizer, dtype)
            sampler.load_weights(merged_weights(lm), 0)
            found = mismatch(lm, PROMPTS, sample_all(sampler, PROMPTS, SamplingParams(max_tokens=40)), 1.0)
            print(f"{dtype} mismatch {found:.1e}")
            assert lower <= found < upper
            sampler.close()
            total = torch.tensor([5.0])
            dist.all_reduce(total)
            assert total.item() == 5.0
    finally:
        dist.destroy_process_group()


def test_adapters_are_served_as_they_are_on_one_base(folder, tokenizer):
    sampler = VllmSampler(
        folder, tokenizer, dtype="fp32", max_model_len=MAX_LEN, max_concurrent=32, options={}, adapters=ADAPTERS
    )
    try:
        check_shared_base(sampler, folder, tokenizer)
        check_adapters(sampler, adapted(folder))
    finally:
        sampler.close()


@pytest.mark.parametrize(
    ("architecture", "lora", "reason"),
    [
        ("qwen3", {}, None),
        ("qwen3_moe", {}, "vLLM does not adapt experts, gate of qwen3_moe"),
        ("qwen3_moe", {"target_modules": ["q_proj", "v_proj"]}, None),
        ("llama", {"target_modules": ["q_proj", "lm_head"]}, "vLLM does not adapt lm_head of llama"),
        ("llama", {"target_modules": ["q_proj", "embed_tokens"]}, "vLLM does not adapt embed_tokens of llama"),
        ("gpt2", {}, "vLLM does not adapt c_attn, c_fc, c_proj of gpt2"),
        ("stablelm", {}, "vLLM adapts no stablelm models"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_adapter_that_vllm_cannot_serve_is_merged(architecture, lora, reason):
    few = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 2, "tie_word_embeddings": False}
    config = AutoConfig.for_model(architecture, **few)
    assert vllm_sampler.reason_to_merge(config, Lora(**lora)) == reason


def test_the_ranks_are_vllms():
    from vllm.config.lora import MaxLoRARanks

    assert get_args(MaxLoRARanks) == VLLM_RANKS
