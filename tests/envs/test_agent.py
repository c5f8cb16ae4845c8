"""Agents that ask the policy through its endpoint, with the openai client: what is read, told, counted and killed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import openai
import pytest

from llmrl.envs.agent import agent
from llmrl.envs.base import AuthorText
from llmrl.errors import RecipeError
from llmrl.pieces import bind
from llmrl.rollout.collect import Collector
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.types import ACTOR, ENVIRONMENT, Prompt, Trajectory

END = "."
EPISODES = 200
HERMES = '<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
TOOLS: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


def render(messages, tools=()) -> str:
    """[of a user]>of the assistant, with END; thoughts of earlier turns are dropped, as by many a template."""
    named = "".join(f"#{tool['function']['name']}#" for tool in tools)
    shown = {"user": "[{}]", "system": "<{}>", "tool": "={}="}
    said = [shown.get(m["role"], ">{}" + END).format(m["content"].rpartition("~")[2]) for m in messages]
    return named + "".join(said) + ">"


def spelt(text: str, *, special: bool = False) -> list[int]:
    return [ord(letter) for letter in text]


def written(token_ids: list[int]) -> str:
    return "".join(map(chr, token_ids))


TEXT = AuthorText(
    spelt, lambda ids: written(ids).removesuffix(END), lambda m: spelt(render(m)), plain=spelt, render=render,
    written=written,
)  # fmt: skip


class Script:
    """Says the given texts one after another, each ended by END, up to the limit or a stop string."""

    policy_version = 1

    def __init__(self, *texts: str):
        self.texts, self.read, self.params = list(texts), [], []

    async def sample(self, token_ids, params):
        self.read.append(written(token_ids))
        self.params.append(params)
        said = self.texts[len(self.read) - 1] + END
        ends = [said.index(stop) + len(stop) for stop in params.stop if stop in said]
        said, whole = said[: min([*ends, params.max_tokens])], said
        stopped = said == whole or bool(ends)
        return Completion(spelt(said), [-0.5] * len(said), "stop" if stopped else "length", 1)


def played(
    work: Callable[..., Any] | list[str], *texts: str, tokens: int = 400, others: tuple[str, ...] = (),
    params: SamplingParams | None = None, row: dict[str, Any] | None = None, **settings: Any,
) -> tuple[list[Trajectory], Script]:  # fmt: skip
    """The trajectories of one episode, and the sampler of its policy."""
    module = sys.modules[__name__]
    if callable(work):
        module.work = work  # type: ignore[attr-defined]
        settings["function"] = f"{__name__}:work"
    else:
        settings["command"] = work
    sampler = Script(*texts)
    collector = Collector(
        {name: Author(sampler, None, TEXT) for name in (ACTOR, *others)},
        make_env=bind("agent", agent, settings, key="env"),
        deadline_seconds=30.0,
        env_retries=0,
    )  # fmt: skip
    prompt = Prompt("p0", tuple(spelt("?")), "?", {"question": "how many", "seed": 7} | (row or {}))
    try:
        groups = collector.sample([prompt], group_size=1, params=params or SamplingParams(tokens, seed=1))
    finally:
        collector.close()
    return [one for group in groups for one in group.trajectories], sampler


def client(base_url: str, api_key: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)


def pictured(trajectory: Trajectory) -> list[str]:
    """The text before the first turn, then each turn's, environment's turns after ~ where they restart."""
    marks = {False: "", True: "~"}
    turns = [marks[turn.restarts] + written(turn.token_ids) for turn in trajectory.turns]
    return [written(list(trajectory.prompt.token_ids)), *turns]


async def two_turns(base_url, api_key, question):
    """Asks, tells of the answer, asks again."""
    said = [{"role": "user", "content": question}]
    for _ in range(2):
        found = await client(base_url, api_key).chat.completions.create(model="policy", messages=said)
        said += [found.choices[0].message.model_dump(exclude_none=True), {"role": "user", "content": "more"}]
    return f"so {found.choices[0].message.content}"


def test_a_conversation_extends_exact_tokens_and_the_result_is_what_rewards_read():
    [one], sampler = played(two_turns, "three", "four")
    assert pictured(one) == ["[how many]>", "three.", "[more]>", "four."]
    assert sampler.read == ["[how many]>", "[how many]>three.[more]>"]
    assert [turn.author for turn in one.turns] == [ACTOR, ENVIRONMENT, ACTOR]
    assert [len(turn.rollout_logprobs) for turn in one.own_turns] == [6, 5]
    assert (one.text, one.stop_reason, one.failure) == ("so four", "environment_ended", None)
    assert one.measured == {"calls": 2, "other_sampling": 0, "refused_requests": 0, "unmet_tool_choice": 0}


def test_what_the_template_or_the_agent_changes_is_read_as_a_whole_in_the_same_trajectory():
    """The template drops the first answer's thoughts; the agent then replaces its history."""

    async def agent_(base_url, api_key):
        ask, said = client(base_url, api_key).chat.completions.create, [{"role": "user", "content": "q"}]
        found = await ask(model="policy", messages=said)
        said += [{"role": "assistant", "content": found.choices[0].message.content}, {"role": "user", "content": "r"}]
        await ask(model="policy", messages=said)
        await ask(model="policy", messages=[said[0], {"role": "assistant", "content": "in short"}, said[2]])
        return {"reward": 0.5, "solved": True, "steps": 3}

    [one], sampler = played(agent_, "hm~yes", "no", "well")
    assert pictured(one) == ["[q]>", "hm~yes.", "~[q]>yes.[r]>", "no.", "~[q]>in short.[r]>", "well."]
    assert sampler.read == ["[q]>", "[q]>yes.[r]>", "[q]>in short.[r]>"]
    assert [len(turns) for _, turns in one.parts_of_turns] == [1, 1, 1]
    assert [turn.reward for turn in one.own_turns] == [None, None, 0.5]
    assert (one.solved, one.correct, one.measured["steps"], one.text) == (True, True, 3, "well")


