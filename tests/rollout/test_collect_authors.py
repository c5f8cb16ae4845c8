"""Episodes that several authors write in: handing over, contexts of their own, rewards, groups, ends, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, get_args

import pytest
from scripted import PARAMS, PROMPTS, Verdicts, author, ids, make, piece

from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.envs.base import Step
from llmrl.envs.single_turn import SingleTurn
from llmrl.errors import RunStopped
from llmrl.rollout import play
from llmrl.rollout.collect import Collected, Collector
from llmrl.rollout.group_sampling import Evenly
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.selection import everything, mixed_outcomes
from llmrl.types import ACTOR, ENVIRONMENT, Failure, Group, Prompt, Score, StopReason, Trajectory

CRITIC = "critic"


class Says:
    """Says these tokens, one completion after the other, with -1, -2 ... as log-probabilities."""

    def __init__(self, *completions: list[int], stop_reason: Any = "stop", policy_version: int = 1):
        self.completions, self.stop_reason, self.policy_version = list(completions), stop_reason, policy_version
        self.asked: list[tuple[list[int], SamplingParams]] = []

    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        self.asked.append((list(token_ids), params))
        tokens = self.completions[(len(self.asked) - 1) % len(self.completions)]
        return Completion(tokens, [-1.0 - at for at in range(len(tokens))], self.stop_reason, self.policy_version)

    def load_weights(self, weights: Any, policy_version: int) -> None: ...

    def close(self) -> None: ...


class Play:
    """Answers each completion with the next step, or raises it; `hear` gets every completion."""

    def __init__(self, prompt: Prompt, steps: Sequence[Step | Exception], hear: Callable[[Completion], None]):
        self.prompt, self.steps, self.hear = prompt, iter(steps), hear

    async def reset(self) -> list[int]:
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        self.hear(completion)
        step = next(self.steps)
        if isinstance(step, Exception):
            raise step
        return step


def playing(*steps: Step | Exception, hear: Callable[[Completion], None] = lambda completion: None) -> Any:
    def play(prompt: Prompt) -> Play:
        return Play(prompt, steps, hear)

    return play


def on(observation: list[int] | None = None, **said: Any) -> Step:
    return Step(observation or [], done=False, **said)


class Names:
    """Scores every trajectory with a reward of its own name and notes who was scored with whom."""

    def __init__(self, name: str, value: float):
        self.name, self.value = name, value
        self.seen: list[list[str]] = []

    async def begin(self, group: Group) -> None: ...

    async def score(self, group: Group) -> None:
        self.seen.append([trajectory.text for trajectory in group.trajectories])
        for trajectory in group.trajectories:
            trajectory.scores[self.name] = Score(self.value)
            trajectory.components, trajectory.reward = {self.name: self.value}, self.value


def turns(trajectory: Trajectory) -> list[tuple[str, list[int], float | None]]:
    return [(turn.author, turn.token_ids, turn.reward) for turn in trajectory.turns]


def only(groups: Sequence[Group], name: str = ACTOR) -> Trajectory:
    """The one trajectory of an author."""
    [group] = [group for group in groups if group.author == name]
    [trajectory] = group.trajectories
    return trajectory


def test_an_author_who_is_handed_the_turn_reads_a_context_of_its_own_and_hands_it_back():
    """
    actor     3 4 | 5 6 | 20 | 10       asked, answers, reads the observation 20, answers
    critic    3 9 | 7 8                 the context that it is given, and what it says
    """
    heard: list[list[int]] = []
    env = playing(
        on(author=CRITIC, context=[3, 9], compared="early"),
        on([20], author=ACTOR, reward=0.25, rewards={ACTOR: 2.0}),
        Step([], reward=-1.0, rewards={CRITIC: 0.5}),
        hear=lambda completion: heard.append(completion.token_ids),
    )
    actor, critic, verdict, name = Says([5, 6], [10]), Says([7, 8], policy_version=4), Verdicts(), Names("sharp", 3.0)
    collector = make(actor, verdict, env, {CRITIC: author(critic, name)})
    params = SamplingParams(20, 0.7, seed=5, others={CRITIC: SamplingParams(9, 0.2, stop=("x",))})
    groups = collector.sample(PROMPTS[:1], group_size=1, params=params)

    assert [(group.author, group.place, group.prompt) for group in groups] == [
        (ACTOR, 0, PROMPTS[0]),
        (CRITIC, 0, PROMPTS[0]),
    ]
    answer, critique = only(groups), only(groups, CRITIC)
    # rewards of another author's last turn are added to what that turn has
    assert turns(answer) == [(ACTOR, [5, 6], 2.0), (ENVIRONMENT, [20], None), (ACTOR, [10], -1.0)]
    assert turns(critique) == [(CRITIC, [7, 8], 0.75)]
    assert heard == [[5, 6], [7, 8], [10]]
    assert (answer.compared, critique.compared) == ("", "early")
    assert (answer.text, critique.text) == ("10", "7 8")
    assert [turn.policy_version for turn in (*answer.own_turns, *critique.own_turns)] == [1, 1, 4]
    # a context is the prompt of its author's trajectory, with the question's row
    assert answer.prompt is PROMPTS[0]
    assert critique.prompt == replace(PROMPTS[0], token_ids=(3, 9), text="3 9")
    # one episode has both, in the order they began
    assert answer.episode is critique.episode and answer.episode is not None
    assert answer.episode.trajectories == [answer, critique] and answer.episode.of(CRITIC) == [critique]
    # each scorer sees its own author
    assert (answer.reward, critique.reward) == (1.5, 3.0)
    assert (list(answer.scores), list(critique.scores)) == (["verifier", "length"], ["sharp"])

    (first, of_first), (third, of_third) = actor.asked
    [(second, of_second)] = critic.asked
    assert (first, second, third) == ([3, 4], [3, 9], [3, 4, 5, 6, 20])
    # each author's own limit, temperature and stop strings; a seed for every turn
    assert [p.max_tokens for p in (of_first, of_second, of_third)] == [20, 9, 17]
    assert [(p.temperature, p.stop) for p in (of_first, of_second)] == [(0.7, ()), (0.2, ("x",))]
    assert len({p.seed for p in (of_first, of_second, of_third)}) == 3

    batch = pack([group for group in groups if group.author == CRITIC], CRITIC)
    assert batch.token_ids.tolist() == [[3, 9, 7, 8]] and batch.response_mask.int().tolist() == [[0, 0, 1, 1]]
    assert batch.rewards.tolist() == [[0.0, 0.0, 0.0, 3.75]]
    assert batch.rollout_logprobs.tolist() == [[0.0, 0.0, -1.0, -2.0]]
    batch = pack([group for group in groups if group.author == ACTOR], ACTOR)
    assert batch.response_mask.int().tolist() == [[0, 0, 1, 1, 0, 1]]


def test_a_new_context_for_the_same_author_begins_another_trajectory():
    env = playing(on(reward=1.0, context=[30]), on(reward=2.0, context=[31, 32], compared="last"), Step([], reward=3.0))
    actor = Says([5], [6], [7])
    groups = make(actor, env=env).sample(PROMPTS[:1], group_size=1, params=PARAMS)
    assert [context for context, _ in actor.asked] == [[3, 4], [30], [31, 32]]
    assert [params.max_tokens for _, params in actor.asked] == [6, 6, 6]  # each context has the whole limit
    # those with an equal `compared` are compared with each other
    assert [[(t.prompt.token_ids, turns(t)) for t in group.trajectories] for group in groups] == [
        [((3, 4), [(ACTOR, [5], 1.0)]), ((30,), [(ACTOR, [6], 2.0)])],
        [((31, 32), [(ACTOR, [7], 3.0)])],
    ]
    assert [t.prompt.text for group in groups for t in group.trajectories] == ["question 0", "30", "31 32"]


def test_the_groups_of_several_questions_are_in_their_order_and_author_by_author():
    """The critic speaks of odd questions only."""

    def some(prompt: Prompt) -> Play:
        hand_over = on(author=CRITIC, context=[9])
        return Play(prompt, [hand_over if prompt.row["n"] % 2 else Step([]), Step([])], lambda completion: None)

    collector = make(env=some, others={CRITIC: author()})
    groups = collector.sample(PROMPTS[:4], group_size=3, params=PARAMS)
    found = [(group.prompt.id, group.place, group.author, len(group.trajectories)) for group in groups]
    assert found == [
        ("p0", 0, ACTOR, 3),
        ("p1", 1, ACTOR, 3),
        ("p1", 1, CRITIC, 3),
        ("p2", 2, ACTOR, 3),
        ("p3", 3, ACTOR, 3),
        ("p3", 3, CRITIC, 3),
    ]
    of_critic = [t for group in groups if group.author == CRITIC for t in group.trajectories]
    assert [t.episode.number for t in of_critic if t.episode] == [0, 1, 2] * 2


def test_a_question_is_kept_where_something_of_a_trained_author_is_left():
    """The actor's rewards never differ; the critic's do for p1. A frozen author's trajectories are never kept."""
    hand_over = playing(on(author=CRITIC, context=[9]), Step([]))

    def run(keep: dict[str, Any]) -> Collected:
        right, mixed = Verdicts(lambda n, place: True), Verdicts(lambda n, place: n != 1 or place == 0)
        collector = make(scorer=right, env=hand_over, others={CRITIC: author(scorer=mixed)})
        stream = PromptStream(PROMPTS[:3], 0, False)
        return collector.collect(
            stream, sample_groups=Evenly(collector, 2), keep=keep, count=3, max_refills=0, params=PARAMS
        )

    both = run({ACTOR: piece(mixed_outcomes), CRITIC: piece(mixed_outcomes)})
    assert [(group.prompt.id, group.author) for group in both.groups] == [("p1", CRITIC)]
    assert len(both.sampled) == 6
    alone = run({CRITIC: piece(everything)})
    assert [(group.prompt.id, group.author) for group in alone.groups] == [(f"p{n}", CRITIC) for n in range(3)]
    assert (both.metrics["groups_sampled"], both.metrics["groups_kept"]) == (3.0, 0.0)
    assert (both.metrics["critic/groups_sampled"], both.metrics["critic/groups_kept"]) == (3.0, 1.0)
    assert (both.metrics["accuracy"], both.metrics["critic/accuracy"]) == (1.0, 5 / 6)


