"""Searches with a scripted sampler and hand-made scores, and through a recipe's models."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rollout import Search
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.search import SearchingSampler

TOKENIZER = character_tokenizer("0123456789;.")
END = 1


def tokens(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


class Digits:
    """Writes a digit that the seed decides and a semicolon, up to two steps and the end; asked whole, all of it."""

    policy_version = 7

    def __init__(self, choices: int = 4):
        self.choices = choices
        self.asked: list[tuple[str, SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        so_far = str(TOKENIZER.decode(token_ids)).partition(".")[2]
        self.asked.append((so_far, params))
        seed, made = params.seed, ""
        for _ in range(2 - so_far.count(";")):
            digit, seed = seed % self.choices, seed // self.choices
            made += f"{digit};"
            if ";" in params.stop:
                return self._ended(made, params, ends=so_far.count(";") == 2)
        return self._ended(made, params, ends=True)

    def _ended(self, made: str, params: SamplingParams, *, ends: bool) -> Completion:
        found = [*tokens(made), *([END] if ends else [])][: params.max_tokens]
        return Completion(found, [-1.0] * len(found), "stop", self.policy_version)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


PARAMS = SamplingParams(max_tokens=6, temperature=0.0, stop_token_ids=(END,), seed=3, evaluating=True)
PROMPT = tokens("1.")


def searched(value: Any, *, training: bool = False, params: SamplingParams = PARAMS, **settings: Any):
    """The answer's text, the sampler, and what was scored; value: of a text."""
    scored: list[str] = []
    sampler = Digits()

    async def score(prompt: list[int], answers: Any) -> list[float]:
        assert prompt == PROMPT
        texts = [str(TOKENIZER.decode(one, skip_special_tokens=True)) for one in answers]
        scored.extend(texts)
        return [float(value(text)) for text in texts]

    searching = SearchingSampler(sampler, TOKENIZER, Search(model="m", **settings), score, training=training)
    found = asyncio.run(searching.sample(PROMPT, params))
    return found, sampler, scored


def digits(text: str) -> list[int]:
    return [int(one) for one in text if one.isdigit()]


def text_of(found: Completion) -> str:
    return str(TOKENIZER.decode(found.token_ids, skip_special_tokens=True))


def test_best_of_n_is_the_sample_of_the_highest_score():
    found, sampler, scored = searched(lambda text: sum(digits(text)), samples=16)
    assert len(scored) == len(sampler.asked) == 16 and len({one.seed for _, one in sampler.asked}) == 16
    assert sum(digits(text_of(found))) == max(sum(digits(text)) for text in scored)
    assert found.token_ids[-1] == END and found.stop_reason == "stop"
    assert found.logprobs == [] and found.policy_version == 7
    assert {one.temperature for _, one in sampler.asked} == {1.0}  # a greedy request is sampled


def test_a_choice_follows_the_softmax_of_scores():
    """Of the scores 0 ... 3 at temperature 0.5 the weights are exp(2 score)."""
    drawn = {"share": 0.0, "threes": 0.0}
    for seed in range(300):
        one = SamplingParams(max_tokens=6, temperature=0.0, stop_token_ids=(END,), seed=seed, evaluating=True)
        found, _, scored = searched(lambda text: digits(text)[0], samples=6, choice_temperature=0.5, params=one)
        values = [digits(text)[0] for text in scored]
        expected = sum(math.exp(2 * v) for v in values if v == 3) / sum(math.exp(2 * v) for v in values)
        drawn["share"] += expected
        drawn["threes"] += digits(text_of(found))[0] == 3
    assert drawn["threes"] == pytest.approx(drawn["share"], abs=25)


def misleading(text: str) -> float:
    """The step 0 looks worse than 3, but an answer that begins with it is worth the most."""
    found = digits(text)
    if len(found) == 2:
        return 10 + found[1] if found[0] == 0 else found[1]
    return {0: 2.0, 3: 3.0}.get(found[0], 0.0)


def test_planning_takes_the_best_step_and_a_beam_keeps_what_looks_worse():
    greedy, sampler, _ = searched(misleading, samples=12, delimiter=";")
    assert digits(text_of(greedy))[0] == 3
    assert [so_far.count(";") for so_far, _ in sampler.asked] == [0] * 12 + [1] * 12 + [2] * 12
    assert {one.max_tokens for _, one in sampler.asked} == {6, 4, 2}
    wide, _, _ = searched(misleading, samples=12, delimiter=";", width=6)
    assert digits(text_of(wide))[0] == 0


def test_the_best_partial_answer_goes_on_first():
    """f = weight * score alone, as utilities are all -1: 3 goes first, then 0 beats all answers of 3."""
    best, sampler, _ = searched(
        lambda text: misleading(text) if len(digits(text)) == 2 else {0: 5.0, 3: 6.0}.get(digits(text)[0], 0.0),
        samples=12, delimiter=";", best_first={"most": 12},
    )  # fmt: skip
    begun = [so_far for so_far, _ in sampler.asked]
    assert digits(begun[12])[0] == 3 and begun[24][0] == "0"
    assert digits(text_of(best))[0] == 0
    short, sampler, _ = searched(misleading, samples=2, delimiter=";", best_first={"most": 1})
    assert short.token_ids[-1] == END and len(sampler.asked) == 2 + 1 + 1  # it is written to its end


def test_other_requests_are_the_samplers_own():
    sampled = SamplingParams(max_tokens=6, temperature=1.0, stop_token_ids=(END,), seed=3, evaluating=True)
    found, sampler, scored = searched(len, params=sampled)
    assert scored == [] and len(sampler.asked) == 1 and found.logprobs
    training = SamplingParams(max_tokens=6, stop_token_ids=(END,), seed=3)
    found, _, scored = searched(len, training=True, params=training, samples=3)
    assert len(scored) == 3 and not found.logprobs
    found, _, scored = searched(len, training=True, params=PARAMS)
    assert scored == []
