"""Pipelines that treat columns apart: scalers of some, categories, gaps and bent scales of others."""

import copy
import pickle

import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import DBSCAN, BisectingKMeans, KMeans
from sklearn.compose import ColumnTransformer, make_column_selector, make_column_transformer
from sklearn.decomposition import PCA
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MinMaxScaler,
    Normalizer,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
)

from tests.strategies import pairwise
from zennit_neon import KernelKMeans, explain, neuralize
from zennit_neon.estimators.columns import Encoding, encode
from zennit_neon.utils.tables import Table

NUMBERS = ["age", "income", "visits"]


@pytest.fixture
def people():
    """Numbers, categories, a text and names of 120 people; the fourth has no age."""
    random = np.random.default_rng(0)
    cities = random.choice(["Berlin", "Oslo", "Rome", "Bonn"], 120, p=[0.5, 0.3, 0.15, 0.05])
    frame = pandas.DataFrame(
        {
            "name": [f"person {i}" for i in range(120)],
            "age": random.normal(40, 12, 120),
            "city": cities,
            "income": random.lognormal(8, 1, 120),
            "visits": random.integers(0, 9, 120),
            "member": random.choice(["yes", "no"], 120),
            "note": random.choice(["likes red wine", "likes green tea", "drinks beer"], 120),
        },
        index=[f"row {i}" for i in range(120)],
    )
    frame.loc["row 3", "age"] = np.nan
    return frame


def gaps(*steps):
    return make_pipeline(SimpleImputer(), *steps)


MIXED = {
    "one-hot": [("n", gaps(StandardScaler()), NUMBERS), ("c", OneHotEncoder(), ["city", "member"])],
    "sparse": [("n", gaps(), ["age"]), ("c", OneHotEncoder(), ["city", "member"])],
    "drop first": [("n", gaps(StandardScaler()), NUMBERS), ("c", OneHotEncoder(drop="first"), ["city", "member"])],
    "drop binary": [("n", gaps(StandardScaler()), NUMBERS), ("c", OneHotEncoder(drop="if_binary"), ["member", "city"])],
    "infrequent": [("n", gaps(StandardScaler()), NUMBERS), ("c", OneHotEncoder(min_frequency=0.2), ["member", "city"])],
    "infrequent, drop first": [
        ("n", gaps(StandardScaler()), NUMBERS),
        ("c", OneHotEncoder(max_categories=2, drop="first", handle_unknown="infrequent_if_exist"), ["city", "member"]),
    ],
    "ordinal": [("n", gaps(RobustScaler()), NUMBERS), ("c", OrdinalEncoder(), ["city", "member"])],
    "scaled categories": [("n", gaps(), NUMBERS), ("c", make_pipeline(OrdinalEncoder(), MinMaxScaler()), ["city"])],
    "logarithm": [
        (
            "l",
            make_pipeline(FunctionTransformer(np.log1p, feature_names_out="one-to-one"), StandardScaler()),
            ["income"],
        ),
        ("n", gaps(StandardScaler()), ["visits", "age"]),
    ],
    "PCA": [("p", gaps(StandardScaler(), PCA(2)), NUMBERS), ("c", OneHotEncoder(), ["city"])],
    "bent, then PCA": [("p", gaps(PowerTransformer(), PCA(2, whiten=True)), NUMBERS), ("c", OneHotEncoder(), ["city"])],
    "twice": [("n", StandardScaler(), ["income", "visits"]), ("b", KBinsDiscretizer(3), ["income"])],
    "twice affine": [("n", StandardScaler(), ["income", "visits"]), ("m", MinMaxScaler(), ["income"])],
    "passed through": [("p", "passthrough", ["visits"]), ("c", OneHotEncoder(), ["city"]), ("d", "drop", ["member"])],
    "nothing": [("n", gaps(StandardScaler()), NUMBERS), ("c", OneHotEncoder(), [])],
    "indicator": [("n", SimpleImputer(add_indicator=True), NUMBERS), ("c", OneHotEncoder(), ["city"])],
    "text": [("n", gaps(StandardScaler()), NUMBERS), ("t", TfidfVectorizer(), "note")],
    "selector": [
        ("n", gaps(StandardScaler()), make_column_selector(dtype_include="number")),
        ("c", OneHotEncoder(), make_column_selector(pattern="city|member")),
    ],
    "selected": [("n", gaps(VarianceThreshold(20.0), PowerTransformer()), NUMBERS), ("c", OneHotEncoder(), ["city"])],
    "nested": [
        ("n", make_column_transformer((gaps(PCA(1)), [0, 1]), (Binarizer(), [2])), ["age", "income", "visits"]),
        ("c", OneHotEncoder(), ["city"]),
    ],
    "slice and mask": [
        ("n", gaps(StandardScaler()), slice("age", "age")),
        ("m", StandardScaler(), [False] * 3 + [True, True, False, False]),
    ],
    "numbers only": [("n", StandardScaler(), ["income", "visits"])],
}


