"""Completions that rows bring, as tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llmrl.errors import short
from llmrl.types import DATASET, ENVIRONMENT, Prompt, Trajectory, Turn

LABELS: Mapping[str, float] = {
    **dict.fromkeys(("true", "1", "1.0", "+1", "yes", "+", "good", "desirable", "correct", "right", "chosen"), 1.0),
    **dict.fromkeys(("false", "0", "0.0", "-1", "no", "-", "bad", "undesirable", "incorrect", "wrong"), 0.0),
    **{"-1.0": 0.0, "rejected": 0.0},
}
"""The spellings of a label, in lower case, and their rewards."""


@dataclass(frozen=True)
class Exact:
    """A prompt by its tokens, which a transform gives in the place of its text. before: a text in front of them.
    first: the first token of the prompt in whose place that text stands."""

    token_ids: tuple[int, ...]
    before: str = ""
    first: int | None = None

    def tokens(self, tokenizer: Any) -> list[int]:
        """The tokens of the text and of the prompt; a token that opens sequences stays the first."""
        opening = int(self.token_ids[:1] == (tokenizer.bos_token_id,))
        said = tokenizer.encode(self.before, add_special_tokens=False) if self.before else []
        if self.first is not None and self.first == tokenizer.bos_token_id and said[:1] != [self.first]:
            said = [self.first, *said]
        return [*self.token_ids[:opening], *said, *self.token_ids[opening:]]


@dataclass(frozen=True)
class Span:
    """Consecutive tokens after a prompt; trained: whether the assistant said them, who is imitated or compared.
    reward: the span's own, such as a step's label; None if it has none."""

    token_ids: list[int]
    trained: bool = True
    reward: float | None = None


@dataclass(frozen=True)
class Written:
    """A completion that a row brings: its spans of tokens, and its reward where it is compared, with the parts that it
    is made of by name; nan for a part that is not known. unrated: no span has a reward, and none is missed."""

    spans: list[Span]
    reward: float = 0.0
    components: Mapping[str, float] = field(default_factory=dict)
    unrated: bool = False

    @property
    def token_ids(self) -> list[int]:
        """All tokens after the prompt."""
        return [token for span in self.spans for token in span.token_ids]

    def trajectory(self, prompt: Prompt, author: str) -> Trajectory:
        """The completion as if `author` had said the trained spans; nobody sampled it."""
        turns = [
            Turn(author if span.trained else ENVIRONMENT, span.token_ids, reward=span.reward) for span in self.spans
        ]
        known = {"reward": self.reward, "components": dict(self.components)}
        return Trajectory(prompt, turns, "stop", author=author, writer=DATASET, **known)


def reward_of_label(label: Any) -> float:
    """Return 1 for a label that says good, 0 for one that says bad; raises ValueError for any other."""
    found = LABELS.get(str(label).strip().lower())
    if found is None:
        raise ValueError(f"expected a label that says good or bad ({', '.join(LABELS)}), got {short(label)}")
    return found


def reward_of_score(score: Any) -> float:
    """Return a score as a number; raises ValueError for a value that is none."""
    try:
        if not isinstance(score, bool) and abs(found := float(score)) < float("inf"):
            return found
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"expected a finite number as score, got {short(score)}")
