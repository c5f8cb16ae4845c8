from __future__ import annotations

import asyncio
import math

import pytest
import torch
from sampler_contract import EOS, language_model

from llmrl.models.text import decoder, prompt_tokens
from llmrl.models.weights import merged_weights
from llmrl.rewards.respondents import Question
from llmrl.rewards.services import ReplyError
from llmrl.rewards.verdicts import labelled
from llmrl.rollout.role_respondent import RoleRespondent
from llmrl.rollout.transformers_sampler import TransformersSampler


@pytest.fixture(scope="module")
def role(tokenizer, lm, folder) -> RoleRespondent:
    sampler = TransformersSampler(language_model(folder, seed=1), tokenizer)
    sampler.load_weights(merged_weights(lm), 0)
    return RoleRespondent(
        "judge",
        sampler,
        lambda text, chat: prompt_tokens(tokenizer, text, chat=chat),
        decoder(tokenizer, [EOS]),
        [EOS],
        room=16,
    )


def test_a_label_has_the_probability_that_the_model_gives_its_token(role, lm, tokenizer):
    """The score of a generative reward model: of two labels, the share of the first."""
    asked = tokenizer.encode("3+4=7 ", add_special_tokens=False)
    with torch.no_grad():
        chances = lm(torch.tensor([asked])).logits[0, -1].double().softmax(-1)
    best, second = chances.topk(2).indices.tolist()
    labels = {tokenizer.decode([best]): 1.0, tokenizer.decode([second]): 0.0}
    question = Question("3+4=7 ", chat=False, max_tokens=1, logprobs=True)
    reply = asyncio.run(role.reply(question))
    expected = float(chances[best] / (chances[best] + chances[second]))
    assert 0.5 < expected < 0.99
    assert labelled(reply, labels) == pytest.approx(expected, abs=1e-5)
    assert math.isclose(sum(math.exp(logprob) for _, logprob in reply.tokens[0].likeliest), 1, abs_tol=0.05)


def test_a_reply_is_cut_at_the_room_and_a_question_without_room_is_no_reply(role):
    free = asyncio.run(role.reply(Question("3+4=7 ", chat=False, temperature=1.0, max_tokens=100, seed=1)))
    assert free.tokens is None
    assert len(free.text) >= 10  # 16 of room, 6 of the question
    with pytest.raises(ReplyError, match=r"question of 20 tokens leaves no room .* are 16 together"):
        asyncio.run(role.reply(Question("3" * 20, chat=False)))
