"""What ``explain`` asks of points and estimators: points are read into one table, and labels predicted once."""

import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from sklearn.base import BaseEstimator
from sklearn.cluster import DBSCAN, AgglomerativeClustering, KMeans
from sklearn.compose import make_column_transformer
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler

from zennit_neon import explain, neuralize, plot
from zennit_neon.estimators.agreement import ROWS
from zennit_neon.utils import tables

X = np.random.default_rng(0).normal(size=(ROWS + 200, 2))
X[::2] += 4
FRAME = pandas.DataFrame({"age": X[:, 0], "size": X[:, 1], "city": np.where(X[:, 0] > 2, "a", "b")})
ENCODER = make_column_transformer((StandardScaler(), ["age", "size"]), (OneHotEncoder(), ["city"]))


class Sides(BaseEstimator):
    """Predicts the sign of the first feature, and is unknown to the package but for its labels."""

    def fit(self, X, y=None):
        self.labels_ = self.predict(X)
        return self

    def predict(self, X):
        return (np.asarray(X)[:, 0] > 2).astype(int)


#: Clusterings of points, and how many rows are predicted: a sample where the head is exact, else all of them.
CASES = {
    "k-means": (KMeans(2, n_init=1, random_state=0), X, ROWS),
    "frame": (KMeans(2, n_init=1, random_state=0), FRAME[["age", "size"]], ROWS),
    "sparse": (KMeans(2, n_init=1, random_state=0), scipy.sparse.csr_matrix(X), ROWS),
    "pipeline": (make_pipeline(StandardScaler(), KMeans(2, n_init=1, random_state=0)), X, ROWS),
    "columns": (make_pipeline(ENCODER, KMeans(2, n_init=1, random_state=0)), FRAME, ROWS),
    "mixed": (make_pipeline(PolynomialFeatures(), KMeans(2, n_init=1, random_state=0)), X, len(X)),
    "tied": (GaussianMixture(2, covariance_type="tied", random_state=0), X, ROWS),
    "mixture": (GaussianMixture(2, random_state=0), X, len(X)),
    "mixture behind a scaler": (make_pipeline(StandardScaler(), GaussianMixture(2, random_state=0)), X, len(X)),
    "mixture of columns": (make_pipeline(ENCODER, GaussianMixture(2, random_state=0, reg_covar=0.1)), FRAME, len(X)),
    "unknown": (Sides(), X, len(X)),
    "dbscan": (DBSCAN(eps=0.6), X, 0),
    "dbscan behind a scaler": (make_pipeline(StandardScaler(), DBSCAN(eps=0.3)), X, 0),
    "agglomerative": (AgglomerativeClustering(2), X, 0),
}


@pytest.fixture
def made(monkeypatch):
    """What tables are made of."""
    found = []
    source_of = tables.source_of
    monkeypatch.setattr(tables, "source_of", lambda X, name="X": found.append(X) or source_of(X, name))
    return found


@pytest.fixture
def predicted(monkeypatch):
    """How many rows are predicted, call by call."""
    found = []
    for kind in (KMeans, GaussianMixture, Sides):

        def predict(self, X, own=kind.predict):
            found.append(X.shape[0])
            return own(self, X)

        monkeypatch.setattr(kind, "predict", predict)
    return found


@pytest.mark.parametrize("name", CASES)
def test_points_are_read_once_and_their_labels_predicted_once(name, made, predicted):
    model, points, rows = CASES[name]
    model.fit(points)
    predicted.clear()
    explain(model, points, min_fidelity=0)
    assert sum(part is points for part in made) == 1
    assert all(len(part.shape) == 2 and part.shape[1] != points.shape[1] for part in made if part is not points) or (
        name.endswith("behind a scaler") and len(made) == 2  # and what comes out of the scaler
    )
    assert predicted == ([rows] if rows else [])


def test_labels_and_tensors_are_read_once(made):
    explain((X[:, 0] > 2).astype(int), X, min_fidelity=0)
    points = torch.tensor(X)
    explain(X[:3], points)
    assert [sum(part is other for part in made) for other in (X, points)] == [1, 1]


def test_heads_and_pictures_share_the_table(made, predicted):
    model = GaussianMixture(2, random_state=0).fit(X)
    neuralize(model, X)
    assert sum(part is X for part in made) == 1
    assert predicted == [len(X)]
    made.clear(), predicted.clear()
    plot.plane(model, X, resolution=3)
    assert sum(part is X for part in made) == 1
    assert predicted == [len(X)]


def test_a_table_may_be_explained_itself():
    table = tables.Table(FRAME[["age", "size"]])
    model = KMeans(2, n_init=1, random_state=0).fit(FRAME[["age", "size"]])
    assert explain(model, table).relevance.equals(explain(model, FRAME[["age", "size"]]).relevance)
