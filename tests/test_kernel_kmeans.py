"""Kernel k-means: what scikit-learn expects, the formulas of Appendix E, and the network it becomes."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_circles, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.utils.estimator_checks import estimator_checks_generator

from zennit_neon import explain, neuralize
from zennit_neon.cluster import KernelKMeans, bandwidth, kernel_gamma, kernel_kmeans


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(estimator, check, id=check.func.__name__)
        for estimator, check in estimator_checks_generator(KernelKMeans(n_clusters=2))
    ],
)
def test_it_is_an_estimator(estimator, check):
    check(estimator)


def _distances(X, labels, gamma, n_clusters, spherical):
    """Appendix E, point by point and pair by pair."""
    kernel = np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(2))
    result = np.full((len(X), n_clusters), np.inf)
    for point in range(len(X)):
        for k in range(n_clusters):
            others = [j for j in range(len(X)) if labels[j] == k and j != point]
            if others:
                total = sum(kernel[i, j] for i in others for j in others)
                z = np.sqrt(total) if spherical else len(others)
                own = sum(kernel[point, j] for j in others)
                result[point, k] = 1 - 2 * own / z + total / z**2
    return result


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("memory", [2**31, 0])
def test_distances_leave_the_point_out(rng, spherical, memory):
    X, labels = rng.normal(size=(25, 3)), np.repeat([0, 1, 2, 3], [10, 8, 6, 1])
    model = KernelKMeans(4, gamma=0.3, spherical=spherical)
    found = model._distances(kernel_kmeans._Kernel(X, 0.3, memory), labels)
    np.testing.assert_allclose(found, _distances(X, labels, 0.3, 4, spherical), rtol=0, atol=1e-10)


@pytest.mark.parametrize("spherical", [True, False])
def test_it_ends_where_every_point_is_with_its_nearest_centroid(rng, spherical):
    X = np.concatenate([rng.normal(size=(20, 2)) + center for center in ([0, 0], [6, 0], [0, 6])])
    model = KernelKMeans(3, gamma=0.2, spherical=spherical, random_state=0).fit(X)
    assert model.converged_
    distance = _distances(X, model.labels_, 0.2, 3, spherical)
    assert (distance.argmin(1) == model.labels_).all()
    assert model.inertia_ == pytest.approx(distance.min(1).sum())
    assert adjusted_rand_score(np.repeat([0, 1, 2], 20), model.labels_) == 1


def test_blocks_give_the_same_as_the_whole_matrix(monkeypatch):
    X = load_digits().data[:400] / 16
    whole = KernelKMeans(5, random_state=0).fit(X)
    monkeypatch.setattr(kernel_kmeans, "BLOCK", 10_000)
    blocks = KernelKMeans(5, random_state=0, memory=0).fit(X)
    assert (whole.labels_ == blocks.labels_).all()
    assert whole.inertia_ == pytest.approx(blocks.inertia_)
    assert (whole.predict(X) == blocks.predict(X)).all()
    for one, two in zip(whole.weights_, blocks.weights_, strict=True):
        np.testing.assert_allclose(one, two)


@pytest.mark.parametrize(
    ("X", "y"),
    [make_moons(300, noise=0.05, random_state=0), make_circles(300, noise=0.05, factor=0.4, random_state=0)],
    ids=["moons", "circles"],
)
def test_it_keeps_clusters_that_are_no_balls(X, y):
    model = KernelKMeans(2, gamma=20.0, init=y).fit(X)
    assert adjusted_rand_score(y, model.labels_) > 0.95
    assert (model.predict(X) == model.labels_).mean() > 0.98
    reduced = model.reduce(20)
    assert [part.shape for part in reduced.support_vectors_] == [(20, 2), (20, 2)]
    assert (reduced.predict(X) == model.predict(X)).mean() > 0.98


@pytest.mark.parametrize("spherical", [True, False])
@pytest.mark.parametrize("reduced", [False, True])
def test_it_becomes_a_network_with_the_same_assignments(spherical, reduced):
    X = load_digits().data[:600] / 16
    model = KernelKMeans(10, spherical=spherical, random_state=0).fit(X)
    model = model.reduce(10) if reduced else model
    head = neuralize(model)
    assert head.gamma == model.gamma_
    assert (head(torch.tensor(X)).argmax(1).numpy() == model.predict(X)).all()
    e = explain(model, X)
    assert (e.cluster == model.predict(X)).all()
    assert np.isfinite(e.relevance).all()


def test_gamma_gives_self_similarity_its_share():
    X = load_digits().data[:80] / 16
    for share in (0.5, 0.9):
        gamma = KernelKMeans(8, self_similarity=share, random_state=0).fit(X).gamma_
        kernel = np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(2))
        assert 80 / kernel.sum() == pytest.approx(share, rel=1e-6)


def test_the_same_seed_gives_the_same_clusters():
    X = load_digits().data[:200] / 16
    one, two = (KernelKMeans(6, init="random", n_init=2, random_state=3).fit(X) for _ in range(2))
    assert (one.labels_ == two.labels_).all()
    more = KernelKMeans(6, init="random", n_init=4, random_state=3).fit(X)
    assert more.inertia_ <= one.inertia_


def test_no_cluster_ends_empty(rng):
    X = rng.normal(size=(30, 2))
    model = KernelKMeans(12, gamma=5.0, init="random", random_state=0).fit(X)
    assert set(model.labels_) == set(range(12))
    assert all(len(part) for part in model.support_vectors_)


def test_progress_is_shown(capsys):
    KernelKMeans(2, gamma=1.0, progress=True).fit(make_moons(40)[0])
    assert "kernel k-means" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_clusters": 0}, "n_clusters must be at least 1, got 0"),
        ({"n_clusters": 41}, "n_clusters must be at most n_samples=40, got 41"),
        ({"gamma": 0.0}, "gamma must be a number above 0, got 0.0"),
        ({"gamma": np.inf}, "gamma must be a number above 0"),
        ({"self_similarity": 1.0}, "self_similarity must be between 0 and 1, got 1.0"),
        ({"n_init": 0}, "n_init must be at least 1, got 0"),
        ({"init": "best"}, "init must be 'k-means', 'random' or labels, got 'best'"),
        ({"init": np.zeros(40)}, "init must hold 2 different labels"),
        ({"init": np.arange(3)}, r"in shape \(40,\), got 3 in \(3,\)"),
    ],
)
def test_wrong_parameters_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        KernelKMeans(**{"n_clusters": 2, **options}).fit(make_moons(40)[0])


def test_one_cluster_can_not_be_explained():
    X, _ = make_moons(40)
    with pytest.raises(ValueError, match="at least 2 clusters"):
        neuralize(KernelKMeans(1, gamma=1.0).fit(X))
    with pytest.raises(ValueError, match="KernelKMeans is not fitted"):
        neuralize(KernelKMeans(2))
    with pytest.raises(ValueError, match="p must be at least 1, got 0"):
        KernelKMeans(2, gamma=1.0).fit(X).reduce(0)


def test_a_single_iteration_keeps_given_labels(rng):
    X, labels = rng.normal(size=(60, 3)), np.arange(60) % 3
    model = KernelKMeans(3, init=labels, max_iter=1, random_state=0).fit(X)
    assert (model.labels_ == labels).all()
    assert not model.converged_
    for k, part in enumerate(model.support_vectors_):
        np.testing.assert_array_equal(part, X[labels == k])
    assert (KernelKMeans(3, init=labels, random_state=0).fit(X).labels_ != labels).any()


def _similarity(X, gamma):
    return np.exp(-gamma * ((X[:, None] - X[None]) ** 2).sum(2))


@pytest.mark.parametrize("share", [None, 0.6])
def test_gamma_by_self_similarity(share):
    X = np.random.default_rng(1).normal(size=(30, 4)) + 1e3
    gamma = kernel_gamma(X, "self-similarity", share=share)
    assert 30 / _similarity(X, gamma).sum() == pytest.approx(share or 0.9, rel=1e-6)
    assert KernelKMeans(3, gamma="self-similarity", self_similarity=share or 0.9).fit(X).gamma_ == pytest.approx(gamma)
    few = kernel_gamma(X, n_clusters=2, share=share)
    assert few == pytest.approx(KernelKMeans(2, self_similarity=share or 0.9, random_state=0).fit(X).gamma_)


@pytest.mark.parametrize("share", [None, 0.7])
def test_gamma_by_neighbours(share):
    """Of the similarities with others, the N / K largest of each point make up half."""
    X = np.random.default_rng(2).normal(size=(60, 3)) * [1, 5, 1]
    gamma = kernel_gamma(X, "neighbours", n_clusters=5, share=share)
    others = -np.sort(-(_similarity(X, gamma) - np.eye(60)), axis=1)
    assert others[:, :12].sum() / others.sum() == pytest.approx(share or 0.5, rel=1e-6)
    assert share or KernelKMeans(5, gamma="neighbours").fit(X).gamma_ == pytest.approx(gamma)


def test_neighbours_of_some_points_stand_for_all(monkeypatch):
    X = np.random.default_rng(2).normal(size=(600, 3))
    gamma = kernel_gamma(X, "neighbours", n_clusters=5)
    monkeypatch.setattr(bandwidth, "ROWS", 200)
    assert kernel_gamma(X, "neighbours", n_clusters=5) == pytest.approx(gamma, rel=0.2)
    assert kernel_gamma(X, "neighbours", n_clusters=5) != gamma


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "scott"}, r"rule must be one of \['self-similarity', 'neighbours'\], got 'scott'"),
        ({"rule": "neighbours"}, "n_clusters must be given for the rule 'neighbours'"),
        ({"rule": "neighbours", "n_clusters": 1}, "n_clusters must be larger: 8 neighbours are all of the 8 points"),
        ({"n_clusters": 9}, "n_clusters must be from 1 to the 8 points of X, got 9"),
        ({"share": 1.0}, r"share must be between 0 and 1, got 1\.0"),
        ({"share": 0.1}, r"share=0\.1 is exceeded by any gamma"),
        ({"X": np.zeros((5, 2))}, "X must have different points"),
        ({"rule": "neighbours", "n_clusters": 2}, "n_clusters must be larger: 4 nearest neighbours of 7 have more"),
        ({"share": "half"}, "share must be a number between 0 and 1, got 'half'"),
        ({"X": [[1e-200], [2e-200]]}, "gamma would be inf, since X has numbers near"),
    ],
)
def test_what_gamma_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        kernel_gamma(**{"X": np.arange(16.0).reshape(8, 2), **arguments})
    with pytest.raises(ValueError, match="gamma must be a number above 0 or one of"):
        KernelKMeans(2, gamma="scott").fit(np.arange(16.0).reshape(8, 2))


@pytest.mark.parametrize("rule", ["self-similarity", "neighbours"])
@pytest.mark.parametrize("scale", [2.0**-300, 2.0**300])
def test_gamma_in_any_unit(rule, scale):
    X = make_moons(60, random_state=0)[0]
    expected = kernel_gamma(X, rule, n_clusters=5)
    assert kernel_gamma(X * scale, rule, n_clusters=5) * scale**2 == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["self-similarity", "neighbours"])
def test_rounding_does_not_part_equal_points(rule):
    """With each point four times the share is out of reach; gamma belongs to the distances of different points."""
    X = np.repeat(np.random.default_rng(0).normal(size=(5, 2)), 4, axis=0)
    nearest = min(((a - b) ** 2).sum() for a in X for b in X if (a != b).any())
    assert kernel_gamma(X, rule, n_clusters=20) == pytest.approx(1e3 / nearest)


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_clusters_that_stay_empty():
    X = np.repeat(np.random.default_rng(0).normal(size=(5, 2)), 4, axis=0)
    with pytest.raises(ValueError, match="are empty: X has 5 different points for n_clusters=19"):
        KernelKMeans(19, gamma=1.0, random_state=0).fit(X)
