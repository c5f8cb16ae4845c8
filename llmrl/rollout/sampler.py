"""The Sampler protocol: tokens in, tokens out. Its implementations are in vllm_sampler and transformers_sampler."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.recipe import Rollout


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one completion; temperature 0 is greedy.

    alternatives: how many of the likeliest tokens are reported in the place of each sampled one. beams,
    length_exponent: of the search for a greedy completion, see llmrl.rollout.beams; some samplers cannot search.
    others: the parameters of all authors but the first. evaluating: held-out prompts are answered.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int | None = None
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int = 0
    alternatives: int = 0
    beams: int = 1
    length_exponent: float = 0.0
    evaluating: bool = False
    others: Mapping[str, SamplingParams] = field(default_factory=dict)

    def of(self, author: str) -> SamplingParams:
        """One author's parameters."""
        return self.others.get(author, self)

    def at(self, temperature: float) -> SamplingParams:
        """The same for every author, at another temperature and from the whole distribution."""
        others = {name: other.at(temperature) for name, other in self.others.items()}
        return replace(self, temperature=temperature, top_p=1.0, top_k=None, others=others)

    def searching(self, beams: int, length_exponent: float) -> SamplingParams:
        """The same for every author, by beam search."""
        others = {name: other.searching(beams, length_exponent) for name, other in self.others.items()}
        return replace(self, beams=beams, length_exponent=length_exponent, others=others)


@dataclass(frozen=True)
class Completion:
    """Sampled tokens, with the token that ended them.

    logprobs are of the distribution sampled from (after temperature, top_p, top_k) and are empty for greedy sampling.
    alternatives: of each token the likeliest ones in its place, with their log-probabilities in that distribution, or
    at temperature 1 where sampling is greedy; empty unless they were asked for. text: the tokens decoded, without a
    stop token at their end, once the collector has them. given: how many of the first tokens another model wrote, which
    nothing is trained on.
    """

    token_ids: list[int]
    logprobs: list[float]
    stop_reason: Literal["stop", "length"]
    policy_version: int
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)
    text: str = ""
    given: int = 0


class Sampler(Protocol):
    """A policy that can be sampled concurrently from one event loop, and given new weights between steps.

    takes_adapter: whether `load_weights` takes a LoRA adapter; a sampler without this attribute takes none.
    """

    policy_version: int
    takes_adapter: bool

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        """One completion of `token_ids`; equal seeds and weights give equal tokens."""
        ...

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], policy_version: int) -> None:
        """Replace weights by (name, tensor) pairs; nothing may be in flight.

        Without an adapter all weights are given, by Hugging Face name. With one, all weights of the base, or all
        factors of the adapter (by the names of peft's files), or both: those that are not given stay.
        """
        ...

    def close(self) -> None:
        """Release the engine and its memory."""
        ...


@runtime_checkable
class Adapting(Protocol):
    """A sampler of one adapter whose base other samplers may share; it takes the base's weights for all of them.

    base: the holder of the base, the same object for all that share it.
    """

    base: object

    def with_adapter(self, adapter: str | None) -> Sampler:
        """The sampler of another of the adapters that the base was made for; None: of the base alone."""
        ...


@runtime_checkable
class Mixing(Protocol):
    """A sampler that can compute with another's model at each token."""

    def mixed_with(self, other: Sampler, share: float) -> Sampler:
        """A sampler of the geometric mixture other^share x own^(1 - share), normalized at each token.

        It has no weights of its own: it computes with those that both hold when it is asked.
        """
        ...


@runtime_checkable
class Guiding(Protocol):
    """A sampler whose next-token distribution other models can change."""

    def guided_by(self, training: Any, evaluating: Any) -> Sampler:
        """A sampler with the same weights, guided by the one while training and by the other on held-out prompts.

        Each is a llmrl.rollout.guides.Guide, or None. Log-probabilities are those of the guided distribution.
        """
        ...


def sampling_params(
    rollout: Rollout, stop_token_ids: tuple[int, ...], seed: int, others: Mapping[str, SamplingParams] | None = None
) -> SamplingParams:
    """The recipe's rollout settings as one completion's sampling parameters."""
    return SamplingParams(
        max_tokens=rollout.max_completion_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        stop=tuple(rollout.stop),
        stop_token_ids=stop_token_ids,
        seed=seed,
        others=others or {},
    )


def derive_seed(*parts: int | str) -> int:
    """A seed that depends on all of `parts` and on nothing else (not on process, rank or order): 63 bits."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
