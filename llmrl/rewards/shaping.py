"""Rewards for the form of an answer, such as its length; none of them is a verdict."""

from __future__ import annotations

import re

from pydantic import NonNegativeFloat, PositiveInt

from llmrl.types import Score


def format_pattern(completion: str, *, pattern: re.Pattern[str], reward: float = 1.0, otherwise: float = 0.0) -> Score:
    """The value `reward` if the whole completion matches the regular expression, else `otherwise`.

    "." does not match a newline unless the pattern says so: `(?s)<think>.*</think><answer>.*</answer>`.
    """
    return Score(reward if re.fullmatch(pattern, completion) else otherwise)


def overlong_penalty(
    completion_tokens: int,
    *,
    max_tokens: PositiveInt,
    buffer_tokens: PositiveInt | None = None,
    factor: NonNegativeFloat = 1.0,
) -> Score:
    """A penalty that grows over the last `buffer_tokens` before `max_tokens`, for L tokens sampled.

    The penalty is 0 if L <= max - buffer, -factor * (L - (max - buffer)) / buffer up to max, and -factor beyond.
    The default buffer is a fifth of max_tokens, as in the source. Raises ValueError if the buffer is larger than
    max_tokens. Source: DAPO, arXiv 2503.14476.
    """
    buffer_tokens = buffer_tokens or max(1, max_tokens // 5)
    if buffer_tokens > max_tokens:
        raise ValueError(f"buffer_tokens {buffer_tokens} is larger than max_tokens {max_tokens}")
    excess = completion_tokens - (max_tokens - buffer_tokens)
    return Score(-factor * min(max(excess / buffer_tokens, 0.0), 1.0))


def length_penalty(completion_tokens: int, *, target_tokens: PositiveInt, per_token: NonNegativeFloat = 3e-4) -> Score:
    """The penalty -per_token * |target_tokens - L|, for L tokens sampled. Source: LCPO-Exact, arXiv 2503.04697."""
    return Score(-per_token * abs(target_tokens - completion_tokens))


def repetition_penalty(completion: str, *, ngram: PositiveInt = 3, max_penalty: float = -1.0) -> Score:
    """The penalty max_penalty * (1 - distinct / all n-grams of lower-case words), 0 for fewer than n words.

    Source: Demystifying long chain-of-thought reasoning, arXiv 2502.03373.
    """
    words = completion.lower().split()
    ngrams = list(zip(*(words[start:] for start in range(ngram)), strict=False))
    return Score(max_penalty * (1 - len(set(ngrams)) / len(ngrams)) if ngrams else 0.0)
