"""Root points: the projection on the nearest boundary for k-means, and no farther than a dense search for the rest."""

import numpy as np
import pytest
import torch
from torch import nn

from zennit_neon import (
    Affine,
    NeuralizedHierarchy,
    NeuralizedKernelKMeans,
    NeuralizedKMeans,
    NeuralizedSoftmax,
    RowNorm,
)
from zennit_neon.roots import root_points


def _evidence(model, x, cluster):
    with torch.no_grad():
        return model(x).gather(1, cluster[:, None])[:, 0]


def _nearest_root(z_of, x, centroids, matrix, c):
    """Root of k-means by a loop: the nearest of all projections that lies where the cluster loses."""
    best = None
    for k in range(len(centroids)):
        if k == c:
            continue
        h = np.sum((z_of(x) - centroids[k]) ** 2) - np.sum((z_of(x) - centroids[c]) ** 2)
        w = matrix.T @ (2 * (centroids[c] - centroids[k]))
        if h <= 0:
            return x
        root = x - h / (w @ w) * w
        if best is None or np.linalg.norm(root - x) < np.linalg.norm(best - x):
            best = root
    return best


AFFINE = {
    "none": (np.eye(4), np.zeros(4)),
    "scaler": (np.diag([2.0, 0.5, 1.0, 3.0]), np.array([1.0, -2.0, 0.0, 0.5])),
    "PCA": (np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0][:3], np.array([0.3, 0.1, -2.0])),
}


@pytest.mark.parametrize("steps", AFFINE)
@pytest.mark.parametrize("explicit", [False, True])
def test_kmeans_is_the_nearest_projection(rng, steps, explicit):
    matrix, offset = AFFINE[steps]
    centroids, X = rng.normal(size=(5, len(matrix))), rng.normal(size=(40, 4))
    given = {"none": [], "scaler": [Affine(matrix.diagonal().copy(), offset)], "PCA": [Affine(matrix, offset)]}[steps]
    head = NeuralizedKMeans(centroids, steps=given, explicit=explicit)
    cluster = torch.from_numpy(rng.integers(5, size=40))
    cluster[:20] = head(torch.from_numpy(X))[:20].argmax(1)
    found = root_points(head, torch.from_numpy(X), cluster, torch.from_numpy(X))
    for x, c, root in zip(X, cluster.tolist(), found.numpy(), strict=True):
        expected = _nearest_root(lambda p: matrix @ p + offset, x, centroids, matrix, c)
        np.testing.assert_allclose(root, expected, rtol=0, atol=1e-9)
    before, after = (_evidence(head, points, cluster) for points in (torch.from_numpy(X), found))
    assert bool((before > 0).any() and (before <= 0).any())
    assert float(after[before > 0].abs().max()) < 1e-9
    assert torch.equal(found[before <= 0], torch.from_numpy(X)[before <= 0])


def test_clusters_are_columns_of_the_output(rng):
    centroids, X = rng.normal(size=(4, 3)), torch.from_numpy(rng.normal(size=(20, 3)))
    whole, some = NeuralizedKMeans(centroids), NeuralizedKMeans(centroids, clusters=[2, 0])
    column = torch.arange(20) % 2
    expected = root_points(whole, X, torch.tensor([2, 0])[column], X)
    torch.testing.assert_close(root_points(some, X, column, X), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", [1e-2, 1e-3])
def test_kmeans_with_many_clusters_near_each_other_keeps_its_digits(rng, dtype, distance):
    """Centroids in pairs: lengths of their differences must not come from a product of matrices."""
    centroids = rng.normal(size=(20, 5))
    centroids = np.concatenate([centroids, centroids + distance * rng.normal(size=(20, 5))])
    X = torch.tensor(rng.normal(size=(200, 5)), dtype=dtype)
    head = NeuralizedKMeans(centroids)
    cluster = head(X).argmax(1)
    found = root_points(head, X, cluster, X)
    assert found.dtype == dtype
    assert bool(torch.isfinite(found).all())
    eye = np.eye(5)
    for x, c, root in zip(X.double().numpy(), cluster.tolist(), found.double().numpy(), strict=True):
        expected = _nearest_root(lambda p: p, x, centroids, eye, c)
        length = np.linalg.norm(expected - x)
        # evidence is known to a few times the machine precision, which is divided by the length of the direction
        error = 50 * torch.finfo(dtype).eps / distance
        assert np.linalg.norm(root - x) == pytest.approx(length, rel=1e-5, abs=error)


# --- other models, on the plane ---

SPLITS = [[-1.0, 0.0], [1.0, 0.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, 2.0], [2.0, 0.0]]
PATHS = [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False), (2, True)], [(0, False), (2, False)]]


