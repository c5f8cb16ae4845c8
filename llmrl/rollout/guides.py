"""Guides: models beside a sampler's own that change its next-token distribution, one token at a time.

A guide is read as llmrl/ops/guidance.py says. Its models keep the keys and values of what stands before, so a step
costs them one pass over one token; a reward model passes over the k candidates beside it, each of which attends to the
same prefix and to itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig

from llmrl.errors import RecipeError, first_line
from llmrl.models.critic import HEAD
from llmrl.models.gate import load_gate
from llmrl.models.kinds import CONTEXT, reads_context
from llmrl.models.loading import is_reward_model, load_language_model, load_tokenizer, scores_tokens
from llmrl.models.outputs import backbone_of
from llmrl.models.scorer import load_reward_model
from llmrl.pieces import Piece
from llmrl.recipe_rollout import Guide as Settings
from llmrl.recipe_rollout import RollIn
from llmrl.rollout.readings import reading_of
from llmrl.rollout.sampler import SamplingParams, derive_seed


@dataclass(frozen=True)
class Guide:
    """A guide's models with the reading of their outputs.

    value: the reward model, or the language model whose logits are action values, that `outputs` are of. models: those
    that `logprobs` are of.
    """

    settings: Settings
    reading: Piece
    value: Any = None
    models: Sequence[Any] = ()
    reference: Any = None

    def begin(self, params: Sequence[SamplingParams], attention_mask: Tensor, step: int) -> Guidance:
        """The guidance of a batch of left-padded prompts' completions; step: of the policy that samples."""
        return Guidance(self, params, attention_mask, step)

    def length(self, params: SamplingParams, step: int) -> int:
        """How many tokens of a completion are guided, before the sampler goes on alone."""
        rolled = self.settings.roll_in
        return params.max_tokens if rolled is None else roll_in_length(params, rolled, step)


class Guidance:
    """Changes a batch's next-token distributions as they are sampled, token after token."""

    def __init__(self, guide: Guide, params: Sequence[SamplingParams], attention_mask: Tensor, step: int):
        self._guide = guide
        self._values = _Reader(guide.value, attention_mask) if guide.value is not None else None
        self._models = [_Reader(model, attention_mask) for model in guide.models]
        self._reference = _Reader(guide.reference, attention_mask) if guide.reference is not None else None
        lengths = [guide.length(one, step) for one in params]
        self._lengths = torch.tensor(lengths, device=attention_mask.device)
        self._width = attention_mask.shape[1]

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, shaped: Tensor) -> Tensor:
        """The guided log-probabilities, up to a constant: [N, V] to [N, V]; rows past their roll-in stay as they are.

        shaped: logits of the distribution that the sampler alone would draw from.
        """
        place = input_ids.shape[1] - self._width
        own = shaped.float().log_softmax(dim=-1)
        own_logprobs, tokens = own.topk(min(self._guide.settings.top_k, own.shape[1]))
        offsets = self._guide.reading(self._data(input_ids, tokens, own_logprobs)).float()
        there = own_logprobs.isfinite()
        if not offsets[there].isfinite().all():
            raise RuntimeError(f"guide: reading {self._guide.reading.name} gave a number that is not finite")
        changed = torch.where(there, own_logprobs + offsets, -torch.inf)
        guided = torch.full_like(own, -torch.inf).scatter(1, tokens, changed)
        return torch.where((place < self._lengths)[:, None], guided, shaped)

    def _data(self, input_ids: Tensor, tokens: Tensor, own_logprobs: Tensor) -> dict[str, Tensor]:
        found = {"own_logprobs": own_logprobs}
        if self._values is not None:
            scored = self._values.candidates(input_ids, tokens)
            found |= {"outputs": scored[0]} | ({"before": scored[1]} if scored[1] is not None else {})
        if self._models:
            each = [model.logprobs(input_ids).gather(1, tokens) for model in self._models]
            found["logprobs"] = torch.stack(each, dim=-1)
        if self._reference is not None:
            found["ref_logprobs"] = self._reference.logprobs(input_ids).gather(1, tokens)
        return found