def test_parallel_calls_are_queued_and_another_conversation_is_a_trajectory_of_its_own():
    """Two sub-agents at once, and the second turn of the first one: it goes on with its exact tokens."""

    async def agent_(base_url, api_key):
        ask = client(base_url, api_key).chat.completions.create
        first = [{"role": "system", "content": "A"}, {"role": "user", "content": "q"}]
        second = [{"role": "system", "content": "B"}, {"role": "user", "content": "q"}]
        works = [asyncio.create_task(ask(model="policy", messages=first))]
        await asyncio.sleep(0.1)
        works += [asyncio.create_task(ask(model="policy", messages=second))]
        found, _ = await asyncio.gather(*works)
        first += [{"role": "assistant", "content": found.choices[0].message.content}, {"role": "user", "content": "r"}]
        await ask(model="policy", messages=first)
        return {"answer": "42", "reward": 1}

    [one, other], _ = played(agent_, "a", "b", "c")
    assert pictured(one) == ["<A>[q]>", "a.", "~<A>[q]>a.[r]>", "c."]
    assert pictured(other) == ["<B>[q]>", "b."]
    assert (one.compared, other.compared) == ("", "conversation 2")
    assert [t.own_turns[-1].reward for t in (one, other)] == [1.0, 1.0]
    assert [t.text for t in (one, other)] == ["42", "42"]


def test_tool_calls_are_read_from_the_policys_text_and_its_tokens_kept():
    """The agent gives the call back with other ids, null content and JSON text; the exact tokens go on."""

    async def agent_(base_url, api_key):
        ask, said = client(base_url, api_key).chat.completions.create, [{"role": "user", "content": "1+2"}]
        found = (await ask(model="x", messages=said, tools=TOOLS, tool_choice="required")).choices[0]
        [call] = found.message.tool_calls
        assert (found.finish_reason, found.message.content) == ("tool_calls", None)
        assert (call.function.name, json.loads(call.function.arguments)) == ("add", {"a": 1, "b": 2})
        said += [found.message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "3"}]
        found = (await ask(model="x", messages=said, tools=TOOLS, tool_choice="required")).choices[0]
        assert found.message.tool_calls is None
        return found.message.content

    [one], _ = played(agent_, HERMES, "three")
    assert pictured(one) == ["#add#[1+2]>", f"{HERMES}.", "=3=>", "three."]
    assert (one.text, one.measured["unmet_tool_choice"]) == ("three", 1)


