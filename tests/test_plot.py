"""Pictures: what is in them, not their pixels."""

import numpy as np
import pandas
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine, make_moons
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from zennit_neon import KernelKMeans, NeuralizedKernelKMeans, explain, plot


@pytest.fixture
def ax():
    return Figure().subplots()


@pytest.fixture(scope="module")
def wine():
    frame = load_wine(as_frame=True).data
    return explain(make_pipeline(StandardScaler(), KMeans(3, n_init=3, random_state=0)).fit(frame), frame)


def _labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


@pytest.mark.parametrize("kind", ["frame", "array", "tensor"])
@pytest.mark.parametrize("max_features", [3, 11, 12, 40])
def test_bars_of_a_point_add_up_to_its_evidence(wine, ax, kind, max_features):
    X = {"frame": wine.data, "array": wine.data.to_numpy(), "tensor": torch.tensor(wine.data.to_numpy())}[kind]
    e = explain(wine.head, X)
    figure, axes = plot.point(e, 7, ax=ax, max_features=max_features)
    assert axes is ax
    assert figure is ax.figure
    widths = [bar.get_width() for bar in ax.patches]
    assert sum(widths) == pytest.approx(float(e.evidence[7]))
    assert len(widths) == {3: 4, 11: 12, 12: 13, 40: 13}[max_features]
    own = np.abs(widths[:3])
    assert (np.diff(own) <= 0).all()
    labels = _labels(ax.yaxis)
    assert labels[-1] == {3: "10 other features", 11: "2 other features"}.get(max_features, labels[-1])
    first = np.abs(np.asarray(e.relevance)[7]).argmax()
    value = plot.number(np.asarray(X)[7, first])
    name = wine.feature_names[first] if kind == "frame" else f"x{first}"
    assert labels[0] in (f"{name} = {value}", f"{wine.feature_names[first]} = {value}")
    assert f"cluster {int(e.cluster[7])}, evidence" in ax.get_title()


