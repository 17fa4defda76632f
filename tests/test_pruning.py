"""Pruning keeps what matters for the points it is made for, and says how much it may be wrong."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_moons

from zennit_neon import Affine, KernelKMeans, NeuralizedKernelKMeans, NeuralizedKMeans, explain, neuralize, prune

X, Y = make_moons(400, noise=0.08, random_state=0)


def _whole(gamma=30.0, **options):
    return NeuralizedKernelKMeans([X[Y == 0], X[Y == 1]], gamma, **options)


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-4])
@pytest.mark.parametrize("weights", [False, True])
def test_evidence_stays_within_its_bound(tolerance, weights):
    rng = np.random.default_rng(0)
    head = _whole(weights=[rng.uniform(0.1, 2, (k == Y).sum()) for k in (0, 1)] if weights else None, beta=1.0)
    for rows in ([3], [3, 77, 200]):
        small, evidence_error, _ = prune(head, X[rows], tolerance)
        x = torch.from_numpy(X[rows])
        error = (small(x) - head(x)).abs().amax(1)
        assert (error <= evidence_error + 1e-12).all()
        assert float(evidence_error.max()) <= -math.log1p(-tolerance) / head.gamma
        assert (error > 0).any(), "nothing was pruned"
        assert sum(small.sizes) < sum(head.sizes)


def test_smaller_tolerances_keep_more_and_are_wrong_by_less():
    head, rows = _whole(beta=1.0), X[:5]
    found = [prune(head, rows, tolerance) for tolerance in (0.5, 0.1, 1e-3, 1e-6)]
    kept = [sum(part.head.sizes) for part in found]
    assert kept == sorted(kept)
    assert kept[0] < kept[-1] < len(X)
    for larger, smaller in itertools.pairwise(found):
        assert (smaller.evidence_error <= larger.evidence_error).all()
    assert float(found[-1].relevance_error.max()) < 1e-4


def test_one_support_vector_less_would_break_the_tolerance():
    head, tolerance = _whole(), 0.05
    small = prune(head, X[:1], tolerance).head
    layer = head.evidence_layer
    shares = layer.prepare(head.rows(torch.from_numpy(X[:1]))).shares[0]
    for part, count in zip(shares.split(list(head.sizes)), small.sizes, strict=True):
        ordered = part.sort(descending=True).values
        assert float(ordered[count:].sum()) <= tolerance < float(ordered[count - 1 :].sum())


@pytest.mark.parametrize("explicit", [False, True])
def test_relevance_error_is_the_difference_of_explanations(explicit):
    head, rows = _whole(beta=0.7), X[10:12]
    small, _, error = prune(head, rows, 0.05, explicit=explicit)
    assert small.explicit is explicit
    difference = explain(small, rows).relevance - explain(head, rows).relevance
    np.testing.assert_allclose(np.abs(difference).sum(1), error, rtol=1e-10)
    assert (error > 0).all()


def test_the_explicit_network_of_one_point_of_a_huge_model():
    digits = load_digits().data
    model = KernelKMeans(10, gamma=0.03, random_state=0).fit(digits)
    head = neuralize(model)
    point = digits[:1]
    pruned = prune(head, point, 0.02, explicit=True)
    assert sum(pruned.head.sizes) < len(digits) / 4
    whole = explain(head, point, beta=pruned.head.beta)
    part = explain(pruned.head, point)
    assert part.cluster[0] == whole.cluster[0]
    np.testing.assert_allclose(part.evidence, whole.evidence, atol=float(pruned.evidence_error[0]))
    assert np.abs(part.relevance - whole.relevance).sum() < 0.02 * np.abs(whole.relevance).sum()


def test_behind_a_step_that_mixes_features():
    step = Affine(np.array([[1.0, 0.5], [-0.3, 2.0]]))
    head = NeuralizedKernelKMeans([X[Y == 0], X[Y == 1]], 30.0, steps=[step], beta=1.0, labels=["a", "b"])
    small, _, error = prune(head, X[:2], 0.1)
    difference = explain(small, X[:2]).relevance - explain(head, X[:2]).relevance
    np.testing.assert_allclose(np.abs(difference).sum(1), error, rtol=1e-8)
    assert small.labels == ("a", "b")
    assert small.n_features == 2


def test_stiffness_comes_from_the_points_if_the_head_has_none():
    head = _whole()
    assert prune(head, X[:7]).head.beta == pytest.approx(explain(head, X[:7]).beta)
    assert head.beta is None


def test_the_nearest_alone_matters_without_softness():
    head = _whole(gamma=math.inf)
    small, evidence_error, relevance_error = prune(head, X[:1], 0.0)
    assert small.sizes == (1, 1)
    assert float(evidence_error) == 0
    assert float(relevance_error) < 1e-12


def test_zero_tolerance_changes_nothing():
    head = _whole(gamma=5.0, beta=1.0)
    small, evidence_error, relevance_error = prune(head, X, 0.0)
    assert small.sizes == head.sizes
    assert float(evidence_error.max()) == 0
    assert float(relevance_error.max()) < 1e-12


@pytest.mark.parametrize(
    ("head", "points", "tolerance", "kind", "message"),
    [
        (NeuralizedKMeans(X[:3]), X, 0.1, TypeError, "head must be a NeuralizedKernelKMeans"),
        (_whole(), X, 1.0, ValueError, "tolerance must be at least 0 and below 1, got 1.0"),
        (_whole(), X, -0.1, ValueError, "tolerance must be"),
        (_whole(), X[:0], 0.1, ValueError, "at least one point"),
        (_whole(), np.ones((2, 3)), 0.1, ValueError, "3 features, but 2"),
        (_whole(), np.array([[np.nan, 1.0]]), 0.1, ValueError, "must be finite"),
    ],
)
def test_refusals(head, points, tolerance, kind, message):
    with pytest.raises(kind, match=message):
        prune(head, points, tolerance)


def test_autocast_changes_nothing(rng):
    X = rng.normal(size=(40, 3)).astype(np.float32) + 20
    head = NeuralizedKernelKMeans([X[:20], X[20:] + 2], gamma=0.5)
    want = prune(head, X[:3])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prune(head, X[:3])
    assert found.head.sizes == want.head.sizes
    assert found.head.beta == want.head.beta
    assert torch.equal(found.relevance_error, want.relevance_error)
