from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.ops.value_losses import bootstrapped, bounded, categorical, huber, squared
from llmrl.ops.values import expectation, softmin

seeds = st.integers(0, 10_000)


def one(*heads: float):
    return torch.tensor([[heads]], dtype=torch.float)


def value_and_gradient(function, outputs, *data, **chosen):
    leaf = outputs.clone().requires_grad_()
    result = function(leaf, *data, **chosen)
    result.loss.sum().backward()
    return result.loss.detach(), leaf.grad


class TestBounded:
    def test_by_hand(self):
        # range -1 to 3, return 2: place 3/4; heads of sigmoid 1/2 and 3/4: the gradients are (sigmoid - 3/4) / 2
        outputs = one(0, math.log(3))
        loss, gradient = value_and_gradient(bounded, outputs, torch.tensor([[2.0]]), low=-1, high=3)
        entropy = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
        assert loss.item() == pytest.approx((math.log(2) + entropy) / 2)
        assert gradient.flatten().tolist() == pytest.approx([-0.125, 0.0], abs=1e-6)
        found = bounded(outputs, torch.tensor([[2.0]]), low=-1, high=3)
        assert found.stats["value_error"].item() == pytest.approx(0.5)  # 1.5 less 2

    def test_returns_outside_count_as_the_ends_and_unknown_ones_not_at_all(self):
        outputs, returns = torch.zeros(1, 3, 1), torch.tensor([[5.0, math.nan, 0.5]])
        loss, gradient = value_and_gradient(bounded, outputs, returns)
        assert loss[0].tolist() == pytest.approx([math.log(2), 0, math.log(2)])
        assert gradient.flatten().tolist() == [-0.5, 0, 0]
        assert bounded(outputs, returns).stats["returns_outside"].tolist() == [[1, 0, 0]]


class TestSquared:
    def test_by_hand(self):
        # heads 1 and 4, return 2: (1/2 1 + 1/2 4) / 2 = 1.25; the mean of the heads is 2.5, off by .5
        found = squared(one(1, 4), one(0, 0), torch.tensor([[2.0]]))
        assert found.loss.item() == 1.25
        assert {name: x.item() for name, x in found.stats.items()} == {"value_error": 0.5}

    @pytest.mark.parametrize(
        ("value", "loss", "gradient"),
        [
            # old 0, clip .5, return 1: the head held is at most .5, so 1/2 (.5 - 1)^2 = .125 is the least loss
            (0.25, 0.28125, -0.75),  # inside the clip: 1/2 .75^2
            (0.75, 0.125, 0),  # moved past it towards the return: no more pull
            (1.75, 0.28125, 0.75),  # past the return by .75: 1/2 .75^2 is the larger, pulls back
            (-0.75, 1.53125, -1.75),  # moved away by more than the clip: 1/2 1.75^2 is the larger, pulls
        ],
    )
    def test_clip(self, value, loss, gradient):
        data = one(0), torch.tensor([[1.0]])
        assert [x.item() for x in value_and_gradient(squared, one(value), *data, clip=0.5)] == [loss, gradient]

    def test_clip_fraction_counts_heads(self):
        found = squared(one(0.4, 0.6, -0.7, 0.0), one(0, 0, 0, 0), torch.tensor([[0.0]]), clip=0.5)
        assert found.stats["value_clip_fraction"].item() == 0.5

    @pytest.mark.parametrize("clip", [None, 0.3])
    def test_naive_loop(self, ragged, clip):
        rows = ragged(1)
        outputs, old = (torch.stack([rows.noise() for _ in range(3)], -1) for _ in range(2))
        returns = torch.where(rows.mask, rows.noise(), math.nan)
        found = squared(outputs, old, returns, clip=clip).loss
        for i in range(len(returns)):
            for t in range(returns.shape[1]):
                total = 0.0
                for v, before in zip(outputs[i, t].tolist(), old[i, t].tolist(), strict=True):
                    target = returns[i, t].item()
                    held = v if clip is None else min(max(v, before - clip), before + clip)
                    total += max((v - target) ** 2, (held - target) ** 2) / 2 / 3
                expected = total if rows.mask[i, t] else 0.0
                assert found[i, t].item() == pytest.approx(expected, abs=1e-5)


