"""Spaces in which distances to labelled points are measured."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf

from zennit_neon.estimators.spaces import RAW, SHRUNK, SPACES, STANDARDISED, WHITENED, WIDEST, Space


def _data(n=80, d=5, n_clusters=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_clusters
    return (rng.normal(size=(n, d)) + 2 * rng.normal(size=(n_clusters, d))[y]) @ rng.normal(size=(d, d)) + 100, y


def _within(x, y):
    means = np.array([x[y == k].mean(0) for k in range(y.max() + 1)])
    return x - means[y]


def test_raw_and_standardised():
    x, y = _data()
    np.testing.assert_allclose(Space(RAW, x, y)(x), x - x.mean(0))
    np.testing.assert_allclose(Space(STANDARDISED, x, y)(x), (x - x.mean(0)) / x.std(0))


@pytest.mark.parametrize(("n", "d"), [(80, 5), (300, 40), (30, 12)])
def test_whitened_is_the_inverse_of_the_covariance_that_ledoit_and_wolf_shrink(n, d):
    x, y = _data(n, d)
    space = Space(WHITENED, x, y)
    standard = (x - x.mean(0)) / x.std(0)
    expected = LedoitWolf(assume_centered=True).fit(_within(standard, y))
    assert SHRUNK <= expected.shrinkage_ < 1
    metric = space.linear.T @ space.linear * x.std(0)[:, None] * x.std(0)
    np.testing.assert_allclose(metric, expected.precision_, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("n", "d"), [(80, 5), (20, 60)])
@pytest.mark.parametrize("kind", SPACES)
def test_the_inverse(kind, n, d):
    x, y = _data(n, d)
    space = Space(kind, x, y)
    z = space(x)
    np.testing.assert_allclose(space.back(z), x, rtol=0, atol=1e-9 * np.abs(x).max())
    step = space.step()
    assert (step is None) == (kind == RAW)
    if step is not None:
        np.testing.assert_allclose(step(torch.tensor(x)), z, rtol=0, atol=1e-9 * np.abs(z).max())
        np.testing.assert_allclose(step.preimage(torch.tensor(z)), x, rtol=0, atol=1e-9 * np.abs(x).max())


def test_more_features_than_points():
    """Whitening in the span of the points: distances are those of the whole space."""
    x, y = _data(20, 60)
    space = Space(WHITENED, x, y)
    assert space.linear.shape == (20, 60)
    within = _within((x - x.mean(0)) / x.std(0), y)
    basis = np.linalg.qr(((x - x.mean(0)) / x.std(0)).T)[0]
    covariance = LedoitWolf(assume_centered=True).fit(within @ basis).covariance_
    np.testing.assert_allclose(
        np.square(space(x)).sum(1),
        np.einsum("nd,nd->n", z := ((x - x.mean(0)) / x.std(0)) @ basis, np.linalg.solve(covariance, z.T).T),
        rtol=1e-8,
    )


@pytest.mark.parametrize("value", [0.0, 0.1, 7e15])
@pytest.mark.parametrize("kind", SPACES)
def test_constant_features_are_nothing(kind, value):
    x, y = _data()
    space, more = Space(kind, x, y), Space(kind, np.column_stack([x, np.full(len(x), value)]), y)
    z = more(np.column_stack([x, np.full(len(x), value)]))
    if kind == WHITENED:
        np.testing.assert_allclose(z, space(x), rtol=1e-10, atol=1e-10)
        assert (more.linear[:, -1] == 0).all()
    else:
        np.testing.assert_array_equal(z[:, :-1], space(x))
        assert (z[:, -1] == 0).all()


@pytest.mark.parametrize("kind", SPACES)
def test_nothing_but_constants(kind):
    space = Space(kind, np.full((10, 3), 5.0), np.arange(10) % 2)
    assert (space(np.full((10, 3), 5.0)) == 0).all()
    assert np.isfinite(space.linear).all()


@pytest.mark.parametrize("kind", SPACES)
def test_far_from_zero(kind):
    """A column whose values are 1e11 times its spread keeps the digits that it came with."""
    x, y = _data()
    x = np.round(x * 2**10) / 2**10
    space, far = Space(kind, x, y), Space(kind, x + 2**44 / 10**2 // 1, y)
    z, moved = space(x), far(x + 2**44 / 10**2 // 1)
    assert np.abs(np.linalg.norm(z[:1] - z, axis=1) - np.linalg.norm(moved[:1] - moved, axis=1)).max() < 1e-2


def test_scales_do_not_matter():
    x, y = _data()
    scale = np.array([1e-6, 1, 1e6, 3, 7])
    for kind in (STANDARDISED, WHITENED):
        np.testing.assert_allclose(Space(kind, x * scale, y)(x * scale), Space(kind, x, y)(x), rtol=1e-6, atol=1e-6)


def test_one_point_a_cluster_and_copies():
    x = np.random.default_rng(0).normal(size=(6, 3))
    for points, y in ((x, np.arange(6)), (np.repeat(x, 3, 0), np.repeat(np.arange(6), 3))):
        space = Space(WHITENED, points, y)
        np.testing.assert_allclose(space(points), Space(STANDARDISED, points, y)(points), rtol=0, atol=1e-9)


def test_what_is_affordable():
    assert all(Space.affordable(kind, np.zeros((10, 5000))) for kind in SPACES)
    assert not Space.affordable(WHITENED, np.zeros((WIDEST + 1, WIDEST + 1)))
    assert Space.affordable(STANDARDISED, np.zeros((WIDEST + 1, WIDEST + 1)))
