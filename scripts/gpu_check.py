"""Check llmrl on this machine's GPU: see scripts/gpu_check.sh, which starts this with an interpreter that has torch.

Each check runs in processes of its own with a deadline, and the rest goes on when one fails. The small ones run at
once; those of the 0.5B model, whose times are reported, run one after the other.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import gpu_packages  # noqa: E402
import gpu_recipes  # noqa: E402

WORK = ROOT / "build" / "gpu_check"
SITE = ROOT / "build" / "gpu_site"
WHEELS = ROOT / "build" / "gpu_wheels"
ESTIMATE = (0.8, 1.25)
"""The healthy range of estimated over measured memory."""
MISMATCH = {"fp32": 1e-4, "bf16": 5e-2}
"""The largest healthy mean difference of log-probabilities between trainer and sampler."""
EQUAL = 1e-3
"""The largest relative difference between engines that compute the same in another order."""

Numbers = dict[str, Any]


class Failed(Exception):
    """A check that did not pass: the reason in one line, the numbers that it found all the same, what was printed."""

    def __init__(self, reason: str, numbers: Numbers | None = None, printed: str = ""):
        super().__init__(reason)
        self.numbers, self.printed = numbers or {}, printed


@dataclass
class Result:
    """One row of the table."""

    check: str
    passed: bool
    seconds: float
    numbers: Numbers = field(default_factory=dict)
    reason: str = ""
    printed: str = ""


@dataclass
class Machine:
    """The processes of a check: their environment, and the time by which they must have ended."""

    device: str
    size: str
    ends: float

    def run(self, *command: str, folder: Path = ROOT, **environment: str) -> str:
        """What a command prints; raises Failed if it fails or is not done in time, and ends all its processes."""
        process = self.start(*command, folder=folder, **environment)
        try:
            printed = process.communicate(timeout=max(1.0, self.ends - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            end(process)
            printed = process.communicate()[0]
            raise Failed(f"not done in time, last said: {last_line(printed)}", printed=printed) from None
        if process.returncode:
            raise Failed(f"exit code {process.returncode}: {last_line(printed)}", printed=printed)
        return printed

    def start(self, *command: str, folder: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
        """A command of this interpreter's Python, under way."""
        here = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(SITE)]),
            "HF_HUB_OFFLINE": "1",
            "COLUMNS": "200",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # the same sums whenever it is asked
        }
        if self.device == "cpu":
            here |= {"CUDA_VISIBLE_DEVICES": "", "LLMRL_TEST_DEVICE": "cpu"}
        return subprocess.Popen(
            [sys.executable, *command], cwd=folder, env=here | environment, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def train(self, recipe: Path, run: Path, *arguments: str) -> list[Numbers]:
        """`llmrl train`, and the rows of its metrics."""
        self.run("-m", "llmrl.cli", "train", str(recipe), f"run_dir={run}", *arguments, folder=recipe.parent)
        return rows(run)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        process.kill()


def last_line(printed: str, most: int = 300) -> str:
    """The last line that says something, shortened."""
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    return lines[-1][:most] if lines else "it printed nothing"


def rows(run: Path) -> list[Numbers]:
    """A run's training steps."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in found if row["step"] > 0]


def environment(machine: Machine) -> Numbers:
    """Versions, the GPU, and whether all packages import."""
    found = json.loads(last_line(machine.run("scripts/gpu_packages.py")))
    if machine.device == "cuda" and not found["gpu"]:
        raise Failed("torch sees no GPU", found)
    if found["broken"]:
        raise Failed("; ".join(found["broken"]), found)
    return found


def tests(machine: Machine) -> Numbers:
    """The suite's CUDA tests."""
    command = ("-m", "pytest", "-o", "addopts=", "--tb=short", "-p", "no:cacheprovider", "tests/test_cuda.py")
    try:
        printed = machine.run(*command)
    except Failed as failed:
        failing = re.findall(r"^(?:FAILED|ERROR) .*?::(\S+)", failed.printed, re.MULTILINE)
        raise Failed(", ".join(failing[:5]) or str(failed), counted(failed.printed), failed.printed) from None
    if not counted(printed).get("passed") or counted(printed).get("skipped"):
        raise Failed("not all tests ran", counted(printed), printed)
    return counted(printed)


def counted(printed: str) -> Numbers:
    """The counts of pytest's last line."""
    return {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last_line(printed))}


