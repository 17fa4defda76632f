"""Bisecting k-means: the tree as a network, its relevance, and what it refuses."""

import math

import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import BisectingKMeans
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torch import nn
from torch.nn.functional import one_hot
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus
from zennit.rules import Epsilon

from tests import reference
from zennit_neon import Affine, NeuralizedHierarchy, NeuralizedKMeans, RowNorm, explain, neuralize
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.composites import Neon
from zennit_neon.functional import evidence as hard_evidence
from zennit_neon.layer.tree import PathEvidence

X = load_wine().data
SCALED = StandardScaler().fit_transform(X)

#: A chain, a balanced tree, one split, and one whose splits are numbered from the leaves up.
TREES = {
    "two": [[(0, True)], [(0, False)]],
    "chain": [[(0, True)], [(0, False), (1, True)], [(0, False), (1, False), (2, True)], [(0, 0), (1, 0), (2, 0)]],
    "balanced": [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False), (2, True)], [(0, False), (2, False)]],
    "numbered from below": [
        [(2, False), (0, True)],
        [(2, True)],
        [(2, False), (0, False), (1, False)],
        [(2, 0), (0, 0), (1, 1)],
    ],
}


def _tree(rng, n_leaves):
    """A random tree: a leaf is divided until there are enough, then splits and leaves get other numbers."""
    paths = [[]]
    names = rng.permutation(n_leaves - 1)
    for name in names:
        path = paths.pop(rng.integers(len(paths)))
        paths += [[*path, (int(name), True)], [*path, (int(name), False)]]
    return [paths[i] for i in rng.permutation(n_leaves)]


def _clustering(rng, tree, d=4):
    paths = _tree(rng, 9) if tree == "random" else TREES[tree]
    return rng.normal(size=(2 * len(paths) - 2, d)), paths


def _sides(centers, split, first):
    """Centers on the side of a leaf, and on the other."""
    pair = centers[2 * split], centers[2 * split + 1]
    return pair if first else pair[::-1]


def _activations(z, centers, path):
    h = {}
    for split, first in path:
        own, other = _sides(centers, split, first)
        h[split] = float(np.sum((z - other) ** 2) - np.sum((z - own) ** 2))
    return h


def _parting(paths, c, k):
    """The split at which two leaves part."""
    sides = dict(paths[k])
    return next(split for split, first in paths[c] if split in sides and bool(sides[split]) != bool(first))


def _assigned(z, centers, paths):
    """Walk down the tree."""
    for leaf, path in enumerate(paths):
        if all(value > 0 for value in _activations(z, centers, path).values()):
            return leaf
    raise AssertionError("a point is in no leaf")


def _explained(x, centers, paths, c, beta, competitor=None, matrix=None, offset=0.0, preimage=None):
    """Evidence, relevance that flows through leaves (K,), and relevance of features (d,), for one point."""
    matrix = np.eye(len(x)) if matrix is None else matrix
    preimage = preimage or (lambda z: z)
    h = _activations(matrix @ x + offset, centers, paths[c])
    if competitor is None:
        f = min(h.values())
        shares = reference.min_take_most(h, f, beta)
    else:
        f = h[_parting(paths, c, competitor)]
        shares = {_parting(paths, c, competitor): f}
    relevance, through = np.zeros(len(x)), np.zeros(len(paths))
    for split, first in paths[c]:
        if split in shares:
            own, other = _sides(centers, split, first)
            z = (x - preimage((own + other) / 2)) * (matrix.T @ (2 * (own - other)))
            relevance += z / z.sum() * shares[split]
            beyond = [k for k, path in enumerate(paths) if (split, not first) in [(s, bool(b)) for s, b in path]]
            through[beyond] += shares[split] / len(beyond)
    return f, through, relevance


def _attribute(head, x, cluster, **keywords):
    """Zennit's relevance of the evidence of one cluster a point."""

    def seed(output):
        return output * one_hot(torch.as_tensor(cluster), output.shape[1]).to(output)

    with Gradient(head, Neon(**keywords)) as attributor:
        return attributor(x.clone(), seed)


# scikit-learn's estimator


