"""The rules of paper 2 for the parameter of a Gaussian kernel."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
from scipy.optimize import brentq
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.utils import check_array, check_random_state

from ..utils.arrays import Array

__all__ = ["RULES", "kernel_gamma"]

#: Names of the rules, and the share that each has if none is given.
RULES = {"self-similarity": 0.9, "neighbours": 0.5}
#: Distances of points that are kept (512 MB in float64), and points whose neighbours are looked at.
NUMBERS, ROWS = 2**26, 2000


def kernel_gamma(
    X: Any,
    rule: str = "self-similarity",
    n_clusters: int | None = None,
    *,
    share: float | None = None,
    random_state: Any = 0,
) -> float:
    r"""Find the parameter of the kernel :math:`\exp(-\gamma \|x - x'\|^2)` by a rule of paper 2.

    Parameters
    ----------
    X : array of shape (N, d)
        Points; at least two different ones.
    rule : {"self-similarity", "neighbours"}
        - ``"self-similarity"`` (Section 5.1): similarities of points with themselves are 90 % of all similarities
          between support vectors. These are the points, or with ``n_clusters`` 10 representatives a cluster, namely
          centers of k-means.
        - ``"neighbours"`` (Section 5.2): of the similarities of points with others, half fall to the nearest
          N / ``n_clusters`` of them. If there are more than 2,000 points, 2,000 are drawn and compared with all.
    n_clusters : int, optional
        Required by the rule of neighbours.
    share : float, optional
        Replaces the 90 % or the half; between 0 and 1.
    random_state : int, RandomState or None
        Of the representatives, or of the points that are drawn.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If X has no different points, no such rule is known, ``n_clusters`` is missing or out of range, ``share`` is not
        between 0 and 1 or so small that all gammas have more, or there are more points than distances can be kept of.

    Notes
    -----
    If many points are equal, the share may be out of reach. The result is then a gamma for which different points
    have no similarity.

    Examples
    --------
    >>> X = [[0.0], [1.0], [3.0]]
    >>> gamma = kernel_gamma(X)
    >>> similarity = np.exp(-gamma * (np.array(X) - np.array(X).T) ** 2)
    >>> float((3 / similarity.sum()).round(6))
    0.9
    """
    X = check_array(X, dtype=[np.float64, np.float32], ensure_min_samples=2, input_name="X")
    if rule not in RULES:
        raise ValueError(f"rule must be one of {list(RULES)}, got {rule!r}")
    share = RULES[rule] if share is None else share
    if isinstance(share, bool) or not isinstance(share, Real):
        raise ValueError(f"share must be a number between 0 and 1, got {share!r}")
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share!r}")
    if n_clusters is not None and (isinstance(n_clusters, bool) or not isinstance(n_clusters, Integral)):
        raise TypeError(f"n_clusters must be a whole number, got {n_clusters!r}")
    if n_clusters is not None and not 1 <= n_clusters <= len(X):
        raise ValueError(f"n_clusters must be from 1 to the {len(X)} points of X, got {n_clusters!r}")
    random = check_random_state(random_state)
    unit = _unit(X)
    X = X / unit
    X -= X.mean(0)  # distances of points far from zero would lose digits
    spread = _unit(X)
    X /= spread  # and squares of small and large numbers all of them
    if rule == "self-similarity":
        gamma = _self_similarity(X, n_clusters, share, random)
    elif n_clusters is None:
        raise ValueError("n_clusters must be given for the rule 'neighbours': N / n_clusters of them count as near")
    else:
        gamma = _neighbours(X, max(1, round(len(X) / n_clusters)), share, random)
    gamma = gamma / unit / unit / spread / spread
    if not 0 < gamma < np.inf:
        raise ValueError(f"gamma would be {gamma:g}, since X has numbers near {unit:g}: scale the features")
    return gamma


def _unit(X: Array) -> float:
    """A power of 2 of the size of the numbers of X, so that dividing by it does not round."""
    return float(np.ldexp(1.0, int(np.frexp(np.abs(X).max())[1]) - 1))


def _squared_distances(points: Array, others: Array) -> Array:
    """Squared distances (M, N). Small ones are exact too: those of equal points are 0."""
    squared: Array = euclidean_distances(points, others, squared=True)
    norms = (others * others).sum(1)
    for row, point in zip(squared, points, strict=True):
        near = row <= 1e-6 * (norms + point @ point)
        row[near] = ((others[near] - point) ** 2).sum(1)
    return squared


def _self_similarity(X: Array, n_clusters: int | None, share: float, random: Any) -> float:
    """The rule of Section 5.1."""
    if n_clusters is not None and 10 * n_clusters < len(X):
        X = KMeans(10 * n_clusters, n_init=1, random_state=random).fit(X).cluster_centers_
    if len(X) ** 2 > NUMBERS:
        raise ValueError(
            f"n_clusters must be given for {len(X)} points, as 10 points for each cluster then represent all"
        )
    squared = _squared_distances(X, X)
    return _solved(squared, lambda gamma: len(X) / float(np.exp(-gamma * squared).sum()), share)


def _neighbours(X: Array, count: int, share: float, random: Any) -> float:
    """The rule of Section 5.2."""
    if count >= len(X) - 1:
        raise ValueError(f"n_clusters must be larger: {count} neighbours are all of the {len(X)} points")
    if count / (len(X) - 1) >= share:
        raise ValueError(
            f"n_clusters must be larger: {count} nearest neighbours of {len(X) - 1} have more than a share of "
            f"{share:g} for any gamma; or give share= to kernel_gamma, and what it returns as gamma"
        )
    most = max(1, min(ROWS, NUMBERS // len(X)))
    rows = np.arange(len(X)) if len(X) <= most else random.choice(len(X), most, replace=False)
    squared = _squared_distances(X[rows], X)
    squared[np.arange(len(rows)), rows] = -1  # the first of each row, to be left out
    squared = np.partition(squared, [0, count], axis=1)[:, 1:].clip(min=0)
    nearest = squared.min()

    def near(gamma: float) -> float:
        similarity = np.exp(-gamma * (squared - nearest))
        return float(similarity[:, :count].sum() / similarity.sum())

    return _solved(squared, near, share)


def _solved(squared: Array, share_at: Callable[[float], float], share: float) -> float:
    """The gamma at which a growing share reaches its value, or the largest useful gamma if it never does."""
    apart = squared[squared > 0]
    if not len(apart):
        raise ValueError("X must have different points")
    low, high = np.log(1e-9 / apart.max()), np.log(1e3 / apart.min())
    if share_at(np.exp(high)) <= share:  # many equal points
        return float(np.exp(high))
    if share_at(np.exp(low)) >= share:
        raise ValueError(f"share={share:g} is exceeded by any gamma: give a larger one")
    return float(np.exp(brentq(lambda log_gamma: share_at(np.exp(log_gamma)) - share, low, high)))
