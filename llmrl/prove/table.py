"""The tables of docs/methods.md: one table a task, in which every method is compared with the yardstick."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from math import isnan
from statistics import fmean
from typing import Any

import yaml

from llmrl.prove.catalogue import TASKS, task_file
from llmrl.prove.results import Result
from llmrl.recipe_file import load_plan, methods

Notes = Mapping[str, Mapping[str, str]]

INTRODUCTION = """\
# Methods, measured

{count} methods on {tasks} small tasks, seeds {seeds}. Measured on {date}, {hours:.2f} CPU-hours of training, by
`{command}`.

A table is a measurement of one small setting, not a ranking: small models, short answers, and the same learning rate
and updates for all methods but those whose own file sets others.

- seeds: how many runs the numbers are a mean of.
- accuracy: of samples at temperature 1 on held-out prompts; start -> mean over seeds (lowest to highest). In the table
  task, the probability of the answer of highest true reward; of a reward model, the share of held-out pairs whose
  chosen answer has the higher score.
- vs: the mean accuracy less the first method's, in points.
- greedy: accuracy of the likeliest answers. pass@8: share of prompts that one of eight samples solves.
- reward: the policy's mean true reward. KL to the optimum: of the policy that has the highest mean true reward less its
  KL to the start, to the trained policy, in nats. A loss with beta has it at 1 there, so that this policy is DPO's
  optimum; other losses have other optima.
- entropy: of the policy in nats a token, first -> last step. KL: of the trained policy to its start, in nats a token.
- tokens: sampled to train on. CPU s: of one run, evaluations included, on one core.
- **no gain**: on some seed, accuracy did not rise above its start; the notes under the table say why.
"""
MORE = ("reward", "KL to the optimum")
"""Numbers that only some tasks measure."""


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
        date=date,
        hours=sum(result.cpu_seconds for result in results) / 3600,
        command=command,
    )
    papers = {name: _link(fragment) for name, fragment in methods().items()}
    return "\n".join([introduction, *(_section(task, own, notes, papers) for task, own in by_task.items())])


def read_notes() -> Notes:
    """Return the hand-written notes that ship with llmrl."""
    return yaml.safe_load((resources.files("llmrl.prove") / "notes.yaml").read_text(encoding="utf-8"))


def rows_of(results: Sequence[Result], yardstick: str) -> list[Row]:
    """Return one task's results as rows: the yardstick first, then from the highest accuracy to the lowest."""
    by_method: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        by_method[result.run.method].append(result)
    rows = []
    for method, own in by_method.items():
        faults = [result.fault for result in own if result.fault is not None]
        rows.append(Row(method, [result for result in own if result.fault is None], faults[0] if faults else None))
    return sorted(rows, key=lambda row: (row.method != yardstick, -row.accuracy, row.method))


def _section(task: str, results: Sequence[Result], notes: Notes, papers: Mapping[str, str | None]) -> str:
    rows = rows_of(results, TASKS[task].yardstick)
    lines = _table([row for row in rows if row.results], TASKS[task].yardstick, papers)
    remarks = [f"- {row.method}: {_remark(row, notes.get(row.method, {}).get(task))}" for row in rows if _is_odd(row)]
    summary = yaml.safe_load(task_file(task).read_text(encoding="utf-8"))["summary"]
    return "\n\n".join([f"## {summary}", _budget(task), "\n".join(lines), "\n".join(remarks)]).rstrip() + "\n"


def _table(rows: Sequence[Row], yardstick: str, papers: Mapping[str, str | None]) -> list[str]:
    """The table's lines; a column without numbers is left out."""
    level = next((row.accuracy for row in rows if row.method == yardstick), float("nan"))
    columns = {
        "method": [f"[{row.method}]({papers[row.method]})" if papers.get(row.method) else row.method for row in rows],
        "seeds": [str(len(row.results)) for row in rows],
        "accuracy": [_accuracy(row) for row in rows],
        f"vs {yardstick}": ["" if row.method == yardstick else f"{_points(row.accuracy - level)}" for row in rows],
        **{name: [_change(row, name, _percent) for row in rows] for name in ("greedy", "pass@8")},
        **{name: [_change(row, name, _number) for row in rows] for name in MORE},
        "entropy": [_entropy(row) for row in rows],
        "KL": [_mean(row, lambda r: r.kl, ".3f") for row in rows],
        "tokens": [_mean(row, lambda r: r.tokens or None, ",.0f") for row in rows],
        "CPU s": [_mean(row, lambda r: r.cpu_seconds, ".1f") for row in rows],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells) or name.startswith("vs ")}
    lines = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _accuracy(row: Row) -> str:
    after = [result.after["accuracy"] for result in row.results]
    text = f"{_change(row, 'accuracy', _percent)} ({_percent(min(after))}-{_percent(max(after))})"
    return text if row.gains else f"{text} **no gain**"


def _entropy(row: Row) -> str:
    first, last = (row.mean(lambda r, end=end: r.entropy[end] if r.entropy else None) for end in (0, 1))
    return "" if isnan(first) else f"{first:.2f} -> {last:.2f}"


def _mean(row: Row, of: Callable[[Result], float | None], form: str) -> str:
    value = row.mean(of)
    return "" if isnan(value) else format(value, form)


def _change(row: Row, name: str, form: Callable[[float], str]) -> str:
    before, after = (row.mean(lambda r, at=at: getattr(r, at).get(name)) for at in ("before", "after"))
    return "" if isnan(after) else f"{form(before)} -> {form(after)}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _points(difference: float) -> str:
    return "" if isnan(difference) else f"{100 * difference:+.1f}"


def _number(value: float) -> str:
    return f"{value:.3f}"


def _is_odd(row: Row) -> bool:
    return row.fault is not None or not row.gains


def _remark(row: Row, note: str | None) -> str:
    if row.fault is None:
        return f"no gain: {note or 'not explained yet'}"
    return f"did not finish: {row.fault.splitlines()[0]}" + (f" ({note})" if note else "")


def _budget(task: str) -> str:
    """Describe the start and the budget of a task's runs."""
    own = TASKS[task]
    recipe = load_plan(task_file(task), [f"method={own.yardstick}", "model=start"]).stages["train"]
    rollout, training = recipe.rollout, recipe.training
    return (
        f"{training.steps} steps of {rollout.prompts_per_step} prompts x {rollout.group_size} completions, "
        f"updates in each: {training.updates_per_step}"
        + (f"; from the checkpoint `{own.start}`." if own.start else "; the model's logits are a table.")
    )


def _link(fragment: Mapping[str, Any]) -> str | None:
    """Return the address of the paper that a method's file names by an arXiv number or by an address."""
    paper = str(fragment.get("paper", ""))
    number = re.search(r"arXiv[: ](\d{4}\.\d{4,5})", paper)
    address = re.search(r"https?://\S+", paper)
    return f"https://arxiv.org/abs/{number[1]}" if number else address[0] if address else None
