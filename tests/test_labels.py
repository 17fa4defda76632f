"""Labels are what users see: in what goes in, and in all that comes out."""

import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import HDBSCAN, Birch, KMeans
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zennit_neon as neon
from zennit_neon import plot
from zennit_neon.exceptions import PrecisionError
from zennit_neon.utils.labels import Groups, are_labels, groups, named, place_of, positions

NAMES = ["gold", "silver", "bronze"]


def _points(names, seed=0, each=8):
    """Points of groups that are far apart, in a random order, and the name of each."""
    rng = np.random.default_rng(seed)
    place = rng.permutation(np.repeat(np.arange(len(names)), each))
    X = rng.normal(size=(len(place), 2)) + 30 * np.stack([np.cos(place), np.sin(place) + place], 1)
    values = np.empty(len(names), dtype=object)
    values[:] = names
    return X, values[place]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "b"], ["a", "b"]),
        ([3, 1, 3], [1, 3]),
        (["10", "9", "2"], ["2", "9", "10"]),
        (["1.5", "-2", "10"], ["-2", "1.5", "10"]),
        (["c10", "c9"], ["c10", "c9"]),
        ([True, False, True], [False, True]),
        (np.array([2.0, 0.0, 2.0]), [0, 2]),
        (np.array([7, 5], dtype=np.uint8), [5, 7]),
        (np.array([7, 5], dtype=">i4"), [5, 7]),
        (pandas.Categorical(["lo", "hi", "lo"], categories=["lo", "mid", "hi"]), ["lo", "hi"]),
        (pandas.Series(["lo", "hi"], dtype="category").cat.set_categories(["lo", "hi"]), ["lo", "hi"]),
        (pandas.Series(pandas.Categorical([2, 10, 2], categories=[10, 2])), [10, 2]),
        (pandas.array([1, 5, 1], dtype="Int64"), [1, 5]),
        (pandas.Series(["x", "y"], dtype="string"), ["x", "y"]),
        (torch.tensor([4, 2, 4]), [2, 4]),
        (pandas.to_datetime(["2024-02-01", "2023-01-01"]), list(pandas.to_datetime(["2023-01-01", "2024-02-01"]))),
    ],
    ids=str,
)
def test_labels_are_read_in_their_own_order(labels, names):
    found = groups(labels, len(labels))
    assert found.names == names
    assert [type(name) for name in found.names] == [type(name) for name in names]
    values = list(labels.to_numpy() if hasattr(labels, "to_numpy") else labels)
    assert [found.names[k] for k in found.own] == values


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_labels_of_other_libraries(library):
    module = pytest.importorskip(library)
    if library == "polars":
        enum = module.Series(["lo", "hi", "lo", None], dtype=module.Enum(["lo", "mid", "hi"]))
        plain, numbers = module.Series(["b", "a", None]), module.Series([3, None, 1])
    else:
        enum = module.DictionaryArray.from_arrays(module.array([0, 1, 0, None]), ["lo", "hi"])
        plain, numbers = module.array(["b", "a", None]), module.chunked_array([[3, None], [1]])
    assert are_labels(enum)
    assert are_labels(plain)
    assert groups(enum, 4).names == ["lo", "hi"]
    assert groups(enum, 4).own.tolist() == [0, 1, 0, -1]
    assert groups(plain, 3) == Groups(pytest.approx([1, 0, -1]), ["a", "b"])
    assert groups(numbers, 3) == Groups(pytest.approx([1, -1, 0]), [1, 3])


@pytest.mark.parametrize("missing", [None, np.nan, pandas.NA, pandas.NaT, -1], ids=str)
def test_missing_labels_are_noise(missing):
    found = groups([3, missing, 4, 3], 4)
    assert found.own.tolist() == [0, -1, 1, 0]
    if not isinstance(missing, int):
        assert groups(["a", missing, "b", "a"], 4).own.tolist() == [0, -1, 1, 0]


