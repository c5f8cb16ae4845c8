"""Figures, bars, turns and processes of the benchmark."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from llmrl.bench.command import PARTS, Part, placed, run, table
from llmrl.bench.measure import Bar, Figure, Setting, in_turn, process
from llmrl.cli import app
from llmrl.errors import RecipeError, RunStopped


def test_a_figure_is_the_median_and_its_bar_decides():
    figure = Figure("speed", [4.0, 2.5, 9.0], "x", Bar(least=3.0))
    assert (figure.value, figure.spread) == (4.0, (2.5, 9.0))
    lines = table([figure, Figure("memory", [1.2], "x", Bar(most=1.0)), Figure("step", [0.5, 0.75], "s")]).splitlines()
    assert lines[2] == "| speed | 4 x | 2.5 to 9 | at least 3 | reached |"
    assert lines[3] == "| memory | 1.2 x |  | at most 1 | **missed** |"
    assert lines[4] == "| step | 0.625 s | 0.5 to 0.75 |  |  |"


def test_jobs_are_done_in_turn():
    order: list[str] = []
    found = in_turn({"a": lambda: order.append("a") or len(order), "b": lambda: order.append("b") or len(order)}, 2)
    assert order == ["a", "b", "a", "b"] and found == {"a": [1, 3], "b": [2, 4]}


def test_peak_memory_of_a_process_is_its_own(tmp_path):
    held = bytearray(400 * 2**20)  # of this process, which the other one does not count
    held[::4096] = b"x" * len(held[::4096])
    code = (
        "import time; x = bytearray(100 * 2**20); x[::4096] = b'x' * len(x[::4096]); del x; time.sleep(0.4); print(7)"
    )
    done = process([sys.executable, "-c", code], folder=tmp_path, threads=1, deadline_seconds=60)
    assert done.output == "7\n"
    assert 100 * 2**20 < done.peak < 200 * 2**20


def test_a_process_that_fails_or_hangs_is_named_with_its_last_words(tmp_path):
    with pytest.raises(RunStopped, match="exit code 3; it last said: oh no"):
        code = "print('oh no'); raise SystemExit(3)"
        process([sys.executable, "-c", code], folder=tmp_path, threads=1, deadline_seconds=60)
    started = time.monotonic()
    with pytest.raises(RunStopped, match=r"deadline of 0\.2 s"):
        process(["sleep", "60"], folder=tmp_path, threads=1, deadline_seconds=0.2)
    assert time.monotonic() - started < 10


def test_tables_have_their_places_in_the_document():
    document = "a\n<!-- peer: measured -->\nold\n<!-- end of peer -->\nb\n"
    found = placed(document, "peer", "new")
    assert found == "a\n<!-- peer: measured -->\n\nnew\n\n<!-- end of peer -->\nb\n"
    assert placed(found, "peer", "new") == found
    with pytest.raises(RecipeError, match="no place for growth"):
        placed(document, "growth", "new")


def test_every_part_has_its_place_in_the_page_of_speed():
    document = (Path(__file__).parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")
    for name in PARTS:
        placed(document, name, "")


def test_bad_arguments_are_refused_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(Part, "measure", property(lambda part: pytest.fail("measured")))
    plain = tmp_path / "plain.md"
    plain.write_text("no places\n")
    python = tmp_path / "without_trl"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    for names, setting, write, fault in (
        (["pear"], {}, None, "did you mean 'peer'"),
        (["overhead"], {"only": ("smal",)}, None, "no case named 'smal'; did you mean 'small'"),
        (["overhead"], {}, plain, "no place for overhead"),
        (["overhead"], {}, tmp_path / "none.md", "--write: no file"),
        ([], {}, None, "--peer-python: none given"),
        (["peer"], {"peer_python": tmp_path / "python"}, None, "python' is not a program"),
        (["peer"], {"peer_python": python}, None, "has no TRL"),
    ):
        with pytest.raises(RecipeError, match=fault):
            run(names, setting=Setting(tmp_path, **setting), write=write, console=Console(quiet=True))


def test_a_case_that_no_part_has_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="sync has no case small"):
        run(["sync"], setting=Setting(tmp_path, only=("small",)), write=None, console=Console(quiet=True))


def test_the_help_names_every_part():
    printed = CliRunner().invoke(app, ["bench", "--help"], env={"COLUMNS": "200"}).output
    assert ", ".join(PARTS) in printed
