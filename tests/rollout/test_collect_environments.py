"""Collecting from environments: those that fail, and those of several turns."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from sampler_contract import TOLERANCE, VOCABULARY
from scripted import PARAMS, PROMPTS, EchoSampler, collect, ids, make, piece

from llmrl.data.packing import pack
from llmrl.envs.base import Step
from llmrl.envs.catalogue import CATALOGUE
from llmrl.errors import RecipeError
from llmrl.models.loading import load_language_model
from llmrl.models.policy import Policy
from llmrl.models.weights import merged_weights
from llmrl.recipe_file import method_recipe
from llmrl.resolve import resolve_pieces
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.selection import everything
from llmrl.rollout.transformers_sampler import TransformersSampler
from llmrl.run.sampling import encoder
from llmrl.types import ACTOR, ENVIRONMENT, Failure, Prompt


class Flaky:
    """Fails `times` times for each prompt that it is made for, then is a plain question."""

    made: Counter[str]

    def __init__(self, prompt: Prompt, times: int, error: Exception, where: str):
        self.prompt, self.error, self.where = prompt, error, where
        Flaky.made[prompt.id] += 1
        self.fails = Flaky.made[prompt.id] <= times
        self.fail("make")

    def fail(self, where: str) -> None:
        if self.fails and self.where == where:
            raise self.error

    async def reset(self) -> list[int]:
        self.fail("reset")
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        self.fail("step")
        return Step([], reward=math.nan if self.fails and self.where == "reward" else 0.0)


@pytest.mark.parametrize("where", ["make", "reset", "step"])
@pytest.mark.parametrize(
    ("error", "kind"), [(KeyError("tool"), "crash"), (TimeoutError("slow"), "timeout"), (ValueError("odd"), "invalid")]
)
def test_an_environment_that_fails_is_tried_again_and_then_dropped(where, error, kind):
    def flaky(prompt: Prompt) -> Flaky:
        return Flaky(prompt, times=int(prompt.id[1]), error=error, where=where)

    Flaky.made = Counter()
    # p0 never fails, p1 once, p2 and p3 each time they are tried
    groups = make(env=flaky).sample(PROMPTS[:4], group_size=1, params=PARAMS)
    failures = [group.trajectories[0].failure for group in groups]
    assert failures[:2] == [None, None]
    assert failures[2] == failures[3] == Failure("environment", kind, f"{type(error).__name__}: {error}")
    assert Flaky.made == {"p0": 1, "p1": 2, "p2": 2, "p3": 2}
    assert [len(group.trajectories[0].turns) for group in groups[:2]] == [1, 1]  # nothing of the first attempt is left
    assert groups[1].trajectories[0].reward == 1.5
    assert groups[2].trajectories[0].scores == {}

    Flaky.made = Counter()
    collected, _ = collect(make(env=flaky, env_retries=0), piece(everything), count=4, group_size=1)
    assert ids(collected.groups) == ["p0"]
    assert collected.metrics[f"failures/environment/{kind}"] == 3.0


def test_an_environments_reward_must_be_finite():
    def nan(prompt: Prompt) -> Flaky:
        return Flaky(prompt, times=9, error=KeyError(), where="reward")

    Flaky.made = Counter()
    [group] = make(env=nan).sample(PROMPTS[:1], group_size=1, params=PARAMS)
    assert group.trajectories[0].failure.kind == "invalid"
    assert "reward nan" in group.trajectories[0].failure.message


class Dialogue:
    """Answers each completion with `reply`, and gives the turn's number as its reward, until `turns` were taken."""

    def __init__(self, prompt: Prompt, turns: int, reply: list[int]):
        self.prompt, self.turns, self.reply, self.taken = prompt, turns, reply, 0

    async def reset(self) -> list[int]:
        return [*self.prompt.token_ids, 20]  # it opens with a word of its own

    async def step(self, completion: Completion) -> Step:
        self.taken += 1
        if self.taken == self.turns:
            return Step([], reward=float(self.taken))
        return Step(self.reply, reward=float(self.taken), done=False)


def dialogue(prompt: Prompt, *, turns: int = 2, reply: tuple[int, ...] = (21, 22)) -> Dialogue:
    return Dialogue(prompt, turns, list(reply))


