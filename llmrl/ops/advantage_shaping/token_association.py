"""Token-level credit from which token ids occur in a group's correct and wrong responses."""

from __future__ import annotations

import torch
from torch import Tensor

from llmrl.ops.shared.groups import members
from llmrl.ops.shared.ranges import refuse_negative

SATURATION, LENGTH_SHARE = 2.0, 0.5  # the BM25 constants k1 and b
RARE = 1e-5
SURE = 1e-9


def key_tokens(
    advantages: Tensor,
    token_ids: Tensor,
    response_mask: Tensor,
    correct: Tensor,
    group_ids: Tensor,
    *,
    fisher: float = 1.0,
    information: float = 1.0,
    frequency: bool = True,
    scale: float = 1.0,
    ignore_ids: tuple[int, ...] = (),
) -> Tensor:
    """Raises the advantage of token ids typical of the group's correct responses, lowers that of the wrong ones'.

        A'_t  = A_t + w(y_t)        w = scale (2 sigmoid(score) - 1)
        score = (fisher F + information I) direction / (fisher + information)
        F     = exp(-2 p), 0 where p = 1        p: two-sided Fisher exact test of "contains v" against "correct"
        I     = H(correct) - H(correct | contains v), in bits
        direction = asin sqrt(a / n_right) - asin sqrt(b / n_wrong)  [+ T_right / T_wrong - T_wrong / T_right]

    a of the n_right correct and b of the n_wrong wrong responses contain the id v; T is its BM25 term frequency among
    all tokens of a side, counted if `frequency`. Groups that are all correct or all wrong, trajectories whose verdict
    is unknown, and ignore_ids (special tokens) are unchanged. advantages, token_ids, response_mask: [N, T]; correct,
    group_ids: [N]. Raises ValueError for a weight or scale below 0, or both weights 0. Source: KTAE, arXiv 2505.16826.
    """
    refuse_negative(fisher=fisher, information=information, scale=scale)
    if fisher + information == 0:
        raise ValueError("fisher and information: both 0 is not valid, expected one above 0")
    shaped = torch.where(response_mask, advantages, 0.0).double()
    judged = response_mask & correct.isfinite().unsqueeze(1)
    for group in members(judged, group_ids):
        tokens, right = judged[group], correct[group] > 0
        rows = tokens.nonzero()[:, 0]
        ids, id_of = token_ids[group][tokens].unique(return_inverse=True)
        found, sizes = _containing(id_of, rows, right, len(ids))
        if not sizes.all():
            continue
        importance = fisher * _significance(found, sizes) + information * _information(found, sizes)
        direction = _angle(found, sizes)
        if frequency:
            direction = direction + _frequency_contrast(id_of, right[rows], len(ids))
        weights = scale * torch.tanh(importance * direction / (fisher + information) / 2)  # 2 sigmoid(x) - 1
        weights[torch.isin(ids, ids.new_tensor(ignore_ids))] = 0.0
        shaped[group] += torch.zeros_like(shaped[group]).masked_scatter(tokens, weights[id_of])
    return shaped.float()


def _containing(id_of: Tensor, rows: Tensor, right: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The numbers of correct and of wrong rows that contain each id, [V, 2], and of all such rows, [2]: fp64."""
    contains = torch.zeros(count, len(right), dtype=torch.double, device=right.device)
    contains[id_of, rows] = 1.0
    sides = torch.stack([right, ~right], dim=1).double()
    return contains @ sides, sides.sum(dim=0)


def _significance(found: Tensor, sizes: Tensor) -> Tensor:
    """exp(-2 p) of the two-sided Fisher exact test, 0 where p is 1: [V]."""
    holders, total, right = found.sum(dim=1, keepdim=True), sizes.sum(), sizes[0]
    in_right = torch.arange(int(right) + 1, dtype=torch.double, device=found.device)
    log_chance = _log_choose(right, in_right) + _log_choose(sizes[1], holders - in_right)
    chance = (log_chance - _log_choose(total, holders)).exp()
    observed = chance.gather(1, found[:, :1].long())
    p = torch.where(chance <= observed * (1 + SURE), chance, 0.0).sum(dim=1)
    return torch.where(p >= 1 - SURE, 0.0, torch.exp(-2 * p))


def _log_choose(n: Tensor, k: Tensor) -> Tensor:
    """Log of n over k, -inf unless 0 <= k <= n: lgamma is infinite at 0, -1, -2 ..."""
    return torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _information(found: Tensor, sizes: Tensor) -> Tensor:
    """The mutual information of containing the id and being correct, in bits: [V]."""
    total = sizes.sum()
    without = sizes - found
    kept = found.sum(dim=1) * _entropy(found) + without.sum(dim=1) * _entropy(without)
    return _entropy(sizes) - kept / total


def _entropy(counts: Tensor) -> Tensor:
    """Entropy in bits of counts [..., 2], 0 where there are none: [...]."""
    shares = counts / counts.sum(dim=-1, keepdim=True).clamp(min=1)
    return -(torch.xlogy(shares, shares) / torch.log(shares.new_tensor(2.0))).sum(dim=-1)


def _angle(found: Tensor, sizes: Tensor) -> Tensor:
    """The difference of the two shares on the arcsine scale (half of Cohen's h): [V]."""
    angles = torch.asin((found / sizes).sqrt())
    return angles[:, 0] - angles[:, 1]


def _frequency_contrast(id_of: Tensor, right: Tensor, count: int) -> Tensor:
    """T_right / T_wrong - T_wrong / T_right of each id's saturated term frequencies: [V]."""
    counts = torch.stack([id_of[right].bincount(minlength=count), id_of[~right].bincount(minlength=count)], dim=1)
    lengths = counts.sum(dim=0).double()
    shares = counts / lengths
    slowness = SATURATION * (1 - LENGTH_SHARE + LENGTH_SHARE * lengths / lengths.mean())
    in_right, in_wrong = (shares * (SATURATION + 1) / (shares + slowness)).unbind(dim=1)
    return in_right / (in_wrong + RARE) - in_wrong / (in_right + RARE)
