"""Features far from zero, numbers next to nothing: evidence is that of exact arithmetic, or it is refused."""

import copy
import itertools
from fractions import Fraction

import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import AgglomerativeClustering, Birch, BisectingKMeans, KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, Normalizer, RobustScaler, StandardScaler

import zennit_neon as neon
from zennit_neon.composites import Neon
from zennit_neon.exceptions import PrecisionError


def _exactly(X, scale, center=0.0, offset=0.0):
    """``(x - center) * scale + offset`` of rational numbers, rounded once."""
    scale, center, offset = (np.broadcast_to(part, X.shape[1]) for part in (scale, center, offset))
    rows = []
    for row in X.tolist():
        columns = zip(row, scale.tolist(), center.tolist(), offset.tolist(), strict=True)
        rows.append([float((Fraction(x) - Fraction(c)) * s + Fraction(t)) for x, s, c, t in columns])
    return np.array(rows)


def _evidence(Z, centroids):
    distance = ((Z[:, None] - centroids[None]) ** 2).sum(2)
    ranked = np.sort(distance, 1)
    return distance.argmin(1), ranked[:, 1] - ranked[:, 0]


def _table(ratio, seed=0, n=150):
    """A column far from zero, and three that tell groups apart."""
    rng = np.random.default_rng(seed)
    group = rng.integers(3, size=n)
    return np.c_[ratio + rng.normal(size=n), rng.normal(size=(n, 3)) + 4 * np.eye(3)[group]]


def _scaler_output(scaler, X):
    """What a scaler stands for, without its own rounding."""
    if isinstance(scaler, MinMaxScaler):
        return _exactly(X, [Fraction(s) for s in scaler.scale_.tolist()], offset=scaler.min_)
    center = scaler.mean_ if isinstance(scaler, StandardScaler) else scaler.center_
    return _exactly(X, [1 / Fraction(s) for s in scaler.scale_.tolist()], center)


@pytest.mark.parametrize("ratio", [0.0, 1e4, 1e8, 1e10, 1e12, -1e12])
@pytest.mark.parametrize("scaler", [StandardScaler(), MinMaxScaler(), RobustScaler(), MinMaxScaler((-3, 5))], ids=str)
def test_scaled_columns_far_from_zero(scaler, ratio):
    X = _table(ratio)
    model = make_pipeline(scaler, KMeans(4, n_init=2, random_state=0)).fit(X)
    e = neon.explain(model, X)
    cluster, evidence = _evidence(_scaler_output(model[0], X), model[1].cluster_centers_)
    assert (e.cluster == cluster).all()
    tolerance = 1e-11 * evidence.max()
    assert np.allclose(e.evidence, evidence, rtol=0, atol=tolerance)
    assert np.allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=tolerance)
    if not isinstance(scaler, MinMaxScaler):  # whose own output is rounded to 1e-16 of the offset
        own = _evidence(model[0].transform(X), model[1].cluster_centers_)[1]
        assert np.allclose(e.evidence, own, rtol=0, atol=1e-9 * own.max())


@pytest.mark.parametrize("shift", [0.0, 2.0**30, 2.0**40])
@pytest.mark.parametrize(
    "steps",
    [
        [PCA(3)],
        [StandardScaler(), PCA(2, whiten=True)],
        [make_column_transformer((StandardScaler(), [0, 2]), (RobustScaler(), [1]), remainder="passthrough")],
        [make_column_transformer((StandardScaler(), [2, 0]))],
        [StandardScaler(), Normalizer()],
        [RobustScaler(), PCA(3), Normalizer("l1")],
    ],
    ids=str,
)
def test_relevance_does_not_change_with_a_constant_that_steps_take_away(steps, shift):
    X = np.round(_table(0.0, 1) * 1024) / 1024  # exact in float64, also after the shift
    near = make_pipeline(*steps, KMeans(3, n_init=2, random_state=0)).fit(X)
    far = copy.deepcopy(near)
    where = shift * np.array([1, 1, 1, 0.0])
    inner = [(part, columns) for _, part, columns in getattr(far[0], "transformers_", [("", far[0], [0, 1, 2, 3])])]
    for part, columns in inner:
        for name in ("mean_", "center_"):
            if hasattr(part, name):
                setattr(part, name, np.round(getattr(part, name) * 2**20) / 2**20 + where[columns])
                setattr(_same(near[0], part, columns), name, getattr(part, name) - where[columns])
    one, two = (neon.explain(neon.neuralize(part), x, beta=0.3) for part, x in ((near, X), (far, X + where)))
    assert np.allclose(one.relevance, two.relevance, rtol=0, atol=1e-9 * np.abs(one.relevance).max())
    assert np.allclose(one.evidence, two.evidence, rtol=0, atol=1e-9 * one.evidence.max())