def test_two_turns_extend_the_exact_tokens():
    sampler = EchoSampler()
    collector = make(sampler, env=dialogue)
    params = SamplingParams(max_tokens=20, seed=1)
    [group] = collector.sample(PROMPTS[:1], group_size=1, params=params)
    [trajectory] = group.trajectories
    first, _, second = trajectory.turns
    assert [turn.author for turn in trajectory.turns] == [ACTOR, ENVIRONMENT, ACTOR]
    assert [turn.reward for turn in trajectory.turns] == [1.0, None, 2.0]
    assert trajectory.prompt.token_ids == (3, 4, 20)
    (before, asked_first), (after, asked_second) = sampler.asked
    assert before == [3, 4, 20]
    assert after == [3, 4, 20, *first.token_ids, 21, 22]
    # 20 tokens may follow the prompt: 3 were sampled, 2 were the reply
    assert (asked_first.max_tokens, asked_second.max_tokens) == (20, 15)
    assert asked_first.seed != asked_second.seed
    assert trajectory.text == " ".join(map(str, second.token_ids))  # the last turn's
    batch = pack([group], ACTOR)
    assert batch.token_ids[0].tolist() == [*after, *second.token_ids]
    #                                         3 4 20 | a a a | 21 22 | a a a
    assert batch.response_mask[0].tolist() == [bool(int(x)) for x in "00011100111"]
    # turn rewards 1 and 2 on their turns' last tokens; the outcome, 1.5, on the last
    assert batch.rewards[0].tolist() == [0, 0, 0, 0, 0, 1.0, 0, 0, 0, 0, 3.5]
    expected = [*first.rollout_logprobs, *second.rollout_logprobs]
    assert batch.rollout_logprobs[0][batch.response_mask[0]].tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("max_tokens", "authors", "stop_reason"),
    [
        (3, "a", "context_full"),  # its three tokens are all there may be
        (4, "a", "context_full"),  # the reply of two would leave no token to answer with
        (5, "a", "context_full"),
        (6, "aea", "context_full"),  # one token left, then a reply that is not kept
        (8, "aea", "context_full"),
        (11, "aeaea", "context_full"),
        (40, "aeaea", "stop"),
    ],
)
def test_what_follows_the_prompt_is_bounded(max_tokens, authors, stop_reason):
    def three_turns(prompt: Prompt) -> Dialogue:
        return Dialogue(prompt, 4 if max_tokens < 40 else 3, [21, 22])

    [group] = make(env=three_turns).sample(PROMPTS[:1], group_size=1, params=SamplingParams(max_tokens, seed=1))
    [trajectory] = group.trajectories
    assert "".join(turn.author[0] for turn in trajectory.turns) == authors
    assert trajectory.stop_reason == stop_reason
    assert sum(len(turn.token_ids) for turn in trajectory.turns) <= max_tokens
    assert trajectory.failure is None


def test_an_environments_words_are_no_special_tokens_unless_it_says_so(tokenizer):
    encode = encoder(tokenizer)
    one, end, unknown = 4, 1, 2
    assert encode("1<eos>1", special=True) == [one, end, one]
    # < e o s > are not in the vocabulary
    assert encode("1<eos>1") == [one, *[unknown] * 5, one]
    assert encode("1<eos>1", special=True) == [one, end, one]
    assert tokenizer.encode("1<eos>1", add_special_tokens=False) == [one, end, one]  # that of the samplers is another
    assert encode("") == []


def test_an_environment_that_asks_for_what_nobody_has_is_a_fault(monkeypatch):
    def curious(prompt: Prompt, encoder: Any, model: Any) -> None: ...

    monkeypatch.setitem(CATALOGUE, "curious", curious)
    with pytest.raises(RecipeError) as caught:
        resolve_pieces(method_recipe("grpo").model_copy(update={"env": "curious"}))
    first, second = caught.value.faults
    no_data = "env.curious: no data field, for its positional parameter, named"
    assert first == f"{no_data} 'encoder'; did you mean 'encode'?"
    assert second.startswith(f"{no_data} 'model'")


def test_with_a_real_model_the_packed_logprobs_are_the_trainers(folder, tokenizer, lm):
    model: Any = load_language_model(folder)
    sampler = TransformersSampler(model, tokenizer)
    sampler.load_weights(merged_weights(lm), 5)
    collector = make(sampler, env=dialogue)
    groups = collector.sample(PROMPTS[:4], group_size=3, params=SamplingParams(24, 0.8, stop_token_ids=(1, 7), seed=3))
    collector.close()
    batch = pack(groups, ACTOR)
    assert int(batch.token_ids.max()) < VOCABULARY
    assert set(batch.policy_version.tolist()) == {5}
    turns = [sum(turn.author == ACTOR for turn in t.turns) for group in groups for t in group.trajectories]
    assert {1, 2} == set(turns)
    with torch.no_grad():
        found = Policy(lm, temperature=0.8)(batch.token_ids, batch.attention_mask, batch.response_mask)
    logprobs = found["logprobs"]
    assert float((logprobs - batch.rollout_logprobs).abs().max()) < TOLERANCE
