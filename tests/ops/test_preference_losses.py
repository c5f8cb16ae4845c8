"""Preference losses on two pairs worked out in double precision, by their gradients and by what they share."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from llmrl.axes import BY_KEY
from llmrl.marks import compares_all
from llmrl.ops.preference_losses import divergences, logistic, prefixes, probes, reference_free, reward_models
from llmrl.ops.preference_losses.games import inpo
from llmrl.ops.preference_losses.regression import ipo
from llmrl.ops.shared.groups import group_log_softmax
from llmrl.pieces import bind, catalogue

ELSEWHERE = {**catalogue(reward_models), **catalogue(prefixes), **catalogue(probes)}  # these have files of their own
LOSSES = {n: f for n, f in BY_KEY["preference_loss"].pieces.items() if n not in ELSEWHERE}
A = {"logprobs": (-20.0, -30.0), "ref_logprobs": (-22.0, -27.0), "lengths": (10, 20)}  # u = 2, -3
B = {"logprobs": (-20.0, -30.0), "ref_logprobs": (-19.0, -30.5), "lengths": (10, 20)}  # u = -1, 0.5
EQUAL = A | {"ref_logprobs": A["logprobs"]}  # the policy is the reference


def data_of(case: Mapping[str, tuple[float, ...]], **more: Any) -> dict[str, Tensor]:
    """The fields of one pair, and of its two completions as a group, in double precision."""
    of_completion = {name: torch.tensor(values).double() for name, values in case.items()}
    of_completion["log_ratios"] = of_completion["logprobs"] - of_completion["ref_logprobs"]
    for name in ("logprobs", "log_ratios"):
        of_completion[f"mean_{name}"] = of_completion[name] / of_completion["lengths"]
    of_completion["rewards"] = torch.tensor(more.pop("rewards", (1.0, 0.0))).double()
    margin = of_completion["ref_logprobs"][0] - of_completion["ref_logprobs"][1]
    margin = margin + 0.5 * (of_completion["log_ratios"][0] - of_completion["log_ratios"][1])
    of_completion["old_logprobs"] = torch.stack([margin, torch.zeros_like(margin)])  # halfway to the policy
    of_completion["past_logprobs"] = torch.stack([of_completion["old_logprobs"], of_completion["ref_logprobs"]], dim=1)
    data = {f"completion_{name}": values for name, values in of_completion.items()}
    for row, side in enumerate(("chosen", "rejected")):
        data |= {f"{side}_{name}": values[row : row + 1] for name, values in of_completion.items()}
    data |= {"chosen": torch.tensor([0]), "rejected": torch.tensor([1]), "from_policy": torch.tensor([True, False])}
    return data | {"group_ids": torch.tensor([0, 0])} | {n: torch.tensor(v).double() for n, v in more.items()}


def loss(name: str, data: Mapping[str, Any], **settings: Any) -> Tensor:
    return bind(name, LOSSES[name], settings, key="preference_loss")(data)


LN2 = math.log(2)
B01 = {"beta": 0.1}
GAP = {"rewards": (1.5, 0.0)}
KL = {"chosen_ref_kl": 2.0, "rejected_ref_kl": 5.0}
WORKED = [
    # loss, settings, sums of what two completions weigh, other fields, expected for A, for B, for policy = reference
    ("dpo", B01, 1, {}, 0.474077, 0.770957, LN2),
    ("cdpo", B01, 1, {}, 0.524077, 0.755957, LN2),
    ("robust_dpo", B01, 1, {}, 0.411577, 0.789707, LN2),
    ("hinge", B01, 1, {}, 0.5, 1.15, 1.0),
    ("ipo", {}, 1, {}, 0.0, 42.25, 25.0),
    ("ipo", {"per_token": True}, 1, {}, 21.6225, 26.265625, 25.0),
    ("exo", B01, 1, {}, 1.945734, 3.022554, 2.761230),
    ("exo_rewards", {"temperature": 1 / math.log(999)}, 0.5, {}, 1.945734, 3.022554, 2.761230),
    ("nca", B01, 0.5, {}, 1.274386, 1.425825, 2 * LN2),
    ("infonca", B01, 0.5, {}, 0.474077, 0.770957, LN2),
    ("bco_pair", B01, 1, {}, 1.152494, 1.462856, 2 * LN2),
    ("bco", B01, 1, {"mean_log_ratio": 0.0}, 1.152494, 1.462856, 2 * LN2),
    ("outcome_bce", B01, 1, {}, 1.152494, 1.462856, 2 * LN2),
    ("sppo", B01, 1, {}, 13.0, 66.25, 50.0),
    ("sppo", B01, 0.5, {"rewards": (0.8, 0.2)}, 0.5, 14.125, 9.0),
    ("apo_zero", {}, 1, {}, 0.875723, 1.037477, 1.0),
    ("apo_down", {}, 1, {}, 0.927375, 1.012451, 1.0),
    ("discopop", B01, 1, {}, 0.606525, 0.789495, 0.846574),
    ("length_normalized_dpo", B01, 1, {}, 0.675800, 0.699417, LN2),
    ("length_normalized_dpo", {}, 1, {}, 0.160224, 1.053701, LN2),
    ("dpop", B01 | {"penalty": 5.0}, 1, {}, 0.474077, 1.070055, LN2),
    ("simpo", {}, 1, {}, 2.126928, 2.126928, 2.126928),
    ("cpo", {}, 1, {}, 0.313262, 0.313262, 0.313262),
    ("slic", {}, 1, {}, 0.0, 0.0, 0.0),
    ("forward_kl_dpo", {}, 1, {}, 0.127523, 0.804299, LN2),
    ("jensen_shannon_dpo", {}, 1, {}, 0.557697, 0.735986, LN2),
    ("alpha_dpo", {}, 1, {}, 0.364099, 0.783918, LN2),
    ("inpo", {}, 1, {}, 44.444444, 121.0, 100.0),
    # h = 10 - 5/3 - (7.5 + 5)/3 in A and 10 - 11.5/3 - (10.75 + 11.5)/3 in B
    ("mnpo", {}, 1, {}, 34.027778, 126.5625, 100.0),
    ("mnpo", {"weights": [2.0, 0.0]}, 1, {}, 44.444444, 121.0, 100.0),  # the newest alone: inpo
    ("optimism", {}, 1, {}, -30.0, -30.0, -30.0),
    ("rpo_backward", B01, 1, GAP, 0.090238, 0.268542, 0.218096),
    ("rpo_forward", B01, 1, GAP, 0.104877, 0.317215, 0.258266),
    ("rpo_squared", B01, 1, GAP, 1.0, 2.7225, 2.25),
    ("aot", B01, 1, {}, 0.474077, 0.770957, LN2),
    ("aot_unpaired", B01, 1, {}, 0.474077, 0.770957, LN2),
    ("tdpo1", B01, 1, KL, 0.598139, 0.943249, 0.854355),  # D - (5 - 2)
    ("tdpo2", B01, 1, KL, 0.533382, 0.854355, 0.770957),  # D - (5 - 2) / 2
    ("kto", {}, 1, {"mismatched_kl": 0.5}, 0.462570 + 0.413382, 0.537430 + 0.5, 0.5124974 + 0.4875026),
    # -log sigmoid(2.5 (4 (1 - e^0.5) - 4 (1 - e^0.375)) - 0.1)
    ("alphapo", {}, 1, {}, 2.159853, 2.159853, 2.159853),
    ("wpo", B01, 1, {}, *(math.exp(-3.5) * value for value in (0.474077, 0.770957, LN2))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "weight", "more", "a", "b", "equal"), WORKED)
def test_two_pairs_and_an_untrained_policy(name, settings, weight, more, a, b, equal):
    found = [float(loss(name, data_of(case, **more), **settings).sum() * weight) for case in (A, B, EQUAL)]
    assert found == pytest.approx([a, b, equal], abs=1e-5)


def test_every_loss_has_a_worked_example():
    of_tokens = {"ld_dpo"}  # below
    of_odds = {"orpo"}
    assert {row[0] for row in WORKED} | of_tokens | of_odds == set(LOSSES)


def test_odds_are_of_the_probability_per_token():
    """log odds of e^-2 and e^-1.5 differ by -0.607069."""
    found = loss("orpo", data_of(A))
    assert 0.1 * float(found) == pytest.approx(0.104206, abs=1e-6)


def test_odds_keep_their_digits_at_both_ends():
    """-log sigmoid(x) of x = o_w - o_l, with o = A - log(1 - e^A)."""
    near, far = torch.tensor([-1e-4]), torch.tensor([-60.0])
    assert float(reference_free.orpo(near, far)) == pytest.approx(0.0, abs=1e-6)
    odds = -1e-4 - math.log(-math.expm1(-1e-4)) + 60.0
    assert float(reference_free.orpo(far, near)) == pytest.approx(odds, rel=1e-6)
    certain = torch.zeros(1, requires_grad=True)
    value = reference_free.orpo(far, certain)
    value.backward()
    assert value.isfinite() and certain.grad is not None and certain.grad.isfinite()


def test_desensitized_tails_count_less():
    """Response tokens of the longer completion beyond the first two count half: u_w = 1 + 2 + 0.5 * 4, u_l = 3."""
    mask = torch.tensor([[False, True, True, True], [False, False, True, True]])
    ratios = torch.tensor([[9.0, 1.0, 2.0, 4.0], [9.0, 9.0, 1.0, 2.0]])
    rows = torch.tensor([0]), torch.tensor([1])
    reference = torch.full_like(ratios, -3.0)
    found = logistic.ld_dpo(reference + ratios, reference, mask, *rows, beta=0.1, alpha=0.5)
    assert float(found) == pytest.approx(math.log1p(math.exp(-0.1 * (5 - 3))), abs=1e-6)
    whole = logistic.ld_dpo(reference + ratios, reference, mask, *rows, beta=0.1, alpha=1.0)
    assert float(whole) == pytest.approx(math.log1p(math.exp(-0.1 * (7 - 3))), abs=1e-6)


GRADIENTS = [
    ("dpo", {}, 5.0, -0.037754),
    ("robust_dpo", {}, 5.0, -0.050254),
    ("cdpo", {"label_smoothing": 0.1}, math.log(9) / 0.1, 0.0),  # its optimum: sigmoid(beta D) = 0.9
    ("ipo", {}, 5.0, 0.0),
    ("ipo", {}, 2.0, 2 * (2 - 5)),
    ("exo", {"label_smoothing": 0.1}, math.log(9) / 0.1, 0.0),
    ("rpo_forward", {"beta": 0.1, "reward_scale": 2.0}, 20.0, 0.0),  # beta D = 2 (1 - 0)
    ("rpo_backward", {"beta": 0.1, "reward_scale": 2.0}, 20.0, 0.0),
    ("rpo_squared", {"beta": 0.1, "reward_scale": 2.0}, 20.0, 0.0),
]


@pytest.mark.parametrize(("name", "settings", "margin", "gradient"), GRADIENTS)
def test_gradients_in_the_margin(name, settings, margin, gradient):
    chosen = torch.tensor([margin - 3.0], dtype=torch.float64, requires_grad=True)
    loss(name, data_of(A) | {"chosen_log_ratios": chosen}, **settings).sum().backward()
    assert chosen.grad is not None and float(chosen.grad) == pytest.approx(gradient, abs=1e-5)


def test_the_weight_of_a_pair_has_no_gradient():
    means = torch.tensor([-0.5], requires_grad=True)
    found = logistic.wpo(torch.tensor([1.0], requires_grad=True), torch.tensor([0.0]), means, means)
    found.sum().backward()
    assert means.grad is None


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.4])
def test_robust_is_unbiased_under_flips(flips):
    chosen, rejected = torch.linspace(-40, 40, 9).double(), torch.linspace(3, -7, 9).double()
    right = logistic.robust_dpo(chosen, rejected, label_smoothing=flips)
    flipped = logistic.robust_dpo(rejected, chosen, label_smoothing=flips)
    assert torch.allclose((1 - flips) * right + flips * flipped, logistic.dpo(chosen, rejected))


def test_inpo_with_the_reference_alone_is_ipo():
    data = data_of(B)
    read = [data[name] for name in inspect.signature(inpo).parameters if name in data]
    of_ipo = [data[name] for name in inspect.signature(ipo).parameters if name in data]
    assert torch.allclose(inpo(*read, eta=0.07, mixture=1.0), ipo(*of_ipo, tau=0.07))


@pytest.mark.parametrize("name", ["inpo", "mnpo"])
def test_a_graded_pair_has_the_target_of_its_chances(name):
    """h is 10/3 in A of inpo; chances of winning 0.6 and 0.5 make the target 0.1 / 0.05 = 2."""
    settings = {"weights": [1.0, 0.0]} if name == "mnpo" else {}
    found = loss(name, data_of(A, rewards=(0.6, 0.5)), graded=True, **settings)
    assert found.item() == pytest.approx((10 / 3 - 2) ** 2)
    # a certain win of two that count themselves, 0.75 and 0.25, has the target of one without grades
    certain = data_of(A, rewards=(0.75, 0.25))
    assert torch.allclose(loss(name, certain, graded=True, **settings), loss(name, certain, **settings))


def test_optimism_lowers_what_others_wrote():
    """Its gradient step makes the reference's completion less likely, whichever side of the pair it is on."""
    for from_policy in ([True, False], [False, True]):
        data = data_of(A) | {"from_policy": torch.tensor(from_policy)}
        leaf = {name: data[name].clone().requires_grad_() for name in ("chosen_logprobs", "rejected_logprobs")}
        loss("optimism", data | leaf).sum().backward()
        found = [leaf[name].grad for name in ("chosen_logprobs", "rejected_logprobs")]
        assert [float(one) if one is not None else 0.0 for one in found] == [float(not own) for own in from_policy]


