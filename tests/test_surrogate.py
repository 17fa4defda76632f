"""Clusterings that are known by the labels of points: what stands for them, how well, and what is said of noise."""

import copy
import math
import pickle
import warnings

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.cluster import (
    DBSCAN,
    HDBSCAN,
    OPTICS,
    AgglomerativeClustering,
    BisectingKMeans,
    FeatureAgglomeration,
    KMeans,
    MiniBatchKMeans,
    SpectralClustering,
)
from sklearn.datasets import load_digits, load_iris, load_wine, make_blobs, make_circles, make_moons
from sklearn.decomposition import PCA, KernelPCA
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, QuantileTransformer, StandardScaler

from zennit_neon import Affine, NeuralizedKernelKMeans, RowNorm, explain, neuralize, plot
from zennit_neon.estimators import selection, surrogate
from zennit_neon.estimators.fidelity import Fidelity
from zennit_neon.estimators.mixture import BATCH, Mixture
from zennit_neon.estimators.selection import Choice
from zennit_neon.estimators.spaces import RAW, WHITENED
from zennit_neon.utils.labels import groups

N = 600
MOONS, MOON = make_moons(300, noise=0.05, random_state=0)


def _anisotropic():
    X, y = make_blobs(N, random_state=170)
    return X @ np.array([[0.6, -0.6], [-0.4, 0.8]]), y


TARGETS = {
    "moons": lambda: make_moons(N, noise=0.05, random_state=30),
    "circles": lambda: make_circles(N, factor=0.5, noise=0.05, random_state=30),
    "anisotropic": _anisotropic,
}

#: Of the page on which scikit-learn compares clusterings.
EPS = {"moons": (0.3, 5), "circles": (0.3, 5), "anisotropic": (0.15, 7)}


def _blobs(n=30, d=2):
    """Two groups that nobody mixes up, and which of them a point belongs to."""
    rng = np.random.default_rng(1)
    y = np.arange(n) % 2
    return rng.normal(size=(n, d)) + 20 * y[:, None], y


def _assigned(head, X):
    return head(torch.as_tensor(np.asarray(X))).argmax(1).numpy()


def _same_weights(one, two):
    """Assert that two heads have the same weights, or none."""
    assert (one.log_weight is None) == (two.log_weight is None)
    assert one.log_weight is None or torch.equal(one.log_weight, two.log_weight)


@pytest.fixture(scope="module")
def dbscan():
    """Two moons, of which some points are noise, as a table."""
    X = np.concatenate([MOONS, np.random.default_rng(0).uniform(-2, 3, size=(30, 2))])
    model = DBSCAN(eps=0.2).fit(X)
    frame = pandas.DataFrame(X, columns=["east", "north"], index=[f"p{i}" for i in range(len(X))])
    assert sorted(set(model.labels_)) == [-1, 0, 1]
    assert 5 < (model.labels_ == -1).sum() < 30
    return model, frame


@pytest.fixture(scope="module")
def explained(dbscan):
    return explain(*dbscan)


@pytest.fixture
def quick(monkeypatch):
    """Few steps for labels that cannot be learnt."""
    monkeypatch.setattr(selection, "STEPS", 40)


