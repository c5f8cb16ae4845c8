"""pass@k and maj@k over a group of samples of one prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb


def pass_at_k(correct: Sequence[bool], k: int) -> float:
    """The chance that at least one of k samples, drawn without replacement from these n, is correct.

        1 - C(n - c, k) / C(n, k)        c of the n are correct

    Unbiased, unlike 1 - (1 - c/n)^k. Raises ValueError if k is not in 1..n.
    Source: Chen et al., Evaluating Large Language Models Trained on Code, arXiv 2107.03374.
    """
    n, c = len(correct), sum(correct)
    if not 1 <= k <= n:
        raise ValueError(f"pass@{k} needs at least {k} samples and k >= 1, got {n} samples")
    return 1.0 - comb(n - c, k) / comb(n, k)


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool]) -> float:
    """The share of the most frequent answer's samples that are correct; ties between answers are averaged.

    None stands for a sample without an answer, which has no vote; without any vote the share is 0. Equal answers may
    have different verdicts (a rounding, a unit), hence a share.
    Source: Wang et al., Self-consistency, arXiv 2203.11171.
    """
    votes = Counter(answer for answer in answers if answer is not None)
    most = max(votes.values(), default=0)
    winners = [answer for answer, count in votes.items() if count == most]
    shares = []
    for winner in winners:
        verdicts = [ok for answer, ok in zip(answers, correct, strict=True) if answer == winner]
        shares.append(sum(verdicts) / len(verdicts))
    return sum(shares) / len(shares) if shares else 0.0


def powers_up_to(n: int) -> list[int]:
    """1, 2, 4 ... and n itself: the k at which pass@k is reported."""
    return sorted({1 << i for i in range(n.bit_length()) if 1 << i <= n} | {n})
