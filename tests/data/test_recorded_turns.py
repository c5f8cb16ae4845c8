"""Rows made of a run's recorded turns: states, pairs with privileged prompts, and labels of turns."""

from __future__ import annotations

from typing import Any

import pytest

from llmrl.data.forms import COMPARISONS, SOLUTIONS
from llmrl.data.prompt_builder import PromptBuilder
from llmrl.data.recorded_turns import (
    expert_and_own,
    privileged_pairs,
    recorded_choices,
    recorded_episodes,
    turn_states,
)
from llmrl.data.transforms import read_rows
from llmrl.data.turn_values import tree_values, turn_values
from llmrl.data.written import Exact, Span
from llmrl.errors import RecipeError
from llmrl.models.loading import character_tokenizer
from llmrl.recipe_rows import Rows
from llmrl.run_folder.rows import row_of
from llmrl.types import ACTOR, ENVIRONMENT, Group, Prompt, Trajectory, Turn

PROMPT = Prompt("train:0", (2, 3), "ab", {"answer": "x"})
A, B, C, SEEN = [4], [5], [6], [7, 7]


def play(*actions: list[int], reward: float = 0.0, turn_rewards=(), prompt: Prompt = PROMPT) -> dict[str, Any]:
    """The recorded row of an episode in which the environment says SEEN between the actions."""
    turns: list[Turn] = []
    for place, action in enumerate(actions):
        given = dict(enumerate(turn_rewards)).get(place)
        turns += [Turn(ENVIRONMENT, SEEN)] if place else []
        turns.append(Turn(ACTOR, action, reward=given, text=f"action {action[0]}"))
    trajectory = Trajectory(prompt, turns, "stop", reward=reward)
    return row_of(Group(prompt, [trajectory]), trajectory, stage="explore", step=1, kind="train")


def labels(rows) -> list[list[float | None]]:
    return [row["step_labels"][0] for row in rows]


def test_a_turn_is_labelled_by_the_mean_outcome_of_its_state_and_action():
    """A then B won, A then C lost: z is 1 and -1, so A is worth 0 and its label is 1/2, told once."""
    made = turn_values([play(A, B, reward=1.0), play(A, C, reward=0.0)], gamma=0.5)
    assert labels(made) == [[0.5, 1.0], [None, 0.0]]
    assert made[0]["prompt"] == Exact((2, 3))
    assert made[0]["steps"][0].spans == [Span([4], True, 0.5), Span([7, 7], False), Span([5], True, 1.0)]


def test_the_discount_counts_the_turns_that_are_left_or_those_before():
    """A win after three turns, gamma 1/2: Q is 1/4, 1/2, 1, and 1, 1/2, 1/4 by the absolute index."""
    won = [play(A, B, C, reward=1.0)]
    assert labels(turn_values(won, gamma=0.5)) == [[0.625, 0.75, 1.0]]
    assert labels(turn_values(won, gamma=0.5, absolute_index=True)) == [[1.0, 0.75, 0.625]]
    in_turns = [play(A, B, turn_rewards=(-1.0, -1.0))]
    assert labels(turn_values(in_turns, gamma=1.0, low=-4.0, high=0.0)) == [[0.5, 0.5]]
    with pytest.raises(ValueError, match=r"reward is -2.0, outside of low: 0.0"):
        turn_values(in_turns)


def test_equal_actions_in_other_states_are_apart():
    other = Prompt("train:1", (2, 2), "aa", {})
    made = turn_values([play(A, reward=1.0), play(A, reward=0.0, prompt=other)], gamma=1.0)
    assert labels(made) == [[1.0], [0.0]]


def test_a_node_of_a_tree_is_worth_the_best_that_followed():
    """gamma 1/2: the leaves AB 8, AC 2, B 1; A is worth 0.5 * 8 = 4. Least 1, most 8."""
    rows = [play(A, B, reward=8.0), play(A, C, reward=2.0), play(B, reward=1.0)]
    assert labels(tree_values(rows, gamma=0.5)) == [
        [pytest.approx(3 / 7), 1.0],
        [None, pytest.approx(1 / 7)],
        [0.0],
    ]
    assert tree_values([play(A, reward=1.0)]) == []  # a tree of equal values


