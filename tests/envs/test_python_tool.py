"""The Python tool, its actor and its sandbox scripted: what is a program, what is told of it, what it earns."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from dialogue import EOS, Words, play

from llmrl.data.packing import pack
from llmrl.envs import python_tool as module
from llmrl.envs.catalogue import CATALOGUE
from llmrl.envs.python_tool import PythonTool, python_tool
from llmrl.errors import RecipeError
from llmrl.pieces import resolve
from llmrl.rollout.sampler import Completion
from llmrl.sandbox import Execution, Limits, Program, SandboxError
from llmrl.types import ACTOR, Failure, Prompt

FENCE = "```"
DONE = Execution("exited", 0, None, b"", b"", b"compiled\n", 0.1, 0.1, 9.0)
ASKED = "question 0: "


class Notes:
    """A sandbox that notes the programs it is given and says how each ended."""

    def __init__(self, *executions: Execution | Exception):
        self.executions = iter(executions)
        self.programs: list[Program] = []
        self.limits: list[Limits] = []

    def run(self, program: Program, limits: Limits) -> Execution:
        self.programs.append(program)
        self.limits.append(limits)
        found = next(self.executions)
        if isinstance(found, Exception):
            raise found
        return found

    @property
    def sources(self) -> list[str]:
        assert all(set(program.payload) == {"source"} for program in self.programs)
        return [program.payload["source"] for program in self.programs]


def printed(text: str) -> Execution:
    return replace(DONE, stdout=text.encode())


@pytest.fixture
def use(monkeypatch):
    """Makes python_tool run its programs in `notes`."""

    def install(*executions: Execution | Exception) -> Notes:
        notes = Notes(*executions)
        monkeypatch.setattr(module, "shared", lambda *, allow_weak: notes)
        return notes

    return install


def told(trajectory: Any, words: Words) -> list[str]:
    return [words.decode(turn.token_ids) for turn in trajectory.turns]


def test_a_program_is_run_where_it_ends_and_its_output_is_read(use):
    """The first fence opens the program and ends nothing: the turn goes on to the second one."""
    notes, words = use(printed("42\n")), Words()
    script = ["Let me see. ", FENCE, "python", "\n", "print(42)", "\n", FENCE, "So ", "42", EOS]
    [group], says = play([script], python_tool, words=words, reward_ran=1.0, reward_failed=0.0)
    [trajectory] = group.trajectories
    assert told(trajectory, words) == [
        "Let me see. ```python\nprint(42)\n```",
        "\n```output\n42\n```\n",
        "So 42",
    ]
    assert notes.sources == ["print(42)\n"]
    assert notes.programs[0].runner == "notebook"
    assert notes.limits == [Limits(cpu_seconds=5.0, wall_seconds=30.0, memory_mb=512)]
    assert [turn.reward for turn in trajectory.turns] == [1.0, None, None]
    assert (trajectory.text, trajectory.stop_reason, trajectory.reward) == ("So 42", "stop", 1.0)
    assert all(params.stop == (FENCE,) for _, params in says.asked)

    batch = pack([group], ACTOR)
    picture = "".join("?A."[turn.author == ACTOR] * len(turn.token_ids) for turn in trajectory.turns)
    picture = picture.replace("?", "E")
    # 7 tokens of the first turn, 18 characters of the output, 3 tokens of the last turn
    assert picture == "A" * 7 + "E" * 18 + "A" * 3
    assert batch.response_mask[0].tolist() == [False, *(letter == "A" for letter in picture)]
    assert batch.attention_mask.all()
    assert batch.rollout_logprobs[0][~batch.response_mask[0]].eq(0).all()
    assert batch.turn_rewards[0].isfinite().nonzero().flatten().tolist() == [7]  # the token that ended the program
    assert batch.rewards[0].nonzero().flatten().tolist() == [7, 28]


def test_the_rest_of_the_token_that_ends_a_program_is_kept(use):
    """One token is fence and line breaks, another the opening as a whole."""
    notes, words = use(printed("1")), Words()
    script = ["```python\n", "1\n", "```\n\n", "Ok", EOS]
    [group], says = play([script], python_tool, words=words)
    assert notes.sources == ["1\n"]
    assert told(group.trajectories[0], words) == ["```python\n1\n```\n\n", "\n```output\n1\n```\n", "Ok"]
    # nothing is sampled or encoded twice: the second context is the first with these tokens after it
    before, after = [context for context, _ in says.asked if len(context) == 1 or words.id("```\n\n") in context]
    assert after[: len(before) + 3] == [*before, *(words.id(token) for token in script[:3])]


@pytest.mark.parametrize(
    "script",
    [
        ["no program", EOS],
        [FENCE, "text\n", "x\n", FENCE, " and ", FENCE, "c\n", FENCE, "42", EOS],  # quotations of other kinds
        ["never closed ", FENCE, "python\n", "1\n", EOS],
        ["not at a line's end ", FENCE, "python ", "1", FENCE, EOS],
        [FENCE, EOS],
    ],
)
def test_what_is_no_program_is_one_turn(use, script):
    notes, words = use(), Words()
    [group], _ = play([script], python_tool, words=words, reward_ran=1.0, reward_failed=0.0)
    [trajectory] = group.trajectories
    assert notes.programs == []
    assert [turn.token_ids for turn in trajectory.turns] == [[words.id(token) for token in script]]
    assert trajectory.turns[0].reward is None
    assert trajectory.stop_reason == "stop"


def test_a_program_after_a_quotation_of_another_kind(use):
    notes, words = use(printed("1")), Words()
    script = [FENCE, "text\n", "x\n", FENCE, "\n", FENCE, "python\n", "1\n", FENCE, "Ok", EOS]
    [group], _ = play([script], python_tool, words=words)
    assert notes.sources == ["1\n"]
    assert told(group.trajectories[0], words)[0] == "".join(script[:9])


def test_other_marks_and_other_texts(use):
    notes, words = use(printed("1")), Words()
    marks = {"start": "<code>", "end": "</code>", "result": "<obs>{output}</obs>{x}"}
    script = ["a", "<code>", "1", FENCE, "</code>", "Ok", EOS]
    [group], says = play([script], python_tool, words=words, **marks)
    assert notes.sources == ["1```"]
    assert told(group.trajectories[0], words)[1] == "<obs>1</obs>{x}"
    assert len(says.asked) == 2  # this start does not hold the end


@pytest.mark.parametrize(("max_calls", "turns", "programs"), [(0, 1, 0), (1, 3, 1), (2, 5, 2), (3, 5, 2)])
def test_a_program_too_many_is_not_run_and_ends_the_trajectory(use, max_calls, turns, programs):
    notes, words = use(printed("1"), printed("2")), Words()
    call = ["```python\n", "1\n", FENCE]
    last = call if max_calls < 3 else ["42", EOS]
    [group], _ = play([[*call, *call, *last]], python_tool, words=words, max_calls=max_calls, reward_ran=1.0)
    [trajectory] = group.trajectories
    assert (len(trajectory.turns), len(notes.programs)) == (turns, programs)
    assert [turn.reward for turn in trajectory.turns] == [1.0, None] * programs + [None]
    assert trajectory.stop_reason == "stop"


FAILED = replace(DONE, exit_code=1)


@pytest.mark.parametrize(
    ("execution", "output", "reward"),
    [
        (printed("  3\n\n"), "3", 1.0),
        (printed("a\nb\n"), "a\nb", 1.0),
        (replace(printed("3"), stderr=b"DeprecationWarning: old\n"), "3", 1.0),
        (DONE, "(no output)", -1.0),  # it told nothing
        (printed(" \n"), "(no output)", -1.0),
        (replace(FAILED, stderr=b"Traceback ...\n  File\nZeroDivisionError: division by zero\n"),
         "ZeroDivisionError: division by zero", -1.0),
        (replace(FAILED, stdout=b"half\n", stderr=b"KeyError: 'x'\n"), "half\nKeyError: 'x'", -1.0),
        (replace(DONE, exit_code=3), "exited with code 3", -1.0),
        (replace(DONE, ended="killed", exit_code=None, signal=11), "killed by signal 11", -1.0),
        (replace(DONE, ended="cpu_time", exit_code=None, signal=9, stdout=b"1"),
         "1\ntimed out after 2 s of CPU", -1.0),
        (replace(DONE, ended="wall_time", exit_code=None, signal=9), "timed out after 7.5 s", -1.0),
        (replace(DONE, ended="memory", exit_code=None, signal=9), "needed more than 64 MB of memory", -1.0),
        (replace(DONE, ended="processes", exit_code=None, signal=9), "started more than 16 processes", -1.0),
        (replace(DONE, ended="output", exit_code=None, signal=25), "wrote more than 1024 KB", -1.0),
        (replace(DONE, stdout=b"\xff\xfe ok"), "\ufffd\ufffd ok", 1.0),
        (printed("0123456789" * 10), "0123456789" * 2 + " ... " + "0123456789" * 2, 1.0),
        (replace(FAILED, stdout=b"x" * 50, stderr=b"E: no"), "x" * 20 + " ... " + "x" * 14 + "\nE: no", -1.0),
    ],
)  # fmt: skip
def test_what_is_told_and_what_it_earns(use, execution, output, reward):
    use(execution)
    words = Words()
    limits = {"cpu_seconds": 2, "wall_seconds": 7.5, "memory_mb": 64}
    given = {"reward_ran": 1.0, "reward_failed": -1.0, "output_characters": 40}
    [group], _ = play([["```python\n", "1\n", FENCE, EOS]], python_tool, words=words, **limits, **given)
    assert told(group.trajectories[0], words)[1] == f"\n```output\n{output}\n```\n"
    assert group.trajectories[0].turns[0].reward == reward


def test_without_rewards_of_its_own_the_outcome_is_all_there_is(use):
    use(printed("1"), FAILED)
    call = ["```python\n", "1\n", FENCE]
    [group], _ = play([[*call, *call, "42", EOS]], python_tool)
    batch = pack([group], ACTOR)
    assert batch.turn_rewards.isnan().all()
    assert batch.rewards.sum() == 1.0


def test_output_cannot_pass_for_special_tokens(use):
    """Only the template's own text may name them."""
    use(printed(EOS))
    words = Words()
    play([["```python\n", "1\n", FENCE, EOS]], python_tool, words=words, result="<tool>{output}</tool>")
    assert words.encoded == [("<tool>", True), (EOS, False), ("</tool>", True)]


