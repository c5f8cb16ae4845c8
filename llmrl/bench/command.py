"""The command `llmrl bench`: measures the named parts, prints their figures, and writes them into a document."""

from __future__ import annotations

import datetime
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path

from rich.console import Console

from llmrl.bench.measure import Figure, Setting, machine
from llmrl.bench.work import CASES
from llmrl.errors import RecipeError, unknown_name

BEGIN, END = "<!-- {name}: measured -->", "<!-- end of {name} -->"


@dataclass(frozen=True)
class Part:
    """A part of the benchmark: the sentence about it, and its module, which has `measure(setting) -> figures`."""

    about: str
    module: str

    @property
    def measure(self) -> Callable[[Setting], list[Figure]]:
        return import_module(self.module).measure

    @property
    def require(self) -> Callable[[Setting], None] | None:
        """Raises RecipeError if the part cannot be measured in a setting; None if it can in any."""
        return getattr(import_module(self.module), "require", None)


PARTS: Mapping[str, Part] = {
    "peer": Part("a whole step against TRL's GRPOTrainer on the same work", "llmrl.bench.peer"),
    "overhead": Part("a whole step over what its engines take alone for the same tokens", "llmrl.bench.overhead"),
    "growth": Part("the time of a token as groups, completions and ranks grow", "llmrl.bench.growth"),
    "logprobs": Part(
        "log-probabilities and entropy of a large vocabulary against the plain way", "llmrl.bench.logprobs"
    ),
    "sync": Part("sending the weights to the sampler against a copy in memory", "llmrl.bench.sync"),
    "padding": Part("the share of padding, and long prompts' groups against padded rows", "llmrl.bench.padding"),
    "preference": Part("learning from pairs and demonstrations against TRL's trainers", "llmrl.bench.preference"),
    "critique": Part("a critiquer's step against a plain one, and two adapters against one", "llmrl.bench.critique"),
    "environments": Part(
        "turns a second of live environments, and the time that vLLM waits for them", "llmrl.bench.environments"
    ),
    "memory": Part("the peak of a run against what `llmrl check` foretold", "llmrl.bench.memory"),
}


def run(
    names: Sequence[str],
    *,
    setting: Setting,
    write: Path | None,
    console: Console,
) -> int:
    """Measure the named parts, or all; returns 1 if a figure misses its bar.

    With `write`, the tables of these parts are put in their places of that document. Raises RecipeError, before
    anything is measured, for an unknown name, a setting in which a part cannot be measured, or a document without a
    part's place.
    """
    names = names or list(PARTS)
    _require(names, setting, write)
    head = f"`{_command()}`, {datetime.date.today().isoformat()}, {machine(setting.threads)}"
    console.print(head, markup=False, highlight=False, soft_wrap=True)
    missed = measured = False
    with tempfile.TemporaryDirectory(prefix="llmrl-bench-") as folder:
        for name in names:
            started = time.monotonic()
            own = setting if setting.folder != Path() else replace(setting, folder=Path(folder))
            figures = PARTS[name].measure(own)
            if not figures:
                console.print(f"\n{name}: has no case {', '.join(setting.only)}", markup=False, highlight=False)
                continue
            measured = True
            text = f"{table(figures)}\n\n{head}; {time.monotonic() - started:.0f} s."
            console.print(
                f"\n{name}: {PARTS[name].about}\n\n{table(figures)}", markup=False, highlight=False, soft_wrap=True
            )
            missed |= any(figure.bar and not figure.bar.holds(figure.value) for figure in figures)
            if write is not None:
                write.write_text(placed(write.read_text(encoding="utf-8"), name, text), encoding="utf-8")
    if not measured:
        raise RecipeError(f"--case: {', '.join(names)} has no case {', '.join(setting.only)}, so nothing was measured")
    return int(missed)


def _require(names: Sequence[str], setting: Setting, write: Path | None) -> None:
    for name in names:
        if name not in PARTS:
            raise RecipeError(unknown_name("bench", name, PARTS, "part"))
    for case in setting.only:
        if case not in CASES:
            raise RecipeError(unknown_name("--case", case, CASES, "case"))
    if write is not None and not write.is_file():
        raise RecipeError(f"--write: no file '{write}'")
    for name in names:
        if write is not None:
            placed(write.read_text(encoding="utf-8"), name, "")
        if require := PARTS[name].require:
            require(setting)


def table(figures: Sequence[Figure]) -> str:
    """The figures in Markdown: the median, and the smallest and the largest value."""
    lines = ["| | median | least to most | bar | |", "|---|---|---|---|---|"]
    for figure in figures:
        low, high = figure.spread
        verdict = ("reached" if figure.bar.holds(figure.value) else "**missed**") if figure.bar else ""
        spread = f"{low:.3g} to {high:.3g}" if len(figure.values) > 1 else ""
        lines.append(
            f"| {figure.name} | {figure.value:.3g} {figure.unit} | {spread} | {figure.bar or ''} | {verdict} |"
        )
    return "\n".join(lines)


def placed(document: str, name: str, text: str) -> str:
    """The document with `text` in the place of the part `name`; raises RecipeError if it has no such place."""
    begin, end = BEGIN.format(name=name), END.format(name=name)
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise RecipeError(f"--write: the document has no place for {name}, expected lines '{begin}' and '{end}'")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def _command() -> str:
    return " ".join(["llmrl", *sys.argv[1:]])
