"""The text of sampled tokens: without special tokens, save those that open or end thoughts."""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken

from llmrl.models.loading import character_tokenizer
from llmrl.rewards.thoughts import after_thoughts
from llmrl.run.sampling import author_text


def test_special_tokens_are_left_out():
    tokenizer: Any = character_tokenizer("89")
    eos = tokenizer.convert_tokens_to_ids(tokenizer.eos_token)
    assert author_text(tokenizer).decode([*tokenizer.encode("89"), eos]) == "89"


def test_special_tokens_that_end_thoughts_stay():
    tokenizer: Any = character_tokenizer("89")
    tokenizer.add_tokens([AddedToken(text, special=True) for text in ("[THINK]", "[/THINK]", "<|im_end|>")])
    token_ids = [*tokenizer.encode("[THINK]8[/THINK]9<|im_end|>"), tokenizer.eos_token_id]
    text = author_text(tokenizer).decode(token_ids)
    assert text == "[THINK]8[/THINK]9"
    assert after_thoughts(text) == "9"