def quickstart(machine: Machine) -> Numbers:
    """The quickstart's second stage, after a first stage that is as short as the table says."""
    first, second = (300, 12) if machine.size == "full" else (30, 6)
    found = machine.train(
        ROOT / "recipes" / "quickstart.yaml",
        WORK / "quickstart",
        "rollout.engine=transformers",
        f"stages.warm_start.training.steps={first}",
        "stages.warm_start.training.warmup_steps=0",
        "stages.warm_start.checkpoint.every=null",
        f"stages.rl.training.steps={second}",
        "stages.rl.evaluation.every=null",
        "data.eval.size=64",
    )
    return sampled([row for row in found if row["stage"] == "rl"], "fp32") | {"first_stage_steps": first}


def half_billion(name: str) -> Callable[[Machine], Numbers]:
    """The check of one method on the 0.5B model: training, mismatch, and memory against `llmrl check`'s estimate."""

    def check(machine: Machine) -> Numbers:
        recipe = gpu_recipes.write(WORK / name, machine.size, name)
        elsewhere = f"run_dir={WORK / name / 'checked'}"  # the run's own folder is locked while it trains
        estimating = machine.start("-m", "llmrl.cli", "check", str(recipe), elsewhere, folder=recipe.parent)
        try:
            numbers = sampled(machine.train(recipe, WORK / name / "run"), "bf16")
            printed = estimating.communicate(timeout=max(1.0, machine.ends - time.monotonic()))[0]
        except subprocess.TimeoutExpired:
            raise Failed("llmrl check was not done in time", numbers) from None
        finally:
            end(estimating)
        if estimating.returncode:
            raise Failed(f"llmrl check: {last_line(printed)}", numbers, printed)
        numbers["estimated_gib"] = estimate(printed)
        numbers["estimate"] = numbers["estimated_gib"] / numbers["peak_gib"]
        if machine.device == "cuda" and not ESTIMATE[0] <= numbers["estimate"] <= ESTIMATE[1]:
            raise Failed(f"the estimate is {numbers['estimate']:.2f} of what was measured", numbers)
        return numbers

    return check


def sampled(found: list[Numbers], dtype: str) -> Numbers:
    """The numbers of a run that learns from samples; raises Failed if trainer and sampler disagree."""
    mismatch = max(row["mismatch_mean"] for row in found)
    numbers = {
        "steps": len(found),
        "mismatch_mean": mismatch,
        "mismatch_max": max(row["mismatch_max"] for row in found),
        "grad_norm": found[-1]["grad_norm"],
        "seconds_per_step": median(row["step_seconds"] for row in found[1:] or found),
        "peak_gib": found[-1]["peak_memory"],
    }
    if not mismatch <= MISMATCH[dtype]:
        raise Failed(f"mismatch {mismatch:.1e} is over {MISMATCH[dtype]:.0e}", numbers)
    return numbers


def estimate(printed: str) -> float:
    """The GiB of the line "in all" of `llmrl check`."""
    found = re.search(r"^\s*memory +in all +([\d.]+) (B|KiB|MiB|GiB|TiB)", printed, re.MULTILINE)
    if found is None:
        raise Failed("llmrl check printed no estimate of its memory")
    return float(found[1]) * 1024.0 ** (("B", "KiB", "MiB", "GiB", "TiB").index(found[2]) - 3)