# fidelity


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("kind", ["dbscan", "spectral", "single", "ward"])
def test_clusterings_without_a_rule_are_given_back(name, kind):
    X, y = TARGETS[name]()
    X = StandardScaler().fit_transform(X)
    eps, least = EPS[name]
    count = len(set(y))
    model = {
        "dbscan": DBSCAN(eps=eps, min_samples=least),
        "spectral": SpectralClustering(count, affinity="nearest_neighbors", random_state=0),
        "single": AgglomerativeClustering(count, linkage="single"),
        "ward": AgglomerativeClustering(count),
    }[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the graph of neighbours falls apart, as it should
        model.fit(X)
    head = neuralize(model, X, support=20)
    assert isinstance(head, NeuralizedKernelKMeans)
    assert max(head.sizes) <= 20
    assert head.fidelity >= (0.98 if kind == "ward" else 0.99)
    assert 0.3 * len(X) * 0.9 <= head.fidelity.counts.sum() <= len(X) / 3
    kept = model.labels_ >= 0
    assert (_assigned(head, X)[kept] == model.labels_[kept]).mean() >= (0.98 if kind == "ward" else 0.99)
    if kind == "spectral":
        assert adjusted_rand_score(y, _assigned(head, X)) > 0.98


def test_digits():
    X = load_digits().data
    labels = AgglomerativeClustering(10).fit_predict(X)
    head = neuralize(labels, X)
    assert head.fidelity >= 0.98
    assert np.nanmin(head.fidelity.per_cluster) > 0.9


def test_shuffled_labels_are_given_back_by_chance_and_warned_of():
    labels = np.random.default_rng(0).permutation(MOON)
    with pytest.warns(UserWarning, match=r"predicts \d+% of 100 held-out labels \(cluster 0: .*min_fidelity=0.9"):
        e = explain(labels, MOONS)
    assert abs(e.fidelity - 0.5) < 0.15


@pytest.mark.parametrize("count", [2, 4])
def test_fidelity_is_about_points_that_were_not_fitted(monkeypatch, count):
    """What is learnt by heart is known of the points that were fitted, and of no others."""
    monkeypatch.setattr(surrogate, "select", lambda *args: Choice(RAW, 1000, True))
    rng = np.random.default_rng(count)
    X, labels = rng.normal(size=(300, 2)), rng.integers(count, size=300)
    head = neuralize(labels, X, support=1000)
    agree = (_assigned(head, X) == labels).sum()
    held_out = head.fidelity.counts.sum()
    assert sum(head.sizes) == 300 - held_out
    known = agree - head.fidelity * held_out
    assert known >= 0.97 * (300 - held_out)
    assert abs(head.fidelity - 1 / count) < 0.15


@pytest.mark.parametrize("scale", [1, 1000])
def test_the_fit_does_not_look_at_what_is_held_out(monkeypatch, quick, scale):
    X, labels = MOONS * [1, scale], np.random.default_rng(0).permutation(MOON)
    seen = []
    split = surrogate._held_out

    def spy(numbers, share, random):
        found = split(numbers, share, random)
        seen.append(found)
        return found

    monkeypatch.setattr(surrogate, "_held_out", spy)
    head = neuralize(labels, X)
    test = seen[0]
    assert test.shape == labels.shape
    other = X.copy()
    other[test] = np.random.default_rng(1).uniform(50, 60, size=(test.sum(), 2))
    moved = neuralize(labels, other)
    assert torch.equal(moved.support, head.support)
    assert moved.fidelity.network == head.fidelity.network
    _same_weights(moved, head)
    assert moved.gamma == head.gamma
    assert moved.fidelity != head.fidelity
    assert head.fidelity == (_assigned(head, X)[test] == labels[test]).mean()
    expected = [(_assigned(head, X)[test & (labels == k)] == k).mean() for k in (0, 1)]
    np.testing.assert_allclose(head.fidelity.per_cluster, expected)
    assert head.fidelity.counts.tolist() == [(test & (labels == k)).sum() for k in (0, 1)]


@pytest.mark.parametrize(("test_size", "expected"), [(0.5, [10, 5]), (1 / 3, [6, 3]), (0.1, [2, 1]), (0.99, [19, 9])])
def test_a_share_of_each_cluster_is_held_out(test_size, expected):
    X, labels = _blobs()
    labels = np.where(np.arange(30) < 20, 0, 1)
    assert neuralize(labels, X, test_size=test_size).fidelity.counts.tolist() == expected


def test_features_are_standardised_where_that_helps():
    wine = load_wine()
    head = neuralize(wine.target, wine.data)
    assert len(head.steps) == 1
    assert head.fidelity > 0.9
    assert (_assigned(head, wine.data) == wine.target).mean() > 0.95
    e = explain(head, wine.data, min_fidelity=0.5)
    assert e.relevance.shape == wine.data.shape
    share = np.abs(e.relevance).mean(0) / np.abs(e.relevance).mean(0).sum()
    assert share[wine.feature_names.index("proline")] < 0.4  # of raw features, it has nearly all of the variance
    plain = neuralize(*reversed(_blobs()))
    assert plain.steps == ()


def test_scales_without_meaning_change_little():
    scale = np.array([1e-6, 1e6])
    head = neuralize(MOON, MOONS * scale)
    assert head.fidelity >= 0.99
    e, plain = explain(MOON, MOONS * scale), explain(MOON, StandardScaler().fit_transform(MOONS))
    assert np.isfinite(e.relevance).all()
    assert (e.cluster == plain.cluster).all()


@pytest.mark.parametrize("value", [0.0, 7.0, 0.1])
def test_constant_columns_carry_no_relevance(value):
    wine = load_wine()
    X = np.column_stack([wine.data, np.full(178, value)])
    head = neuralize(wine.target, X)
    e = explain(head, X, min_fidelity=0)
    assert np.abs(e.relevance[:, -1]).max() <= 1e-9 * np.abs(e.relevance).max()
    assert head.fidelity == neuralize(wine.target, wine.data).fidelity
    other = X.copy()
    other[:, -1] += 1
    assert (_assigned(head, other) == _assigned(head, X)).all()


# labels


def _missing(values, missing):
    values = list(values)
    values[0] = missing
    return values


_, Y = _blobs()
WORDS = ["left" if k else "right" for k in Y]

LABELS = {
    "int": (Y, None, 0),
    "int8": (Y.astype(np.int8), None, 0),
    "uint64": (Y.astype(np.uint64), None, 0),
    "other ints": (7 * Y + 3, (3, 10), 0),
    "below zero": (-2 * Y - 2, (-4, -2), 0),
    "int noise": (np.array(_missing(Y, -1)), None, 1),
    "whole floats": (Y.astype(float), None, 0),
    "float nan": (np.array(_missing(Y.astype(float), np.nan)), None, 1),
    "float nan and -1": (np.array([np.nan, -1, *Y[2:]]), None, 2),
    "bool": (Y == 1, (False, True), 0),
    "strings": (np.array(WORDS), ("left", "right"), 0),
    "object": (np.array(WORDS, dtype=object), ("left", "right"), 0),
    "object None": (np.array(_missing(WORDS, None), dtype=object), ("left", "right"), 1),
    "object nan": (np.array(_missing(WORDS, np.nan), dtype=object), ("left", "right"), 1),
    "object ints": (np.array(Y.tolist(), dtype=object), None, 0),
    "object ints -1": (np.array(_missing(Y.tolist(), -1), dtype=object), None, 1),
    "list": (Y.tolist(), None, 0),
    "list -1": (_missing(Y.tolist(), -1), None, 1),
    "list None": (_missing(Y.tolist(), None), None, 1),
    "list None and -1": ([None, -1, *Y.tolist()[2:]], None, 2),
    "tuple": (tuple(Y.tolist()), None, 0),
    "list of strings": (WORDS, ("left", "right"), 0),
    "list of strings None": (_missing(WORDS, None), ("left", "right"), 1),
    "list of strings nan": (_missing(WORDS, float("nan")), ("left", "right"), 1),
    "list of bools": ((Y == 1).tolist(), (False, True), 0),
    "list of tensors": (list(torch.tensor(Y)), None, 0),
    "tensor": (torch.tensor(Y), None, 0),
    "tensor -1": (torch.tensor(_missing(Y.tolist(), -1)), None, 1),
    "tensor float": (torch.tensor(Y).float(), None, 0),
    "tensor bool": (torch.tensor(Y == 1), (False, True), 0),
    "series": (pandas.Series(Y, index=range(100, 130)), None, 0),
    "series of strings": (pandas.Series(WORDS), ("left", "right"), 0),
    "series None": (pandas.Series(_missing(WORDS, None)), ("left", "right"), 1),
    "series string NA": (pandas.Series(_missing(WORDS, pandas.NA), dtype="string"), ("left", "right"), 1),
    "series Int64 NA": (pandas.Series(_missing(Y, pandas.NA), dtype="Int64"), None, 1),
    "series Int64 NA and -1": (pandas.Series([pandas.NA, -1, *Y[2:]], dtype="Int64"), None, 2),
    "series boolean NA": (pandas.Series(_missing(Y == 1, pandas.NA), dtype="boolean"), (False, True), 1),
    "categorical": (pandas.Categorical(WORDS), ("left", "right"), 0),
    "categorical NaN": (pandas.Categorical(_missing(WORDS, None)), ("left", "right"), 1),
    "categorical series": (pandas.Series(_missing(WORDS, None), dtype="category"), ("left", "right"), 1),
    "categorical unused": (pandas.Categorical(WORDS, categories=["left", "right", "middle"]), ("left", "right"), 0),
    "categorical ints": (pandas.Series(_missing(Y, -1)).astype("category"), None, 1),
    "index": (pandas.Index(WORDS), ("left", "right"), 0),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_of_every_kind(name):
    labels, names, noise = LABELS[name]
    X, _ = _blobs()
    numbers, found = groups(labels, 30)
    assert found == list(names or (0, 1))
    assert [type(one) for one in found] == [type(one) for one in (names or (0, 1))]
    assert numbers.dtype == np.int64
    assert (numbers == -1).sum() == noise
    expected = 1 - Y if names in (("left", "right"), (-4, -2)) else Y  # names are in ascending order
    assert (numbers[noise:] == expected[noise:]).all()
    head = neuralize(labels, X)
    assert head.labels == names
    assert head.fidelity == 1
    assert head.fidelity.noise == noise
    assert (_assigned(head, X)[noise:] == expected[noise:]).all()
    e = explain(labels, X)
    assert e.noise.sum() == noise
    assert list(e.summary().index) == list(names or (0, 1))


def _with(index, value, dtype=float):
    labels = Y.astype(dtype)
    labels[index] = value
    return labels


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (_with(3, 0.5), TypeError, "labels must be whole numbers or names of groups, got fractions"),
        (_missing(Y.tolist(), 0.5), TypeError, "got fractions"),
        ([None, 0.5, *Y.tolist()[2:]], TypeError, "got fractions"),
        (_with(3, np.inf), TypeError, "labels must be whole numbers"),
        (torch.rand(30), TypeError, "got fractions"),
        (Y[:-1], ValueError, r"labels must have shape \(30,\), one for each row of X, got \(29,\)"),
        (WORDS * 2, ValueError, r"got \(60,\)"),
        (np.zeros(30, int), ValueError, "labels must have at least 2 clusters to explain, got 1$"),
        (-Y, ValueError, "got 1 and 15 noise points"),
        (np.full(30, -1), ValueError, "got 0 and 30 noise points"),
        (["one"] * 30, ValueError, "at least 2 clusters to explain, got 1"),
        (np.array(_missing(WORDS, 3), dtype=object), TypeError, "labels must be all numbers or all names, got both"),
        (_missing(WORDS, 3), TypeError, "labels must be all numbers or all names, got both"),
    ],
)
def test_what_are_no_labels_is_refused(labels, error, message):
    with pytest.raises(error, match=message):
        neuralize(labels, _blobs()[0])


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"support": 0}, ValueError, "support must be at least 1, got 0"),
        ({"support": -3}, ValueError, "support must be at least 1, got -3"),
        ({"support": 2.5}, TypeError, "support must be a whole number, got 2.5"),
        ({"test_size": 0}, ValueError, "test_size must be a number between 0 and 1, got 0"),
        ({"test_size": 1}, ValueError, "test_size must be a number between 0 and 1, got 1"),
        ({"test_size": -0.2}, ValueError, "test_size must be a number between 0 and 1, got -0.2"),
        ({"test_size": math.nan}, ValueError, "test_size must be a number between 0 and 1, got nan"),
    ],
)
def test_options_out_of_range_are_refused(keywords, error, message):
    X, y = _blobs()
    with pytest.raises(error, match=message):
        neuralize(y, X, **keywords)


