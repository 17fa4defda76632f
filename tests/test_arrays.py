"""Numbers as users have them: taken whole, or refused, never cut to fit."""

import array
import time
import warnings

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch

import zennit_neon as neon
from zennit_neon.utils.arrays import as_array, as_matrix
from zennit_neon.utils.validation import check_feature_names, check_int, check_labels, check_positive, check_real

CENTROIDS = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
POINTS = np.array([[0.5, 0.2], [3.0, 1.0], [0.0, 5.0], [1.0, 2.5]])


class Subclass(np.ndarray):
    def toarray(self):
        raise AssertionError("not sparse")


class Made:
    """An object that turns itself into an array."""

    def __array__(self, dtype=None, copy=None):
        return np.asarray(CENTROIDS, dtype=dtype)


def _polars(values):
    return pytest.importorskip("polars").DataFrame(values, schema=["a", "b"])


def _arrow(values):
    return pytest.importorskip("pyarrow").table({"a": values[:, 0], "b": values[:, 1]})


MATRICES = {
    "list": np.ndarray.tolist,
    "tuples": lambda a: tuple(map(tuple, a.tolist())),
    "list of arrays": list,
    "list of tensors": lambda a: list(torch.tensor(a)),
    "float16": lambda a: a.astype(np.float16),
    "float32": lambda a: a.astype(np.float32),
    "longdouble": lambda a: a.astype(np.longdouble),
    "big-endian": lambda a: a.astype(">f8"),
    "integers": lambda a: a.astype(int),
    "unsigned": lambda a: a.astype(np.uint8),
    "rows backwards": lambda a: a[::-1].copy()[::-1],
    "columns backwards": lambda a: a[:, ::-1].copy()[:, ::-1],
    "fortran": np.asfortranarray,
    "every other": lambda a: np.repeat(a, 2, 0)[::2],
    "broadcast": lambda a: np.lib.stride_tricks.as_strided(a.copy(), a.shape, a.strides),
    "read-only": lambda a: _locked(a),
    "subclass": lambda a: a.view(Subclass),
    "masked, nothing hidden": np.ma.array,
    "objects": lambda a: a.astype(object),
    "made": lambda a: Made(),
    "frame": lambda a: pandas.DataFrame(a, columns=["a", "b"]),
    "nullable frame": lambda a: pandas.DataFrame(a, columns=["a", "b"]).astype("Int64"),
    "sparse frame": lambda a: pandas.DataFrame(a).astype(pandas.SparseDtype("float", 0)),
    "polars": _polars,
    "arrow": _arrow,
    "csr": scipy.sparse.csr_matrix,
    "csc": scipy.sparse.csc_matrix,
    "coo array": scipy.sparse.coo_array,
    "tensor": torch.tensor,
    "bfloat16": lambda a: torch.tensor(a, dtype=torch.bfloat16),
    "tensor with gradient": lambda a: torch.tensor(a, requires_grad=True),
    "transposed tensor": lambda a: torch.tensor(a.T.copy()).T,
}


def _locked(a):
    a = a.copy()
    a.setflags(write=False)
    return a


