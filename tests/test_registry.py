"""What other packages add to the registries is found, also by name, and explained exactly."""

import abc

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import zennit_neon as neon
from zennit_neon.text import BagVectorizer, explain_text
from zennit_neon.utils.registry import Registry


class Base:
    pass


class Derived(Base):
    pass


class Other:
    pass


def test_nearest_base_class_and_last_registration_count():
    found = Registry()
    found.register(Base, lambda value: "base")
    assert found.find(Derived())(Derived()) == "base"
    assert found.find(Other()) is None
    found.register(f"{__name__.partition('.')[0]}.Derived")(lambda value: "by name")
    assert found.find(Derived())(Derived()) == "by name"
    assert found.find(Base())(Base()) == "base"
    found.register("tests.anywhere.Derived", lambda value: "again")
    assert found.find(Derived())(Derived()) == "again"
    assert found.names == ["Base", "Derived"]


def test_annotations_and_abstract_classes():
    class Shape(abc.ABC):
        @abc.abstractmethod
        def area(self): ...

    Shape.register(Other)
    found = Registry()

    @found.register
    def _(value: Base | int) -> str:
        return "annotated"

    assert found.find(3)(3) == found.find(Derived())(Derived()) == "annotated"
    assert found.find(Other()) is None
    found.register(Shape, lambda value: "virtual")
    assert found.find(Other())(Other()) == "virtual"


@pytest.mark.parametrize("kind", ["KMeans", 3, None])
def test_what_is_no_class_is_refused(kind):
    with pytest.raises(TypeError, match="a class, or its name such as 'sklearn.KMeans'"):
        Registry().register(kind, print)
    with pytest.raises(TypeError, match="annotated"):
        Registry().register(lambda value: value)


class Prototypes(BaseEstimator):
    """A clustering of someone else."""

    def fit(self, X, y=None):
        self.points_ = np.asarray(X)[:3]
        return self

    def predict(self, X):
        return ((np.asarray(X)[:, None] - self.points_) ** 2).sum(2).argmin(1)


class Doubled(TransformerMixin, BaseEstimator):
    """An affine step of someone else."""

    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return 2 * np.asarray(X)


class Cyclic(TransformerMixin, BaseEstimator):
    """An encoder of columns of someone else: hours as points on a circle."""

    def fit(self, X, y=None):
        self.n_features_in_ = np.shape(X)[1]
        return self

    def transform(self, X):
        angle = np.asarray(X, dtype=float) * 2 * np.pi / 24
        return np.hstack([np.sin(angle), np.cos(angle)])


@pytest.fixture
def registered(monkeypatch):
    """Registries that forget what a test adds."""
    from zennit_neon.estimators import adapters, columns, steps
    from zennit_neon.text import vectorizers

    for module in (adapters, columns, steps, vectorizers):
        for name in ("_classes", "_names"):
            monkeypatch.setattr(module._REGISTRY, name, dict(getattr(module._REGISTRY, name)))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_pipeline_of_foreign_parts_is_explained_exactly(registered, rng, by_name):
    package = __name__.partition(".")[0]
    X = np.column_stack([rng.integers(0, 24, 60), rng.integers(0, 24, 60)]).astype(float)
    pipeline = make_pipeline(Cyclic(), Doubled(), Prototypes()).fit(X)
    with pytest.raises(ValueError, match="affine_step.register"):
        neon.neuralize(pipeline)
    with pytest.raises(TypeError, match="neuralize.register"):
        neon.neuralize(pipeline[-1])
    kinds = [f"{package}.{kind.__name__}" if by_name else kind for kind in (Prototypes, Doubled, Cyclic)]
    neon.neuralize.register(kinds[0])(lambda model: neon.NeuralizedKMeans(model.points_))
    neon.affine_step.register(kinds[1])(lambda step: neon.Affine(2.0 * np.ones(4)))
    neon.source_columns.register(kinds[2])(lambda step: [0, 1, 0, 1])
    e = neon.explain(pipeline, X)
    assert (e.cluster == pipeline.predict(X)).all()
    assert e.fidelity is None
    np.testing.assert_allclose(e.relevance.sum(1), e.evidence, rtol=1e-10)
    inner = neon.explain(Prototypes().fit(2 * Cyclic().fit(X).transform(X)), 2 * Cyclic().fit(X).transform(X))
    np.testing.assert_allclose(e.relevance, inner.relevance[:, :2] + inner.relevance[:, 2:], rtol=1e-9, atol=1e-12)


