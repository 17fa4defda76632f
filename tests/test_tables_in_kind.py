"""The same points in every kind of table: the same numbers, in kind."""

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.decomposition import TruncatedSVD
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

import zennit_neon as neon
from zennit_neon import plot
from zennit_neon.captum import NEON
from zennit_neon.utils.sources import holds_text, rows_of
from zennit_neon.utils.tables import Table

NAMES = ["spend", "visits", "age", "rare"]


def _points(n=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4)) + 6 * np.eye(4)[rng.integers(3, size=n)]
    return np.where(np.abs(X) < 0.7, 0, X)


def _sparse_frame(X):
    frame = pandas.DataFrame(X, columns=NAMES, index=[f"r{i}" for i in range(len(X))])
    return frame.astype(pandas.SparseDtype("float", 0))


KINDS = {
    "array": lambda X: X,
    "list": np.ndarray.tolist,
    "tensor": torch.tensor,
    "frame": lambda X: pandas.DataFrame(X, columns=NAMES, index=[f"r{i}" for i in range(len(X))]),
    "nullable": lambda X: pandas.DataFrame(X, columns=NAMES).astype("Float64"),
    "arrow frame": lambda X: pandas.DataFrame(X, columns=NAMES).astype("double[pyarrow]"),
    "sparse frame": _sparse_frame,
    "frame with gaps of 1": lambda X: pandas.DataFrame(X, columns=NAMES).astype(pandas.SparseDtype("float", 1.0)),
    "polars": lambda X: pytest.importorskip("polars").DataFrame(X, schema=NAMES),
    "arrow": lambda X: pytest.importorskip("pyarrow").table(dict(zip(NAMES, X.T, strict=True))),
    "batch": lambda X: pytest.importorskip("pyarrow").record_batch(dict(zip(NAMES, X.T, strict=True))),
    "csr_matrix": scipy.sparse.csr_matrix,
    "csc_matrix": scipy.sparse.csc_matrix,
    "csr_array": scipy.sparse.csr_array,
    "coo_array": scipy.sparse.coo_array,
    "backwards": lambda X: X[::-1].copy()[::-1],
    "big-endian": lambda X: X.astype(">f8"),
}
TABLES = ("frame", "nullable", "arrow frame", "sparse frame", "frame with gaps of 1", "polars", "arrow", "batch")
SPARSE = ("csr_matrix", "csc_matrix", "csr_array", "coo_array")


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "arrow frame":
        pytest.importorskip("pyarrow")
    return request.param


def _dense(values):
    return np.asarray(values if not hasattr(values, "to_pandas") else values.to_pandas(), dtype=float)


def test_points_of_every_kind_through_every_door(kind):
    X = _points()
    points = KINDS[kind](X)
    models = {
        "k-means": KMeans(3, n_init=2, random_state=0).fit(X),
        "pipeline": make_pipeline(MaxAbsScaler(), KMeans(3, n_init=2, random_state=0)).fit(X),
        "svd": make_pipeline(TruncatedSVD(3, random_state=0), KMeans(3, n_init=2, random_state=0)).fit(X),
    }
    for name, model in models.items():
        want, e = neon.explain(model, X), neon.explain(model, points)
        assert np.allclose(_dense(e.relevance), want.relevance, rtol=0, atol=1e-12), name
        assert np.allclose(np.asarray(e.competitors), want.competitors, rtol=0, atol=1e-12)
        assert np.allclose(_dense(e.through(1)), want.through(1), rtol=0, atol=1e-12)
        assert np.asarray(e.cluster).tolist() == want.cluster.tolist()
        assert np.allclose(e.summary(), want.summary())
        assert np.allclose(e.to_frame().iloc[:, 2:], want.to_frame().iloc[:, 2:])
        assert np.allclose(e.to_shap().data, X)
        if name == "k-means":
            titles = [plot.point(one, 5)[1].get_title() for one in (e, want)]
            assert titles[0] == titles[1] or kind in ("frame", "sparse frame")
        assert e.feature_names == (NAMES if kind in TABLES else want.feature_names)
        noisy = e.with_noise(np.arange(60) < 3)
        assert np.isnan(_dense(noisy.relevance)[:3]).all()
        assert np.isfinite(_dense(noisy.relevance)[3:]).all()
    head = neon.neuralize(models["k-means"])
    assert head.calibrate(points).beta == pytest.approx(neon.explain(head, X).beta)
    labels = models["k-means"].labels_
    fitted = neon.neuralize(labels, points)
    assert float(fitted.fidelity) == float(neon.neuralize(labels, X).fidelity)
    kernel = neon.NeuralizedKernelKMeans([X[labels == k] for k in range(3)], 1.0)
    assert np.allclose(neon.prune(kernel, points).evidence_error, neon.prune(kernel, X).evidence_error)


