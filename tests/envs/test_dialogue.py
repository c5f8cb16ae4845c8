"""Worlds played by models: actions, invalid ones, limits, roles, states, and the rows that a batch gets of them."""

from __future__ import annotations

import math

import pytest
import torch
from scripted import PARAMS, piece

from llmrl.data.packing import pack
from llmrl.envs.base import AuthorText
from llmrl.envs.conversation import ChatContext
from llmrl.envs.world import Outcome
from llmrl.recipe_file import method_recipe
from llmrl.recipe_turns import Invalid, Turns
from llmrl.resolve import resolve_pieces
from llmrl.rollout.collect import Collector
from llmrl.rollout.play import Author
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.types import ACTOR, ENVIRONMENT, Group, Prompt, Trajectory, Turn

TEXT = AuthorText(
    encode=lambda text, *, special=False: [ord(letter) for letter in text],
    decode=lambda token_ids: "".join(map(chr, token_ids)).removesuffix("."),
    plain=lambda text: [ord(letter) for letter in text],
)
ASKED = Prompt("p0", (ord("?"),), "?", {"seed": 7, "budget": 2})


class Script:
    """A sampler that says the given texts one after another, each ended by a stop token."""

    policy_version = 1

    def __init__(self, *texts: str):
        self.texts, self.read = list(texts), []

    async def sample(self, token_ids, params):
        self.read.append("".join(map(chr, token_ids)))
        said = [ord(letter) for letter in f"{self.texts[len(self.read) - 1]}."][: params.max_tokens]
        return Completion(said, [-0.5] * len(said), "stop" if said[-1] == ord(".") else "length", 1)


class Counting:
    """Counts to the row's number: +N adds, anything else is invalid; each action costs 1, the end is solved."""

    def __init__(self, seed: int, turns: int):
        self.goal, self.left, self.sum, self.closed = seed, turns, 0, False

    async def reset(self, seed: int) -> Outcome:
        assert seed == self.goal
        return Outcome(f"to {seed}:", hidden=f"{seed}", solved=False)

    async def act(self, action: str) -> Outcome:
        if not action.startswith("+"):
            return Outcome(valid=False)
        self.sum, self.left = self.sum + int(action[1:]), self.left - 1
        known = {"reward": -1.0, "metrics": {"sum": float(self.sum)}, "solved": self.sum == self.goal}
        return Outcome(f"{self.sum}:", terminated=self.sum == self.goal, truncated=not self.left, **known)

    async def close(self) -> None:
        self.closed = True


def played(*texts: str, turns: Turns | None = None, limit: int = 9, prompt: Prompt = ASKED, tokens: int = 60):
    """One episode of Counting with the sampler's texts."""
    worlds: list[Counting] = []

    def counting(seed: int) -> Counting:
        worlds.append(Counting(seed, limit))
        return worlds[-1]

    sampler = Script(*texts)
    collector = Collector(
        {ACTOR: Author(sampler, None, TEXT)}, make_env=piece(counting), deadline_seconds=20.0, turns=turns
    )
    params = SamplingParams(max_tokens=tokens, seed=1)
    [group] = collector.sample([prompt], group_size=1, params=params)
    assert worlds[-1].closed
    return group.trajectories[0], sampler


def test_a_solved_episode_has_its_turns_rewards_states_and_verdict():
    trajectory, sampler = played("+3", "+4")
    assert sampler.read == ["?to 7:", "?to 7:+3.3:"]
    assert [turn.author for turn in trajectory.turns] == [ACTOR, ENVIRONMENT, ACTOR]
    assert [(turn.state, turn.action, turn.reward) for turn in trajectory.own_turns] == [
        ("to 7:", "+3", -1.0),
        ("3:", "+4", -1.0),
    ]
    assert (trajectory.correct, trajectory.stop_reason, trajectory.hidden) == (True, "environment_ended", "7")
    assert trajectory.total_reward == -2 and trajectory.measured == {"sum": 7.0}


