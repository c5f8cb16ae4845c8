"""A Sampler on transformers' generate: needs no vLLM, samples all pending requests as one batch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from llmrl.models.outputs import without_peft
from llmrl.models.text import completes
from llmrl.models.weights import adapter_parameters, base_parameters, kept_buffers
from llmrl.ops.shared.draws import draw_tokens
from llmrl.rollout.beams import beam_search
from llmrl.rollout.guides import Guidance, Guide
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.spans import span

Alternatives = list[list[tuple[int, float]]]
Request = tuple[list[int], SamplingParams, asyncio.Future[Completion]]


class SharedModel:
    """A model that the samplers of several adapters share; `turn` is held by the one that computes."""

    def __init__(self, model: PreTrainedModel | PeftModel):
        self.base_weights: dict[str, Any] = base_parameters(model) | kept_buffers(model)
        self.given: set[str] = set()
        self.turn = threading.Lock()
        self.peft = model.eval() if isinstance(model, PeftModel) else None
        self.lm: Any = without_peft(model.eval())
        # a model's own settings (repetition penalties, suppressed tokens) would change what is sampled from
        self.lm.generation_config = GenerationConfig(use_cache=True)

    @contextmanager
    def adapted_by(self, adapter: str | None) -> Iterator[None]:
        """Compute with one of the adapters, or with none."""
        with self.turn:
            if self.peft is None or adapter is None:
                with self.peft.disable_adapter() if self.peft else nullcontext():
                    yield
                return
            if self.peft.active_adapter != adapter:
                self.peft.set_adapter(adapter)
            yield


class TransformersSampler:
    """Samples from a model of its own; `sample` calls that wait while a batch is generated form the next one.

    model: may have LoRA adapters, which are given like other weights; the sampler is that of the active one. max_batch:
    completions generated at once; the rest wait their turn.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, *, max_batch: int = 64):
        adapter = str(model.active_adapter) if isinstance(model, PeftModel) else None
        self._serve(SharedModel(model), adapter, tokenizer, max_batch)

    def _serve(
        self, base: SharedModel, adapter: str | None, tokenizer: PreTrainedTokenizerBase, max_batch: int
    ) -> None:
        self.policy_version = -1
        self.takes_adapter = adapter is not None
        self.base = base
        self._adapter = adapter
        self._factors: dict[str, Any] = adapter_parameters(base.peft, adapter) if adapter else {}
        self._given: set[str] = set()
        self._model: Any = base.lm
        self._tokenizer = tokenizer
        self._max_batch = max_batch
        self._pending: list[Request] = []
        self._pump: asyncio.Task[None] | None = None

    def with_adapter(self, adapter: str | None) -> TransformersSampler:
        other = TransformersSampler.__new__(TransformersSampler)
        other._serve(self.base, adapter, self._tokenizer, self._max_batch)
        return other

    def mixed_with(self, other: TransformersSampler, share: float) -> TransformersSampler:
        """A sampler of the geometric mixture other^share x own^(1 - share) at each token; see MixtureSampler."""
        return MixtureSampler(self, other, share)

    def guided_by(self, training: Guide | None, evaluating: Guide | None) -> TransformersSampler:
        """A sampler with this one's weights whose next-token distribution guides change; see GuidedSampler."""
        return GuidedSampler(self, training, evaluating)

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._pending.append((token_ids, params, future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._drain())
        return await future

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> None:
        own, given = self.base.base_weights | self._factors, set()
        with torch.no_grad():
            for name, weight in weights:
                if name in own:  # a tied head has no parameter of its own
                    own[name].copy_(weight)
                    given.add(name)
        parts = (self.base.base_weights, self.base.given), (self._factors, self._given)
        missing = {
            name for part, before in parts for name in part.keys() - given if part.keys() & given or name not in before
        }
        if missing:
            raise RuntimeError(f"{len(missing)} weights were not given, {min(missing)} among them")
        for part, before in parts:
            before |= part.keys() & given
        self.policy_version = policy_version

    def close(self) -> None:
        self._model = None

    async def _drain(self) -> None:
        """Generate while requests are pending, in a thread: other work of the event loop goes on meanwhile."""
        await asyncio.sleep(0)  # let every caller of this turn of the loop add its request first
        while self._pending:
            batch, self._pending = self._pending[: self._max_batch], self._pending[self._max_batch :]
            try:
                completions = await asyncio.to_thread(self._generate, [(ids, params) for ids, params, _ in batch])
            except Exception as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(RuntimeError(f"generate failed: {type(error).__name__}: {error}"))
                continue
            for (_, _, future), completion in zip(batch, completions, strict=True):
                if not future.done():
                    future.set_result(completion)

    def _generate(self, requests: list[tuple[list[int], SamplingParams]]) -> list[Completion]:
        with self.base.adapted_by(self._adapter):
            return self._completions(requests)

    def _completions(self, requests: list[tuple[list[int], SamplingParams]]) -> list[Completion]:
        searched = [params.beams > 1 and params.temperature == 0 for _, params in requests]
        drawn = [one for one, search in zip(requests, searched, strict=True) if not search]
        completions = iter(self._draw(drawn) if drawn else [])
        pairs = zip(requests, searched, strict=True)
        return [self._search(*one) if search else next(completions) for one, search in pairs]

    def _search(self, token_ids: list[int], params: SamplingParams) -> Completion:
        with span("engine"):
            found = beam_search(
                self._model,
                token_ids,
                beams=params.beams,
                max_tokens=params.max_tokens,
                ended=lambda completion: _ended(completion, params, self._tokenizer),
                length_exponent=params.length_exponent,
            )
        return Completion(found.token_ids, [], "stop" if found.stopped else "length", self.policy_version)

    @torch.no_grad()
    def _draw(self, requests: list[tuple[list[int], SamplingParams]]) -> list[Completion]:
        device = self._model.device
        width = max(len(ids) for ids, _ in requests)
        token_ids = torch.zeros(len(requests), width, dtype=torch.int64)
        attention_mask = torch.zeros_like(token_ids)
        for row, (ids, _) in enumerate(requests):  # left padding: every completion starts in the same column
            token_ids[row, width - len(ids) :] = torch.tensor(ids)
            attention_mask[row, width - len(ids) :] = 1
        asked = [params for _, params in requests]
        draw = _SeededDraw(asked, device, self._guidance(asked, attention_mask.to(device)))
        with span("engine"):
            generated = self._model.generate(
                input_ids=token_ids.to(device),
                attention_mask=attention_mask.to(device),
                do_sample=False,  # the draw leaves one possible token, which greedy decoding then takes
                max_new_tokens=max(params.max_tokens for _, params in requests),
                eos_token_id=None,
                pad_token_id=0,
                logits_processor=[*self._processors(attention_mask.to(device)), draw],
                stopping_criteria=[_RowStops(width, [params for _, params in requests], self._tokenizer)],
            )
        drawn = torch.stack(draw.logprobs, dim=1).cpu()
        return [
            self._cut(row, logprobs, params, draw.alternatives(place))
            for place, (row, logprobs, (_, params)) in enumerate(
                zip(generated[:, width:].tolist(), drawn.tolist(), requests, strict=True)
            )
        ]

    def _processors(self, attention_mask: Tensor) -> list[LogitsProcessor]:
        """The changes of the logits before a token is drawn."""
        return []

    def _guidance(self, params: list[SamplingParams], attention_mask: Tensor) -> Guidance | None:
        """The change of the distributions that tokens are drawn from."""
        return None

    def _cut(
        self, token_ids: list[int], logprobs: list[float], params: SamplingParams, alternatives: Alternatives
    ) -> Completion:
        """The row up to the token that ended it; generate goes on until all rows of its batch have ended."""
        for end in range(1, min(len(token_ids), params.max_tokens) + 1):
            if _ended(token_ids[:end], params, self._tokenizer):
                break
        else:
            end = min(len(token_ids), params.max_tokens)
        reason = "stop" if _ended(token_ids[:end], params, self._tokenizer) else "length"
        kept = logprobs[:end] if params.temperature else []
        return Completion(token_ids[:end], kept, reason, self.policy_version, alternatives[:end])


class MixtureSampler(TransformersSampler):
    """Draws from other^share x own^(1 - share), normalized at each token, with the weights that both samplers hold.

    It takes `other` over: weights that it is given are the other's.
    """

    def __init__(self, own: TransformersSampler, other: TransformersSampler, share: float):
        self._serve(own.base, own._adapter, own._tokenizer, own._max_batch)
        self.takes_adapter = False
        self._other, self._share = other, share

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> None:
        self._other.load_weights(weights, policy_version)
        self.policy_version = policy_version

    def close(self) -> None:
        self._other.close()

    def _processors(self, attention_mask: Tensor) -> list[LogitsProcessor]:
        return [_Mixture(self._other._model, self._share, attention_mask)]


class GuidedSampler(TransformersSampler):
    """Draws from own x exp(offset), normalized over the candidates at each token; see llmrl.rollout.guides.

    Temperature, top_k and top_p are the sampler's own and come first; a greedy completion takes the likeliest token of
    the guided distribution at temperature 1. Weights that it is given are those of `own`, whose place it takes.
    """

    def __init__(self, own: TransformersSampler, training: Guide | None, evaluating: Guide | None):
        self._serve(own.base, own._adapter, own._tokenizer, own._max_batch)
        self.policy_version = own.policy_version
        self._own, self._guides = own, {False: training, True: evaluating}

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> None:
        self._own.load_weights(weights, policy_version)
        self.policy_version = policy_version

    def close(self) -> None:
        self._own.close()

    def _draw(self, requests: list[tuple[list[int], SamplingParams]]) -> list[Completion]:
        found: dict[int, Completion] = {}
        for evaluating in self._guides:
            chosen = [place for place, (_, params) in enumerate(requests) if params.evaluating == evaluating]
            drawn = super()._draw([requests[place] for place in chosen]) if chosen else []
            found |= dict(zip(chosen, drawn, strict=True))
        return [found[place] for place in range(len(requests))]

    def _guidance(self, params: list[SamplingParams], attention_mask: Tensor) -> Guidance | None:
        guide = self._guides[params[0].evaluating]
        return None if guide is None else guide.begin(params, attention_mask, self.policy_version)

    def _cut(
        self, token_ids: list[int], logprobs: list[float], params: SamplingParams, alternatives: Alternatives
    ) -> Completion:
        found, guide = super()._cut(token_ids, logprobs, params, alternatives), self._guides[params.evaluating]
        if guide is None or guide.settings.roll_in is None or guide.settings.roll_in.learned:
            return found
        return replace(found, given=min(len(found.token_ids), guide.length(params, self.policy_version)))


def _ended(token_ids: list[int], params: SamplingParams, tokenizer: PreTrainedTokenizerBase) -> bool:
    if token_ids[-1] in params.stop_token_ids:
        return True
    return completes(tokenizer, token_ids, params.stop)


class _RowStops(StoppingCriteria):
    """Per row: stop token, stop string, or that row's own token limit."""

    def __init__(self, prompt_width: int, params: list[SamplingParams], tokenizer: PreTrainedTokenizerBase):
        self._width, self._params, self._tokenizer = prompt_width, params, tokenizer

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        rows = input_ids[:, self._width :].tolist()
        done = [
            len(row) >= params.max_tokens or _ended(row, params, self._tokenizer)
            for row, params in zip(rows, self._params, strict=True)
        ]
        return torch.tensor(done, device=input_ids.device)


class _Mixture(LogitsProcessor):
    """Mixes another model's logits in: share * log p_other + (1 - share) * log p_own, which the draw normalizes."""

    def __init__(self, model: Any, share: float, attention_mask: Tensor):
        self._model, self._share, self._mask = model, share, attention_mask
        self._cache: Any = None

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        unseen = input_ids if self._cache is None else input_ids[:, -1:]
        if self._cache is not None:
            self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], dim=1)
        places = (self._mask.cumsum(dim=1) - 1).clamp(min=0)[:, -unseen.shape[1] :]
        found = self._model(
            input_ids=unseen,
            attention_mask=self._mask,
            position_ids=places,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        self._cache = found.past_key_values
        other = found.logits[:, -1].float().log_softmax(-1)
        return self._share * other + (1 - self._share) * scores.float().log_softmax(-1)


class _SeededDraw(LogitsProcessor):
    """Draws each row's token by its seed and position, or greedily, and records the token's log-probability, and those
    of the likeliest tokens where they are asked for."""

    def __init__(self, params: list[SamplingParams], device: torch.device, guidance: Guidance | None = None):
        self._guidance = guidance
        self._seeds = torch.tensor([one.seed for one in params], device=device)
        self._greedy = torch.tensor([one.temperature == 0 for one in params], device=device)
        rows: dict[tuple[float, float, int | None], list[int]] = {}
        for row, one in enumerate(params):
            rows.setdefault((one.temperature, one.top_p, one.top_k), []).append(row)
        self._warpers = [(_warpers(*settings), places) for settings, places in rows.items()]
        self.logprobs: list[Tensor] = []
        self._counts = [one.alternatives for one in params]
        self._likeliest: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        shaped = scores.float()
        for warpers, places in self._warpers:
            for warper in warpers:
                shaped[places] = warper(input_ids[places], shaped[places])
        if self._guidance is not None:
            shaped = self._guidance(input_ids, shaped)
        drawn, logprobs = draw_tokens(shaped, self._seeds, torch.full_like(self._seeds, len(self.logprobs)))
        self.logprobs.append(logprobs)
        if count := min(max(self._counts), shaped.shape[1]):
            likeliest = shaped.log_softmax(-1).topk(count)
            self._likeliest.append((likeliest.values, likeliest.indices))
        chosen = torch.where(self._greedy, shaped.argmax(-1), drawn)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)

    def alternatives(self, row: int) -> Alternatives:
        """Of each token of a row the likeliest ones in its place, as many as the row asked for."""
        count = self._counts[row]
        both = [(ids[row, :count].tolist(), values[row, :count].tolist()) for values, ids in self._likeliest]
        return [list(zip(ids, values, strict=True)) for ids, values in both] if count else []


def _warpers(temperature: float, top_p: float, top_k: int | None) -> list[Any]:
    """transformers' functions that shape the distribution, in vLLM's order."""
    found: list[Any] = []
    if temperature not in (0.0, 1.0):
        found.append(TemperatureLogitsWarper(temperature))
    if top_k:
        found.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        found.append(TopPLogitsWarper(top_p))
    return found