def test_answers_are_in_kind(kind):
    X = _points(20)
    points = KINDS[kind](X)
    relevance = neon.explain(neon.NeuralizedKMeans(X[:3], beta=1.0), points).relevance
    if kind in ("list", "backwards", "big-endian", *SPARSE):
        assert type(relevance) is np.ndarray
        assert relevance.dtype == np.float64
    else:
        assert type(relevance) is type(points)
    if kind in TABLES:
        names = relevance.schema.names if kind in ("arrow", "batch") else list(relevance.columns)
        assert names == NAMES
    if hasattr(points, "iloc"):
        assert relevance.index.equals(points.index)


@pytest.mark.parametrize("kind", ["frame", "polars", "arrow"])
def test_columns_are_matched_by_name(kind):
    X = _points()
    frame = pandas.DataFrame(X, columns=NAMES)
    points = KINDS[kind](X)
    backwards = points.select(NAMES[::-1]) if kind != "frame" else points[NAMES[::-1]]
    for last in (KMeans(3, n_init=1, random_state=0), AgglomerativeClustering(3)):
        model = make_pipeline(StandardScaler(), last).fit(frame)
        neon.explain(model, points)
        if not hasattr(last, "predict"):
            continue
        with pytest.raises(ValueError, match="the same in another order|feature names"):
            neon.explain(model, backwards)
        head = neon.neuralize(model)
        with pytest.raises(ValueError, match="X has the columns .* the same in another order"):
            neon.explain(head, backwards)


@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
def test_a_sparse_matrix_is_never_dense_as_a_whole(form, monkeypatch):
    X = scipy.sparse.random(4000, 300, 0.01, random_state=0, format=form, dtype=np.float64)
    model = KMeans(3, n_init=1, random_state=0).fit(X)
    sizes = []
    toarray = scipy.sparse.csr_matrix.toarray
    monkeypatch.setattr(scipy.sparse.csr_matrix, "toarray", lambda self, *a: sizes.append(self.shape) or toarray(self))
    e = neon.explain(model, X, batch_size=500)
    assert max(rows for rows, _ in sizes) <= 1000
    assert (e.cluster == model.predict(X)).all()


def test_sparse_float32_stays_float32():
    X = scipy.sparse.csr_matrix(_points().astype(np.float32))
    assert neon.explain(neon.NeuralizedKMeans(_points(3, 1)), X).relevance.dtype == np.float32


def test_missing_values_of_every_kind_are_named(kind):
    X = _points()
    X[7, 2] = np.nan
    name = "age" if kind in TABLES else "2"
    with pytest.raises(ValueError, match=f"X must be finite, but .*first in row 7; features .*{name}"):
        neon.explain(neon.NeuralizedKMeans(_points(3, 1), beta=1.0), KINDS[kind](X))


def test_text_in_other_tables_is_refused_by_name():
    polars, pyarrow = pytest.importorskip("polars"), pytest.importorskip("pyarrow")
    for table in (polars.DataFrame({"a": [1.0, 2.0], "city": ["x", "y"]}), pyarrow.table({"a": [1.0], "city": ["x"]})):
        with pytest.raises(TypeError, match=r"its columns \['city'\] do not"):
            Table(table)
        assert holds_text(table)
    with pytest.raises(TypeError, match=r"pass X.collect\(\)"):
        Table(polars.DataFrame({"a": [1.0]}).lazy())
    numbers = pyarrow.table({"a": pyarrow.array([1, None]), "b": pyarrow.array([True, False])})
    assert Table(numbers).read(0, 2).isnan().tolist() == [[False, False], [True, False]]
    assert not holds_text(numbers)


def test_sparse_tensors_are_refused():
    with pytest.raises(TypeError, match=r"pass X.to_dense\(\)"):
        Table(torch.eye(3).to_sparse())


def test_masked_points(rng):
    X = np.ma.array(_points(), mask=False)
    head = neon.NeuralizedKMeans(_points(3, 1), beta=1.0)
    assert neon.explain(head, X).relevance.shape == (60, 4)
    X[4, 1] = np.ma.masked
    with pytest.raises(ValueError, match="X must not have masked entries, but 1 rows have .the first is 4"):
        neon.explain(head, X)


def test_some_rows_in_kind(kind):
    X = _points(12)
    points = KINDS[kind](X)
    assert np.allclose(_dense(Table(rows_of(points, np.array([1, 5, 7]))).read(0, 3)), X[[1, 5, 7]])
    assert np.allclose(Table(points).some(np.array([2, 3])), X[[2, 3]])
    one = Table(rows_of(points, slice(4, 5)))
    assert np.allclose(one.read(0, 1), X[4:5])


def test_rows_that_are_ignored_are_not_read():
    X = _points(6)
    X[2] = np.nan
    table = Table(X).ignoring(np.isnan(X).any(1))
    assert np.isfinite(table.read(0, 6)).all()
    assert np.isfinite(table.read(2, 3)).all()
    assert table.unreadable(np.arange(6) < 4).tolist() == [False] * 6
    assert Table(X).unreadable(np.arange(6) < 4).tolist() == [False, False, True, False, False, False]


def test_captum_takes_what_a_head_takes():
    X = torch.tensor(_points())
    assert NEON(neon.NeuralizedKMeans(scipy.sparse.csr_matrix(_points(3, 1)), beta=1.0)).attribute(X).shape == X.shape