@pytest.mark.parametrize(
    ("n_clusters", "seed", "strategy"),
    [(2, 0, "biggest_inertia"), (5, 1, "largest_cluster"), (12, 2, "biggest_inertia")],
)
def test_the_largest_evidence_is_what_predict_says(table, n_clusters, seed, strategy):
    data = StandardScaler().fit_transform(table)
    model = BisectingKMeans(n_clusters, random_state=seed, bisecting_strategy=strategy).fit(data)
    other = np.random.default_rng(seed).normal(size=(500, data.shape[1])) * 3
    for points in (data, other):
        evidence = neuralize(model)(torch.tensor(points))
        assert (evidence.argmax(1).numpy() == model.predict(points)).all()
        assert ((evidence > 0).sum(1) == 1).all()
        assert (evidence.amax(1) > 0).all()


@pytest.mark.pairwise
@pytest.mark.parametrize(
    "steps",
    [
        [StandardScaler()],
        [StandardScaler(), PCA(4)],
        [StandardScaler(), PCA(4, whiten=True)],
        [Normalizer()],
        [StandardScaler(), Normalizer()],
        [StandardScaler(), PCA(5), Normalizer()],
    ],
    ids=["standard", "pca", "whitened", "norm", "standard norm", "pca norm"],
)
def test_pipelines_are_the_same_from_their_input_on(table, steps):
    pipeline = make_pipeline(*steps, BisectingKMeans(6, random_state=0)).fit(table)
    e = explain(pipeline, table)
    assert (e.cluster == pipeline.predict(table)).all()
    assert (neuralize(pipeline)(torch.tensor(table)).argmax(1).numpy() == pipeline.predict(table)).all()
    for cluster in (None, 3):
        e = explain(pipeline, table, cluster=cluster)
        size = np.abs(e.relevance).sum(1).max()
        assert np.abs(e.relevance.sum(1) - e.evidence).max() <= 1e-10 * size


def test_names_of_features_and_of_what_is_not_fitted():
    frame = pandas.DataFrame(X, columns=[f"f{i}" for i in range(13)])
    model = BisectingKMeans(3, random_state=0).fit(frame)
    assert neuralize(model).feature_names == tuple(frame.columns)
    e = explain(model, frame)
    assert list(e.relevance.columns) == list(frame.columns)
    assert e.fidelity is None
    assert not e.noise.any()
    with pytest.raises(ValueError, match="BisectingKMeans is not fitted"):
        neuralize(BisectingKMeans())
    with pytest.raises(ValueError, match="at least 2 clusters to be explained, got 1"):
        neuralize(BisectingKMeans(1).fit(X))


def test_a_clustering_of_float32_or_of_sparse_points():
    from scipy.sparse import csr_matrix

    single = SCALED.astype(np.float32)
    model = BisectingKMeans(6, random_state=0).fit(single)
    assert (explain(model, single).cluster == model.predict(single)).all()
    model = BisectingKMeans(6, random_state=0).fit(csr_matrix(SCALED))
    assert (explain(model, SCALED).cluster == model.predict(SCALED)).all()


def test_clusters_are_not_those_of_the_nearest_center():
    """A tree is no k-means of its leaves, so that the latter would be a wrong network."""
    model = BisectingKMeans(12, random_state=0).fit(SCALED)
    nearest = NeuralizedKMeans(model.cluster_centers_)(torch.tensor(SCALED)).argmax(1).numpy()
    assert (nearest != model.predict(SCALED)).any()


# the formulas


@pytest.mark.parametrize("tree", [*TREES, "random"])
@pytest.mark.parametrize("beta", [0.0, 0.4, 30.0])
def test_relevance_is_the_reference(rng, tree, beta):
    centers, paths = _clustering(rng, tree)
    head = NeuralizedHierarchy(centers, paths)
    x = rng.normal(size=(12, 4)) * 1.5
    own = [_assigned(point, centers, paths) for point in x]
    assigned = explain(head, x, beta=beta)
    assert assigned.cluster.tolist() == own
    for c in [None, *range(len(paths))]:
        e = assigned if c is None else explain(head, x, beta=beta, cluster=c)
        for n, point in enumerate(x):
            leaf = own[n] if c is None else c
            f, through, relevance = _explained(point, centers, paths, leaf, beta)
            np.testing.assert_allclose(e.evidence[n], f, rtol=0, atol=1e-10)
            np.testing.assert_allclose(e.relevance[n], relevance, rtol=0, atol=1e-10 * max(1, np.abs(relevance).max()))
            np.testing.assert_allclose(e.competitors[n], through, rtol=0, atol=1e-10 * max(1, np.abs(through).max()))
            assert (e.evidence[n] > 0) == (leaf == own[n])