def test_a_world_without_room_or_turns_is_cut_short_and_not_solved():
    assert played("+1", "+1", limit=2)[0].stop_reason == "environment_truncated"
    by_row, _ = played("+1", "+1", turns=Turns(most="budget"))
    assert (by_row.stop_reason, by_row.correct, len(by_row.own_turns)) == ("environment_truncated", False, 2)
    lost, _ = played("+1", "+1", turns=Turns(most=2, past_most="lost"))
    assert lost.stop_reason == "environment_ended"
    # an expert takes two turns; half as many again are three, and what is not solved by then is a failure
    late, _ = played("+1", "+1", "+1", turns=Turns(most="budget", most_factor=1.2, past_most="lost"))
    assert (len(late.own_turns), late.correct, late.stop_reason) == (3, False, "environment_ended")
    full, _ = played("+1", "+1", "+1", tokens=10)
    assert full.stop_reason == "context_full" and len(full.own_turns) == 2
    missing, _ = played("+1", turns=Turns(most="bugdet"))
    assert missing.failure is not None and "did you mean 'budget'" in missing.failure.message


def test_invalid_actions_are_told_paid_and_end_an_episode():
    invalid = Invalid(tell="no:", reward=-0.5, most_in_a_row=2)
    trajectory, sampler = played("hm", "+7", turns=Turns(action="(\\+\\d+)", invalid=invalid))
    assert sampler.read[1] == "?to 7:hm.no:"
    assert [(turn.action, turn.valid, turn.reward) for turn in trajectory.own_turns] == [
        (None, False, -0.5),
        ("+7", True, -1.0),
    ]
    refused, _ = played("-1", "-1", turns=Turns(invalid=invalid))
    assert (refused.stop_reason, refused.correct) == ("invalid_action", False)
    assert [turn.action for turn in refused.own_turns] == ["-1", "-1"]
    last_counts, _ = played("+1 no +7", turns=Turns(action="(\\+\\d+)"))
    assert last_counts.correct


def test_thoughts_and_long_turns():
    trajectory, _ = played("+1</t>+7", turns=Turns(thoughts_end="</t>"))
    assert trajectory.own_turns[0].action == "+7"
    cut, sampler = played("+3456", "+4", turns=Turns(max_tokens=2))
    assert [turn.text for turn in cut.own_turns] == ["+3", "+4"] and sampler.read[1] == "?to 7:+33:"


class Dealt:
    """The other role is told the secret, then the actor hears of it."""

    async def reset(self, seed: int) -> Outcome:
        return Outcome("say", told={"actor": "wait;"}, player="other")

    async def act(self, action: str) -> Outcome:
        if action == "end":
            return Outcome(terminated=True, reward=1.0, rewards={"other": -1.0})
        return Outcome(f"heard {action};", player="actor", reward=0.5)


def test_roles_have_contexts_of_their_own():
    sampler, other = Script("end"), Script("hi")
    authors = {ACTOR: Author(sampler, None, TEXT), "other": Author(other, None, TEXT)}
    collector = Collector(authors, make_env=piece(Dealt), deadline_seconds=20.0)
    first, second = collector.sample([ASKED], group_size=1, params=PARAMS)
    assert (other.read, sampler.read) == (["say"], ["?wait;heard hi;"])
    assert (first.author, second.author) == (ACTOR, "other")
    assert first.trajectories[0].own_turns[0].reward == 1.0 and second.trajectories[0].own_turns[0].reward == -0.5


def template(messages) -> str:
    """A template that drops the thoughts of earlier turns, up to a bar."""
    last = max((n for n, one in enumerate(messages) if one["role"] == "user"), default=0)
    shown = [
        one["content"].rpartition("|")[2] if one["role"] == "assistant" and n < last else one["content"]
        for n, one in enumerate(messages)
    ]
    return "".join(f"<{one['role'][0]}{text}." for one, text in zip(messages, shown, strict=True)) + "<a"


