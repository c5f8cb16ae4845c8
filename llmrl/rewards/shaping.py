"""Rewards for the form of an answer, such as its length; none of them is a verdict.

Lengths are counted in sampled tokens where a setting says tokens, and in characters where it says characters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence

from pydantic import NonNegativeFloat, NonPositiveFloat, PositiveInt

from llmrl.marks import needs_verdicts
from llmrl.types import DATASET, Group, Score

THINK = "<think>"
STEPS = re.compile(r"Step \d+:|\A\d+\.|\n[-*]|(?:First|Second|Next|Finally),")
"""What begins a step of a written-out reasoning; a number counts at the very beginning alone, as in the source."""


def format_pattern(completion: str, *, pattern: re.Pattern[str], reward: float = 1.0, otherwise: float = 0.0) -> Score:
    """The value `reward` if the whole completion matches the regular expression, else `otherwise`.

    "." does not match a newline unless the pattern says so: `(?s)<think>.*</think><answer>.*</answer>`.
    """
    return Score(reward if re.fullmatch(pattern, completion) else otherwise)


def think_format(completion: str, prompt: str = "") -> Score:
    """1 if the completion begins with its thoughts, `<think>...</think>`, and opens them once, else 0.

    prompt: the prompt's text, which may have opened the thoughts. Source: think_format_reward of TRL.
    """
    text = _with_opened(completion, prompt)
    return Score(float(text.startswith(THINK) and text.count(THINK) == 1 and "</think>" in text))


def think_answer_format(completion: str, prompt: str = "") -> Score:
    """1 if the completion is thoughts and an answer, each tag on a line of its own, else 0.

    The lines are `<think>`, `</think>`, `<answer>` and `</answer>`, the second and third without a line in between;
    lines may follow. prompt: as for think_format. Source: format_reward of open-r1.
    """
    form = r"<think>\n.*?\n</think>\n<answer>\n.*?\n</answer>(?=\n|\Z)"
    return Score(float(bool(re.match(form, _with_opened(completion, prompt), re.DOTALL))))


def tag_count(
    completion: str,
    prompt: str = "",
    *,
    tags: tuple[str, ...] = ("<think>\n", "\n</think>\n", "\n<answer>\n", "\n</answer>"),
) -> Score:
    """The share of `tags` that occur exactly once. prompt: as for think_format.

    Source: tag_count_reward of open-r1, with its tags.
    """
    text = _with_opened(completion, prompt)
    return Score(sum(text.count(tag) == 1 for tag in tags) / max(len(tags), 1))


def _with_opened(completion: str, prompt: str) -> str:
    """The completion, with the opening tag of its thoughts where the prompt has written the tag already."""
    return prompt[prompt.rindex(THINK) :] + completion if prompt.rstrip().endswith(THINK) else completion


def reasoning_steps(completion: str, *, steps: PositiveInt = 3, pattern: re.Pattern[str] | None = None) -> Score:
    """The share of `steps` that the completion writes out, at most 1: how often `pattern` occurs, over `steps`.

    The default pattern is STEPS. Source: reasoning_steps_reward of open-r1, with its pattern.
    """
    return Score(min(1.0, len(list(re.finditer(pattern or STEPS, completion))) / steps))


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


def repetition_penalty(completion: str, *, ngram: PositiveInt = 3, max_penalty: NonPositiveFloat = -1.0) -> Score:
    """The penalty max_penalty * (1 - distinct / all n-grams of lower-case words), 0 for fewer than n words.

    Source: Demystifying long chain-of-thought reasoning, arXiv 2502.03373, as open-r1 has it.
    """
    return Score(max_penalty * _repeated(completion.lower().split(), ngram))


def token_repetition_penalty(
    completion_ids: list[int], *, ngram: PositiveInt = 3, max_penalty: NonPositiveFloat = -1.0
) -> Score:
    """The penalty of repetition_penalty on n-grams of tokens, for any language. Source: the same, as TRL has it."""
    return Score(max_penalty * _repeated(completion_ids, ngram))


def _repeated(parts: Sequence[Hashable], ngram: int) -> float:
    """The share of n-grams that have occurred before."""
    ngrams = list(zip(*(parts[start:] for start in range(ngram)), strict=False))
    return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def cosine_length(
    completion: str,
    correct: bool | None,
    *,
    max_characters: PositiveInt = 1000,
    min_value_correct: float = 0.5,
    max_value_correct: float = 1.0,
    min_value_wrong: float = -1.0,
    max_value_wrong: float = -0.5,
) -> Score:
    """A value that goes with the length L, along half a cosine, from one end of a range to the other.

        far + (near - far) * (1 + cos(pi * min(L / max_characters, 1))) / 2

    A right answer goes from max_value_correct to min_value_correct, a wrong one from min_value_wrong to
    max_value_wrong. correct: the verdict of the other rewards; raises ValueError without one. Longer answers keep the
    value of the longest, where open-r1's cosine turns back.
    Source: cosine_scaled_reward of open-r1; Demystifying long chain-of-thought reasoning, arXiv 2502.03373.
    """
    near, far = (max_value_correct, min_value_correct) if _told(correct) else (min_value_wrong, max_value_wrong)
    progress = min(len(completion) / max_characters, 1.0)
    return Score(far + 0.5 * (near - far) * (1.0 + math.cos(math.pi * progress)))


@needs_verdicts
def group_length(group: Group) -> list[float]:
    """0.5 - (L - shortest) / (longest - shortest) for each answer of L characters, at most 0 for a wrong one.

    All are 0 where all are equally long. Raises ValueError without a verdict of the other rewards.
    Source: Kimi k1.5, arXiv 2501.12599; len_reward of open-r1.
    """
    lengths = [len(one.text) for one in group.trajectories]
    shortest, spread = min(lengths), max(lengths) - min(lengths)
    if not spread:
        return [0.0] * len(lengths)
    values = [0.5 - (length - shortest) / spread for length in lengths]
    return [
        value if _told(one.correct) else min(value, 0.0) for value, one in zip(values, group.trajectories, strict=True)
    ]


def _told(correct: bool | None) -> bool:
    if correct is None:
        raise ValueError("reads the verdict of a verifier, and no other reward of this row gives one")
    return correct


async def from_dataset(group: Group) -> list[float]:
    """1 for each completion that the dataset wrote (rollout.written_by), 0 for others.

    Source: SPIN, arXiv 2401.01335.
    """
    return [float(one.writer == DATASET) for one in group.trajectories]