def test_labels_are_matched_with_the_index_of_the_points():
    X, labels = _points(NAMES)
    frame = pandas.DataFrame(X, index=[f"p{i}" for i in range(len(X))])
    series = pandas.Series(labels, index=frame.index)
    want = neon.explain(series, frame)
    for other in (series.sample(frac=1, random_state=0), series.astype("category").sample(frac=1, random_state=1)):
        e = neon.explain(other, frame)
        assert (e.cluster == want.cluster).all()
        assert np.allclose(e.relevance, want.relevance)
    assert (neon.explain(series.to_numpy(), frame).cluster == want.cluster).all()
    assert (neon.explain(series.sample(frac=1, random_state=0), X).cluster == want.cluster).mean() < 0.9  # as they come
    with pytest.raises(ValueError, match=r"has an index that is not that of X .* labels.to_numpy\(\)"):
        neon.explain(series.reset_index(drop=True), frame)
    twice = frame.set_index(frame.index.where(frame.index != "p1", "p0"))
    with pytest.raises(ValueError, match="cannot be matched"):
        neon.explain(series, twice)
    assert (neon.explain(series.set_axis(twice.index), twice).cluster == want.cluster).all()


@pytest.mark.parametrize("names", [NAMES, ["0", "1", "10", "11", "2"], [1, 2, 3], [False, True]], ids=str)
@pytest.mark.parametrize("kind", ["array", "tensor", "frame"])
def test_questions_and_answers_speak_in_labels(names, kind):
    X, labels = _points(names)
    points = {"array": X, "tensor": torch.tensor(X), "frame": pandas.DataFrame(X, columns=["a", "b"])}[kind]
    e = neon.explain(labels, points)
    assert list(np.asarray(e.cluster)) == labels.tolist()
    assert isinstance(e.cluster, torch.Tensor) == (kind == "tensor" and not isinstance(names[0], (str, bool)))
    assert sorted(e.labels, key=str) == sorted(names, key=str)
    assert list(e.summary().index) == list(e.labels)
    assert list(e.to_frame()["cluster"]) == labels.tolist()
    assert e.competitors.shape == (len(X), len(names))
    own = np.array([e.labels.index(label) for label in labels])
    assert not np.asarray(e.competitors)[np.arange(len(X)), own].any()
    head = neon.neuralize(labels, X)
    for name in names:
        asked = neon.explain(head, points, cluster=name)
        assert ((np.asarray(asked.evidence) > 0) == (labels == name)).all()
        assert set(np.asarray(asked.cluster).tolist()) == {name}
        rival = neon.explain(head, points, competitor=name)
        assert rival.competitor == name
        assert (np.asarray(rival.evidence)[labels == name] == 0).all()
        whole = np.asarray(e.relevance)
        assert np.allclose(sum(np.asarray(e.through(k)) for k in names), whole, atol=1e-9 * np.abs(whole).max())
    again = neon.explain(head, points, cluster=e.cluster)
    assert np.allclose(np.asarray(again.relevance), np.asarray(e.relevance))
    title = plot.point(e, 3)[1].get_title()
    assert f"cluster {labels[3]}, evidence" in title
    rows = [text.get_text() for text in plot.clusters(e)[1].get_yticklabels()]
    assert rows == [f"{name} (8 points)" for name in e.labels]
    assert (
        f"evidence of cluster {names[-1]}\n"
        in plot.plane(head, points, cluster=names[-1], resolution=10)[1].get_title()
    )


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (NAMES, 2, r"cluster must be one of the labels of the clusters, \['bronze', 'gold', 'silver'\], got 2"),
        (["1", "2", "3"], 2, r"got 2; did you mean '2'\?"),
        ([1, 2, 3], "2", r"got '2'; did you mean 2\?"),
        ([1, 2, 3], 0, r"must be one of the labels of the clusters, \[1, 2, 3\], got 0"),
        ([1, 2], True, r"got True"),
        (NAMES, ["gold"], r"must be one label, or have shape \(24,\), got \(1,\)"),
        (NAMES, -1, "got -1"),
    ],
)
def test_labels_that_do_not_exist_are_refused(names, asked, message):
    X, labels = _points(names)
    with pytest.raises(ValueError, match=message):
        neon.explain(labels, X, cluster=asked)


