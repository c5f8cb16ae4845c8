"""Log-probabilities and entropy with a large vocabulary: time and peak memory against the plain way."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from llmrl.bench.measure import Bar, Figure, Setting, in_turn, worker
from llmrl.bench.parts import device, seconds
from llmrl.models.policy import Policy
from llmrl.run.memory import peak_memory

TIME, MEMORY = Bar(most=1.15), Bar(most=0.10)
SHAPE = {"vocabulary": 151_936, "hidden": 256, "tokens": 1024}
QUICK = {"vocabulary": 4096, "hidden": 64, "tokens": 64}
ROWS = 8


def measure(setting: Setting) -> list[Figure]:
    """Forward and backward of both ways: seconds, and the bytes at the peak over those before."""
    shape = QUICK if setting.quick else SHAPE
    setting.folder.mkdir(parents=True, exist_ok=True)
    jobs = {
        way: lambda way=way: worker(
            "llmrl.bench.logprobs",
            {"way": way, "threads": setting.threads, **shape},
            folder=setting.folder,
            setting=setting,
        )
        for way in ("llmrl", "plain")
    }
    told = in_turn(jobs, setting.rounds)
    own, plain = told["llmrl"], told["plain"]
    time = [median(ours["seconds"]) / median(other["seconds"]) for ours, other in zip(own, plain, strict=True)]
    memory = [ours["bytes"] / other["bytes"] for ours, other in zip(own, plain, strict=True)]
    name = f"{shape['tokens']} tokens, vocabulary {shape['vocabulary']}, {shape['hidden']} wide"
    return [
        Figure(f"{name}: time over the plain way's", time, "x", None if setting.quick else TIME),
        Figure(f"{name}: peak memory over the plain way's", memory, "x", None if setting.quick else MEMORY),
        *(Figure(f"{name}: {way}", [one for ran in told[way] for one in ran["seconds"]], "s") for way in told),
        *(Figure(f"{name}: {way}, peak", [ran["bytes"] / 2**30 for ran in told[way]], "GiB") for way in told),
    ]


def main() -> None:
    """Measure one way, and print its seconds and bytes as JSON."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    given: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(given["threads"])
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=given["vocabulary"], hidden_size=given["hidden"], intermediate_size=2 * given["hidden"],
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=32, use_cache=False,
    )  # fmt: skip
    lm: Any = Qwen3ForCausalLM(config)
    lm.to(device())
    token_ids = torch.randint(3, given["vocabulary"], (ROWS, given["tokens"] // ROWS)).to(device())
    way = plain if given["way"] == "plain" else ours(Policy(lm))

    def work() -> None:
        logprobs, entropy = way(lm, token_ids)
        (logprobs.sum() + 0.01 * entropy.sum()).backward()
        lm.zero_grad(set_to_none=False)  # gradients are there before and after, so that they do not count

    work()
    before = forget_peak()
    taken = [seconds(work) for _ in range(3)]
    print(json.dumps({"seconds": taken, "bytes": peak_memory() - before}))


def ours(policy: Policy) -> Any:
    """The way of training: the policy's outputs of all tokens but each row's first."""

    def way(lm: Any, token_ids: Tensor) -> tuple[Tensor, Tensor]:
        response = torch.ones_like(token_ids, dtype=torch.bool)
        response[:, 0] = False
        found = policy(token_ids, torch.ones_like(response), response, wanted=frozenset({"entropy"}))
        return found["logprobs"], found["entropy"]

    return way


def plain(lm: Any, token_ids: Tensor) -> tuple[Tensor, Tensor]:
    """The plain way: all logits, their log-softmax, and the entropy of it."""
    log_p = lm(input_ids=token_ids).logits[:, :-1].float().log_softmax(-1)
    return log_p.gather(-1, token_ids[:, 1:, None]), -(log_p.exp() * log_p).sum(-1)


def forget_peak() -> float:
    """Let the kernel, or a GPU's allocator, forget the peak of this process; returns the bytes that it has now."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return peak_memory()


if __name__ == "__main__":
    main()
