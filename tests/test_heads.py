"""Heads: assignments, precision, selection, calibration, and what torch does to modules."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from sklearn.cluster import KMeans
from zennit.attribution import Gradient

from tests import reference
from tests.conftest import UCI, load, with_data
from tests.strategies import clusterings
from zennit_neon import Affine, NeuralizedKMeans, NeuralizedSoftmax, RowNorm, explain
from zennit_neon.composites import Neon
from zennit_neon.heads.search import find_head

DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@pytest.fixture
def centroids(rng):
    return rng.normal(size=(5, 3))


@pytest.fixture(params=[False, True], ids=["closed", "explicit"])
def explicit(request):
    return request.param


@given(clusterings())
def test_evidence_equals_the_reference_and_the_explicit_network(case):
    x, centroids, _ = case
    closed = NeuralizedKMeans(centroids)(torch.tensor(x)).numpy()
    explicit = NeuralizedKMeans(centroids, explicit=True)(torch.tensor(x)).numpy()
    size = (x**2).sum() + (centroids**2).sum()
    for n, point in enumerate(x):
        distance = reference.outlierness(point, centroids)
        for c in range(len(centroids)):
            expected = (np.delete(distance, c) - distance[c]).min()
            assert closed[n, c] == pytest.approx(expected, abs=1e-12 * size)
    assert explicit == pytest.approx(closed, abs=1e-12 * size)


def _true_cluster(x, centroids):
    """Nearest centroid in float64, and the margin to the runner-up, in blocks."""
    clusters, margins = [], []
    for block in np.array_split(np.asarray(x, np.float64), max(1, len(x) // 2000)):
        distance = ((block[:, None] - np.asarray(centroids, np.float64)) ** 2).sum(2)
        two = np.partition(distance, 1, axis=1)
        clusters.append(distance.argmin(1))
        margins.append(two[:, 1] - two[:, 0])
    return np.concatenate(clusters), np.concatenate(margins)


@pytest.mark.parametrize("n_clusters", [2, 7, 20])
def test_argmax_is_predict_on_real_tables(table, n_clusters):
    kmeans = KMeans(n_clusters, n_init=1, random_state=0).fit(table)
    evidence = NeuralizedKMeans(kmeans.cluster_centers_)(torch.tensor(table))
    assert (evidence.argmax(1).numpy() == kmeans.predict(table)).all()
    assert ((evidence > 0).sum(1) == 1).all()


def test_argmax_is_predict_on_uniform_points():
    x = load("uniform")
    kmeans = KMeans(20, n_init=1, max_iter=20, random_state=0).fit(x[:5000])
    head = NeuralizedKMeans(kmeans.cluster_centers_)
    assert (head(torch.tensor(x)).argmax(1).numpy() == kmeans.predict(x)).all()


@pytest.mark.parametrize("name", with_data(["wine", "digits", "uniform", *UCI]))
def test_far_from_the_origin_in_float32_only_points_on_the_boundary_may_differ(name):
    x = (load(name) + 1e4).astype(np.float32)
    centroids = KMeans(10, n_init=1, max_iter=20, random_state=0).fit(x[:5000].astype(np.float64)).cluster_centers_
    found = NeuralizedKMeans(centroids)(torch.tensor(x)).argmax(1).numpy()
    cluster, margin = _true_cluster(x, centroids)
    wrong = found != cluster
    spread = ((x.astype(np.float64) - centroids.mean(0)) ** 2).sum(1)
    assert wrong.mean() < 1e-3
    assert (margin[wrong] <= 1e-5 * spread[wrong]).all()


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES.items())
@pytest.mark.parametrize("stored", [torch.float32, torch.float64])
def test_answers_come_in_the_dtype_of_the_input(centroids, rng, dtype, tolerance, stored):
    x = torch.tensor(rng.normal(size=(50, 3))).to(dtype)
    head = NeuralizedKMeans(torch.tensor(centroids).to(stored))
    evidence = head(x)
    assert evidence.dtype == dtype
    assert head.centroids.dtype == stored
    exact = NeuralizedKMeans(torch.tensor(centroids).to(stored).double())(x.double())
    assert torch.allclose(evidence.double(), exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))


def test_half_types_accumulate_in_float32(rng):
    centroids = 300 + rng.normal(size=(4, 2000))  # squared norms overflow float16 by far
    x = torch.tensor(300 + rng.normal(size=(20, 2000))).half()
    evidence = NeuralizedKMeans(centroids)(x)
    exact = NeuralizedKMeans(centroids)(x.double())
    assert torch.allclose(evidence.double(), exact, rtol=2e-3)


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 4, 5), (2, 3, 2, 2, 2)])
def test_every_location_is_a_point(centroids, explicit, shape):
    head = NeuralizedKMeans(centroids, explicit=explicit)
    x = torch.randn(shape, dtype=torch.float64)
    evidence = head(x)
    assert evidence.shape == (2, 5, *shape[2:])
    flat = head(x.movedim(1, -1).reshape(-1, 3))
    assert torch.allclose(evidence.movedim(1, -1).reshape(-1, 5), flat)


def test_clusters_of_interest_are_selected_and_all_compete(centroids, explicit):
    x = torch.randn(6, 3, dtype=torch.float64)
    chosen = NeuralizedKMeans(centroids, clusters=[3, 0], explicit=explicit)(x)
    assert torch.allclose(chosen, NeuralizedKMeans(centroids)(x)[:, [3, 0]])


@pytest.mark.parametrize("clusters", [[1, 2, 0], [2, 1, 0], [2, 0]])
@pytest.mark.parametrize("kind", ["hard", "soft", "relative", "absolute"])
def test_outputs_are_in_the_order_of_the_clusters_of_interest(rng, explicit, clusters, kind):
    weight, x = rng.normal(size=(3, 2)), torch.tensor(rng.normal(size=(4, 2)))
    linear = torch.nn.Linear(2, 3, dtype=torch.float64)

    def make(**keywords):
        if kind in ("hard", "soft"):
            return NeuralizedKMeans(weight, beta=1.0, soft=kind == "soft", explicit=explicit, **keywords)
        form = {"beta": 1.0} if kind == "relative" else {"threshold": 0.3}
        return NeuralizedSoftmax(linear, explicit=explicit, **form, **keywords)

    everything, chosen = make(), make(clusters=clusters)
    assert chosen.clusters.tolist() == clusters
    assert torch.allclose(chosen(x), everything(x)[:, clusters])
    seed = torch.tensor(rng.normal(size=(4, len(clusters))))
    with Gradient(chosen, Neon()) as attributor:
        _, relevance = attributor(x, seed)
    with Gradient(everything, Neon()) as attributor:
        _, expected = attributor(x, torch.zeros(4, 3, dtype=torch.float64).index_copy(1, chosen.clusters, seed))
    assert torch.allclose(relevance, expected)


def test_calibrate_refuses_data_without_evidence():
    head = NeuralizedKMeans([[0.0], [2.0]])
    with pytest.raises(ValueError, match="all points lie on boundaries"):
        head.calibrate(np.ones((3, 1)))
    with pytest.raises(ValueError, match="at least one point"):
        head.calibrate(np.ones((0, 1)))


def test_steps_are_part_of_the_head(rng):
    centroids = rng.normal(size=(4, 2))
    steps = [Affine(rng.normal(size=3), rng.normal(size=3)), Affine(rng.normal(size=(2, 3)), rng.normal(size=2))]
    x = torch.tensor(rng.normal(size=(6, 3)))
    direct = NeuralizedKMeans(centroids)(steps[1](steps[0](x)))
    assert torch.allclose(NeuralizedKMeans(centroids, steps=steps)(x), direct)
    assert torch.allclose(NeuralizedKMeans(centroids, steps=steps[1:]).with_preprocessing(steps[:1])(x), direct)
    normed = [steps[0], RowNorm("l2"), steps[1]]
    y = steps[0](x)
    direct = NeuralizedKMeans(centroids)(steps[1](y / y.norm(dim=1, keepdim=True)))
    assert torch.allclose(NeuralizedKMeans(centroids, steps=normed)(x), direct)


def test_steps_that_do_not_reach_the_centroids_are_refused(rng):
    with pytest.raises(ValueError, match="do not reach all centroids"):
        NeuralizedKMeans(rng.normal(size=(3, 2)), steps=[Affine([[1.0], [1.0]])])
    with pytest.raises(ValueError, match="steps give 1 features, but the centroids have 2"):
        NeuralizedKMeans(rng.normal(size=(3, 2)), steps=[Affine([1.0])])


@pytest.mark.parametrize(
    ("centroids", "error", "message"),
    [
        ([[1.0, 2.0]], ValueError, "at least 2 clusters to be explained, got 1"),
        ([1.0, 2.0], ValueError, r"shape \(K, d\), got \(2,\)"),
        (np.zeros((2, 0)), ValueError, r"shape \(K, d\), got \(2, 0\)"),
        ([[1.0], [float("nan")]], ValueError, r"finite, but those of clusters \[1\] are not"),
        ([[1.0], [2.0], [1.0]], ValueError, r"clusters \[0, 2\] have the same centroid"),
        ([["a"], ["b"]], TypeError, "centroids must be numbers"),
    ],
)
def test_wrong_centroids_are_refused(centroids, error, message):
    with pytest.raises(error, match=message):
        NeuralizedKMeans(centroids)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"beta": -1}, "beta must be"),
        ({"clusters": [5]}, r"clusters must be different numbers from 0 to 4, at least one, got \[5\]"),
        ({"clusters": []}, "at least one"),
        ({"clusters": [1, 1]}, "different"),
        ({"feature_names": ["a"]}, "feature_names has 1 names for 3 features"),
    ],
)
def test_wrong_arguments_are_refused(centroids, keywords, message):
    with pytest.raises(ValueError, match=message):
        NeuralizedKMeans(centroids, **keywords)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 4), ValueError, r"x must have shape \(N, 3, ...\), got \(2, 4\)"),
        (torch.zeros(3), ValueError, r"got \(3,\)"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "floating point tensor, got torch.int64"),
        (np.zeros((2, 3)), TypeError, "x must be a Tensor, got ndarray"),
        (torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]]), ValueError, r"first in row 1; features \[1\]"),
        (torch.tensor([[0.0, 0.0, float("inf")]]), ValueError, "NaN or infinite"),
        (torch.full((1, 3), 3e38), ValueError, "evidence overflows torch.float32"),
    ],
)
def test_wrong_inputs_are_refused(centroids, explicit, x, error, message):
    with pytest.raises(error, match=message):
        NeuralizedKMeans(centroids * 10, explicit=explicit)(x)


def test_centroids_beyond_float32_work_in_float64():
    centroids = np.array([[1e60, 0.0], [3e60, 0.0]])
    evidence = NeuralizedKMeans(centroids)(torch.tensor(centroids))
    assert torch.allclose(evidence / 1e120, torch.tensor([[4.0, -4.0], [-4.0, 4.0]], dtype=torch.float64))


def test_lists_and_tensors_of_centroids_are_the_same(centroids):
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = NeuralizedKMeans(centroids)(x)
    for other in (centroids.tolist(), torch.tensor(centroids), list(torch.tensor(centroids)), list(centroids)):
        assert torch.equal(NeuralizedKMeans(other)(x), expected)


def test_the_head_does_not_share_memory_with_what_it_was_given(centroids):
    given_tensor = torch.tensor(centroids)
    head = NeuralizedKMeans(given_tensor)
    x = torch.randn(4, 3, dtype=torch.float64)
    expected = head(x)
    given_tensor.zero_()
    assert torch.equal(head(x), expected)


@pytest.mark.parametrize("steps", [(), (RowNorm(),)], ids=["plain", "norm"])
def test_captum_takes_a_head_as_its_forward_function(rng, explicit, steps):
    from captum.attr import IntegratedGradients

    head = NeuralizedKMeans(rng.normal(size=(4, 3)), explicit=explicit, steps=steps)
    x, baseline = torch.tensor(rng.normal(size=(5, 3))), torch.tensor(rng.normal(size=(1, 3)))
    target = head(x).argmax(1)
    method = IntegratedGradients(head)
    relevance = method.attribute(x, baselines=baseline, target=target, n_steps=500, method="riemann_middle")
    change = (head(x) - head(baseline)).gather(1, target[:, None])[:, 0]
    assert torch.allclose(relevance.sum(1), change, atol=0.05 * float(change.abs().max()))


def test_print_tells_the_sizes(centroids):
    assert "n_clusters=5, n_features=3, beta=None" in repr(NeuralizedKMeans(centroids))


@pytest.mark.parametrize("n_clusters", [2, 5])
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_soft_evidence_is_the_logit_of_soft_k_means(explicit, rng, n_clusters, beta):
    centroids = rng.normal(size=(n_clusters, 3))
    x = rng.normal(size=(20, 3)) * np.repeat([1.0, 10.0], 10)[:, None]
    head = NeuralizedKMeans(centroids, beta=beta, explicit=explicit, soft=True)
    expected = [
        [reference.log_odds(-beta * reference.outlierness(point, centroids), c) for c in range(n_clusters)]
        for point in x
    ]
    evidence = head(torch.tensor(x))
    np.testing.assert_allclose(evidence, expected, rtol=1e-10, atol=1e-10)
    assert torch.equal(evidence.argmax(1), NeuralizedKMeans(centroids)(torch.tensor(x)).argmax(1))
    maps = head(torch.tensor(x).view(5, 4, 3).movedim(-1, 1))
    assert torch.allclose(maps.movedim(1, -1).reshape(-1, n_clusters), evidence)
    some = NeuralizedKMeans(centroids, beta=beta, explicit=explicit, soft=True, clusters=[1, 0])
    assert torch.allclose(some(torch.tensor(x)), evidence[:, [1, 0]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_evidence_is_finite_far_away(centroids, explicit, dtype):
    """Probabilities of 0 and 1 there; evidence is still the difference of squared distances."""
    x = torch.tensor([[1e4, 1e4, 1e4], [-1e4, 0.0, 0.0]], dtype=dtype)
    evidence = NeuralizedKMeans(centroids, beta=5.0, explicit=explicit, soft=True)(x)
    hard = NeuralizedKMeans(centroids)(x.double())
    assert torch.isfinite(evidence).all()
    assert torch.allclose(evidence.double(), 5 * hard, rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_soft_answers_come_in_the_dtype_of_the_input(centroids, explicit, dtype):
    head, x = NeuralizedKMeans(centroids, beta=1.0, explicit=explicit, soft=True), torch.randn(20, 3).to(dtype)
    evidence, exact = head(x), head(x.double())
    assert evidence.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    assert torch.allclose(evidence.double(), exact, rtol=tolerance, atol=tolerance * float(exact.abs().max()))


def test_soft_steps_are_part_of_the_head(rng, explicit):
    centroids, x = rng.normal(size=(4, 2)), torch.tensor(rng.normal(size=(6, 3)))
    steps = [Affine(rng.normal(size=3), rng.normal(size=3)), RowNorm(), Affine(rng.normal(size=(2, 3)))]
    y = steps[0](x)
    keywords = {"beta": 0.7, "soft": True, "explicit": explicit}
    direct = NeuralizedKMeans(centroids, **keywords)(steps[2](y / y.norm(dim=1, keepdim=True)))
    behind = NeuralizedKMeans(centroids, **keywords).with_preprocessing(steps)
    assert behind.soft
    assert behind.beta == 0.7
    assert torch.allclose(behind(x), direct)
    assert torch.allclose(NeuralizedKMeans(centroids, steps=steps, **keywords)(x), direct)


@pytest.mark.parametrize("beta", [0.0, float("inf")])
def test_soft_k_means_needs_a_stiffness(centroids, beta):
    with pytest.raises(ValueError, match="beta must be the stiffness of the soft clustering, above 0 and finite"):
        NeuralizedKMeans(centroids, beta=beta, soft=True)


def test_the_stiffness_of_soft_k_means_is_part_of_the_clustering(centroids, explicit):
    head, x = NeuralizedKMeans(centroids, beta=0.5, explicit=explicit, soft=True), torch.randn(4, 3)
    assert head.soft
    assert head.beta == 0.5
    assert not NeuralizedKMeans(centroids, beta=0.5, explicit=explicit).soft
    with pytest.raises(ValueError, match="no stiffness beta by Eq. 3: call calibrate"):
        head.calibrate(x)
    with pytest.raises(ValueError, match="beta is part of a soft clustering"):
        explain(head, x, beta=1.0)
    assert explain(head, x).beta == 0.5
    assert "n_clusters=5, n_features=3, beta=0.5, soft=True" in repr(head)
    assert "soft" not in repr(NeuralizedKMeans(centroids))
    assert list(head.parameters()) == []


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "state_dict", "half"])
@pytest.mark.parametrize("beta", [0.7, 3.0], ids=["same beta", "other beta"])
def test_a_soft_head_survives_copies(centroids, explicit, how, beta):
    """Stiffness travels with the state, as it does for hard k-means."""
    head, x = NeuralizedKMeans(centroids, beta=0.7, explicit=explicit, soft=True), torch.randn(4, 3).double()
    if how == "deepcopy":
        other = copy.deepcopy(head)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(head))
    elif how == "half":
        assert copy.deepcopy(head).half().beta == 0.7
        return
    else:
        other = NeuralizedKMeans(centroids + 1 + np.arange(5)[:, None], beta=beta, explicit=explicit, soft=True)
        other.load_state_dict(head.state_dict())
    assert other.soft
    assert other.beta == 0.7
    assert torch.equal(other(x), head(x))


@pytest.mark.parametrize("n_clusters", [2, 4])
def test_soft_evidence_has_the_gradient_of_the_true_function(rng, explicit, n_clusters):
    head = NeuralizedKMeans(rng.normal(size=(n_clusters, 3)), beta=0.5, explicit=explicit, soft=True)
    assert torch.autograd.gradcheck(head, torch.randn(3, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (torch.nn.Sequential(torch.nn.ReLU()), ValueError, "this Sequential has none: put zennit_neon.neuralize"),
        (
            torch.nn.ModuleDict({name: NeuralizedKMeans([[0.0], [1.0]]) for name in "ab"}),
            ValueError,
            r"this ModuleDict has 2 \(a, b\): explain the part of it that ends in one of them",
        ),
        ([1, 2], TypeError, "model must be a torch.nn.Module, got list"),
    ],
)
def test_a_model_without_its_one_head_is_refused(model, error, message):
    with pytest.raises(error, match=message):
        find_head(model)