def test_a_small_alpha_is_dpo():
    read = data_of(A)["chosen_log_ratios"], data_of(A)["rejected_log_ratios"]
    assert torch.allclose(divergences.alpha_dpo(*read, alpha=1e-6), logistic.dpo(*read), atol=1e-5)


def test_bco_shifts_by_the_mean_log_ratio():
    """The mean of A's log ratios is -0.5."""
    assert float(loss("bco", data_of(A, mean_log_ratio=-0.5), **B01).sum()) == pytest.approx(1.151879, abs=1e-6)
    assert float(loss("bco", data_of(B, mean_log_ratio=-0.25), **B01).sum()) == pytest.approx(1.462700, abs=1e-6)


@pytest.mark.parametrize("name", ["bco", "kto", "sppo", "nca", "infonca", "exo_rewards"])
def test_completions_without_a_reward_change_nothing(name):
    data = data_of(A, mean_log_ratio=0.3, mismatched_kl=0.3)
    own = {name: values for name, values in data.items() if name.startswith("completion_") and values.dim() == 1}
    missing = {"completion_rewards": math.nan}
    wide = {n: torch.cat([values, torch.tensor([missing.get(n, -5.0)]).double()]) for n, values in own.items()}
    found = loss(name, data | wide | {"group_ids": torch.tensor([0, 0, 0])})
    assert torch.allclose(found[:2], loss(name, data)) and float(found[2]) == 0