def test_a_leaf_counts_as_if_its_reward_came_again_up_to_the_height():
    """gamma 1/2, height 3: the leaf AB at depth 1 is 1 + 1/2, the leaf B at depth 0 is 1 + 1/2 + 1/4, A is 3/4."""
    rows = [play(A, B, reward=1.0), play(B, reward=1.0)]
    assert labels(tree_values(rows, gamma=0.5, height=3)) == [[0.0, 0.75], [1.0]]


def test_rewards_of_turns_are_those_of_nodes():
    """gamma 1: A costs 1 and leads to 3, so it is worth 2; B is worth 0."""
    rows = [play(A, C, reward=3.0, turn_rewards=(-1.0, None)), play(B)]
    assert labels(tree_values(rows, gamma=1.0)) == [[pytest.approx(2 / 3), 1.0], [0.0]]


def test_each_state_is_a_question_once():
    made = turn_states([play(A, B), play(A, C)])
    assert [(row["prompt"].token_ids, row["turn"]) for row in made] == [((2, 3), 0), ((2, 3, 4, 7, 7), 1)]
    [first, second] = (row["completion"].spans for row in made)  # the action that was recorded first
    assert (first, second) == ([Span([4], True)], [Span([5], True)])
    many = [play([4 + n % 3], prompt=Prompt(f"p{n}", (2, n), "", {})) for n in range(200)]
    assert 70 < len(turn_states(many, share=0.5)) < 130


def test_each_state_has_a_list_of_the_actions_that_were_taken():
    """States: the prompt, with A and B, and A's answer, with C: each a row behind the two trajectories."""
    rows = [play(A, C, reward=1.0), play(B), play(A)]
    made = recorded_choices(rows)
    assert made[:3] == recorded_episodes(rows) and len(made) == 5
    assert [one["prompt"].token_ids for one in made[3:]] == [(2, 3), (2, 3, 4, 7, 7)]
    assert [[one.token_ids for one in row["steps"]] for row in made[3:]] == [[A, B], [C]]
    assert all(span.reward is None for row in made[3:] for one in row["steps"] for span in one.spans)
    everywhere = recorded_choices(rows, everywhere=True)[3:]
    assert [[one.token_ids for one in row["steps"]] for row in everywhere] == [[A, B, C]] * 2


class Letters:
    """A tokenizer of letters, a = 1, whose texts begin with the token 99."""

    bos_token_id = 99

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [ord(letter) - ord("a") + 1 for letter in text]