def test_points_that_can_not_be_explained_are_refused():
    X, y = _blobs()
    for noise in (y, np.array(_missing(y, -1))):
        broken = X.copy()
        broken[17, 1] = np.nan
        with pytest.raises(ValueError, match=r"X must be finite, .* \(first in row 17; features \[1\]\)"):
            neuralize(noise, broken)
        frame = pandas.DataFrame(broken, columns=["a", "b"])
        with pytest.raises(ValueError, match=r"\(first in row 17; features \['b'\]\)"):
            explain(noise, frame)
    with pytest.raises(
        ValueError, match=r"X must have shape \(N, d\) for labels to be explained on it, got \(30, 2, 1\)"
    ):
        neuralize(y, X[:, :, None])
    with pytest.raises(ValueError, match=r"X must have shape \(N, d\), got \(30,\)"):
        neuralize(y, X[:, 0])
    with pytest.raises(TypeError, match="floating point tensor, got torch.int64"):
        neuralize(y, torch.tensor(X).long())
    with pytest.raises(TypeError, match=r"X must hold numbers, but its columns \['word'\] do not"):
        neuralize(y, pandas.DataFrame({"word": WORDS}))


def test_points_are_needed():
    X, y = _blobs()
    for labels in (y, y.tolist(), WORDS, pandas.Series(WORDS), torch.tensor(y)):
        with pytest.raises(ValueError, match=r"needs the points if it is labels: neuralize\(labels, X\)"):
            neuralize(labels)
    with pytest.raises(ValueError, match=r"DBSCAN cannot be neuralised exactly: .* With the points, neuralize\("):
        neuralize(DBSCAN(eps=5).fit(X))
    with pytest.raises(ValueError, match="step 'quantiletransformer'.* not known to be affine.* With the points"):
        neuralize(make_pipeline(QuantileTransformer(n_quantiles=5), KMeans(2)).fit(X))


def test_estimators_that_do_not_fit_the_points_are_refused():
    X, _ = _blobs()
    message = "DBSCAN has labels of 30 points and no rule for others, but X has 20: .* neuralize"
    for model in (DBSCAN(eps=5).fit(X), make_pipeline(StandardScaler(), DBSCAN(eps=0.5)).fit(X)):
        with pytest.raises(ValueError, match=message):
            neuralize(model, X[:20])
    with pytest.raises(ValueError, match="DBSCAN is not fitted: it has no labels_; call fit first"):
        neuralize(DBSCAN(), X)
    with pytest.raises(ValueError, match="not fitted"):
        explain(make_pipeline(StandardScaler(), DBSCAN()), X)
    with pytest.raises((ValueError, NotFittedError), match="not fitted"):
        neuralize(BayesianGaussianMixture(n_components=2), X)
    with pytest.raises(ValueError, match="GaussianMixture is not fitted"):
        neuralize(GaussianMixture(2), X)
    with pytest.raises(ValueError, match="FeatureAgglomeration cannot be neuralised exactly: it clusters features"):
        neuralize(FeatureAgglomeration(2).fit(X), X)
    with pytest.raises(TypeError, match="clustering must be a fitted clustering"):
        neuralize(StandardScaler().fit(X), X)
    with pytest.raises(ValueError, match="at least 2 clusters to explain, got 0 and 30 noise points"):
        neuralize(DBSCAN(eps=1e-9).fit(X), X)


