"""Represent many points by a few."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from ..utils.arrays import Array

__all__ = ["quantize"]


def quantize(points: Array, count: int, random: Any) -> tuple[Array, Array]:
    """Centers of k-means, or the points themselves if no more than ``count`` of them differ.

    Parameters
    ----------
    points : ndarray, shape (N, d)
        At least one.
    count : int
        Centers at most.
    random : RandomState

    Returns
    -------
    centers : ndarray, shape (p, d)
    sizes : ndarray of float, shape (p,)
        Points that each center represents; they sum to N.
    """
    different, multiplicity = np.unique(points, axis=0, return_counts=True)
    if len(different) <= count:
        return different, multiplicity.astype(float)
    kmeans = KMeans(count, n_init=1, random_state=random).fit(different, sample_weight=multiplicity)
    used, inverse = np.unique(kmeans.labels_, return_inverse=True)
    return kmeans.cluster_centers_[used], np.bincount(inverse, multiplicity)