def zero(machine: Machine) -> Numbers:
    """ZeRO-2 and ZeRO-3 on one rank against the torch engine: the same rewards, losses and gradient norms."""
    asked = {"torch": [], **{f"zero{n}": ["training.strategy=deepspeed", f"training.zero_stage={n}"] for n in (2, 3)}}
    recipe = gpu_recipes.write(WORK / "zero", "tiny", "engines")
    with ThreadPoolExecutor() as pool:
        runs = {n: pool.submit(machine.train, recipe, WORK / "zero" / n, *given) for n, given in asked.items()}
    found = {name: run.result() for name, run in runs.items()}
    numbers: Numbers = {}
    for name in ("zero2", "zero3"):
        numbers |= {
            f"{name}_{metric}": max(
                abs(own[metric] - row[metric]) / max(abs(row[metric]), 1e-2)
                for own, row in zip(found[name], found["torch"], strict=True)
            )
            for metric in ("reward", "entropy", "grad_norm")
        }
    worst = max(numbers, key=lambda name: numbers[name])
    if not numbers[worst] <= EQUAL:
        raise Failed(f"{worst} differs from the torch engine's by {numbers[worst]:.1e}", numbers)
    return numbers


def resume(machine: Machine) -> Numbers:
    """A run that is killed after its third step and resumed, against one that is not."""
    recipe = gpu_recipes.write(WORK / "resume", "tiny", "resumed")
    killed, whole = WORK / "resume" / "killed", WORK / "resume" / "whole"
    with ThreadPoolExecutor() as pool:
        other = pool.submit(machine.train, recipe, whole)
        kill_after(machine, recipe, killed, step=3)
        resumed = machine.train(recipe, killed, "--resume")
        expected = other.result()
    same = ("reward", "entropy", "loss", "grad_norm", "mismatch_mean")
    numbers = {
        "rows_equal": sum(all(a[n] == b[n] for n in same) for a, b in zip(resumed, expected, strict=True)),
        "rows": len(expected),
        "weights_differ": largest_difference(killed / "final", whole / "final"),
    }
    if numbers["weights_differ"] > EQUAL:
        raise Failed(f"the resumed run's weights differ by {numbers['weights_differ']:.1e}", numbers)
    return numbers


def largest_difference(model: Path, other: Path) -> float:
    """The largest difference between the weights of two exported models."""
    from safetensors.numpy import load_file  # the packages are installed when this runs

    one, two = (load_file(folder / "model.safetensors") for folder in (model, other))
    if one.keys() != two.keys():
        raise Failed("the two models have other weights")
    return max(float(abs(one[name] - two[name]).max()) for name in one)


def kill_after(machine: Machine, recipe: Path, run: Path, *, step: int) -> None:
    """Train until `step` is done, then kill -9."""
    process = machine.start("-m", "llmrl.cli", "train", str(recipe), f"run_dir={run}", folder=recipe.parent)
    try:
        while not (run / "metrics.jsonl").is_file() or len(rows(run)) < step:
            if process.poll() is not None:
                printed = process.communicate()[0]
                raise Failed(f"ended before it could be killed: {last_line(printed)}", printed=printed)
            if time.monotonic() > machine.ends:
                raise Failed(f"did not reach step {step} in time")
            time.sleep(0.02)
    finally:
        end(process)
        process.communicate()


