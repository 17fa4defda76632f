"""Clusterings by name: the estimators that a user would have built, with defaults that find something."""

import numpy as np
import pandas
import pytest
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.datasets import load_wine, make_moons
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

from zennit_neon.cli.fitting import MODELS, Options, fit

MOONS, HALVES = make_moons(300, noise=0.05, random_state=0)
FRAME = pandas.DataFrame(MOONS * [3.0, 0.1] + [50.0, 1.0], columns=["a", "b"])


@pytest.mark.parametrize("model", ["dbscan", "hdbscan", "spectral", "kernel"])
def test_two_moons_are_found_without_options(model):
    pipeline, description = fit(FRAME, model, Options(clusters=2 if model in ("spectral", "kernel") else None))
    labels = pipeline[-1].labels_
    if model == "kernel":  # a local optimum near that of k-means, from which it starts
        assert adjusted_rand_score(labels, HALVES) > 0.3
        assert all(len(part) == 20 for part in pipeline[-1].support_vectors_)
    else:
        assert adjusted_rand_score(labels[labels >= 0], HALVES[labels >= 0]) == 1
        assert (labels >= 0).mean() > 0.9
    assert description.startswith("2 clusters (")


@pytest.mark.parametrize(
    ("model", "options", "expected"),
    [
        ("kmeans", Options(clusters=4, seed=3), KMeans(4, n_init=10, random_state=3)),
        ("dbscan", Options(eps=0.3, min_samples=4), DBSCAN(eps=0.3, min_samples=4)),
        (
            "hdbscan",
            Options(min_cluster_size=12, min_samples=3),
            HDBSCAN(min_cluster_size=12, min_samples=3, copy=True),
        ),
        ("agglomerative", Options(clusters=3), AgglomerativeClustering(3)),
    ],
)
def test_options_are_those_of_the_estimator(model, options, expected):
    pipeline, _ = fit(FRAME, model, options)
    np.testing.assert_array_equal(pipeline[-1].labels_, expected.fit(StandardScaler().fit_transform(FRAME)).labels_)


@pytest.mark.parametrize("model", MODELS)
def test_wine_has_clusters_by_every_model(model):
    frame = load_wine(as_frame=True).data
    pipeline, description = fit(frame, model, Options())
    count = int(description.split()[0])
    assert 2 <= count <= 10
    assert len(set(pipeline[-1].labels_) - {-1}) == count
    assert ("by the elbow" in description) == (model not in ("dbscan", "hdbscan"))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("fuzzy", Options(), "--model must be one of kmeans, kernel, dbscan"),
        ("dbscan", Options(clusters=3), "--clusters is not an option of dbscan"),
        ("hdbscan", Options(clusters=3), "--clusters is not an option of hdbscan"),
        ("kmeans", Options(eps=0.5), "--eps is an option of dbscan, not of kmeans"),
        ("dbscan", Options(eps=0.0), "--eps must be above 0"),
        ("dbscan", Options(min_cluster_size=5), "--min-cluster-size is an option of hdbscan, not of dbscan"),
        ("dbscan", Options(min_samples=300), "--min-samples must be below the number of rows, 300, got 300"),
        ("agglomerative", Options(clusters=1), "--clusters must be from 2"),
        ("spectral", Options(clusters=301), "different rows, 300, got 301"),
        ("dbscan", Options(eps=100.0), "finds one cluster, and two are needed to explain one; change --eps"),
        ("dbscan", Options(eps=1e-6), "finds no cluster"),
        ("hdbscan", Options(min_cluster_size=200), "finds no cluster, .* change --min-cluster-size"),
    ],
)
def test_what_makes_no_sense_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        fit(FRAME, model, options)


def test_a_table_in_which_everything_is_one_cluster_asks_for_a_radius():
    same = pandas.DataFrame({"a": np.zeros(30), "b": np.zeros(30)})
    with pytest.raises(ValueError, match="give --eps"):
        fit(same, "dbscan", Options())
