"""Thousands of random heads, Pipelines and questions against the slow transcription of the papers, from one seed.

Each case is one point of one clustering with one question: evidence, relevance of features, and relevance of
competitors have to be those of ``reference.py`` in float64. ``ZENNIT_NEON_FUZZ`` sets the number of cases of the slow
tests, and ``ZENNIT_NEON_SEED`` the seed.
"""

import os

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler

from tests import reference
from zennit_neon import (
    Affine,
    NeuralizedHierarchy,
    NeuralizedKernelKMeans,
    NeuralizedKMeans,
    NeuralizedSoftmax,
    explain,
    neuralize,
)

FEW, MANY = 3_000, int(os.environ.get("ZENNIT_NEON_FUZZ", 12_000))
SEED = int(os.environ.get("ZENNIT_NEON_SEED", 0))

#: Points of one clustering: each is a case.
POINTS = 20


def _sizes(rng):
    return int(rng.integers(2, 7)), int(rng.integers(1, 6))


def _scale(rng):
    return 10.0 ** rng.integers(-6, 7), rng.choice([0.0, 1.0, -3.0, 1e4])


def _points(rng, d, scale=1.0, shift=0.0, count=POINTS):
    return rng.normal(size=(count, d)) * scale * rng.choice([0.5, 1.0, 4.0]) + shift * scale


def _beta(rng, scale):
    return float(rng.choice([0.0, 0.1, 1.0, 10.0])) / scale**2


def _in_some_kind(rng, X):
    """The same points as something that users hand in."""
    kinds = [
        lambda: X,
        lambda: torch.tensor(X),
        lambda: pandas.DataFrame(X, columns=[f"c{i}" for i in range(X.shape[1])]),
        lambda: X.tolist(),
        lambda: X[::-1].copy()[::-1],
        lambda: X.astype(">f8"),
        lambda: np.asfortranarray(X),
        lambda: scipy.sparse.csr_matrix(X),
        lambda: scipy.sparse.csc_array(X),
    ]
    return kinds[rng.integers(len(kinds))]()


def _asked(rng, own, count):
    """Keywords of a question, and the cluster and competitor of each point that it is about."""
    kind = rng.integers(4)
    if kind == 1:
        cluster = int(rng.integers(count))
        return {"cluster": cluster}, np.full(len(own), cluster), None
    if kind == 2:
        clusters = rng.integers(count, size=len(own)).astype(rng.choice([np.int64, np.uint8, np.int16]))
        return {"cluster": clusters}, clusters.astype(int), None
    if kind == 3:
        rival = int(rng.integers(count))
        return {"competitor": rival}, own, rival
    return {}, own, None


def _same(e, i, evidence, shares, relevance, unit):
    """Compare one row with the reference, in units of its evidence."""
    assert float(e.evidence[i]) == pytest.approx(evidence, rel=1e-9, abs=1e-10 * unit)
    found = np.asarray(e.relevance)[i] if not hasattr(e.relevance, "iloc") else e.relevance.to_numpy()[i]
    np.testing.assert_allclose(found, relevance, rtol=1e-8, atol=1e-9 * max(unit, np.abs(relevance).max()))
    if shares is not None:
        np.testing.assert_allclose(np.asarray(e.competitors)[i], shares, rtol=1e-8, atol=1e-9 * unit)


def _is_steady(h, evidence):
    """Whether no neuron is nearly switched off, where rounding decides on the share that it may carry."""
    return all(abs(value) > 1e-4 * abs(evidence) for value in h.values()) and evidence != 0


def _one_competitor(x, centroids, c, k, root, weight):
    """``h_ck`` alone by the midpoint rule."""
    if c == k:
        return 0.0, np.zeros_like(x)
    w, _, h = reference.kmeans_layers(x, centroids, c)[k]
    return h, (x - (centroids[c] + centroids[k]) / 2) * w


