"""What every Sampler must do: tests that each implementation's module inherits."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from llmrl.models.loading import load_language_model
from llmrl.models.policy import Policy
from llmrl.models.text import decoder
from llmrl.models.weights import adapter_parameters, adapter_weights, base_parameters, base_weights, merged_weights
from llmrl.recipe import Lora
from llmrl.rollout.sampler import Completion, Sampler, SamplingParams, derive_seed
from llmrl.rollout.transformers_sampler import TransformersSampler

CHARACTERS = "0123456789+-*/= abcdef"  # with <pad> 0, <eos> 1 and <unk> 2: 25 tokens
LONGER = {"e": "e|x", "f": "f|"}  # tokens of several characters, which a stop string may end in
TEXTS = ["<pad>", "<eos>", "<unk>", *(LONGER.get(text, text) for text in CHARACTERS)]
CONFIG: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
VOCABULARY = 3 + len(CHARACTERS)
EOS = 1
MAX_LEN = 192
TOLERANCE = 3e-5
# longer than two blocks of 32 tokens, so that a prefix cache has something to keep
PROMPTS = [
    [3 + (7 * i + i * i // 3 + n) % 20 for i in range(length)] for n, length in enumerate((100, 5, 75, 1, 33, 64))
]


def language_model(folder: Path, seed: int) -> Any:
    lm: Any = load_language_model(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in lm.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return lm.eval()


def gather(*work: Coroutine[Any, Any, Completion], seconds: float = 60.0) -> list[Completion]:
    async def together():
        return await asyncio.wait_for(asyncio.gather(*work), seconds)

    return asyncio.run(together())


def sample_all(sampler: Sampler, prompts: Sequence[list[int]], params: SamplingParams, seed: int = 0):
    """A completion of each prompt, seeded by its place, all at once."""
    asked = [replace(params, seed=derive_seed(seed, place)) for place in range(len(prompts))]
    return gather(*(sampler.sample(ids, one) for ids, one in zip(prompts, asked, strict=True)))


def policy_logprobs(lm: Any, prompt: list[int], completion: list[int], temperature: float = 1.0) -> torch.Tensor:
    """What the trainer gives the same tokens, unpadded."""
    token_ids = torch.tensor([prompt + completion])
    response_mask = torch.arange(token_ids.shape[1])[None] >= len(prompt)
    with torch.no_grad():
        found = Policy(lm, temperature=temperature)(token_ids, torch.ones_like(response_mask), response_mask)
    logprobs = found["logprobs"]
    return logprobs[0, len(prompt) :]


def mismatch(lm: Any, prompts: Sequence[list[int]], completions: Sequence[Completion], temperature: float) -> float:
    """The largest difference between the sampler's log-probabilities and the trainer's."""
    assert all(len(c.logprobs) == len(c.token_ids) for c in completions)
    return max(
        float((torch.tensor(c.logprobs) - policy_logprobs(lm, ids, c.token_ids, temperature)).abs().max())
        for ids, c in zip(prompts, completions, strict=True)
    )


def truncated(logits: torch.Tensor, temperature: float, top_p: float, top_k: int | None) -> list[float]:
    """Probabilities after temperature, then top_k, then top_p, one token at a time."""
    weights = [math.exp(x) for x in (logits.double() / temperature).tolist()]
    ranked = sorted(range(len(weights)), key=lambda token: -weights[token])[: top_k or len(weights)]
    total, mass, kept = sum(weights[token] for token in ranked), 0.0, []
    for token in ranked:
        if mass >= top_p:
            break
        kept.append(token)
        mass += weights[token] / total
    remaining = sum(weights[token] for token in kept)
    return [weights[token] / remaining if token in kept else 0.0 for token in range(len(weights))]


def adapted(folder: Path, dtype: Literal["fp32", "bf16"] = "fp32", **settings: Any) -> Any:
    """`language_model` with an adapter that already does something."""
    lm: Any = load_language_model(folder, dtype, Lora(**{"rank": 3, "alpha": 5.0} | settings))
    draw_adapter(lm, 1)
    return lm.eval()


def draw_adapter(lm: Any, seed: int, *, size: float = 0.3) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, factor in adapter_parameters(lm).items():
        if "lora_B" in name:
            factor.data.copy_(size * torch.randn(factor.shape, generator=generator))


def check_adapters(sampler: Sampler, lm: Any, *, tolerance: float = 1e-5) -> None:
    """The base is sent once; each adapter that follows is sampled from, prompts that were seen before included."""
    assert sampler.takes_adapter
    sampler.load_weights(itertools.chain(base_weights(lm), adapter_weights(lm)), 0)
    params = SamplingParams(max_tokens=12)
    for seed in (1, 2, 3):
        if seed > 1:
            draw_adapter(lm, seed)
            sampler.load_weights(adapter_weights(lm), seed)
        found = sample_all(sampler, PROMPTS, params)
        assert mismatch(lm, PROMPTS, found, 1.0) < tolerance
        with lm.disable_adapter():
            assert mismatch(lm, PROMPTS, found, 1.0) > 0.1
    draw_adapter(lm, 4)
    assert mismatch(lm, PROMPTS, found, 1.0) > 0.1
    again = [(name, 2 * weight) for name, weight in base_weights(lm)]  # the adapter stays
    sampler.load_weights(again, 4)
    draw_adapter(lm, 3)
    for weight in base_parameters(lm).values():
        weight.data.mul_(2)
    assert mismatch(lm, PROMPTS, sample_all(sampler, PROMPTS, params), 1.0) < tolerance


ADAPTERS = {
    "actor": Lora(rank=3, alpha=5.0),
    "critiquer": Lora(rank=9, alpha=8.0, target_modules=["q_proj", "down_proj"]),
}


def check_shared_base(sampler: Any, folder: Path, tokenizer: Any, *, tolerance: float = 1e-5) -> None:
    """Samplers of two ADAPTERS and of the base alone, on one base and at once, sample as those that are alone."""
    lms = {name: adapted(folder, **lora.model_dump()) for name, lora in ADAPTERS.items()}
    actor, critiquer, plain = (sampler.with_adapter(name) for name in ("actor", "critiquer", None))
    assert actor.base is critiquer.base is plain.base and not plain.takes_adapter
    draw_adapter(lms["critiquer"], 2)
    critiquer.load_weights(itertools.chain(base_weights(lms["actor"]), adapter_weights(lms["critiquer"])), 7)
    actor.load_weights(adapter_weights(lms["actor"]), 8)
    plain.load_weights([], 9)
    lms["base"] = load_language_model(folder)
    together = {"actor": actor, "critiquer": critiquer, "base": plain}
    params = [SamplingParams(max_tokens=12, seed=seed) for seed in range(len(PROMPTS))]
    for turn in (1, 2):
        asked = [one.sample(ids, how) for ids, how in zip(PROMPTS, params, strict=True) for one in together.values()]
        found = gather(*asked)
        for name, lm in lms.items():
            own = found[list(together).index(name) :: 3]
            assert mismatch(lm, PROMPTS, own, 1.0) < tolerance
            alone = TransformersSampler(lm, tokenizer)
            alone.load_weights(itertools.chain(base_weights(lm), adapter_weights(lm)), 0)
            expected = gather(*(alone.sample(ids, how) for ids, how in zip(PROMPTS, params, strict=True)))
            assert [one.token_ids for one in own] == [one.token_ids for one in expected]
        assert [one.policy_version for one in found[:3]] == [8, 6 + turn, 9]
        draw_adapter(lms["critiquer"], 3)
        critiquer.load_weights(adapter_weights(lms["critiquer"]), 8)
    for one, lm in itertools.permutations(lms, 2):
        assert mismatch(lms[lm], PROMPTS, found[list(together).index(one) :: 3], 1.0) > 0.1


class SamplerContract:
    """Inherited by a module that has a `sampler` fixture and says how to `break_engine`."""

    def break_engine(self, sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def trainers_weights(self, sampler, lm):
        sampler.load_weights(merged_weights(lm), 3)

    @pytest.mark.parametrize("temperature", [1.0, 0.7])
    def test_logprobs_are_the_trainers(self, sampler, lm, temperature, record_property):
        params = SamplingParams(max_tokens=40, temperature=temperature)
        completions = sample_all(sampler, PROMPTS, params)
        found = mismatch(lm, PROMPTS, completions, temperature)
        record_property("mismatch", found)
        print(f"{type(sampler).__name__} T={temperature}: mismatch {found:.1e}")
        assert found < TOLERANCE
        # the distributions are far from uniform, or the test would say little
        assert np.std([logprob for c in completions for logprob in c.logprobs]) > 0.5

    def test_new_weights_are_sampled_from_and_stamped(self, sampler, lm, other_lm):
        params = SamplingParams(max_tokens=20)
        before = sample_all(sampler, PROMPTS, params)
        sampler.load_weights(merged_weights(other_lm), 4)
        after = sample_all(sampler, PROMPTS, params)
        assert mismatch(other_lm, PROMPTS, after, 1.0) < TOLERANCE
        assert mismatch(lm, PROMPTS, after, 1.0) > 0.1
        assert {c.policy_version for c in before} == {3}
        assert {c.policy_version for c in after} == {4}
        sampler.load_weights(merged_weights(lm), 5)
        assert [c.token_ids for c in sample_all(sampler, PROMPTS, params)] == [c.token_ids for c in before]

    def test_seeds_alone_decide_the_tokens(self, sampler):
        params = SamplingParams(max_tokens=25)
        together = sample_all(sampler, PROMPTS, params)
        again = sample_all(sampler, PROMPTS, params)
        assert [c.token_ids for c in together] == [c.token_ids for c in again]
        for place in (0, 3, 5):  # alone
            [alone] = gather(sampler.sample(PROMPTS[place], replace(params, seed=derive_seed(0, place))))
            assert alone.token_ids == together[place].token_ids
            assert alone.logprobs == pytest.approx(together[place].logprobs, abs=TOLERANCE)
        others = sample_all(sampler, PROMPTS, params, seed=1)
        assert all(a.token_ids != b.token_ids for a, b in zip(together, others, strict=True))

    def test_many_tasks_that_start_at_odd_times(self, sampler):
        params = SamplingParams(max_tokens=12)
        prompts = [PROMPTS[i % 6] for i in range(40)]
        expected = sample_all(sampler, prompts, params)

        async def late(place: int) -> Completion:
            await asyncio.sleep(0.002 * (place * 7 % 11))
            own = replace(params, max_tokens=3 + place % 10, seed=derive_seed(0, place))
            return await sampler.sample(prompts[place], own)

        for place, found in enumerate(gather(*(late(place) for place in range(40)))):
            assert found.token_ids == expected[place].token_ids[: 3 + place % 10]
            assert found.stop_reason == "length"

    @pytest.mark.parametrize("temperature", [0.0, 0.7])
    def test_alternatives_are_the_likeliest_tokens(self, sampler, lm, temperature):
        """Greedily sampled ones at temperature 1; a request beside them that asks for none has none."""
        params = SamplingParams(max_tokens=4, temperature=temperature, alternatives=3)
        found, besides, every = gather(
            sampler.sample(PROMPTS[1], params),
            sampler.sample(PROMPTS[4], replace(params, alternatives=0)),
            sampler.sample(PROMPTS[5], replace(params, alternatives=1000)),
        )
        assert [len(at) for at in found.alternatives] == [3] * 4
        assert besides.alternatives == []
        assert {len(at) for at in every.alternatives} == {VOCABULARY}
        token_ids = torch.tensor([[*PROMPTS[1], *found.token_ids]])
        with torch.no_grad():
            logits = lm(token_ids).logits[0, len(PROMPTS[1]) - 1 : -1] / (temperature or 1.0)
        values, ids = logits.log_softmax(-1).topk(3)
        assert [[token for token, _ in at] for at in found.alternatives] == ids.tolist()
        likeliest = torch.tensor([[logprob for _, logprob in at] for at in found.alternatives])
        assert torch.allclose(likeliest, values, atol=TOLERANCE)

    def test_stop_token_ids(self, sampler):
        params = SamplingParams(max_tokens=30)
        for prompt, free in zip(PROMPTS, sample_all(sampler, PROMPTS, params), strict=True):
            assert (len(free.token_ids), free.stop_reason) == (30, "length")
            stops = (free.token_ids[7], free.token_ids[12])
            end = min(free.token_ids.index(token) for token in stops) + 1
            asked = replace(params, stop_token_ids=stops, seed=derive_seed(0, PROMPTS.index(prompt)))
            [stopped] = gather(sampler.sample(prompt, asked))
            assert (stopped.token_ids, stopped.stop_reason) == (free.token_ids[:end], "stop")
            assert len(stopped.logprobs) == end

    def test_a_stop_on_the_last_token_allowed_is_a_stop(self, sampler):
        params = SamplingParams(max_tokens=10)
        [free] = sample_all(sampler, PROMPTS[:1], params)
        new = next(at for at, token in enumerate(free.token_ids) if at > 2 and token not in free.token_ids[:at])
        asked = replace(params, max_tokens=new + 1, stop_token_ids=(free.token_ids[new],))
        [stopped] = sample_all(sampler, PROMPTS[:1], asked)
        assert (len(stopped.token_ids), stopped.stop_reason) == (new + 1, "stop")

    def test_stop_strings(self, sampler, tokenizer):
        params = SamplingParams(max_tokens=30)
        for place, free in enumerate(sample_all(sampler, PROMPTS, params)):
            stop = tokenizer.decode(free.token_ids[9:12])  # three tokens, and perhaps earlier than there
            end = next(n for n in range(1, 31) if stop in tokenizer.decode(free.token_ids[:n]))
            asked = replace(params, stop=(stop, "never there"), seed=derive_seed(0, place))
            [stopped] = gather(sampler.sample(PROMPTS[place], asked))
            assert (stopped.token_ids, stopped.stop_reason) == (free.token_ids[:end], "stop")
            assert len(stopped.logprobs) == end

    def test_stop_strings_that_end_inside_a_token(self, sampler, lm, tokenizer):
        """The token is kept whole, text behind the stop string and all, and can be continued from as it is."""
        params = SamplingParams(max_tokens=30)
        prompts, cut = PROMPTS * 3, 0
        for place, free in enumerate(sample_all(sampler, prompts, params)):
            texts = [tokenizer.decode(token) for token in free.token_ids]
            if "e|x" not in texts[1:]:
                continue
            before = texts[texts.index("e|x", 1) - 1]
            for stop in ("|", before[-1] + "e|"):
                end = next(n for n in range(1, 31) if stop in "".join(texts[:n]))
                asked = replace(params, stop=(stop,), seed=derive_seed(0, place))
                [stopped] = gather(sampler.sample(prompts[place], asked))
                assert (stopped.token_ids, stopped.stop_reason) == (free.token_ids[:end], "stop")
                assert stopped.logprobs == pytest.approx(free.logprobs[:end], abs=TOLERANCE)
                cut += texts[end - 1] == "e|x"
                context = prompts[place] + stopped.token_ids
                [after] = gather(sampler.sample(context, replace(asked, max_tokens=4, stop=())))
                assert mismatch(lm, [context], [after], 1.0) < TOLERANCE
        assert cut > 6

    def test_end_of_sequence_ends_nothing_unless_asked(self, sampler, tokenizer):
        prompts = [PROMPTS[i % 6] for i in range(30)]
        params = SamplingParams(max_tokens=40)
        free = sample_all(sampler, prompts, params)
        assert all(len(c.token_ids) == 40 for c in free)
        assert any(EOS in c.token_ids[:-1] for c in free)
        for asked in (replace(params, stop_token_ids=(EOS,)), replace(params, stop=("<eos>",))):
            for before, after in zip(free, sample_all(sampler, prompts, asked), strict=True):
                end = before.token_ids.index(EOS) + 1 if EOS in before.token_ids else 40
                assert after.token_ids == before.token_ids[:end]
                assert after.stop_reason == ("stop" if EOS in after.token_ids else "length")
        decode = decoder(tokenizer, (EOS,))
        for completion in (*free, *sample_all(sampler, prompts, replace(params, stop_token_ids=(EOS,)))):
            texts = [TEXTS[token] for token in completion.token_ids]
            assert decode(completion.token_ids) == "".join(texts[:-1] if texts[-1] == "<eos>" else texts)

    def test_greedy_is_the_argmax_and_has_no_logprobs(self, sampler, lm):
        greedy, drawn = SamplingParams(max_tokens=15, temperature=0.0), SamplingParams(max_tokens=9, seed=5)
        # between rows that are drawn
        mixed = [(ids, params) for ids in PROMPTS for params in (greedy, drawn)]
        found = gather(*(sampler.sample(ids, params) for ids, params in mixed))
        for prompt, completion in zip(PROMPTS, found[::2], strict=True):
            expected = list(prompt)
            for _ in range(15):
                with torch.no_grad():
                    expected.append(int(lm(torch.tensor([expected])).logits[0, -1].argmax()))
            assert completion.token_ids == expected[len(prompt) :]
            assert completion.logprobs == []
        assert mismatch(lm, PROMPTS, found[1::2], 1.0) < TOLERANCE

    @pytest.mark.parametrize(
        ("temperature", "top_p", "top_k"), [(1.0, 1.0, None), (0.6, 1.0, None), (1.5, 0.7, None), (1.3, 0.8, 9)]
    )
    def test_tokens_come_from_the_distribution(self, sampler, lm, temperature, top_p, top_k):
        count = 1500
        params = SamplingParams(max_tokens=1, temperature=temperature, top_p=top_p, top_k=top_k)
        drawn = sample_all(sampler, [PROMPTS[1]] * count, params, seed=8)
        with torch.no_grad():
            expected = truncated(lm(torch.tensor([PROMPTS[1]])).logits[0, -1], temperature, top_p, top_k)
        for completion in drawn:
            assert math.exp(completion.logprobs[0]) == pytest.approx(expected[completion.token_ids[0]], rel=1e-4)
        seen = Counter(c.token_ids[0] for c in drawn)
        common = [token for token, p in enumerate(expected) if p * count >= 5]
        cells = [(seen[token], expected[token] * count) for token in common]
        rest = count - sum(n for n, _ in cells), count - sum(e for _, e in cells)
        cells += [rest] if rest[1] >= 1 else []
        assert sum(seen[token] for token, p in enumerate(expected) if p == 0.0) == 0
        chi_square, freedom = sum((n - e) ** 2 / e for n, e in cells), len(cells) - 1
        assert len(cells) > 3
        assert chi_square < freedom + 3.5 * math.sqrt(2 * freedom)  # its mean, and 3.5 of its standard deviations

    def test_the_event_loop_goes_on_meanwhile(self, sampler):
        ticks = 0

        async def sample_while_ticking() -> list[Completion]:
            nonlocal ticks
            work = asyncio.gather(*(sampler.sample(ids, SamplingParams(max_tokens=60)) for ids in PROMPTS))
            while not work.done():
                await asyncio.sleep(0)
                ticks += 1
            return work.result()

        assert len(asyncio.run(sample_while_ticking())) == 6
        assert ticks > 30

    def test_an_engine_error_reaches_every_waiter(self, sampler):
        async def broken() -> list[Any]:
            with pytest.MonkeyPatch.context() as monkeypatch:
                self.break_engine(sampler, monkeypatch)
                work = (sampler.sample(ids, SamplingParams(max_tokens=30)) for ids in PROMPTS)
                return await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 30)

        errors = asyncio.run(broken())
        assert [type(error) for error in errors] == [RuntimeError] * 6
        assert all("out of memory" in str(error) for error in errors)
        # and the next request finds no trace of them
        [after] = sample_all(sampler, PROMPTS[:1], SamplingParams(max_tokens=5))
        assert len(after.token_ids) == 5

    def test_a_cancelled_request_leaves_the_others_alone(self, sampler):
        params = SamplingParams(max_tokens=20)
        expected = sample_all(sampler, PROMPTS, params)

        async def cancel_two() -> list[Any]:
            asked = [replace(params, seed=derive_seed(0, place)) for place in range(6)]
            tasks = [asyncio.create_task(sampler.sample(*one)) for one in zip(PROMPTS, asked, strict=True)]
            await asyncio.sleep(0.005)
            tasks[0].cancel()
            tasks[4].cancel()
            return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 30)

        found = asyncio.run(cancel_two())
        assert all(isinstance(found[place], asyncio.CancelledError) for place in (0, 4))
        for place in (1, 2, 3, 5):
            assert found[place].token_ids == expected[place].token_ids

    def test_global_random_streams_are_left_alone(self, sampler):
        before = random.getstate(), torch.get_rng_state()
        sample_all(sampler, PROMPTS, SamplingParams(max_tokens=5))
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
