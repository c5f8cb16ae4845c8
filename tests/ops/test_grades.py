"""A critic of grades: its loss, and the credit that it weighs."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.ops.advantage_shaping.tokens import outcome_likelihood
from llmrl.ops.reductions import sequence_mean
from llmrl.ops.value_losses import grade_cross_entropy

NAN, INF = math.nan, math.inf
LN2, LN5 = math.log(2), math.log(5)
seeds = st.integers(0, 10_000)


def data_of(rows, outputs: int = 4):
    """Outputs, grades of which about a quarter is unknown, and the mask."""
    found = torch.randn(*rows.mask.shape, outputs, generator=rows.generator) * 2
    grades = torch.randint(-1, outputs, (len(rows.mask),), generator=rows.generator)
    return found, grades, rows.mask


def loss_and_gradient(outputs, grades, mask):
    leaf = outputs.clone().requires_grad_()
    result = grade_cross_entropy(leaf, grades, mask)
    result.loss.sum().backward()
    return result, leaf.grad


def test_credit_by_hand():
    # softmax(0, ln 2, ln 5) = 1/8, 2/8, 5/8; of equal logits 1/3
    logits = torch.tensor([0.0, LN2, LN5])
    outputs = torch.stack([torch.full((3,), NAN), logits, torch.zeros(3)]).expand(3, 3, 3)
    mask = torch.tensor([[0, 1, 1]] * 3, dtype=torch.bool)
    advantages = torch.tensor([[NAN, 2, 3], [NAN, -0.8, -0.3], [NAN, 1, 1]])
    found = outcome_likelihood(advantages, outputs, torch.tensor([2, 0, -1]), mask)
    # 2 x 5/8, 3 / 3; -.8 / 8, -.3 / 3; nothing where the grade is unknown
    torch.testing.assert_close(found, torch.tensor([[0, 1.25, 1], [0, -0.1, -0.1], [0, 0, 0]]))


def test_credit_of_a_sure_critic():
    """Sure of the outcome it leaves the credit as it is; sure of another it takes it away."""
    outputs = torch.tensor([[[200.0, 0.0]], [[0.0, 200.0]]])
    found = outcome_likelihood(torch.full((2, 1), 3.0), outputs, torch.zeros(2).long(), torch.ones(2, 1).bool())
    assert found.tolist() == [[3.0], [0.0]]


def test_credit_naive_loop(ragged):
    for seed in range(5):
        rows = ragged(seed)
        outputs, grades, mask = data_of(rows)
        advantages = rows.noise()
        found = outcome_likelihood(advantages, outputs, grades, mask)
        for i in range(len(mask)):
            for t in range(mask.shape[1]):
                powers = [math.exp(x) for x in outputs[i, t].tolist()]
                known = mask[i, t] and grades[i] >= 0
                expected = advantages[i, t].item() * powers[grades[i]] / sum(powers) if known else 0.0
                assert found[i, t].item() == pytest.approx(expected, abs=1e-5)


def test_loss_by_hand():
    # the largest logits are 0 and ln 2 of the first token, ln 5 of the last: 1/8, 2/8, 5/8; grade 1: -ln 1/4, thought 2
    outputs = torch.tensor([[[9.0, 9, 9], [0, LN2, -1], [NAN, NAN, NAN], [-3, 0, LN5]]])
    mask = torch.tensor([[0, 1, 0, 1]], dtype=torch.bool)
    found, gradient = loss_and_gradient(outputs, torch.tensor([1]), mask)
    torch.testing.assert_close(found.loss, torch.tensor([[0, math.log(4), 0, math.log(4)]]))
    # of the two tokens' sum, at the largest logits alone: 2 x (1/8, 2/8 - 1, 5/8)
    expected = torch.tensor([[[0, 0, 0], [0.25, -1.5, 0], [0, 0, 0], [0, 0, 1.25]]])
    torch.testing.assert_close(gradient, expected)
    assert found.stats["grade_accuracy"].tolist() == [[0, 0, 0, 0]]
    # softmax at grade 1: 2 / (1 + 2 + 1/e), and 1 / (e^-3 + 1 + 5)
    chances = torch.tensor([[0, 2 / (3 + math.exp(-1)), 0, 1 / (6 + math.exp(-3))]])
    torch.testing.assert_close(found.stats["grade_probability"], chances)
    assert grade_cross_entropy(outputs, torch.tensor([2]), mask).stats["grade_accuracy"].tolist() == [[0, 1, 0, 1]]


def test_of_equal_logits_the_first_token_gets_the_gradient():
    _, gradient = loss_and_gradient(torch.zeros(1, 3, 2), torch.tensor([0]), torch.tensor([[False, True, True]]))
    assert gradient.tolist() == [[[0, 0], [-1, 1], [0, 0]]]  # 2 tokens x (1/2 - 1, 1/2)


def test_loss_naive_loop_and_one_token_for_each_grade(ragged):
    for seed in range(5):
        outputs, grades, mask = data_of(ragged(seed))
        found, gradient = loss_and_gradient(outputs, grades, mask)
        for i in range(len(mask)):
            places = mask[i].nonzero()[:, 0].tolist()
            if not places or grades[i] < 0:
                assert not found.loss[i].any() and not gradient[i].any()
                continue
            largest = [max(places, key=lambda t, h=h: outputs[i, t, h].item()) for h in range(4)]
            powers = [math.exp(outputs[i, t, h].item()) for h, t in enumerate(largest)]
            loss = -math.log(powers[grades[i]] / sum(powers))
            right = float(powers[grades[i]] == max(powers))
            for t in range(mask.shape[1]):
                assert found.loss[i, t].item() == pytest.approx(loss if t in places else 0.0, abs=1e-5)
                assert found.stats["grade_accuracy"][i, t].item() == (right if t in places else 0.0)
                for h in range(4):
                    pull = powers[h] / sum(powers) - float(h == grades[i])
                    expected = len(places) * pull if t == largest[h] else 0.0
                    assert gradient[i, t, h].item() == pytest.approx(expected, abs=1e-5)


def test_reduced_by_sequence_mean_every_trajectory_counts_once(ragged):
    outputs, grades, mask = data_of(ragged(1))
    grades = grades.clamp(min=0)
    loss = grade_cross_entropy(outputs, grades, mask).loss
    of_rows = [loss[i, mask[i]][0].item() for i in range(len(mask)) if mask[i].any()]
    total = (loss * sequence_mean(mask)).sum().item()
    assert total == pytest.approx(sum(of_rows) / len(of_rows), abs=1e-5)


@pytest.mark.parametrize("junk", [NAN, INF, -INF])
def test_what_lies_off_the_response_has_no_influence(ragged, junk):
    rows = ragged(2)
    outputs, grades, mask = data_of(rows)
    advantages = rows.noise()
    broken = torch.where(mask.unsqueeze(-1), outputs, junk)
    plain, gradient = loss_and_gradient(outputs, grades, mask)
    found, other = loss_and_gradient(broken, grades, mask)
    assert torch.equal(found.loss, plain.loss) and torch.equal(other, gradient)
    assert gradient.isfinite().all() and not gradient[~mask].any() and gradient[mask].any()
    for name, stat in found.stats.items():
        assert torch.equal(stat, plain.stats[name]) and not stat[~mask].any() and not stat.requires_grad
    shaped = outcome_likelihood(torch.where(mask, advantages, junk), broken, grades, mask)
    assert torch.equal(shaped, outcome_likelihood(advantages, outputs, grades, mask))
    assert not shaped[~mask].any()


@settings(max_examples=30)
@given(seed=seeds, data=st.data())
def test_each_row_is_alone_and_padding_changes_nothing(ragged, seed, data):
    rows = ragged(seed)
    outputs, grades, mask = data_of(rows)
    advantages = rows.noise()

    def both(advantages, outputs, grades, mask):
        loss = grade_cross_entropy(outputs, grades, mask).loss
        return torch.stack([loss, outcome_likelihood(advantages, outputs, grades, mask)])

    plain = both(advantages, outputs, grades, mask)
    order = torch.tensor(data.draw(st.permutations(range(len(grades)))))[:4]
    torch.testing.assert_close(both(*(x[order] for x in (advantages, outputs, grades, mask))), plain[:, order])
    pad = torch.nn.functional.pad
    wide = both(pad(advantages, (0, 2)), pad(outputs, (0, 0, 0, 2), value=99.0), grades, pad(mask, (0, 2)))
    torch.testing.assert_close(wide[..., :-2], plain)
    assert not wide[..., -2:].any()


def test_no_grade_at_all(ragged):
    outputs, grades, mask = data_of(ragged(3))
    found, gradient = loss_and_gradient(outputs, torch.full_like(grades, -1), mask)
    assert not found.loss.any() and not gradient.any()


@pytest.mark.parametrize(
    ("outputs", "grade", "message"),
    [
        (1, 0, "critic.outputs: 1 is not valid, expected at least 2, one for each grade"),
        (3, 3, "grades: 3 is not valid, expected below 3, the critic's outputs"),
    ],
)
def test_a_grade_has_an_output(outputs, grade, message):
    logits, grades, mask = torch.zeros(2, 3, outputs), torch.tensor([0, grade]), torch.ones(2, 3).bool()
    with pytest.raises(ValueError, match=message):
        grade_cross_entropy(logits, grades, mask)
    with pytest.raises(ValueError, match=message):
        outcome_likelihood(torch.ones(2, 3), logits, grades, mask)
