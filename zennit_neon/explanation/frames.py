"""Relevance as a table of pandas, or as what SHAP takes; both are imported where they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.arrays import Array
from ..utils.labels import NOISE

if TYPE_CHECKING:
    import pandas

__all__ = ["frame_of", "mean_by_cluster", "shap_of"]


def mean_by_cluster(relevance: Array, cluster: Array, labels: Sequence[Any], columns: list[str]) -> pandas.DataFrame:
    """Mean relevance (K, d) over the points (M, d) of each cluster; NaN where it has none."""
    import pandas

    relevance, cluster = relevance[cluster != NOISE], cluster[cluster != NOISE]
    total = np.zeros((len(labels), relevance.shape[1]))
    np.add.at(total, cluster, relevance)
    count = np.bincount(cluster, minlength=len(labels)).astype(float)
    count[count == 0] = np.nan
    index = pandas.Index(list(labels), name="cluster", tupleize_cols=False)
    return pandas.DataFrame(total / count[:, None], index=index, columns=columns)


def frame_of(
    relevance: Array, columns: list[str], index: pandas.Index | None, numbers: Mapping[str, Array]
) -> pandas.DataFrame:
    """Relevance (M, d) after columns of other ``numbers`` (M,), whose names must not be those of features."""
    import pandas

    frame = pandas.DataFrame(relevance, index=index, columns=columns)
    for place, (name, values) in enumerate(numbers.items()):
        while name in frame.columns:
            name += "_"
        frame.insert(place, name, values)
    return frame


def shap_of(relevance: Array, data: Array, columns: list[str]) -> Any:
    """A ``shap.Explanation`` of points (M, d)."""
    import shap

    return shap.Explanation(values=relevance, base_values=np.zeros(len(relevance)), data=data, feature_names=columns)