class TestBootstrapped:
    def test_by_hand(self):
        # u = .3: frac .3, .918, .536 under .6 at heads 0 and 2, with weights 1 / (.6 3)
        # errors 1, 2, 3 -> (1/2 + 9/2) / 1.8
        data = one(0, 0, 0), torch.tensor([[0.0]]), torch.tensor([[0.3]])
        loss, gradient = value_and_gradient(bootstrapped, one(1, 2, 3), *data, fraction=0.6)
        assert loss.item() == pytest.approx(5 / 1.8)
        assert gradient.flatten().tolist() == pytest.approx([1 / 1.8, 0, 3 / 1.8])

    def test_a_trajectory_is_used_whole(self):
        # only the first draw of a row counts
        uniform_noise = torch.rand(40, 6, generator=torch.Generator().manual_seed(0))
        outputs, old, returns = torch.ones(40, 6, 4), torch.zeros(40, 6, 4), torch.zeros(40, 6)
        _, gradient = value_and_gradient(bootstrapped, outputs, old, returns, uniform_noise)
        used = gradient != 0
        assert torch.equal(used, used[:, :1].expand_as(used))
        assert not torch.equal(used[:, 0, 0], used[:, 0, 1])

    @pytest.mark.parametrize("fraction", [0.25, 0.5, 0.8])
    def test_every_head_uses_its_fraction_and_the_mean_is_that_of_squared(self, fraction):
        # noise on a fine even grid: the expectation over them
        uniform_noise = torch.arange(1000)[:, None] / 1000
        outputs = one(1, 2, 3, 4).expand(1000, 1, 4)
        old, returns = torch.zeros_like(outputs), torch.full((1000, 1), 0.5)
        loss, gradient = value_and_gradient(bootstrapped, outputs, old, returns, uniform_noise, fraction=fraction)
        torch.testing.assert_close((gradient != 0).float().mean(0)[0], torch.full((4,), fraction), atol=2e-3, rtol=0)
        assert loss.mean().item() == pytest.approx(squared(outputs, old, returns).loss.mean().item(), rel=1e-2)
        heads_per_trajectory = (gradient != 0).sum(-1)
        assert (heads_per_trajectory - fraction * 4).abs().max() <= 1.25

    @settings(max_examples=30)
    @given(seed=seeds, clip=st.none() | st.floats(0.1, 1))
    def test_a_fraction_of_one_is_squared(self, ragged, seed, clip):
        rows = ragged(seed)
        outputs, old = (torch.stack([rows.noise() for _ in range(3)], -1) for _ in range(2))
        returns = torch.where(rows.mask, rows.noise(), math.nan)
        found = bootstrapped(outputs, old, returns, torch.rand(returns.shape), fraction=1.0, clip=clip)
        expected = squared(outputs, old, returns, clip=clip)
        torch.testing.assert_close(found.loss, expected.loss)
        torch.testing.assert_close(found.stats, expected.stats)


class TestHuber:
    def test_by_hand(self):
        # delta .5, errors .4 and 2: .08 and .5 (2 - .25) = .875, the mean .4775; slopes .4 / 2 and .5 / 2
        loss, gradient = value_and_gradient(huber, one(0.4, 2), one(0, 0), torch.tensor([[0.0]]))
        assert loss.item() == pytest.approx(0.4775)
        assert gradient.flatten().tolist() == pytest.approx([0.2, 0.25])

    def test_clip_halves_the_pull(self):
        # old 0, clip .25, value .75, return 1: h(-.25) = .03125 and held at .25 h(-.75) = .5 (.75 - .25) = .25
        data = one(0), torch.tensor([[1.0]])
        loss, gradient = value_and_gradient(huber, one(0.75), *data, clip=0.25)
        assert loss.item() == pytest.approx((0.03125 + 0.25) / 2)
        assert gradient.item() == pytest.approx(-0.125)  # half of .75 - 1; the held one is constant
        # within the clip both halves are the same
        inside, plain = (value_and_gradient(huber, one(0.1), *data, clip=clip) for clip in (0.25, None))
        assert [x.item() for x in inside] == pytest.approx([x.item() for x in plain])

    def test_of_the_soft_minimum(self):
        # heads 1 and .5: V = .656042 (temperature .3); return 1: 1/2 .343958^2; weights softmax(-v / .3)
        data = one(0, 0), torch.tensor([[1.0]])
        loss, gradient = value_and_gradient(huber, one(1, 0.5), *data, softmin_temperature=0.3)
        assert loss.item() == pytest.approx(0.343958**2 / 2, abs=1e-6)
        weights = torch.softmax(-torch.tensor([1, 0.5]) / 0.3, 0)
        torch.testing.assert_close(gradient.flatten(), -0.343958 * weights, atol=1e-6, rtol=0)

    def test_the_soft_minimum_is_what_is_clipped(self):
        outputs, old, returns = one(1, 0.5), one(0.2, 0.1), torch.tensor([[1.0]])
        found = huber(outputs, old, returns, clip=0.2, softmin_temperature=0.3)
        joint, before = (softmin(x).unsqueeze(-1) for x in (outputs, old))
        assert found.loss.item() == pytest.approx(huber(joint, before, returns, clip=0.2).loss.item())
        assert found.stats["value_error"].item() == pytest.approx(0.343958, abs=1e-6)
        assert found.stats["value_clip_fraction"].item() == 1

    def test_a_wide_delta_is_squared(self):
        generator = torch.Generator().manual_seed(0)
        outputs, old = torch.randn(2, 3, 4, 2, generator=generator)
        returns = torch.randn(3, 4, generator=generator)
        wide = huber(outputs, old, returns, delta=100.0).loss
        torch.testing.assert_close(wide, squared(outputs, old, returns).loss)