# estimators


@pytest.mark.parametrize(
    "model",
    [
        HDBSCAN(min_cluster_size=10, copy=True),
        OPTICS(min_samples=10),
        BayesianGaussianMixture(n_components=2, random_state=0),
        GaussianMixture(2, random_state=0),
        GaussianMixture(2, covariance_type="diag", random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_other_estimators(model):
    model.fit(MOONS)
    labels = model.predict(MOONS) if hasattr(model, "predict") else model.labels_
    e = explain(model, MOONS, min_fidelity=0.5)
    head = e.head
    assert head.fidelity >= 0.97
    assert head.n_clusters == len(set(labels) - {-1})
    kept = labels >= 0
    assert head.fidelity.noise == (~kept).sum()
    assert (_assigned(head, MOONS)[kept] == labels[kept]).mean() >= 0.98
    assert (e.noise == ~kept).all()
    assert ((e.cluster == labels)[kept]).mean() >= 0.98


def test_a_mixture_predicts_labels_of_other_points():
    model = GaussianMixture(2, random_state=0).fit(MOONS)
    assert neuralize(model, MOONS[:100]).fidelity >= 0.9
    pipeline = make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0)).fit(MOONS)
    assert len(explain(pipeline, MOONS[:100]).cluster) == 100


class Third:
    """A clustering of nobody's."""

    def fit(self, X):
        self.labels_ = (X[:, 0] > np.median(X[:, 0])).astype(int)
        return self


def test_any_class_with_labels():
    head = neuralize(Third().fit(MOONS), MOONS)
    assert head.fidelity > 0.95
    with pytest.raises(TypeError, match="got Third"):
        neuralize(Third().fit(MOONS))
    with pytest.raises(TypeError, match="got Third"):
        neuralize(Third(), MOONS)


@pytest.mark.parametrize(
    "model",
    [
        KMeans(3, n_init=1, random_state=0),
        MiniBatchKMeans(3, n_init=1, random_state=0),
        BisectingKMeans(3, random_state=0),
        GaussianMixture(3, covariance_type="tied", random_state=0),
        make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_exact_estimators_do_not_look_at_the_points(model):
    model.fit(MOONS)
    head, alone = neuralize(model, "anything"), neuralize(model)
    assert head.fidelity is None
    assert torch.equal(head(torch.tensor(MOONS)), alone(torch.tensor(MOONS)))
    e = explain(model, MOONS, min_fidelity=1)
    assert e.fidelity is None
    assert not e.noise.any()
    assert "fidelity" not in repr(e)


def test_centroids_and_heads_do_not_look_at_the_points():
    assert neuralize(np.eye(2), "anything").fidelity is None
    head = neuralize(MOON, MOONS)
    assert neuralize(head, "anything") is head


# pipelines


@pytest.mark.parametrize("model", [DBSCAN(eps=0.3), AgglomerativeClustering(2, linkage="single")], ids=["db", "tree"])
def test_scaled_clusterings_are_explained_on_their_input(model):
    X = MOONS * [1, 1000] + [0, 5]
    pipeline = make_pipeline(StandardScaler(), model).fit(X)
    e = explain(pipeline, X)
    assert e.fidelity >= 0.99
    inside = explain(pipeline[-1], pipeline[:-1].transform(X))
    np.testing.assert_allclose(e.relevance, inside.relevance, rtol=0, atol=1e-9 * np.abs(e.relevance).max())
    np.testing.assert_allclose(e.evidence, inside.evidence, rtol=0, atol=1e-9 * e.evidence.max())
    # the soft pools of kernels dissipate a little, and weights have a part in evidence
    assert np.abs(e.relevance.sum(1) - e.evidence).max() <= 0.02 * e.evidence.max()
    assert e.head.n_features == 2


def test_relevance_is_carried_through_a_pca():
    rng = np.random.default_rng(0)
    X = np.column_stack([MOONS, 0.05 * rng.normal(size=(300, 2))]) @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    frame = pandas.DataFrame(X, columns=list("abcd"))
    pipeline = make_pipeline(PCA(2), DBSCAN(eps=0.2)).fit(frame)
    assert len(set(pipeline[-1].labels_) - {-1}) == 2
    e = explain(pipeline, frame)
    assert e.fidelity >= 0.99
    assert e.feature_names == list("abcd")
    assert neuralize(pipeline, frame).feature_names == tuple("abcd")
    assert list(e.relevance.columns) == list("abcd")
    inside = explain(pipeline[-1], pipeline[:-1].transform(frame))
    scale = np.abs(inside.evidence).max()
    np.testing.assert_allclose(e.relevance.to_numpy().sum(1), inside.relevance.sum(1), rtol=0, atol=1e-9 * scale)
    assert np.abs(e.relevance.to_numpy().sum(1) - e.evidence).max() <= 0.02 * scale
    assert e.head.n_features == 4
    assert e.head.fidelity is e.fidelity


def test_a_row_norm_before_a_clustering_stays():
    X = np.abs(MOONS) + 0.1
    pipeline = make_pipeline(Normalizer(), AgglomerativeClustering(3)).fit(X)
    head = neuralize(pipeline, X)
    assert isinstance(head.steps[0], RowNorm)
    assert (_assigned(head, X) == _assigned(head, 3 * X)).all()
    assert (_assigned(head, X) == pipeline[-1].labels_).mean() > 0.97


@pytest.mark.parametrize(
    "pipeline",
    [
        make_pipeline(QuantileTransformer(n_quantiles=50), AgglomerativeClustering(2)),
        make_pipeline(KernelPCA(4, kernel="rbf", gamma=1.0), AgglomerativeClustering(2)),
        make_pipeline(KernelPCA(4, kernel="rbf", gamma=1.0), KMeans(2, n_init=1, random_state=0)),
    ],
    ids=["quantiles", "kernel", "kernel k-means"],
)
def test_steps_that_are_not_affine_are_part_of_the_labels(pipeline):
    frame = pandas.DataFrame(MOONS, columns=["u", "v"])
    head = neuralize(pipeline.fit(frame), frame)
    assert list(explain(head, frame).relevance.columns) == ["u", "v"]
    assert head.n_features == 2
    assert head.steps == () or head.steps[0].diagonal  # nothing but a scale of its own
    assert head.feature_names == ("u", "v")
    assert head.fidelity > 0.9
    assert (_assigned(head, MOONS) == pipeline[-1].labels_).mean() > 0.95


def test_pipelines_without_steps():
    for pipeline in (make_pipeline(DBSCAN(eps=0.2)), make_pipeline("passthrough", DBSCAN(eps=0.2))):
        assert neuralize(pipeline.fit(MOONS), MOONS).fidelity >= 0.99


def test_pipelines_within_pipelines():
    for model in (KMeans(2, n_init=1, random_state=0), DBSCAN(eps=0.3)):
        pipeline = make_pipeline(StandardScaler(), make_pipeline(PCA(2), model)).fit(MOONS)
        head = neuralize(pipeline, MOONS)
        assert (_assigned(head, MOONS) == model.labels_).mean() >= 0.99


def test_the_output_of_steps_may_be_a_table():
    frame = pandas.DataFrame(MOONS, columns=["u", "v"])
    pipeline = make_pipeline(PCA(2).set_output(transform="pandas"), AgglomerativeClustering(2)).fit(frame)
    assert neuralize(pipeline, frame).feature_names == ("u", "v")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn: the step was fitted with names
        assert neuralize(pipeline, MOONS).feature_names is None


# explanations and noise


@pytest.mark.parametrize("kind", ["frame", "array", "tensor", "list"])
def test_explanations_come_back_as_points_went_in(dbscan, explained, kind):
    model, frame = dbscan
    values = frame.to_numpy()
    X = {"frame": frame, "array": values, "tensor": torch.tensor(values), "list": values.tolist()}[kind]
    e = explain(model, X)
    assert isinstance(e.relevance, {"frame": pandas.DataFrame, "tensor": torch.Tensor}.get(kind, np.ndarray))
    assert isinstance(e.cluster, torch.Tensor if kind == "tensor" else np.ndarray)
    assert (np.asarray(e.cluster) == explained.cluster).all()
    np.testing.assert_array_equal(np.asarray(e.relevance), explained.relevance.to_numpy())
    assert e.feature_names == (["east", "north"] if kind == "frame" else ["x0", "x1"])
    assert explain(model, X, feature_names=["a", "b"]).feature_names == ["a", "b"]


def test_noise_belongs_to_no_cluster(dbscan, explained):
    model, _ = dbscan
    e, noise = explained, model.labels_ == -1
    assert (e.noise == noise).all()
    assert (e.cluster == model.labels_)[noise].all()
    assert (e.cluster == model.labels_).mean() > 0.98
    assert (np.isnan(e.evidence) == noise).all()
    assert (np.isnan(e.relevance.to_numpy()) == noise[:, None]).all()
    assert (e.evidence[~noise] > 0).all()
    assert e.fidelity.noise == noise.sum()
    assert f"{noise.sum()} noise points left out" in repr(e.fidelity)
    assert e.fidelity >= 0.97
    assert e.fidelity.counts.sum() <= (~noise).sum() / 3
    assert repr(e) == f"Explanation(shape=(330, 2), n_clusters=2, beta={e.beta:.4g}, fidelity={float(e.fidelity):.3f})"
    assert len(e) == 330


def test_parts_of_noise(explained):
    e, noise = explained, explained.noise
    assert (np.isnan(e.competitors) == noise[:, None]).all()
    np.testing.assert_allclose(e.competitors[~noise].sum(1), e.evidence[~noise])
    parts = [e.through(k).to_numpy() for k in range(2)]
    for part in parts:
        assert (np.isnan(part) == noise[:, None]).all()
    scale = np.abs(e.relevance.to_numpy()[~noise]).max()
    np.testing.assert_allclose(sum(parts), e.relevance.to_numpy(), rtol=0, atol=1e-10 * scale)


def test_noise_does_not_change_the_others(dbscan, explained):
    """Not in the fit, and not in the stiffness."""
    model, frame = dbscan
    kept = ~explained.noise
    alone = explain(model.labels_[kept], frame[kept])
    np.testing.assert_array_equal(alone.head.support, explained.head.support)
    assert not alone.noise.any()
    head = neuralize(model, frame)
    same = explain(head, frame, beta=explained.beta)
    np.testing.assert_array_equal(same.relevance[kept], explained.relevance[kept])
    assert (same.cluster >= 0).all()  # a head knows nothing of noise


def test_tables_and_noise(dbscan, explained):
    model, frame = dbscan
    noise = model.labels_ == -1
    summary, rows = explained.summary(), explained.to_frame()
    assert summary.index.tolist() == [0, 1]
    for k in range(2):
        members = explained.cluster == k
        np.testing.assert_allclose(summary.loc[k], explained.relevance[members].mean())
    assert rows.index.equals(frame.index)
    assert list(rows.columns) == ["cluster", "evidence", "east", "north"]
    assert (rows["cluster"].to_numpy() == explained.cluster).all()
    assert (rows["evidence"].isna() == noise).all()
    assert (rows["east"].isna() == noise).all()


def test_shap_leaves_noise_out(dbscan, explained):
    pytest.importorskip("shap")
    _, frame = dbscan
    values = explained.to_shap()
    kept = ~explained.noise
    np.testing.assert_array_equal(values.values, explained.relevance.to_numpy()[kept])
    np.testing.assert_array_equal(values.data, frame.to_numpy()[kept])
    assert values.base_values.shape == (kept.sum(),)


@pytest.mark.parametrize("cluster", [0, 1])
def test_noise_can_be_asked_about(dbscan, explained, cluster):
    model, frame = dbscan
    e = explain(model, frame, cluster=cluster)
    assert (e.cluster == cluster).all()
    assert not e.noise.any()
    assert np.isfinite(e.relevance.to_numpy()).all()
    assert np.isfinite(e.evidence).all()
    assert np.isfinite(e.competitors).all()
    head = explained.head
    np.testing.assert_allclose(e.evidence, head(torch.tensor(frame.to_numpy()))[:, cluster], rtol=1e-9, atol=1e-9)
    assert not math.isnan(e.to_frame().to_numpy(float).sum())
    np.testing.assert_allclose(e.summary().loc[cluster], e.relevance.mean())


def test_rather_than_with_noise(dbscan):
    e = explain(*dbscan, competitor=1)
    assert (np.isnan(e.evidence) == e.noise).all()
    assert (e.evidence[e.cluster == 1] == 0).all()
    assert (e.evidence[e.cluster == 0] > 0).all()
    assert (np.isnan(e.competitors) == e.noise[:, None]).all()


def test_names_of_clusters():
    X, _ = _blobs()
    words = pandas.Series(WORDS)
    words[4] = None
    e = explain(words, X)
    assert e.labels == ("left", "right")
    assert e.summary().index.tolist() == ["left", "right"]
    assert e.summary().index.name == "cluster"
    rows = e.to_frame()
    assert rows["cluster"].tolist() == [-1 if i == 4 else word for i, word in enumerate(WORDS)]
    ax = Figure().subplots()
    plot.clusters(e, ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["left (15 points)", "right (14 points)"]
    plot.point(e, 0, ax=(ax := Figure().subplots()))
    assert "cluster right, evidence" in ax.get_title()


def test_pictures_of_noise(dbscan, explained):
    model, frame = dbscan
    first = int(np.flatnonzero(explained.noise)[0])
    with pytest.raises(ValueError, match=f"row {first} is noise: it belongs to no cluster"):
        plot.point(explained, first, ax=Figure().subplots())
    asked = explain(model, frame, cluster=1)
    plot.point(asked, first, ax=(ax := Figure().subplots()))
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(asked.relevance.iloc[first].sum())
    plot.clusters(explained, ax=(ax := Figure().subplots()))
    count = [int((explained.cluster == k).sum()) for k in range(2)]
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"{k} ({n} points)" for k, n in enumerate(count)]
    plot.plane(model, frame, resolution=20, ax=(ax := Figure().subplots()))
    grey = [part for part in ax.collections if len(part.get_offsets()) == explained.noise.sum()]
    assert len(grey) == 1
    np.testing.assert_array_equal(grey[0].get_offsets(), frame.to_numpy()[explained.noise])


def test_an_explanation_of_labels_can_be_copied(explained):
    for other in (pickle.loads(pickle.dumps(explained)), copy.deepcopy(explained)):
        assert other.relevance.equals(explained.relevance)
        assert (other.noise == explained.noise).all()
        assert other.through(1).equals(explained.through(1))
        assert other.fidelity == explained.fidelity
        assert repr(other.fidelity) == repr(explained.fidelity)


# what is warned of


def test_too_low_a_fidelity_is_warned_of(dbscan, quick):
    model, frame = dbscan
    X, labels = MOONS, MOON.copy()
    labels[:60] = 1 - labels[:60]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(model, frame)
        head = neuralize(labels, X)  # does not warn: it tells
        explain(head, X, min_fidelity=0)
        explain(head, X, min_fidelity=min(*head.fidelity.per_cluster, head.fidelity))
        explain(labels, X, min_fidelity=0.2)
    with pytest.warns(UserWarning, match="min_fidelity=0.95") as caught:
        explain(head, X, min_fidelity=0.95)
    assert caught[0].filename == __file__
    for wrong in (-0.1, 1.5, "high", None):
        with pytest.raises(ValueError, match="min_fidelity must be a number from 0 to 1, got"):
            explain(head, X, min_fidelity=wrong)


def test_a_numpy_number_is_a_number():
    X, y = _blobs()
    assert explain(y, X, min_fidelity=np.float32(0.5)).fidelity == 1


def test_the_complaint():
    assert Fidelity([9, 9], [10, 10]).complaint(0.9) is None
    assert Fidelity([9, 10], [10, 10]).complaint(0.9) is None
    assert Fidelity([9, 0], [10, 0]).complaint(0.9) is None  # nothing was tested of the second
    just = Fidelity([899, 1000], [1000, 1000]).complaint(0.9)
    assert "predicts 95% of 2000 held-out labels (cluster 0: 90% of 1000); below min_fidelity=0.9" in just
    poor = Fidelity([8, 10], [10, 10]).complaint(0.9, ["a", "b"])
    assert "predicts 90% of 20 held-out labels (cluster 'a': 80% of 10)" in poor
    both = Fidelity([1, 3], [10, 10]).complaint(0.5)
    assert "predicts 20% of 20 held-out labels (cluster 0: 10% of 10, 1: 30% of 10)" in both
    many = Fidelity([0] * 9, [1] * 9).complaint(0.5)
    assert "5: 0% of 1 and 3 more)" in many
    assert "6: 0% of 1" not in many
    assert "was tested on no point;" in Fidelity([0, 0], [0, 0]).complaint(0.5)
    assert Fidelity([10, 10], [10, 10]).complaint(1) is None
    assert Fidelity([10, 9], [10, 10]).complaint(1) is not None
    assert Fidelity([0, 0], [10, 10]).complaint(0) is None


def test_fidelity_is_a_number():
    fidelity = Fidelity([8, 0, 0], [10, 10, 0], noise=3)
    assert fidelity == fidelity.overall == 0.4
    assert type(fidelity.overall) is float
    np.testing.assert_array_equal(fidelity.per_cluster, [0.8, 0.0, np.nan])
    assert fidelity.counts.tolist() == [10, 10, 0]
    assert repr(fidelity) == "Fidelity(0.400 of 20 held-out points; by cluster 0.80, 0.00, -, 3 noise points left out)"
    assert repr(Fidelity([1], [1])) == "Fidelity(1.000 of 1 held-out points; by cluster 1.00)"
    many = Fidelity([3, *[4] * 11], [4] * 12)
    assert repr(many) == "Fidelity(0.979 of 48 held-out points; by cluster 12 of them, from 0.75)"
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        other = pickle.loads(pickle.dumps(fidelity, protocol))
        assert (repr(other), other.noise, float(other)) == (repr(fidelity), 3, 0.4)
    for other in (copy.copy(fidelity), copy.deepcopy(fidelity)):
        assert type(other) is Fidelity
        np.testing.assert_array_equal(other.per_cluster, fidelity.per_cluster)
        assert repr(other) == repr(fidelity)
    none = Fidelity([0, 0], [0, 0])
    assert math.isnan(none)
    assert math.isnan(pickle.loads(pickle.dumps(none)))
    assert repr(none) == "Fidelity(nan of 0 held-out points; by cluster -, -)"


def test_heads_keep_their_fidelity():
    X, y = _blobs()
    head = neuralize(y, X)
    behind = head.with_preprocessing([Affine(np.full(2, 2.0))])
    assert behind.fidelity is head.fidelity
    assert (_assigned(behind, X / 2) == _assigned(head, X)).all()
    for other in (copy.deepcopy(head), pickle.loads(pickle.dumps(head))):
        assert repr(other.fidelity) == repr(head.fidelity)
        assert torch.equal(other(torch.tensor(X)), head(torch.tensor(X)))
    assert explain(head, X).fidelity is head.fidelity


# the state of the world


def test_it_is_reproducible(quick):
    labels = np.random.default_rng(0).permutation(MOON)
    one, two, other = (neuralize(labels, MOONS, random_state=seed) for seed in (3, 3, 4))
    assert torch.equal(one.support, two.support)
    _same_weights(one, two)
    assert (one.gamma, one.fidelity) == (two.gamma, two.fidelity)
    assert not torch.equal(one.support, other.support)
    state = np.random.RandomState(3)
    drawn = neuralize(labels, MOONS, random_state=state)
    assert torch.equal(one.support, drawn.support)
    assert not torch.equal(neuralize(labels, MOONS, random_state=state).support, drawn.support)
    neuralize(*reversed(_blobs()), random_state=None)


def test_global_state_is_left_alone(quick):
    labels = np.random.default_rng(0).permutation(MOON)
    numpy_state, torch_state = np.random.get_state(), torch.random.get_rng_state()  # noqa: NPY002
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled())
    kept = labels.copy(), MOONS.copy()
    explain(labels, MOONS, min_fidelity=0.1)
    assert (torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()) == before
    assert torch.equal(torch.random.get_rng_state(), torch_state)
    for one, two in zip(np.random.get_state(), numpy_state, strict=True):  # noqa: NPY002
        assert np.array_equal(one, two)
    assert (labels == kept[0]).all()
    assert np.array_equal(MOONS, kept[1])


@pytest.mark.parametrize("default", [torch.float16, torch.float64])
def test_the_default_dtype_plays_no_part(quick, default):
    labels = np.random.default_rng(0).permutation(MOON)
    expected = neuralize(labels, MOONS)
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        head = neuralize(labels, MOONS)
        assert torch.get_default_dtype() == default
    finally:
        torch.set_default_dtype(before)
    assert torch.equal(head.support, expected.support)
    assert head.gamma == expected.gamma


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_grad_modes_play_no_part(quick, mode):
    labels = np.random.default_rng(0).permutation(MOON)
    expected = neuralize(labels, MOONS)
    with mode():
        head = neuralize(labels, MOONS)
        assert not torch.is_grad_enabled()
        inside = explain(labels, MOONS, min_fidelity=0.1).relevance
        tensor = explain(labels, torch.tensor(MOONS), min_fidelity=0.1).relevance
    assert torch.equal(head.support, expected.support)
    np.testing.assert_array_equal(inside, explain(expected, MOONS, min_fidelity=0.1).relevance)
    np.testing.assert_array_equal(tensor.clone(), inside)
    x = torch.tensor(MOONS, requires_grad=True)
    head(x).sum().backward()  # the head is an ordinary module
    assert torch.isfinite(x.grad).all()


def test_progress_goes_to_stderr(capsys):
    X, y = _blobs()
    explain(y, X, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "surrogate" in err
    explain(y, X)
    assert capsys.readouterr().err == ""


# sizes and precision


@pytest.mark.parametrize("kind", ["array", "tensor", "frame"])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_support_is_as_precise_as_the_points(kind, dtype):
    X, y = _blobs()
    X = X.astype(dtype)
    X = {"array": X, "tensor": torch.tensor(X), "frame": pandas.DataFrame(X)}[kind]
    head = neuralize(y, X)
    assert head.support.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    e = explain(y, X)
    assert dtype in str(e.relevance.to_numpy().dtype if kind == "frame" else e.relevance.dtype)
    assert (np.asarray(e.cluster) == y).all()
    assert head.fidelity == 1


def test_float32_far_from_the_origin():
    X = (MOONS + 1000).astype(np.float32)
    head = neuralize(MOON, X)
    assert head.fidelity >= 0.99
    assert (_assigned(head, X) == MOON).mean() >= 0.99


def test_clusters_of_few_points_are_never_held_out():
    X, y = _blobs()
    X = np.concatenate([X, [[50.0, 50], [-40, 0], [-40, 1]]])
    labels = np.append(y, [2, 3, 3])
    head = neuralize(labels, X)
    assert head.fidelity.counts.tolist() == [5, 5, 0, 0]
    assert np.isnan(head.fidelity.per_cluster).tolist() == [False, False, True, True]
    assert head.fidelity == 1
    assert (_assigned(head, X) == labels).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        e = explain(labels, X)
    assert (e.cluster == labels).all()
    with pytest.warns(UserWarning, match="was tested on no point"):
        few = explain(y[:4], X[:4])
    assert math.isnan(few.fidelity)
    assert few.cluster.tolist() == y[:4].tolist()


def test_one_point_a_cluster():
    X = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0]])
    head = neuralize([0, 1, 2], X)
    assert (_assigned(head, X) == [0, 1, 2]).all()
    assert math.isnan(head.fidelity)