def _same(step, part, columns):
    """The transformer of a step that stands where ``part`` does in its copy."""
    inner = [other for _, other, places in getattr(step, "transformers_", []) if list(places) == list(columns)]
    return inner[0] if inner else step


def test_order_numbers_of_sixteen_digits():
    X = np.c_[10**15 + np.arange(150.0), _table(0.0)[:, 1:]]
    for scaler in (StandardScaler(), MinMaxScaler()):
        model = make_pipeline(scaler, KMeans(3, n_init=3, random_state=0)).fit(X)
        assert (neon.explain(model, X).cluster == model.predict(X)).all()


@pytest.mark.parametrize("kind", ["agglomerative", "labels", "birch", "bisecting", "tied"])
def test_other_heads_behind_a_scaler(kind):
    X = _table(1e11, 2)
    last = {
        "agglomerative": AgglomerativeClustering(3),
        "labels": AgglomerativeClustering(3),
        "birch": Birch(n_clusters=3),
        "bisecting": BisectingKMeans(4, random_state=0),
        "tied": GaussianMixture(3, covariance_type="tied", random_state=0),
    }[kind]
    model = make_pipeline(StandardScaler(), last).fit(X)
    e = neon.explain(last.labels_ if kind == "labels" else model, X)
    if hasattr(last, "predict"):
        assert (e.cluster == model.predict(X)).mean() > 0.99
    else:
        assert (e.cluster == last.labels_).mean() >= float(e.fidelity) - 0.05
        assert float(e.fidelity) > 0.9


def test_a_column_that_float64_cannot_tell_apart_is_named():
    centroids = [[0.0, 1e17], [0.0, 1e17 + 64]]
    assert neon.NeuralizedKMeans(centroids)(torch.tensor([[0.0, 1e17]], dtype=torch.float64)).argmax() == 0
    step = neon.Affine([1.0, 1.0], center=[0.0, 1e17])
    with pytest.raises(PrecisionError, match=r"feature 'id' has numbers near 1e\+17, which float64 cannot") as caught:
        neon.NeuralizedKMeans([[0.0, 0.0], [0.0, 1.0]], steps=[step], feature_names=["x", "id"])
    assert caught.value.column == 1
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_inputs_too_coarse_for_the_clusters_are_refused(dtype):
    far = {torch.float32: 2.0**27, torch.float16: 2.0**13, torch.bfloat16: 2.0**12}[dtype]
    head = neon.NeuralizedKMeans([[far, 0.0], [far + 1, 0.0]], beta=1.0, feature_names=["year", "x"])
    points = torch.tensor([[far, 0.0], [far + 1, 0.5]], dtype=torch.float64)
    assert head(points).argmax(1).tolist() == [0, 1]
    with pytest.raises(PrecisionError, match="feature 'year'"):
        head(points.to(dtype))
    with pytest.raises(PrecisionError, match="feature 'year'"):
        neon.explain(head, points.to(dtype))
    other = neon.NeuralizedKMeans([[far, 0.0], [far + 1, 8.0]], beta=1.0)  # the other feature tells them apart
    assert other(points.to(dtype)).shape == (2, 2)


@pytest.mark.parametrize("far", [0.0, 2.0**20, 2.0**27])
def test_float32_inputs_lose_nothing_to_the_center(far, rng):
    """What float32 holds of the points is explained exactly, however far they are from zero."""
    centroids = rng.normal(size=(4, 3)) * 8 + far + 1 / 3
    x = torch.tensor(rng.normal(size=(60, 3)) * 8 + far, dtype=torch.float32)
    centroids[:, 1:] -= far
    x[:, 1:] = torch.tensor(rng.normal(size=(60, 2)) * 8, dtype=torch.float32)
    head = neon.NeuralizedKMeans(centroids, beta=0.01)
    exact = neon.explain(head, x.double())
    found = neon.explain(head, x)
    scale = float(exact.relevance.abs().max())
    assert torch.allclose(found.relevance.double(), exact.relevance, rtol=0, atol=1e-4 * scale)
    cast = neon.NeuralizedKMeans(centroids, beta=0.01).float()  # the center keeps its digits
    assert torch.allclose(cast(x).double(), head(x).double(), rtol=0, atol=1e-4 * scale)
    copied = neon.NeuralizedKMeans(rng.normal(size=(4, 3)))
    copied.load_state_dict(head.state_dict())
    assert torch.allclose(copied(x.double()), head(x.double()))