def worker(machine: Machine, module: str, folder: Path, **given: Any) -> Any:
    """What a worker of `llmrl bench` finds in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    given = {"threads": os.cpu_count() or 1, **given}
    return json.loads(
        last_line(machine.run("-m", f"llmrl.bench.{module}", json.dumps(given), folder=folder), most=10**6)
    )


def reached(
    machine: Machine, numbers: Numbers, name: str, *, most: float = math.inf, least: float = -math.inf
) -> Numbers:
    """The numbers; raises Failed if one of them misses its bar on a GPU."""
    if machine.device == "cuda" and not least <= numbers[name] <= most:
        raise Failed(f"{name} {numbers[name]:.3g} misses its bar of {most if most < math.inf else least:g}", numbers)
    return numbers


def overhead(machine: Machine) -> Numbers:
    """A step with the transformers sampler over generate, forward and backward, and a reference's forward alone."""
    folder = WORK / "overhead"
    recipe = gpu_recipes.write(folder, machine.size, "grpo")
    seconds = [row["step_seconds"] for row in machine.train(recipe, folder / "run")[1:]]
    given = {
        "model": str(folder / "run" / "origin"),
        "run": str(folder / "run"),
        "steps": [2, 3, 4],
        "max_model_len": 0,
    }
    alone = worker(machine, "alone", folder, **given, sampler="transformers", dtype="bfloat16")
    parts = {name: median(step[name] for step in alone) for name in alone[0]}
    numbers = {"overhead": median(seconds) / sum(parts.values()), "step_seconds": median(seconds), **parts}
    return reached(machine, numbers, "overhead", most=1.10)


def logprobs(machine: Machine) -> Numbers:
    """Log-probabilities and entropies of a large vocabulary, in time and peak memory over the plain way."""
    vocabulary, tokens = (151_936, 8192) if machine.size == "full" else (2048, 64)
    found = {
        way: worker(machine, "logprobs", WORK / "logprobs", way=way, vocabulary=vocabulary, hidden=1024, tokens=tokens)
        for way in ("llmrl", "plain")
    }
    own, plain = found["llmrl"], found["plain"]
    numbers = {
        "time": median(own["seconds"]) / median(plain["seconds"]),
        "memory": own["bytes"] / max(1, plain["bytes"]),
        "seconds": median(own["seconds"]),
    }
    return reached(machine, reached(machine, numbers, "time", most=1.15), "memory", most=0.10)


def padding(machine: Machine) -> Numbers:
    """An update on groups of 8 with long prompts, packed against padded."""
    shape = {"groups": 8, "prompt_tokens": 512, "completion_tokens": 64} if machine.size == "full" else TINY_GROUPS
    recipe = gpu_recipes.write(WORK / "padding", machine.size, "grpo")
    found = worker(machine, "padding", WORK / "padding", recipe=str(recipe), group_size=8, rounds=4, **shape)
    numbers = {way: median(seconds) for way, seconds in found.items()}
    numbers["speed"] = numbers["padded"] / numbers["packed"]
    return reached(machine, numbers, "speed", least=3.0)


def utilization(size: str) -> Callable[[Machine], Numbers]:
    """The check of the training phase's model FLOPs utilization for a model of one size."""

    def check(machine: Machine) -> Numbers:
        own = size if machine.size == "full" else "tiny"
        shape = {"groups": 16, "prompt_tokens": 256, "completion_tokens": 256} if own == size else TINY_GROUPS
        recipe = gpu_recipes.write(WORK / f"mfu-{size}", own, "grpo")
        given = {"recipe": str(recipe), "overrides": ["training.tokens_per_micro_batch=16384"], "group_size": 8}
        return reached(machine, worker(machine, "mfu", recipe.parent, rounds=3, **given, **shape), "mfu", least=0.45)

    return check


TINY_GROUPS = {"groups": 1, "prompt_tokens": 24, "completion_tokens": 8}
AT_ONCE: dict[str, tuple[Callable[[Machine], Numbers], float]] = {
    "environment": (environment, 100),
    "CUDA tests": (tests, 100),
    "ZeRO-2, ZeRO-3": (zero, 100),
    "kill and resume": (resume, 100),
    "quickstart": (quickstart, 100),
}
"""Each small check with the seconds that it may take."""
ONE_BY_ONE: dict[str, tuple[Callable[[Machine], Numbers], float]] = {
    "0.5B GRPO": (half_billion("grpo"), 80),
    "0.5B LoRA": (half_billion("lora"), 70),
    "0.5B PPO": (half_billion("ppo"), 80),
}