def test_a_template_that_drops_thoughts_begins_the_context_anew():
    text = AuthorText(
        encode=TEXT.encode,
        decode=TEXT.decode,
        chat=lambda messages: TEXT.encode(template(messages)),
        render=template,
        written=lambda token_ids: "".join(map(chr, token_ids)),
    )
    context = ChatContext(text, [{"role": "user", "content": "q"}])
    assert TEXT.decode(context.begin([{"role": "user", "content": "go"}])) == "<uq\n\ngo.<a"
    context.said(TEXT.encode("one."), "one")
    assert context.follow([{"role": "user", "content": "two"}]) == (TEXT.encode("<utwo.<a"), False)
    context.said(TEXT.encode("hm|1"), "hm|1")  # cut short, so its end is the template's
    assert context.follow([{"role": "user", "content": "3"}]) == (
        TEXT.encode("<uq\n\ngo.<aone.<utwo.<a1.<u3.<a"),
        True,
    )


def split_and_whole() -> tuple[list[Group], list[Group]]:
    """Two trajectories of two turns each, whose second turn follows another context in the first list."""

    def one(restarts: bool, place: int) -> Trajectory:
        turns = [
            Turn(ACTOR, [10, 11], [-1.0, -2.0], reward=1.0 + place, state="a", action="x", seconds=2.0),
            Turn(ENVIRONMENT, [1, 2, 20] if restarts else [20], restarts=restarts),
            Turn(ACTOR, [12], [-3.0], reward=4.0, state="b", action="x", seconds=3.0),
        ]
        return Trajectory(Prompt("p", (1, 2), "", {}), turns, "stop", reward=place)

    return [[Group(Prompt("p", (1, 2), "", {}), [one(restarts, 0), one(False, 1)])] for restarts in (True, False)]


def test_a_restart_is_a_row_of_its_own_and_credit_is_that_of_the_whole():
    split, whole = (pack(groups, ACTOR) for groups in split_and_whole())
    assert split.token_ids.tolist() == [[1, 2, 10, 11, 0, 0], [1, 2, 20, 12, 0, 0], [1, 2, 10, 11, 20, 12]]
    assert split.trajectory_ids.tolist() == [0, 0, 1] and split.turn_ids[1].tolist() == [-1, -1, -1, 1, -1, -1]
    assert split.rewards[:2].tolist() == [[0, 0, 0, 1, 0, 0], [0, 0, 0, 4, 0, 0]]
    assert split.state_ids[:, 2:].tolist() == [[0, 0, -1, -1], [-1, 1, -1, -1], [0, 0, -1, 1]]
    assert split.turn_seconds[1].tolist() == [0, 0, 0, 3, 0, 0]
    joined = split.joined()
    on_response = {
        name: [whole.data[name][row][whole.response_mask[row]].tolist() for row in range(2)]
        for name in ("rewards", "rollout_logprobs", "turn_ids", "state_ids", "action_ids")
    }
    for name, expected in on_response.items():
        found = [joined.batch.data[name][row][joined.batch.response_mask[row]].tolist() for row in range(2)]
        assert found == expected, name
    back = joined.back(joined.batch.rewards)
    assert torch.equal(back, split.rewards)
    assert math.isnan(joined.there(split.turn_rewards, math.nan)[1, -1])
    assert [unit.tolist() for unit in split.rows(torch.tensor([0, 1])).units] == [[0, 1]]


@pytest.mark.parametrize("method", ["grpo", "ppo", "vl_dac", "bilevel_gae", "thor", "mt_grpo", "rebn", "gigpo", "salt"])
def test_credit_and_means_of_a_split_trajectory_are_those_of_the_whole(method):
    algorithm = resolve_pieces(method_recipe(method)).algorithm
    found = []
    for groups in split_and_whole():
        batch = pack(groups, ACTOR)
        values = torch.where(batch.response_mask, batch.token_ids / 10, 0.0)
        scores = torch.zeros(len(batch), 1)
        known = {"old_logprobs": batch.rollout_logprobs, "ref_logprobs": batch.rollout_logprobs - 0.5}
        known["final_values"] = torch.zeros(len(batch))
        batch = batch.with_(values=values, reward_components=scores, **known)
        credit = algorithm.credit(batch)
        found.append([credit.advantages[batch.response_mask], algorithm.shares(batch)[batch.response_mask]])
        found[-1] += [] if credit.returns is None else [credit.returns[batch.response_mask]]
    for split, whole in zip(*found, strict=True):
        assert split.isfinite().any()
        torch.testing.assert_close(split, whole, equal_nan=True)