def test_more_points_than_support_at_the_same_place():
    X = np.repeat([[0.0, 0.0], [1.0, 0.0], [5.0, 5.0], [6.0, 5.0]], 50, axis=0)
    for labels in (np.repeat([0, 0, 1, 1], 50), np.repeat([0, 1, 1, 0], 50)):
        head = neuralize(labels, X)
        assert max(head.sizes) <= 2
        assert head.fidelity == 1
        assert np.isfinite(explain(labels, X).relevance).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clusters_at_the_same_place(dtype):
    assert neuralize([0, 1] * 20, np.zeros((40, 2), dtype)).fidelity == 0.5
    X = np.tile(np.random.default_rng(0).normal(size=(20, 3)), (3, 1)).astype(dtype)
    labels = np.repeat([0, 1, 2], 20)
    assert neuralize(labels, X).fidelity < 0.6
    assert np.isfinite(explain(labels, X, min_fidelity=0).relevance).all()


@pytest.mark.parametrize("support", [1, 3, 20])
def test_support_bounds_the_size(support):
    head = neuralize(MOON, MOONS, support=support)
    assert max(head.sizes) <= support
    assert (head.fidelity >= 0.99) == (support == 20) or support == 3


def test_one_feature_and_many_features():
    X, y = _blobs(60, 1)
    assert neuralize(y, X).fidelity == 1
    X, y = _blobs(60, 500)
    assert neuralize(y, X).fidelity == 1
    e = explain(y, X)
    assert np.isfinite(e.relevance).all()


