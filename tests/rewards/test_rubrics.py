"""The rubrics that ship: each has a card that says its name, and can be used as the card says."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmrl.rewards.base import Rewards
from llmrl.rewards.rubric import FENCE, rubric_of
from llmrl.rewards.workers import Workers

FOLDER = Path(__file__).parents[2] / "reward_models"
RUBRICS = sorted(path.stem for path in FOLDER.glob("*.md") if not path.stem.upper().endswith(("README", "CARD")))


@pytest.fixture(scope="module")
def workers():
    with Workers(1) as pool:
        yield pool


def card(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.md").read_text().split(FENCE)[1])


@pytest.mark.parametrize("name", RUBRICS)
def test_the_card_says_what_the_rubric_reads(name):
    found = card(name)
    assert found["name"] == name
    assert found["reads"].split(", ") == list(dict.fromkeys(rubric_of(str(FOLDER / f"{name}.md")).columns))
    assert {"kind", "made_for", "limits"} <= found.keys()
    assert f"({name}.md)" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in RUBRICS if "verdict" in card(name)])
def test_its_settings_are_those_of_a_judge_and_its_notes_those_that_it_shows(name, workers, monkeypatch):
    monkeypatch.chdir(FOLDER.parent)
    found = card(name)
    settings = {"role": "judge", "rubric": f"reward_models/{name}.md", **found.get("settings", {})}
    pairwise = "{b}" in (FOLDER / f"{name}.md").read_text()
    judge = {"win_rate": {"opinion": {"judge_pairwise": settings}}} if pairwise else {"judge_pointwise": settings}
    Rewards.from_specs(judge, workers=workers)
    shown = set(rubric_of(settings["rubric"]).columns) - {"prompt", "a", "b", "completion"}
    assert shown == settings.get("notes", {}).keys()
