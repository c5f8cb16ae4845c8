"""The order in which prompts are consumed: every prompt exactly once an epoch, resumable at any point."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from llmrl.errors import RecipeError
from llmrl.types import Prompt


class PromptStream:
    """An endless order of prompts; an epoch's permutation depends on (seed, epoch) alone.

    labels: prompt id -> label. Prompts of each label are spread evenly over the epoch, whatever their order before:
    any prompts in a row have the labels in the proportion that all have, but for one. balanced: the labels take turns,
    so that what is taken at once has equally many of each; an epoch has as many of each as the rarest label has, and
    the next one goes on with the others. whole_epochs: what is taken at once is of one epoch, so that its last part may
    be smaller.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        seed: int,
        shuffle: bool = True,
        labels: Mapping[str, object] | None = None,
        *,
        balanced: bool = False,
        whole_epochs: bool = False,
    ):
        if not prompts:
            raise RecipeError("data.train: no prompts to stream")
        self.prompts = prompts
        self.seed = seed
        self.shuffle = shuffle
        self.whole_epochs = whole_epochs
        self._labels = [(labels or {}).get(prompt.id) for prompt in prompts]
        self._balanced = balanced
        self._fingerprint = _fingerprint(prompts, self._labels, balanced)
        self._start(epoch=0, position=0)

    @property
    def epoch(self) -> float:
        """Passes over the prompts so far, with the fraction of the current one."""
        return self._epoch + self._position / len(self._order)

    def coming(self, n: int) -> int:
        """How many prompts `take(n)` would give."""
        left = len(self._order) - self._position
        return min(n, left or len(self._order)) if self.whole_epochs else n

    def take(self, n: int) -> list[Prompt]:
        """The next `n` prompts; crosses into the next epoch where the current one runs out, unless it ends there."""
        taken: list[Prompt] = []
        n = self.coming(n)
        while len(taken) < n:
            if self._position == len(self._order):
                self._start(self._epoch + 1, position=0)
            chunk = self._order[self._position : self._position + n - len(taken)]
            self._position += len(chunk)
            taken += [self.prompts[index] for index in chunk]
        return taken

    def state_dict(self) -> dict[str, Any]:
        place = {"epoch": self._epoch, "position": self._position}
        return place | {"seed": self.seed, "shuffle": self.shuffle, "fingerprint": self._fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state`; raises RecipeError if the prompts, the seed or `shuffle` have changed."""
        if state["fingerprint"] != self._fingerprint:
            raise RecipeError(
                "data.train: the prompts are not those the checkpoint was made with (rows, templates or tokenizer "
                "changed), so what was consumed cannot be known; restore the data or start a new run"
            )
        for name in ("seed", "shuffle"):
            if state[name] != getattr(self, name):
                raise RecipeError(f"{name}: {getattr(self, name)}, but the checkpoint was made with {state[name]}")
        self._start(state["epoch"], state["position"])

    def _start(self, epoch: int, position: int) -> None:
        self._epoch, self._position = epoch, position
        self._order = list(range(len(self.prompts)))
        if self.shuffle:
            random.Random(f"{self.seed}/{epoch}").shuffle(self._order)
        if self._balanced:
            self._order = _taking_turns(self._order, self._labels, epoch)
        else:
            self._order = _spread(self._order, self._labels)


def balanced_epoch(labels: Sequence[object]) -> int:
    """The number of prompts in an epoch that has as many of each label as the rarest has."""
    counts = Counter(labels)
    return len(counts) * min(counts.values(), default=0)


def _taking_turns(order: Sequence[int], labels: Sequence[object], epoch: int) -> list[int]:
    """As many of each label as the rarest has, one of each in turn; each epoch begins behind the one before."""
    of_label: dict[object, list[int]] = {label: [] for label in labels}
    for index in order:
        of_label[labels[index]].append(index)
    least = min(map(len, of_label.values()))
    parts = [[own[(epoch * least + n) % len(own)] for n in range(least)] for own in of_label.values()]
    return [index for turn in zip(*parts, strict=True) for index in turn]


def _spread(order: Sequence[int], labels: Sequence[object]) -> list[int]:
    """The order in which places of each label have equal distances, as far as whole places allow."""
    seen: Counter[object] = Counter()
    counts = Counter(labels)
    place: dict[int, float] = {}
    for index in order:
        label = labels[index]
        place[index] = (seen[label] + 0.5) / counts[label]
        seen[label] += 1
    return sorted(order, key=place.__getitem__)


def _fingerprint(prompts: Sequence[Prompt], labels: Sequence[object], balanced: bool) -> str:
    digest = hashlib.blake2b(b"balanced" * balanced, digest_size=16)
    for prompt, label in zip(prompts, labels, strict=True):
        shown = "" if label is None else f" {label}"
        digest.update(f"{prompt.id} {prompt.token_ids}{shown}\n".encode())
    return digest.hexdigest()
