"""The tables of docs/methods.md: one table a task, in which every method is compared with the yardstick."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from statistics import fmean
from typing import Any

import yaml

from llmrl.prove.results import Result
from llmrl.prove.runs import TASKS, YARDSTICK, task_file
from llmrl.recipe_file import methods

Notes = Mapping[str, Mapping[str, str]]

INTRODUCTION = """\
# Methods, measured

{count} methods on {tasks} small tasks, seeds {seeds}, all from one warm-started checkpoint
(experts, programs and tools have one of their own) with the same budget:
{budget}. Measured on {date}, {hours:.1f} CPU-hours of training, by `{command}`.

A table is a measurement of one small setting, not a ranking: a 0.4M-parameter model, answers of four tokens, and the
same learning rate and updates for all methods but those whose own file sets others.

- seeds: how many runs the numbers are a mean of.
- accuracy: of samples at temperature 1, which is what is trained, on held-out prompts; start -> mean over seeds (lowest
  to highest).
- vs {yardstick}: the mean accuracy less {yardstick}'s, in points.
- greedy: accuracy of the likeliest answers. pass@8: share of prompts that one of eight samples solves.
- entropy: of the policy in nats a token, first -> last step. KL: of the trained policy to its start, in nats a token.
- tokens: sampled to train on. CPU s: of one run, evaluations included, on one core.
- **no gain**: on some seed, accuracy did not rise above its start; the notes under the table say why.
"""
HEADER = (
    "| method | seeds | accuracy | vs {yardstick} | greedy | pass@8 | entropy | KL | tokens | CPU s |\n"
    + "|---" * 10
    + "|\n"
)


@dataclass(frozen=True)
class Row:
    """A method's row in one task's table: the results of finished runs, and the fault of an unfinished one."""

    method: str
    results: list[Result]
    fault: str | None

    @property
    def gains(self) -> bool:
        """Return whether accuracy rose on every seed."""
        return bool(self.results) and all(result.gain > 0 for result in self.results)

    @property
    def accuracy(self) -> float:
        """The mean accuracy over seeds after training, 0 if no run finished."""
        return self.mean(lambda result: result.after["accuracy"]) if self.results else 0.0

    def mean(self, of: Callable[[Result], float | None]) -> float:
        """Return the mean over the seeds whose value is not missing, nan if all values are missing."""
        values = [value for value in map(of, self.results) if value is not None]
        return fmean(values) if values else float("nan")


def render(results: Sequence[Result], notes: Notes, *, date: str, command: str) -> str:
    """Return the whole document as Markdown."""
    by_task = {task: [result for result in results if result.run.task == task] for task in TASKS}
    by_task = {task: own for task, own in by_task.items() if own}
    introduction = INTRODUCTION.format(
        count=len({result.run.method for result in results}),
        tasks=len(by_task),
        seeds=", ".join(map(str, sorted({result.run.seed for result in results}))),
        budget=_budget(),
        date=date,
        hours=sum(result.cpu_seconds for result in results) / 3600,
        command=command,
        yardstick=YARDSTICK,
    )
    papers = {name: _link(fragment) for name, fragment in methods().items()}
    return "\n".join([introduction, *(_section(task, own, notes, papers) for task, own in by_task.items())])


def read_notes() -> Notes:
    """Return the hand-written notes that ship with llmrl."""
    return yaml.safe_load((resources.files("llmrl.prove") / "notes.yaml").read_text(encoding="utf-8"))


def rows_of(results: Sequence[Result]) -> list[Row]:
    """Return one task's results as rows: the yardstick first, then from the highest accuracy to the lowest."""
    by_method: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_method[result.run.method].append(result)
    rows = []
    for method, own in by_method.items():
        faults = [result.fault for result in own if result.fault is not None]
        rows.append(Row(method, [result for result in own if result.fault is None], faults[0] if faults else None))
    return sorted(rows, key=lambda row: (row.method != YARDSTICK, -row.accuracy, row.method))


def _section(task: str, results: Sequence[Result], notes: Notes, papers: Mapping[str, str | None]) -> str:
    rows = rows_of(results)
    yardstick = next((row.accuracy for row in rows if row.method == YARDSTICK and row.results), float("nan"))
    lines = [_line(row, yardstick, papers.get(row.method)) for row in rows if row.results]
    remarks = [f"- {row.method}: {_remark(row, notes.get(row.method, {}).get(task))}" for row in rows if _is_odd(row)]
    summary = yaml.safe_load(task_file(task).read_text(encoding="utf-8"))["summary"]
    table = HEADER.format(yardstick=YARDSTICK) + "\n".join(lines)
    return "\n\n".join([f"## {summary}", table, *(["\n".join(remarks)] if remarks else [])]) + "\n"


def _line(row: Row, yardstick: float, paper: str | None) -> str:
    after = [result.after["accuracy"] for result in row.results]
    accuracy = f"{_change(row, 'accuracy')} ({_percent(min(after))}-{_percent(max(after))})"
    entropies = [row.mean(lambda r, end=end: r.entropy[end] if r.entropy else None) for end in (0, 1)]
    cells = [
        f"[{row.method}]({paper})" if paper else row.method,
        str(len(row.results)),
        accuracy if row.gains else f"{accuracy} **no gain**",
        "" if row.method == YARDSTICK else f"{100 * (row.accuracy - yardstick):+.1f}",
        _change(row, "greedy"),
        _change(row, "pass@8"),
        f"{entropies[0]:.2f} -> {entropies[1]:.2f}",
        f"{row.mean(lambda r: r.kl):.3f}",
        f"{row.mean(lambda r: r.tokens):,.0f}",
        f"{row.mean(lambda r: r.cpu_seconds):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _change(row: Row, name: str) -> str:
    before, after = (row.mean(lambda r, at=at: getattr(r, at)[name]) for at in ("before", "after"))
    return f"{_percent(before)} -> {_percent(after)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _is_odd(row: Row) -> bool:
    return row.fault is not None or not row.gains


def _remark(row: Row, note: str | None) -> str:
    if row.fault is None:
        return f"no gain: {note or 'not explained yet'}"
    return f"did not finish: {row.fault.splitlines()[0]}" + (f" ({note})" if note else "")


def _budget() -> str:
    """Describe the budget of one run, which all tasks share."""
    recipe: dict[str, Any] = yaml.safe_load(task_file("budget").read_text(encoding="utf-8"))
    rollout, training = recipe["rollout"], recipe["training"]
    return (
        f"{training['steps']} steps of {rollout['prompts_per_step']} prompts x {rollout['group_size']} samples, "
        f"{training['updates_per_step']} updates each"
    )


def _link(fragment: Mapping[str, Any]) -> str | None:
    """Return the address of the paper that a method's file names by an arXiv number or by an address."""
    paper = str(fragment.get("paper", ""))
    number = re.search(r"arXiv[: ](\d{4}\.\d{4,5})", paper)
    address = re.search(r"https?://\S+", paper)
    return f"https://arxiv.org/abs/{number[1]}" if number else address[0] if address else None