def kmeans(rng):
    """k-means on points as they are: Eqs. 2 and 4 of paper 1."""
    (count, d), (scale, shift) = _sizes(rng), _scale(rng)
    centroids = rng.normal(size=(count, d)) * scale + shift * scale
    X, beta = _points(rng, d, scale, shift), _beta(rng, scale)
    labels = None if rng.random() < 0.5 else [f"name {k}" for k in rng.permutation(count)]
    head = NeuralizedKMeans(centroids, beta=beta, explicit=bool(rng.integers(2)), labels=labels)
    own = np.array([reference.outlierness(x, centroids).argmin() for x in X])
    keywords, clusters, rival = _asked(rng, own, count)
    if labels is not None:
        keywords = {name: np.array(labels, dtype=object)[value] for name, value in keywords.items()}
    e = explain(head, _in_some_kind(rng, X), **keywords)
    assert [e.labels.index(label) for label in np.asarray(e.cluster)] == clusters.tolist()
    done = 0
    for i, (x, c) in enumerate(zip(X, clusters, strict=True)):
        if rival is not None:
            evidence, relevance = _one_competitor(x, centroids, c, rival, None, None)
            _same(e, i, evidence, None, relevance, scale**2 * (1 + shift**2))
        else:
            evidence, shares, relevance = reference.kmeans_relevance(
                x - shift * scale, centroids - shift * scale, c, beta
            )
            h = {k: value for k, (_, _, value) in reference.kmeans_layers(x, centroids, c).items()}
            if not _is_steady(h, evidence):
                continue
            _same(e, i, evidence, shares, relevance, scale**2)
        done += 1
    return done


def pipelines(rng):
    """k-means behind scalers and PCA, some columns far from zero: the same in the coordinates of the clustering."""
    count, d = int(rng.integers(2, 5)), int(rng.integers(2, 5))
    X = rng.normal(size=(60, d)) * 10.0 ** rng.integers(-4, 5, size=d)
    X += np.abs(X).max(0) * rng.choice([0.0, 1.0, 1e6], size=d)
    scaler = [StandardScaler(), MinMaxScaler(), RobustScaler(), MaxAbsScaler()][rng.integers(4)]
    steps = [scaler, PCA(int(rng.integers(1, d + 1)))] if rng.random() < 0.3 else [scaler]
    model = make_pipeline(*steps, KMeans(count, n_init=1, max_iter=5, random_state=0)).fit(X)
    beta, some = float(rng.choice([0.0, 1.0])), X[:POINTS]
    e = explain(model, _in_some_kind(rng, some), beta=beta)
    Z, centroids = model[:-1].transform(some), model[-1].cluster_centers_.astype(float)
    assert np.asarray(e.cluster).tolist() == model.predict(some).tolist()
    unit = np.abs(np.asarray(e.evidence)).max()
    for i, z in enumerate(Z):
        c = int(e.cluster[i])
        if len(steps) == 1:  # a scale of each feature: relevance is that of the scaled ones
            evidence, _, relevance = reference.kmeans_relevance(z - centroids[0], centroids - centroids[0], c, beta)
        else:
            matrix = np.asarray(model[1].components_) / model[0].scale_ if hasattr(model[0], "scale_") else None
            if isinstance(scaler, MinMaxScaler):
                matrix = model[1].components_ * model[0].scale_
            preimage = lambda m: model[0].inverse_transform(model[1].inverse_transform(m[None]))[0]  # noqa: E731
            evidence, relevance = reference.affine_relevance(
                some[i], centroids, c, beta, matrix, z - matrix @ some[i], preimage
            )
        tolerance = 1e-6 * max(unit, np.abs(relevance).max())  # scikit-learn's own transforms are the measure here
        assert float(e.evidence[i]) == pytest.approx(evidence, abs=tolerance)
        np.testing.assert_allclose(np.asarray(e.relevance)[i], relevance, rtol=0, atol=tolerance)
    return len(Z)


def kernels(rng):
    """Kernel k-means by support vectors, with and without weights: Eqs. 6 to 10 of paper 1."""
    count, d = int(rng.integers(2, 4)), int(rng.integers(1, 4))
    sets = [rng.normal(size=(int(rng.integers(1, 4)), d)) for _ in range(count)]
    weights = None if rng.random() < 0.5 else [rng.uniform(0.1, 2, size=len(part)) for part in sets]
    gamma, beta, X = float(10.0 ** rng.integers(-2, 3)), _beta(rng, 1.0), _points(rng, d)
    e = explain(NeuralizedKernelKMeans(sets, gamma, weights, beta=beta, explicit=bool(rng.integers(2))), X)
    given = weights or [np.full(len(part), 1 / len(part)) for part in sets]
    for i, x in enumerate(X):
        evidence, _, relevance = reference.kernel_relevance(x, sets, given, gamma, int(e.cluster[i]), beta)
        assert float(e.evidence[i]) == pytest.approx(evidence, rel=1e-7, abs=1e-8)
        np.testing.assert_allclose(e.relevance[i], relevance, rtol=1e-6, atol=1e-6 * max(1, np.abs(relevance).max()))
    return len(X)


