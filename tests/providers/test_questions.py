"""What is learnt of each question by sampling it besides: greedy answers, static values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from scripted import PARAMS, PROMPTS, ByRound, EchoSampler, Verdicts, asked_of, author, ids, make, piece, texts

from llmrl.data.packing import pack
from llmrl.data.stream import PromptStream
from llmrl.envs.base import Step
from llmrl.providers.questions import greedy_rewards, question_accuracy, static_values
from llmrl.rollout.collect import Collector
from llmrl.rollout.group_sampling import Evenly, Provided
from llmrl.rollout.sampler import Completion, SamplingParams
from llmrl.rollout.selection import accuracy_between, everything, triage
from llmrl.types import ACTOR, Failure, Group, Prompt, Score, Trajectory


def with_greedy(collector: Collector, group_size: int) -> Provided:
    return Provided(Evenly(collector, group_size), collector, [piece(greedy_rewards)], {})


def with_static_values(collector: Collector, values: dict[str, float]) -> Provided:
    return Provided(Evenly(collector, 2), collector, [piece(static_values)], {"static_values": values})


def known(groups: Sequence[Group], name: str) -> list[str]:
    """What is known of each group, with nan spelt out, as nan equals nothing."""
    return [str(group.known[name]) for group in groups]


# greedy answers


def test_greedy_completions_are_scored_and_kept_apart():
    collector = make(scorer=Verdicts(lambda n, place: n == 1))
    sampled = Evenly(make(scorer=Verdicts(lambda n, place: n == 1)), 3)(PROMPTS[:2], PARAMS)
    shaped = SamplingParams(
        max_tokens=6, temperature=0.7, top_p=0.9, top_k=5, stop=("x",), stop_token_ids=(1,), seed=11
    )
    groups = with_greedy(collector, 3)(PROMPTS[:2], shaped)
    assert [len(group.trajectories) for group in groups] == [3, 3]
    assert texts(groups) == texts(sampled)  # as without it
    asked = [params for _, params in asked_of(collector)]
    greedy = [params for params in asked if params.temperature == 0.0]
    assert [(p.top_p, p.top_k, p.max_tokens, p.stop, p.stop_token_ids) for p in greedy] == [
        (1.0, None, 6, ("x",), (1,))
    ] * 2
    assert {(p.temperature, p.top_p, p.top_k) for p in asked if p not in greedy} == {(0.7, 0.9, 5)}
    for group, reward in zip(groups, (0.5, 1.5), strict=True):
        [greedy] = group.besides
        assert (group.known, greedy.reward, greedy.prompt) == ({"greedy_rewards": reward}, reward, group.prompt)
        assert all(trajectory is not greedy for trajectory in group.trajectories)


class GreedyIsShort(EchoSampler):
    async def sample(self, token_ids: list[int], params: SamplingParams) -> Completion:
        if params.temperature == 0.0:
            return Completion([7], [], "stop", self.policy_version)
        return await super().sample(token_ids, params)


def collect_greedily(verdict: Callable[[int, int], bool | Failure]) -> Any:
    collector = make(GreedyIsShort(), Verdicts(verdict))
    return collector.collect(
        PromptStream(PROMPTS, 0, False),
        sample_groups=with_greedy(collector, 2),
        keep={ACTOR: piece(everything)},
        count=2,
        max_refills=0,
        params=PARAMS,
    )


def test_a_greedy_completion_is_not_trained_on_and_not_counted():
    collected = collect_greedily(lambda n, place: n == 1)
    batch = pack(collected.groups, ACTOR)
    assert batch.response_mask.sum(dim=1).tolist() == [3, 3, 3, 3]  # and not the greedy one's single token
    assert batch.greedy_rewards.tolist() == [0.5, 0.5, 1.5, 1.5]
    assert collected.metrics["completion_tokens"] == 3.0
    assert collected.metrics["accuracy"] == 0.5


def test_a_greedy_completion_that_failed_gives_no_reward_and_no_zero():
    """p0's cannot be scored: it is scored second, after the group."""
    failed = Failure("verifier", "crash", "broken")
    collector = make(scorer=ByRound(lambda n, number, place: failed if (n, number) == (0, 1) else True))
    groups = with_greedy(collector, 2)(PROMPTS[:2], PARAMS)
    assert [group.besides[0].failure for group in groups] == [failed, None]
    batch = pack(groups, ACTOR)
    assert [str(reward) for reward in batch.greedy_rewards.tolist()] == ["nan", "nan", "1.5", "1.5"]


class Critiqued:
    """The actor's answer, and then the critic's word on it."""

    def __init__(self, prompt: Prompt):
        self.prompt, self.answered = prompt, False

    async def reset(self) -> list[int]:
        return list(self.prompt.token_ids)

    async def step(self, completion: Completion) -> Step:
        self.answered = not self.answered
        return Step([], done=False, author="critic", context=[9]) if self.answered else Step([])