def _trunk(activation, seed=0):
    """A small network and three clusters of its output."""
    torch.manual_seed(seed)
    trunk = nn.Sequential(nn.Linear(2, 16), activation, nn.Linear(16, 3)).double().requires_grad_(False)
    corners = torch.tensor([[-1.5, 0.0], [1.5, 0.0], [0.0, 2.0]], dtype=torch.float64)
    return nn.Sequential(trunk, NeuralizedKMeans(trunk(corners)))


def _model(name):
    rng = np.random.default_rng(0)
    torch.manual_seed(1)
    middles = [[-1, 0], [1, 0], [0, 1.5]]
    sets = [rng.normal(size=(p, 2)) * 0.7 + m for p, m in zip((3, 4, 2), middles, strict=True)]
    weights = [rng.uniform(0.3, 2, size=len(part)) for part in sets]
    makers = {
        "kernel": lambda: NeuralizedKernelKMeans(sets, 1.0),
        "kernel weighted": lambda: NeuralizedKernelKMeans(sets, 0.5, weights),
        "kernel explicit": lambda: NeuralizedKernelKMeans(sets, 1.0, explicit=True),
        "kernel sharp": lambda: NeuralizedKernelKMeans(sets, 8.0),
        "soft k-means": lambda: NeuralizedKMeans(rng.normal(size=(4, 2)), beta=0.8, soft=True),
        "row norm": lambda: NeuralizedKMeans([[1.0, 0.0], [-0.6, 0.8], [-0.6, -0.8]], steps=[RowNorm()]),
        "softmax": lambda: NeuralizedSoftmax(nn.Linear(2, 4)),
        "softmax absolute": lambda: NeuralizedSoftmax(nn.Linear(2, 3), threshold=0.4),
        "hierarchy": lambda: NeuralizedHierarchy(SPLITS, PATHS),
        "deep": lambda: _trunk(nn.Tanh()),
    }
    return makers[name]()


MODELS = (
    "kernel",
    "kernel weighted",
    "kernel sharp",
    "soft k-means",
    "row norm",
    "softmax",
    "softmax absolute",
    "hierarchy",
    "deep",
)


def _dense(model, X, cluster, reach=5.0, count=401):
    """Distance of each point to the nearest place of a grid over the plane where its cluster loses: never too small."""
    line = torch.linspace(-reach, reach, count, dtype=torch.float64)
    plane = torch.cartesian_prod(line, line)
    with torch.no_grad():
        values = torch.cat([model(part) for part in plane.split(50_000)])
    lost = [plane[values[:, k] <= 0] for k in range(values.shape[1])]
    away = [(lost[k] - x).norm(dim=1) for x, k in zip(X, cluster.tolist(), strict=True)]
    return torch.stack([part.min() if len(part) else torch.tensor(torch.inf) for part in away])


@pytest.mark.parametrize("name", MODELS)
def test_search_ends_on_the_boundary_no_farther_than_a_dense_search(rng, name):
    model = _model(name)
    data = torch.from_numpy(rng.normal(size=(150, 2)) * 1.5)
    X = data[:40]
    cluster = model(X).argmax(1)
    found = root_points(model, X, cluster, data)
    inside = _evidence(model, X, cluster) > 0
    after = _evidence(model, found, cluster)
    assert int(inside.sum()) > 20
    assert float(after[inside].max()) <= 1e-9
    assert float(after[inside].min()) > -1e-6  # on the boundary, not far beyond
    assert torch.equal(found[~inside], X[~inside])
    ratio = (found - X).norm(dim=1)[inside] / _dense(model, X, cluster)[inside]
    assert float(ratio.median()) < 1.01
    farther = int((ratio > 1.05).sum())  # a few may end in a local minimum
    assert farther <= 0.1 * len(ratio), f"{farther} of {len(ratio)} are farther"
    assert float(ratio.max()) < 1.5, f"{farther} of {len(ratio)} are farther, by up to {float(ratio.max()):.2f}"


