"""``explain`` from the outside, and the properties of the papers."""

import copy
import math
import pickle

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.neighbors import NearestCentroid
from torch.utils._python_dispatch import TorchDispatchMode
from zennit.attribution import Gradient

from tests import reference
from tests.conftest import load
from tests.strategies import clusterings
from zennit_neon import NeuralizedKMeans, explain, neuralize
from zennit_neon.composites import Neon


@pytest.fixture(scope="module")
def wine():
    frame = load_wine(as_frame=True).data
    return frame, KMeans(4, n_init=2, random_state=0).fit(frame)


def _sums(e):
    """Largest violation of conservation, relative to the largest evidence."""
    relevance = e.relevance.double().numpy() if isinstance(e.relevance, torch.Tensor) else np.asarray(e.relevance)
    evidence = e.evidence.double().numpy() if isinstance(e.evidence, torch.Tensor) else e.evidence
    return np.abs(relevance.astype(np.float64).sum(1) - evidence).max() / np.abs(evidence).max()


# properties of the papers


@given(clusterings())
def test_relevance_is_that_of_the_paper(case):
    x, centroids, beta = case
    size = (x**2).sum() + (centroids**2).sum()
    e = explain(centroids, x, beta=beta)
    for n, point in enumerate(x):
        f, shares, expected = reference.kmeans_relevance(point, centroids, int(e.cluster[n]), beta)
        np.testing.assert_allclose(e.evidence[n], f, rtol=0, atol=1e-10 * size)
        np.testing.assert_allclose(e.relevance[n], expected, rtol=0, atol=1e-10 * size)
        np.testing.assert_allclose(e.competitors[n], shares, rtol=0, atol=1e-10 * size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n_clusters", [2, 10])
def test_relevance_sums_to_evidence_on_real_tables(table, dtype, n_clusters):
    kmeans = KMeans(n_clusters, n_init=1, random_state=0).fit(table)
    for shift in (0, 1e4):
        x = (table + shift).astype(dtype)
        e = explain(kmeans.cluster_centers_ + shift, x)
        assert _sums(e) <= (1e-5 if dtype == np.float32 else 1e-12)
        assert (e.evidence > 0).all()
        assert shift or (e.cluster == kmeans.predict(table)).mean() > 0.999


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relevance_sums_to_evidence_on_uniform_points(dtype):
    x = load("uniform").astype(dtype)
    assert _sums(explain(x[:20], x)) <= (1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("cluster", [0, 3])
def test_relevance_sums_to_evidence_for_any_cluster(table, cluster):
    centroids = KMeans(6, n_init=1, random_state=0).fit(table).cluster_centers_
    e = explain(centroids, table, cluster=cluster)
    assert (e.cluster == cluster).all()
    assert ((e.evidence > 0) == (explain(centroids, table).cluster == cluster)).all()
    assert _sums(e) <= 1e-12
    assert _sums(explain(centroids.astype(np.float32), table.astype(np.float32), cluster=cluster)) <= 1e-5


@given(clusterings(max_features=4, max_points=3), st.randoms(use_true_random=False))
def test_invariances(case, random):
    """Translation and relabelling change nothing; rotation turns the sum of contributions of each competitor."""
    x, centroids, beta = case
    e = explain(centroids, x, beta=beta)
    size = (x**2).sum() + (centroids**2).sum()
    shift = np.array([random.uniform(-2, 2) for _ in range(x.shape[1])]) * np.abs(centroids).max()
    moved = explain(centroids + shift, x + shift, beta=beta)
    np.testing.assert_allclose(moved.relevance, e.relevance, rtol=0, atol=1e-9 * size)
    order = random.sample(range(len(centroids)), len(centroids))
    renamed = explain(centroids[order], x, beta=beta)
    np.testing.assert_allclose(renamed.relevance, e.relevance, rtol=0, atol=1e-10 * size)
    assert (np.array(order)[renamed.cluster] == e.cluster).all()
    turned_axes = random.sample(range(x.shape[1]), x.shape[1])
    swapped = explain(centroids[:, turned_axes], x[:, turned_axes], beta=beta)
    np.testing.assert_allclose(swapped.relevance, e.relevance[:, turned_axes], rtol=0, atol=1e-10 * size)


def test_rotation_keeps_evidence_and_what_flows_through_competitors(rng):
    x, centroids = rng.normal(size=(20, 5)), rng.normal(size=(4, 5))
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    e, turned = explain(centroids, x, beta=1.0), explain(centroids @ rotation, x @ rotation, beta=1.0)
    np.testing.assert_allclose(turned.evidence, e.evidence, atol=1e-12)
    np.testing.assert_allclose(turned.competitors, e.competitors, atol=1e-12)
    np.testing.assert_allclose(turned.relevance.sum(1), e.relevance.sum(1), atol=1e-12)


@given(clusterings(min_clusters=2, max_clusters=2, max_features=5, max_points=2))
def test_two_clusters_give_the_shapley_value_of_the_midpoint(case):
    """Prop. 3 of paper 1."""
    x, centroids, beta = case
    e = explain(centroids, x, beta=beta)
    midpoint = centroids.mean(0)
    size = (x**2).sum() + (centroids**2).sum()
    for n, point in enumerate(x):
        c = int(e.cluster[n])

        def value(players, point=point, c=c):
            mixed = midpoint.copy()
            mixed[list(players)] = point[list(players)]
            distance = reference.outlierness(mixed, centroids)
            return distance[1 - c] - distance[c]

        expected = reference.shapley(value, x.shape[1])
        np.testing.assert_allclose(e.relevance[n], expected, rtol=0, atol=1e-10 * size)


@given(clusterings(min_clusters=3, max_points=2))
def test_beta_zero_gives_the_shapley_value_of_h(case):
    """Prop. 2 of paper 1: competitors share equally, which is Shapley with the reference h = 0."""
    x, centroids, _ = case
    e = explain(centroids, x, beta=0)
    for n, point in enumerate(x):
        c = int(e.cluster[n])
        layers = reference.kmeans_layers(point, centroids, c)
        names = sorted(layers)
        h = np.array([layers[k][2] for k in names])

        def value(players, h=h):
            return min(h[p] if p in players else 0.0 for p in range(len(h)))

        expected = reference.shapley(value, len(h))
        np.testing.assert_allclose(e.competitors[n][names], expected, rtol=0, atol=1e-10 * np.abs(h).max())


def test_infinite_beta_explains_the_nearest_competitor_alone(rng):
    x, centroids = rng.normal(size=(20, 3)), rng.normal(size=(5, 3))
    e = explain(centroids, x, beta=math.inf)
    nearest = np.array([reference.outlierness(point, centroids).argsort()[1] for point in x])
    for n in range(20):
        alone = explain(centroids, x[n : n + 1], competitor=int(nearest[n]))
        np.testing.assert_allclose(e.relevance[n], alone.relevance[0], atol=1e-12)
    large = explain(centroids, x, beta=1e300)
    np.testing.assert_allclose(large.relevance, e.relevance, atol=1e-12)


def test_relevance_is_continuous_where_the_nearest_competitor_changes():
    centroids = np.array([[0.0, 0.0], [2.0, 0.5], [0.5, -2.0]])
    path = np.column_stack([np.full(2001, 0.3), np.linspace(-0.4, 0.2, 2001)])
    e = explain(centroids, path, beta=0.5)
    steps = np.abs(np.diff(e.relevance, axis=0)).max(0)
    assert (e.cluster == 0).all()
    assert (steps < 5e-3).all()
    jump = explain(centroids, path, beta=math.inf)
    assert np.abs(np.diff(jump.relevance, axis=0)).max() > 0.1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_points_on_boundaries_get_the_limit(dtype):
    centroids = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]])
    on = explain(centroids, np.array([[1.0, 0.5], [1.0, 1.5]], dtype), beta=1.0)
    near = explain(centroids, np.array([[1.0 - 1e-9, 0.5], [1.0 - 1e-9, 1.5 - 2e-9]]), beta=1.0, cluster=0)
    assert np.isfinite(on.relevance).all()
    assert np.abs(on.evidence).max() < 1e-6
    assert np.abs(on.relevance.sum(1)).max() < 1e-6
    if dtype == np.float64:
        own = explain(centroids, np.array([[1.0, 0.5], [1.0, 1.5]]), beta=1.0, cluster=0)
        np.testing.assert_allclose(own.relevance, near.relevance, atol=1e-6)