@pytest.mark.parametrize("kind", MATRICES)
def test_centroids_in_whatever_they_come(kind):
    head = neon.NeuralizedKMeans(MATRICES[kind](CENTROIDS), beta=1.0)
    want = neon.explain(neon.NeuralizedKMeans(CENTROIDS, beta=1.0), POINTS)
    assert np.allclose(neon.explain(head, POINTS).relevance, want.relevance, atol=1e-9)
    assert head.centroids.dtype == (torch.float32 if kind in ("float16", "float32", "bfloat16") else torch.float64)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (CENTROIDS + 1j, TypeError, "centroids must be numbers"),
        (torch.tensor(CENTROIDS + 1j), TypeError, "complex128"),
        (CENTROIDS > 1, TypeError, "bool"),
        (torch.tensor(CENTROIDS > 1), TypeError, "bool"),
        (CENTROIDS.astype(str), TypeError, "got an array of <U"),
        ([["a", "b"], ["c", "d"]], TypeError, "centroids must be numbers"),
        ([[0.0, True], [1, 2]], None, None),
        (np.array([[0.0, True], [1, 2.0]], dtype=object), TypeError, "got a bool in it"),
        (np.array([[0, "1"], [1, 2]], dtype=object), TypeError, "got a str in it"),
        ([[0.0, 1.0], [2.0]], ValueError, "its rows differ"),
        (np.ma.array(CENTROIDS, mask=CENTROIDS > 3), ValueError, "masked entries, but 2 rows have .the first is 1"),
        ([np.ma.array([0.0, 1.0], mask=[False, True]), [1.0, 2.0]], ValueError, "masked entries"),
        ({1, 2}, TypeError, "clustering must be|array"),
        ({"a": [0.0, 1.0]}, TypeError, "array"),
        ("abc", TypeError, "array"),
        (b"abc", TypeError, "array"),
        (3.0, TypeError, "array"),
        (None, TypeError, "array"),
        (torch.eye(3).to_sparse(), TypeError, "sparse|dense"),
        (np.array([["2020-01-01", "2021-01-01"]] * 2, dtype="datetime64[D]"), TypeError, "datetime64"),
        (np.zeros(3, dtype=[("a", float)]), TypeError, "got an array of"),
        (pandas.DataFrame({"a": [1, None], "b": [1, 2]}, dtype="Int64"), ValueError, "must be finite"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_matrix_of_numbers_is_refused(values, error, message):
    if error is None:
        neon.NeuralizedKMeans(values)  # Python's numbers
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(error, match=message):
            neon.NeuralizedKMeans(values)


class Rows:
    """A table of tables, as an AnnData is: looking for numbers in it never ends."""

    shape = (40, 3)
    looked = 0

    def __len__(self):
        return 40

    def __getitem__(self, place):
        Rows.looked += 1
        return Rows()


@pytest.mark.parametrize("wrap", [lambda rows: rows, lambda rows: [rows] * 40, lambda rows: [[rows, rows]] * 3])
def test_what_only_pretends_to_be_an_array_is_not_looked_through(wrap):
    Rows.looked = 0
    for call in (lambda X: neon.explain(np.arange(40) % 2, X), neon.NeuralizedKMeans, neon.neuralize):
        with pytest.raises(TypeError, match="Rows"):
            call(wrap(Rows()))
    assert Rows.looked < 200


def test_anndata_is_answered_with_what_to_give():
    anndata = pytest.importorskip("anndata")
    data = anndata.AnnData(np.random.default_rng(0).normal(size=(40, 3)))
    start = time.monotonic()
    with pytest.raises(TypeError, match=r"got a AnnData; give its matrix of numbers, such as .X"):
        neon.explain(np.arange(40) % 2, data)
    assert time.monotonic() - start < 60  # not a measure: without the check this does not end
    assert np.isfinite(neon.explain(np.arange(40) % 2, data.X, min_fidelity=0).relevance).all()


def test_buffers_and_memory_are_arrays():
    assert as_array(array.array("d", [1.0, 2.0]), "x").tolist() == [1, 2]
    assert as_array(memoryview(np.arange(3.0)), "x").tolist() == [0, 1, 2]
    assert as_matrix(torch.tensor([[1, 2]]), "x").dtype == torch.float64


@pytest.mark.parametrize(
    ("keywords", "error", "message"),
    [
        ({"clusters": [1.9, 0.2]}, TypeError, "clusters must be a whole number, got 1.9"),
        ({"clusters": [1.0]}, TypeError, "clusters must be a whole number, got 1.0"),
        ({"clusters": ["1"]}, TypeError, "clusters must be a whole number, got '1'"),
        ({"clusters": "1"}, TypeError, "clusters must be a list"),
        ({"clusters": [True]}, TypeError, "got True"),
        ({"clusters": np.array([True, False, True])}, TypeError, "clusters must be a whole number"),
        ({"clusters": torch.tensor([True])}, TypeError, "clusters must be a whole number"),
        ({"clusters": torch.tensor([1.0])}, TypeError, "clusters must be a whole number"),
        ({"clusters": {0, 1}}, TypeError, "clusters must be a list"),
        ({"clusters": 1}, TypeError, "clusters must be a list"),
        ({"labels": ["a"]}, ValueError, "labels has 1 names for 3 clusters"),
        ({"labels": ["a", "b", "a"]}, ValueError, "labels must be different"),
        ({"labels": ["a", "b", None]}, ValueError, "labels must be different"),
        ({"labels": {"a", "b", "c"}}, TypeError, "labels must be a list with a name for each cluster, in order"),
        ({"labels": "abc"}, TypeError, "labels must be a list"),
        ({"labels": {"a": 1, "b": 2, "c": 3}}, TypeError, "labels must be a list .* got a dict"),
        ({"feature_names": {"x", "y"}}, TypeError, "feature_names must be a list with a name for each feature"),
        ({"feature_names": frozenset("xy")}, TypeError, "feature_names must be a list"),
        ({"feature_names": "xy"}, TypeError, "feature_names must be a list"),
        ({"feature_names": ["x"]}, ValueError, "feature_names has 1 names for 2 features"),
        ({"feature_names": (name for name in "xy")}, TypeError, "feature_names must be a list"),
        ({"beta": True}, ValueError, "beta must be a number of at least 0, got True"),
        ({"beta": np.True_}, ValueError, "beta must be a number"),
        ({"beta": "0.5"}, ValueError, "beta must be a number"),
        ({"beta": 1j}, ValueError, "beta must be a number"),
        ({"beta": [1.0]}, ValueError, "beta must be a number"),
        ({"beta": np.nan}, ValueError, "beta must be a number"),
    ],
)
def test_arguments_of_heads_are_not_cut_to_fit(keywords, error, message):
    with pytest.raises(error, match=message):
        neon.NeuralizedKMeans(CENTROIDS, **keywords)
    with pytest.raises(error, match=message):
        neon.NeuralizedKernelKMeans(CENTROIDS[:, None], 1.0, **keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {"clusters": np.array([2, 0], dtype=np.uint16)},
        {"clusters": range(2)},
        {"clusters": torch.tensor([2, 0])},
        {"labels": np.array(["a", "b", "c"])},
        {"labels": pandas.Index([1, 2, 3])},
        {"feature_names": pandas.Index(["x", "y"])},
        {"feature_names": np.array(["x", "y"])},
        {"beta": np.float32(0.5)},
        {"beta": torch.tensor(0.5)},
        {"beta": 1},
    ],
    ids=str,
)
def test_arguments_of_heads_in_other_types(keywords):
    head = neon.NeuralizedKMeans(CENTROIDS, **keywords)
    assert head(torch.tensor(POINTS)).shape[0] == 4
    if "labels" in keywords:
        assert all(isinstance(label, (str, int)) for label in head.labels)