@pytest.mark.parametrize("tree", [*TREES, "random"])
def test_rather_than_another_leaf_is_the_split_at_which_they_part(rng, tree):
    centers, paths = _clustering(rng, tree)
    head = NeuralizedHierarchy(centers, paths, beta=0.3)
    x = rng.normal(size=(10, 4)) * 1.5
    for k in range(len(paths)):
        e = explain(head, x, competitor=k)
        for n, point in enumerate(x):
            c = int(e.cluster[n])
            if c == k:
                assert e.evidence[n] == 0
                assert not e.relevance[n].any()
                continue
            f, through, relevance = _explained(point, centers, paths, c, 0.3, competitor=k)
            assert f > 0
            np.testing.assert_allclose(e.evidence[n], f, rtol=0, atol=1e-10)
            np.testing.assert_allclose(e.relevance[n], relevance, rtol=0, atol=1e-10 * max(1, np.abs(relevance).max()))
            np.testing.assert_allclose(e.competitors[n], through, rtol=0, atol=1e-10)
        foreign = explain(head, x, cluster=(k + 1) % len(paths), competitor=k)
        for n, point in enumerate(x):
            f, _, relevance = _explained(point, centers, paths, (k + 1) % len(paths), 0.3, competitor=k)
            np.testing.assert_allclose(foreign.evidence[n], f, rtol=0, atol=1e-10)
            np.testing.assert_allclose(foreign.relevance[n], relevance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("whiten", [False, True])
def test_relevance_behind_a_pca_is_the_reference(whiten):
    pipeline = make_pipeline(StandardScaler(), PCA(4, whiten=whiten), BisectingKMeans(6, random_state=0)).fit(X)
    steps, head = pipeline[:-1], neuralize(pipeline)
    offset = steps.transform(np.zeros((1, 13)))[0]
    matrix = (steps.transform(np.eye(13)) - offset).T
    centers = head.centers.numpy()
    for keywords in ({}, {"cluster": 2}, {"competitor": 1}):
        e = explain(pipeline, X[:30], beta=0.2, **keywords)
        for n, point in enumerate(X[:30]):
            rival = keywords.get("competitor")
            if rival == e.cluster[n]:
                continue
            f, _, expected = _explained(
                point,
                centers,
                head.paths,
                int(e.cluster[n]),
                0.2,
                rival,
                matrix,
                offset,
                lambda z: steps.inverse_transform(z[None])[0],
            )
            assert e.evidence[n] == pytest.approx(f, rel=1e-6, abs=1e-8)
            np.testing.assert_allclose(e.relevance[n], expected, rtol=0, atol=1e-6 * np.abs(expected).max())
            assert e.relevance[n].sum() == pytest.approx(e.evidence[n], rel=1e-9, abs=1e-10 * np.abs(expected).sum())


def test_scaling_leaves_relevance_as_it_is_in_scaled_features():
    for steps in ([StandardScaler()], [StandardScaler(), Normalizer()]):
        pipeline = make_pipeline(*steps, BisectingKMeans(5, random_state=0)).fit(X)
        inside = explain(pipeline[-1], pipeline[:-1].transform(X))
        np.testing.assert_allclose(explain(pipeline, X).relevance, inside.relevance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("keywords", [{}, {"cluster": 1}, {"competitor": 2}, {"cluster": 1, "competitor": 2}])
def test_competitors_and_their_parts_add_up(rng, keywords):
    centers, paths = _clustering(rng, "random")
    e = explain(NeuralizedHierarchy(centers, paths, beta=0.3), rng.normal(size=(40, 4)), **keywords)
    scale = np.abs(e.relevance).max()
    np.testing.assert_allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(e.competitors.sum(1), e.evidence, rtol=0, atol=1e-10 * scale)
    parts = np.array([e.through(k) for k in range(9)])
    np.testing.assert_allclose(parts.sum(0), e.relevance, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(parts.sum(2).T, e.competitors, rtol=0, atol=1e-10 * scale)
    for n, c in enumerate(e.cluster):
        assert e.competitors[n, c] == 0
        assert not parts[c, n].any()
        for split, first in paths[c]:  # the leaves on the other side of one split share equally
            beyond = [k for k, path in enumerate(paths) if (split, not first) in path]
            assert len(beyond) == 1 or np.ptp(e.competitors[n, beyond]) == 0
            assert np.ptp(parts[beyond, n], axis=0).max() == 0


def test_a_single_split_is_k_means(rng):
    centers, x = rng.normal(size=(2, 5)), torch.tensor(rng.normal(size=(30, 5)))
    tree, kmeans = NeuralizedHierarchy(centers, TREES["two"], beta=0.3), NeuralizedKMeans(centers, beta=0.3)
    assert torch.allclose(tree(x), kmeans(x), rtol=0, atol=1e-12)
    for keywords in ({}, {"cluster": 1}, {"competitor": 0}):
        ours, theirs = explain(tree, x, **keywords), explain(kmeans, x, **keywords)
        assert torch.allclose(ours.relevance, theirs.relevance, rtol=0, atol=1e-12)
        assert torch.allclose(ours.competitors, theirs.competitors, rtol=0, atol=1e-12)


def test_infinite_beta_explains_the_narrowest_split_alone(rng):
    centers, paths = _clustering(rng, "random")
    head, x = NeuralizedHierarchy(centers, paths), rng.normal(size=(20, 4))
    e = explain(head, x, beta=math.inf)
    for n, point in enumerate(x):
        h = _activations(point, centers, paths[e.cluster[n]])
        narrow = min(h, key=h.get)
        beyond = next(k for k in range(9) if k != e.cluster[n] and _parting(paths, e.cluster[n], k) == narrow)
        alone = explain(head, x[n : n + 1], competitor=beyond)
        np.testing.assert_allclose(e.relevance[n], alone.relevance[0], rtol=0, atol=1e-12)


# Zennit


@pytest.mark.parametrize("steps", ["none", "diagonal", "mixing", "norm", "mixing norm"])
@pytest.mark.parametrize("beta", [0.0, 0.4])
def test_the_composite_gives_the_same(rng, steps, beta):
    mixing = Affine(rng.normal(size=(3, 4)), rng.normal(size=3))
    before = {
        "none": [],
        "diagonal": [Affine(rng.normal(size=4), rng.normal(size=4))],
        "mixing": [mixing],
        "norm": [RowNorm()],
        "mixing norm": [mixing, RowNorm()],
    }[steps]
    centers, paths = _clustering(rng, "random", d=3 if "mixing" in steps else 4)
    head = NeuralizedHierarchy(centers, paths, beta=beta, steps=before)
    x = torch.tensor(rng.normal(size=(25, 4)))
    for keywords in ({}, {"cluster": 4}, {"competitor": 1}, {"cluster": 4, "competitor": 1}):
        e = explain(head, x, **keywords)
        output, relevance = _attribute(head, x, e.cluster, competitor=keywords.get("competitor"))
        scale = float(e.relevance.abs().max())
        if "competitor" in keywords:  # the seed is the evidence of the pool, not of the one neuron
            seeded = output.detach().gather(1, e.cluster[:, None])
            rivals = e.cluster != 1
            expected = torch.zeros_like(e.relevance)
            expected[rivals] = e.relevance[rivals] * seeded[rivals] / e.evidence[rivals, None]
            assert torch.allclose(relevance, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
        else:
            assert torch.allclose(output.detach().gather(1, e.cluster[:, None])[:, 0], e.evidence, rtol=0, atol=1e-10)
            assert torch.allclose(relevance, e.relevance, rtol=0, atol=1e-10 * scale)
    plain = NeuralizedHierarchy(centers, paths, beta=beta).with_preprocessing(before)
    assert torch.allclose(plain(x), head(x), rtol=0, atol=1e-12)


def test_locations_are_points(rng):
    centers, paths = _clustering(rng, "random")
    head = NeuralizedHierarchy(centers, paths, beta=0.4)
    x = torch.tensor(rng.normal(size=(5, 4, 3, 2)))
    rows = x.movedim(1, -1).flatten(0, -2)
    assert torch.allclose(head(x).movedim(1, -1).flatten(0, -2), head(rows), rtol=0, atol=1e-12)
    for keywords in ({}, {"cluster": 3}, {"competitor": 3}):
        e, flat = explain(head, x, **keywords), explain(head, rows, **keywords)
        assert e.cluster.shape == (5, 3, 2)
        for one, other in (
            (e.relevance, flat.relevance),
            (e.competitors, flat.competitors),
            (e.through(2), flat.through(2)),
        ):
            assert torch.allclose(one.movedim(1, -1).flatten(0, -2), other, rtol=0, atol=1e-12)
    seed = positive_evidence()
    with Gradient(head, Neon()) as attributor:
        _, relevance = attributor(x.clone(), seed)
        _, one_by_one = attributor(rows.clone(), seed)
    assert torch.allclose(relevance.movedim(1, -1).flatten(0, -2), one_by_one, rtol=0, atol=1e-12)


def test_trunks(rng):
    centers, paths = _clustering(rng, "balanced")
    head = NeuralizedHierarchy(centers, paths, beta=0.4)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    model, images = nn.Sequential(trunk, head), torch.rand(2, 3, 7, 7, dtype=torch.float64)
    with ClusterGradient(model, EpsilonPlus()) as attributor:
        _, relevance = attributor(images)
    with Gradient(model, Neon(EpsilonPlus())) as attributor:
        for k in range(4):
            _, one = attributor(images.clone(), positive_evidence(k))
            assert torch.allclose(relevance[:, k], one, rtol=0, atol=1e-10)
    rotation = torch.tensor(np.linalg.qr(rng.normal(size=(4, 4)))[0])
    linear = nn.Linear(4, 4, bias=False).double()
    linear.weight.data.copy_(rotation)
    model, x = nn.Sequential(linear, head), torch.tensor(rng.normal(size=(20, 4)))
    e = explain(model, x, composite=Neon(_Everything(Epsilon(1e-9))))
    inside = explain(head, x @ rotation.t())
    assert torch.equal(e.cluster, inside.cluster)
    assert torch.allclose(e.competitors, inside.competitors, rtol=0, atol=1e-10)
    assert torch.allclose(sum(e.through(k) for k in range(4)), e.relevance, rtol=0, atol=1e-6)


class _Everything(EpsilonPlus):
    """One rule for linear layers."""

    def __init__(self, rule):
        super().__init__()
        self.module_map = lambda ctx, name, module: rule if isinstance(module, nn.Linear) else None


# numbers


@pytest.mark.parametrize("n_clusters", [3, 10])
def test_float32_far_from_the_origin(table, n_clusters):
    data = StandardScaler().fit_transform(table) + 1e4
    model = BisectingKMeans(n_clusters, random_state=0).fit(data)
    head, single = neuralize(model), torch.tensor(data, dtype=torch.float32)
    exact, found = head(single.double()), head(single)
    assert found.dtype == torch.float32
    other = exact.argmax(1) != found.argmax(1)
    size = float(exact.abs().max())
    assert (exact.amax(1)[other] < 1e-5 * size).all()
    assert torch.allclose(found.double(), exact, rtol=0, atol=1e-5 * size)
    e = explain(head, single)
    assert ((e.relevance.double().sum(1) - e.evidence.double()).abs() <= 1e-4 * float(e.evidence.max())).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relevance_sums_to_evidence(table, dtype):
    data = StandardScaler().fit_transform(table).astype(dtype)
    model = BisectingKMeans(8, random_state=0).fit(data)
    limit = 1e-5 if dtype == np.float32 else 1e-12
    for cluster in (None, 0, 5):
        e = explain(model, data, cluster=cluster)
        assert e.relevance.dtype == dtype
        wrong = np.abs(e.relevance.astype(np.float64).sum(1) - e.evidence).max()
        assert wrong <= limit * np.abs(e.evidence).max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("beta", [0.0, 1.0, math.inf])
def test_points_on_splits(dtype, beta):
    centers = [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    paths = [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False)]]
    head = NeuralizedHierarchy(centers, paths, beta=beta)
    x = torch.tensor([[0.0, 0.0], [0.0, 2.0], [-3.0, 0.0], [0.0, -5.0]], dtype=dtype)
    assert (head(x).amax(1) == 0).all()
    for keywords in ({}, {"cluster": 0}, {"cluster": 1}, {"cluster": 2}, {"competitor": 1}, {"competitor": 2}):
        e = explain(head, x, **keywords)
        for values in (e.relevance, e.evidence, e.competitors, e.through(1)):
            assert torch.isfinite(values).all()
        assert torch.allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=1e-6)
        _, relevance = _attribute(head, x, e.cluster)
        assert torch.isfinite(relevance).all()
    near = explain(head, x.double() + torch.tensor([-1e-9, 1e-9]), cluster=0)
    on = explain(head, x.double(), cluster=0)
    assert torch.allclose(near.evidence, on.evidence, rtol=0, atol=1e-6)


def test_points_on_a_split_are_where_predict_puts_them():
    model = BisectingKMeans(2, random_state=0).fit(np.array([[-1.0, 0.0], [1.0, 0.0]]))
    on = np.array([[0.0, 0.0], [0.0, 3.0], [0.0, -7.0]])
    assert (explain(model, on, beta=1.0).cluster == model.predict(on)).all()


def test_empty_batches(rng):
    centers, paths = _clustering(rng, "random")
    head = NeuralizedHierarchy(centers, paths, beta=1.0)
    assert head(torch.empty(0, 4)).shape == (0, 9)
    assert head(torch.empty(2, 4, 0, 3)).shape == (2, 9, 0, 3)
    for keywords in ({}, {"cluster": 3}, {"competitor": 3}):
        e = explain(head, np.empty((0, 4)), **keywords)
        assert e.relevance.shape == (0, 4)
        assert e.evidence.shape == e.cluster.shape == (0,)
        assert e.competitors.shape == (0, 9)
        assert e.through(1).shape == (0, 4)


def test_points_that_are_not_finite_are_refused(rng):
    centers, paths = _clustering(rng, "random")
    head, x = NeuralizedHierarchy(centers, paths, beta=1.0), torch.zeros(5, 4)
    x[3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"x must be finite, .* \(first in row 3; features \[2\]\)"):
        head(x)
    with pytest.raises(ValueError, match=r"X must be finite, .* \(first in row 3; features \[2\]\)"):
        explain(head, x)
    with pytest.raises(ValueError, match=r"x must have shape \(N, 4, ...\), got \(5, 3\)"):
        head(torch.zeros(5, 3))
    with pytest.raises(TypeError, match="floating point"):
        head(torch.zeros(5, 4, dtype=torch.int64))


# the module


def test_clusters_of_interest(rng):
    centers, paths = _clustering(rng, "random")
    whole = NeuralizedHierarchy(centers, paths, beta=0.5)
    some = NeuralizedHierarchy(centers, paths, beta=0.5, clusters=[7, 0, 3])
    x = torch.tensor(rng.normal(size=(12, 4)))
    assert torch.equal(some(x), whole(x)[:, [7, 0, 3]])
    assert torch.equal(explain(some, x).relevance, explain(whole, x).relevance)
    with Gradient(some, Neon()) as attributor:
        _, relevance = attributor(x.clone(), positive_evidence(1))
    with Gradient(whole, Neon()) as attributor:
        _, expected = attributor(x.clone(), positive_evidence(0))
    assert torch.allclose(relevance, expected, rtol=0, atol=1e-12)
    assert some.n_clusters == 9
    assert some.clusters.tolist() == [7, 0, 3]


def test_another_state_brings_its_own_tree(rng):
    centers, paths = _clustering(rng, "balanced")
    head = NeuralizedHierarchy(centers, paths, beta=0.7)
    mirrored = [[(split, not first) for split, first in path] for path in paths]
    other, x = NeuralizedHierarchy(centers, mirrored), torch.tensor(rng.normal(size=(20, 4)))
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x), head(x))
    assert torch.equal(explain(other, x).relevance, explain(head, x).relevance)


