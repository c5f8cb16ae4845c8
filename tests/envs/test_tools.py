"""Python functions and TRL's environment classes as tools: schemas, calls, faults, rewards, and whole episodes."""

from __future__ import annotations

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import tool_functions
from chat_templates import tokenizer
from scripted import piece

from llmrl.data.prompt_builder import PromptBuilder
from llmrl.envs.toolbox import Toolbox, describe, tool_of
from llmrl.envs.tools import tools, trl_environment
from llmrl.errors import RecipeError
from llmrl.pieces import bind
from llmrl.recipe import Recipe
from llmrl.recipe_rows import Rows
from llmrl.recipe_turns import Invalid, Turns
from llmrl.resolve import brought_tools
from llmrl.rollout.collect import Collector
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.run.sampling import author_text
from llmrl.types import ACTOR, ENVIRONMENT, Prompt, Trajectory

MODULE = "tool_functions"
PARAMS = SamplingParams(max_tokens=2000, seed=1)


def call(name: str, **arguments: Any) -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def answers(*calls: tuple[str, dict[str, Any]], seconds: float = 5.0) -> tuple[list[str], dict[str, float]]:
    functions = (tool_functions.add, tool_functions.later, tool_functions.broken)
    toolbox = Toolbox([tool_of(function) for function in functions], seconds)

    async def all_of_them() -> list[str]:
        found = [await toolbox.answer({"name": name, "arguments": arguments}) for name, arguments in calls]
        return [one["content"] for one in found]

    return asyncio.run(all_of_them()), toolbox.metrics


def test_results_are_told_as_text_or_json():
    told, counted = answers(("add", {"a": 1, "b": 2}), ("add", {"a": 1}), ("later", {"text": "é", "note": None}))
    assert told == ["3", "1", '{"said": "é", "note": null}']
    assert counted == {"tool_calls": 3, "tool_failures": 0, "tool_timeouts": 0}


@pytest.mark.parametrize(
    ("name", "arguments", "error"),
    [
        ("add", {"a": "1"}, "add: a: '1' is not of type 'integer'"),
        ("add", {"b": 1}, "add: 'a' is a required property"),
        ("add", {"a": 1, "c": 1}, "add: Additional properties are not allowed ('c' was unexpected)"),
        ("ad", {"a": 1}, "no tool named 'ad'; did you mean 'add'?"),
        ("broken", {"how": "raise"}, "no division"),
        ("broken", {"how": "exit"}, "SystemExit(3)"),
    ],
)
def test_faults_are_told_and_counted(name, arguments, error):
    told, counted = answers((name, arguments))
    assert json.loads(told[0]) == {"error": error} and counted["tool_failures"] == 1


def test_a_call_that_hangs_ends_and_holds_up_nothing():
    told, counted = answers(("broken", {"how": "hang"}), ("add", {"a": 1}), seconds=0.2)
    assert json.loads(told[0]) == {"error": "broken gave no answer within 0.2 s"} and told[1] == "1"
    assert counted == {"tool_calls": 2, "tool_failures": 1, "tool_timeouts": 1}
    hanging = [thread for thread in threading.enumerate() if thread.name == "tool"]
    assert hanging and all(thread.daemon for thread in hanging)


def test_schemas_come_from_hints_and_docstrings():
    schema = describe(tool_functions.add).schema["function"]
    assert schema["parameters"]["properties"]["a"] == {"type": "integer", "description": "the first"}
    assert (schema["description"], schema["parameters"]["required"]) == ("Add two numbers.", ["a"])


