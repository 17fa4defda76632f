"""A random forest on the labels of a clustering, explained by TreeSHAP."""

import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.preprocessing import StandardScaler

from zennit_neon import NeuralizedKMeans, neuralize
from zennit_neon.baselines import PAPER, Setting, attribute
from zennit_neon.evaluation import evaluate
from zennit_neon.forest import forest_shap


@pytest.fixture(scope="module")
def case():
    """Standardised wine, its clustering, and the labels of that."""
    points = torch.from_numpy(StandardScaler().fit_transform(load_wine().data))
    kmeans = KMeans(4, n_init=3, random_state=0).fit(points.numpy())
    return points, kmeans, torch.from_numpy(kmeans.labels_.astype(np.int64))


@pytest.fixture
def by_hand(case):
    """What one would write without the package: forest, its probabilities (N, K), their mean, SHAP values (N, d, K)."""
    shap = pytest.importorskip("shap")
    points, _, labels = case
    forest = RandomForestClassifier(100, random_state=5).fit(points.numpy(), labels.numpy())
    explainer = shap.TreeExplainer(forest)
    values = torch.from_numpy(explainer.shap_values(points.numpy()))
    chance = torch.from_numpy(forest.predict_proba(points.numpy()))
    return chance, torch.as_tensor(explainer.expected_value), values


@pytest.mark.parametrize("chosen", ["own", "other"])
def test_equals_shap_called_by_hand_and_sums_to_the_probability(case, by_hand, chosen):
    points, _, labels = case
    chance, base, values = by_hand
    cluster = labels if chosen == "own" else (labels + 1) % 4
    found = forest_shap(points, labels, points, cluster, random_state=5)
    expected = values[torch.arange(len(points)), :, cluster]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        found.sum(1) + base[cluster], chance.gather(1, cluster[:, None])[:, 0], rtol=0, atol=1e-12
    )


def test_points_are_explained_a_few_at_a_time(case, by_hand, monkeypatch):
    points, _, labels = case
    monkeypatch.setattr("zennit_neon.forest.NUMBERS", 7 * points.shape[1] * 4)
    found = forest_shap(points, labels, points, labels, 5)
    torch.testing.assert_close(found, by_hand[2][torch.arange(len(points)), :, labels], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("factor", "shift"), [(1e-12, 0.0), (1.0, 1e9), (1e30, 0.0)])
def test_the_unit_of_a_feature_does_not_matter(case, factor, shift):
    """In float32, which scikit-learn reads, the first of these are constant and the last are infinite."""
    pytest.importorskip("shap")
    points, _, labels = case
    moved = points * factor + shift
    found = forest_shap(moved, labels, moved[:9], labels[:9])
    torch.testing.assert_close(found, forest_shap(points, labels, points[:9], labels[:9]), rtol=0, atol=2e-2)


def test_the_method_learns_what_the_model_says_of_the_data(case):
    pytest.importorskip("shap")
    points, kmeans, labels = case
    head = neuralize(kmeans)
    found = attribute("forest_shap", Setting(head, points), points[:8], labels[:8])
    seed = int(torch.randint(2**31, (1,), generator=torch.Generator().manual_seed(0)))
    assert torch.equal(found, forest_shap(points, labels, points[:8], labels[:8], seed))
    assert torch.equal(found, attribute("forest_shap", Setting(head, points), points[:8], labels[:8]))
    other = Setting(head, points, torch.Generator().manual_seed(1))
    assert not torch.equal(found, attribute("forest_shap", other, points[:8], labels[:8]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_leaves_everything_as_it_was(case, dtype):
    pytest.importorskip("shap")
    points, _, labels = case
    x, before, state = points[:5].to(dtype), torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    found = forest_shap(points.to(dtype), labels, x, labels[:5])
    assert found.dtype == dtype
    assert found.shape == x.shape
    assert torch.equal(x, points[:5].to(dtype))
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == state).all()  # noqa: NPY002


def test_evaluate_knows_it_and_takes_it_only_if_asked(case):
    pytest.importorskip("shap")
    points, kmeans, _ = case
    methods = ["random", "forest_shap"]
    one, same = (evaluate(kmeans, points.numpy(), methods, 1, max_points=40, random_state=3) for _ in range(2))
    assert one.table.auc["forest_shap"] > one.table.auc["random"] + 5
    assert one.table.equals(same.table)
    assert "forest_shap" not in PAPER


def test_one_cluster_alone_and_none_to_explain(case):
    pytest.importorskip("shap")
    points, _, labels = case
    nothing = forest_shap(points, torch.zeros_like(labels), points[:3], torch.zeros_like(labels[:3]))
    assert torch.equal(nothing, torch.zeros_like(points[:3]))
    assert forest_shap(points, labels, points[:0], labels[:0]).shape == (0, 13)


def test_a_constant_feature_is_not_relevant(case):
    pytest.importorskip("shap")
    points, _, labels = case
    points = points.clone()
    points[:, 2] = 7.0
    assert not forest_shap(points, labels, points[:5], labels[:5])[:, 2].any()


def test_refuses_maps_and_clusters_that_have_no_points():
    maps = torch.rand(4, 3, 2, 2)
    with pytest.raises(ValueError, match=r"forest_shap needs points \(N, d\), got \(4, 3, 2, 2\)"):
        attribute("forest_shap", Setting(torch.nn.Flatten(), maps), maps, torch.zeros(4, dtype=torch.int64))
    head = NeuralizedKMeans([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]])
    x = torch.rand(6, 2)
    with pytest.raises(ValueError, match="forest_shap learns clusters from data, which must have points of cluster 2"):
        attribute("forest_shap", Setting(head, x), x, torch.full((6,), 2))


def test_says_what_to_install(case, monkeypatch):
    points, _, labels = case
    monkeypatch.setitem(sys.modules, "shap", None)
    with pytest.raises(ImportError, match=r"forest_shap needs the package shap: pip install 'zennit-neon\[shap\]'"):
        forest_shap(points, labels, points, labels)


def test_points_that_do_not_fit_are_refused():
    data, labels = torch.eye(4, dtype=torch.float64), torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"data must be points \(M, 2\) like those explained, got \(4, 4\)"):
        forest_shap(data, labels, data[:, :2], labels)
    with pytest.raises(ValueError, match="forest_shap needs finite points"):
        forest_shap(data * torch.nan, labels, data, labels)
