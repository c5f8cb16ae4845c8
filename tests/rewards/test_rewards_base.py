from __future__ import annotations

import asyncio
import math
import time

import pytest

from llmrl.errors import RecipeError
from llmrl.rewards.base import Rewards
from llmrl.rewards.workers import Workers
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, Trajectory, Turn

HOSTILE = "hostile_rewards:"


@pytest.fixture(scope="module")
def workers():
    with Workers(2, memory_gb=1.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def math_workers():
    """A pool apart for math_verifier, whose imports would slow every restart of the other pool's processes."""
    with Workers(1, memory_gb=2.0) as pool:
        yield pool


def group(*texts: str, row: dict | None = None, tokens: int = 3, stop_reason="stop") -> Group:
    prompt = Prompt("p0", (1, 2), "a prompt", row or {})
    turns = [Turn(ACTOR, list(range(tokens)))]
    return Group(prompt, [Trajectory(prompt, turns, stop_reason, text) for text in texts])


def score(rewards: Rewards, *groups: Group) -> None:
    async def all_groups():
        await asyncio.gather(*(rewards.score(one) for one in groups))

    asyncio.run(all_groups())


def from_specs(workers: Workers, **specs) -> Rewards:
    return Rewards.from_specs({HOSTILE + name: settings for name, settings in specs.items()}, workers=workers)


def failure_kinds(one: Group) -> list[str | None]:
    return [trajectory.failure.kind if trajectory.failure else None for trajectory in one.trajectories]


def assert_never_zero(trajectory: Trajectory) -> None:
    assert trajectory.failure is not None
    assert math.isnan(trajectory.reward)
    assert trajectory.scores == {} == trajectory.components


# Weights, data and settings


def test_weighted_sum_of_values(workers):
    rewards = from_specs(workers, length={"weight": 0.5}, is_yes={"weight": 10.0})
    one = group("yes", "maybe")
    score(rewards, one)
    # "yes": 0.5 * 3 + 10 * 1 = 11.5; "maybe": 0.5 * 5 + 10 * 0 = 2.5
    assert [trajectory.reward for trajectory in one.trajectories] == [11.5, 2.5]
    assert one.trajectories[0].scores == {HOSTILE + "length": Score(3.0), HOSTILE + "is_yes": Score(1.0, True)}
    assert [trajectory.correct for trajectory in one.trajectories] == [True, False]
    assert [list(trajectory.components.items()) for trajectory in one.trajectories] == [
        [(HOSTILE + "length", 1.5), (HOSTILE + "is_yes", 10.0)],
        [(HOSTILE + "length", 2.5), (HOSTILE + "is_yes", 0.0)],
    ]
    assert rewards.weights == {HOSTILE + "length": 0.5, HOSTILE + "is_yes": 10.0}


def test_one_function_may_be_several_rewards_with_names_of_their_own(workers):
    specs = {
        "brackets": {"function": "format_pattern", "pattern": "<.*>"},
        "digits": {"function": "format_pattern", "pattern": r"\d+", "weight": 0.5},
        "length": {"function": HOSTILE + "length", "weight": 0.1},
        HOSTILE + "length": {"weight": 0.0},
    }
    rewards, one = Rewards.from_specs(specs, workers=workers), group("<1>", "23")
    score(rewards, one)
    assert [list(trajectory.scores) for trajectory in one.trajectories] == [list(specs)] * 2
    assert [trajectory.reward for trajectory in one.trajectories] == pytest.approx([1 + 0.3, 0.5 + 0.2])
    assert rewards.weights == {"brackets": 1.0, "digits": 0.5, "length": 0.1, HOSTILE + "length": 0.0}


def test_weight_zero_is_scored_and_counts_nothing(workers):
    rewards = from_specs(workers, length={"weight": 0}, is_yes=None)
    one = group("yes")
    score(rewards, one)
    assert one.trajectories[0].reward == 1.0
    assert one.trajectories[0].scores[HOSTILE + "length"].value == 3.0


def test_data_are_taken_by_name(workers):
    rewards = from_specs(workers, everything=None)
    one = group("abc", row={"points": 7}, tokens=4, stop_reason="length")
    score(rewards, one)
    assert one.trajectories[0].reward == 407.0  # 4 tokens * 100 + points 7


def test_built_ins_through_the_pool(math_workers):
    specs = {
        "math_verifier": None,
        "format_pattern": {"pattern": r"(?s).*\\boxed\{.*\}", "weight": 0.1},
        "overlong_penalty": {"max_tokens": 10, "buffer_tokens": 4},
    }
    rewards = Rewards.from_specs(specs, workers=math_workers)
    assert {name for one in rewards.rewards for name in one.columns} == {"answer"}
    one = group(r"\boxed{5}", "5", row={"answer": "5"}, tokens=8)
    score(rewards, one)
    # 8 tokens: (8 - 6) / 4 = 0.5 over; the first is right and boxed, the second right but not boxed
    assert [round(trajectory.reward, 9) for trajectory in one.trajectories] == [0.6, 0.5]


def test_turn_values_are_weighted_and_one_per_turn(workers):
    rewards = from_specs(workers, per_turn={"weight": 2.0, "retries": 0}, length={"weight": 1.0})
    one = group("abc", row={"values": [0.5, -1.0, None]})
    one.trajectories[0].turns += [Turn(ACTOR, [9]), Turn(ACTOR, [9])]
    score(rewards, one)
    # 2 * 0.5, 2 * -1, and nothing for the third; length has no turn values
    assert one.trajectories[0].turn_rewards == [1.0, -2.0, None]
    assert one.trajectories[0].reward == 5.0  # 2 * 1 + 3
    short = group("abc", row={"values": [0.5, -1.0]})
    score(rewards, short)
    assert failure_kinds(short) == ["invalid"]
    assert "2 turn values, expected 1" in short.trajectories[0].failure.message


def test_scalars_of_other_libraries_are_numbers(workers):
    one = group("a")
    score(from_specs(workers, numpy_scalar=None), one)
    assert one.trajectories[0].reward == 0.5


def test_unreadable_gold_is_a_failure(math_workers):
    one = group(r"\boxed{5}", row={"answer": r"\frac{1}{"})
    rewards = Rewards.from_specs({"math_verifier": {"retries": 0}}, workers=math_workers)
    score(rewards, one)
    assert failure_kinds(one) == ["invalid"]
    assert_never_zero(one.trajectories[0])


# Failures


@pytest.mark.parametrize(
    ("name", "bad", "kind"),
    [
        ("hang_on_hang", "hang", "timeout"),
        ("exit_on_die", "die", "crash"),
        ("killed", "any", "crash"),
        ("hundred_gigabytes", "any", "crash"),
        ("gigabytes_by_steps", "any", "crash"),
        ("raises_unpicklable", "any", "crash"),
        ("raises_system_exit", "any", "crash"),
        ("returns_lambda", "any", "crash"),
        ("raises_value_error", "any", "invalid"),
        ("returns_by_completion", "nan", "invalid"),
        ("returns_by_completion", "inf", "invalid"),
        ("returns_by_completion", "text", "invalid"),
        ("returns_by_completion", "list", "invalid"),
        ("async_raises", "any", "crash"),
    ],
)
def test_failure_kinds(workers, name, bad, kind):
    deadline = 1 if kind == "timeout" else 30
    rewards = from_specs(workers, **{name: {"deadline_seconds": deadline, "retries": 0}})
    one = group(bad)
    score(rewards, one)
    assert failure_kinds(one) == [kind]
    assert one.trajectories[0].failure.source == HOSTILE + name
    assert_never_zero(one.trajectories[0])


def test_one_bad_trajectory_leaves_the_others_their_rewards(workers):
    rewards = from_specs(workers, hang_on_hang={"deadline_seconds": 1, "retries": 0}, exit_on_die={"retries": 0})
    one = group("fine", "hang", "die", "fine")
    score(rewards, one)
    assert failure_kinds(one) == [None, "timeout", "crash", None]
    assert [trajectory.reward for trajectory in (one.trajectories[0], one.trajectories[3])] == [2.0, 2.0]
    # If one of two rewards failed, the sum must not be the other reward alone.
    assert math.isnan(one.trajectories[1].reward)
    assert "deadline of 1 seconds" in one.trajectories[1].failure.message


def test_a_retry_saves_a_trajectory(workers, tmp_path):
    rewards = from_specs(workers, once_then_fine={"retries": 1})
    one = group("any", row={"counter": str(tmp_path / "seen")})
    score(rewards, one)
    assert one.trajectories[0].reward == 0.5
    assert one.trajectories[0].failure is None


def test_without_retries_the_first_failure_stands(workers, tmp_path):
    rewards = from_specs(workers, once_then_fine={"retries": 0})
    one = group("any", row={"counter": str(tmp_path / "seen")})
    score(rewards, one)
    assert failure_kinds(one) == ["crash"]


def test_an_earlier_failure_is_left_alone(workers):
    rewards = from_specs(workers, length=None)
    one = group("abc", "ab")
    earlier = Failure("environment", "timeout", "tool call")
    one.trajectories[0].failure = earlier
    score(rewards, one)
    assert one.trajectories[0].failure is earlier
    assert one.trajectories[0].scores == {}
    assert one.trajectories[1].reward == 2.0


# Groups


def test_group_function_sees_all_trajectories(workers):
    rewards = from_specs(workers, ranks={"weight": 2.0})
    one = group("abc", "a", "ab")
    score(rewards, one)
    assert [trajectory.reward for trajectory in one.trajectories] == [4.0, 0.0, 2.0]


def test_group_function_must_return_one_result_each(workers):
    rewards = from_specs(workers, one_too_few={"retries": 0})
    one = group("a", "b")
    score(rewards, one)
    assert failure_kinds(one) == ["invalid", "invalid"]
    assert "a list of 2" in one.trajectories[0].failure.message


def test_group_function_may_fail_on_one(workers):
    rewards = from_specs(workers, group_with_nan={"retries": 0})
    one = group("a", "nan")
    score(rewards, one)
    assert failure_kinds(one) == [None, "invalid"]


# Async functions and overlap


def test_async_function_and_its_deadline(workers):
    rewards = from_specs(workers, waits={"seconds": 600.0, "deadline_seconds": 0.1, "retries": 0})
    one = group("a", "b")
    start = time.perf_counter()
    score(rewards, one)
    assert time.perf_counter() - start < 1.0
    assert failure_kinds(one) == ["timeout", "timeout"]
    quick = from_specs(workers, waits=None)
    two = group("a")
    score(quick, two)
    assert two.trajectories[0].reward == 2.0


def test_async_rewards_of_groups_overlap(workers):
    rewards = from_specs(workers, waits={"seconds": 1.0})
    groups = [group("a", "b") for _ in range(10)]
    start = time.perf_counter()
    score(rewards, *groups)
    assert time.perf_counter() - start < 10  # two of a group at once: 10 * 1 s; one after another: 20 * 1 s
    assert all(one.trajectories[1].reward == 2.0 for one in groups)


def test_a_hanging_group_does_not_block_the_loop_or_another_group(workers):
    hanging = from_specs(workers, hang_on_hang={"deadline_seconds": 3, "retries": 0})
    quick = from_specs(workers, length=None)
    stuck, free = group("hang"), group("abc")
    score(quick, group("warm"))

    async def both() -> tuple[bool, int]:
        ticks = 0
        pending = asyncio.create_task(hanging.score(stuck))
        await asyncio.sleep(0.2)
        await quick.score(free)
        still_hanging = not pending.done()
        while not pending.done():
            await asyncio.sleep(0.05)
            ticks += 1
        return still_hanging, ticks

    still_hanging, ticks = asyncio.run(both())
    assert still_hanging
    assert ticks > 5  # the loop kept turning while the process hung
    assert free.trajectories[0].reward == 3.0
    assert failure_kinds(stuck) == ["timeout"]


# Faults that a recipe's author can mend


def test_required_columns_and_a_missing_one(workers):
    rewards = Rewards.from_specs({"math_verifier": None, HOSTILE + "everything": None}, workers=workers)
    assert {name for one in rewards.rewards for name in one.columns} == {"answer", "points"}
    with pytest.raises(RecipeError, match=r"rewards.math_verifier: the data has no column 'answer'; did you mean"):
        score(rewards, group("a", row={"answers": 1, "points": 2}))
    with pytest.raises(RecipeError) as caught:
        rewards.check_rows([{"question": "?"}])
    assert len(caught.value.faults) == 2
    assert "columns: question" in caught.value.faults[0]


@pytest.mark.parametrize(
    ("specs", "expected"),
    [
        ({"math_verifyer": None}, "no reward named 'math_verifyer'; did you mean 'math_verifier'?"),
        ({"math_verifier": {"extrct": "boxed"}}, "no setting 'extrct' (value 'boxed'); did you mean 'extract'?"),
        ({"math_verifier": {"wieght": 2}}, "no setting 'wieght' (value 2); did you mean 'weight'?"),
        ({HOSTILE + "length": {"retry": 2}}, "did you mean 'retries'?"),
        ({"math_verifier": {"extract": "box"}}, "rewards.math_verifier.extract: 'box' is not valid"),
        ({"math_verifier": {"weight": "heavy"}}, "rewards.math_verifier.weight: 'heavy' is not valid"),
        ({"math_verifier": {"weight": float("nan")}}, "expected a finite number"),
        ({"math_verifier": {"deadline_seconds": 0}}, "deadline_seconds: 0 is not valid"),
        ({"math_verifier": {"retries": -1}}, "retries: -1 is not valid"),
        ({"format_pattern": {"pattern": "("}}, "rewards.format_pattern.pattern: '(' is not valid"),
        ({"format_pattern": None}, "rewards.format_pattern: setting 'pattern' has no default and must be given"),
        ({HOSTILE + "no_such": None}, "cannot import 'hostile_rewards:no_such'"),
        ({"no_such_module:f": None}, "cannot import 'no_such_module:f'"),
        ({HOSTILE + "takes_weight": {"weight": 1}}, "its setting 'weight' has the name of one that every reward"),
        ({HOSTILE + "group_and_more": None}, "group must be alone"),
        (
            {"mine": {"function": "math_verifyer"}},
            "rewards.mine.function: no reward named 'math_verifyer'; did you mean 'math_verifier'?",
        ),
        ({"mine": {"function": "math_verifier", "extrct": "boxed"}}, "rewards.mine: no setting 'extrct'"),
        (
            {"format_pattern": {"function": "math_verifier"}},
            "rewards.format_pattern.function: math_verifier, but 'format_pattern' is no name of your own",
        ),
        ({"a/b": {"function": "math_verifier"}}, "expected one that no reward has, without ':' and '/'"),
    ],
)
def test_faults_name_the_key_and_the_nearest(workers, specs, expected):
    with pytest.raises(RecipeError) as caught:
        Rewards.from_specs(specs, workers=workers)
    assert expected in str(caught.value)


def test_all_faults_at_once(workers):
    with pytest.raises(RecipeError) as caught:
        Rewards.from_specs({"nothing": None, "math_verifier": {"tagg": "a"}}, workers=workers)
    assert len(caught.value.faults) == 2