@pytest.mark.slow
def test_a_step_of_the_fit_costs_the_same_for_many_points(monkeypatch):
    batches, whole = [], Mixture._slopes

    def counted(self, z, y):
        batches.append(len(y))
        whole(self, z, y)

    monkeypatch.setattr(Mixture, "_slopes", counted)
    X, labels = make_moons(30_000, noise=0.2, random_state=0)
    head = neuralize(labels, X.astype(np.float32))
    assert set(batches) == {BATCH}
    assert head.fidelity.counts.sum() == 10_000
    assert head.fidelity > 0.95
    assert explain(head, X).relevance.shape == X.shape


def test_points_that_are_held_are_bounded(monkeypatch):
    """A large table is read in batches, and no more of it is held than there is room for."""
    X, labels = make_blobs(20_000, 50, centers=4, random_state=0)
    monkeypatch.setattr(surrogate, "ELEMENTS", 3000 * 50)
    monkeypatch.setattr(surrogate, "COMPARED", 500 * 50)
    read, fitted = [], []
    whole, compared = surrogate.Table.read, surrogate.select

    def counted(self, start, stop, *args, **keywords):
        read.append(stop - start)
        return whole(self, start, stop, *args, **keywords)

    def looked(x, *args):
        fitted.append(x.shape)
        return compared(x, *args)

    monkeypatch.setattr(surrogate.Table, "read", counted)
    monkeypatch.setattr(surrogate, "select", looked)
    head = neuralize(labels, X, support=2)
    assert max(read) < 8192
    assert 490 <= fitted[0][0] <= 500
    assert head.fidelity == 1
    assert head.fidelity.counts.sum() == 20_000 // 4 // 3 * 4