def test_duplicate_points_get_the_same_relevance(rng):
    x = np.repeat(rng.normal(size=(3, 4)), 5, axis=0)
    relevance = explain(x[::5], x + 0.1).relevance.reshape(3, 5, 4)
    assert (relevance == relevance[:, :1]).all()


# what comes in and what goes out


def test_data_frames_come_back_as_they_went_in(wine):
    frame, kmeans = wine
    frame = frame.set_index(pandas.Index([f"bottle {i}" for i in range(len(frame))], name="bottle"))
    e = explain(kmeans, frame)
    assert isinstance(e.relevance, pandas.DataFrame)
    assert e.relevance.index.equals(frame.index)
    assert list(e.relevance.columns) == list(frame.columns)
    plain = explain(kmeans.cluster_centers_, frame.to_numpy())
    assert (e.relevance.to_numpy() == plain.relevance).all()
    assert isinstance(e.evidence, np.ndarray)
    assert e.cluster.dtype == np.int64
    assert (e.cluster == kmeans.predict(frame)).all()
    assert e.feature_names == list(frame.columns)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors_come_back_in_their_dtype(dtype):
    x, centroids = torch.randn(30, 4).to(dtype), torch.randn(3, 4)
    e = explain(centroids, x)
    assert e.relevance.dtype == e.evidence.dtype == dtype
    assert e.cluster.dtype == torch.int64
    exact = explain(centroids, x.double())
    assert torch.allclose(e.relevance.double(), exact.relevance, atol=30 * torch.finfo(dtype).eps)