class _Reader:
    """A model that reads a batch's tokens as they are sampled, with the keys and values of those before."""

    def __init__(self, model: Any, attention_mask: Tensor):
        self._model, self._mask, self._cache = model, attention_mask.bool(), None
        self._seen = 0

    def logprobs(self, input_ids: Tensor) -> Tensor:
        """Log-probabilities of the next token: [N, V]."""
        return self._logits(input_ids).log_softmax(dim=-1)

    def candidates(self, input_ids: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """The outputs of each of the tokens [N, k] after what stands there: [N, k, H], and of what stands: [N, H]."""
        if not hasattr(self._model, "score"):
            return self._logits(input_ids).gather(1, tokens)[..., None], None
        unseen, places = self._unseen(input_ids)
        hidden = self._forward(
            backbone_of(self._model),
            torch.cat([unseen, tokens], dim=1),
            torch.cat([places, places[:, -1:].add(1).expand_as(tokens)], dim=1),
            self._branches(unseen.shape[1], tokens.shape[1]),
        ).last_hidden_state[:, unseen.shape[1] - 1 :]
        self._cache.crop(-tokens.shape[1])  # pyright: ignore
        scores = self._model.score(hidden)
        return scores[:, 1:], scores[:, 0]

    def _logits(self, input_ids: Tensor) -> Tensor:
        unseen, places = self._unseen(input_ids)
        return self._forward(self._model, unseen, places, self._mask.long(), logits_to_keep=1).logits[:, -1].float()

    def _forward(self, module: Any, token_ids: Tensor, places: Tensor, mask: Tensor, **asked: Any) -> Any:
        found = module(
            input_ids=token_ids,
            position_ids=places,
            attention_mask=mask,
            past_key_values=self._cache,
            use_cache=True,
            **asked,
        )
        self._cache = found.past_key_values
        return found

    def _unseen(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens that were not read yet, with their positions."""
        new = input_ids.shape[1] - self._mask.shape[1]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._mask), new)], dim=1)
        places = (self._mask.long().cumsum(dim=1) - 1).clamp(min=0)
        unseen, places = input_ids[:, self._seen :], places[:, self._seen :]
        self._seen = input_ids.shape[1]
        return unseen, places

    def _branches(self, new: int, branches: int) -> Tensor:
        """The attention of new tokens, which see what stands before them, and of candidates, each of which sees all of
        these and itself: [N, 1, new + branches, all + branches], 0 or the least number of the model's dtype."""
        width, device = self._mask.shape[1], self._mask.device
        columns = torch.arange(width + branches, device=device)
        queries = columns[width - new :]
        prefix = (columns[None] <= queries[:, None]) & (columns < width)[None]
        seen = prefix | (columns[None] == queries[:, None])
        there = torch.cat([self._mask, self._mask.new_ones(len(self._mask), branches)], dim=1)
        allowed = (seen[None] & there[:, None])[:, None]
        dtype = next(self._model.parameters()).dtype
        return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def roll_in_length(params: SamplingParams, settings: RollIn, step: int) -> int:
    """How many tokens of a completion a roll-in guides, by the completion's seed: evenly from 0 to max_tokens.

    step: of training, on which the share of guided completions depends; the others have 0.
    """
    fading = 1.0 if settings.fades_over is None else max(0.0, 1 - max(step, 0) / settings.fades_over)
    if derive_seed(params.seed, "rolled_in") >= settings.share * fading * 2**63:
        return 0
    return derive_seed(params.seed, "roll_in") % (params.max_tokens + 1)


def load_guide(settings: Settings, tokenizer: Any, device: torch.device, *, key: str) -> Guide:
    """The guide that settings name; raises RecipeError for folders that do not fit the reading or the tokenizer."""
    reading = reading_of(settings, key)
    for path in filter(None, (*settings.models, settings.reference)):
        _check_tokens(Path(path).expanduser(), tokenizer, key)
    reference = _language_model(settings.reference, device, f"{key}.reference") if settings.reference else None
    if "outputs" not in reading.data:
        models = [_language_model(path, device, f"{key}.model") for path in settings.models]
        _try(reading, len(models), key)
        return Guide(settings, reading, models=models, reference=reference)
    [folder] = settings.models
    value = _value_model(folder, device, key)
    if "before" in reading.data and not hasattr(value, "score"):
        raise RecipeError(
            f"{key}.reading: {reading.name} reads the value before a token, which a language model's logits lack"
        )
    _try(reading, value.config.num_labels if hasattr(value, "score") else 1, key)
    return Guide(settings, reading, value=value, reference=reference)


def _try(reading: Piece, numbers: int, key: str) -> None:
    """Raises RecipeError if the reading fails on zeros; numbers: of each candidate."""
    zeros, several = torch.zeros(1, 2), torch.zeros(1, 2, numbers)
    data = {"outputs": several, "before": several[:, 0], "logprobs": several, "ref_logprobs": zeros}
    try:
        reading({**data, "own_logprobs": zeros})
    except (ValueError, RuntimeError) as error:
        raise RecipeError(f"{key}.reading.{reading.name}: {first_line(error)}") from None


def _check_tokens(folder: Path, tokenizer: Any, key: str) -> None:
    own, other = tokenizer.get_vocab(), load_tokenizer(folder).get_vocab()
    if any(other.get(token) != place for token, place in own.items()):  # a reward model may have one for padding more
        raise RecipeError(f"{key}.model: '{folder}' has other tokens than the sampler's model")


@lru_cache(maxsize=8)
def _language_model(path: str, device: torch.device, key: str) -> Any:
    folder = Path(path).expanduser()
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if is_reward_model(config):
        raise RecipeError(f"{key}: '{path}' is a reward model, expected a language model for this reading")
    return _frozen(load_language_model(folder, _dtype(config)), device)


@lru_cache(maxsize=8)
def _value_model(path: str, device: torch.device, key: str) -> Any:
    folder = Path(path).expanduser()
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    if (folder / HEAD).is_file():
        raise RecipeError(
            f"{key}.model: '{path}' is a critic whose architecture has no token classifier, expected one that has"
        )
    if not is_reward_model(config):
        return _language_model(path, device, f"{key}.model")
    if context := getattr(config, CONTEXT, None):
        raise RecipeError(f"{key}.model: '{path}' {reads_context(context)}")
    if load_gate(folder) is not None:
        raise RecipeError(f"{key}.model: '{path}' weighs its heads by the prompt, which a guide does not")
    kinds = set(getattr(config.get_text_config(), "layer_types", None) or ()) - {"full_attention"}
    if kinds:
        raise RecipeError(
            f"{key}.model: '{path}' has layers of {', '.join(sorted(kinds))}; candidates are read beside each other, "
            "which takes full attention in all layers"
        )
    tokenizer, heads = load_tokenizer(folder), config.num_labels or 1
    model = load_reward_model(folder, tokenizer, _dtype(config), heads=heads, of_tokens=scores_tokens(config))
    return _frozen(model, device)


def _dtype(config: Any) -> Any:
    return "bf16" if config.dtype == torch.bfloat16 else "fp32"


def _frozen(model: Any, device: torch.device) -> Any:
    return model.to(device).eval().requires_grad_(False)
