"""The conditional density against loops over its formula, and its width against a search of the likelihood."""

import math

import numpy as np
import pytest
import torch

from zennit_neon import kde
from zennit_neon.kde import ConditionalKDE, bandwidth

KNOWN = {"none": (), "one": (1,), "two": (0, 2), "all but one": (0, 1, 2)}


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _probabilities(z, X, features, sigma):
    """Probability of each data point given some features of a point, by a loop."""
    weights = [math.exp(-sum((z[i] - x[i]) ** 2 for i in features) / (2 * sigma**2)) for x in X]
    return np.array(weights) / sum(weights)


def _mask(features, d=4):
    mask = torch.zeros(d, dtype=torch.bool)
    mask[list(features)] = True
    return mask


def _counts(density, squared, draws, generator):
    """How often each data point is drawn."""
    found = density.draw(squared.expand(draws, -1).contiguous(), generator)
    return found.bincount(minlength=len(density.X)).numpy()


def _chi_square(counts, probability):
    """Statistic over its degrees of freedom, of the points that are expected 5 times or more; the rest is one group."""
    expected = probability * counts.sum()
    large = expected >= 5
    seen, hoped = counts[large].tolist(), expected[large].tolist()
    if expected[~large].sum() >= 5:
        seen.append(counts[~large].sum())
        hoped.append(expected[~large].sum())
    seen, hoped = np.array(seen), np.array(hoped)
    return float(((seen - hoped) ** 2 / hoped).sum()), len(hoped) - 1


def _assert_drawn(counts, probability):
    """Within 4 standard deviations of what chi-square is expected to be, and never where the probability is 0."""
    statistic, freedom = _chi_square(counts, probability)
    assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 4
    assert not counts[probability < 1e-12].any()


@pytest.mark.parametrize("features", KNOWN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_data_points_are_drawn_as_the_formula_says(rng, features, dtype):
    X, z = rng.normal(size=(25, 4)), rng.normal(size=4)
    density = ConditionalKDE(torch.tensor(X, dtype=dtype), 0.6)
    squared = density.squared(torch.tensor(z[None], dtype=dtype), _mask(KNOWN[features])[None])
    counts = _counts(density, squared, 40_000, _generator())
    _assert_drawn(counts, _probabilities(z, X, KNOWN[features], 0.6))
    other = _probabilities(z, X, KNOWN[features], 1.2)  # the test can tell
    if features != "none":
        statistic, freedom = _chi_square(counts, other)
        assert statistic > 10 * freedom


def test_squared_distances_are_over_known_features(rng):
    X, Z = rng.normal(size=(9, 4)), rng.normal(size=(6, 4))
    known = torch.from_numpy(rng.random((6, 4)) < 0.5)
    found = ConditionalKDE(torch.from_numpy(X), 1.0).squared(torch.from_numpy(Z), known)
    for m, z in enumerate(Z):
        for n, x in enumerate(X):
            expected = sum((z[i] - x[i]) ** 2 for i in range(4) if known[m, i])
            assert float(found[m, n]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 1e4), (torch.float64, 1e8)])
def test_squared_distances_are_right_far_from_the_origin(rng, dtype, shift):
    X = torch.from_numpy(rng.normal(size=(40, 3)) + shift).to(dtype)
    known = torch.ones(40, 3, dtype=torch.bool)
    known[::2, 1] = False
    found = ConditionalKDE(X, 0.3).squared(X, known)
    difference = (X.double()[:, None] - X.double()) * known[:, None]
    torch.testing.assert_close(found.double(), difference.square().sum(2), rtol=1e-3, atol=1e-3)


def test_known_features_stay_and_others_are_copied_with_noise(rng):
    X = torch.from_numpy(rng.normal(size=(30, 4)))
    sigma, draws = 0.2, 20_000
    density = ConditionalKDE(X, sigma)
    known = _mask((1, 3)).expand(draws, -1)
    z = X[5].expand(draws, -1)
    squared = torch.full((draws, 30), 1e6, dtype=torch.float64)
    squared[:, 7] = 0  # no doubt about the point
    found = density.complete(z, known, squared, _generator())
    assert torch.equal(found[:, [1, 3]], z[:, [1, 3]])
    noise = found[:, [0, 2]] - X[7, [0, 2]]
    assert float(noise.mean().abs()) < 5 * sigma / math.sqrt(2 * draws)
    assert float(noise.std()) == pytest.approx(sigma, rel=0.02)
    assert abs(float((noise[:, 0] * noise[:, 1]).mean())) < 5 * sigma**2 / math.sqrt(draws)  # independent
    assert float(noise.abs().amax()) > 3.5 * sigma  # and not cut off