def test_labels_of_estimators():
    X, labels = _points(NAMES)
    model = make_pipeline(StandardScaler(), NearestCentroid()).fit(X, labels.astype(str))
    e = neon.explain(model, X, competitor="gold")
    assert (e.cluster == model.predict(X)).all()
    assert e.labels == ("bronze", "gold", "silver")
    birch = Birch(n_clusters=3).fit(X)
    assert (neon.explain(birch, X).cluster == birch.predict(X)).all()


def test_a_table_of_centroids_names_features_and_clusters():
    X, labels = _points(NAMES)
    frame = pandas.DataFrame(X, columns=["a", "b"])
    centroids = frame.groupby(labels).mean()
    e = neon.explain(centroids, frame)
    assert (e.cluster == labels).all()
    assert e.labels == tuple(centroids.index)
    with pytest.raises(ValueError, match="the same in another order"):
        neon.explain(centroids, frame[["b", "a"]])
    assert neon.explain(centroids.reset_index(drop=True), frame).labels == (0, 1, 2)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_hdbscan_leaves_missing_and_infinite_values_out(wrong):
    X, _ = _points(NAMES)
    X[[3, 7]] = wrong
    model = HDBSCAN(min_cluster_size=5, copy=True).fit(X)
    assert set(model.labels_[[3, 7]]) <= {-2, -3}
    for asked in (model, model.labels_):
        e = neon.explain(asked, X)
        assert (e.cluster[[3, 7]] == -1).all()
        assert set(e.labels) == {0, 1, 2}
        assert np.isnan(e.relevance[3]).all()
        assert np.isfinite(e.relevance[e.cluster >= 0]).all()
        assert e.summary().notna().all().all()
        one = neon.explain(asked, X, cluster=1)
        assert (one.cluster[[3, 7]] == -1).all()
        assert np.isfinite(one.relevance[4]).all()
    head = neon.neuralize(model, X)
    assert head.n_clusters == 3
    assert head.fidelity.noise == (model.labels_ < 0).sum()


def test_negative_labels_of_ones_own_are_labels():
    X, labels = _points([-3, -2, 4])
    e = neon.explain(labels.astype(int), X)
    assert e.labels == (-3, -2, 4)
    assert (e.cluster == labels).all()


def test_positions_and_names():
    assert positions(np.array([2, 0], dtype=np.uint64), None, 3, "cluster", (2,)).tolist() == [2, 0]
    assert positions(["b", "a"], ("a", "b"), 2, "cluster", (2,)).tolist() == [1, 0]
    assert positions(np.int64(1), None, 3, "cluster", (2,)).tolist() == [1, 1]
    assert place_of(np.str_("b"), ("a", "b"), 2, "cluster") == 1
    assert place_of(torch.tensor(5), (3, 5), 2, "cluster") == 1
    own = torch.tensor([0, -1, 1])
    assert named(own, None) is own
    assert named(own, (5, 7)).tolist() == [5, -1, 7]
    assert named(own, ("x", "y")).tolist() == ["x", -1, "y"]
    for wrong in (1.0, "1", True, None, [0, 1]):
        with pytest.raises((TypeError, ValueError), match="cluster"):
            place_of(wrong, None, 3, "cluster")
    with pytest.raises(TypeError, match="whole numbers"):
        positions([0.0, 1.0], None, 3, "cluster", (2,))
    with pytest.raises(ValueError, match=r"cluster 3 was asked for, but this head has 3 clusters \(0 to 2\)"):
        positions([0, 3], None, 3, "cluster", (2,))


def test_kmeans_has_no_names():
    X, _ = _points(NAMES)
    e = neon.explain(KMeans(3, n_init=1, random_state=0).fit(X), X)
    assert e.labels == (0, 1, 2)
    assert e.cluster.dtype == np.int64


def test_clusters_of_points_are_matched_by_their_index():
    X, labels = _points(NAMES)
    frame = pandas.DataFrame(X, index=[f"r{i}" for i in range(len(X))])
    head = neon.neuralize(labels, X)
    asked = pandas.Series(labels, index=frame.index)
    want = neon.explain(head, frame, cluster=asked)
    assert np.allclose(neon.explain(head, frame, cluster=asked.iloc[::-1]).relevance, want.relevance)
    with pytest.raises(ValueError, match=r"cluster has an index that is not that of X .* cluster.to_numpy\(\)"):
        neon.explain(head, frame, cluster=asked.reset_index(drop=True))


