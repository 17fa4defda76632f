"""The formulas against the papers, one point at a time."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from tests import reference
from tests.strategies import clusterings
from zennit_neon import functional as F
from zennit_neon.functional import soft


def _t(array):
    return torch.tensor(array, dtype=torch.float64)


def _scores(x, centroids):
    """Scores in centred coordinates, as the layers compute them."""
    center = centroids.mean(0)
    return F.scores(_t(x - center), _t(centroids - center), _t(centroids - center))


def _size(x, centroids):
    """The size of the numbers that are subtracted on the way: what 1e-10 is relative to."""
    return float((x**2).sum(1).max() + (centroids**2).sum(1).max())


def _assert_close(found, expected, size, rtol=1e-10):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=0, atol=rtol * size)


@given(clusterings())
def test_score_differences_are_differences_of_distances(case):
    x, centroids, _ = case
    scores = _scores(x, centroids).numpy()
    for n, point in enumerate(x):
        distance = reference.outlierness(point, centroids)
        _assert_close(scores[n][:, None] - scores[n], distance - distance[:, None], _size(x, centroids))


@given(clusterings())
def test_evidence_is_the_min_pool_of_prop_1(case):
    x, centroids, _ = case
    evidence = F.evidence(_scores(x, centroids)).numpy()
    for n, point in enumerate(x):
        expected = [
            min(h for _, _, h in reference.kmeans_layers(point, centroids, c).values()) for c in range(len(centroids))
        ]
        _assert_close(evidence[n], expected, _size(x, centroids))


def test_evidence_of_a_tie_is_zero_for_all_that_tie():
    evidence = F.evidence(_t([[1.0, 1.0, 0.0], [2.0, 2.0, 2.0]]))
    assert evidence.tolist() == [[0, 0, -1], [0, 0, 0]]


@given(clusterings())
def test_contrasts_are_the_first_layer_of_prop_1(case):
    x, centroids, _ = case
    n_clusters = len(centroids)
    clusters = torch.arange(n_clusters).flip(0)[: max(1, n_clusters - 1)]
    contrasts = F.contrasts(_scores(x, centroids), clusters)
    assert contrasts.shape == (len(x), len(clusters), n_clusters - 1)
    for n, point in enumerate(x):
        for j, c in enumerate(clusters.tolist()):
            layers = reference.kmeans_layers(point, centroids, c)
            _assert_close(contrasts[n, j], [layers[k][2] for k in sorted(layers)], _size(x, centroids))


def test_competitor_index_leaves_out_the_cluster_itself():
    assert F.competitor_index(4, torch.tensor([2, 0])).tolist() == [[0, 1, 3], [1, 2, 3]]


def test_dimensions_behind_the_clusters_are_kept():
    x, weight = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(6, 3, dtype=torch.float64)
    scores = F.scores(x, weight, weight)
    flat = F.scores(x.movedim(1, -1).reshape(-1, 3), weight, weight)
    assert torch.allclose(scores.movedim(1, -1).reshape(-1, 6), flat)
    assert torch.allclose(F.evidence(scores).movedim(1, -1).reshape(-1, 6), F.evidence(flat))
    contrasts = F.contrasts(scores, torch.tensor([1, 3]))
    assert contrasts.shape == (2, 2, 5, 4, 5)
    assert torch.allclose(contrasts.permute(0, 3, 4, 1, 2).reshape(-1, 2, 5), F.contrasts(flat, torch.tensor([1, 3])))


@given(clusterings(max_clusters=4, max_features=3))
def test_coefficients_and_redistribution_are_eqs_2_and_4(case):
    x, centroids, beta = case
    center = centroids.mean(0)
    weight, scores = _t(centroids - center), _scores(x, centroids)
    for cluster in [None, *range(len(centroids))]:
        chosen = None if cluster is None else torch.full((len(x),), cluster)
        pooled = F.pool_competitors(scores, chosen)
        passed, evidence, own = F.coefficients(pooled, beta), pooled.evidence[:, 0], pooled.cluster[:, 0]
        relevance = F.redistribute(_t(x - center), passed, weight, weight)
        for n, point in enumerate(x):
            f, shares, expected = reference.kmeans_relevance(point, centroids, int(own[n]), beta)
            _assert_close(evidence[n], f, _size(x, centroids))
            _assert_close(relevance[n], expected, max(_size(x, centroids), np.abs(expected).max()))
            _assert_close(passed[n] * (scores[n, own[n]] - scores[n]), shares, _size(x, centroids))


@given(clusterings())
def test_the_mixing_form_is_the_same_where_nothing_mixes(case):
    x, centroids, beta = case
    center = centroids.mean(0)
    weight, points = _t(centroids - center), _t(x - center)
    pooled = F.pool_competitors(_scores(x, centroids))
    passed, cluster = F.coefficients(pooled, beta), pooled.cluster[:, 0]
    plain = F.redistribute(points, passed, weight, weight)
    _assert_close(F.redistribute(points, passed, weight, weight, cluster), plain, _size(x, centroids))


@given(clusterings())
def test_explicit_min_take_most_equals_the_closed_form(case):
    x, centroids, beta = case
    scores = _scores(x, centroids)
    clusters = torch.arange(len(centroids))
    contrasts = F.contrasts(scores, clusters)
    shares = F.min_take_most(contrasts, contrasts.amin(2), beta)
    for c in clusters:
        passed = F.coefficients(F.pool_competitors(scores, c.expand(len(x))), beta)
        flow = passed * (scores[:, [int(c)]] - scores)
        _assert_close(shares[:, c], flow[:, F.competitor_index(len(clusters), c[None])[0]], _size(x, centroids))


@pytest.mark.parametrize("beta", [0.0, 0.5, 1e3, math.inf])
def test_min_take_most_conserves_and_prefers_the_nearest(beta):
    contrasts = _t([[[1.0, 2.0, 4.0]], [[-3.0, 0.5, -1.0]]])
    shares = F.min_take_most(contrasts, contrasts.amin(2), beta)
    assert torch.allclose(shares.sum(2), contrasts.amin(2))
    size = shares.abs()[:, 0]
    nearest = contrasts[:, 0].argmin(1)
    assert bool((size.gather(1, nearest[:, None]) >= size - 1e-12).all())
    if beta == 0:
        assert torch.allclose(size[0], torch.full((3,), 1 / 3, dtype=torch.float64))
    if beta == math.inf:
        assert size[0].tolist() == [1, 0, 0]


@pytest.mark.parametrize(("beta", "limit"), [(1e-60, 0.0), (1e60, math.inf), (1e-320, 0.0)])
def test_stiffness_beyond_the_range_of_the_dtype_is_its_limit(beta, limit):
    pooled = F.pool_competitors(torch.tensor([[2.0, 1.0, 0.5, 0.0]]))
    assert torch.equal(F.coefficients(pooled, beta), F.coefficients(pooled, limit))


def test_ties_share_at_infinite_beta():
    shares = F.min_take_most(_t([[[1.0, 1.0, 3.0]]]), _t([[1.0]]), math.inf)
    assert shares.flatten().tolist() == [0.5, 0.5, 0]
    passed = F.coefficients(F.pool_competitors(_t([[2.0, 1.0, 1.0, 0.0]])), math.inf)
    assert passed.tolist() == [[-1, 0.5, 0.5, 0]]


def test_a_neuron_that_is_switched_off_hands_its_share_to_the_nearest():
    # h = (-4, 0, 3): the second competitor takes a share of Eq. 2 that it cannot pass on
    scores = _t([[0.0, 4.0, 0.0, -3.0]])
    pooled = F.pool_competitors(scores, torch.tensor([0]))
    passed = F.coefficients(pooled, 0.0)
    assert pooled.evidence.item() == -4
    assert passed[0].tolist() == pytest.approx([-2 / 3 + 4 / 9, 2 / 3, 0.0, -4 / 9])
    assert float(-(passed * scores).sum()) == pytest.approx(-4)
    tiny = F.coefficients(F.pool_competitors(_t([[0.0, 4.0, 1e-19, -3.0]]), torch.tensor([0])), 0.0)
    assert torch.allclose(tiny, passed, atol=1e-3)


def test_on_the_boundary_coefficients_have_their_limit():
    on = F.coefficients(F.pool_competitors(_t([[1.0, 1.0, 0.0]])), 1.0)
    near = F.coefficients(F.pool_competitors(_t([[1.0 + 1e-12, 1.0, 0.0]])), 1.0)
    assert torch.isfinite(on).all()
    assert torch.allclose(on, near, atol=1e-9)
    assert on[0, 1] > 0.5


def test_relevance_in_place_of_evidence_scales_linearly():
    scores = torch.randn(5, 4, dtype=torch.float64)
    pooled = F.pool_competitors(scores)
    passed = F.coefficients(pooled, 1.0)
    twice = F.coefficients(pooled, 1.0, relevance=2 * pooled.evidence[:, 0])
    assert torch.allclose(twice, 2 * passed)
    none = F.coefficients(F.pool_competitors(_t([[1.0, 1.0, 0.0]])), 1.0, relevance=torch.zeros(1, dtype=torch.float64))
    assert none.tolist() == [[0, 0, 0]]


def test_versus_explains_one_neuron():
    passed, contrast, cluster = F.contrast_coefficients(_t([[3.0, 1.0, 0.0], [0.0, 0.5, 2.0]]), 2)
    assert passed.tolist() == [[-1, 0, 1], [0, 0, 0]]
    assert contrast.tolist() == [3, 0]
    assert cluster.tolist() == [0, 2]


def test_quotient_of_a_dead_neuron_is_zero():
    assert F.quotient(_t([1.0, 0.0, 3.0]), _t([0.0, 0.0, 2.0])).tolist() == [0, 0, 1.5]


@pytest.mark.parametrize("beta", [-1, float("nan"), "much", [1, 2]])
def test_check_beta_refuses(beta):
    with pytest.raises(ValueError, match="beta must be a number of at least 0, got"):
        F.check_beta(beta)


def test_check_beta_accepts_infinity_and_none():
    assert F.check_beta(math.inf) == math.inf
    assert F.check_beta(None) is None
    assert F.check_beta(torch.tensor(2)) == 2.0


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("cluster", [None, 0])
def test_gradients_of_coefficients(beta, cluster):
    scores = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    chosen = None if cluster is None else torch.full((6,), cluster)
    assert torch.autograd.gradcheck(lambda scores: F.coefficients(F.pool_competitors(scores, chosen), beta), scores)


def test_gradients_of_evidence():
    weight = torch.randn(4, 3, dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: F.evidence(F.scores(x, weight, weight)), x)


def _logits(shift, n_clusters=4):
    """Rows of logits at some level: small, large, all but equal, with ties."""
    rows = np.random.default_rng(1).normal(size=(6, n_clusters)) * np.array([[1], [1], [30], [1e4], [1e-9], [0]])
    return rows + shift


@pytest.mark.parametrize("level", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("n_clusters", [2, 4])
@pytest.mark.parametrize("shift", [0.0, -1.5])
def test_soft_evidence_is_the_logit_of_the_probability(level, n_clusters, shift):
    logits = _logits(level, n_clusters)
    evidence = soft.soft_evidence(_t(logits), shift)
    expected = np.array([[reference.log_odds(row, c) + shift for c in range(n_clusters)] for row in logits])
    np.testing.assert_allclose(evidence, expected, rtol=1e-14, atol=1e-11 * max(1, abs(level)))
    for c in range(n_clusters):
        pooled = soft.soft_pool_competitors(_t(logits), torch.full((6,), c), shift)
        np.testing.assert_allclose(pooled.evidence[:, 0], expected[:, c], rtol=1e-14, atol=1e-11 * max(1, abs(level)))
        assert pooled.cluster[:, 0].tolist() == [c] * 6
    assert torch.equal(soft.soft_pool_competitors(_t(logits)).cluster[:, 0], _t(logits).argmax(1))
    maps = soft.soft_evidence(_t(logits)[:, :, None, None].expand(-1, -1, 2, 3), shift)
    assert torch.equal(maps, evidence[:, :, None, None].expand(-1, -1, 2, 3))


@pytest.mark.parametrize("n_clusters", [2, 4])
def test_soft_coefficients_are_the_shares_of_prop_7(n_clusters):
    scores, shift = _t(_logits(0.0, n_clusters)[:3]), -0.4
    clusters = torch.arange(n_clusters)
    contrasts = F.contrasts(scores, clusters) + shift
    evidence = soft.soft_evidence(scores, shift + math.log(n_clusters - 1))
    shares = soft.soft_min_take_most(contrasts, evidence)
    for c in range(n_clusters):
        pooled = soft.soft_pool_competitors(scores, torch.full((3,), c), shift + math.log(n_clusters - 1))
        passed = soft.soft_coefficients(pooled)
        others = [k for k in range(n_clusters) if k != c]
        for n in range(3):
            h = {k: float(scores[n, c] - scores[n, k]) + shift for k in others}
            f, p, expected = reference.soft_min_take_most(h)
            assert float(evidence[n, c]) == pytest.approx(f, abs=1e-12)
            np.testing.assert_allclose(passed[n, others], list(p.values()), rtol=0, atol=1e-12)
            np.testing.assert_allclose(shares[n, c], list(expected.values()), rtol=0, atol=1e-12)
        np.testing.assert_allclose(passed.sum(1), 0, atol=1e-12)
        assert torch.allclose(soft.soft_coefficients(pooled, 2 * pooled.evidence[:, 0]), 2 * passed)
        assert not soft.soft_coefficients(pooled, torch.zeros(3).double()).any()
    assert torch.allclose(soft.soft_min_take_most(contrasts, 2 * evidence), 2 * shares)


def test_soft_pooling_at_zero_evidence_passes_nothing():
    scores = _t([[0.0, 0.0]])
    pooled = soft.soft_pool_competitors(scores, torch.tensor([0]))
    assert pooled.evidence.item() == 0
    assert soft.soft_coefficients(pooled, _t([1.0])).tolist() == [[0, 0]]
    assert soft.soft_min_take_most(F.contrasts(scores, torch.tensor([0])), _t([[1.0]])).tolist() == [[[0]]]


@pytest.mark.parametrize("n_clusters", [2, 3])
def test_gradients_of_soft_pooling(n_clusters):
    scores = torch.randn(2, n_clusters, dtype=torch.float64, requires_grad=True)
    relevance = torch.randn(2, dtype=torch.float64)
    chosen = torch.zeros(2, dtype=torch.int64)
    assert torch.autograd.gradcheck(lambda scores: soft.soft_evidence(scores, 0.3), scores)
    assert torch.autograd.gradcheck(
        lambda scores: soft.soft_coefficients(soft.soft_pool_competitors(scores, chosen, 0.3), relevance), scores
    )
    contrasts = F.contrasts(scores.detach(), chosen[:1]).requires_grad_()
    assert torch.autograd.gradcheck(lambda h: soft.soft_min_take_most(h, relevance[:, None]), contrasts)
