"""Learning from pairs: DPO and SFT steps against TRL's on the same rows, prompts that go through the model once, and
the peak of memory at a large vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

from llmrl.bench import peer
from llmrl.bench.measure import Bar, Figure, Setting, in_turn, llmrl, process
from llmrl.bench.work import CASES, DIGITS, Case, lay_out
from llmrl.run_folder.reader import RunReader

HERE = Path(__file__).resolve().parent
PAIRS, STEPS, DROPPED = 8, 6, 2
"""Pairs of a step, steps of a run, and how many first ones do not count."""
LEARNING_RATE, BETA = 1e-4, 0.1  # as in the method
PAIRED: Mapping[str, Any] = {"beta": BETA, "max_length": None}
"""TRL's settings for pairs."""
IMITATED = ("method=null", "learn_from=preferences", "policy_loss=nll")
"""Overrides that turn DPO into imitation of the same completions."""
VOCABULARY = 151_936
FASTER, FASTER_SFT, SHARED = Bar(least=2.5), Bar(least=1.3), Bar(least=1.5)
SAME_LOSS, AS_SFT, MEMORY = Bar(most=1e-5), Bar(most=1.15), Bar(most=0.25)

require = peer.require


@dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and of completions, which are drawn evenly between the two bounds."""

    prompt: int
    shortest: int
    longest: int


LENGTHS, LONG_PROMPTS, TINY = Lengths(192, 32, 128), Lengths(512, 64, 64), Lengths(24, 4, 16)


@dataclass(frozen=True)
class Ran:
    """A run: the seconds of each step that counts, the losses of all steps, and its peak of bytes."""

    seconds: Sequence[float]
    losses: Sequence[float]
    peak: int


def measure(setting: Setting) -> list[Figure]:
    """The figures of every comparison."""
    case = CASES["tiny" if setting.quick else "small"]
    lengths = TINY if setting.quick else LENGTHS
    return [
        *_dpo(case, lengths, setting),
        *_sft(case, lengths, setting),
        *_prompts_once(case, TINY if setting.quick else LONG_PROMPTS, setting),
        *([] if setting.quick else _memory(case, lengths, setting)),
    ]


def _dpo(case: Case, lengths: Lengths, setting: Setting) -> list[Figure]:
    folder, model = _lay_out("dpo", case, lengths, setting)
    runs = in_turn(
        {
            "llmrl": lambda: ours(folder, setting),
            "TRL": lambda: trl("DPO", model, folder, setting, **PAIRED),
            "llmrl, its reference measured beforehand": lambda: ours(folder, setting, "reference.precompute=true"),
            "the same tokens imitated": lambda: ours(folder, setting, *IMITATED),
        },
        setting.rounds,
    )
    imitated = runs["the same tokens imitated"]
    beforehand = _seconds(runs["llmrl, its reference measured beforehand"], imitated)
    gap = [abs(a.losses[1] - b.losses[1]) for a, b in zip(runs["llmrl"], runs["TRL"], strict=True)]
    return [
        Figure("DPO: speed over TRL's", _seconds(runs["TRL"], runs["llmrl"]), "x", _bar(setting, FASTER)),
        Figure("DPO: difference of the losses after one update", gap, "nats", _bar(setting, SAME_LOSS)),
        Figure("DPO: step over imitating the same tokens", _seconds(runs["llmrl"], imitated), "x"),
        Figure("DPO, its reference measured beforehand: the same", beforehand, "x", _bar(setting, AS_SFT)),
        *(Figure(f"DPO: {who}, a step", [second for ran in of for second in ran.seconds], "s")
          for who, of in runs.items()),
    ]  # fmt: skip


def _sft(case: Case, lengths: Lengths, setting: Setting) -> list[Figure]:
    folder, model = _lay_out("sft", case, lengths, setting)
    packing = {"packing": True, "max_length": lengths.prompt + lengths.longest + 1}
    runs = in_turn(
        {
            "llmrl": lambda: ours(folder, setting, "method=sft", "rollout.group_size=1"),
            "TRL": lambda: trl("SFT", model, folder, setting, **packing),
        },
        setting.rounds,
    )
    return [
        Figure("SFT: tokens a second over TRL's with packing", _seconds(runs["TRL"], runs["llmrl"]), "x",
               _bar(setting, FASTER_SFT)),
        *(Figure(f"SFT: {who}, a step", [second for ran in of for second in ran.seconds], "s")
          for who, of in runs.items()),
    ]  # fmt: skip


def _prompts_once(case: Case, lengths: Lengths, setting: Setting) -> list[Figure]:
    folder, _ = _lay_out("prompts", case, lengths, setting)
    runs = in_turn(
        {
            "once": lambda: ours(folder, setting),
            "for each completion": lambda: ours(folder, setting, "training.padding_free=false"),
        },
        setting.rounds,
    )
    shape = f"prompts of {lengths.prompt}, completions of {lengths.longest}"
    faster = _seconds(runs["for each completion"], runs["once"])
    return [Figure(f"DPO, {shape}: speed over prompts that are not shared", faster, "x", _bar(setting, SHARED))]


def _memory(case: Case, lengths: Lengths, setting: Setting) -> list[Figure]:
    folder, model = _lay_out("memory", case, lengths, setting)
    wide = _widen(model, folder / "wide")
    own = ours(folder, setting, f"model.path={wide}", "training.steps=3")
    other = trl("DPO", wide, folder, setting, steps=3, **PAIRED)
    return [
        Figure(f"DPO, vocabulary {VOCABULARY}: peak memory over TRL's", [own.peak / other.peak], "x", MEMORY),
        Figure(f"DPO, vocabulary {VOCABULARY}: llmrl, peak memory", [own.peak / 2**30], "GiB"),
        Figure(f"DPO, vocabulary {VOCABULARY}: TRL, peak memory", [other.peak / 2**30], "GiB"),
    ]


def ours(folder: Path, setting: Setting, *overrides: str) -> Ran:
    """`llmrl train` on the rows that are laid out in `folder`."""
    command = llmrl("train", "recipe.json", f"training.threads={setting.threads}", *overrides, "--overwrite")
    done = process(command, folder=folder, threads=setting.threads, deadline_seconds=setting.deadline_seconds)
    rows = [row for row in RunReader(folder / "run").metrics if row["step"] > 0]
    return Ran([row["step_seconds"] for row in rows[DROPPED:]], [row["loss"] for row in rows], done.peak)


def trl(kind: str, model: Path, folder: Path, setting: Setting, *, steps: int = STEPS, **settings: Any) -> Ran:
    """TRL's trainer of this kind on the same rows."""
    given = {
        "kind": kind,
        "model": str(model.resolve()),
        "data": f"{kind}.jsonl",
        "rows": PAIRS,
        "steps": steps,
        "learning_rate": LEARNING_RATE,
        "threads": setting.threads,
        "checkpointing": setting.peer_checkpointing,
        "settings": settings,
    }
    command = [str(setting.peer_python), str(HERE / "preference_peer.py"), json.dumps(given)]
    done = process(command, folder=folder, threads=setting.threads, deadline_seconds=setting.deadline_seconds)
    found = json.loads(done.output.strip().splitlines()[-1])
    return Ran(found["seconds"][DROPPED:], found["losses"], done.peak)


