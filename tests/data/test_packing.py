"""pack against tables written by hand; the cuts of a batch against what every cut must keep."""

from __future__ import annotations

import math

import pytest
import torch

from llmrl.data.packing import pack
from llmrl.types import ACTOR, ENVIRONMENT, Failure, Group, Prompt, Score, Trajectory, Turn


def prompt(*token_ids: int) -> Prompt:
    return Prompt(id="p", token_ids=token_ids, text="", row={})


def test_pack_lays_out_turns_masks_and_rewards():
    """Two groups: a dialogue beside a single turn, and a trajectory that never got to speak.

    prompt 10 11, actor 20 21 (the environment gave 0.25, the scores' turn values 1), environment 30 31,
    actor 40 (0.5 and 2); outcome 8           -> 0.25 + 1 on 21, 0.5 + 2 + 8 on 40
    prompt 10 11, actor 50 51 52; outcome -1  -> -1 on 52
    prompt 60, nothing; outcome 4             -> no token of the author to put it on
    """
    asked = prompt(10, 11)
    dialogue = Trajectory(
        asked,
        turns=[
            Turn(ACTOR, [20, 21], [-0.1, -0.2], policy_version=7, reward=0.25),
            Turn(ENVIRONMENT, [30, 31]),
            Turn(ACTOR, [40], [-0.4], policy_version=5, reward=0.5),
        ],
        stop_reason="stop",
        scores={"verifier": Score(8.0, correct=True)},
        reward=8.0,
        turn_rewards=[1.0, 2.0],
    )
    single = Trajectory(
        asked,
        turns=[Turn(ACTOR, [50, 51, 52], [-0.5, -0.6, -0.7], policy_version=6)],
        stop_reason="length",
        scores={"verifier": Score(-1.0, correct=False)},
        reward=-1.0,
    )
    silent = Trajectory(prompt(60), turns=[], stop_reason="stop", reward=4.0)
    batch = pack([Group(asked, [dialogue, single]), Group(silent.prompt, [silent])], ACTOR)

    assert batch.token_ids.tolist() == [
        [10, 11, 20, 21, 30, 31, 40],
        [10, 11, 50, 51, 52, 0, 0],
        [60, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.attention_mask.int().tolist() == [
        [1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.response_mask.int().tolist() == [
        [0, 0, 1, 1, 0, 0, 1],
        [0, 0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    assert batch.rewards.tolist() == [
        [0, 0, 0, 1.25, 0, 0, 10.5],
        [0, 0, 0, 0, -1, 0, 0],
        [0, 0, 0, 0, 0, 0, 0],
    ]
    # without the outcome, and nan where no turn was given anything
    given = batch.turn_rewards.nan_to_num(nan=99)
    assert given.tolist() == [[99, 99, 99, 1.25, 99, 99, 2.5], [99] * 7, [99] * 7]
    assert batch.turn_rewards.dtype == torch.float32
    logprobs = [[0, 0, -0.1, -0.2, 0, 0, -0.4], [0, 0, -0.5, -0.6, -0.7, 0, 0], [0, 0, 0, 0, 0, 0, 0]]
    torch.testing.assert_close(batch.rollout_logprobs, torch.tensor(logprobs))
    assert batch.group_ids.tolist() == [0, 0, 1]
    assert batch.policy_version.tolist() == [5, 6, 0]  # of the oldest turn
    assert batch.lengths.tolist() == [7, 5, 1]
    assert batch.correct[:2].tolist() == [1.0, 0.0] and math.isnan(batch.correct[2])
    assert batch.turn_ids.tolist() == [
        [-1, -1, 0, 0, -1, -1, 1],
        [-1, -1, 0, 0, 0, -1, -1],
        [-1, -1, -1, -1, -1, -1, -1],
    ]
    assert batch.token_ids.dtype == torch.int64 and batch.rewards.dtype == torch.float32


def test_pack_trains_one_author_and_leaves_the_others_as_context():
    """The critiquer's tokens are there for the actor to read; when it is the one trained, the actor's are."""
    both = Trajectory(
        prompt(1),
        turns=[
            Turn(ACTOR, [2, 3], [-0.2, -0.3]),
            Turn("critiquer", [4], [-0.4], reward=0.5),
            Turn(ACTOR, [5], [-0.5]),
        ],
        stop_reason="stop",
        reward=1.0,
    )
    actors = pack([Group(both.prompt, [both])], ACTOR)
    assert actors.response_mask.int().tolist() == [[0, 1, 1, 0, 1]]
    torch.testing.assert_close(actors.rollout_logprobs, torch.tensor([[0, -0.2, -0.3, 0, -0.5]]))
    assert actors.turn_ids.tolist() == [[-1, 0, 0, -1, 1]]
    critiquers = pack([Group(both.prompt, [both])], "critiquer")
    assert critiquers.turn_ids.tolist() == [[-1, -1, -1, 0, -1]]
    assert critiquers.response_mask.int().tolist() == [[0, 0, 0, 1, 0]]
    assert critiquers.rewards.tolist() == [[0, 0, 0, 1.5, 0]]  # its turn's 0.5 and the outcome 1
    torch.testing.assert_close(critiquers.rollout_logprobs, torch.tensor([[0, 0, 0, -0.4, 0]]))


def test_numbers_on_tokens_are_counted_over_the_author_s_own():
    """The third of the author's tokens begins its second turn; on the turn's last token the numbers add up."""
    turns = [Turn(ACTOR, [2, 3]), Turn(ENVIRONMENT, [4, 5]), Turn(ACTOR, [6, 7], reward=1.0)]
    one = Trajectory(prompt(1), turns, "stop", reward=8.0, token_rewards={0: 0.5, 2: 0.25, 3: 2.0})
    batch = pack([Group(one.prompt, [one])], ACTOR)
    assert batch.turn_rewards.nan_to_num(nan=99).tolist() == [[99, 0.5, 99, 99, 99, 0.25, 3.0]]
    assert batch.rewards.tolist() == [[0, 0.5, 0, 0, 0, 0.25, 11.0]]


def test_pack_keeps_the_lowest_grade_that_a_verifier_gave():
    asked = prompt(1)
    given = [[], [None], [2], [None, 3, 1], [0, 2]]
    trajectories = [
        Trajectory(
            asked, [], "stop", scores={f"verifier{n}": Score(0.0, grade=grade) for n, grade in enumerate(grades)}
        )
        for grades in given
    ]
    assert [trajectory.grade for trajectory in trajectories] == [None, None, 2, 1, 0]
    batch = pack([Group(asked, trajectories)], ACTOR)
    assert batch.grades is not None
    assert batch.grades.tolist() == [-1, -1, 2, 1, 0] and batch.grades.dtype == torch.int64
    rows = batch.rows(torch.tensor([4, 2]))
    assert rows.grades is not None and rows.grades.tolist() == [0, 2]


def test_who_rewards_a_turn_makes_no_difference():
    """An environment, a judge that gives each turn a number or none, and a process reward on tokens: one batch."""
    shapes: list[dict] = [
        {"by_turn": [0.5, None, 0.0]},
        {"turn_rewards": [0.5, None, 0.0]},
        {"token_rewards": {1: 0.5, 4: 0.0}},
        {"by_turn": [0.25, None, None], "turn_rewards": [0.25, None, 0.0]},
    ]
    batches = []
    for shape in shapes:
        given = shape.pop("by_turn", [None] * 3)
        sampled = [
            Turn(ACTOR, ids, reward=reward) for ids, reward in zip([[20, 21], [22], [23, 24]], given, strict=True)
        ]
        turns = [sampled[0], Turn(ENVIRONMENT, [30]), sampled[1], Turn(ENVIRONMENT, [31]), sampled[2]]
        one = Trajectory(prompt(10), turns, "stop", reward=2.0, components={"verifier": 2.0}, **shape)
        assert one.total_reward == 2.5
        batches.append(pack([Group(prompt(10), [one])], ACTOR))
    first, *others = batches
    assert first.turn_rewards[0].nan_to_num(nan=-1).tolist() == [-1, -1, 0.5, -1, -1, -1, -1, 0]
    assert first.rewards.tolist() == [[0, 0, 0.5, 0, 0, 0, 0, 2]]
    for other in others:
        assert first.data.keys() == other.data.keys()
        for name, tensor in first.data.items():
            torch.testing.assert_close(other.data[name], tensor, equal_nan=True, msg=name)


def test_a_turn_reward_of_zero_is_not_the_same_as_none():
    """The environment's and the scores' are one sum; who of the two spoke makes no difference."""
    asked, nan = prompt(1), math.nan
    cases = [
        (None, [], nan),
        (0.0, [], 0.0),
        (None, [0.0], 0.0),
        (0.5, [0.25], 0.75),
        (-0.5, [0.5], 0.0),
    ]
    trajectories = [
        Trajectory(asked, [Turn(ACTOR, [2, 3], reward=given)], stop_reason="stop", reward=4.0, turn_rewards=scored)
        for given, scored, _ in cases
    ]
    batch = pack([Group(asked, trajectories)], ACTOR)
    for row, (_, _, expected) in enumerate(cases):
        assert batch.turn_rewards[row].tolist() == pytest.approx([nan, nan, expected], nan_ok=True)
        assert batch.rewards[row].tolist() == [0, 0, 4.0 + (0.0 if math.isnan(expected) else expected)]
    assert batch.rows(torch.tensor([4])).turn_rewards[0, 2] == 0


def answer(text: str = "", **components: float) -> Trajectory:
    """A trajectory of one token whose reward is the sum of its components."""
    one = Trajectory(prompt(1), [Turn(ACTOR, [2], [-0.2])], stop_reason="stop", text=text)
    one.components, one.reward = components, sum(components.values())
    return one


def test_equal_answers_have_equal_ids():
    """Over all groups, whatever white space is around them; nothing else is the same."""
    first = Group(prompt(1), [answer("42"), answer(" 42\n"), answer("4 2")])
    second = Group(prompt(1), [answer("7"), answer("42"), answer()])
    batch = pack([first, second], ACTOR)
    assert batch.answer_ids.tolist() == [0, 0, 1, 2, 0, 3]
    assert batch.answer_ids.dtype == torch.int64
    assert batch.rows(torch.tensor([4, 2])).answer_ids.tolist() == [0, 1]


def test_reward_components_have_a_column_each():
    """In the order of the first trajectory, whatever the order of the others; a missing one is an error, not a zero."""
    group = Group(prompt(1), [answer(right=1.0, short=-0.25), answer(short=-0.5, right=0.0)])
    batch = pack([group], ACTOR)
    assert batch.reward_components.tolist() == [[1.0, -0.25], [0.0, -0.5]]
    assert batch.reward_components.dtype == torch.float32
    assert batch.reward_components.sum(dim=1).tolist() == batch.rewards.sum(dim=1).tolist()
    assert batch.rows(torch.tensor([1])).reward_components.tolist() == [[0.0, -0.5]]
    assert pack([Group(prompt(1), [answer(), answer()])], ACTOR).reward_components.shape == (2, 0)
    replayed = pack([Group(prompt(1), [answer()]), group], ACTOR)  # a row's text that no reward scores
    assert replayed.reward_components.tolist() == [[0.0, 0.0], [1.0, -0.25], [0.0, -0.5]]
    with pytest.raises(KeyError):
        pack([Group(prompt(1), [answer(right=1.0, short=0.5), answer(right=1.0)])], ACTOR)


def test_what_is_known_of_a_question_is_a_column_of_its_trajectories():
    """On each of its trajectories; nan where it failed or was not measured. What was sampled besides is no row."""
    failed = answer(right=3.0)
    failed.failure = Failure("right", "timeout", "")
    known = [{"greedy_rewards": 0.5, "static_values": 0.75}, {"greedy_rewards": math.nan, "static_values": 0.0}, {}]
    groups = [
        Group(prompt(1), [answer(right=1.0), answer(right=0.0)], known=known[0], besides=[answer(right=0.5)]),
        Group(prompt(1), [answer(right=1.0)], known=known[1], besides=[failed]),
        Group(prompt(1), [answer(right=1.0)], known=known[2]),
    ]
    batch = pack(groups, ACTOR)
    nan = math.nan
    assert batch.greedy_rewards.tolist() == pytest.approx([0.5, 0.5, nan, nan], nan_ok=True)
    assert batch.static_values.tolist() == pytest.approx([0.75, 0.75, 0.0, nan], nan_ok=True)
    assert batch.greedy_rewards.dtype == batch.static_values.dtype == torch.float32
    assert batch.rows(torch.tensor([1, 3])).static_values.tolist() == pytest.approx([0.75, nan], nan_ok=True)


def test_what_is_known_of_a_question_may_have_any_name_and_no_name_is_no_column():
    groups = [Group(prompt(1), [answer(), answer()], known={"difficulty": 0.25}), Group(prompt(1), [answer()])]
    assert pack(groups, ACTOR).difficulty.tolist() == pytest.approx([0.25, 0.25, math.nan], nan_ok=True)
    assert "greedy_rewards" not in pack(groups, ACTOR)
    assert "difficulty" not in pack(groups[1:], ACTOR)


def test_pack_takes_demonstrations_that_nobody_sampled():
    shown = Trajectory(prompt(1), turns=[Turn(ACTOR, [2, 3])], stop_reason="stop")
    batch = pack([Group(shown.prompt, [shown])], ACTOR)
    assert batch.response_mask.int().tolist() == [[0, 1, 1]]
    assert batch.rollout_logprobs.tolist() == [[0, 0, 0]]


def test_pack_refuses_log_probabilities_that_are_not_one_per_token():
    """Two for three tokens would shift all that follow."""
    odd = Trajectory(
        prompt(1), turns=[Turn(ACTOR, [2, 3, 4], [-0.2, -0.3]), Turn(ACTOR, [5], [-0.5])], stop_reason="stop"
    )
    with pytest.raises(RuntimeError):
        pack([Group(odd.prompt, [odd])], ACTOR)


def test_rows_are_trimmed_to_the_longest_picked():
    long = Trajectory(prompt(1), turns=[Turn(ACTOR, [2, 3, 4, 5], [-0.1] * 4)], stop_reason="stop")
    short = Trajectory(prompt(6), turns=[Turn(ACTOR, [7], [-0.2])], stop_reason="stop")
    batch = pack([Group(long.prompt, [long, short, short])], ACTOR)
    picked = batch.rows(torch.tensor([2, 1]))
    assert picked.token_ids.tolist() == [[6, 7], [6, 7]] and picked.rewards.shape == (2, 2)
    assert "old_logprobs" not in picked
    assert batch.rows(torch.tensor([1, 0])).token_ids.tolist() == [[6, 7, 0, 0, 0], [1, 2, 3, 4, 5]]