def test_kto_weighs_the_two_kinds():
    found = loss("kto", data_of(A, mismatched_kl=0.5), desirable_weight=2.0, undesirable_weight=3.0)
    assert found.tolist() == pytest.approx([2 * 0.462570, 3 * 0.413382], abs=1e-5)


def test_groups_of_several_completions():
    """Two groups of sizes 3 and 1; q and p of the first are softmaxes over its three completions."""
    u, r = torch.tensor([1.0, -2.0, 0.5, 4.0]).double(), torch.tensor([0.2, 0.0, 0.7, 1.0]).double()
    ids = torch.tensor([8, 8, 8, 3])
    q, p = (r[:3] / 0.5).softmax(0), (0.3 * u[:3]).softmax(0)
    settings = {"beta": 0.3, "temperature": 0.5}
    data = {"completion_log_ratios": u, "completion_rewards": r, "group_ids": ids}
    infonca = loss("infonca", data, **settings)
    assert torch.allclose(infonca, torch.cat([-3 * q * p.log(), torch.zeros(1)]))
    reverse = loss("exo_rewards", data, **settings)
    assert torch.allclose(reverse, torch.cat([3 * p * (p / q).log(), torch.zeros(1)]))
    nca = loss("nca", data, **settings)
    rises, holds = -(0.3 * u).sigmoid().log(), -(-0.3 * u).sigmoid().log()
    assert torch.allclose(nca, torch.cat([3 * q * rises[:3] + holds[:3], rises[3:] + holds[3:]]))