def rows_of(lengths: Lengths, count: int) -> list[dict[str, str]]:
    """Random rows of digits: a prompt, a chosen and a rejected completion, which differ in their first digit."""
    draw = Random(0)

    def text(length: int) -> str:
        return "".join(draw.choice(DIGITS) for _ in range(length))

    rows = []
    for _ in range(count):
        first, other = draw.sample(DIGITS, 2)
        sizes = [draw.randint(lengths.shortest, lengths.longest) - 1 for _ in range(2)]
        prompt, chosen, rejected = text(lengths.prompt), first + text(sizes[0]), other + text(sizes[1])
        rows.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return rows


def _lay_out(name: str, case: Case, lengths: Lengths, setting: Setting) -> tuple[Path, Path]:
    """The folder with the rows in both sides' forms and the recipe, and the model's folder."""
    folder = setting.folder / "preference" / name
    longest = lengths.longest + 1  # with the end of sequence
    model = lay_out(replace(case, prompt_tokens=lengths.prompt, completion_tokens=longest), folder)
    rows = rows_of(lengths, PAIRS * STEPS)
    imitated = [{"prompt": row["prompt"], "completion": row["chosen"]} for row in rows]
    for kind, found in (("DPO", rows), ("SFT", imitated)):
        (folder / f"{kind}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    (folder / "recipe.json").write_text(json.dumps(_recipe(model, lengths.prompt, longest), indent=1))
    return folder, model


def _recipe(model: Path, prompt: int, longest: int) -> Mapping[str, Any]:
    columns = {"prompt": "prompt", "completion": "chosen", "chosen": "chosen", "rejected": "rejected", "answer": None}
    return {
        "name": "preference",
        "run_dir": "run",
        "model": {"path": str(model.resolve())},
        "data": {"train": {"path": "DPO.jsonl", "shuffle": False, **columns}},
        "method": "dpo",
        "rollout": {"prompts_per_step": PAIRS, "max_prompt_tokens": prompt, "max_completion_tokens": longest},
        "training": {"steps": STEPS, "learning_rate": LEARNING_RATE},
        "checkpoint": {"every": None},
    }


def _widen(model: Path, folder: Path) -> Path:
    """A copy of the model with VOCABULARY tokens, most of which no row has."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, folder, dirs_exist_ok=True)
    lm = AutoModelForCausalLM.from_pretrained(model)
    lm.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    lm.save_pretrained(folder)
    return folder.resolve()


def _seconds(slow: Sequence[Ran], fast: Sequence[Ran]) -> list[float]:
    """How many times longer the steps of the first take, round by round."""
    return [median(one.seconds) / median(other.seconds) for one, other in zip(slow, fast, strict=True)]


def _bar(setting: Setting, bar: Bar) -> Bar | None:
    return None if setting.quick else bar
