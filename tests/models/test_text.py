"""The text of sampled tokens: all of them as they are written, save the stop token that ends the turn."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmrl.models.text import SHORT, completes, decoder, remembered
from llmrl.rewards.math_verifier import math_verifier
from llmrl.rewards.shaping import format_pattern
from llmrl.rewards.thoughts import after_thoughts

FORMAT = ("<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")


def byte_tokenizer() -> Any:
    """One token a byte, as byte-level BPE has it, and special tokens that carry a format."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: at for at, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(text, special=True) for text in FORMAT])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|im_end|>")


def piece_tokenizer() -> Any:
    """WordPiece with the clean-up of spaces that its configuration asks for."""
    words = ["<unk>", "is", "n", "'", "t", ".", "8"]
    backend = Tokenizer(models.WordPiece({word: at for at, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=False)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True, eos_token="</s>")


TOKENIZER = byte_tokenizer()
STOPS = tuple(TOKENIZER.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
DECODE = decoder(TOKENIZER, STOPS)


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(
    ("sampled", "text"),
    [
        ("<think>8?</think><answer>9</answer><|im_end|>", "<think>8?</think><answer>9</answer>"),
        ("<tool_call>f(1)<|endoftext|>", "<tool_call>f(1)"),
        ("<think>cut at the limit", "<think>cut at the limit"),
        ("9<|im_end|>\n<|im_start|>8", "9<|im_end|>\n<|im_start|>8"),
        ("9<|im_end|><|im_end|>", "9<|im_end|>"),
        ("9 . <|im_start|>", "9 . <|im_start|>"),
        (" 9 ,\n", " 9 ,\n"),
        ("<|im_end|>", ""),
        ("", ""),
    ],
)
def test_the_stop_token_at_the_end_is_taken_off_and_nothing_else(sampled, text):
    assert DECODE(ids(sampled)) == text


def test_a_token_that_stops_nothing_stays():
    assert decoder(TOKENIZER, STOPS[:1])(ids("9<|endoftext|>")) == "9<|endoftext|>"


def test_a_character_cut_in_the_middle_is_shown_as_one_that_is_lost():
    assert DECODE(ids("8€")[:-1]) == "8�"
    assert DECODE([*ids("8€")[:-1], STOPS[0]]) == "8�"


def test_numbers_that_are_no_token_have_no_text():
    assert DECODE([*ids("8"), len(TOKENIZER) + 5, *ids("9"), STOPS[0]]) == "89"


def test_no_space_is_cleaned_up():
    tokenizer = piece_tokenizer()
    token_ids = tokenizer.encode("is n ' t 8 .")
    assert tokenizer.decode(token_ids) != "is n ' t 8 ."
    assert decoder(tokenizer, ())(token_ids) == "is n ' t 8 ."


def test_formats_of_special_tokens_reach_rewards():
    text = DECODE(ids("<think>8?</think><answer>9</answer><|im_end|>"))
    assert format_pattern(text, pattern=re.compile("<think>.*</think><answer>.*</answer>")).value == 1.0
    assert after_thoughts(text) == "<answer>9</answer>"
    assert math_verifier(text, "9", extract="tag").correct and not math_verifier(text, "8", extract="tag").correct


def test_the_token_that_completes_a_text():
    texts = ["</answer>", "€"]
    for sampled in ("1</answer>", "<answer>1 </answer>", "1€", "</answer>1€"):
        token_ids = ids(sampled)
        assert completes(TOKENIZER, token_ids, texts)
        assert not completes(TOKENIZER, token_ids[:-1], texts)
        assert not completes(TOKENIZER, [*token_ids, *ids("1")], texts)
    assert not completes(TOKENIZER, ids("1</answer>"), ())


def test_short_turns_are_decoded_once_and_long_ones_each_time():
    asked = []

    def decode(token_ids):
        asked.append(list(token_ids))
        return "".join(map(chr, token_ids))

    known, long = remembered(decode), [65] * (SHORT + 1)
    assert [known([66, 67]), known((66, 67)), known(long), known(long)] == [
        "BC",
        "BC",
        "A" * len(long),
        "A" * len(long),
    ]
    assert asked == [[66, 67], long, long]