def test_search_through_relu_is_mostly_near_a_dense_search(rng):
    """Piecewise linear evidence has many local minima."""
    model = _trunk(nn.ReLU(), 2)
    data = torch.from_numpy(rng.normal(size=(300, 2)) * 1.5)
    X = data[:60]
    cluster = model(X).argmax(1)
    assert int((cluster.bincount(minlength=3) > 5).sum()) > 1
    found = root_points(model, X, cluster, data)
    assert float(_evidence(model, found, cluster).max()) <= 1e-9
    ratio = (found - X).norm(dim=1) / _dense(model, X, cluster)
    assert float(ratio.median()) < 1.02
    assert float((ratio > 1.1).double().mean()) < 0.1


def test_search_agrees_with_the_projection_where_that_is_known(rng):
    centroids = rng.normal(size=(4, 3))
    head, plain = NeuralizedKMeans(centroids), nn.Sequential(NeuralizedKMeans(centroids))
    X = torch.from_numpy(rng.normal(size=(60, 3)))
    cluster = head(X).argmax(1)
    exact, found = (root_points(model, X, cluster, X) for model in (head, plain))
    length = (exact - X).norm(dim=1)
    assert bool(((found - X).norm(dim=1) >= length - 1e-9).all())
    near = (found - X).norm(dim=1) < 1.001 * length
    assert float(near.double().mean()) > 0.8  # the others are local minima
    torch.testing.assert_close(found[near], exact[near], rtol=0, atol=0.05)


def test_explicit_heads_have_the_same_roots(rng):
    X = torch.from_numpy(rng.normal(size=(15, 2)))
    heads = [_model(name) for name in ("kernel", "kernel explicit")]
    cluster = heads[0](X).argmax(1)
    closed, explicit = (root_points(head, X, cluster, X) for head in heads)
    torch.testing.assert_close(closed, explicit, rtol=0, atol=1e-6)


def test_maps_are_searched_as_a_whole():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten())
    model = nn.Sequential(trunk, NeuralizedKMeans(torch.randn(3, 12))).double().requires_grad_(False)
    X = torch.randn(30, 2, 3, 3, dtype=torch.float64)
    cluster = model(X).argmax(1)
    assert len(cluster.unique()) > 1
    found = root_points(model, X, cluster, X)
    assert found.shape == X.shape
    after = _evidence(model, found, cluster)
    assert float(after.max()) <= 1e-9
    assert float(after.min()) > -1e-6
    # nearer than the data to begin with
    outside = torch.stack([(X[cluster != c] - x).flatten(1).norm(dim=1).min() for x, c in zip(X, cluster, strict=True)])
    assert bool(((found - X).flatten(1).norm(dim=1) < outside).all())


def test_parameters_and_points_stay_as_they_are(rng):
    model = _trunk(nn.Tanh()).requires_grad_(True)
    X = torch.from_numpy(rng.normal(size=(30, 2)))
    copy, cluster = X.clone(), model(X).argmax(1)
    with torch.no_grad():
        found = root_points(model, X, cluster, X)
    assert torch.equal(X, copy)
    assert not X.requires_grad
    assert not found.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["kernel", "softmax", "deep"])
def test_refuses_data_of_one_cluster(rng, name):
    model = _model(name)
    X = torch.from_numpy(rng.normal(size=(100, 2)))
    cluster = model(X).argmax(1)
    alone = X[cluster == cluster[0]]
    own = cluster[cluster == cluster[0]]
    with pytest.raises(ValueError, match=f"data must have points outside of cluster {int(cluster[0])}"):
        root_points(model, alone, own, alone)
