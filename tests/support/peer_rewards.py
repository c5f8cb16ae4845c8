"""Reward functions as users of other frameworks write them, with nothing of llmrl in them."""

from __future__ import annotations

import asyncio
import re

import numpy as np
import torch

# TRL: one call for many completions, columns as lists, by name


def accuracy_reward(completions, answer, **kwargs):
    return [1.0 if completion.strip() == str(one) else 0.0 for completion, one in zip(completions, answer, strict=True)]


def format_reward(completions, **kwargs):
    """Conversations: each completion is a list of messages."""
    contents = [completion[0]["content"] for completion in completions]
    return [bool(re.fullmatch(r"<think>.*</think>.*", content, re.DOTALL)) for content in contents]


def question_repeated(prompts, completions, **kwargs):
    pairs = zip(prompts, completions, strict=True)
    return [float(prompt[-1]["content"] in completion[-1]["content"]) for prompt, completion in pairs]


def what_it_gets(prompts, completions, completion_ids, **kwargs):
    """The number of lists in kwargs with an entry for each completion."""
    assert len(prompts) == len(completions) == len(completion_ids)
    lists = {name: value for name, value in kwargs.items() if name not in ("log_metric", "log_extra")}
    assert all(len(value) == len(completions) for value in lists.values()), lists
    return [float(len(lists)) + len(ids) / 10 for ids in completion_ids]


def only_keywords(*, completions, level=3, **kwargs):
    return [float(level if isinstance(level, int) else level[0])] * len(completions)


def of_maths(completions, task, answer, **kwargs):
    pairs = zip(completions, task, answer, strict=True)
    return [float(one == gold) if kind == "math" else None for one, kind, gold in pairs]


def of_letters(completions, task, letter, **kwargs):
    pairs = zip(completions, task, letter, strict=True)
    return [float(one.startswith(wanted)) if kind == "letters" else None for one, kind, wanted in pairs]


def longest_first(completions):
    """Compares the completions of one call."""
    longest = max(map(len, completions))
    return [len(completion) == longest for completion in completions]


def logging_reward(completions, log_metric=None, log_extra=None, **kwargs):
    log_metric("shortest", min(map(len, completions)))
    log_extra("length", [len(one) for one in completions])
    log_extra("text", list(completions))
    return [0.5] * len(completions)


async def async_reward(completions, **kwargs):
    await asyncio.sleep(0)
    return [float(len(one)) for one in completions]


def one_too_few(completions, **kwargs):
    return [1.0] * (len(completions) - 1)


def no_list(completions, **kwargs):
    return 1.0


def fails_on_bad(completions, **kwargs):
    if "bad" in completions:
        raise KeyError("bad")
    return [1.0] * len(completions)


def of_group(completions, group):
    """`group` is a column of the data."""
    return [float(one) for one in group]


def fails_on_none(prompts, completions, answer, **kwargs):
    raise KeyError("none")


def as_tensor(completions, **kwargs):
    return torch.tensor([float(len(one)) for one in completions], dtype=torch.bfloat16)


def as_array(completions, **kwargs):
    return np.array([len(one) > 1 for one in completions])


# verl: one call for each completion, by these names


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    if data_source == "openai/gsm8k":
        return 1.0 if solution_str.split("#### ")[-1] == ground_truth else 0.0
    raise NotImplementedError(f"no reward for {data_source!r}")


def compute_score_dict(data_source, solution_str, ground_truth, extra_info, **kwargs):
    right = solution_str == ground_truth
    level = (extra_info or {}).get("level", 0)
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str, "level": level}


def compute_score_scaled(solution_str, ground_truth, method="strict", score=1.0, **kwargs):
    assert method in ("strict", "flexible")
    found = solution_str.split()[-1] if method == "flexible" else solution_str
    return score if found == ground_truth else 0


def compute_score_batched(data_sources, solution_strs, ground_truths, extra_infos, **kwargs):
    pairs = zip(solution_strs, ground_truths, strict=True)
    return [{"score": float(one == gold), "acc": one == gold} for one, gold in pairs]


async def compute_score_async(data_source, solution_str, ground_truth, extra_info):
    await asyncio.sleep(0)
    return solution_str == ground_truth


# OpenRLHF: one call for many completions, queries are prompts with their answers


def reward_func(queries, prompts, labels):
    answers = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
    rewards = torch.tensor([float(one == gold) for one, gold in zip(answers, labels, strict=True)])
    return {
        "rewards": rewards,
        "scores": rewards,
        "extra_logs": {"characters": torch.tensor([len(a) for a in answers])},
    }