def test_a_trajectory_is_also_one_under_the_goal_that_it_reached():
    """It was asked for b and reached z: asked for z it earns 1 at its end, and its turns are the same tokens."""
    prompt = Prompt("p", (99, 1, 2), "ab", {"answer": "b"})
    missed = play(A, B, reward=-2.0, turn_rewards=(-1.0, None), prompt=prompt) | {"hidden": "z", "solved": False}
    met, same = missed | {"solved": True}, missed | {"hidden": "b"}
    names = {"goal": "{answer}", "reached": "{hidden}"}
    own, relabelled = recorded_episodes([missed], **names)
    assert own["step_labels"] == [[-1.0, -2.0]] and own["prompt"].tokens(Letters()) == [99, 1, 2]
    assert relabelled["step_labels"] == [[0.0, 1.0]] and relabelled["prompt"].tokens(Letters()) == [99, 1, 26]
    assert relabelled["steps"][0].token_ids == own["steps"][0].token_ids == [4, 7, 7, 5]
    assert len(recorded_episodes([met, same], **names)) == 2
    lists = recorded_choices([missed], **names)[2:]  # the states under both goals
    assert [one["prompt"].tokens(Letters()) for one in lists] == [
        [99, 1, 2], [99, 1, 2, 4, 7, 7], [99, 1, 26], [99, 1, 26, 4, 7, 7],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a prompt has to hold its goal 'q' once, got 'ab'"):
        recorded_episodes([missed | {"answer": "q"}], **names)
    with pytest.raises(ValueError, match="goal and reached need each other"):
        recorded_episodes([missed], goal="{answer}")


def test_a_pair_of_trajectories_has_the_answer_in_front():
    rows = [play(A, B, reward=1.0), play(C, reward=0.0), play(B, reward=1.0), play(A, reward=0.0)]
    [pair] = privileged_pairs(rows, context="({answer})")
    assert pair["prompt"] == Exact((2, 3), "(x)")
    assert [pair[side].token_ids for side in ("chosen", "rejected")] == [[4, 7, 7, 5], [6]]
    assert len(privileged_pairs(rows, context="", per_question=None)) == 2
    with pytest.raises(ValueError, match="no question has"):
        privileged_pairs(rows[:1], context="")


def test_trajectories_are_labelled_by_their_stage():
    rows = [play(A) | {"stage": "expert"}, play(B)]
    assert [row["label"] for row in expert_and_own(rows, expert="expert")] == [1.0, 0.0]
    with pytest.raises(ValueError, match="of stage 'teacher' and of another"):
        expert_and_own(rows, expert="teacher")


def test_a_context_that_was_made_anew_begins_another_row():
    row = play(A, B, reward=1.0)
    row["turns"][1]["restarts"] = True
    assert [one["prompt"].token_ids for one in turn_states([row])] == [(2, 3), (7, 7)]
    assert labels(turn_values([row], gamma=0.5)) == [[0.75], [1.0]]


def test_what_failed_and_other_rows_are_not_read():
    failed = play(A) | {"failure": "x crash: y"}
    with pytest.raises(ValueError, match="no trajectory of actor that did not fail"):
        turn_states([failed])
    with pytest.raises(ValueError, match="a row has no author"):
        turn_states([{"question": "?"}])


def test_exact_tokens_reach_the_prompt_and_the_completions():
    """The text in front is encoded, and the recorded tokens stay as they are, whatever the text of them would give."""
    tokenizer = character_tokenizer("abx()0123456789")
    spec = {"privileged_pairs": {"context": "({answer})"}}
    rows = [play(A, B, reward=1.0), play(C)]
    found = read_rows(Rows(path="r", transform=spec), rows, "train", COMPARISONS)
    builder = PromptBuilder(tokenizer, found.source, found.rows)
    [prompt], _ = builder.build(16)
    before = tokenizer.encode("(x)", add_special_tokens=False)
    assert list(prompt.token_ids) == [*before, 2, 3]
    better, worse = builder.comparison(prompt)
    assert (better.reward, better.token_ids, worse.reward, worse.token_ids) == (1.0, [4, 7, 7, 5], 0.0, [6])
    assert builder.build(3) == ([], 1)
    labelled = read_rows(Rows(path="r", transform={"turn_values": {"gamma": 0.5}}), rows, "train", SOLUTIONS)
    solved = PromptBuilder(tokenizer, labelled.source, labelled.rows)
    [first, _], _ = solved.build(16)
    assert [span.reward for span in solved.solutions(first)[0].spans] == [0.75, None, 1.0]
    own = read_rows(
        Rows(path="r", transform={"expert_and_own": {"expert": "explore"}}),
        [play(A), play(B) | {"stage": "x"}],
        "train",
        COMPARISONS,
    )
    assert (own.source.label, own.source.completion, own.source.chosen) == ("label", "completion", None)


def test_a_transforms_fault_names_its_key():
    with pytest.raises(RecipeError, match=r"data.train.transform: turn_states: a row has no author"):
        read_rows(Rows(path="r", transform="turn_states"), [{"question": "?"}], "train", None)


def test_a_recorded_episode_has_the_rewards_of_its_turns():
    """Turn rewards -1 and none, and the trajectory's own 3 on its last turn."""
    rows = [play(A, B, reward=3.0, turn_rewards=(-1.0, None)), play(C)]
    rows[1]["turns"].insert(0, {**rows[1]["turns"][0], "author": ENVIRONMENT, "restarts": True})
    [made] = recorded_episodes(rows)
    assert made["steps"][0].spans == [Span([4], True, -1.0), Span([7, 7], False), Span([5], True, 3.0)]