def columns(name, **options):
    return ColumnTransformer(copy.deepcopy(MIXED[name]), **options)


def numbers_of(frame, transformer):
    """What a transformer makes of a table, dense."""
    values = transformer.transform(frame)
    return values.toarray() if hasattr(values, "toarray") else np.asarray(values)


@pytest.mark.parametrize("name", MIXED)
def test_columns_of_any_kind(people, name):
    pipeline = make_pipeline(columns(name), KMeans(3, n_init=2, random_state=0)).fit(people)
    e = explain(pipeline, people)
    assert list(e.relevance.columns) == list(people.columns)
    assert list(e.relevance.index) == list(people.index)
    assert (e.cluster == pipeline.predict(people)).all()
    assert e.fidelity is None
    scale = np.abs(e.evidence).max()
    assert e.conserves
    assert np.abs(e.relevance.sum(axis=1) - e.evidence).max() < 1e-10 * scale
    assert e.feature_names == list(people.columns)
    used = [column for column in people if e.relevance[column].abs().max() > 0]
    assert "name" not in used
    assert len(used) > 1
    parts = [e.through(k) for k in range(3)]
    assert np.allclose(sum(parts), e.relevance, atol=1e-10 * scale)
    assert np.allclose(e.competitors.sum(1), e.evidence, atol=1e-10 * scale)
    one = explain(pipeline, people.iloc[5:6], beta=e.beta)
    assert np.allclose(one.relevance, e.relevance.iloc[5:6], atol=1e-10 * scale)
    assert np.allclose(explain(pipeline, people, batch_size=7).relevance, e.relevance, atol=1e-10 * scale)


@pytest.mark.parametrize(
    "name", ["one-hot", "drop first", "infrequent", "ordinal", "logarithm", "twice", "indicator", "text"]
)
def test_relevance_is_that_of_the_numbers_summed_by_column(people, name):
    before = columns(name, verbose_feature_names_out=True)
    pipeline = make_pipeline(before, KMeans(3, n_init=2, random_state=0)).fit(people)
    made = explain(pipeline[-1], numbers_of(people, before))
    e = explain(pipeline, people)
    names = before.get_feature_names_out()
    by_column = np.zeros(people.shape)
    for values, full in zip(made.relevance.T, names, strict=True):
        block, _, own = full.partition("__")
        source = "note" if block == "t" else next(c for c in people if own.startswith((c, f"missingindicator_{c}")))
        by_column[:, people.columns.get_loc(source)] += values
    # scalers and encodings do not mix columns, so it does not matter that only the latter stand before the head
    assert np.abs(e.relevance - by_column).max().max() < 1e-10 * np.abs(e.evidence).max()
    assert e.beta == pytest.approx(made.beta, rel=1e-12)


STEPS = {
    "power": PowerTransformer(),
    "quantile": QuantileTransformer(n_quantiles=20),
    "bins": KBinsDiscretizer(4, encode="onehot-dense"),
    "ordinal bins": KBinsDiscretizer(4, encode="ordinal"),
    "splines": SplineTransformer(),
    "clipped": MinMaxScaler(clip=True),
    "square root": FunctionTransformer(np.sqrt),
    "steps": make_pipeline(StandardScaler(), FunctionTransformer(), Binarizer()),
    "two": make_pipeline(
        SimpleImputer(),
        QuantileTransformer(n_quantiles=20),
        StandardScaler(),
        KBinsDiscretizer(3, encode="onehot-dense"),
    ),
}


BEHIND = [[], [StandardScaler()], [StandardScaler(), PCA(3)], [Normalizer()]]