def soft(rng):
    """Soft k-means (paper 2), and clusterings on logits (Props. 6 and 7 of paper 1)."""
    (count, d), explicit = _sizes(rng), bool(rng.integers(2))
    X = _points(rng, d)
    if rng.random() < 0.5:
        centroids, beta = rng.normal(size=(count, d)), float(rng.choice([0.3, 1.0, 3.0]))
        e = explain(NeuralizedKMeans(centroids, beta=beta, soft=True, explicit=explicit), X)
        for i, x in enumerate(X):
            evidence, shares, relevance = reference.soft_kmeans_relevance(x, centroids, int(e.cluster[i]), beta)
            _same(e, i, evidence, shares, relevance, 1.0)
        return len(X)
    linear = torch.nn.Linear(d, count).double()
    weight, bias = linear.weight.detach().numpy(), linear.bias.detach().numpy()
    theta = None if rng.random() < 0.5 else float(rng.uniform(0.1, 0.9))
    beta = None if theta is not None else float(rng.choice([0.0, 1.0]))
    e = explain(NeuralizedSoftmax(linear, theta, beta=beta, explicit=explicit), X)
    done = 0
    for i, x in enumerate(X):
        c = int(e.cluster[i])
        h = {k: value for k, (_, _, value) in reference.logit_layers(x, weight, bias, c, theta).items()}
        evidence, shares, relevance = reference.logit_relevance(x, weight, bias, c, beta, theta)
        if min(map(abs, h.values())) > 1e-3:
            _same(e, i, evidence, shares, relevance, 1.0)
            done += 1
    return done


def trees(rng):
    """A tree of splits: the evidence of a leaf is the least on its path, and relevance sums to it."""
    count, d = int(rng.integers(2, 7)), int(rng.integers(1, 4))
    paths, splits = [[]], 0
    while len(paths) < count:
        path = paths.pop(int(rng.integers(len(paths))))
        paths += [[*path, (splits, True)], [*path, (splits, False)]]
        splits += 1
    centers, X = rng.normal(size=(2 * splits, d)), _points(rng, d)
    e = explain(NeuralizedHierarchy(centers, paths, beta=_beta(rng, 1.0)), X)
    for i, x in enumerate(X):
        o = reference.outlierness(x, centers)
        h = [[(o[2 * s + 1] - o[2 * s]) * (1 if first else -1) for s, first in path] for path in paths]
        evidence = [min(part) for part in h]
        assert int(e.cluster[i]) == int(np.argmax(evidence))
        assert float(e.evidence[i]) == pytest.approx(max(evidence), rel=1e-9, abs=1e-10)
        assert float(e.relevance[i].sum()) == pytest.approx(max(evidence), rel=1e-8, abs=1e-9)
    return len(X)


def steps(rng):
    """A head behind any affine map: evidence is that of the mapped point, and relevance sums to it."""
    count, d = int(rng.integers(2, 5)), int(rng.integers(1, 5))
    p = int(rng.integers(1, d + 1))
    shift = float(rng.choice([0.0, 1e3, 1e9]))
    linear = rng.normal(size=d if p == d and rng.random() < 0.5 else (p, d))
    step = Affine(linear, rng.normal(size=len(linear)), center=np.full(d, shift))
    centroids, X = rng.normal(size=(count, len(linear))), _points(rng, d) + shift
    e = explain(neuralize(centroids).with_preprocessing([step]), X, beta=1.0)
    Z = (X - shift) * linear if linear.ndim == 1 else (X - shift) @ linear.T
    for i, z in enumerate(Z + step.offset.numpy()):
        o = reference.outlierness(z, centroids)
        evidence = np.sort(o)[1] - np.sort(o)[0]
        assert int(e.cluster[i]) == int(o.argmin()) or evidence < 1e-9
        assert float(e.evidence[i]) == pytest.approx(evidence, rel=1e-8, abs=1e-9)
        assert float(e.relevance[i].sum()) == pytest.approx(evidence, rel=1e-7, abs=1e-8)
    return len(X)


@pytest.mark.parametrize("cases", [FEW, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"])
@pytest.mark.parametrize("family", [kmeans, pipelines, kernels, soft, trees, steps], ids=lambda family: family.__name__)
def test_random_cases_equal_the_reference(family, cases, one_thread):
    wanted = cases * (3 if family is kmeans else 1) // 8
    done, seed = 0, SEED
    while done < wanted:
        try:
            torch.manual_seed(seed)
            done += family(np.random.default_rng([SEED, seed]))
        except AssertionError as error:
            raise AssertionError(f"{family.__name__}, ZENNIT_NEON_SEED={SEED}, clustering {seed}: {error}") from None
        seed += 1