@pytest.mark.parametrize(
    ("max_tokens", "turns", "programs", "stop_reason"),
    [
        (2, 1, 0, "length"),
        (3, 1, 1, "context_full"),
        (21, 1, 1, "context_full"),
        (22, 3, 1, "length"),
        (25, 3, 1, "stop"),
    ],
)
def test_the_length_limit(use, max_tokens, turns, programs, stop_reason):
    """A program that is cut is none; one whose output has no room, or leaves none to answer, keeps its reward.

    3 tokens of the call, 18 of the output, then four of the answer.
    """
    notes, words = use(printed("42")), Words()
    script = ["```python\n", "42\n", FENCE, "Ok", ".", " ", EOS]
    [group], _ = play([script], python_tool, words=words, max_tokens=max_tokens, reward_ran=0.0)
    [trajectory] = group.trajectories
    assert (len(trajectory.turns), len(notes.programs), trajectory.stop_reason) == (turns, programs, stop_reason)
    assert trajectory.turns[0].reward == (0.0 if programs else None)  # 0 is a reward, None is not


def test_a_sandbox_that_fails_is_a_failure_and_never_a_reward(use):
    error = SandboxError("no room")
    script = ["```python\n", "1\n", FENCE, "42", EOS]
    notes = use(error, printed("1"))
    [group], _ = play([script], python_tool, reward_ran=1.0, reward_failed=0.0)
    assert group.trajectories[0].failure is None  # the second attempt went well
    assert len(notes.programs) == 2
    use(error, error)
    [group], _ = play([script], python_tool, reward_ran=1.0, reward_failed=0.0)
    [trajectory] = group.trajectories
    assert trajectory.failure == Failure("environment", "crash", "SandboxError: no room")
    assert trajectory.scores == {}
    assert trajectory.turns[0].reward is None


