"""The engines of a step alone: the sampler's, and plain transformers over the same tokens; run as a process.

Its argument is JSON: the model's folder, the run's folder, steps, threads, the sampler's name and the dtype; it prints
the seconds of each step as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from llmrl.bench.parts import device, seconds
from llmrl.run_folder.reader import RunReader

Row = tuple[list[int], list[int]]
"""A prompt's tokens and its completion's."""
CUTS = (4, 8, 16, 32)
"""Rows of a padded micro-batch that are tried; the fastest is taken."""


def main() -> None:
    """Measure each step, and print what it took."""
    given = json.loads(sys.argv[1])
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    steps = [rows_of(Path(given["run"]), step) for step in given["steps"]]
    dtype = given.get("dtype", "float32")
    forward = Plain(given["model"], dtype)
    if given.get("sampler") == "transformers":
        generate = forward.generate
    else:
        generate = vllm_generate(given["model"], given["max_model_len"], dtype)
    torch.set_num_threads(given["threads"])
    generate(steps[0])
    cut = forward.fastest(steps[0])
    found = [
        {
            "sampler": seconds(generate, rows),
            "train": seconds(forward.train, rows, cut),
            "reference": seconds(forward.reference, rows, cut),
        }
        for rows in steps
    ]
    print(json.dumps(found))


def rows_of(run: Path, step: int) -> list[Row]:
    """The trajectories of a recorded step."""
    table = RunReader(run).rollouts(step=step, kind="train", columns=["prompt_token_ids", "turns"])
    return [
        (row["prompt_token_ids"], [token for turn in row["turns"] for token in turn["token_ids"]])
        for row in table.to_pylist()
    ]


def vllm_generate(model: str, max_model_len: int, dtype: str) -> Callable[[Sequence[Row]], Any]:
    """vLLM with the settings of a sampler; it samples as many tokens for each prompt as the row has."""
    from vllm import LLM, SamplingParams

    precision: Any = dtype
    llm = LLM(
        model, dtype=precision, max_model_len=max_model_len, max_num_seqs=256, enforce_eager=True, block_size=32,
        enable_chunked_prefill=False, max_num_batched_tokens=max(8192, max_model_len), kv_cache_memory_bytes=2**30,
        disable_log_stats=True, seed=0, logprobs_mode="processed_logprobs",
    )  # fmt: skip

    def generate(rows: Sequence[Row]) -> Any:
        prompts: Any = [{"prompt_token_ids": prompt} for prompt, _ in rows]
        params = [
            SamplingParams(max_tokens=len(completion), ignore_eos=True, logprobs=0, detokenize=False)
            for _, completion in rows
        ]
        llm.reset_prefix_cache()
        return llm.generate(prompts, params, use_tqdm=False)

    return generate


class Plain:
    """Plain transformers: rows sorted by length, cut into micro-batches; or all of them packed into one row."""

    def __init__(self, model: str, dtype: str) -> None:
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        self.model: Any = loaded.to(device())

    @torch.no_grad()
    def generate(self, rows: Sequence[Row]) -> None:
        """transformers' generate: as many tokens for all rows as the longest completion has."""
        width, most = max(len(prompt) for prompt, _ in rows), max(len(completion) for _, completion in rows)
        tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt, _ in rows]).to(device())
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt, _ in rows]).to(device())
        self.model.generate(
            input_ids=tokens,
            attention_mask=mask,
            do_sample=True,
            top_k=0,
            min_new_tokens=most,
            max_new_tokens=most,
            pad_token_id=0,
        )

    def fastest(self, rows: Sequence[Row]) -> int:
        """The number of rows of a micro-batch with which training takes least; 0 stands for packing."""
        taken = {cut: min(seconds(self.train, rows, cut) for _ in range(2)) for cut in (0, *CUTS)}
        return min(taken, key=taken.__getitem__)

    def train(self, rows: Sequence[Row], cut: int) -> None:
        """Forward and backward over all rows."""
        for batch in micro_batches(rows, cut):
            self._loss(*batch).backward()
        self.model.zero_grad()

    @torch.no_grad()
    def reference(self, rows: Sequence[Row], cut: int) -> None:
        """A forward over all rows."""
        for batch in micro_batches(rows, cut):
            self._loss(*batch)

    def _loss(self, token_ids: Any, targets: Any, positions: Any, mask: Any) -> Any:
        token_ids, targets, positions = (one.to(device()) for one in (token_ids, targets, positions))
        hidden = self.model.model(
            input_ids=token_ids,
            position_ids=positions,
            attention_mask=None if mask is None else mask.to(device()),
            use_cache=False,
        ).last_hidden_state
        trained = targets >= 0
        return F.cross_entropy(self.model.lm_head(hidden[trained]).float(), targets[trained], reduction="sum")


def micro_batches(rows: Sequence[Row], cut: int) -> list[tuple[Any, ...]]:
    """(tokens, targets or -1, positions, mask) of each micro-batch of `cut` rows; of one packed row if cut is 0."""
    ordered = sorted(rows, key=lambda row: -len(row[0]) - len(row[1]))
    if cut == 0:
        whole = [place(row) for row in ordered]
        tokens, targets, positions = (torch.tensor([[*chain(*(one[i] for one in whole))]]) for i in range(3))
        return [(tokens, targets, positions, None)]
    batches = []
    for start in range(0, len(ordered), cut):
        chosen = [place(row) for row in ordered[start : start + cut]]
        width = max(len(one[0]) for one in chosen)
        padded = [[one[i] + [fill] * (width - len(one[i])) for one in chosen] for i, fill in ((0, 0), (1, -1), (2, 0))]
        tokens, targets, positions = (torch.tensor(one) for one in padded)
        mask = torch.tensor([[1] * len(one[0]) + [0] * (width - len(one[0])) for one in chosen])
        batches.append((tokens, targets, positions, mask))
    return batches


def place(row: Row) -> tuple[list[int], list[int], list[int]]:
    """A row's tokens, what each has to predict (-1: nothing), and positions."""
    prompt, completion = row
    tokens = prompt + completion
    return tokens, [-1] * (len(prompt) - 1) + completion + [-1], list(range(len(tokens)))


if __name__ == "__main__":
    main()