def test_a_softmax_over_groups_is_one_of_each():
    values = torch.tensor([1.0, 900.0, 2.0, 899.0, -5.0])
    there = torch.tensor([True, True, True, True, False])
    found = group_log_softmax(values, torch.tensor([1, 0, 1, 0, 4]), there)
    assert torch.allclose(found[[0, 2]], values[[0, 2]].log_softmax(0))
    assert torch.allclose(found[[1, 3]], values[[1, 3]].log_softmax(0)) and found.isfinite().all()


def test_transport_compares_ranks():
    """Margins 1, 5 against the reference's 4, 3: ranks 1 - 3 and 5 - 4, each at the place of the policy's margin."""
    policy, reference = torch.tensor([5.0, 1.0]), torch.tensor([4.0, 3.0])
    zero = torch.zeros(2)
    by_rank = [math.log1p(math.exp(-0.5 * margin)) for margin in (5 - 4, 1 - 3)]
    data = {"chosen_logprobs": policy, "rejected_logprobs": zero}
    data |= {"chosen_ref_logprobs": reference, "rejected_ref_logprobs": zero}
    assert loss("aot", data, beta=0.5).tolist() == pytest.approx(by_rank)
    unpaired = {"chosen_log_ratios": policy, "rejected_log_ratios": reference}
    assert loss("aot_unpaired", unpaired, beta=0.5).tolist() == pytest.approx(by_rank)
    assert all(getattr(LOSSES[name], compares_all.__name__, False) for name in ("aot", "aot_unpaired"))