def test_gamma_weights_and_thresholds():
    for gamma in (True, "1", None, 0, -1.0, np.nan, [1.0], 1j):
        with pytest.raises(ValueError, match="gamma must be a number above 0"):
            neon.NeuralizedKernelKMeans(CENTROIDS[:, None], gamma)
    for weights in ([[True], [True], [True]], [["a"], [1.0], [1.0]], [[1j], [1.0], [1.0]]):
        with pytest.raises(TypeError, match=r"weights\[0\] must be numbers"):
            neon.NeuralizedKernelKMeans(CENTROIDS[:, None], 1.0, weights)
    for threshold in (True, "0.5", 1j):
        with pytest.raises(ValueError, match="threshold must be a probability"):
            neon.NeuralizedSoftmax(torch.nn.Linear(2, 3), threshold=threshold)
    with pytest.raises(TypeError, match="support_vectors must be a list"):
        neon.NeuralizedKernelKMeans({0: [[1.0]], 1: [[2.0]]}, 1.0)


@pytest.mark.parametrize("kind", [np.uint64, np.uint32, np.uint16, np.uint8, np.int8, ">i4"])
def test_clusters_of_points_in_any_whole_numbers(kind):
    head = neon.NeuralizedKMeans(CENTROIDS, beta=1.0)
    want = neon.explain(head, POINTS)
    asked = want.cluster.astype(kind)
    assert np.allclose(neon.explain(head, POINTS, cluster=asked).relevance, want.relevance)
    assert np.allclose(neon.explain(head, POINTS, cluster=asked.tolist()).relevance, want.relevance)
    assert np.allclose(neon.explain(head, POINTS, cluster=asked[0]).evidence, head(torch.tensor(POINTS))[:, asked[0]])


def test_whole_and_real_numbers():
    assert check_int(np.uint8(3), "n") == check_int(torch.tensor(3), "n") == check_int(3, "n", 1) == 3
    for wrong in (True, np.True_, torch.tensor(True), 1.0, "1", None, [1], torch.tensor([1, 2]), torch.tensor(1.5)):
        with pytest.raises(TypeError, match="n must be a whole number"):
            check_int(wrong, "n")
    assert check_real(np.float32(0.5), "r") == check_real(torch.tensor(0.5), "r") == 0.5
    assert check_positive(np.inf, "r") == np.inf
    for wrong in (True, "1", None, np.nan, [1.0], np.array([1.0])):
        with pytest.raises(ValueError, match="r must be a number"):
            check_real(wrong, "r")
    assert check_feature_names([1, "b"], 2) == ("1", "b")
    assert check_labels(np.array([4, 2]), 2) == (4, 2)