def test_without_a_sandbox_every_trajectory_fails_before_anything_is_sampled(monkeypatch):
    """If only those failed that use the tool, what is left to train on would never use it."""

    def none(*, allow_weak: bool) -> Any:
        raise SandboxError(f"none here, allow_weak {allow_weak}")

    monkeypatch.setattr(module, "shared", none)
    groups, says = play([["42", EOS], ["```python\n", "1\n", FENCE, EOS]], python_tool, allow_weak=True)
    for group in groups:
        [trajectory] = group.trajectories
        assert trajectory.failure == Failure("environment", "crash", "SandboxError: none here, allow_weak True")
    assert says.asked == []


def test_programs_run_at_once_but_not_all(use, monkeypatch):
    """While they run, the event loop goes on."""
    running, most, lock = 0, 0, threading.Lock()

    class Slow(Notes):
        def run(self, program: Program, limits: Limits) -> Execution:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.02)
            with lock:
                running -= 1
            return printed("1")

    notes, ticks = Slow(), 0
    monkeypatch.setattr(module, "shared", lambda *, allow_weak: notes)
    words = Words()
    call = [words.id(token) for token in ("```python\n", "1\n", FENCE)]

    async def main() -> list[Any]:
        nonlocal ticks
        envs = [python_tool(Prompt("p", (1,), "", {}), words.encode, words.decode) for _ in range(80)]
        work = asyncio.gather(*(env.step(Completion(call, [0.0] * 3, "stop", 0)) for env in envs))
        while not work.done():
            await asyncio.sleep(0.001)
            ticks += 1
        return work.result()

    assert all(not step.done for step in asyncio.run(main()))
    assert most == module._THREADS._max_workers <= 32
    assert ticks > 10


def test_a_recipe_names_it():
    env = partial(resolve, valid=CATALOGUE, key="env", what="environment")
    piece = env({"python_tool": {"max_calls": 2, "reward_ran": 1}})
    assert piece.data == ("prompt", "encode", "decode")
    words = Words()
    made = piece({"prompt": Prompt("p", (4,), "", {}), "encode": words.encode, "decode": words.decode})
    assert isinstance(made, PythonTool)
    assert (made.max_calls, made.reward_ran, made.reward_failed, made.stop) == (2, 1.0, None, (FENCE,))
    for settings, fault in (
        ({"result": "no place for it"}, "expected a text with one {output}"),
        ({"result": "{output}{output}"}, "expected a text with one {output}"),
        ({"end": ""}, "at least 1 character"),
        ({"max_calls": -1}, "greater than or equal to 0"),
        ({"cpu_seconds": 0}, "greater than 0"),
        ({"memory_mb": 0.5}, "valid integer"),
        ({"output_character": 9}, "did you mean 'output_characters'?"),
    ):
        with pytest.raises(RecipeError, match=f"env.python_tool.*{fault}".replace("{", r"\{").replace("?", r"\?")):
            env({"python_tool": settings})
