"""Figures, bars, turns and processes of the benchmark."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from llmrl.bench.command import placed, run, table
from llmrl.bench.measure import Bar, Figure, Setting, in_turn, process
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
    from llmrl.bench.command import PARTS

    document = (Path(__file__).parents[2] / "docs" / "speed.md").read_text(encoding="utf-8")
    for name in PARTS:
        placed(document, name, "")


def test_an_unknown_part_and_a_missing_peer_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="did you mean 'peer'"):
        run(["pear"], setting=Setting(tmp_path), write=None, console=Console())
    with pytest.raises(RecipeError, match="--peer-python: none given"):
        run(["peer"], setting=Setting(tmp_path), write=None, console=Console(quiet=True))