@pytest.mark.parametrize(
    ("name", "behind", "like"), pairwise(STEPS, BEHIND, [np.asarray, torch.tensor, pandas.DataFrame])
)
def test_bent_columns_of_numbers(name, behind, like):
    X = np.random.default_rng(0).lognormal(1, 1, (90, 4))
    pipeline = make_pipeline(
        copy.deepcopy(STEPS[name]), *map(copy.deepcopy, behind), KMeans(3, n_init=2, random_state=0)
    )
    pipeline.fit(X if like is torch.tensor else like(X))
    X = like(X)
    e = explain(pipeline, X)
    assert type(e.relevance) is type(X)
    assert e.relevance.shape == X.shape
    assert e.fidelity is None
    assert np.array_equal(np.asarray(e.cluster), pipeline.predict(np.asarray(X) if isinstance(X, torch.Tensor) else X))
    made = explain(pipeline[1:], numbers_of(np.asarray(X) if like is torch.tensor else X, pipeline[0]))
    assert np.allclose(np.asarray(e.evidence), np.asarray(made.evidence), rtol=1e-10, atol=1e-12)
    each = made.relevance.shape[1] // 4
    assert np.allclose(np.asarray(e.relevance), np.asarray(made.relevance).reshape(90, 4, each).sum(2), atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_have_the_dtype_of_the_table(dtype):
    X = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    pipeline = make_pipeline(PowerTransformer(), KMeans(3, n_init=2, random_state=0)).fit(X.double().numpy())
    e = explain(pipeline, X)
    assert e.relevance.dtype == e.evidence.dtype == dtype
    if dtype == torch.float32:
        assert explain(pipeline, X.numpy()).relevance.dtype == np.float32
        frame = pandas.DataFrame(X.numpy())
        assert (explain(pipeline, frame).relevance.dtypes == np.float32).all()
    with pytest.raises(TypeError, match="floating point"):
        explain(pipeline, X.int())


def test_many_rows_are_encoded_at_a_time(people, monkeypatch):
    pipeline = make_pipeline(columns("one-hot"), KMeans(3, n_init=2, random_state=0)).fit(people)
    many, rows, whole = people.iloc[np.arange(30_000) % 120], [], Encoding.__call__

    def counted(self, table):
        rows.append(len(table))
        return whole(self, table)

    e = explain(pipeline, people)
    monkeypatch.setattr(Encoding, "__call__", counted)
    monkeypatch.setattr("zennit_neon.utils.tables.ENCODED", 9 * 4096)
    found = explain(pipeline, many, beta=e.beta, batch_size=100)
    assert np.allclose(found.relevance, e.relevance.iloc[np.arange(30_000) % 120], atol=1e-10)
    top = [count for count in rows if count > 1000]
    assert len(top) == 3 * 8  # the whole and its two blocks, once each
    assert max(top) == 4000  # and not more than fit
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        explain(pipeline, people, batch_size=0)


def test_affine_columns_are_a_head(people):
    frame = people[["age", "income", "visits"]].fillna(40.0)
    before = ColumnTransformer(
        [("p", make_pipeline(StandardScaler(), PCA(1)), ["visits", "age"]), ("m", MinMaxScaler(), ["income"])],
        transformer_weights={"m": 3.0},
    )
    pipeline = make_pipeline(before, KMeans(3, n_init=2, random_state=0)).fit(frame)
    head = neuralize(pipeline)
    points = torch.tensor(frame.to_numpy(float))
    assert (head(points).argmax(1).numpy() == pipeline.predict(frame)).all()
    e = explain(pipeline, frame)
    assert np.allclose(e.relevance.sum(axis=1), e.evidence, rtol=1e-10)
    order = [2, 0, 1]
    assert np.allclose(explain(pipeline, frame.iloc[:, [0, 1, 2]]).relevance, e.relevance)
    again = make_pipeline(before, KMeans(3, n_init=2, random_state=0)).fit(frame.iloc[:, order])
    assert np.allclose(explain(again, frame.iloc[:, order]).relevance[frame.columns], e.relevance, atol=1e-9)


def test_one_block_of_all_columns_changes_nothing():
    X = np.random.default_rng(0).normal(size=(60, 3)) * [1, 5, 30]
    alone = make_pipeline(StandardScaler(), KMeans(3, n_init=2, random_state=0)).fit(X)
    for before in (
        ColumnTransformer([("s", StandardScaler(), [0, 1, 2])]),
        ColumnTransformer([("a", StandardScaler(), [0])], remainder=StandardScaler()),
        FeatureUnion([("s", StandardScaler())]),
        FeatureUnion([("s", StandardScaler()), ("d", "drop")]),
    ):
        pipeline = make_pipeline(before, KMeans(3, n_init=2, random_state=0)).fit(X)
        assert np.allclose(explain(neuralize(pipeline), X).relevance, explain(alone, X).relevance, atol=1e-10)


def test_remainder_passes_through():
    X = np.random.default_rng(0).normal(size=(60, 3))
    before = ColumnTransformer([("s", StandardScaler(), [2])], remainder="passthrough")
    pipeline = make_pipeline(before, KMeans(3, n_init=2, random_state=0)).fit(X)
    head = neuralize(pipeline)
    assert (head(torch.tensor(X)).argmax(1).numpy() == pipeline.predict(X)).all()


def test_weights_count_in_front_of_categories(people):
    for weight in (0.0, 0.1, 5.0):
        before = columns("one-hot", transformer_weights={"c": weight})
        pipeline = make_pipeline(before, KMeans(3, n_init=2, random_state=0)).fit(people)
        e = explain(pipeline, people)
        assert (e.cluster == pipeline.predict(people)).all()
        assert np.allclose(e.relevance.sum(axis=1), e.evidence, atol=1e-10)
        assert (weight == 0) == bool((e.relevance["city"] == 0).all())


@pytest.mark.parametrize(
    "last",
    [
        KernelKMeans(3, random_state=0),
        GaussianMixture(3, covariance_type="tied", reg_covar=0.1, random_state=0),
        make_pipeline(StandardScaler(), PCA(2), BisectingKMeans(3, random_state=0)),
    ],
)
def test_other_clusterings_of_categories(people, last):
    pipeline = make_pipeline(columns("one-hot", sparse_threshold=0), copy.deepcopy(last)).fit(people)
    e = explain(pipeline, people)
    assert (e.cluster == pipeline.predict(people)).all()
    assert np.isfinite(e.relevance.to_numpy()).all()


def test_labels_of_categories(people):
    pipeline = make_pipeline(columns("one-hot"), DBSCAN(eps=1.1, min_samples=3)).fit(people)
    labels = pipeline[-1].labels_
    e = explain(pipeline, people)
    assert e.fidelity is not None
    assert ((e.cluster == -1) == (labels == -1)).all()
    assert np.isfinite(e.relevance[labels >= 0].to_numpy()).all()
    assert len(set(labels)) > 2


@pytest.mark.parametrize(
    "before", [PolynomialFeatures(2), KNNImputer(), FunctionTransformer(lambda x: x[:, ::-1] ** 3)]
)
def test_steps_that_mix_columns_are_explained_by_a_surrogate(before):
    X = np.random.default_rng(0).normal(size=(90, 3))
    pipeline = make_pipeline(before, StandardScaler(), KMeans(3, n_init=2, random_state=0)).fit(X)
    assert encode(pipeline, Table(X)) is None
    assert explain(pipeline, X, min_fidelity=0).fidelity is not None
    with pytest.raises(ValueError, match="not known to be affine|of which nothing is known"):
        neuralize(pipeline)


def test_a_norm_of_some_columns_is_left_to_a_surrogate():
    X = np.random.default_rng(0).normal(size=(90, 3))
    before = ColumnTransformer([("n", Normalizer(), [0, 1])], remainder="passthrough")
    pipeline = make_pipeline(before, KMeans(3, n_init=2, random_state=0)).fit(X)
    with pytest.raises(ValueError, match="'n' of the ColumnTransformer divides some of the features by their norm"):
        neuralize(pipeline)
    assert explain(pipeline, X, min_fidelity=0).fidelity is not None


def test_text_that_no_step_takes_is_refused(people):
    numbers = people[NUMBERS].fillna(0)
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=2, random_state=0)).fit(numbers)
    with pytest.raises((TypeError, ValueError), match="name"):
        explain(pipeline, people)