SPEED: dict[str, tuple[Callable[[Machine], Numbers], float]] = {
    "overhead": (overhead, 120),
    "log-probabilities": (logprobs, 90),
    "padding": (padding, 90),
    "MFU 0.5B": (utilization("full"), 90),
    "MFU 1.5B": (utilization("large"), 120),
}
"""The checks of --speed, which have bars on a GPU; they run one by one."""


def made(name: str, check: Callable[[Machine], Numbers], device: str, size: str, ends: float) -> Result:
    """The row of one check, whatever happens in it."""
    started = time.monotonic()
    numbers, reason, printed = {}, "", ""
    try:
        if ends <= started:
            raise Failed("no time was left")
        numbers = check(Machine(device, size, ends))
    except Failed as failed:
        numbers, reason, printed = failed.numbers, str(failed), failed.printed[-4000:]
    except Exception as error:  # the other checks go on
        reason = f"{type(error).__name__}: {error}"
    result = Result(name, not reason, time.monotonic() - started, numbers, reason, printed)
    print(f"gpu_check: {name}: {'passed' if result.passed else 'FAILED'} in {result.seconds:.0f} s", flush=True)
    return result


def table(results: list[Result]) -> str:
    """The results in Markdown."""
    lines = ["| check | result | seconds | numbers |", "|---|---|---|---|"]
    for one in results:
        numbers = ", ".join(f"{name} {shown(value)}" for name, value in one.numbers.items() if not empty(value))
        lines.append(
            f"| {one.check} | {'passed' if one.passed else 'FAILED: ' + one.reason} | {one.seconds:.0f} | {numbers} |"
        )
    return "\n".join(lines)


def empty(value: Any) -> bool:
    return value is None or value == [] or value == {}


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {shown(one)}" for name, one in value.items())
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def main() -> int:
    """Install what is missing, run the checks, print the table, write the JSON; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: 2 layers in place of 0.5B")
    parser.add_argument("--seconds", type=float, default=285.0, help="for everything")
    parser.add_argument("--patience", type=float, default=1.0, help="factor of each check's own deadline")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "gpu_check.json", help="file to write")
    parser.add_argument("--speed", action="store_true", help="measure speed, instead of the other checks")
    parser.add_argument("--only", nargs="*", help="names of checks", choices=[*AT_ONCE, *ONE_BY_ONE, *SPEED])
    given = parser.parse_args()
    started = time.monotonic()
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    installed = gpu_packages.install(WHEELS, SITE)
    print(f"gpu_check: {len(installed)} packages from {WHEELS.relative_to(ROOT)}: {', '.join(installed)}", flush=True)

    def result(name: str, check: Callable[[Machine], Numbers], seconds: float) -> Result:
        own = time.monotonic() + seconds * given.patience
        return made(name, check, given.device, given.size, min(own, started + given.seconds))

    small, large = (
        {name: one for name, one in checks.items() if given.only is None or name in given.only}
        for checks in (({}, SPEED) if given.speed else (AT_ONCE, ONE_BY_ONE))
    )
    with ThreadPoolExecutor(max_workers=len(AT_ONCE)) as pool:  # one that has nothing to do makes no thread
        results = list(pool.map(lambda name: result(name, *small[name]), small))
    results += [result(name, *one) for name, one in large.items()]
    seconds = time.monotonic() - started
    for one in results:
        if one.printed:
            print(f"\n--- {one.check} printed at its end:\n{one.printed}")
    print(f"\n{table(results)}\n\ngpu_check: {given.device}, {given.size}, {seconds:.0f} s in all")
    given.json.parent.mkdir(parents=True, exist_ok=True)
    whole = {"device": given.device, "size": given.size, "seconds": seconds, "checks": [asdict(one) for one in results]}
    given.json.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")
    return 0 if results and all(one.passed for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
