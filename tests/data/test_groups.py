"""Groups made of episodes, and what trajectories and episodes say of themselves."""

from __future__ import annotations

import pytest

from llmrl.types import ACTOR, ENVIRONMENT, Episode, Group, Prompt, Score, Trajectory, Turn, groups_of

PROMPT = Prompt("p", (1,), "?", {})


def episode(number: int, *wrote: tuple[str, str]) -> Episode:
    """Trajectories of these authors, compared by these names."""
    found = Episode(PROMPT, number=number)
    found.trajectories = [
        Trajectory(PROMPT, [], "stop", text=f"{number}.{place}", author=author, compared=compared, episode=found)
        for place, (author, compared) in enumerate(wrote)
    ]
    return found


def texts(groups: list[Group]) -> list[list[str]]:
    return [[trajectory.text for trajectory in group.trajectories] for group in groups]


def test_one_answer_an_episode_is_one_group():
    groups = groups_of(PROMPT, [episode(n, (ACTOR, "")) for n in range(3)], ACTOR, place=5)
    assert texts(groups) == [["0.0", "1.0", "2.0"]]
    [group] = groups
    assert (group.prompt, group.author, group.place, group.known, group.besides) == (PROMPT, ACTOR, 5, {}, [])


def test_what_is_compared_goes_together_across_episodes():
    """
    episode 0    actor.0   critic.1 of "a"   critic.2 of "b"   actor.3
    episode 1    actor.0   critic.1 of "b"
    episode 2    actor.0   critic.1 of "a"   critic.2 of "a"
    """
    episodes = [
        episode(0, (ACTOR, ""), ("critic", "a"), ("critic", "b"), (ACTOR, "")),
        episode(1, (ACTOR, ""), ("critic", "b")),
        episode(2, (ACTOR, ""), ("critic", "a"), ("critic", "a")),
    ]
    assert texts(groups_of(PROMPT, episodes, ACTOR)) == [["0.0", "0.3", "1.0", "2.0"]]
    assert texts(groups_of(PROMPT, episodes, "critic")) == [["0.1", "2.1", "2.2"], ["0.2", "1.1"]]
    assert {group.author for group in groups_of(PROMPT, episodes, "critic")} == {"critic"}
    assert groups_of(PROMPT, episodes, "judge") == [] == groups_of(PROMPT, [], ACTOR)
    assert [trajectory.text for trajectory in episodes[0].of("critic")] == ["0.1", "0.2"]


def test_a_trajectorys_own_turns_are_its_authors():
    turns = [Turn("critic", [1, 2]), Turn(ENVIRONMENT, [3]), Turn(ACTOR, [4, 5, 6]), Turn("critic", [7])]
    critique = Trajectory(PROMPT, turns, "stop", author="critic")
    assert critique.own_turns == [turns[0], turns[3]] and critique.completion_tokens == 3
    assert Trajectory(PROMPT, turns, "stop").own_turns == [turns[2]]


@pytest.mark.parametrize(
    ("scores", "correct", "grade", "verdict_or_reward"),
    [
        ({}, None, None, 0.25),
        ({"a": Score(1.0)}, None, None, 0.25),
        ({"a": Score(0.0, True)}, True, None, 1.0),
        ({"a": Score(1.0, True, grade=3), "b": Score(1.0, False, grade=1)}, False, 1, 0.0),
        ({"a": Score(1.0, grade=0), "b": Score(1.0, True)}, True, 0, 1.0),
    ],
)
def test_verdicts_of_several_scores(scores, correct, grade, verdict_or_reward):
    one = Trajectory(PROMPT, [], "stop", scores=scores, reward=0.25)
    assert (one.correct, one.grade, one.verdict_or_reward) == (correct, grade, verdict_or_reward)


def test_trajectories_are_equal_whatever_their_episodes():
    first, second = episode(0, (ACTOR, "")), episode(1, (ACTOR, ""))
    second.trajectories[0].text = first.trajectories[0].text
    assert first.trajectories == second.trajectories
    assert "episode" not in repr(first.trajectories[0])  # an episode has its trajectories, and would go round