FAR = -1e4
EXTREMES = [((0.0, FAR), (FAR, 0.0)), ((FAR, 0.0), (0.0, FAR)), ((0.0, 0.0), (0.0, 0.0))]


@pytest.mark.parametrize("name", sorted({row[0] for row in WORKED}))
def test_far_from_the_reference_every_loss_is_finite(name):
    for policy, reference in EXTREMES:
        case = {"logprobs": policy, "ref_logprobs": reference, "lengths": (10, 20)}
        data = {n: v.float() if v.is_floating_point() else v for n, v in data_of(case).items()}
        data |= dict.fromkeys(("mean_log_ratio", "mismatched_kl", *KL), torch.tensor(0.0))
        data = {n: v.requires_grad_() if n.endswith(("logprobs", "log_ratios")) else v for n, v in data.items()}
        found = loss(name, data)
        found.sum().backward()
        assert found.isfinite().all()
        assert all(v.grad is None or v.grad.isfinite().all() for v in data.values())


REFUSED = [
    *((name, {"beta": 0.0}) for name, function in LOSSES.items() if "beta" in inspect.signature(function).parameters),
    *((name, {"label_smoothing": 0.5}) for name in ("cdpo", "robust_dpo", "exo")),
    ("exo", {"label_smoothing": 0.0}),
    ("alpha_dpo", {"alpha": 0.0}),
    ("ipo", {"tau": 0.0}),
    ("inpo", {"eta": 0.0}),
    ("inpo", {"mixture": 1.5}),
    ("mnpo", {"eta": 0.0}),
    ("mnpo", {"mixture": -0.5}),
    ("mnpo", {"weights": [1.0]}),
    ("mnpo", {"weights": [0.0, 0.0]}),
    ("mnpo", {"weights": [2.0, -1.0]}),
    ("dpop", {"penalty": -1.0}),
    ("simpo", {"gamma": -1.0}),
    ("slic", {"margin": -1.0}),
    ("infonca", {"temperature": 0.0}),
    ("kto", {"undesirable_weight": -1.0}),
    ("discopop", {"tau": 0.0}),
    ("rpo_squared", {"reward_scale": 0.0}),
    ("ld_dpo", {"alpha": 1.5}),
    ("tdpo2", {"alpha": -1.0}),
]


@pytest.mark.parametrize(("name", "settings"), REFUSED)
def test_settings_out_of_range(name, settings):
    mask = torch.ones(2, 2, dtype=torch.bool)
    rows = {"chosen": torch.tensor([0]), "rejected": torch.tensor([1]), "response_mask": mask}
    of_tokens = {"logprobs": torch.zeros(2, 2), "ref_logprobs": torch.zeros(2, 2)} | rows
    with pytest.raises(ValueError, match=next(iter(settings))):
        loss(name, data_of(A, mean_log_ratio=0.0, mismatched_kl=0.0, **KL) | of_tokens, **settings)
