"""Environments, keep functions and controllers of one's own, tried before anything loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from checking import checked, shared_workers

from llmrl.check import trial
from llmrl.recipe_file import load_plan
from llmrl.recipe_layers import merge

OWN = """
import time
import torch
from llmrl.envs.base import Step


class Env:
    def __init__(self, prompt, encode):
        self.prompt, self.encode, self.turns = prompt, encode, 0

    async def reset(self):
        return list(self.prompt.token_ids)

    async def step(self, completion):
        self.turns += 1
        return Step(self.encode("+"), reward=0.5, done=self.turns == 2)


def two_turns(prompt, encode):
    return Env(prompt, encode)


class Wrong(Env):
    async def step(self, completion):
        return "well done"


def wrong_step(prompt, encode):
    return Wrong(prompt, encode)


class Picky(Env):
    async def step(self, completion):
        return Step([], done=bool(1 / (len(completion.token_ids) < 6)))


def picky(prompt, encode):
    return Picky(prompt, encode)


class Slow(Env):
    async def step(self, completion):
        time.sleep(3)


def slow(prompt, encode):
    return Slow(prompt, encode)


def level(group):
    return [one for one in group.trajectories if group.prompt.row["level"] and one.scores["math_verifier"].correct]


def texts(group):
    return [one.text for one in group.trajectories]


def boolean(group):
    return True


def no_such(group):
    return group.trajectories if group.prompt.row["answer"] == "never" else group.prompt.row["lvl"]


def rising(state, metrics):
    return {"value": state.get("value", 0.0) + metrics.get("kl_k3", 0.0)}


def text_state(state, metrics):
    return {"value": "1"}


def misread(state, metrics, no_such_field):
    return {"value": 1.0}


def scaled(logprobs, rising):
    return torch.zeros_like(logprobs) * rising
"""
RECIPE = {
    "model": {
        "build": {
            "characters": "0123456789+=<>qz ",
            "config": {
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16,
                "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
            },
        }
    },
    "data": {"train": {"path": "sums.jsonl", "prompt": "{question}="}},
    "method": "grpo",
    "rewards": {"math_verifier": {}},
    "rollout": {
        "engine": "transformers", "prompts_per_step": 4, "group_size": 2, "max_prompt_tokens": 32,
        "max_completion_tokens": 16,
    },
    "training": {"steps": 2, "learning_rate": 0.001},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def workers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "tried.py").write_text(OWN)
    with shared_workers(folder), pytest.MonkeyPatch.context() as patch:
        rows = [{"question": f"{a}+{b}", "answer": str(a + b), "level": 1} for a in range(4) for b in range(3)]
        (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        patch.chdir(folder)
        yield


def check(changes: dict) -> tuple[list[str], str]:
    Path("recipe.yaml").write_text(json.dumps(merge(RECIPE, changes)))
    return checked(load_plan("recipe.yaml"))


def test_own_pieces_that_work_are_no_fault():
    own = {"controllers": {"tried:rising": {}}, "regularizers": {"tried:scaled": {"weight": 0.1}}}
    faults, printed = check({"env": "tried:two_turns", "keep": "tried:level", **own})
    assert faults == [] and "warning: env" not in printed
    assert "controllers  tried:rising" in printed


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (
            {"env": "tried:wrong_step"},
            "env: tried:wrong_step: ValueError: step returned str, expected a Step, in a trial",
        ),
        (
            {"keep": "tried:texts"},
            "keep: tried:texts: gave str, expected trajectories of the group, in a trial on a group of 2",
        ),
        ({"keep": "tried:boolean"}, "keep: tried:boolean: gave bool, expected a list of trajectories"),
        ({"keep": "tried:no_such"}, "keep: tried:no_such: KeyError: 'lvl'"),
        (
            {"controllers": {"tried:text_state": {}}},
            "controllers.tried:text_state: gave str as 'value', expected a number",
        ),
        (
            {"controllers": {"tried:misread": {}}},
            "controllers.tried:misread: no data, for its positional parameter, named 'no_such_field'",
        ),
    ],
)
def test_one_that_does_not_work_is_one_line(changes, fault):
    faults, _ = check(changes)
    assert len(faults) == 1 and faults[0].startswith(fault), faults


def test_an_environment_that_fails_on_some_answers_is_a_warning():
    faults, printed = check({"env": "tried:picky"})
    assert faults == []
    assert "warning: env: tried:picky: ZeroDivisionError: division by zero, in one of 2 trial episodes" in printed


def test_an_environment_that_never_comes_back_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(trial, "SECONDS", 0.2)
    monkeypatch.setattr(trial, "GRACE", 0.2)
    faults, _ = check({"env": "tried:slow"})
    assert faults == ["env: tried:slow: a trial episode holds up the event loop for more than 0.2 s"]
