"""The steps of answers, token by token."""

from __future__ import annotations

import torch

from llmrl.models.loading import character_tokenizer
from llmrl.providers.steps import step_ids


def test_a_step_ends_with_the_delimiter_and_with_its_turn():
    tokenizer = character_tokenizer("0123;")
    semicolon, end = tokenizer.convert_tokens_to_ids(";"), 1
    tokens = torch.tensor([[3, 4, semicolon, 5, 5, semicolon, semicolon, 6, end]])
    mask = torch.tensor([[False, True, True, True, False, True, True, True, True]])
    turns = torch.tensor([[-1, 0, 0, 0, -1, 1, 1, 1, 1]])
    found = step_ids(tokens, mask, turns, tokenizer, delimiter=";")
    assert found.tolist() == [[-1, 0, 0, 1, -1, 2, 3, 4, 4]]
    assert step_ids(tokens, mask, turns, tokenizer).tolist() == [[-1, 0, 0, 0, -1, 1, 1, 1, 1]]
    two = step_ids(tokens, mask, turns, tokenizer, delimiter=";;")
    assert two.tolist() == [[-1, 0, 0, 0, -1, 1, 1, 2, 2]]