def test_what_registered_functions_return_is_checked(registered, rng):
    neon.neuralize.register(Prototypes, lambda model: model.points_)
    with pytest.raises(TypeError, match="neuralize.register has for a Prototypes must return a head, .*got a ndarray"):
        neon.neuralize(Prototypes().fit(rng.normal(size=(5, 2))))
    step = Cyclic().fit(np.zeros((2, 1)))
    for wrong in ([0.5, 0.0], [-1, 0], [[0], [0]]):
        neon.source_columns.register(Cyclic, lambda step, wrong=wrong: wrong)
        with pytest.raises(TypeError, match="source_columns.register has for a Cyclic must return the number of a col"):
            neon.source_columns(step)
    neon.source_columns.register(Cyclic, lambda step: [0, 7])
    X = rng.uniform(0, 24, (20, 1))
    with pytest.raises(ValueError, match="names column 7, but it gets 1 columns"):
        neon.explain(make_pipeline(Cyclic(), KMeans(2, n_init=1)).fit(X), X)


class Titles:
    """A vectorizer of someone else."""

    def __init__(self, counts):
        self.counts = counts

    def transform(self, texts):
        return self.counts.transform(texts)


def test_a_foreign_vectorizer_is_explained_word_by_word(registered):
    texts = ["the cat sat on a mat", "a cat and a mat", "stocks fell", "stocks and bonds fell"]
    counts = CountVectorizer().fit(texts)
    clustering = KMeans(2, n_init=1, random_state=0).fit(counts.transform(texts))
    with pytest.raises(TypeError, match="vectorizer must be a fitted WordAverage"):
        explain_text(clustering, texts, vectorizer=Titles(counts))
    explain_text.register(Titles, lambda one: one.counts)
    with pytest.raises(TypeError, match=r"explain_text.register has for a Titles must return a TextVectorizer"):
        explain_text(clustering, texts, vectorizer=Titles(counts))
    explain_text.register(Titles, lambda one: BagVectorizer(one.counts))
    found = explain_text(clustering, texts, vectorizer=Titles(counts))
    expected = explain_text(clustering, texts, vectorizer=counts)
    assert (found.relevance != expected.relevance).nnz == 0
    assert found.words.tolist() == expected.words.tolist()
    chosen = make_pipeline(Titles(counts), SelectKBest(k=4))
    chosen.steps[1][1].fit(counts.transform(texts), [0, 0, 1, 1])
    clustering = KMeans(2, n_init=1, random_state=0).fit(chosen[1:].transform(counts.transform(texts)))
    assert len(explain_text(clustering, texts, vectorizer=chosen).words) == 4


def test_source_columns_of_known_and_unknown_transformers():
    assert neon.source_columns(OneHotEncoder().fit([["a", 1], ["b", 2], ["c", 2]])).tolist() == [0, 0, 0, 1, 1]
    with pytest.raises(ValueError, match=r"Cyclic is not known to work column by column.*source_columns.register"):
        neon.source_columns(Cyclic())


def test_messages_name_the_registry():
    X = np.random.default_rng(0).normal(size=(30, 2))
    pipeline = make_pipeline(StandardScaler(), Cyclic(), KMeans(2, n_init=1)).fit(X)
    with pytest.raises(ValueError, match="affine_step.register"):
        neon.neuralize(pipeline)