def test_completion_has_the_mixture_as_its_distribution(rng):
    """Mean and variance of the features that are drawn, from the weights by a loop."""
    X, z, sigma, draws = rng.normal(size=(12, 4)), rng.normal(size=4), 0.5, 50_000
    density = ConditionalKDE(torch.from_numpy(X), sigma)
    known = _mask((0, 2))[None]
    squared = density.squared(torch.from_numpy(z[None]), known).expand(draws, -1).contiguous()
    rows = torch.from_numpy(z).expand(draws, -1)
    found = density.complete(rows, known.expand(draws, -1), squared, _generator()).numpy()
    probability = _probabilities(z, X, (0, 2), sigma)
    for i in (1, 3):
        mean = probability @ X[:, i]
        variance = probability @ (X[:, i] - mean) ** 2 + sigma**2
        assert found[:, i].mean() == pytest.approx(mean, abs=5 * math.sqrt(variance / draws))
        assert found[:, i].var() == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sigma", [1e-3, 1e-8, 1e-25])
def test_the_nearest_point_wins_where_all_weights_underflow(rng, dtype, sigma):
    X = torch.tensor(rng.normal(size=(50, 3)), dtype=dtype)
    z = torch.tensor([[300.0, -200.0, 500.0]], dtype=dtype)
    density = ConditionalKDE(X, sigma)
    squared = (z[:, None].double() - X.double()).square().sum(2)
    found = density.draw(squared.to(dtype).expand(20, -1).contiguous(), _generator())
    assert torch.equal(found, squared.argmin(1).expand(20))
    completed = density.complete(z, torch.tensor([[True, True, False]]), squared.to(dtype), _generator())
    assert bool(torch.isfinite(completed).all())


@pytest.mark.parametrize("uniform", [0.0, 1 - 2.0**-24])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
def test_the_ends_of_the_unit_interval_draw_no_point_without_weight(monkeypatch, uniform, place):
    """A random number may be 0 itself, and be rounded up to 1."""
    n = 40
    near = {"first": [0, 1], "middle": [18, 21], "last": [n - 2, n - 1]}[place]
    squared = torch.full((1, n), 1e8)
    squared[:, near] = 0.1
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.full(shape, uniform, dtype=options["dtype"]))
    found = ConditionalKDE(torch.zeros(n, 2), 1.0).draw(squared, _generator())
    assert found.tolist() == [near[0] if uniform == 0 else near[1]]


def test_equal_points_are_drawn_equally_often():
    density = ConditionalKDE(torch.zeros(8, 2, dtype=torch.float64), 1e-6)
    counts = _counts(density, torch.zeros(1, 8, dtype=torch.float64), 40_000, _generator())
    _assert_drawn(counts, np.full(8, 1 / 8))


