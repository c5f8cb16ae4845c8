"""How the outputs of a guide change a sampler's next-token distribution: offsets of the log-probability of candidates.

    p'(a | s) ~ p(a | s) exp(offset(s, a))        a: the k likeliest tokens of p, the candidates

What a reading's positional parameters name is computed, and nothing else:

    outputs        [N, k, H]  the guide's outputs: of a reward model its H scores of s followed by a; of a language
                              model its logit of a, which is then an action value, H = 1
    before         [N, H]     a reward model's scores of s itself
    logprobs       [N, k, M]  log-probabilities that M language models give a
    ref_logprobs   [N, k]     log-probabilities that a reference of theirs gives a
    own_logprobs   [N, k]     log p(a | s)

Everything is fp32. Numbers that are the same for all candidates of a row cancel in p'.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from llmrl.ops.shared.ranges import require_positive
from llmrl.ops.shared.value_bins import bin_values


def success(outputs: Tensor, *, inverse_temperature: float = 10.0) -> Tensor:
    """The optimal soft value of an outcome of 1 or 0 whose probability the guide has learned: [N, k].

        offset = log E exp(R / eta) = log(1 + exp(1 / eta + l)) - log(1 + exp(l))        P(R = 1 | s, a) = sigmoid(l)

    outputs: [N, k, 1], l. inverse_temperature: 1 / eta. Raises ValueError for several outputs, or an inverse
    temperature that is not positive. Source: Q#, arXiv 2502.20548.
    """
    require_positive(inverse_temperature=inverse_temperature)
    logits = _single(outputs)
    return softplus(inverse_temperature + logits) - softplus(logits)


def return_distribution(
    outputs: Tensor, *, inverse_temperature: float = 10.0, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """The optimal soft value of a return whose distribution over K evenly spaced atoms the guide has learned: [N, k].

        offset = log sum_i p_i exp(z_i / eta)        p = softmax(outputs), z_1 = low, ..., z_K = high

    outputs: [N, k, K] logits. inverse_temperature: 1 / eta. Raises ValueError for an inverse temperature that is not
    positive, a low that is not below high, and fewer than 2 outputs. Source: Q#, arXiv 2502.20548.
    """
    require_positive(inverse_temperature=inverse_temperature)
    atoms = bin_values(outputs, low=low, high=high)
    return torch.logsumexp(outputs.float().log_softmax(dim=-1) + inverse_temperature * atoms, dim=-1)


def expected_success(outputs: Tensor, *, weight: float = 10.0) -> Tensor:
    """The probability of success times a weight, as controlled decoding does: [N, k].

        offset = weight * sigmoid(l)

    outputs: [N, k, 1], l. Raises ValueError for several outputs, or a weight that is not positive.
    Source: Controlled Decoding, arXiv 2310.17022.
    """
    require_positive(weight=weight)
    return weight * _single(outputs).sigmoid()


def value_ratio(outputs: Tensor, before: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The ratio of the critic's value after a token to the one before, each brought to (0, 1): [N, k].

        exp(offset) = (sigmoid(V(s, a)) / sigmoid(V(s))) ^ (1 / temperature)

    outputs: [N, k, H], before: [N, H]; the value is the mean of the heads. Raises ValueError for a temperature that is
    not positive. Source: CriticControl, arXiv 2212.10938.
    """
    require_positive(temperature=temperature)
    after, prefix = outputs.float().mean(dim=-1), before.float().mean(dim=-1, keepdim=True)
    return (logsigmoid(after) - logsigmoid(prefix)) / temperature


def action_value(outputs: Tensor, *, weight: float = 1.0) -> Tensor:
    """The value of each token times a weight, the least of several heads: [N, k].

        offset = weight * min_j Q_j(s, a)        the advantage Q - V, as V is the same for all tokens

    outputs: [N, k, H]. Raises ValueError for a weight that is not positive. Source: ILQL, arXiv 2206.11871; Monte-Carlo
    returns, arXiv 2311.18232.
    """
    require_positive(weight=weight)
    return weight * outputs.float().amin(dim=-1)


def implicit_reward(logprobs: Tensor, ref_logprobs: Tensor, *, weight: float = 1.0) -> Tensor:
    """The log ratio of a language model to its reference, which is a trained policy's reward of the token: [N, k].

        offset = weight * (log q(a | s) - log q_ref(a | s))

    logprobs: [N, k, M], the mean over models; ref_logprobs: [N, k]. A negative weight steers away from the model.
    Source: From r to Q*, arXiv 2404.12358; DExperts, arXiv 2105.03023.
    """
    return weight * (logprobs.float().mean(dim=-1) - ref_logprobs.float())


def product(logprobs: Tensor, own_logprobs: Tensor, *, weights: list[float]) -> Tensor:
    """A geometric mixture with other language models: [N, k].

        p' ~ p^(1 - sum_i w_i) prod_i q_i^(w_i)

    logprobs: [N, k, M]; own_logprobs: [N, k]. Raises ValueError unless there is a weight for each model.
    """
    own, shares = _of_models(logprobs, own_logprobs, weights)
    return ((logprobs.float() - own[..., None]) * shares).sum(dim=-1)


def mixture(logprobs: Tensor, own_logprobs: Tensor, *, weights: list[float]) -> Tensor:
    """An arithmetic mixture with other language models: [N, k].

        p' ~ (1 - sum_i w_i) p + sum_i w_i q_i        on the candidates

    logprobs: [N, k, M]; own_logprobs: [N, k]. Raises ValueError unless there is a weight for each model, none is
    negative and their sum is at most 1. Source: RLAE, arXiv 2506.00439.
    """
    own, shares = _of_models(logprobs, own_logprobs, weights)
    rest = 1 - shares.sum()
    if (shares < 0).any() or rest < -1e-6:
        raise ValueError(f"weights: {weights} is not valid, expected numbers of at least 0 with a sum of at most 1")
    mixed = torch.cat([own[..., None], logprobs.float()], dim=-1)
    return torch.logsumexp(mixed + torch.cat([rest.clamp(min=0)[None], shares]).log(), dim=-1) - own


def _single(outputs: Tensor) -> Tensor:
    if outputs.shape[-1] != 1:
        raise ValueError(f"the guide has {outputs.shape[-1]} outputs, expected 1, the logit of success")
    return outputs[..., 0].float()


def _of_models(logprobs: Tensor, own_logprobs: Tensor, weights: list[float]) -> tuple[Tensor, Tensor]:
    if logprobs.shape[-1] != len(weights):
        raise ValueError(f"weights: {len(weights)} for {logprobs.shape[-1]} models; give one for each")
    return own_logprobs.float(), torch.tensor(weights, device=logprobs.device)