def test_stop_strings_limits_streams_and_plain_prompts():
    async def agent_(base_url, api_key):
        api = client(base_url, api_key)
        about: Any = {"model": "policy", "messages": [{"role": "user", "content": "q"}]}
        stream = await api.chat.completions.create(
            **about, stop=["\n"], stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert (said, chunks[-1].usage.completion_tokens, chunks[-2].choices[0].finish_reason) == ("one", 4, "stop")
        cut = await api.chat.completions.create(**about, max_completion_tokens=2, temperature=0.25)
        assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("tw", "length")
        assert (cut.usage.prompt_tokens, cut.usage.completion_tokens) == (4, 2)
        text = (await api.completions.create(model="policy", prompt="plain:", max_tokens=9)).choices[0].text
        text += (await api.completions.create(model="policy", prompt=f"plain:{text}. and")).choices[0].text
        assert [model.id async for model in api.models.list()] == [ACTOR]
        return text

    [chat, text], sampler = played(agent_, "one\ntwo", "two", "three", "four", max_tokens=50)
    assert pictured(chat) == ["[q]>", "one\n", "~[q]>", "tw"]
    assert pictured(text) == ["plain:", "three.", " and", "four."]
    assert text.text == "threefour"
    assert [(p.max_tokens, p.stop, p.temperature) for p in sampler.params] == [
        (50, ("\n",), 1.0), (2, (), 1.0), (9, (), 1.0), (50, (), 1.0),
    ]  # fmt: skip
    assert chat.measured["other_sampling"] == 1


@pytest.mark.parametrize(("sampling", "evaluating", "found"), [("agent", False, 0.25), ("agent", True, 1.0)])
def test_the_recipe_may_leave_the_temperature_to_the_agent_but_not_in_evaluation(sampling, evaluating, found):
    async def agent_(base_url, api_key):
        about: Any = {"model": "policy", "messages": [{"role": "user", "content": "q"}], "temperature": 0.25}
        await client(base_url, api_key).chat.completions.create(**about)

    params = SamplingParams(20, seed=1, evaluating=evaluating)
    _, sampler = played(agent_, "a", params=params, sampling=sampling)
    assert sampler.params[0].temperature == found
    if not evaluating:
        [one], _ = played(agent_, "a", params=params, sampling="refuse")
        assert one.failure is not None
        assert "asked for temperature 0.25, the recipe samples at 1" in one.failure.message


def test_what_is_not_supported_is_told_as_openai_does_and_counted():
    faults = [
        ({"n": 2}, "n: got 2, expected 1"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"max_tokens": 0}, "max_tokens: got 0, expected a number of tokens, at least 1"),
        ({"temperature": 3}, "temperature: got 3, expected a number from 0 to 2"),
        ({"messages": []}, "messages: got [], expected a list of messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "a part that is no text"),
        ({"tools": [{"name": "add"}]}, "tools[0]"),
        ({"extra_body": {"top_kk": 3}}, "top_kk: got 3, expected no such field; did you mean 'top_p'?"),
    ]

    async def agent_(base_url, api_key):
        api = client(base_url, api_key)
        about: Any = {"model": "policy", "messages": [{"role": "user", "content": "q"}]}
        for wrong, told in faults:
            with pytest.raises(openai.BadRequestError) as caught:
                await api.chat.completions.create(**about | wrong)
            assert told in caught.value.body["message"], caught.value.body
            assert caught.value.type == "invalid_request_error"
            assert caught.value.param
        with pytest.raises(openai.NotFoundError, match="no such endpoint"):
            await api.embeddings.create(model="policy", input="q")
        with pytest.raises(openai.AuthenticationError):
            await client(base_url.replace(api_key, "x" * 32), api_key).models.list()
        await api.chat.completions.create(**about)

    [one], _ = played(agent_, "a")
    assert (one.failure, one.measured["refused_requests"]) == (None, len(faults) + 1)


def test_a_role_is_asked_by_its_name():
    async def agent_(base_url, api_key):
        ask = client(base_url, api_key).chat.completions.create
        about: Any = {"messages": [{"role": "user", "content": "q"}]}
        with pytest.raises(openai.NotFoundError, match="expected actor or judge"):
            await ask(model="gpt", **about)
        for model in ("judge", "actor", "judge"):
            await ask(model=model, **about)
        return 1.0

    found, _ = played(agent_, "a", "b", "c", others=("judge",))
    assert {one.author: pictured(one) for one in found} == {
        "judge": ["[q]>", "a.", "~[q]>", "c."], "actor": ["[q]>", "b."],
    }  # fmt: skip
    assert [one.own_turns[-1].reward for one in found] == [1.0, 1.0]


def test_an_agent_that_never_stops_is_cut_short_and_a_full_context_ends_it():
    def agent_(base_url, api_key):
        said = [{"role": "user", "content": "q"}]
        api = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0)
        while True:
            found = api.chat.completions.create(model="policy", messages=said)
            said += [
                {"role": "assistant", "content": found.choices[0].message.content},
                {"role": "user", "content": "r"},
            ]

    [one], sampler = played(agent_, *["abc"] * 9, max_calls=3)
    assert (one.stop_reason, len(sampler.read), one.failure) == ("environment_truncated", 3, None)
    [one], _ = played(agent_, *["abc"] * 9, tokens=12)
    assert (one.stop_reason, one.failure) == ("context_full", None)
    assert pictured(one) == ["[q]>", "abc.", "[r]>", "abc."]


