"""Weights of tokens [N, T]: never negative, without gradient, 0 where response_mask is False.

A weight multiplies the policy loss per token, or one regularizer, so that it acts on some tokens only. The denominator
of the mean stays; a weight of M / M_kept turns a mean over all M response tokens of the batch into the mean over the
kept ones.

    reads nothing of the current policy       runs once per step, on the whole batch
    reads logprobs, entropy or log_ratio      runs per micro-batch, on every trajectory by itself
"""