@pytest.mark.parametrize(
    ("function", "settings", "fault"),
    [
        (tools, {"functions": [f"{MODULE}:undocumented"]}, "'undocumented' is no tool: Cannot generate JSON schema"),
        (tools, {"functions": [f"{MODULE}:untold"]}, "no description for the argument 'a'"),
        (tools, {"functions": [f"{MODULE}:ad"]}, "cannot import 'tool_functions:ad'"),
        (tools, {"functions": [f"{MODULE}:add"] * 2}, "functions: two tools are named 'add'"),
        (tools, {"functions": [f"{MODULE}:add"], "calls": "CALL"}, "expected a regular expression with a group"),
        (trl_environment, {"factory": f"{MODULE}:NoReset"}, "factory: NoReset has no method 'reset'"),
    ],
)
def test_what_cannot_be_a_tool_is_a_fault_of_the_recipe(function, settings, fault):
    with pytest.raises(RecipeError) as caught:
        bind(function.__name__, function, settings, key="env")
    assert fault in str(caught.value)


class Says:
    """A sampler that writes the given texts, each in the tokens of its own encoding and with the stop token."""

    policy_version = 1

    def __init__(self, made: Any, *texts: str):
        self.made, self.texts, self.read = made, list(texts), []

    async def sample(self, token_ids, params):
        self.read.append(self.made.decode(token_ids))
        said = [*self.made.encode(self.texts[len(self.read) - 1]), self.made.eos_token_id]
        said = said[: params.max_tokens]
        return Completion(said, [-1.0] * len(said), "stop" if said[-1] == self.made.eos_token_id else "length", 1)


def played(
    environment: Any, *texts: str, turns: Turns | None = None, row: Any = None, limit: int = 2000
) -> tuple[Trajectory, Says]:
    """One episode; environment: of the recipe."""
    made = tokenizer("chatml")
    recipe = Recipe.model_construct(env=environment)
    rows = Rows(task="any", prompt="question", chat=True)
    data = [{"question": "q", **(row or {})}]
    [prompt], _ = PromptBuilder(made, rows, data, tools=brought_tools(recipe)).build(10_000)
    sampler = Says(made, *texts)
    origin: Any = SimpleNamespace(tokenizer=made, stop_token_ids=(made.eos_token_id,))
    authors = {ACTOR: Author(sampler, None, author_text(origin))}
    name, settings = next(iter(environment.items()))
    function = {"tools": tools, "trl_environment": trl_environment}[name]
    collector = Collector(
        authors, make_env=piece(function, **settings), deadline_seconds=20.0, turns=turns, env_retries=0
    )
    params = SamplingParams(max_tokens=limit, seed=1)
    [group] = collector.sample([prompt], group_size=1, params=params)
    collector.close()
    assert isinstance(prompt, Prompt)
    return group.trajectories[0], sampler


FUNCTIONS = {"tools": {"functions": [f"{MODULE}:add", f"{MODULE}:later"]}}


def test_an_episode_of_calls_ends_with_the_answer():
    both = f"{call('add', a=1, b=2)}\n{call('later', text='x')}"
    trajectory, sampler = played(FUNCTIONS, both, "It is 3.")
    assert '"name": "add"' in sampler.read[0] and '"Say a text later."' in sampler.read[0]
    assert sampler.read[1] == (
        f"{sampler.read[0]}{both}<|im_end|>\n<|im_start|>user\n<tool_response>\n3\n</tool_response>\n"
        '<tool_response>\n{"said": "x", "note": null}\n</tool_response><|im_end|>\n<|im_start|>assistant\n'
    )
    assert [turn.author for turn in trajectory.turns] == [ACTOR, ENVIRONMENT, ACTOR]
    assert (trajectory.text, trajectory.stop_reason) == ("It is 3.", "environment_ended")
    assert trajectory.measured == {"tool_calls": 2, "tool_failures": 0, "tool_timeouts": 0}
    assert not any(turn.restarts for turn in trajectory.turns)


