"""Labels of steps by continuations that follow a script, counted by hand."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from llmrl.envs.base import AuthorText
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.step_labels import StepLabeller
from llmrl.types import Failure, Group, Prompt

PROMPT = Prompt("train:3", (1, 2), "q?", {})
STOP = 0


def decode(token_ids: Any) -> str:
    return "".join(chr(token) for token in token_ids if token != STOP)


class Script:
    """Writes 'ab;c;1' from the prompt, and from any prefix of it an answer of its own; notes what it was asked."""

    policy_version = 0

    def __init__(self, after: dict[str, list[str]]) -> None:
        self.after, self.asked = after, []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        begun = decode(token_ids[2:])
        self.asked.append((begun, params.max_tokens, params.seed))
        text = self.after[begun].pop(0) if begun else "ab;c;1"
        await asyncio.sleep(0)
        return Completion([*map(ord, text), STOP], [], "stop", 0)


class EndsWithOne:
    """Right if the whole completion ends with 1; a completion that ends with x cannot be judged."""

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        for one in group.trajectories:
            assert one.text.startswith("ab;") and one.prompt is PROMPT  # the whole answer, not its end
            if one.text.endswith("x"):
                one.failure, one.reward = Failure("verifier", "timeout", "late"), math.nan
            else:
                one.scores = {"verifier": _Score(one.text.endswith("1"))}


class _Score:
    def __init__(self, correct: bool):
        self.correct = correct


def labeller(script: Script, **settings: Any) -> StepLabeller:
    text = AuthorText(encode=lambda text: [], decode=decode, chat=lambda messages: [], vocabulary=128)
    given = {"solutions": 1, "continuations": 3, "delimiter": ";", "in_flight": 2} | settings
    params = SamplingParams(max_tokens=10, seed=5)
    return StepLabeller(Author(script, EndsWithOne(), text), params, **given)  # pyright: ignore


def test_each_step_s_label_is_the_share_of_its_continuations_that_are_right():
    """After 'ab;' one of three continuations is right, after 'ab;c;' one of two, since one failed; the last step's
    label is the solution's own verdict."""
    script = Script({"ab;": ["0", "1", "c;0"], "ab;c;": ["x", "1", "0"]})
    [[found]] = asyncio.run(labeller(script).label([PROMPT]))
    assert (found.steps, found.successes) == (["ab", "c", "1"], [1, 1, 1])
    assert (found.samples, found.failures) == ([3, 2, 1], [0, 1, 0])
    assert found.row(PROMPT) == {
        "id": "train:3", "prompt": "q?", "completions": ["ab", "c", "1"], "labels": [True, True, True],
        "soft_labels": [1 / 3, 0.5, 1.0], "successes": [1, 1, 1], "samples": [3, 2, 1], "failures": [0, 1, 0],
    }  # fmt: skip
    rooms = sorted((begun, room) for begun, room, _ in script.asked)
    assert rooms == [("", 10), ("ab;", 7), ("ab;", 7), ("ab;", 7), ("ab;c;", 5), ("ab;c;", 5), ("ab;c;", 5)]
    assert len({seed for _, _, seed in script.asked}) == 7


def test_a_step_without_a_verdict_has_no_label():
    script = Script({"ab;": ["0", "0", "0"], "ab;c;": ["x", "x", "x"]})
    [[found]] = asyncio.run(labeller(script).label([PROMPT]))
    row = found.row(PROMPT)
    assert (row["labels"], row["soft_labels"], row["failures"]) == ([False, None, True], [0.0, None, 1.0], [0, 3, 0])
