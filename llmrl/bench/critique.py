"""Critiques: a critiquer's step, on drafts of the rows and with a frozen actor's refinements, against a plain step; and
the memory of two adapters on one base against that of one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

from llmrl.bench.measure import Bar, Figure, Setting, in_turn, llmrl, process
from llmrl.bench.work import BETA, CASES, Case, lay_out, recipe
from llmrl.run_folder.reader import RunReader

DRAFT_TOKENS = 16
STEP, MEMORY = Bar(most=1.15), Bar(most=1.2)
EVEN = "llmrl.bench.rewards:even"
PENALTY = {"kl_k3": {"weight": BETA}}
LORA = {"rank": 16}


@dataclass(frozen=True)
class Ran:
    """A run: the median seconds of its steps, the mean tokens that a step samples, and its peak of bytes."""

    seconds: float
    tokens: float
    peak: int


def measure(setting: Setting) -> list[Figure]:
    """The ratio of the seconds of a sampled token, that of the peaks, and what they are made of."""
    step, pair = CASES["tiny" if setting.quick else "long"], CASES["tiny" if setting.quick else "smollm2"]
    found: list[Figure] = []
    if setting.cases(("tiny",), ("long",)):
        found += _step(step, setting)
    if setting.cases(("tiny",), ("smollm2",)):
        found += _memory(pair, setting)
    return found


def _step(case: Case, setting: Setting) -> list[Figure]:
    folder = setting.folder / "critique" / "step"
    model = _lay_out(case, folder)
    runs = _runs({"critique": critiqued(case, model), "plain": plain(case, model)}, case, folder, setting)
    each = {who: [ran.seconds / ran.tokens for ran in of] for who, of in runs.items()}
    ratio = [ours / other for ours, other in zip(each["critique"], each["plain"], strict=True)]
    figures = [
        Figure(f"{who}, {what}", [getattr(ran, name) for ran in of], unit)
        for who, of in (("critiques and refinements", runs["critique"]), ("plain GRPO", runs["plain"]))
        for name, what, unit in (("seconds", "a step", "s"), ("tokens", "tokens sampled in a step", ""))
    ]
    return [
        Figure("a sampled token of a critique step over one of a plain step", ratio, "x", _bar(setting, STEP)),
        *figures,
    ]


def _memory(case: Case, setting: Setting) -> list[Figure]:
    folder = setting.folder / "critique" / "memory"
    case = replace(case, steps=2, dropped=1, prompts=min(4, case.prompts))
    model = _lay_out(case, folder)
    critique = critiqued(case, model)
    roles = {
        "actor": {**_learning(), "rewards": {EVEN: {}}},
        "critiquer": {**critique["roles"]["critiquer"], "model": {"role": "actor", "lora": LORA}},
    }
    lora = {"model": {"path": str(model), "lora": LORA}}
    runs = _runs(
        {"two adapters": critique | lora | {"roles": roles}, "one adapter": plain(case, model) | lora},
        case,
        folder,
        replace(setting, rounds=1),
    )
    peaks = {who: of[0].peak for who, of in runs.items()}
    ratio = peaks["two adapters"] / peaks["one adapter"]
    return [
        Figure(f"{case.name}: peak memory of two adapters over one", [ratio], "x", _bar(setting, MEMORY)),
        *(Figure(f"{case.name}: {who}, peak memory", [peak / 2**30], "GiB") for who, peak in peaks.items()),
    ]


def _lay_out(case: Case, folder: Path) -> Path:
    """The model's folder; rows with a question and a draft, in `folder`."""
    model = lay_out(replace(case, prompt_tokens=_context(case)), folder)
    rows = [
        {"question": f"{index * 104729:0{case.prompt_tokens}d}", "draft": f"{index * 7919:0{DRAFT_TOKENS}d}"}
        for index in range(case.prompts * 8)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return model.resolve()


def _context(case: Case) -> int:
    """The most tokens that an author reads: question, draft, two marks, and a critique, which may be encoded in more
    tokens than it was sampled in."""
    return case.prompt_tokens + DRAFT_TOKENS + 2 * case.completion_tokens


def plain(case: Case, model: Path) -> dict[str, Any]:
    """GRPO on as many completions of each question as a critique step has critiques and refinements."""
    found = recipe(case, model)
    found["rollout"] |= {"max_prompt_tokens": _context(case)}
    return found


def critiqued(case: Case, model: Path) -> dict[str, Any]:
    """GRPO of a critiquer whose critiques of the rows' drafts a frozen actor reads for its refinements."""
    found = plain(case, model)
    for key in ("method", "regularizers", "rewards"):
        found.pop(key)
    found["rollout"] |= {"group_size": 1}
    found["moves"] = {
        "draft": {"by": "actor", "column": "draft"},
        "critique": {"by": "critiquer", "of": "draft", "samples": case.group_size // 2, "ask": "{prompt}{draft}+"},
        "refinement": {
            "by": "actor",
            "of": "critique",
            "ask": "{prompt}{draft}+{critique}-",
            "compared_within": "draft",
        },
    }
    found["roles"] = {
        "actor": {"trained": False, "rewards": {EVEN: {}}},
        "critiquer": {**_learning(), "rewards": {"refined": {"score": EVEN}}},
    }
    return found


def _learning() -> dict[str, Any]:
    return {"method": "grpo", "regularizers": PENALTY}


def _runs(recipes: Mapping[str, Mapping[str, Any]], case: Case, folder: Path, setting: Setting) -> dict[str, list[Ran]]:
    """Runs of each recipe, in turn."""
    for name, one in recipes.items():
        (folder / f"{name}.json").write_text(json.dumps(one, indent=1), encoding="utf-8")
    return in_turn({name: lambda name=name: _run(name, case, folder, setting) for name in recipes}, setting.rounds)


def _run(name: str, case: Case, folder: Path, setting: Setting) -> Ran:
    command = llmrl("train", f"{name}.json", f"training.threads={setting.threads}", "--overwrite")
    done = process(command, folder=folder, threads=setting.threads, deadline_seconds=setting.deadline_seconds)
    run = RunReader(folder / "run")
    steps = [row for row in run.metrics if row["step"] > case.dropped]
    tokens = [sampled_tokens(run.rollouts(step=row["step"], kind="train").to_pylist()) for row in steps]
    return Ran(median(row["step_seconds"] for row in steps), fmean(tokens), done.peak)


def sampled_tokens(rows: Sequence[Mapping[str, Any]]) -> int:
    """The tokens of recorded trajectories that a model wrote; a draft of the rows is none of them."""
    return sum(len(turn["token_ids"]) for row in rows if row["move"] != "draft" for turn in row["turns"])


def _bar(setting: Setting, bar: Bar) -> Bar | None:
    return None if setting.quick else bar