SCRIPT = """
import json, os, sys, urllib.request

def ask(content):
    body = json.dumps({"model": "policy", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)
    return json.load(urllib.request.urlopen(request))["choices"][0]["message"]["content"]

row = json.load(sys.stdin)
"""


def script(tmp_path, body: str) -> list[str]:
    (tmp_path / "agent.py").write_text(SCRIPT + textwrap.dedent(body))
    return [sys.executable, str(tmp_path / "agent.py")]


def test_a_command_reads_its_row_and_prints_its_result(tmp_path):
    command = script(tmp_path, """
        said = ask(row["question"])
        print("a line that is no result")
        print(json.dumps({"answer": said + "!", "reward": 2, "seed": int(os.environ["LLMRL_SEED"])}))
    """)  # fmt: skip
    [one], _ = played(command, "three")
    assert pictured(one) == ["[how many]>", "three."]
    assert (one.text, one.own_turns[-1].reward, one.measured["seed"]) == ("three!", 2.0, 7)


FAILURES = {
    "ask('q'); sys.exit('no luck')": ("crash", "exited with code 1: no luck"),
    "ask('q'); raise RuntimeError('lost')": ("crash", "exited with code 1: RuntimeError: lost"),
    "print('done')": ("crash", "ended and never got an answer of the policy"),
    "ask('q'); print(json.dumps({'reward': 'high'}))": ("crash", "reward: got 'high', expected a finite number"),
    "import time; ask('q'); time.sleep(60)": ("timeout", "nor ended 1.5 s (deadline_seconds) after answer 1"),
}


@pytest.mark.parametrize("body", FAILURES)
def test_a_command_that_fails_is_a_failure_by_name_and_leaves_no_process(tmp_path, body):
    """Each starts a process of its own, which dies with the command's group."""
    kind, message = FAILURES[body]
    child = "import subprocess; print(subprocess.Popen(['sleep', '300']).pid, file=open('child', 'w'), flush=True)"
    command = script(tmp_path, f"os.chdir({str(tmp_path)!r})\n{child}\n{body}")
    [one], _ = played(command, "a", deadline_seconds=1.5)
    assert one.failure is not None
    assert (one.failure.source, one.failure.kind) == ("environment", kind)
    assert message in one.failure.message
    assert "agent.py" in one.failure.message
    assert gone(int((tmp_path / "child").read_text()))


