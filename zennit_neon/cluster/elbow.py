"""How many clusters? The elbow of the k-means inertia."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..exceptions import NoElbowError

__all__ = ["elbow"]


def elbow(X: Any, most: int = 10, random_state: int | None = 0) -> int:
    """Number of clusters at which the inertia of k-means stops falling steeply (the knee of ``kneed``).

    Parameters
    ----------
    X : array or DataFrame, shape (N, d)
    most : int
        Largest number of clusters to try.
    random_state : int, optional

    Returns
    -------
    int
        At least 2.

    Raises
    ------
    NoElbowError
        If there is no elbow, or fewer than 3 different points.
    """
    from kneed import KneeLocator
    from sklearn.cluster import KMeans

    values = np.asarray(X, dtype=np.float64)
    most = min(most, len(np.unique(values, axis=0)))
    if most < 3:
        raise NoElbowError("fewer than 3 different points have no elbow")
    sizes = range(1, most + 1)
    inertia = [KMeans(k, n_init=10, random_state=random_state).fit(values).inertia_ for k in sizes]
    knee = KneeLocator(sizes, inertia, curve="convex", direction="decreasing").knee
    if knee is None or knee < 2:
        raise NoElbowError(f"the inertia of 1 to {most} clusters has no elbow")
    return int(knee)
