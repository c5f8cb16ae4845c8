"""The gold answer's log-probability along a completion, against the model asked directly at each place."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from by_hand import log_p_of
from training_cases import GRPO, role_of, tiny_lm, with_lora

from llmrl.data.packing import pack
from llmrl.errors import RecipeError
from llmrl.train.provide import provide
from llmrl.types import ACTOR, ENVIRONMENT, Group, Prompt, Trajectory, Turn

CHARACTERS = "?abcdefghijk 0123456789|"
TOKENS = [*CHARACTERS, "|a", "||", "b|"]  # some tokens hold a delimiter, or a part of one
RECTIFIED = GRPO | {"advantage_shaping": {"rectify": {}}}


class Tokenizer:
    """One token a character, and three tokens of two."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return [CHARACTERS.index(character) for character in text]

    def decode(self, token_ids: list[int], **settings: bool) -> str:
        return "".join(TOKENS[token] for token in token_ids)


def ids(*pieces: str) -> list[int]:
    """Token by token: a piece that is a token of two characters stays one."""
    found = []
    for piece in pieces:
        found += [TOKENS.index(piece)] if piece in TOKENS else [CHARACTERS.index(one) for one in piece]
    return found


def group(question: str, /, *completions: list[tuple[str, list[int]]], **row: Any) -> Group:
    prompt = Prompt(question, tuple(ids(question)), question, row)
    made = []
    for turns in completions:
        sampled = [Turn(author, tokens, [-0.5] * len(tokens) if author == ACTOR else []) for author, tokens in turns]
        made.append(Trajectory(prompt, sampled, "stop"))
    return Group(prompt, made)


def said(*pieces: str) -> list[tuple[str, list[int]]]:
    return [(ACTOR, ids(*pieces))]


def measured(
    groups: list[Group],
    entropy: dict[tuple[int, int], float] | None = None,
    *,
    lm: Any = None,
    tokens: int = 16,
    **settings: Any,
) -> torch.Tensor:
    """answer_logprobs, as a step has them; entropy: in place of the measured one, 0 elsewhere."""
    providers = {"providers": {"answer_logprobs": {"delimiter": "|", **settings}}}
    role, batch = role_of(RECTIFIED | providers, lm=lm, tokens_per_micro_batch=tokens), pack(groups, ACTOR)
    if entropy is not None:
        batch = batch.with_(old_entropy=torch.zeros(batch.token_ids.shape))
        for place, value in entropy.items():
            batch.old_entropy[place] = value
    return provide(role, batch, groups=groups, tokenizer=Tokenizer()).answer_logprobs


def columns(found: torch.Tensor) -> list[list[int]]:
    """Where each row was measured."""
    return [row.isfinite().nonzero()[:, 0].tolist() for row in found]


def direct(prefix: list[int], gold: str, lm: Any = None) -> float:
    """The mean log-probability of the answer's tokens, one after the other, after the prefix."""
    answer = ids(gold)
    log_p = log_p_of(lm or tiny_lm(), prefix + answer)
    return sum(log_p[len(prefix) + k - 1, token].item() for k, token in enumerate(answer)) / len(answer)


@pytest.mark.parametrize("tokens", [24, 10**6])
def test_places_and_values(tokens):
    """
    column    0 1 2 3 4 5 6 7          the baseline stands on the prompt's last token
    tokens    a ? b c | d | e          segments end on both delimiters and at the end
    """
    groups = [
        group("a?", said("bc|d|e"), said("f"), answer="42"),
        group("abc?", said("0123"), answer="7"),
    ]
    found = measured(groups, tokens=tokens)
    assert columns(found) == [[1, 4, 6, 7], [1, 2], [3, 7]]
    whole = ids("a?bc|d|e")
    for column in (1, 4, 6, 7):
        assert found[0, column].item() == pytest.approx(direct(whole[: column + 1], "42"), abs=1e-5)
    assert found[1, 1].item() == pytest.approx(found[0, 1].item(), abs=1e-6)
    assert found[1, 2].item() == pytest.approx(direct(ids("a?f"), "42"), abs=1e-5)
    assert found[2, 3].item() == pytest.approx(direct(ids("abc?"), "7"), abs=1e-5)
    assert found[2, 7].item() == pytest.approx(direct(ids("abc?0123"), "7"), abs=1e-5)
    assert len({round(value, 4) for value in found[0, [1, 4, 6, 7]].tolist()}) == 4