@pytest.mark.parametrize("scale", [1e-18, 1e-15, 1e-8, 1e8, 1e15])
@pytest.mark.parametrize("beta", [None, 0.0, np.inf])
@pytest.mark.parametrize("explicit", [False, True])
def test_float32_in_any_unit(scale, beta, explicit, rng):
    centroids, X = rng.normal(size=(5, 3)), rng.normal(size=(40, 3))
    X[0] = centroids[:2].mean(0)  # on a boundary
    want = neon.explain(neon.NeuralizedKMeans(centroids, beta=beta), X)
    head = neon.NeuralizedKMeans((centroids * scale).astype(np.float32), beta=beta, explicit=explicit)
    x = torch.tensor(X * scale, dtype=torch.float32)
    found = neon.explain(head, x)
    assert (found.cluster.numpy() == want.cluster)[1:].all()
    unit = float(want.evidence.max()) * scale**2
    assert np.allclose(found.evidence / unit, want.evidence * scale**2 / unit, rtol=0, atol=1e-5)
    assert torch.allclose(found.relevance.sum(1) / unit, found.evidence / unit, rtol=0, atol=1e-5)
    assert np.allclose(found.relevance[1:] / unit, want.relevance[1:] * scale**2 / unit, rtol=0, atol=1e-4)
    seed = torch.zeros(len(x), 5).scatter(1, found.cluster[:, None], found.evidence[:, None])
    leaf = x.requires_grad_()
    with Neon(beta=found.beta if beta is None else None).context(head):
        (relevance,) = torch.autograd.grad(head(leaf), leaf, seed)
    assert torch.allclose(relevance[1:] / unit, found.relevance[1:] / unit, rtol=0, atol=1e-4)


def test_squares_that_vanish_in_float32_are_refused():
    """Not zero without a word: the squares of such numbers are below what float32 holds."""
    head = neon.NeuralizedKMeans(np.array([[0.0], [1e-25], [3e-25]]), beta=1.0)
    assert head(torch.tensor([[9e-26]], dtype=torch.float64)).argmax() == 1
    with pytest.raises(PrecisionError, match="float32"):
        head(torch.tensor([[9e-26]]))


def test_frames_name_the_column():
    frame = pandas.DataFrame({"spend": [0.0, 1, 8, 9], "id": (2.0**60 + np.arange(4) * 256)})
    model = KMeans(2, n_init=1, random_state=0).fit(frame)
    head = neon.neuralize(model)
    with pytest.raises(PrecisionError, match="feature 'id'"):
        neon.NeuralizedKMeans(
            [[1.0, 0.0], [1.0, 1.0]],
            steps=[neon.Affine([1.0, 1.0], center=[0.0, 2.0**60])],
            feature_names=frame.columns,
        )
    assert head.feature_names == ("spend", "id")


@pytest.mark.parametrize("ratio", [1e8, 1e10, 1e12])
@pytest.mark.parametrize(
    "steps",
    [
        [make_union(StandardScaler(), RobustScaler())],
        [make_union(StandardScaler(), PCA(1))],
        [make_column_transformer((StandardScaler(), [0, 1]), (MinMaxScaler(), [0]), (RobustScaler(), [0, 3]))],
        [make_pipeline(StandardScaler(with_std=False), RobustScaler()), MinMaxScaler()],
    ],
    ids=str,
)
def test_steps_that_use_a_column_twice_or_scale_before_they_center(steps, ratio):
    """Evidence is that of the steps in rational numbers, whatever scikit-learn rounds in between."""
    X = _table(ratio, 5, 60)
    model = make_pipeline(*steps, KMeans(3, n_init=1, random_state=0)).fit(X)
    e = neon.explain(model, X)
    Z = _transformed(model[:-1], [[Fraction(value) for value in row] for row in X.tolist()])
    cluster, evidence = _evidence(np.array([[float(v) for v in row] for row in Z]), model[-1].cluster_centers_)
    tolerance = 1e-9 * evidence.max()
    assert ((e.cluster == cluster) | (evidence < tolerance)).all()
    assert np.allclose(e.evidence, evidence, rtol=0, atol=tolerance)
    assert np.allclose(e.relevance.sum(1), evidence, rtol=0, atol=tolerance)