def gone(process: int) -> bool:
    """Whether a process is dead, or is so within two seconds; a zombie is dead."""
    for _ in range(100):
        try:
            with open(f"/proc/{process}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_functions_that_fail_or_hang():
    async def lost(base_url):
        raise KeyError("map")

    [one], _ = played(lost)
    assert one.failure is not None
    assert one.failure.message.endswith("(test_agent:work) raised KeyError: 'map'")

    def silent(row):
        return None

    [one], _ = played(silent)
    assert one.failure is not None
    assert "ended and never got an answer" in one.failure.message

    def hangs(base_url):
        time.sleep(3)

    [one], _ = played(hangs, deadline_seconds=0.2)
    assert one.failure is not None
    assert (one.failure.kind, "after its start" in one.failure.message) == ("timeout", True)


STARTER = """
import asyncio, sys
from llmrl.envs.agent_program import Command

async def main():
    await Command([sys.executable, "agent.py"], {}, "{}").ended

asyncio.run(main())
"""
CHILD = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "300"])
print(os.getpid(), child.pid, file=open("pids", "w"), flush=True)
time.sleep(300)
"""


def test_an_agents_processes_die_with_the_trainer(tmp_path):
    """SIGKILL of the process that started the command: the command and the child that it started are gone."""
    (tmp_path / "agent.py").write_text(CHILD)
    path = os.pathsep.join(filter(None, sys.path))
    trainer = subprocess.Popen([sys.executable, "-c", STARTER], cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    pids = tmp_path / "pids"
    try:
        while not pids.exists() or len(pids.read_text().split()) < 2:
            assert trainer.poll() is None
            time.sleep(0.02)
    finally:
        trainer.kill()
        trainer.wait()
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_hundreds_of_episodes_ask_one_server_at_once():
    class Together(Script):
        """Answers nobody before all have asked."""

        def __init__(self):
            super().__init__()
            self.all_asked = asyncio.Event()

        async def sample(self, token_ids, params):
            self.read.append(token_ids)
            if len(self.read) == EPISODES:
                self.all_asked.set()
            await self.all_asked.wait()
            return Completion(spelt(f"{params.seed}."), [-0.5] * 2, "stop", 1)

    async def agent_(base_url):
        body = {"model": "policy", "messages": [{"role": "user", "content": "q"}]}
        async with session.post(f"{base_url}/chat/completions", json=body) as found:
            return (await found.json())["choices"][0]["message"]["content"]

    sys.modules[__name__].work = agent_  # type: ignore[attr-defined]
    sampler = Together()
    make_env = bind("agent", agent, {"function": f"{__name__}:work"}, key="env")
    collector = Collector({ACTOR: Author(sampler, None, TEXT)}, make_env=make_env, deadline_seconds=30.0)
    session = collector._runner.run(_session())
    [group] = collector.sample([Prompt("p0", (1,), "?", {})], group_size=EPISODES, params=SamplingParams(30, seed=1))
    collector._runner.run(session.close())
    collector.close()
    assert [one.failure for one in group.trajectories] == [None] * EPISODES
    assert all(one.text == written(one.own_turns[-1].token_ids)[:-1] for one in group.trajectories)
    assert len({one.text for one in group.trajectories}) == EPISODES


async def _session():
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


def test_a_recipe_names_a_command_or_a_function_that_exists(tmp_path):
    def fault(**settings: Any) -> str:
        with pytest.raises(RecipeError) as caught:
            bind("agent", agent, settings, key="env")
        return str(caught.value)

    assert fault() == "env.agent: expected one of command and function"
    assert fault(command=["no-such-program"]) == "env.agent: command: no program 'no-such-program' is found"
    assert "no file 'agent.py' is found from" in fault(command=["python", "agent.py"])
    assert "did you mean 'two_turns'?" in fault(function=f"{__name__}:two_turn")
    assert "no setting 'size'" in fault(function=f"{__name__}:two_turns", settings={"size": 1})
    assert "settings: only a function" in fault(command=[sys.executable], settings={"size": 1})
    assert bind("agent", agent, {"function": f"{__name__}:two_turns"}, key="env").setting("max_calls") == 100