# which network


def wide(sizes, width, scale, seed):
    """Class means plus noise in many features."""
    rng = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    return scale * rng.normal(size=(len(sizes), width))[y] + rng.normal(size=(len(y), width)), y


@pytest.mark.parametrize(
    ("sizes", "width", "scale"),
    [((60, 40, 30, 20, 10), 300, 0.2), pytest.param((5,) * 20, 300, 0.25, marks=pytest.mark.slow)],
)
def test_no_worse_than_class_means_where_features_are_many(sizes, width, scale):
    """On the very points that are held out, on average of some seeds."""
    ours, means = [], []
    for seed in range(4):
        X, y = wide(sizes, width, scale, seed)
        head = neuralize(y, X, random_state=seed)
        test = surrogate._held_out(y, 1 / 3, np.random.RandomState(seed))
        ours.append(head.fidelity)
        means.append(NearestCentroid().fit(X[~test], y[~test]).score(X[test], y[test]))
    assert np.mean(ours) >= np.mean(means) - 0.01


def test_the_result_says_which_network_it_is():
    X, y = _blobs()
    head = neuralize(y, X)
    assert head.fidelity.network == "class means, raw features"
    assert repr(head.fidelity).endswith("; class means, raw features)")
    assert head.sizes == (1, 1)
    curved = neuralize(MOON, MOONS)
    assert curved.fidelity.network.startswith("up to 20 support vectors a cluster, raw features")
    with pytest.warns(UserWarning, match=r"chosen among several: .* features.*\. Another"):
        explain(np.random.default_rng(0).permutation(MOON), MOONS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("whitened", [False, True])
def test_class_means_conserve_relevance(dtype, whitened):
    X, y = load_iris(return_X_y=True) if whitened else make_blobs(300, 4, centers=3, random_state=4)
    head = neuralize(y, X.astype(dtype))
    assert (WHITENED in head.fidelity.network) == whitened
    assert head.log_weight is None
    assert head.evidence_layer.conserves
    e = explain(head, X)
    np.testing.assert_allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=1e-13 * np.abs(e.relevance).sum(1).max())