def test_arrays_of_other_types_come_back_as_floats():
    x = np.arange(12).reshape(6, 2)
    e = explain(np.array([[0, 0], [10, 10]]), x)
    assert e.relevance.dtype == np.float64
    assert explain(np.array([[0, 0], [10, 10]]), x.astype(np.float32)).relevance.dtype == np.float32
    assert explain(np.array([[0, 0], [10, 10]]), x.tolist()).relevance.shape == (6, 2)


def test_float16_that_overflows_is_refused():
    x = np.array([[300.0], [0.0]], np.float16)
    with pytest.raises(ValueError, match="overflows"):
        explain(np.array([[0.0], [1000.0]]), x)


@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 3, 4, 5)])
def test_locations_are_points(shape, rng):
    centroids, x = rng.normal(size=(4, 3)), rng.normal(size=shape)
    e, flat = explain(centroids, x), explain(centroids, np.moveaxis(x, 1, -1).reshape(-1, 3))
    assert e.relevance.shape == shape
    assert e.evidence.shape == e.cluster.shape == (shape[0], *shape[2:])
    np.testing.assert_allclose(np.moveaxis(e.relevance, 1, -1).reshape(-1, 3), flat.relevance)
    np.testing.assert_allclose(np.moveaxis(e.competitors, 1, -1).reshape(-1, 4), flat.competitors)
    np.testing.assert_allclose(np.moveaxis(e.through(1), 1, -1).reshape(-1, 3), flat.through(1))
    pandas.testing.assert_frame_equal(e.summary(), flat.summary())


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_change_nothing(wine, batch_size):
    frame, kmeans = wine
    e, whole = explain(kmeans, frame, batch_size=batch_size), explain(kmeans, frame)
    assert e.beta == pytest.approx(whole.beta)
    np.testing.assert_allclose(e.relevance, whole.relevance, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(e.competitors, whole.competitors, rtol=1e-9, atol=1e-6)


def test_scores_that_are_not_kept_are_computed_again(wine, monkeypatch):
    frame, kmeans = wine
    whole = explain(kmeans, frame, batch_size=10)
    monkeypatch.setattr("zennit_neon.attributors.closed_form.KEPT", 200)
    assert explain(kmeans, frame, batch_size=10).relevance.equals(whole.relevance)


def test_an_empty_batch_gives_an_empty_result():
    e = explain(np.eye(3), np.empty((0, 3)))
    assert e.relevance.shape == (0, 3)
    assert e.evidence.shape == e.cluster.shape == (0,)
    assert e.summary().isna().all(axis=None)


def test_x_is_not_changed_and_not_needed_writable(wine):
    frame, kmeans = wine
    x = frame.to_numpy().copy()
    x.setflags(write=False)
    explain(kmeans, x)
    assert (x == frame.to_numpy()).all()


# what is asked


def test_competitor_explains_one_neuron(wine):
    frame, kmeans = wine
    x, mu = frame.to_numpy(), kmeans.cluster_centers_
    e = explain(kmeans, x, competitor=3)
    for n, c in enumerate(kmeans.predict(x)):
        expected = (x[n] - mu[3]) ** 2 - (x[n] - mu[c]) ** 2
        np.testing.assert_allclose(e.relevance[n], expected, atol=1e-9)
        assert e.evidence[n] == pytest.approx(expected.sum(), abs=1e-8)
    assert e.beta is None
    np.testing.assert_allclose(e.competitors.sum(1), e.evidence, atol=1e-8)
    assert (e.competitors[:, [0, 1, 2]] == 0).all()
    np.testing.assert_allclose(e.through(3), e.relevance)
    assert (e.through(1) == 0).all()


def test_cluster_can_be_given_for_each_point(wine):
    frame, kmeans = wine
    cluster = np.arange(len(frame)) % 4
    e = explain(kmeans, frame, cluster=cluster, beta=1e-4)
    assert (e.cluster == cluster).all()
    for c in range(4):
        part = explain(kmeans, frame[cluster == c], cluster=c, beta=1e-4)
        np.testing.assert_allclose(part.relevance, e.relevance[cluster == c], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cluster", [None, 1])
def test_relevance_through_competitors_adds_up(wine, cluster):
    frame, kmeans = wine
    e = explain(kmeans, frame, cluster=cluster)
    parts = [e.through(k).to_numpy() for k in range(4)]
    size = max(np.abs(part).max() for part in parts)
    np.testing.assert_allclose(sum(parts), e.relevance, rtol=0, atol=1e-12 * size)
    for k in range(4):
        np.testing.assert_allclose(parts[k].sum(1), e.competitors[:, k], rtol=0, atol=1e-12 * size)
        assert (parts[k][e.cluster == k] == 0).all()


def test_through_adds_up_on_the_boundary():
    e = explain(np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]]), np.array([[1.0, 1.5], [1.0, 0.0]]), beta=1.0)
    np.testing.assert_allclose(sum(e.through(k) for k in range(3)), e.relevance, atol=1e-12)


