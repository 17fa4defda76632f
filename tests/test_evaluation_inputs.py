"""What evaluate makes of things that users hand in: callables that change their points, tables in another order."""

import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import KMeans

from zennit_neon import explain
from zennit_neon.evaluation import evaluate

COLUMNS = ["a", "b", "c", "d"]


@pytest.fixture
def points(rng):
    """Three clusters of different shape in four columns."""
    points = rng.normal(size=(40, 4))
    points[:15, 0] += 4
    points[15:30, 1] += 4
    return pandas.DataFrame(points, columns=COLUMNS)


@pytest.fixture
def kmeans(points):
    """A clustering that knows no names."""
    return KMeans(3, n_init=3, random_state=0).fit(points.to_numpy())


def _spoil(model, x, cluster):
    x.zero_()
    cluster.zero_()
    return torch.arange(x.numel()).view(x.shape)


@pytest.mark.parametrize("kind", ["array", "tensor"])
def test_a_callable_that_changes_its_points_changes_nothing_else(points, kmeans, kind):
    X = points.to_numpy(copy=True) if kind == "array" else torch.tensor(points.to_numpy())
    expected = evaluate(kmeans, points.to_numpy(), ["neon", "ig"], repeats=2)
    found = evaluate(kmeans, X, {"spoil": _spoil, "neon": "neon", "ig": "ig"}, repeats=2)
    np.testing.assert_array_equal(found.auc[1:], expected.auc)
    np.testing.assert_array_equal(np.asarray(X), points.to_numpy())


def test_callables_may_return_any_array(points, kmeans, rng):
    relevance = rng.normal(size=points.shape)
    kinds = {"array": relevance, "table": pandas.DataFrame(relevance), "list": relevance.tolist()}
    methods = {name: lambda model, x, cluster, value=value: value for name, value in kinds.items()}
    found = evaluate(kmeans, points, {"given": relevance, **methods}, repeats=1)
    for row in found.auc[1:]:
        np.testing.assert_array_equal(row, found.auc[0])
    with pytest.raises(TypeError, match="must give relevance as an array or a tensor, got NoneType"):
        evaluate(kmeans, points, [lambda model, x, cluster: None])


def test_tables_must_have_columns_and_rows_in_order(points, kmeans):
    relevance, turned = explain(kmeans, points).relevance, COLUMNS[::-1]
    with pytest.raises(ValueError, match=r"mine must have the columns of X in their order, \['a'"):
        evaluate(kmeans, points, {"mine": relevance[turned]})
    with pytest.raises(ValueError, match=r"data must have the columns of X in their order, \['a'"):
        evaluate(kmeans, points, ["neon"], data=points[turned])
    with pytest.raises(ValueError, match="mine must have the rows of X in their order"):
        evaluate(kmeans, points, {"mine": relevance.iloc[::-1]})
    found = evaluate(kmeans, points, {"mine": relevance, "plain": relevance.to_numpy(), "neon": "neon"}, repeats=1)
    np.testing.assert_array_equal(found.auc[0], found.auc[2])
    np.testing.assert_array_equal(found.auc[1], found.auc[2])
    unnamed = pandas.DataFrame(relevance.to_numpy())
    np.testing.assert_array_equal(evaluate(kmeans, points, {"mine": unnamed}, repeats=1).auc[0], found.auc[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"random_state": None}, TypeError, "random_state must be a whole number, got None"),
        ({"bandwidth": "wide"}, ValueError, "bandwidth must be a number above 0, got 'wide'"),
        ({"bandwidth": True}, ValueError, "bandwidth must be a number above 0, got True"),
        ({"fill": np.zeros(4)}, ValueError, "fill must be 'kde' or a number, got array"),
        ({"methods": 3}, TypeError, "methods must be names, callables, or a mapping"),
        ({"methods": [np.zeros((40, 4))]}, TypeError, "methods must name relevance that is handed in"),
        ({"data": np.zeros((0, 4))}, ValueError, "data must have at least one point"),
        ({"data": np.zeros((0, 4)), "fill": 0}, ValueError, "data must have at least one point"),
    ],
)
def test_refusals_name_the_argument(points, kmeans, options, error, message):
    with pytest.raises(error, match=message):
        evaluate(kmeans, points, **options)