class TestCategorical:
    BINS = torch.linspace(-1, 2, 4)

    def target(self, value, smoothing, bin_values=4):
        """The histogram is what the gradient leaves of the softmax: dloss/dlogits = softmax - q."""
        outputs = torch.zeros(1, 1, bin_values)
        data = {"low": -1, "high": 2, "smoothing": smoothing}
        _, gradient = value_and_gradient(categorical, outputs, torch.tensor([[value]]), **data)
        return (1 / bin_values - gradient).flatten()

    @pytest.mark.parametrize(
        ("value", "histogram"),
        [
            (0.25, [0, 0.75, 0.25, 0]),
            (1.0, [0, 0, 1, 0]),
            (2.0, [0, 0, 0, 1]),
            (7.0, [0, 0, 0, 1]),  # held at high
            (-7.0, [1, 0, 0, 0]),
        ],
    )
    def test_two_hot_by_hand(self, value, histogram):
        assert self.target(value, 0).tolist() == pytest.approx(histogram, abs=1e-6)

    def test_two_hot_loss_by_hand(self):
        # logits log(.1 .2 .3 .4), return .25: -(.75 log .2 + .25 log .3)
        outputs = one(0.1, 0.2, 0.3, 0.4).log()
        found = categorical(outputs, torch.tensor([[0.25]]), low=-1, high=2, smoothing=0)
        assert found.loss.item() == pytest.approx(-(0.75 * math.log(0.2) + 0.25 * math.log(0.3)))
        # the expectation is -.1 + .3 + .8 = 1
        assert found.stats["value_error"].item() == pytest.approx(0.75)
        assert found.stats["returns_outside"].item() == 0
        assert categorical(outputs, torch.tensor([[2.5]]), low=-1, high=2).stats["returns_outside"].item() == 1

    @pytest.mark.parametrize("smoothing", [0.3, 0.75, 2.0])
    @pytest.mark.parametrize("value", [-1.0, 0.1, 1.5])
    def test_gaussian_naive_loop(self, smoothing, value):
        def phi(x):
            return (1 + math.erf(x / smoothing / math.sqrt(2))) / 2

        mass = [phi(z + 0.5 - value) - phi(z - 0.5 - value) for z in self.BINS.tolist()]
        expected = [x / sum(mass) for x in mass]
        assert self.target(value, smoothing).tolist() == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("smoothing", [0, 0.75])
    @settings(max_examples=30)
    @given(value=st.floats(-0.5, 1.5))
    def test_the_mean_of_the_histogram_is_the_return(self, smoothing, value):
        target = self.target(value, smoothing, bin_values=31)  # .1 apart: 5 bin_values from either end
        assert (target @ torch.linspace(-1, 2, 31)).item() == pytest.approx(value, abs=1e-4)
        assert target.sum().item() == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("smoothing", [0, 0.75])
    def test_training_brings_the_expectation_to_the_return(self, smoothing):
        outputs = torch.zeros(1, 3, 21, requires_grad=True)
        returns = torch.tensor([[0.0, 0.37, 1.0]])
        for _ in range(200):
            loss = categorical(outputs, returns, low=-1, high=2, smoothing=smoothing).loss
            (gradient,) = torch.autograd.grad(loss.sum(), outputs)
            outputs = (outputs - 2 * gradient).detach().requires_grad_()
        torch.testing.assert_close(expectation(outputs, low=-1, high=2), returns, atol=0.02, rtol=0)


ALL = {
    "squared": lambda o, old, r, uniform_noise: squared(o, old, r),
    "squared clip": lambda o, old, r, uniform_noise: squared(o, old, r, clip=0.2),
    "bootstrapped": lambda o, old, r, uniform_noise: bootstrapped(o, old, r, uniform_noise, clip=0.2),
    "huber": lambda o, old, r, uniform_noise: huber(o, old, r, clip=0.2),
    "huber softmin": lambda o, old, r, uniform_noise: huber(o, old, r, clip=0.2, softmin_temperature=0.3),
    "two-hot": lambda o, old, r, uniform_noise: categorical(o, r, low=-1, high=1, smoothing=0),
    "categorical": lambda o, old, r, uniform_noise: categorical(o, r, low=-1, high=1),
}