def test_calls_that_cannot_be_read_are_invalid_actions():
    turns = Turns(invalid=Invalid(reward=-0.5, most_in_a_row=2))
    trajectory, sampler = played(FUNCTIONS, "<tool_call>\n{no}\n</tool_call>", "x", turns=turns)
    assert [turn.reward for turn in trajectory.own_turns] == [-0.5, None]
    assert "the call is no JSON: Expecting property name" in sampler.read[1]
    ended, _ = played(FUNCTIONS, *["<tool_call>"] * 2, turns=turns)
    assert (ended.stop_reason, ended.total_reward) == ("invalid_action", -1.0)


def test_a_pattern_says_how_calls_are_written():
    settings = {"functions": [f"{MODULE}:add"], "calls": r"(?P<name>\w+)\((?P<arguments>\{.*?\})\)"}
    trajectory, sampler = played({"tools": settings}, 'add({"a": 4})', "4")
    assert "<tool_response>\n4\n" in sampler.read[1] and trajectory.text == "4"


INCREMENT = {"trl_environment": {"factory": f"{MODULE}:Increment"}}


def test_an_environment_class_of_trl_is_played_as_it_is():
    trajectory, sampler = played(
        INCREMENT, call("increment", step=10), call("undo"), call("increment", step=3), "done", row={"goal": 3}
    )
    assert "<|im_start|>user\nq\n\nReach 3.<|im_end|>" in sampler.read[0]
    for name in ("increment", "undo"):
        assert f'"name": "{name}"' in sampler.read[0]
    for name in ("reset", "get_reward", "close", "_hidden"):
        assert f'"name": "{name}"' not in sampler.read[0]
    assert "<tool_response>\n{'error': 'too much'}\n" in sampler.read[1]  # as TRL writes errors and results
    assert "<tool_response>\nTrue\n" in sampler.read[2]
    assert [turn.reward for turn in trajectory.own_turns] == [None, None, None, 1.0]
    assert trajectory.measured["tool_failures"] == 1


@pytest.mark.parametrize(
    ("turns", "limit", "reason"),
    [(Turns(most=1), 2000, "environment_truncated"), (None, 90, "context_full"), (None, 70, "length")],
)
def test_an_episode_that_a_limit_ends_is_rewarded_too(turns, limit, reason):
    said = call("increment", step=3) if reason != "length" else call("increment", step=3) + "." * 20
    trajectory, _ = played(INCREMENT, said, "x", turns=turns, row={"goal": 0 if reason == "length" else 3}, limit=limit)
    assert trajectory.stop_reason == reason
    assert [turn.reward for turn in trajectory.own_turns] == [1.0]


def test_rows_may_choose_among_environments():
    several = {"trl_environment": {"factory": {"a": f"{MODULE}:Increment", "b": f"{MODULE}:Other"}, "reward": "reward"}}
    trajectory, sampler = played(several, call("look"), "x", row={"environment": "b"})
    assert '"name": "look"' in sampler.read[0] and "increment" not in sampler.read[0]
    assert trajectory.total_reward == 0.5
    with pytest.raises(RecipeError, match=r"env.trl_environment: column 'environment': no environment named 'c'"):
        played(several, row={"environment": "c"})


def test_a_class_that_fails_is_a_counted_failure():
    trajectory, _ = played(INCREMENT, "x", row={})
    assert trajectory.failure is not None and trajectory.failure.kind == "crash"
    assert "missing 1 required positional argument: 'goal'" in trajectory.failure.message


def test_tools_are_named_once():
    rows = Rows(task="any", prompt="question", chat=True, tools="tools")
    brought = brought_tools(Recipe.model_construct(env=FUNCTIONS))
    with pytest.raises(RecipeError, match=r"data.train.tools: tools, but the environment brings its own tools"):
        PromptBuilder(tokenizer("chatml"), rows, [{"question": "q", "tools": []}], tools=brought)
    plain = Rows(task="any", prompt="question")
    with pytest.raises(RecipeError, match=r"data.train.chat: false, but the environment brings tools"):
        PromptBuilder(tokenizer("chatml"), plain, [{"question": "q"}], tools=brought)