def test_calibration(rng):
    centers, paths = _clustering(rng, "random")
    x = rng.normal(size=(300, 4))
    head = NeuralizedHierarchy(centers, paths)
    evidence = np.array([min(_activations(p, centers, paths[_assigned(p, centers, paths)]).values()) for p in x])
    assert head.beta is None
    assert head.calibrate(x, batch_size=7) is head
    assert head.beta == pytest.approx(1 / evidence.mean(), rel=1e-12)
    free = NeuralizedHierarchy(centers, paths)
    e = explain(free, x)
    assert e.beta == pytest.approx(head.beta, rel=1e-12)
    assert free.beta is None
    np.testing.assert_allclose(e.relevance, explain(head, x).relevance, rtol=0, atol=1e-10)
    np.testing.assert_allclose(e.relevance, explain(free, x, batch_size=7).relevance, rtol=0, atol=1e-10)


def test_after_is_the_same_clustering_from_further_away(rng):
    centers, paths = _clustering(rng, "balanced", d=3)
    head = NeuralizedHierarchy(centers, paths, beta=0.3, clusters=[2, 1], labels=list("abcd"))
    step = Affine(rng.normal(size=(3, 5)), rng.normal(size=3))
    behind = head.with_preprocessing([step])
    x = torch.tensor(rng.normal(size=(30, 5)))
    assert head.with_preprocessing([]) is head
    assert torch.allclose(behind(x), head(step(x)), rtol=0, atol=1e-10)
    assert (behind.beta, behind.clusters.tolist(), behind.labels) == (0.3, [2, 1], tuple("abcd"))
    assert behind.n_features == 5
    first = Affine(rng.normal(size=5))
    twice = behind.with_preprocessing([first])
    assert torch.allclose(twice(x), head(step(first(x))), rtol=0, atol=1e-10)
    e, inside = explain(behind, x), explain(head, step(x))
    assert torch.allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=1e-10)
    assert torch.allclose(e.competitors, inside.competitors, rtol=0, atol=1e-10)
    assert list(e.summary().index) == list("abcd")
    with pytest.raises(ValueError, match="steps give 2 features, but the centers have 3"):
        head.with_preprocessing([Affine(rng.normal(size=(2, 5)))])


