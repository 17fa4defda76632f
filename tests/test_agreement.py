"""A head that disagrees with its estimator is an error, not a result."""

import numpy as np
import pandas
import pytest
import torch
from sklearn.base import BaseEstimator
from sklearn.cluster import AgglomerativeClustering, KMeans, MeanShift
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import zennit_neon as neon
from zennit_neon.estimators.agreement import ROWS, check_predictions, check_same
from zennit_neon.exceptions import DisagreementError, NeonError
from zennit_neon.utils.tables import Table

X = np.random.default_rng(0).normal(size=(300, 3)) + 5 * np.eye(3)[np.arange(300) % 3]


class Prototypes(BaseEstimator):
    """A clustering of one's own."""

    def __init__(self, points, names=None, turn=0):
        self.points, self.names, self.turn = points, names, turn

    def predict(self, X):
        nearest = (((np.asarray(X)[:, None] - self.points[None]) ** 2).sum(2).argmin(1) + self.turn) % len(self.points)
        return nearest if self.names is None else np.asarray(self.names)[nearest]


@pytest.fixture
def registered():
    neon.neuralize.register(Prototypes)(lambda one: neon.NeuralizedKMeans(one.points))


def test_a_head_that_predicts_other_clusters_is_refused(registered):
    points = X[:3]
    neon.explain(Prototypes(points), X)
    with pytest.raises(DisagreementError, match=r"Prototypes.predict gives row 0 of X to cluster 1, the network to 0"):
        neon.explain(Prototypes(points, turn=1), X)
    with pytest.raises(DisagreementError, match="labels that its network does not have"):
        neon.explain(Prototypes(points, names=["a", "b", "c"]), X)
    assert issubclass(DisagreementError, NeonError)
    assert issubclass(NeonError, ValueError)


def test_a_few_rows_are_enough_to_look_at(registered):
    rows = []

    class Counted(Prototypes):
        def predict(self, X):
            rows.append(len(X))
            return super().predict(X)

    big = np.concatenate([X] * 20)
    neon.explain(Counted(X[:3]), big)
    assert rows == [ROWS]
    rows.clear()
    neon.explain(Counted(X[:3]), X[:7])
    assert rows == [7]


def test_points_on_a_boundary_may_go_either_way():
    centroids = np.array([[0.0, 0.0], [1.0, 0.0]])
    model = KMeans(2, init=centroids, n_init=1).fit(centroids)
    points = np.c_[np.full(50, 0.5), np.linspace(-9, 9, 50)] * (1 + 1e-15 * np.arange(50)[:, None])
    assert np.abs(neon.explain(model, points).evidence).max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.0, 1e3, 1e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_scikit_learn_loses_itself_is_no_disagreement(shift, dtype):
    points = (X + shift).astype(dtype)
    for last in (KMeans(4, n_init=1, random_state=0), MeanShift(bandwidth=1.5, bin_seeding=True)):
        e = neon.explain(last.fit(points), points)
        distance = ((points[:, None].astype(float) - last.cluster_centers_.astype(float)[None]) ** 2).sum(2)
        assert (e.cluster == distance.argmin(1)).mean() > 0.99
        neon.explain(make_pipeline(StandardScaler(), last).fit(points), torch.tensor(points))


def test_encoded_tables_are_compared_too(monkeypatch):
    frame = pandas.DataFrame({"city": list("abc") * 20})
    model = make_pipeline(OneHotEncoder(), KMeans(3, n_init=1, random_state=0)).fit(frame)
    neon.explain(model, frame)
    monkeypatch.setattr(model, "predict", lambda rows: (KMeans.predict(model[-1], model[:-1].transform(rows)) + 1) % 3)
    with pytest.raises(DisagreementError, match="Pipeline.predict gives row 0"):
        neon.explain(model, frame)


def test_surrogates_are_compared_behind_and_before_the_steps():
    model = make_pipeline(StandardScaler(), AgglomerativeClustering(3)).fit(X)
    head = neon.neuralize(model, X)
    inner = neon.neuralize(model[-1].labels_, model[0].transform(X))
    check_same(head, Table(X), inner, Table(model[0].transform(X)))
    with pytest.raises(DisagreementError, match="the network after the steps of the Pipeline"):
        check_same(head, Table(X[::-1].copy()), inner, Table(model[0].transform(X)))


def test_no_points_and_no_prediction_are_nothing_to_compare(registered):
    head = neon.NeuralizedKMeans(X[:3])
    check_predictions(head, Table(X[:0]), Prototypes(X[:3], turn=1))
    check_predictions(head, Table(X), object())
