"""A classifier of the labels, explained by TreeSHAP: what is done where a clustering cannot explain itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["forest_shap"]

#: Trees of the forest, and numbers that SHAP gives in one call.
TREES, NUMBERS = 100, 2**22


def forest_shap(data: Tensor, labels: Tensor, x: Tensor, cluster: Tensor, random_state: int = 0) -> Tensor:
    r"""SHAP values of a random forest that is trained on the labels of a clustering.

    The forest is scikit-learn's ``RandomForestClassifier`` of 100 trees, the explanation that of SHAP's
    ``TreeExplainer``, for the probability that the forest gives to one cluster. Relevance sums to that probability
    minus its mean over the points that the trees were grown on (Shapley values). This is none of the methods of the
    papers. Features are centred and scaled first: that changes no tree, but scikit-learn reads them in float32.

    Parameters
    ----------
    data : Tensor, shape (M, d)
        Points that the forest is trained on.
    labels : Tensor of int64, shape (M,)
        Their clusters.
    x : Tensor, shape (N, d)
        Points that are explained.
    cluster : Tensor of int64, shape (N,)
        The cluster whose probability is explained, for each of them.
    random_state : int
        Of the forest.

    Returns
    -------
    Tensor, shape (N, d)
        In the type of ``x``.

    Raises
    ------
    ValueError
        If points are not finite, or not (N, d), or a cluster that is to be explained has no points to learn from.
    ModuleNotFoundError
        If ``shap`` is not installed.

    Examples
    --------
    >>> points = torch.tensor([[0.0, 1.0], [0.1, 0.0], [5.0, 0.5], [5.1, 0.9]])
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> relevance = forest_shap(points, labels, points, labels)
    >>> relevance.abs().argmax(1).tolist()
    [0, 0, 0, 0]
    """
    from sklearn.ensemble import RandomForestClassifier

    if x.ndim != 2:
        raise ValueError(f"forest_shap needs points (N, d), got {tuple(x.shape)}")
    if data.ndim != 2 or data.shape[1] != x.shape[1]:
        raise ValueError(f"data must be points (M, {x.shape[1]}) like those explained, got {tuple(data.shape)}")
    if not bool(torch.isfinite(data).all()) or not bool(torch.isfinite(x).all()):
        raise ValueError("forest_shap needs finite points")
    unknown = sorted(set(cluster.tolist()) - set(labels.tolist()))
    if unknown:
        raise ValueError(f"forest_shap learns clusters from data, which must have points of cluster {unknown[0]}")
    shap = _shap()
    mean, scale = data.double().mean(0), data.double().std(0, correction=0)
    scale[~(scale > 0)] = 1

    def points(some: Tensor) -> Any:
        return ((some.double() - mean) / scale).float().cpu().numpy()

    forest = RandomForestClassifier(TREES, random_state=random_state)
    forest.fit(points(data), labels.cpu().numpy())
    explainer = shap.TreeExplainer(forest)
    column = np.searchsorted(forest.classes_, cluster.cpu().numpy())
    result = torch.empty_like(x)
    size = max(1, NUMBERS // (x.shape[1] * len(forest.classes_)))
    for start in range(0, len(x), size):
        rows = slice(start, start + size)
        values = explainer.shap_values(points(x[rows]))
        values = values.reshape(*x[rows].shape, -1)  # one cluster has no axis of its own
        own = values[np.arange(len(values)), :, column[rows]]
        result[rows] = torch.as_tensor(own).to(result)
    return result


def _shap() -> Any:
    try:
        import shap
    except ModuleNotFoundError as error:
        if error.name != "shap":
            raise
        raise ModuleNotFoundError(
            "forest_shap needs the package shap: pip install 'zennit-neon[shap]'", name="shap"
        ) from None
    return shap