# What goes wrong


@pytest.mark.parametrize(
    ("step", "failure"),
    [
        (on(author=CRITIC), ("invalid", "handed the turn to 'critic', who has no context yet")),
        (on(author="judge"), ("invalid", "ValueError: handed the turn to 'judge', expected one of actor, critic")),
        (
            on(rewards={CRITIC: 1.0}),
            ("invalid", "ValueError: rewarded 'critic', expected one who has written: actor"),
        ),
        (on([5, 2.5]), ("invalid", "ValueError: gave 2.5 as tokens, expected token ids")),
        (on(context=[]), ("invalid", "ValueError: gave nothing as tokens, expected token ids")),
        (None, ("invalid", "ValueError: step returned NoneType, expected a Step")),
        (
            on(stop_reason="tired"),
            ("invalid", f"ValueError: gave the stop reason 'tired', expected {', '.join(get_args(StopReason))}"),
        ),
        (on(rewards={ACTOR: float("inf")}), ("invalid", "ValueError: gave the reward inf, expected a finite number")),
    ],
    ids=[
        "no context",
        "unknown author",
        "reward before a word",
        "no tokens",
        "empty context",
        "no step",
        "tired",
        "reward that is no number",
    ],
)
def test_a_step_that_cannot_be_is_a_failure_of_its_episode_and_counted(step, failure):
    def some(prompt: Prompt) -> Play:
        return Play(prompt, [Step([]) if prompt.id == "p0" else step, Step([])], lambda completion: None)

    collector = make(env=some, others={CRITIC: author()})
    collected = collector.collect(
        PromptStream(PROMPTS[:2], 0, False),
        sample_groups=Evenly(collector, 2),
        keep={ACTOR: piece(everything), CRITIC: piece(everything)},
        count=2,
        max_refills=0,
        params=PARAMS,
    )
    assert ids(collected.groups) == ["p0"]
    kind, message = failure
    failed = collected.sampled[1].trajectories
    assert [t.failure for t in failed] == [Failure("environment", kind, message)] * 2
    assert collected.metrics[f"failures/environment/{kind}"] == 2.0