def test_draws_are_reproducible_and_leave_the_global_generator(rng):
    X = torch.from_numpy(rng.normal(size=(30, 3)))
    density, known = ConditionalKDE(X, 0.5), torch.zeros(30, 3, dtype=torch.bool)
    before = torch.get_rng_state()
    one, same, other = (density.complete(X, known, density.squared(X, known), _generator(s)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_blocks_hold_few_distances(monkeypatch):
    assert ConditionalKDE(torch.zeros(1000, 2), 1.0).block() * 1000 <= kde.BLOCK
    monkeypatch.setattr(kde, "BLOCK", 10)
    assert ConditionalKDE(torch.zeros(1000, 2), 1.0).block() == 1


# --- width ---


def _likelihood(X, sigma):
    """Leave-one-out log-likelihood, by loops."""
    n, d = X.shape
    total = 0.0
    for i in range(n):
        terms = [-float(np.sum((X[i] - X[j]) ** 2)) / (2 * sigma**2) for j in range(n) if j != i]
        top = max(terms)
        total += top + math.log(sum(math.exp(t - top) for t in terms)) - math.log(n - 1)
        total -= d * math.log(sigma) + d / 2 * math.log(2 * math.pi)
    return total


def _likelihoods(X, sigmas):
    """The same for many widths at once."""
    n, d = X.shape
    squared = ((X[:, None] - X) ** 2).sum(2)
    np.fill_diagonal(squared, np.inf)
    near = squared.min(1)
    values = []
    for s in sigmas:
        inner = np.exp((near[:, None] - squared) / (2 * s**2)).sum(1)
        each = np.log(inner) - near / (2 * s**2) - math.log(n - 1) - d * math.log(s) - d / 2 * math.log(2 * math.pi)
        values.append(each.sum())
    return np.array(values)


def _sample(rng, kind):
    if kind == "normal":
        return rng.normal(size=(40, 3))
    if kind == "lumps":
        return np.concatenate([rng.normal(size=(15, 2)) * 0.01 + 5 * k for k in range(3)])
    if kind == "outlier":
        return np.concatenate([rng.normal(size=(40, 2)), [[200.0, 0.0]]])
    if kind == "scales":
        return rng.normal(size=(40, 3)) * [1.0, 100.0, 0.01]
    if kind == "three":
        return rng.normal(size=(3, 2))
    return rng.normal(size=(60, 12))


@pytest.mark.parametrize("kind", ["normal", "lumps", "outlier", "scales", "three", "wide"])
def test_width_is_that_of_the_largest_leave_one_out_likelihood(rng, kind):
    X = _sample(rng, kind)
    found = bandwidth(torch.from_numpy(X))
    for sigma in (found, 0.7, 30.0):  # the quick form of the test itself
        assert _likelihoods(X, [sigma])[0] == pytest.approx(_likelihood(X, sigma), rel=1e-9)
    grid = np.exp(np.linspace(math.log(1e-4), math.log(1e4), 4000))
    values = _likelihoods(X, grid)
    best = values.max()
    assert _likelihood(X, found) >= best - 1e-3
    assert abs(math.log(found / grid[values.argmax()])) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_width_scales_with_the_data_and_does_not_move_with_it(rng, dtype):
    X = torch.from_numpy(rng.normal(size=(60, 3))).to(dtype)
    width = bandwidth(X)
    assert bandwidth(X * 1024) == pytest.approx(1024 * width, rel=1e-3)
    assert bandwidth(X / 1024) == pytest.approx(width / 1024, rel=1e-3)
    assert bandwidth(X + 64) == pytest.approx(width, rel=1e-3)
    assert bandwidth(X[:, [2, 0, 1]]) == pytest.approx(width, rel=1e-3)
    assert bandwidth(X.flip(0)) == pytest.approx(width, rel=1e-3)
    assert ConditionalKDE(X).sigma == width


def test_points_that_repeat_count_once(rng):
    X = torch.from_numpy(rng.normal(size=(40, 3)))
    again = torch.cat([X, X, X[:7]])
    assert bandwidth(again) == bandwidth(X)
    with pytest.raises(ValueError, match="at least 3 different points, got 2; give bandwidth"):
        bandwidth(torch.cat([X[:2]] * 50))


def test_many_points_are_sampled_reproducibly(rng):
    X = torch.from_numpy(rng.normal(size=(900, 2)))
    whole = bandwidth(X)
    one, same, other = (bandwidth(X, most=300, random_state=s) for s in (1, 1, 2))
    assert one == same != other
    assert one != whole
    assert one == pytest.approx(whole, rel=0.5)
    assert bandwidth(X, most=900) == whole
    before = torch.get_rng_state()
    bandwidth(X, most=300)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("X", [torch.zeros(5), torch.zeros(0, 3), torch.zeros(4, 3, 2)])
def test_refuses_data_of_another_shape(X):
    with pytest.raises(ValueError, match=r"X must have shape \(N, d\) with at least one point, got"):
        ConditionalKDE(X, 1.0)


@pytest.mark.parametrize("sigma", [0, -1.0, math.inf, math.nan])
def test_refuses_a_width_that_is_none(sigma):
    with pytest.raises(ValueError, match="bandwidth must be a number above 0, got"):
        ConditionalKDE(torch.zeros(5, 2), sigma)