def test_beta_is_given_or_of_the_head_or_eq_3(wine):
    frame, kmeans = wine
    head = neuralize(kmeans)
    assert explain(head, frame).beta == pytest.approx(1 / explain(head, frame).evidence.mean())
    assert head.beta is None
    assert explain(head, frame, beta=0.5).beta == 0.5
    head.calibrate(frame[:10])
    assert explain(head, frame).beta == head.beta
    assert explain(head, frame, beta=0.5).beta == 0.5


def test_a_head_with_chosen_clusters_is_explained_like_any_other(wine):
    frame, kmeans = wine
    head = NeuralizedKMeans(kmeans.cluster_centers_, clusters=[2])
    assert explain(head, frame).relevance.equals(explain(kmeans.cluster_centers_, frame).relevance)


# tables


def test_summary_is_the_mean_relevance_of_each_cluster(wine):
    frame, kmeans = wine
    e = explain(kmeans, frame)
    expected = e.relevance.groupby(e.cluster).mean()
    summary = e.summary()
    assert list(summary.columns) == list(frame.columns)
    assert summary.index.name == "cluster"
    np.testing.assert_allclose(summary, expected)
    some = explain(kmeans, frame[kmeans.labels_ != 2]).summary()
    assert some.loc[2].isna().all()
    assert some.drop(index=2).notna().all(axis=None)


def test_to_frame_has_a_row_for_each_point(wine):
    frame, kmeans = wine
    table = explain(kmeans, frame).to_frame()
    assert list(table.columns) == ["cluster", "evidence", *frame.columns]
    assert table.index.equals(frame.index)
    np.testing.assert_allclose(table[frame.columns].sum(axis=1), table["evidence"])


def test_to_frame_keeps_features_that_are_called_cluster(rng):
    X = pandas.DataFrame(rng.normal(size=(5, 2)), columns=["cluster", "other"])
    table = explain(np.eye(2), X).to_frame()
    assert list(table.columns) == ["cluster_", "evidence", "cluster", "other"]


def test_names_of_clusters_and_features_are_used():
    data = load_wine()
    estimator = NearestCentroid().fit(data.data, data.target_names[data.target])
    e = explain(estimator, data.data, feature_names=data.feature_names)
    assert list(e.summary().index) == ["class_0", "class_1", "class_2"]
    assert list(e.to_frame()["cluster"]) == list(estimator.predict(data.data))
    assert list(e.summary().columns) == data.feature_names
    assert explain(estimator, data.data).feature_names == [f"x{i}" for i in range(13)]


def test_to_shap(wine):
    shap = pytest.importorskip("shap")
    frame, kmeans = wine
    e = explain(kmeans, frame)
    values = e.to_shap()
    assert isinstance(values, shap.Explanation)
    np.testing.assert_allclose(values.values.sum(1) + values.base_values, e.evidence)
    assert (values.data == frame.to_numpy()).all()
    assert values.feature_names == list(frame.columns)


def test_an_explanation_can_be_copied_and_printed(wine):
    frame, kmeans = wine
    e = explain(kmeans, frame)
    assert repr(e) == f"Explanation(shape=(178, 13), n_clusters=4, beta={e.beta:.4g})"
    assert len(e) == 178
    for other in (pickle.loads(pickle.dumps(e)), copy.deepcopy(e)):
        assert other.relevance.equals(e.relevance)
        assert other.through(1).equals(e.through(1))


