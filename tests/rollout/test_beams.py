"""Beam search against enumeration, against greedy decoding, and through the sampler."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from llmrl.models.loading import character_tokenizer
from llmrl.rollout.beams import beam_search
from llmrl.rollout.sampler import SamplingParams
from llmrl.rollout.transformers_sampler import TransformersSampler

PROMPT, END, VOCABULARY = [3, 4, 5], 1, 6


@pytest.fixture(scope="module")
def model() -> Any:
    config = Qwen3Config(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=32, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(2)
    return Qwen3ForCausalLM(config).eval()


def ended(completion: list[int]) -> bool:
    return completion[-1] == END


@torch.no_grad()
def logprob(model: Any, completion: list[int]) -> float:
    token_ids = torch.tensor([PROMPT + completion])
    found = model(token_ids).logits[0, len(PROMPT) - 1 : -1].log_softmax(-1)
    return float(found.gather(1, torch.tensor(completion)[:, None]).sum())


def completions(longest: int) -> list[list[int]]:
    """All completions that end within `longest` tokens, and those that run out of them."""
    others = [token for token in range(VOCABULARY) if token != END]
    found = [[*body, END] for length in range(longest) for body in product(others, repeat=length)]
    return found + [list(body) for body in product(others, repeat=longest)]


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_wide_beams_find_the_best_of_all_completions(model, exponent):
    scored = {tuple(one): logprob(model, one) / len(one) ** exponent for one in completions(3)}
    best = max(scored, key=lambda one: scored[one])
    found = beam_search(model, PROMPT, beams=216, max_tokens=3, ended=ended, length_exponent=exponent)
    assert tuple(found.token_ids) == best
    assert found.score(exponent) == pytest.approx(scored[best], abs=1e-5)
    assert found.stopped == (best[-1] == END)


def test_one_beam_is_greedy_and_more_are_no_less_likely(model):
    greedy: list[int] = []
    while not greedy or (greedy[-1] != END and len(greedy) < 6):
        with torch.no_grad():
            greedy.append(int(model(torch.tensor([PROMPT + greedy])).logits[0, -1].argmax()))
    one, four = (beam_search(model, PROMPT, beams=beams, max_tokens=6, ended=ended) for beams in (1, 4))
    assert one.token_ids == greedy
    assert one.logprob == pytest.approx(logprob(model, greedy), abs=1e-5)
    assert four.logprob == pytest.approx(logprob(model, four.token_ids), abs=1e-5)
    assert four.logprob >= one.logprob


def test_a_sampler_searches_where_it_is_asked(model):
    sampler = TransformersSampler(model, character_tokenizer("abc"))
    params = SamplingParams(max_tokens=4, temperature=0.0, stop_token_ids=(END,), seed=1)

    async def both() -> list[Any]:
        asked = [params, params.searching(64, 0.0), params.at(1.0).searching(64, 0.0)]
        return await asyncio.gather(*(sampler.sample(PROMPT, one) for one in asked))

    greedy, searched, drawn = asyncio.run(both())
    found = beam_search(model, PROMPT, beams=64, max_tokens=4, ended=ended)
    assert searched.token_ids == found.token_ids and searched.logprobs == []
    assert logprob(model, searched.token_ids) >= logprob(model, greedy.token_ids)
    assert len(drawn.logprobs) == len(drawn.token_ids)  # a sample is drawn, not searched
