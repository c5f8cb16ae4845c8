"""A saved language model that measures the log-probabilities of completions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from llmrl.data.schedule import schedule
from llmrl.models.frozen_scorer import TOKENS_AT_ONCE
from llmrl.models.kinds import LANGUAGE_MODEL, expect
from llmrl.models.loading import load_language_model, load_tokenizer, stop_token_ids
from llmrl.models.policy import Policy

Row = tuple[list[int], list[bool]]
"""All tokens of a prompt and a completion, and which of them are measured."""


class FrozenPolicy:
    """The language model in a folder, on a GPU if there is one; several threads may call it.

    temperature: of the distribution, softmax(logits / temperature). Raises RecipeError if the folder holds no language
    model.
    """

    def __init__(self, folder: Path, *, temperature: float = 1.0):
        expect(folder, LANGUAGE_MODEL)
        config = AutoConfig.from_pretrained(str(folder))
        self.tokenizer: Any = load_tokenizer(folder)
        self.stops = stop_token_ids(self.tokenizer, config)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        lm = load_language_model(folder, "bf16" if config.dtype == torch.bfloat16 else "fp32")
        self._model = Policy(lm, temperature=temperature).to(self._device).eval().requires_grad_(False)
        self._lock = threading.Lock()

    def logprobs(self, rows: Sequence[Row]) -> list[list[float]]:
        """The log-probabilities of each row's measured tokens, in order."""
        found: dict[int, list[float]] = {}
        arrays = [torch.tensor(tokens).numpy() for tokens, _ in rows]
        with self._lock, torch.inference_mode():
            packed = self._model.packs
            for cut in schedule(arrays, ranks=1, max_tokens=TOKENS_AT_ONCE, packed=packed)[0] if rows else ():
                chosen = cut.tolist()
                found |= dict(zip(chosen, self._forward([rows[index] for index in chosen]), strict=True))
        return [found[index] for index in range(len(rows))]

    def _forward(self, rows: Sequence[Row]) -> list[list[float]]:
        lengths = torch.tensor([len(tokens) for tokens, _ in rows])
        width = int(lengths.max())
        padded = [(tokens + [0] * (width - len(tokens)), mask + [False] * (width - len(mask))) for tokens, mask in rows]
        token_ids, wanted = (torch.tensor(list(part), device=self._device) for part in zip(*padded, strict=True))
        there = (torch.arange(width)[None, :] < lengths[:, None]).to(self._device)
        found = self._model(token_ids, there, wanted, wanted=frozenset({"logprobs"}))["logprobs"]
        return [values[own].tolist() for values, own in zip(found, wanted, strict=True)]


@lru_cache(maxsize=8)
def frozen_policy(folder: Path, *, temperature: float = 1.0) -> FrozenPolicy:
    """The one FrozenPolicy of a folder in this process."""
    return FrozenPolicy(folder, temperature=temperature)
