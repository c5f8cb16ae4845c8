"""The parts of scripts/gpu_check.py that read what others write: the line of `llmrl check`, and wheels."""

from __future__ import annotations

import io
import sys
import time
import zipfile
from pathlib import Path

import pytest
from rich.console import Console

from llmrl.check.report import Report, bytes_text

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import gpu_check
import gpu_packages


def test_the_estimate_is_read_from_the_checks_own_line():
    out = io.StringIO()
    report = Report(Console(file=out, width=80))
    report.say("memory", f"weights          1.0B x 2 bytes = {bytes_text(2e9)}")
    report.say("memory", f"{'in all':<16} {bytes_text(2.5 * 2**30)}; the GPU has {bytes_text(80 * 2**30)}")
    assert gpu_check.estimate(out.getvalue()) == 2.5
    with pytest.raises(gpu_check.Failed, match="no estimate"):
        gpu_check.estimate("memory: none")


def test_only_packages_that_are_missing_are_unpacked_and_what_they_need(tmp_path):
    """torch is there and stays; pytest is there too, but nowhere-a needs a later one."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    needs = {"nowhere_a": ["nowhere-b>=2", "pytest>=9999", "absent; extra == 'x'"], "nowhere_b": [], "torch": []}
    for name, wanted in (needs | {"pytest": []}).items():
        with zipfile.ZipFile(wheels / f"{name}-9999.0-py3-none-any.whl", "w") as wheel:
            lines = [f"Name: {name}", "Version: 9999.0", *(f"Requires-Dist: {one}" for one in wanted)]
            wheel.writestr(f"{name}-9999.0.dist-info/METADATA", "\n".join(lines) + "\n")
    assert gpu_packages.install(wheels, tmp_path / "site") == ["nowhere-a", "nowhere-b", "pytest"]
    assert sorted(f.name for f in (tmp_path / "site").iterdir()) == [
        "nowhere_a-9999.0.dist-info",
        "nowhere_b-9999.0.dist-info",
        "pytest-9999.0.dist-info",
    ]


def test_the_speed_checks_measure_a_tiny_model_on_a_cpu():
    """The one that needs the fewest processes; the others start workers of llmrl.bench in the same way."""
    gpu_check.WORK.mkdir(parents=True, exist_ok=True)
    machine = gpu_check.Machine("cpu", "tiny", time.monotonic() + 120)
    numbers = gpu_check.utilization("full")(machine)
    assert numbers["tokens"] == 24 + 8 * 8  # a prompt counts once for its group
    assert 0 < numbers["mfu"] < 1.5 and len(numbers["seconds"]) == 3


def test_a_bar_is_for_a_gpu_alone():
    cuda, cpu = (gpu_check.Machine(device, "tiny", 0.0) for device in ("cuda", "cpu"))
    assert gpu_check.reached(cuda, {"mfu": 0.5}, "mfu", least=0.45) == {"mfu": 0.5}
    assert gpu_check.reached(cpu, {"mfu": 0.1}, "mfu", least=0.45) == {"mfu": 0.1}
    with pytest.raises(gpu_check.Failed, match=r"mfu 0\.1 misses its bar of 0\.45"):
        gpu_check.reached(cuda, {"mfu": 0.1}, "mfu", least=0.45)
