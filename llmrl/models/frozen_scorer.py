"""A saved reward model that scores completions."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from llmrl.data.chat import Conversation
from llmrl.data.schedule import schedule
from llmrl.errors import RecipeError
from llmrl.models.loading import is_reward_model, load_tokenizer, stop_token_ids
from llmrl.models.scorer import Scorer, load_reward_model
from llmrl.types import Prompt

TOKENS_AT_ONCE = 8192


class FrozenScorer:
    """The reward model in a folder, on a GPU if there is one; several threads may call it.

    Raises RecipeError if the folder holds no reward model.
    """

    def __init__(self, folder: Path):
        if not (folder / "config.json").is_file():
            raise RecipeError(f"'{folder}' has no config.json; expected the folder of a trained reward model")
        config = AutoConfig.from_pretrained(str(folder))
        if not is_reward_model(config):
            raise RecipeError(f"'{folder}' holds {', '.join(config.architectures or ['none'])}, no reward model")
        self.tokenizer: Any = load_tokenizer(folder)
        self._stops = stop_token_ids(self.tokenizer, config)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.heads: int = config.num_labels or 1
        dtype = "bf16" if config.dtype == torch.bfloat16 else "fp32"
        lm = load_reward_model(folder, self.tokenizer, dtype, heads=self.heads)
        self._model = Scorer(lm).to(self._device).eval().requires_grad_(False)
        self._lock = threading.Lock()

    def row(self, prompt: Prompt, token_ids: Sequence[int], text: str | None) -> tuple[list[int], int]:
        """The tokens of a prompt and its completion, and the number of the prompt's.

        They are the policy's own tokens, as in training, if this tokenizer gives the same to the same texts; else the
        prompt's messages, or its text, and the completion are rendered anew and closed by the end-of-sequence token.

        text: None for an episode of several turns, of which there is no other rendering than its tokens. Raises
        ValueError if such an episode was told in another tokenizer's tokens.
        """
        if self._speaks(prompt, token_ids, text):
            return [*prompt.token_ids, *token_ids], len(prompt.token_ids)
        if text is None:
            raise ValueError("an episode of several turns is scored by its tokens, which this model reads otherwise")
        asked, said = prompt.text, text
        if prompt.messages is not None:
            conversation = Conversation(self.tokenizer, [dict(message) for message in prompt.messages])  # pyright: ignore
            asked, said = conversation.prompt, conversation.answer({"role": "assistant", "content": text})
        before = self.tokenizer.encode(asked, add_special_tokens=prompt.messages is None)
        if before and before[-1] == self.tokenizer.eos_token_id and prompt.messages is None:
            before.pop()  # the tokenizer's own
        after = self.tokenizer.encode(said, add_special_tokens=False)
        ends = [place for place, token in enumerate(after) if token in self._stops]
        return before + (after[: ends[0] + 1] if ends else [*after, self.tokenizer.eos_token_id]), len(before)

    def scores(self, rows: Sequence[tuple[list[int], int]]) -> list[list[float]]:
        """The score of each row at its last token, by each head: [N][H]."""
        found: dict[int, list[float]] = {}
        arrays = [torch.tensor(tokens).numpy() for tokens, _ in rows]
        with self._lock, torch.inference_mode():
            [cuts] = schedule(arrays, ranks=1, max_tokens=TOKENS_AT_ONCE, packed=self._model.packs)
            for cut in cuts:
                chosen = cut.tolist()
                scores = self._forward([rows[index][0] for index in chosen])
                found |= dict(zip(chosen, scores, strict=True))
        return [found[index] for index in range(len(rows))]

    def _forward(self, rows: Sequence[list[int]]) -> list[list[float]]:
        lengths = torch.tensor([len(row) for row in rows])
        width = int(lengths.max())
        token_ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self._device)
        places = torch.arange(width)[None, :]
        last, mask = places == lengths[:, None] - 1, places < lengths[:, None]
        found = self._model(token_ids, mask.to(self._device), last.to(self._device))["scores"]
        return found.sum(dim=1).tolist()

    def _speaks(self, prompt: Prompt, token_ids: Sequence[int], text: str | None) -> bool:
        """Whether this tokenizer has the tokens of the prompt, and reads the completion's as its text."""
        plain = prompt.messages is None
        encoded = self.tokenizer.encode(prompt.text, add_special_tokens=plain)
        own = tuple(encoded[: len(prompt.token_ids)]) == prompt.token_ids and len(encoded) - len(prompt.token_ids) < 2
        return own and (text is None or self.tokenizer.decode(list(token_ids), skip_special_tokens=True) == text)


@lru_cache(maxsize=8)
def frozen_scorer(folder: Path) -> FrozenScorer:
    """The one FrozenScorer of a folder in this process."""
    return FrozenScorer(folder)