def test_the_layer_alone(rng):
    """What competes are the activations of the splits, positive on the first side; scores are those of leaves."""
    centers, paths = _clustering(rng, "random")
    layer = NeuralizedHierarchy(centers, paths).evidence_layer
    assert isinstance(layer, PathEvidence)
    x = rng.normal(size=(5, 4))
    splits = layer.prepare(layer.centred(torch.tensor(x))).scores
    for n, point in enumerate(x):
        expected = [np.sum((point - centers[2 * s + 1]) ** 2) - np.sum((point - centers[2 * s]) ** 2) for s in range(8)]
        np.testing.assert_allclose(splits[n], expected, rtol=0, atol=1e-12)
    scores = layer.scores(layer.centred(torch.tensor(x)))
    assert torch.allclose(hard_evidence(scores), layer(torch.tensor(x)), rtol=0, atol=1e-12)


def test_old_state_dicts_are_taken():
    """Up to release 0.1 the pooling had no module of its own, nor had the evidence of explicit pairs."""
    for head, part in ((NeuralizedHierarchy(GOOD, THREE, beta=0.3), "pooling."), (EXPLICIT, "evidence.")):
        old = {key.replace(f".{part}", "."): value for key, value in head.state_dict().items()}
        assert set(old) != set(head.state_dict())
        fresh = head.rebuilt(beta=None)
        for name, buffer in fresh.named_buffers():
            if name != "clusters" and buffer.dtype.is_floating_point:
                buffer.zero_()
        fresh.load_state_dict(old)
        x = torch.randn(4, 2)
        assert torch.equal(fresh(x), head(x))
        assert fresh.beta == head.beta