def test_a_failure_is_that_of_all_who_wrote_in_the_episode():
    env = playing(on(author=CRITIC, context=[9]), TimeoutError("slow"))
    groups = make(env=env, others={CRITIC: author()}).sample(PROMPTS[:1], group_size=1, params=PARAMS)
    failed = Failure("environment", "timeout", "TimeoutError: slow")
    assert (only(groups).failure, only(groups, CRITIC).failure) == (failed, failed)


# Ends


@pytest.mark.parametrize(
    ("said", "sampler_says", "step", "expected"),
    [
        ([5], "stop", Step([]), "stop"),
        ([5, 6], "length", Step([]), "length"),
        ([5, 6], "length", on([20]), "length"),  # who was cut does not go on
        ([5, 6], "stop", on([20] * 10), "context_full"),
        ([5] * 6, "stop", on(), "length"),  # nobody said anything, and there is no room to go on
        ([5], "stop", Step([], stop_reason="environment_ended"), "environment_ended"),
        ([5], "stop", Step([], stop_reason="environment_truncated"), "environment_truncated"),
        ([5], "stop", Step([], stop_reason="invalid_action"), "invalid_action"),
    ],
)
def test_why_a_trajectory_ended(said: list[int], sampler_says: StopReason, step: Step, expected: StopReason):
    collector = make(Says(said, stop_reason=sampler_says), env=playing(step))
    trajectory = only(collector.sample(PROMPTS[:1], group_size=1, params=PARAMS))
    assert (trajectory.stop_reason, trajectory.failure) == (expected, None)
    assert turns(trajectory) == [(ACTOR, said, None)]


