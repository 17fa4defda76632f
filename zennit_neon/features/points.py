"""Points from maps of features: a uniform sample of all locations, and its centroids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..exceptions import TooFewClustersError
from ..utils.arrays import Array

__all__ = ["kmeans_centroids", "sampled"]


def kmeans_centroids(points: Tensor, n_clusters: int, n_init: int, random: Any) -> Array:
    """Centroids by scikit-learn's k-means."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(points) < n_clusters:
        raise TooFewClustersError(
            f"n_clusters must be at most the number of locations, {len(points)}, got {n_clusters}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            kmeans = KMeans(n_clusters, n_init=n_init, random_state=random).fit(points.numpy())
        except ConvergenceWarning:
            raise TooFewClustersError(
                f"k-means finds fewer than {n_clusters} different clusters of features; use a smaller n_clusters"
            ) from None
    centers: Array = kmeans.cluster_centers_
    return centers


def sampled(maps: Iterable[Tensor], most: int, random: Any) -> Tensor:
    """A uniform sample of the points (M, d) of all images, in one pass: those with the smallest of random keys."""
    kept: list[Tensor] = []
    keys: list[Array] = []
    held = 0
    for found in maps:
        rows = found.movedim(1, -1).flatten(0, -2).float().cpu()
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("images must be finite, and so must their features, but some are NaN or infinite")
        kept.append(rows)
        keys.append(random.random_sample(len(rows)))
        held += len(rows)
        if held > 1.25 * most:  # not for each image, as it copies the sample
            kept, keys = _smallest(kept, keys, most)
            held = most
    return _smallest(kept, keys, most)[0][0]


def _smallest(kept: list[Tensor], keys: list[Array], most: int) -> tuple[list[Tensor], list[Array]]:
    """Points of the smallest keys, in their order."""
    points, values = torch.cat(kept), np.concatenate(keys)
    if len(points) <= most:
        return [points], [values]
    chosen = np.sort(np.argpartition(values, most)[:most])
    return [points[torch.from_numpy(chosen)]], [values[chosen]]
