"""The page that shows the loop runs, learns and stays one page."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

PAGE = Path(__file__).parents[1] / "recipes" / "one_page_loop.py"
sys.path.append(str(PAGE.parent))


def test_it_learns_and_is_one_page():
    import one_page_loop

    threads = torch.get_num_threads()
    rewards = one_page_loop.main(steps=30)
    torch.set_num_threads(threads)
    assert sum(rewards[:3]) / 3 < 0.15 and sum(rewards[-3:]) / 3 > 0.4
    assert len(PAGE.read_text(encoding="utf-8").splitlines()) < 200