def data_of(rows, heads=3):
    outputs, old = (torch.stack([rows.noise() for _ in range(heads)], -1) for _ in range(2))
    returns = torch.where(rows.mask, rows.noise(), math.nan)
    return outputs, old, returns, torch.rand(returns.shape, generator=rows.generator)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("junk", [math.nan, math.inf])
def test_tokens_without_a_target_have_no_loss_and_no_gradient(ragged, name, junk):
    rows = ragged(2)
    outputs, old, returns, uniform_noise = data_of(rows)
    there = rows.mask.unsqueeze(-1)
    plain, plain_gradient = value_and_gradient(ALL[name], outputs, old, returns, uniform_noise)
    broken = torch.where(there, outputs, junk), torch.where(there, old, junk)
    loss, gradient = value_and_gradient(ALL[name], *broken, returns, uniform_noise)
    assert torch.equal(loss, plain)
    assert torch.equal(gradient, plain_gradient)
    assert not loss[~rows.mask].any()
    assert not gradient[~rows.mask].any()
    assert gradient.isfinite().all()
    assert gradient[rows.mask].any()
    for stat in ALL[name](*broken, returns, uniform_noise).stats.values():
        assert stat.shape == returns.shape
        assert stat.isfinite().all()
        assert not stat[~rows.mask].any()
        assert not stat.requires_grad


@pytest.mark.parametrize("name", ALL)
def test_no_target_at_all(ragged, name):
    outputs, old, returns, uniform_noise = data_of(ragged(3))
    loss, gradient = value_and_gradient(ALL[name], outputs, old, torch.full_like(returns, math.nan), uniform_noise)
    assert not loss.any()
    assert not gradient.any()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=30)
@given(seed=seeds, data=st.data())
def test_each_row_is_alone_and_padding_changes_nothing(ragged, name, seed, data):
    rows = data_of(ragged(seed))
    plain = ALL[name](*rows).loss
    order = torch.tensor(data.draw(st.permutations(range(len(plain)))))[:4]
    torch.testing.assert_close(ALL[name](*(x[order] for x in rows)).loss, plain[order])
    outputs, old, returns, uniform_noise = rows
    pad = torch.nn.functional.pad
    wide = ALL[name](
        pad(outputs, (0, 0, 0, 2)),
        pad(old, (0, 0, 0, 2)),
        pad(returns, (0, 2), value=math.nan),
        pad(uniform_noise, (0, 2)),
    )
    torch.testing.assert_close(wide.loss[:, :-2], plain)


@pytest.mark.parametrize("name", ["squared", "squared clip", "bootstrapped", "huber", "huber softmin"])
def test_heads_at_the_return_have_no_loss(name):
    outputs, returns = torch.full((2, 3, 4), 0.5), torch.full((2, 3), 0.5)
    loss, gradient = value_and_gradient(ALL[name], outputs, outputs, returns, torch.rand(2, 3))
    assert loss.abs().max() < 1e-6
    assert gradient.abs().max() < 1e-6


@pytest.mark.parametrize(
    ("function", "wrong", "message"),
    [
        (squared, {"clip": 0.0}, "clip: 0.0"),
        (huber, {"clip": -1.0}, "clip: -1.0"),
        (huber, {"delta": 0.0}, "delta: 0.0"),
        (huber, {"softmin_temperature": 0.0}, "softmin_temperature: 0.0"),
        (bootstrapped, {"fraction": 0.0}, "fraction: 0.0"),
        (bootstrapped, {"fraction": 1.5}, "fraction: 1.5"),
        (bootstrapped, {"clip": 0.0}, "clip: 0.0"),
        (categorical, {"low": 1.0, "high": 0.0}, "low: 1.0"),
        (categorical, {"low": 0.0, "high": 1.0, "smoothing": -1.0}, "smoothing: -1.0"),
    ],
)
def test_settings_out_of_range(ragged, function, wrong, message):
    outputs, old, returns, uniform_noise = data_of(ragged(0))
    data = {categorical: (returns,), bootstrapped: (old, returns, uniform_noise)}.get(function, (old, returns))
    with pytest.raises(ValueError, match=message):
        function(outputs, *data, **wrong)


def test_a_histogram_needs_two_outputs():
    with pytest.raises(ValueError, match="outputs: 1 per token"):
        categorical(one(1), torch.tensor([[0.5]]), low=0, high=1)
