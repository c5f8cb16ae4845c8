"""The profile of one step: where its time went, as a table, in words and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llmrl.spans import Path, Spans

PROFILED = 3
"""The step that is profiled, counted from the one at which a process starts a stage or goes on with it, or the last:
in the first ones, memory is claimed and kernels are chosen."""
APART = "evaluate"
"""A span that is not a part of the step."""
WORTH_SAYING = 0.05
WORDS: Mapping[str, str] = {
    "sync": "sending the weights to the sampler",
    "collect": "sampling and scoring",
    "sampler": "sampling",
    "engine": "the sampler's engine",
    "environment": "waiting for environments",
    "rewards": "waiting for rewards",
    "update": "training",
    "pack": "packing trajectories into tensors",
    "ref_logprobs": "the reference's pass",
    "old_policy": "the old policy's pass",
    "old_outputs": "the critic's pass",
    "credit": "giving credit",
    "forward": "forward passes",
    "head": "the head: logits and log-probabilities",
    "loss": "the loss",
    "backward": "backward passes",
    "optimizer": "the optimizer's step",
    "save": "writing the trajectories",
}
"""Spans in words; a span that is not here is a provider, by its name."""
REST: Mapping[Path, str] = {
    (): "llmrl around all of this",
    ("collect", "sampler"): "llmrl around the sampler's engine: requests, their results, the event loop",
    ("collect",): "llmrl around sampling and scoring",
    ("update",): "llmrl around the passes: cutting, joining, metrics",
    ("update", "forward"): "the backbone's forward",
}
"""The spans that are split into parts, and what the time is that none of the parts has."""
TROUBLES = (
    (
        ("collect", "rewards"),
        0.10,
        "rewards are slower than sampling: fewer, cheaper or cached ones make a step shorter",
    ),
    (("collect", "environment"), 0.10, "environments hold up the sampler"),
    (("sync",), 0.05, "the weights take long to send: with model.lora the adapter alone is sent"),
    (("save",), 0.05, "the run folder's disk is slow"),
)
"""Spans that should have a small share of a step, that share, and what it means if they have more."""


@dataclass(frozen=True)
class Profile:
    """The seconds of a step of `stage`, in all and of each span, and how often each span was entered."""

    stage: str
    step: int
    total: float
    seconds: Mapping[Path, float]
    calls: Mapping[Path, int]
    padding: float | None = None

    @classmethod
    def of(cls, spans: Spans, *, stage: str, row: Mapping[str, Any]) -> Profile:
        """The profile of the step whose metrics are `row`."""
        seconds = {path: value for path, value in spans.seconds.items() if path[0] != APART}
        total = row["step_seconds"] + seconds.get(("save",), 0.0)
        return cls(stage, row["step"], total, seconds, spans.calls, row.get("padding"))

    def share(self, path: Path) -> float:
        """A span's share of the step."""
        return self.seconds.get(path, 0.0) / self.total

    def rest(self, path: Path) -> float:
        """The seconds of a span that none of its parts has; of () the step's own."""
        inside = sum(value for one, value in self.seconds.items() if one[:-1] == path)
        return max(0.0, (self.seconds[path] if path else self.total) - inside)

    def parts(self) -> dict[str, float]:
        """The step without overlap: the seconds of what REST splits into parts, of their parts, and of the others."""
        found: dict[str, float] = {}
        for path in self.seconds:
            if path[:-1] in REST:
                name, own = (REST[path], self.rest(path)) if path in REST else (words(path), self.seconds[path])
                found[name] = found.get(name, 0.0) + own
        return found | {REST[()]: self.rest(())}

    def sentences(self) -> list[str]:
        """Where the time went, the largest part first, and what stands out."""
        parts = sorted(self.parts().items(), key=lambda part: -part[1])
        said = [f"Step {self.step} of stage {self.stage} took {self.total:.3g} s."]
        said += [
            f"{value / self.total:.0%} of it: {name}." for name, value in parts if value > WORTH_SAYING * self.total
        ]
        for path, most, meaning in TROUBLES:
            if self.share(path) > most:
                said.append(f"{self.share(path):.0%} of the step is {words(path)}: {meaning}.")
        own = self.rest(sampling) if (sampling := ("collect", "sampler")) in self.seconds else 0.0
        if own > 0.1 * self.seconds.get(sampling, 0.0) and ("collect", "sampler", "engine") in self.seconds:
            said.append(f"{own / self.seconds[sampling]:.0%} of the time of sampling is not the engine's.")
        if self.padding is not None and self.padding > 0.03:
            said.append(f"{self.padding:.0%} of the places that were computed are padding.")
        return said

    def as_json(self) -> dict[str, Any]:
        """The profile as plain data."""
        spans = [
            {"span": "/".join(path), "seconds": value, "share": self.share(path), "calls": self.calls[path]}
            for path, value in sorted(self.seconds.items())
        ]
        head = {"stage": self.stage, "step": self.step, "seconds": self.total}
        return head | {"spans": spans, "parts": self.parts(), "sentences": self.sentences()}

    def text(self) -> str:
        """A table of spans, each under the one that it is a part of, and the sentences."""
        lines = [f"{'seconds':>9} {'share':>6} {'calls':>6}"]
        for path in self._in_order(()):
            indent = "  " * (len(path) - 1)
            lines.append(
                f"{self.seconds[path]:9.3f} {self.share(path):6.1%} {self.calls[path]:6d}  {indent}{words(path)}"
            )
        return "\n".join([*lines, *self.sentences()])

    def _in_order(self, parent: Path) -> list[Path]:
        below = [path for path in self.seconds if path[:-1] == parent]
        return [one for path in below for one in (path, *self._in_order(path))]


def words(path: Path) -> str:
    """A span in words."""
    return WORDS.get(path[-1], f"the provider {path[-1]}")


def wait_for_device() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