def test_every_author_is_greedy_and_each_group_knows_its_own_authors_reward():
    right, wrong = Verdicts(lambda n, place: True), Verdicts(lambda n, place: False)
    collector = make(scorer=right, env=Critiqued, others={"critic": author(scorer=wrong)})
    params = replace(PARAMS, others={"critic": SamplingParams(6, 0.8, top_p=0.9, top_k=3)})
    groups = with_greedy(collector, 2)(PROMPTS[:2], params)
    assert [(group.author, group.known["greedy_rewards"]) for group in groups] == [(ACTOR, 1.5), ("critic", 0.5)] * 2
    assert all(besides.author == group.author for group in groups for besides in group.besides)
    asked = [(p.temperature, p.top_p, p.top_k) for _, p in asked_of(collector, "critic")]
    assert asked == [(0.8, 0.9, 3)] * 4 + [(0.0, 1.0, None)] * 2


# static values


def test_static_values_go_to_their_prompts_groups():
    asked = [PROMPTS[2], PROMPTS[1], PROMPTS[0]]
    groups = with_static_values(make(), {"p2": 0.25, "p0": 1.0})(asked, PARAMS)
    assert known(groups, "static_values") == ["0.25", "nan", "1.0"]
    assert texts(groups) == texts(Evenly(make(), 2)(asked, PARAMS))


def test_a_prompt_that_triage_drops_is_replaced():
    collector = make()
    values: dict[str, float] = {}
    sample_groups = with_static_values(collector, values)
    values |= {"p0": 1.0, "p1": 0.5}  # measured after this was made, as a run does
    collected = collector.collect(
        PromptStream(PROMPTS, 0, False),
        sample_groups=sample_groups,
        keep={ACTOR: piece(triage)},
        count=2,
        max_refills=1,
        params=PARAMS,
    )
    assert ids(collected.groups) == ["p1", "p2"]
    assert known(collected.groups, "static_values") == ["0.5", "nan"]


def test_a_keep_function_may_read_what_nobody_measured():
    """nan, and nothing is dropped."""
    collector = make()
    collected = collector.collect(
        PromptStream(PROMPTS, 0, False),
        sample_groups=Evenly(collector, 2),
        keep={ACTOR: piece(triage, drop_unsolved=True)},
        count=2,
        max_refills=0,
        params=PARAMS,
    )
    assert ids(collected.groups) == ["p0", "p1"]


def test_a_static_value_is_the_mean_over_what_could_be_scored():
    """Of three: p0's rewards are 1.5 0.5 and a failure; all of p1 failed, and it has no value."""
    failed = Failure("judge", "crash", "")
    verdicts = [[True, False, failed], [failed] * 3]
    collector = make(scorer=Verdicts(lambda n, place: verdicts[n][place]))
    asked: list[int] = []

    def sample(prompts: Sequence[Prompt], *, group_size: int) -> list[Group]:
        asked.append(group_size)
        return collector.sample(prompts, group_size=group_size, params=PARAMS)

    measure: Callable[..., Any] = piece(static_values).mark("measured_once_by")
    values, groups = measure(PROMPTS[:2], sample, samples=3)
    assert (values, asked) == ({"p0": 1.0}, [3])
    assert [len(group.trajectories) for group in groups] == [3, 3]  # all that was sampled is recorded


# accuracy


def test_the_accuracy_of_a_question_is_that_of_its_first_answers_for_every_author():
    def text(author: str, correct: bool | None, parent: Trajectory | None = None) -> Trajectory:
        scores = {} if correct is None else {"verifier": Score(float(correct), correct)}
        return Trajectory(PROMPTS[0], [], "stop", author=author, scores=scores, parent=parent)

    drafts = [text(ACTOR, correct) for correct in (True, False, False, None)]
    critiques = [text("critiquer", True, drafts[0])]
    refinements = [text(ACTOR, True, critiques[0])]
    groups = [Group(PROMPTS[0], drafts), Group(PROMPTS[0], critiques, "critiquer"), Group(PROMPTS[0], refinements)]
    other = Group(PROMPTS[1], [text(ACTOR, None)], place=1)
    found = question_accuracy([*groups, other], make())
    assert known(found, "question_accuracy") == [str(1 / 3)] * 3 + ["nan"]
    kept = [len(accuracy_between(one, one.known["question_accuracy"])) for one in found]
    assert kept == [4, 1, 1, 1]
    assert accuracy_between(groups[0], 1 / 3, low=0.4) == accuracy_between(groups[0], 1 / 3, high=0.3) == []
    assert accuracy_between(groups[0], 0.8) == drafts