def _transformed(step, rows):
    """Rows of rational numbers through a fitted step, exactly."""
    if hasattr(step, "steps"):
        for _, part in step.steps:
            rows = _transformed(part, rows)
        return rows
    if hasattr(step, "transformer_list") or hasattr(step, "transformers_"):
        width = len(rows[0])
        parts = getattr(step, "transformer_list", None)
        parts = [(part, range(width)) for _, part in parts] if parts else [(p, c) for _, p, c in step.transformers_]
        beside = [_transformed(p, [[row[j] for j in c] for row in rows]) for p, c in parts if not isinstance(p, str)]
        return [list(itertools.chain(*row)) for row in zip(*beside, strict=True)]
    width = len(rows[0])

    def exact(name):
        values = getattr(step, name, None)
        return None if values is None else [Fraction(value) for value in np.asarray(values, float).tolist()]

    if hasattr(step, "components_"):
        mean, matrix = exact("mean_"), [[Fraction(v) for v in row] for row in step.components_.tolist()]
        return [[sum(w * (x - m) for w, x, m in zip(c, row, mean, strict=True)) for c in matrix] for row in rows]
    scale = exact("scale_") or [Fraction(1)] * width
    if isinstance(step, MinMaxScaler):
        return [[x * s + t for x, s, t in zip(row, scale, exact("min_"), strict=True)] for row in rows]
    centers = isinstance(step, RobustScaler) or getattr(step, "with_mean", False)
    name = "center_" if isinstance(step, RobustScaler) else "mean_"
    center = exact(name) if centers else [Fraction(0)] * width
    return [[(x - c) / s for x, c, s in zip(row, center, scale, strict=True)] for row in rows]


@pytest.mark.parametrize(("dtype", "scale"), [(torch.float32, 1e-25), (torch.float64, 1e-160), (torch.float64, 1e-300)])
def test_units_in_which_squares_vanish_are_refused(dtype, scale, rng):
    X = rng.normal(size=(30, 2)) * scale
    with pytest.raises(PrecisionError, match="squares of distances vanish in float"):
        neon.explain(neon.NeuralizedKMeans(X[:3], beta=1.0), torch.tensor(X).to(dtype))


def test_kernel_k_means_of_points_far_from_zero(rng):
    X = np.round(_table(0.0, 6)[:, 1:] * 1024) / 1024
    near, far = (neon.KernelKMeans(3, random_state=0).fit(X + shift) for shift in (0.0, 2.0**36))
    assert adjusted_rand_score(near.labels_, far.labels_) == 1
    assert (far.predict(X + 2.0**36) == far.labels_).mean() > 0.98
    e = neon.explain(far, X + 2.0**36)
    assert (e.cluster == far.predict(X + 2.0**36)).all()


def test_what_predict_loses_far_from_zero_is_said(rng):
    X = (_table(0.0)[:, 1:] + 1e5).astype(np.float32)
    model = KMeans(4, n_init=1, random_state=0).fit(X)
    exact = ((X.astype(float)[:, None] - model.cluster_centers_.astype(float)) ** 2).sum(2).argmin(1)
    assert (exact != model.predict(X)).mean() > 0.05
    with pytest.warns(
        UserWarning, match=r"KMeans.predict gives \d+ of 150 rows .* to other clusters than exact distances"
    ):
        e = neon.explain(model, X)
    assert (e.cluster == exact).mean() > 0.99


@pytest.mark.parametrize("first", [StandardScaler(with_mean=False), MaxAbsScaler()], ids=str)
@pytest.mark.parametrize("ratio", [1e4, 1e8, 1e12])
def test_scales_before_a_scaler_are_as_exact_as_their_reciprocals(first, ratio):
    X = _table(ratio, 5, 60)
    model = make_pipeline(first, StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(X)
    e = neon.explain(model, X)
    Z = _transformed(model[:-1], [[Fraction(value) for value in row] for row in X.tolist()])
    _, evidence = _evidence(np.array([[float(v) for v in row] for row in Z]), model[-1].cluster_centers_)
    assert np.allclose(e.evidence, evidence, rtol=0, atol=1e-15 * (1e4 + ratio) * evidence.max())