@pytest.mark.parametrize(
    "names", [[1000.0, 1e19, 2e19], [2**63, 2**63 + 1, 5], [2**70, 1, 2], [-(2**65), 7, 8]], ids=str
)
@pytest.mark.parametrize("kind", ["list", "objects", "series"])
def test_labels_that_are_large_numbers(names, kind):
    X, labels = _points(names)
    e = neon.explain({"list": labels.tolist(), "objects": labels, "series": pandas.Series(labels)}[kind], X)
    assert sorted(e.labels) == sorted(map(int, names))
    assert e.cluster.tolist() == [int(label) for label in labels]


def test_minus_one_as_text_is_noise_among_numbers():
    X, labels = _points(["-1", "0", "1", "10"])
    e = neon.explain(labels, X)
    assert e.labels == ("0", "1", "10")
    assert (e.noise == (labels == "-1")).all()
    assert neon.explain(_points(["-1", "a", "b"])[1], X[:24]).labels == ("-1", "a", "b")


def test_labels_in_a_column_are_said_to_be_that():
    X, labels = _points(NAMES)
    for wrong in (labels[:, None], pandas.DataFrame({"l": labels})):
        with pytest.raises(ValueError, match=r"labels must have shape \(24,\), .* got \(24, 1\): give its only column"):
            neon.explain(wrong, X)
    with pytest.raises(TypeError, match="complex"):
        neon.explain(np.array([0j, 1 + 0j] * 12), X)


def test_heads_read_columns_by_name_whatever_they_do():
    X, labels = _points(NAMES)
    frame = pandas.DataFrame(X, columns=["a", "b"])
    head = neon.neuralize(labels, frame)
    for call in (head.calibrate, lambda table: neon.prune(head, table)):
        with pytest.raises(ValueError, match="the same in another order"):
            call(frame[["b", "a"]])


def test_a_state_brings_the_steps_of_a_head():
    X, labels = _points(NAMES)
    one, two = (
        neon.neuralize(make_pipeline(StandardScaler(), NearestCentroid()).fit(x, labels.astype(str)))
        for x in (X, 3 * X + 9)
    )
    two.load_state_dict(one.calibrate(X).state_dict())
    x = torch.tensor(X)
    assert torch.allclose(two(x), one(x))
    assert torch.allclose(two.rebuilt()(x), one(x))
    step = neon.Affine([2.0, 2.0])
    assert torch.allclose(two.with_preprocessing([step])(x), one.with_preprocessing([step])(x))
    norms = [neon.neuralize(X[:3]).with_preprocessing([neon.RowNorm(order)]) for order in ("l1", "l2")]
    norms[1].load_state_dict(norms[0].state_dict())
    assert torch.allclose(norms[1](x), norms[0](x))
    coarse = neon.NeuralizedKMeans([[2.0**27, 0.0], [2.0**27 + 1, 0.0]])
    fine = neon.NeuralizedKMeans([[0.0, 0.0], [1.0, 0.0]])
    fine.load_state_dict(coarse.state_dict())
    with pytest.raises(PrecisionError, match="float32"):
        fine(x.float())
    with pytest.raises(TypeError, match="zennit_neon.affine_step makes one of it"):
        one.with_preprocessing([StandardScaler()])
    with pytest.raises(TypeError, match=r"give \[step\]"):
        one.with_preprocessing(step)


def test_evaluation_does_not_mind_the_names_of_clusters():
    from zennit_neon.evaluation import evaluate

    X, _ = _points(["a", "b", "c", "d"])
    areas = [
        evaluate(neon.NeuralizedKMeans(X[:4], beta=1e-3, labels=labels), X, methods=["neon"], repeats=1, random_state=0)
        for labels in (None, [3, 2, 1, 0], list("abcd"))
    ]
    assert len({float(area.table["auc"].iloc[0]) for area in areas}) == 1
