"""Held-out completions, compared by policies and reward models as sums written out pair by pair say."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from by_hand import log_p_of
from preference_cases import ASKED, DPO, OFFLINE, REWARD_MODEL, ROWS, held_out
from training_cases import make_algorithm, role_of, tiny_lm, tiny_scorer

from llmrl.algorithm import ImplicitReward
from llmrl.train.held_out import compare

PAIRS = [("a", 0, 1), ("b", 0, 1), ("c", 0, 1), ("c", 0, 2), ("c", 1, 2)]


def log_p(lm: Any, name: str, number: int, *, mean: bool = False) -> float:
    """The log-probability of a completion, or of its tokens on average."""
    tokens = ROWS[name][number][0]
    table = log_p_of(lm, [*ASKED[name], *tokens]).detach()
    found = [float(table[len(ASKED[name]) - 1 + place, token]) for place, token in enumerate(tokens)]
    return sum(found) / (len(found) if mean else 1)


def expected(margins: dict[tuple[str, int, int], float]) -> float:
    return sum(margin > 0 for margin in margins.values()) / len(margins)


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_a_policy_prefers_by_its_log_ratios(at_once):
    own, reference = tiny_lm(), tiny_lm(seed=3)
    ratio = {(n, k): log_p(own, n, k) - log_p(reference, n, k) for n, rows in ROWS.items() for k in range(len(rows))}
    margins = {pair: ratio[pair[0], pair[1]] - ratio[pair[0], pair[2]] for pair in PAIRS}
    found = compare(role_of(DPO), held_out(at_once))
    assert found["eval/pairs"] == 5
    assert found["eval/preference_accuracy"] == pytest.approx(expected(margins))
    assert found["eval/preference_margin"] == pytest.approx(sum(margins.values()) / 5, abs=1e-4)
    chances = torch.sigmoid(0.4 * torch.tensor(list(margins.values())))  # DPO's beta
    assert found["eval/brier_score"] == pytest.approx(float((1 - chances).square().mean()), abs=1e-5)
    assert found["eval/chosen_log_ratios"] == pytest.approx(
        (ratio["a", 0] + ratio["b", 0] + 2 * ratio["c", 0] + ratio["c", 1]) / 5, abs=1e-4
    )
    assert (found["eval/labels"], found["eval/label_auroc"]) == (2, ratio["d", 0] > ratio["e", 0])
    of_chat = {pair: margin for pair, margin in margins.items() if pair[0] in "ab"}
    assert found["eval/chat/preference_accuracy"] == pytest.approx(expected(of_chat))
    assert (found["eval/chat/pairs"], found["eval/code/pairs"], found["eval/code/labels"]) == (2, 3, 1)
    assert "eval/code/label_auroc" not in found and "eval/chat/labels" not in found


@pytest.mark.parametrize("at_once", [1, 64])
def test_imitation_is_measured_by_the_likelihood_of_a_token(at_once):
    lm = tiny_lm()
    sums = {name: -sum(log_p(lm, name, number) for number in range(len(rows))) for name, rows in ROWS.items()}
    tokens = {name: sum(len(row[0]) for row in rows) for name, rows in ROWS.items()}
    found = compare(role_of({"policy_loss": "nll", "reduce": "token_mean"}), held_out(at_once))
    assert found == {
        "eval/nll": pytest.approx(sum(sums.values()) / sum(tokens.values()), abs=1e-5),
        "eval/chat/nll": pytest.approx((sums["a"] + sums["b"]) / (tokens["a"] + tokens["b"]), abs=1e-5),
        "eval/code/nll": pytest.approx((sums["c"] + sums["d"]) / (tokens["c"] + tokens["d"]), abs=1e-5),
    }


def test_without_a_reference_a_policy_prefers_by_what_its_loss_reads():
    simpo = OFFLINE | {"preference_loss": {"simpo": {"weight": 1.0}}}
    lm = tiny_lm()
    margins = {
        (name, better, worse): log_p(lm, name, better, mean=True) - log_p(lm, name, worse, mean=True)
        for name, better, worse in PAIRS
    }
    found = compare(role_of(simpo), held_out())
    assert found["eval/preference_accuracy"] == pytest.approx(expected(margins))
    assert found["eval/preference_margin"] == pytest.approx(sum(margins.values()) / 5, abs=1e-4)


def test_a_reward_model_prefers_by_its_scores():
    model = tiny_scorer()

    def score(name: str, number: int) -> float:
        return float(model(input_ids=torch.tensor([[*ASKED[name], *ROWS[name][number][0]]])).logits[0, 0].detach())

    margins = {(name, w, l): score(name, w) - score(name, l) for name, w, l in PAIRS}
    role = role_of(REWARD_MODEL)
    found = compare(role, held_out())
    assert found["eval/preference_margin"] == pytest.approx(sum(margins.values()) / 5, abs=1e-5)
    assert found["eval/preference_accuracy"] == pytest.approx(expected(margins))
    assert found["eval/chosen_scores"] == pytest.approx(
        (score("a", 0) + score("b", 0) + 2 * score("c", 0) + score("c", 1)) / 5, abs=1e-5
    )
    role.learner.engine.model.inner.score.weight.data.zero_()
    found = compare(role, held_out())
    assert (found["eval/preference_accuracy"], found["eval/preference_ties"], found["eval/label_auroc"]) == (
        0.5,
        1,
        0.5,
    )
    assert (found["eval/calibration_error"], found["eval/brier_score"]) == (0.0, 0.25)


def test_a_policy_that_is_its_reference_prefers_nothing():
    role = role_of(DPO)
    role.reference.load_state_dict(role.learner.engine.model.state_dict())
    found = compare(role, held_out())
    assert (found["eval/preference_accuracy"], found["eval/preference_ties"], found["eval/preference_margin"]) == (
        0.5, 1.0, 0.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    "losses, of, scale",
    [
        ({"dpo": {"weight": 1.0, "beta": 0.3}}, "log_ratios", 0.3),
        ({"length_normalized_dpo": {"weight": 1.0}}, "mean_log_ratios", 5.0),
        ({"wpo": {"weight": 1.0}}, "log_ratios", 0.01),
        ({"ipo": {"weight": 1.0, "tau": 0.2}}, "log_ratios", 0.2),
        ({"kto": {"weight": 1.0}}, "log_ratios", 0.1),
        ({"cpo": {"weight": 1.0}}, "logprobs", 0.1),
        ({"orpo": {"weight": 1.0}}, "mean_logprobs", None),
        ({"slic": {"weight": 1.0}}, "logprobs", None),
        ({"reward_regression": {"weight": 1.0}}, "scores", 1.0),
    ],
)
def test_the_implicit_reward_is_what_the_first_loss_teaches(losses, of, scale):
    assert make_algorithm(**OFFLINE, preference_loss=losses).implicit_reward == ImplicitReward(of, scale)
