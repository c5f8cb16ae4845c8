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
from llmrl.data.steps import step_tokens
from llmrl.models.gate import load_gate
from llmrl.models.kinds import REWARD_MODEL, STEP_REWARD_MODEL, Kind, expect
from llmrl.models.loading import load_tokenizer, scores_tokens, stop_token_ids
from llmrl.models.scorer import Scorer, load_reward_model
from llmrl.models.text import as_written, decoder
from llmrl.types import Prompt, Trajectory

TOKENS_AT_ONCE = 8192


class FrozenScorer:
    """The reward model in a folder, on a GPU if there is one; several threads may call it.

    kind: of llmrl.models.kinds. Raises RecipeError if the folder holds no such model.
    """

    def __init__(self, folder: Path, kind: Kind = REWARD_MODEL):
        expect(folder, kind)
        config = AutoConfig.from_pretrained(str(folder))
        self.tokenizer: Any = load_tokenizer(folder)
        self.separator: str | None = getattr(config, "step_separator", None)
        self._stops = stop_token_ids(self.tokenizer, config)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        heads, gate = config.num_labels or 1, load_gate(folder)
        self.heads = heads if gate is None else 1
        dtype = "bf16" if config.dtype == torch.bfloat16 else "fp32"
        lm = load_reward_model(folder, self.tokenizer, dtype, heads=heads, of_tokens=scores_tokens(config))
        self._model = Scorer(lm, gate=gate).to(self._device).eval().requires_grad_(False)
        self._lock = threading.Lock()

    def row(self, prompt: Prompt, token_ids: Sequence[int], text: str | None) -> tuple[list[int], int]:
        """The tokens of a prompt and its completion, and the number of the prompt's.

        They are the policy's own tokens, as in training, if this tokenizer gives the same to the same texts; else the
        prompt's messages, or its text, and the completion are rendered anew. A completion that was cut short, or ended
        by a stop string, is closed as those are that the model was trained on: by the token that ends a turn.

        text: None for an episode of several turns, of which there is no other rendering than its tokens. Raises
        ValueError if such an episode was told in another tokenizer's tokens.
        """
        if self.speaks(prompt, token_ids, text):
            ended = bool(token_ids) and token_ids[-1] in self._stops
            closing = [] if ended else [self._closing(prompt)]
            return [*prompt.token_ids, *token_ids, *closing], len(prompt.token_ids)
        if text is None:
            raise ValueError("an episode of several turns is scored by its tokens, which this model reads otherwise")
        conversation, before = self._asked(prompt)
        said = text if conversation is None else conversation.answer({"role": "assistant", "content": text})
        return before + self._ended(said), len(before)

    def step_row(self, prompt: Prompt, steps: Sequence[str], separator: str) -> tuple[list[int], list[int]]:
        """The tokens of a prompt and the steps of its answer, as in training, and the place of each step's end."""
        before = list(prompt.token_ids) if self.speaks(prompt, [], None) else self._asked(prompt)[1]
        tokens, ends = before, []
        for step in step_tokens(self.tokenizer, steps, separator):
            tokens = [*tokens, *step]
            ends.append(len(tokens) - 1)
        return tokens, ends

    def scores(self, rows: Sequence[tuple[list[int], int]]) -> list[list[float]]:
        """The score of each row at its last token, by each head: [N][H]."""
        starts = [start for _, start in rows]
        return [found[0] for found in self.scores_at([(tokens, [len(tokens) - 1]) for tokens, _ in rows], starts)]

    def scores_at(
        self, rows: Sequence[tuple[list[int], list[int]]], starts: Sequence[int] | None = None
    ) -> list[list[list[float]]]:
        """The scores of each row at its places, in order, by each head: [N][places][H].

        starts: the place after each prompt, where a gate is to read it; default: the first of the places.
        """
        begins = starts or [places[0] for _, places in rows]
        found: dict[int, list[list[float]]] = {}
        arrays = [torch.tensor(tokens).numpy() for tokens, _ in rows]
        with self._lock, torch.inference_mode():
            packed = self._model.packs
            for cut in schedule(arrays, ranks=1, max_tokens=TOKENS_AT_ONCE, packed=packed)[0] if rows else ():
                chosen = cut.tolist()
                scores = self._forward([(*rows[index], begins[index]) for index in chosen])
                found |= dict(zip(chosen, scores, strict=True))
        return [found[index] for index in range(len(rows))]

    def _forward(self, rows: Sequence[tuple[list[int], list[int], int]]) -> list[list[list[float]]]:
        lengths = torch.tensor([len(tokens) for tokens, _, _ in rows])
        width = int(lengths.max())
        token_ids = torch.tensor([tokens + [0] * (width - len(tokens)) for tokens, _, _ in rows], device=self._device)
        mask = torch.arange(width)[None, :] < lengths[:, None]
        wanted = torch.zeros_like(mask)
        for row, (_, own, start) in enumerate(rows):
            wanted[row, [min(start, own[0]), *own]] = True
        found = self._model(token_ids, mask.to(self._device), wanted.to(self._device))["scores"]
        return [found[row, own].tolist() for row, (_, own, _) in enumerate(rows)]

    def _ended(self, said: str) -> list[int]:
        """The tokens of an answer up to the first that ends a turn, which is added if there is none."""
        after = self.tokenizer.encode(said, add_special_tokens=False)
        ends = [place for place, token in enumerate(after) if token in self._stops]
        return after[: ends[0] + 1] if ends else [*after, self.tokenizer.eos_token_id]

    def _closing(self, prompt: Prompt) -> int:
        """The token that ends an answer to the prompt."""
        conversation, _ = self._asked(prompt)
        return self._ended("" if conversation is None else conversation.answer({"role": "assistant", "content": "0"}))[
            -1
        ]

    def _asked(self, prompt: Prompt) -> tuple[Conversation | None, list[int]]:
        """The prompt in this tokenizer's own tokens, and its conversation if it is one."""
        if prompt.messages is not None:
            conversation = Conversation(self.tokenizer, [dict(message) for message in prompt.messages])  # pyright: ignore
            return conversation, self.tokenizer.encode(conversation.prompt, add_special_tokens=False)
        before = self.tokenizer.encode(prompt.text)
        if before and before[-1] == self.tokenizer.eos_token_id:
            before.pop()  # the tokenizer's own
        return None, before

    def reads(self, trajectory: Trajectory) -> bool:
        """Whether this tokenizer reads the tokens of the prompt and of each turn as their texts."""
        return reads(self.tokenizer, self._stops, trajectory)

    def speaks(self, prompt: Prompt, token_ids: Sequence[int], text: str | None) -> bool:
        """Whether this tokenizer has the tokens of the prompt, and reads the completion's as its text."""
        return speaks(self.tokenizer, self._stops, prompt, token_ids, text)


