from __future__ import annotations

import torch

from llmrl.ops.shared.diagnostics import repeated_states
from llmrl.ops.shared.turns import (
    ENDED,
    _next_states,
    on_tokens,
    taken_turns,
    turn_ends,
    turn_names,
    turn_returns,
    turn_starts,
    turn_sums,
)

TURNS = torch.tensor([[-1, 0, 0, -1, 1, 2], [-1, -1, 1, 1, -1, -1]])
MASK = TURNS >= 0
VALUES = torch.tensor([[9.0, 1, 2, 9, 3, 4], [9, 9, 5, 6, 9, 9]])


def test_numbers_of_turns_and_back():
    assert turn_sums(VALUES, MASK, TURNS).tolist() == [[3, 3, 4], [0, 11, 0]]
    assert taken_turns(MASK, TURNS).tolist() == [[True, True, True], [False, True, False]]
    found = on_tokens(torch.tensor([[1.0, 2, 3], [7, 4, 7]]), MASK, TURNS)
    assert found.tolist() == [[0, 1, 1, 0, 2, 3], [0, 0, 4, 4, 0, 0]]
    assert turn_names(VALUES.long(), MASK, TURNS)[1].tolist() == [-1, 6, -1]


def test_first_and_last_tokens():
    assert turn_starts(MASK, TURNS).int().tolist() == [[0, 1, 0, 0, 1, 1], [0, 0, 1, 0, 0, 0]]
    assert turn_ends(MASK, TURNS).int().tolist() == [[0, 0, 1, 0, 1, 1], [0, 0, 0, 1, 0, 0]]


def test_returns_count_turns_and_not_tokens():
    # 4; 3 + .5 4 = 5; 3 + .5 5 = 5.5
    assert turn_returns(VALUES, MASK, TURNS, gamma=0.5).tolist() == [[5.5, 5, 4], [0, 11, 0]]


def test_the_state_after_a_turn_is_that_of_the_next_one_that_was_taken():
    states = torch.tensor([[5, 6, 7], [-1, 8, -1]])
    assert _next_states(states, taken_turns(MASK, TURNS)).tolist() == [[6, 7, ENDED], [8, ENDED, ENDED]]


def test_how_often_trajectories_meet():
    """Three of two turns: all begin in state 0; two take action 1 to state 2, where they part; the third is elsewhere.

    states 0, 2 and 3 have 3, 2 and 1 turns: 2 on average. Two of six turns are shared.
    """
    turns = torch.tensor([[0, 1]] * 3)
    states, actions = torch.tensor([[0, 2], [0, 2], [0, 3]]), torch.tensor([[1, 4], [1, 5], [6, 4]])
    mask, one = torch.ones(3, 2).bool(), torch.zeros(3).long()
    assert repeated_states(mask, turns, states, actions, one) == {"state_group_size": 2.0, "turns_shared": 1 / 3}
    apart = repeated_states(mask, turns, states, actions, torch.tensor([0, 1, 2]))
    assert apart == {"state_group_size": 1.0, "turns_shared": 0.0}
    assert repeated_states(mask, turns, torch.full_like(states, -1), actions, one) == {}
    # one trajectory that goes in a circle meets nobody
    assert repeated_states(mask[:1], turns[:1], states[:1] * 0, actions[:1] * 0, one[:1])["turns_shared"] == 0.0