# refusals


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"cluster": 9}, ValueError, r"cluster: relevance of cluster 9 was asked for, but this head has 4 clusters"),
        ({"cluster": -1}, ValueError, r"\(0 to 3\)"),
        ({"cluster": [0, 1]}, ValueError, r"cluster must be one label, or have shape \(178,\), got \(2,\)"),
        ({"cluster": 1.5}, TypeError, "cluster must be whole numbers, as clusters have no names here, got 1.5"),
        ({"competitor": 4}, ValueError, "competitor: relevance of cluster 4"),
        ({"competitor": [0, 1]}, ValueError, "competitor must be one label"),
        ({"cluster": 2, "competitor": 2}, ValueError, "another cluster than the explained one, got 2 for both"),
        ({"beta": -1}, ValueError, "beta must be a number of at least 0, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"feature_names": ["a"]}, ValueError, "feature_names has 1 names for 13 features"),
    ],
)
def test_wrong_questions_are_refused(wine, keywords, error, message):
    frame, kmeans = wine
    with pytest.raises(error, match=message):
        explain(kmeans, frame, **keywords)


def test_wrong_data_are_refused(wine):
    frame, kmeans = wine
    x = frame.to_numpy()
    for bad in (np.nan, np.inf, -np.inf):
        broken = frame.copy()
        broken.iloc[17, 3] = bad
        with pytest.raises(ValueError, match=r"first in row 17; features \['alcalinity_of_ash'\]"):
            explain(kmeans, broken)
    with pytest.raises(ValueError, match="X has 5 features, but 13 were expected"):
        explain(kmeans, x[:, :5])
    with pytest.raises(ValueError, match=r"X must have shape \(N, d\), got \(13,\)"):
        explain(kmeans, x[0])
    with pytest.raises(TypeError, match="floating point tensor, got torch.int64"):
        explain(kmeans, torch.ones(2, 13, dtype=torch.int64))
    with pytest.raises(ValueError, match="but the clustering was fitted on"):
        explain(kmeans, frame[frame.columns[::-1]])
    with pytest.raises(ValueError, match="evidence overflows torch.float32"):
        explain(kmeans, np.full((1, 13), 3e38, np.float32))
    with pytest.raises(ValueError, match="at least one point|all points lie on boundaries"):
        explain(np.array([[0.0], [2.0]]), np.ones((2, 1)))
    with pytest.raises(ValueError, match="composite is for torch modules, which have layers; got a KMeans"):
        explain(kmeans, frame, composite=Neon())


def test_far_away_points_are_exact_in_float32_up_to_rounding():
    x = np.array([[1e6, 0.0], [-1e6, 5.0]], np.float32)
    e, exact = explain(np.eye(2), x, beta=1.0), explain(np.eye(2), x.astype(np.float64), beta=1.0)
    np.testing.assert_allclose(e.relevance, exact.relevance, rtol=1e-5)
    np.testing.assert_allclose(e.evidence, exact.evidence, rtol=1e-5)


def test_random_numbers_are_left_alone(wine):
    frame, kmeans = wine
    before = torch.random.get_rng_state()
    explain(kmeans, frame).summary()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_progress_goes_to_stderr(wine, capsys):
    frame, kmeans = wine
    explain(kmeans, frame, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "calibrate" in err
    assert "explain" in err
    explain(kmeans, frame)
    assert capsys.readouterr().err == ""


class _Largest(TorchDispatchMode):
    """Notes the size of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return result


def test_pairs_of_clusters_never_materialise(rng):
    x, centroids = torch.tensor(rng.normal(size=(500, 20))), rng.normal(size=(300, 20))
    head = NeuralizedKMeans(centroids, beta=1.0)
    with _Largest() as largest:
        explain(head, x)
        explain(head, x, cluster=3)
        with Gradient(head, Neon()) as attributor:
            attributor(x, lambda evidence: evidence.clamp(min=0))
            attributor(x, lambda evidence: evidence)  # 300 targets a point
    assert largest.numbers <= 2 * 500 * 300  # two indices for each of the 300 targets a point


def test_no_points_have_no_wrong_clusters():
    centers = np.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    e = explain(centers, np.empty((0, 2)), cluster=2, competitor=1, beta=1.0)
    assert e.relevance.shape == (0, 2)
    with pytest.raises(ValueError, match="competitor must be another cluster than the explained one, got 1 for both"):
        explain(centers, np.zeros((1, 2)), cluster=1, competitor=1)