def test_colours_tell_signs_apart(ax):
    e = explain(np.array([[0.0, 0.0], [2.0, 3.0]]), np.array([[0.2, 1.9]]), cluster=0, beta=1.0)
    plot.point(e, 0, ax=ax)
    for bar in ax.patches:
        expected = plot.POSITIVE if bar.get_width() > 0 else plot.NEGATIVE
        assert bar.get_facecolor()[:3] == pytest.approx([int(expected[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert {bar.get_width() > 0 for bar in ax.patches} == {True, False}


def test_names_in_titles(ax):
    frame = pandas.DataFrame({"a": [0.0, 2.0], "b": [1, 3]}, index=["first", "second"])
    e = explain(frame.to_numpy(), frame, competitor=0)
    plot.point(e, 1, ax=ax)
    assert ax.get_title().split("\n") == ["second", "cluster 1 rather than 0, evidence 8"]
    assert _labels(ax.yaxis) == ["a = 2", "b = 3"]


@pytest.mark.parametrize(
    ("index", "keywords", "error", "message"),
    [
        (178, {}, ValueError, "index must be from 0 to 177, got 178"),
        (-1, {}, ValueError, "got -1"),
        ("a", {}, TypeError, "index must be a whole number, got 'a'"),
        (0, {"max_features": 0}, ValueError, "max_features must be at least 1, got 0"),
    ],
)
def test_wrong_points_are_refused(wine, ax, index, keywords, error, message):
    with pytest.raises(error, match=message):
        plot.point(wine, index, ax=ax, **keywords)


def test_a_point_of_a_map_is_refused(rng, ax):
    e = explain(rng.normal(size=(3, 2)), rng.normal(size=(2, 2, 4)))
    with pytest.raises(ValueError, match=r"points \(N, d\), got one of shape \(2, 2, 4\)"):
        plot.point(e, 0, ax=ax)


def test_the_heat_map_is_the_summary(wine, ax):
    plot.clusters(wine, ax=ax)
    (image,) = ax.images
    np.testing.assert_allclose(image.get_array(), wine.summary())
    assert image.norm.vmin == -image.norm.vmax
    assert _labels(ax.xaxis) == wine.feature_names
    sizes = np.bincount(wine.cluster)
    assert _labels(ax.yaxis) == [f"{k} ({sizes[k]} points)" for k in range(3)]


def test_the_heat_map_shows_the_most_relevant_features(wine, ax):
    plot.clusters(wine, ax=ax, max_features=4)
    largest = wine.summary().abs().max().nlargest(4).index
    assert set(_labels(ax.xaxis)) == set(largest)
    assert "4 of 13 features" in ax.get_title()
    with pytest.raises(ValueError, match="max_features"):
        plot.clusters(wine, max_features=0)


def test_a_cluster_without_points_is_blank(wine, ax):
    some = explain(wine.head, wine.data[wine.cluster != 1])
    plot.clusters(some, ax=ax)
    assert _labels(ax.yaxis)[1] == "1 (0 points)"
    assert np.ma.getmaskarray(np.ma.masked_invalid(ax.images[0].get_array()))[1].all()


@pytest.mark.parametrize("model", ["kmeans", "pipeline", "norm"])
def test_the_plane(rng, model, ax):
    X = rng.normal(size=(60, 2)) + np.array([[0, 0], [4, 0], [0, 4]])[np.arange(60) % 3]
    steps = {"kmeans": [], "pipeline": [StandardScaler()], "norm": [Normalizer()]}[model]
    fitted = make_pipeline(*steps, KMeans(3, n_init=3, random_state=0)).fit(X)
    _, axes = plot.plane(fitted, X, cluster=1, ax=ax, resolution=40, arrows=5)
    assert axes is ax
    arrows = next(c for c in ax.collections if type(c).__name__ == "Quiver")
    assert len(arrows.U) == 5
    members = fitted.predict(X) == 1
    relevance = explain(fitted, X).relevance[members]
    found = np.column_stack([arrows.U, arrows.V])
    assert all(np.abs(relevance - row).sum(1).min() < 1e-9 for row in found)
    crosses = [line for line in ax.lines if line.get_marker() == "X"]
    assert len(crosses) == (model != "norm")
    if crosses:
        centers = fitted[-1].cluster_centers_
        centers = fitted[:-1].inverse_transform(centers) if steps else centers
        np.testing.assert_allclose(np.column_stack(crosses[0].get_data()), centers, atol=1e-6)
    assert "evidence of cluster 1" in ax.get_title()


def test_the_plane_of_a_kernel_model_shows_its_support_vectors(ax):
    X, y = make_moons(120, noise=0.05, random_state=0)
    model = KernelKMeans(2, gamma=20.0, init=y, random_state=0).fit(X)
    plot.plane(model.reduce(6), X, ax=ax, resolution=30, arrows=3)
    crosses = next(line for line in ax.lines if line.get_marker() == "X")
    np.testing.assert_allclose(
        np.column_stack(crosses.get_data()), np.concatenate(model.reduce(6).support_vectors_), atol=1e-6
    )
    other = Figure().subplots()
    plot.plane(NeuralizedKernelKMeans([X[y == 0], np.repeat(X[y == 1], 5, 0)], 20.0), X, ax=other, resolution=30)
    assert not [line for line in other.lines if line.get_marker() == "X"], "hundreds of crosses"


@pytest.mark.parametrize(
    ("X", "keywords", "message"),
    [
        (np.ones((4, 3)), {}, r"X must have shape \(N, 2\) with at least one point, got \(4, 3\)"),
        (np.ones((0, 2)), {}, r"got \(0, 2\)"),
        (np.eye(2), {"resolution": 1}, "resolution must be at least 2"),
        (np.eye(2), {"cluster": 7}, "cluster: relevance of cluster 7"),
    ],
)
def test_wrong_planes_are_refused(X, keywords, message):
    with pytest.raises(ValueError, match=message):
        plot.plane(np.array([[0.0, 0.0], [1.0, 2.0]]), X, **keywords)


def test_figures_are_made_where_none_is_given(wine):
    from matplotlib import pyplot

    for figure, axes in (plot.point(wine, 0), plot.clusters(wine), plot.plane(np.eye(2), np.eye(2) + 0.1)):
        assert axes.figure is figure
        pyplot.close(figure)


@pytest.mark.parametrize(
    ("value", "text"), [(3, "3"), (True, "True"), (0.123456, "0.1235"), (123456.7, "123457"), (1e9, "1e+09")]
)
def test_numbers_are_short(value, text):
    assert plot.number(value) == text


def test_long_names_lose_their_middle():
    assert plot.shorten("a\nb") == "a b"
    short = plot.shorten("beginning of a very long name of a feature " * 3 + "end")
    assert len(short) == plot.LONGEST_NAME
    assert short.startswith("beginning")
    assert short.endswith("end")
