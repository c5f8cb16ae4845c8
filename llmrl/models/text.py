"""Text of sampled tokens: the same for rewards, votes, environments, rollout files and the console."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from typing import Any

Decode = Callable[[Sequence[int]], str]
SHORT, REMEMBERED = 64, 8192
"""The most tokens, or characters, of a text that is kept, and how many are kept."""


def decoder(tokenizer: Any, stop_token_ids: Collection[int]) -> Decode:
    """The function that decodes a turn: every token as it is written, special ones too, save a stop token at the end.

        <think> 8 </think> 9 <|im_end|>    "<think>8</think>9"          where <|im_end|> stops a completion
        <think> 8                          "<think>8"                   cut short
        9 <|im_end|> 9                     "9<|im_end|>9"               an earlier stop token is text

    Bytes that are no whole character, as where a completion was cut, become U+FFFD.
    """
    stops = frozenset(stop_token_ids)

    def decode(token_ids: Sequence[int]) -> str:
        ended = len(token_ids) > 0 and token_ids[-1] in stops
        return as_written(tokenizer, token_ids[:-1] if ended else token_ids)

    return decode


def remembered(decode: Decode) -> Decode:
    """The same function with the texts of short turns kept, which are often said again."""
    known = lru_cache(REMEMBERED)(lambda token_ids: decode(list(token_ids)))
    return lambda token_ids: known(tuple(token_ids)) if len(token_ids) <= SHORT else decode(token_ids)


def prompt_tokens(tokenizer: Any, text: str, *, chat: bool) -> list[int]:
    """The tokens of a prompt: a chat template wrote its own special tokens; plain text gets the tokenizer's, save a
    closing one, and an opening one that the text begins with."""
    token_ids = list(tokenizer.encode(text, add_special_tokens=not chat))
    if not chat and token_ids[:2] == [tokenizer.bos_token_id] * 2:
        token_ids.pop(0)
    if token_ids and token_ids[-1] == tokenizer.eos_token_id and not text.endswith(tokenizer.eos_token):
        token_ids.pop()
    return token_ids


def as_written(tokenizer: Any, token_ids: Sequence[int]) -> str:
    """The text of all these tokens; no space is taken out."""
    return str(tokenizer.decode(list(token_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def step_ends(decode: Decode, token_ids: Sequence[int], text: str, steps: Sequence[str], delimiter: str) -> list[int]:
    """The places of the tokens that complete each step of a text and the delimiter behind it; the last step's is the
    last token."""
    ends, place = [], 0
    for step in steps[:-1]:
        place = text.index(step, place) + len(step)
        ends.append(end_of(decode, token_ids, place + len(delimiter)))
    return [*ends, len(token_ids) - 1]


def end_of(decode: Decode, token_ids: Sequence[int], characters: int) -> int:
    """The place of the token that completes the first `characters` characters; at most the last."""
    low, high = 0, max(len(token_ids) - 1, 0)
    while low < high:
        middle = (low + high) // 2
        if len(decode(token_ids[: middle + 1])) >= characters:
            high = middle
        else:
            low = middle + 1
    return low


def completes(tokenizer: Any, token_ids: Sequence[int], texts: Collection[str]) -> bool:
    """Whether the last token completes one of the texts."""
    if not texts:
        return False
    longest = max(map(len, texts))  # a token decodes to at least one byte, so older ones cannot matter
    window = token_ids[-4 * longest - 4 :]
    after, before = as_written(tokenizer, window), as_written(tokenizer, window[:-1])
    return any(after.count(text) > before.count(text) for text in texts)
