"""The reward of each token that a policy holds implicitly, relative to its reference.

    r_t = beta (log pi(a_t | s_t) - log pi_ref(a_t | s_t))

Of a policy that is optimal for a reward r with a penalty beta on the KL, r_t = r(s_t, a_t) + V*(s_t+1) - V*(s_t): the
advantage of the token. The sum over a completion is its reward less V* of its prompt. Source: From r to Q*, arXiv
2404.12358.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmrl.batch import Batch
from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.models.loading import load_language_model, load_tokenizer
from llmrl.models.origins import locate
from llmrl.models.policy import Policy
from llmrl.types import Group

AT_ONCE = 16
"""Groups that a policy reads at once."""


@dataclass(frozen=True)
class Credited:
    """A completion with the implicit reward of each of its tokens, in nats times beta."""

    prompt: str
    prompt_token_ids: tuple[int, ...]
    reward: float
    tokens: list[str]
    rewards: list[float]

    @property
    def total(self) -> float:
        """The completion's implicit reward."""
        return sum(self.rewards)

    def lowest(self, width: int) -> range:
        """The places of the `width` tokens in a row of the lowest sum; all of them in a shorter completion."""
        width = min(width, len(self.rewards))
        starts = range(len(self.rewards) - width + 1)
        start = min(starts, key=lambda place: sum(self.rewards[place : place + width]), default=0)
        return range(start, start + width)


def load_policy(key: str, path: str) -> Policy:
    """The frozen policy in a folder or of a hub name; raises RecipeError, which begins with `key`, if there is none."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return Policy(load_language_model(locate(key, path))).to(device).eval()


def check_tokens(policy: str, reference: str) -> None:
    """Raises RecipeError if the two models have different tokens."""
    own, other = (load_tokenizer(Path(path)).get_vocab() for path in (policy, reference))
    if own != other:
        raise RecipeError(f"--reference: '{reference}' has other tokens than the policy '{policy}'")


def credited(
    groups: Sequence[Group], policy: Policy, reference: Policy, tokenizer: Any, *, beta: float
) -> list[list[Credited]]:
    """The trajectories of each group with their tokens' implicit rewards; of a turn by turn dialogue, the author's."""
    found: list[list[Credited]] = []
    pairs = zip(measured(policy, groups), measured(reference, groups), strict=True)
    for (part, batch, logprobs), (_, _, ref_logprobs) in pairs:
        rewards, rows = beta * (logprobs - ref_logprobs), iter(range(len(batch.token_ids)))
        for group in part:
            found.append([])
            for trajectory in group.trajectories:
                row = next(rows)
                places = batch.response_mask[row].nonzero().flatten()
                tokens = [tokenizer.decode([token]) for token in batch.token_ids[row, places].tolist()]
                own = rewards[row, places].tolist()
                prompt = group.prompt
                found[-1].append(Credited(prompt.text, prompt.token_ids, trajectory.reward, tokens, own))
    return found


@torch.no_grad()
def measured(policy: Policy, groups: Sequence[Group]) -> Iterator[tuple[Sequence[Group], Batch, Tensor]]:
    """Some groups at a time, their batch and the policy's log-probabilities of their tokens: [N, T], on the CPU."""
    device = next(policy.parameters()).device
    for start in range(0, len(groups), AT_ONCE):
        part = groups[start : start + AT_ONCE]
        batch = pack(part, part[0].author)
        inputs = (one.to(device) for one in (batch.token_ids, batch.attention_mask, batch.response_mask))
        found = policy(*inputs, wanted=frozenset({"logprobs"}))["logprobs"]
        yield part, batch, found.cpu()