def test_the_answer_is_a_template_over_the_row():
    groups = [group("a?", said("b"), answer=42, unit="k")]
    found = measured(groups, answer=" {answer} {unit}")
    assert found[0, 2].item() == pytest.approx(direct(ids("a?b"), " 42 k"), abs=1e-5)


def test_a_delimiter_may_lie_across_tokens_or_within_one():
    # delimiter ||: | and | complete it at the second; the token || by itself; b| and |a at the second
    groups = [
        group("a?", said("c", "|", "|", "c"), answer="4"),
        group("a?", said("c", "||", "c"), answer="4"),
        group("a?", said("b|", "|a", "c"), answer="4"),
        group("a?", said("b|", "c", "|a", "c"), answer="4"),
    ]
    found = measured(groups, delimiter="||")
    assert columns(found) == [[1, 4, 5], [1, 3, 4], [1, 3, 4], [1, 5]]


def test_the_segments_that_begin_with_the_highest_entropy_are_measured():
    """
    column    0 1 2 3 4 5 6 7 8 9     segments begin at 2, 4, 6, 8 and end at 3, 5, 7, 9
    tokens    a ? b | c | d | e f
    """
    groups = [group("a?", said("b|c|d|ef"), answer="4")]
    entropy = {(0, 2): 0.3, (0, 4): 0.9, (0, 6): 0.1, (0, 8): 0.5, (0, 3): 2.0, (0, 9): 2.0}
    expected = {1: [1, 5], 2: [1, 5, 9], 3: [1, 3, 5, 9], 4: [1, 3, 5, 7, 9], 9: [1, 3, 5, 7, 9]}
    for count, places in expected.items():
        assert columns(measured(groups, entropy, max_segments=count)) == [places]


def test_the_environments_turns_are_read_and_not_measured():
    turns = [(ACTOR, ids("b", "|")), (ENVIRONMENT, ids("0|1")), (ACTOR, ids("cd"))]
    found = measured([group("a?", turns, answer="4")])
    assert columns(found) == [[1, 3, 8]]
    assert found[0, 8].item() == pytest.approx(direct(ids("a?b|0|1cd"), "4"), abs=1e-5)


def test_the_second_segment_begins_after_the_environments_turn():
    turns = [(ACTOR, ids("b", "|")), (ENVIRONMENT, ids("0|1")), (ACTOR, ids("cd"))]
    entropy = {(0, 2): 0.5, (0, 7): 0.6}
    assert columns(measured([group("a?", turns, answer="4")], entropy, max_segments=1)) == [[1, 8]]


def test_trajectories_without_an_answer_or_a_word_have_no_numbers():
    silent = [(ENVIRONMENT, ids("01"))]
    groups = [group("a?", said("b|c"), silent, answer=""), group("b?", silent, said("c"), answer="5")]
    found = measured(groups)
    assert columns(found) == [[], [], [], [1, 2]]
    assert found.isnan().sum() == found.numel() - 2
    assert columns(measured(groups[:1])) == [[], []]


def test_adapters_are_measured_without_their_dropout():
    groups = [group("a?", said("bc|d"), answer="42")]
    lm = with_lora(tiny_lm(), dropout=0.5)
    found = measured(groups, lm=lm)
    assert found[0, 4].item() == pytest.approx(direct(ids("a?bc|"), "42", with_lora(tiny_lm())), abs=1e-5)


def test_a_row_without_the_answers_column_is_refused():
    groups = [group("a?", said("b"), question="a", grade=3)]
    with pytest.raises(RecipeError, match=r"answer_logprobs.answer: a\?: no column 'answer' \(columns: question, gr"):
        measured(groups)
    assert not math.isnan(measured(groups, answer="{grade}")[0, 1])