def speaks(tokenizer: Any, stops: Sequence[int], prompt: Prompt, token_ids: Sequence[int], text: str | None) -> bool:
    """Whether a tokenizer has the tokens of the prompt, and reads the completion's as its text; text: None for any."""
    plain = prompt.messages is None
    encoded = tokenizer.encode(prompt.text, add_special_tokens=plain)
    own = tuple(encoded[: len(prompt.token_ids)]) == prompt.token_ids and len(encoded) - len(prompt.token_ids) < 2
    if not own or text is None:
        return own
    return text in (tokenizer.decode(list(token_ids), skip_special_tokens=True), decoder(tokenizer, stops)(token_ids))


def reads(tokenizer: Any, stops: Sequence[int], trajectory: Trajectory) -> bool:
    """Whether a tokenizer reads the tokens of the prompt and of each of the author's turns as their texts."""
    decode, asked = decoder(tokenizer, stops), trajectory.prompt.token_ids
    plain = tokenizer.decode(list(asked), skip_special_tokens=True)
    if trajectory.prompt.text not in (as_written(tokenizer, asked), plain):
        return False
    return all(decode(turn.token_ids) == turn.text for turn in trajectory.own_turns)


@lru_cache(maxsize=8)
def frozen_scorer(folder: Path, kind: Kind = REWARD_MODEL) -> FrozenScorer:
    """The one FrozenScorer of a folder in this process."""
    return FrozenScorer(folder, kind)


def any_scorer(folder: Path) -> FrozenScorer:
    """The FrozenScorer of a reward model of completions or of steps, or of a saved critic."""
    of_tokens = (folder / "config.json").is_file() and scores_tokens(AutoConfig.from_pretrained(str(folder)))
    return frozen_scorer(folder, STEP_REWARD_MODEL if of_tokens else REWARD_MODEL)