def test_whitened_evidence_is_a_difference_of_mahalanobis_distances():
    X, y = make_blobs(300, 3, centers=3, random_state=4)
    X = X @ np.array([[1.0, 5, 0], [0, 1, 5], [0, 0, 1]]) + 7
    head = neuralize(y, X)
    assert head.fidelity.network == "class means, whitened features"
    step = head.steps[0]
    metric = (step.linear.T @ step.linear).numpy()
    means = step.preimage(head.support).numpy()
    train = ~surrogate._held_out(y, 1 / 3, np.random.RandomState(0))
    np.testing.assert_allclose(means, [X[train & (y == k)].mean(0) for k in range(3)], rtol=1e-10)
    distance = np.einsum("nkd,de,nke->nk", X[:, None] - means, metric, X[:, None] - means)
    order = np.sort(distance, 1)
    e = explain(head, X)
    np.testing.assert_allclose(e.evidence, order[:, 1] - order[:, 0], rtol=1e-10, atol=1e-10 * distance.max())


@pytest.mark.parametrize(("scale", "shift"), [(1e6, 0), (1e-9, 0), (1, 1e9), ([1, 1e5, 1e-5, 3], 0)])
def test_units_do_not_change_the_choice(scale, shift):
    """Of a network that is chosen in standardised or whitened features."""
    X, y = load_iris(return_X_y=True)
    head, other = neuralize(y, X), neuralize(y, X * scale + shift)
    assert head.fidelity.network == "class means, whitened features"
    assert repr(other.fidelity) == repr(head.fidelity)


def test_names_do_not_change_the_choice():
    X, y = load_iris(return_X_y=True)
    swapped = (y + 1) % 3
    head, other = neuralize(y, X), neuralize(swapped, X)
    assert other.fidelity.network == head.fidelity.network
    assert abs(other.fidelity - head.fidelity) < 0.1


@pytest.mark.parametrize("shape", ["many clusters", "more features than points", "one point", "two points"])
def test_unusual_shapes(shape):
    rng = np.random.default_rng(0)
    if shape == "many clusters":
        X, y = make_blobs(1500, 6, centers=60, random_state=1)
    elif shape == "more features than points":
        X, y = wide((8,) * 10, 3000, 0.3, 3)
    else:
        y = np.repeat(np.arange(12), 1 if shape == "one point" else 2)
        X = 10 * rng.normal(size=(12, 5))[y] + rng.normal(size=(len(y), 5))
    head = neuralize(y, X)
    assert (_assigned(head, X) == y).mean() > 0.98
    assert np.isfinite(explain(head, X, min_fidelity=0).relevance).all()
    assert head.n_clusters == len(set(y))
