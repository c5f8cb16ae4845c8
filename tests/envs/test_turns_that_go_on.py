"""Environments that name stop strings of their own, and turns that an environment lets go on."""

from __future__ import annotations

import pytest
from dialogue import EOS, Words, play

from llmrl.data.packing import pack
from llmrl.envs.base import Step
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.types import ACTOR, Prompt


class Patient:
    """Says nothing until the turn holds `wanted`, then `reply`, then nothing more."""

    def __init__(self, prompt: Prompt, encode, decode, stop, wanted, reply):
        self.prompt, self.encode, self.decode = prompt, encode, decode
        self.stop, self.wanted, self.reply = stop, wanted, reply
        self.replied = False

    async def reset(self) -> list[int]:
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        text = self.decode(completion.token_ids)
        if self.replied or not text.endswith(self.stop):
            return Step([])
        if self.wanted not in text:
            return Step([], reward=-9.0, done=False)  # the turn's last step says what it was worth
        self.replied = True
        return Step(self.encode(self.reply), reward=0.5, done=False)


def patient(prompt: Prompt, encode, decode, *, stop: tuple[str, ...] = ("|",), wanted: str = "b", reply: str = "!"):
    return Patient(prompt, encode, decode, stop, wanted, reply)


def authors(trajectory) -> str:
    return "".join(turn.author[0] for turn in trajectory.turns)


def test_an_environments_stop_strings_end_completions_beside_the_recipes():
    words = Words()
    [group], says = play([["a", "|", "b", "|", "c", EOS]], patient, words=words, stop=("|", "never"))
    assert [params.stop for _, params in says.asked] == [("|", "never")] * 3
    assert authors(group.trajectories[0]) == "aea"


def test_a_turn_that_goes_on_is_one_turn():
    """a | b | is one turn of two completions; the reply ! and c follow."""
    words = Words()
    [group], says = play([["a", "|", "b", "|", "c", EOS]], patient, words=words)
    [trajectory] = group.trajectories
    first, reply, last = trajectory.turns
    assert [words.decode(turn.token_ids) for turn in trajectory.turns] == ["a|b|", "!", "c"]
    assert first.rollout_logprobs == [0.0, -0.1, -0.2, -0.3]
    assert last.rollout_logprobs == [-0.4, -0.5]
    assert (first.reward, reply.reward, last.reward) == (0.5, None, None)
    assert trajectory.text == "c"
    # each completion is asked for with the exact tokens so far, in one budget, with a seed of its own
    a, b = words.id("a"), words.id("b")
    bar, start = words.id("|"), trajectory.prompt.token_ids[0]
    contexts = [[start], [start, a, bar], [start, a, bar, b, bar, words.id("!")]]
    assert [context for context, _ in says.asked] == contexts
    assert [params.max_tokens for _, params in says.asked] == [200, 198, 195]
    assert len({params.seed for _, params in says.asked}) == 3

    batch = pack([group], ACTOR)
    #                                     question a | b | ! c <eos>
    assert batch.turn_ids[0].tolist() == [-1, 0, 0, 0, 0, -1, 1, 1]
    nan = float("nan")
    assert batch.turn_rewards[0].tolist() == pytest.approx([nan, nan, nan, nan, 0.5, nan, nan, nan], nan_ok=True)
    assert batch.rewards[0].tolist() == [0, 0, 0, 0, 0.5, 0, 0, 0]


@pytest.mark.parametrize(
    ("max_tokens", "texts", "stop_reason"),
    [
        (1, ["a"], "length"),
        (2, ["a|"], "length"),  # the turn would go on, but there is no room for it
        (3, ["a|b"], "length"),
        (4, ["a|b|"], "context_full"),  # the reply has no room
        (5, ["a|b|"], "context_full"),  # the reply would leave no token to answer with
        (6, ["a|b|", "!", "c"], "length"),
        (7, ["a|b|", "!", "c"], "stop"),
    ],
)
def test_what_follows_the_prompt_is_bounded(max_tokens, texts, stop_reason):
    words = Words()
    [group], _ = play([["a", "|", "b", "|", "c", EOS]], patient, words=words, max_tokens=max_tokens)
    [trajectory] = group.trajectories
    assert [words.decode(turn.token_ids) for turn in trajectory.turns] == texts
    assert trajectory.stop_reason == stop_reason


def test_a_turn_is_as_old_as_its_oldest_part():
    class Ages:
        version = 9

        async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
            self.version -= 1
            return Completion([words.id("b"), words.id("|")], [-1.0, -2.0], "stop", self.version)

    words = Words()
    [group], _ = play([[]], patient, words=words, sampler=Ages(), wanted="b|b|b")
    first, _, last = group.trajectories[0].turns
    assert (first.policy_version, last.policy_version) == (6, 5)
    assert words.decode(first.token_ids) == "b|b|b|"
    assert first.rollout_logprobs == [-1.0, -2.0] * 3
