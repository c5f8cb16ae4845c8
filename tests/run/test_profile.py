"""The profile of a step: parts that add up to it, and what is said of them."""

from __future__ import annotations

import json

import pytest

from llmrl.run.profile import WORDS, Profile
from llmrl.run_folder.reader import RunReader
from llmrl.spans import Spans
from tests.support import small_run

COLLECT = ("collect",)
SAMPLER, ENGINE, REWARDS = (*COLLECT, "sampler"), (*COLLECT, "sampler", "engine"), (*COLLECT, "rewards")


def profile(**metrics: float) -> Profile:
    spans = Spans()
    spans.seconds |= {COLLECT: 6.0, SAMPLER: 3.5, ENGINE: 2.5, REWARDS: 2.0}
    spans.seconds |= {("update",): 3.0, ("update", "ref_logprobs"): 1.0, ("update", "ref_logprobs", "forward"): 0.9}
    spans.seconds |= {("update", "forward"): 1.0, ("update", "forward", "head"): 0.25, ("save",): 0.5}
    spans.seconds[("evaluate",)] = 100.0  # no part of the step
    return Profile.of(spans, stage="rl", row={"step": 3, "step_seconds": 9.5, **metrics})


def test_the_parts_add_up_to_the_step():
    found = profile()
    assert found.total == 10.0
    assert sum(found.parts().values()) == pytest.approx(10.0)
    assert found.parts()[WORDS["engine"]] == 2.5
    assert found.parts()["the reference's pass"] == 1.0  # a provider is one part, whatever is inside
    assert found.parts()["the backbone's forward"] == 0.75
    assert found.parts()["llmrl around all of this"] == pytest.approx(0.5)


def test_the_largest_part_is_said_first_and_what_stands_out_is_explained():
    said = profile(padding=0.12).sentences()
    assert said[0] == "Step 3 of stage rl took 10 s."
    assert said[1] == "25% of it: the sampler's engine."
    assert said[2] == "20% of it: waiting for rewards."
    assert any(line.startswith("20% of the step is waiting for rewards: rewards are slower") for line in said)
    assert "29% of the time of sampling is not the engine's." in said  # 1 s of 3.5
    assert said[-1] == "12% of the places that were computed are padding."


def test_a_run_profiles_one_step_of_each_stage_and_says_where_its_time_went(tmp_path):
    folder = small_run.lay_out(tmp_path)
    code, printed = small_run.train(folder, "run", "--profile")
    assert code == 0, printed
    found = json.loads((folder / "run" / "profile.json").read_text())
    assert {stage: one["step"] for stage, one in found.items()} == {"warm_start": 3, "rl": 3}
    rows = {row["stage"]: row for row in RunReader(folder / "run").metrics if row["step"] == 3}
    spans = {one["span"]: one["seconds"] for one in found["rl"]["spans"]}
    expected = rows["rl"]["step_seconds"] + spans["save"]
    assert sum(found["rl"]["parts"].values()) == pytest.approx(found["rl"]["seconds"]) == pytest.approx(expected)
    # two updates of the step: the old policy is measured first
    assert 0 < spans["update/old_policy/forward"] < spans["update/old_policy"] < spans["update"]
    assert 0 < spans["collect/sampler/engine"] < spans["collect"]
    assert {"update/forward/head", "update/backward", "update/optimizer", "sync"} <= spans.keys()
    assert not {"collect/sampler", "sync"} & {one["span"] for one in found["warm_start"]["spans"]}
    for sentence in found["rl"]["sentences"]:
        assert sentence in printed


def test_a_resumed_run_profiles_the_third_of_its_own_steps_or_the_last(tmp_path):
    folder = small_run.lay_out(tmp_path)
    settings = ["stages.warm_start.training.steps=2"]
    settings += [f"stages.rl.training.{setting}" for setting in ("schedule=constant", "warmup_steps=1")]
    assert small_run.train(folder, "run", *settings, "stages.rl.training.steps=2")[0] == 0
    for steps, profiled in (4, 4), (8, 7):
        code, printed = small_run.train(
            folder, "run", *settings, f"stages.rl.training.steps={steps}", "--resume", "--profile"
        )
        assert code == 0, printed
        assert RunReader(folder / "run").profile["rl"]["step"] == profiled
        assert f"Step {profiled} of stage rl took" in printed