GOOD = [[0.0, 0.0], [8.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
THREE = [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False)]]
EXPLICIT = NeuralizedKMeans(GOOD, beta=0.3, soft=True, explicit=True)
NO_TREE = "paths must be those of a binary tree with splits 0 to 1, each of which divides what is below it"


@pytest.mark.parametrize(
    ("centers", "paths", "options", "message"),
    [
        (GOOD, [], {}, "at least 2 clusters to be explained, got 0"),
        (np.empty((0, 2)), [[]], {}, "at least 2 clusters to be explained, got 1"),
        (GOOD[:2], THREE, {}, "2 rows for each of the 2 splits of 3 leaves, got 2"),
        (GOOD * 2, THREE, {}, "2 rows for each of the 2 splits of 3 leaves, got 8"),
        ([0.0, 1.0], THREE[:2], {}, r"centers must have shape \(2 \(K - 1\), d\), got \(2,\)"),
        (np.empty((4, 0)), THREE, {}, r"centers must have shape .*, got \(4, 0\)"),
        ([GOOD], THREE, {}, r"got \(1, 4, 2\)"),
        ([[np.nan, 0.0], *GOOD[1:]], THREE, {}, "centers must be finite"),
        ([[np.inf, 0.0], *GOOD[1:]], THREE, {}, "centers must be finite"),
        ([*GOOD[:2], [1.0, 1.0], [1.0, 1.0]], THREE, {}, r"splits \[1\] have the same center on both sides"),
        (GOOD, [[(0, True)], [(0, False)], [(0, False)]], {}, NO_TREE),  # a split is missing
        (GOOD, [[(0, True)], [(0, True), (1, True)], [(0, False)]], {}, NO_TREE),  # a leaf is above another
        (GOOD, [[(0, True), (1, True)], [(0, True), (1, True)], [(0, False)]], {}, NO_TREE),  # twice the same
        (GOOD, [[(0, True), (1, True)], [(0, True), (1, False)], [(1, False)]], {}, NO_TREE),  # two roots
        (GOOD, [[(0, True), (2, True)], [(0, True), (2, False)], [(0, False)]], {}, NO_TREE),  # there is no split 2
        (GOOD, [[(0, True), (-1, True)], [(0, True), (-1, False)], [(0, False)]], {}, NO_TREE),
        (GOOD, [[], [(0, True), (1, True)], [(0, False), (1, False)]], {}, NO_TREE),  # a leaf at the root
        (GOOD, [[(0, True), (1, True)], [(0, True), (1, False)], [(0, True)]], {}, NO_TREE),  # nothing on one side
        (GOOD, [[(0, True), (1, True)], [(0, True), (0, False)], [(0, False)]], {}, NO_TREE),  # on both sides of one
        (
            GOOD,
            [[(0, True), (1, True)], [(0, False), (1, False)], [(0, False), (1, True)]],
            {},
            NO_TREE,
        ),  # 1 is in two places
        (GOOD, THREE, {"beta": -1}, "beta must be a number of at least 0, got -1"),
        (GOOD, THREE, {"clusters": [3]}, "clusters must be different numbers from 0 to 2"),
        (GOOD, THREE, {"clusters": [1, 1]}, "clusters must be different numbers from 0 to 2"),
        (GOOD, THREE, {"feature_names": ["a"]}, "feature_names has 1 names for 2 features"),
    ],
)
def test_what_is_no_tree_is_refused(centers, paths, options, message):
    with pytest.raises(ValueError, match=message):
        NeuralizedHierarchy(centers, paths, **options)


def test_what_is_a_tree_is_not_refused():
    assert NeuralizedHierarchy(GOOD, THREE).n_clusters == 3


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"cluster": 3}, "cluster 3 was asked for, but this head has 3 clusters"),
        ({"competitor": 3}, "competitor: relevance of cluster 3"),
        ({"cluster": 1, "competitor": 1}, "another cluster than the explained one"),
    ],
)
def test_wrong_questions_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        explain(NeuralizedHierarchy(GOOD, THREE, beta=1.0), np.zeros((2, 2)), **keywords)
    with pytest.raises(ValueError, match="through|competitor"):
        explain(NeuralizedHierarchy(GOOD, THREE, beta=1.0), np.zeros((2, 2))).through(3)