def test_each_author_has_an_end_of_its_own():
    """The actor is cut, which does not keep the critic from speaking; the environment ends what the critic wrote."""
    env = playing(on(author=CRITIC, context=[9]), Step([], stop_reason="environment_ended"))
    collector = make(Says([5] * 6, stop_reason="length"), env=env, others={CRITIC: author(Says([7]))})
    groups = collector.sample(PROMPTS[:1], group_size=1, params=PARAMS)
    assert (only(groups).stop_reason, only(groups, CRITIC).stop_reason) == ("length", "environment_ended")


# Closing


class Closing(Play):
    """Fails in one place, and notes that it was closed."""

    def __init__(self, prompt: Prompt, where: str, closed: list[str]):
        super().__init__(prompt, [Step([])], lambda completion: None)
        self.where, self.closed = where, closed

    async def reset(self) -> list[int]:
        if self.where == "reset":
            raise KeyError("reset")
        return await super().reset()

    async def step(self, completion: Completion) -> Step:
        if self.where == "step":
            raise KeyError("step")
        if self.where == "deadline":
            await asyncio.sleep(3600)
        return await super().step(completion)

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.closed.append(self.prompt.id)
        if self.where == "close":
            raise OSError("close")


def closing(where: str, *, broken: bool = False) -> tuple[Collector, list[str]]:
    closed: list[str] = []

    def env(prompt: Prompt) -> Closing:
        return Closing(prompt, where, closed)

    class Broken(Says):
        async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
            raise RuntimeError("out of memory")

    return make(Broken([1]) if broken else None, env=env, deadline_seconds=0.2 if where == "deadline" else 20.0), closed


@pytest.mark.parametrize(
    ("where", "failure", "attempts"),
    [
        ("nowhere", None, 1),
        ("reset", "KeyError: 'reset'", 2),
        ("step", "KeyError: 'step'", 2),
        ("close", "OSError: close", 2),
    ],
)
def test_an_environment_is_closed_once_each_time_it_was_made(where, failure, attempts):
    collector, closed = closing(where)
    groups = collector.sample(PROMPTS[:2], group_size=1, params=PARAMS)
    assert sorted(closed) == sorted(["p0", "p1"] * attempts)
    found = [group.trajectories[0].failure for group in groups]
    assert [one and one.message for one in found] == [failure] * 2


@pytest.mark.parametrize(("where", "error"), [("deadline", RunStopped), ("nowhere", RuntimeError)])
def test_an_environment_is_closed_when_the_run_stops(where, error):
    collector, closed = closing(where, broken=error is RuntimeError)
    with pytest.raises(error):
        collector.sample(PROMPTS[:2], group_size=1, params=PARAMS)
    assert sorted(closed) == ["p0", "p1"]


def test_an_environment_that_never_closes_is_a_counted_failure(monkeypatch):
    monkeypatch.setattr(play, "CLOSE_SECONDS", 0.05)

    class NeverCloses(SingleTurn):
        async def close(self) -> None:
            await asyncio.sleep(3600)

    [group] = make(env=NeverCloses).sample(PROMPTS[:1], group_size=1, params=PARAMS)
    assert group.trajectories[0].failure is not None and group.trajectories[0].failure.kind == "timeout"


def test_a_context_that_no_prompt_may_be_as_long_as_is_a_counted_failure():
    class TooMuch(SingleTurn):
        async def step(self, completion: Completion) -> Step:
            return Step([], done=False, author=CRITIC, context=[5] * 9)

    collector = make(env=TooMuch, others={CRITIC: author()}, max_prompt_tokens=8)
    [group] = collector.sample(PROMPTS[:1], group_size=1, params=PARAMS)
    failure = group.trajectories[0].failure
    assert failure is not None and failure.kind == "invalid"
    assert failure.message == "gave critic a context of 9 tokens, more than rollout.max_prompt_tokens 8"