def test_gaps_that_nothing_fills_are_named(people):
    pipeline = make_pipeline(columns("twice"), KMeans(3, n_init=2, random_state=0)).fit(people)
    explain(pipeline, people)
    broken = people.copy()
    broken.loc["row 7", "visits"] = np.nan
    with pytest.raises(ValueError, match="row 7; features .'visits'."):
        explain(pipeline, broken)


def test_other_columns_are_refused(people):
    pipeline = make_pipeline(columns("one-hot"), KMeans(3, n_init=2, random_state=0)).fit(people)
    with pytest.raises(ValueError, match="columns"):
        explain(pipeline, people.drop(columns="city"))
    with pytest.raises(ValueError, match="columns"):
        explain(pipeline, people[people.columns[::-1]])
    unknown = people.copy()
    unknown.loc["row 1", "city"] = "Kyiv"
    with pytest.raises(ValueError, match="Kyiv"):
        explain(pipeline, unknown)


def test_unfitted_steps_are_refused(people):
    with pytest.raises(ValueError, match="fit"):
        explain(make_pipeline(columns("one-hot"), KMeans(3)), people)


def test_explanations_can_be_pickled_and_copied(people):
    pipeline = make_pipeline(columns("bent, then PCA"), KMeans(3, n_init=2, random_state=0)).fit(people)
    e = explain(pipeline, people)
    for other in (pickle.loads(pickle.dumps(e)), copy.deepcopy(e)):
        assert other.relevance.equals(e.relevance)
        assert other.through(1).equals(e.through(1))


def test_plots_show_categories(people):
    from zennit_neon import plot

    pipeline = make_pipeline(columns("one-hot"), KMeans(3, n_init=2, random_state=0)).fit(people)
    e = explain(pipeline, people)
    figure, axes = plot.point(e, 0)
    assert any(people["city"].iloc[0] in label.get_text() for label in axes.get_yticklabels())
    figure.canvas.draw()
    assert list(e.summary().columns) == list(people.columns)
    assert e.to_frame().shape == (120, 2 + people.shape[1])
