"""Kernel k-means with a Gaussian kernel, by expectation-maximisation that leaves each point out of its own centroid."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import KMeans
from sklearn.metrics.pairwise import euclidean_distances, rbf_kernel
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from ..utils.arrays import Array
from .bandwidth import RULES, kernel_gamma
from .quantize import quantize

__all__ = ["KernelKMeans"]

#: Numbers of a block of the kernel matrix (128 MB in float64).
BLOCK = 2**24


class KernelKMeans(ClusterMixin, BaseEstimator):
    r"""Kernel k-means (Appendix E of paper 2), of which :func:`zennit_neon.neuralize` makes a network.

    Points are compared with the centroids of the clusters in the feature space of the kernel
    :math:`K(x, x') = \exp(-\gamma \|x - x'\|^2)`, without the point itself: with a narrow kernel a
    point would otherwise stay in its cluster because of itself. Centroids have unit norm (spherical kernel k-means)
    or not.

    Parameters
    ----------
    n_clusters : int
    gamma : float, "self-similarity" or "neighbours", optional
        Kernel parameter, or the rule of paper 2 that sets it (:func:`zennit_neon.cluster.kernel_gamma`): similarities
        of points with themselves are the share ``self_similarity`` of all similarities between 10 representatives a
        cluster (Section 5.1), which is the rule if none is given; or half of the similarity of a point falls to its
        N / K nearest neighbours (Section 5.2).
    spherical : bool
        Whether centroids have unit norm.
    init : {"k-means", "random"} or array of shape (N,)
        Labels to start from: those of k-means, random ones, or given ones (such as the true labels).
    self_similarity : float
        Between 0 and 1.
    n_init : int
        Number of starts; the one with the smallest inertia is kept. Given labels are started from once.
    max_iter : int
        Iterations per start. After one iteration the labels are still the initial ones.
    memory : int
        Largest size of the kernel matrix in bytes; a larger one is computed in blocks in each iteration.
    random_state : int, RandomState or None
    progress : bool
        Show a progress bar.

    Attributes
    ----------
    labels_ : ndarray of shape (N,)
        Cluster of each point when it is left out of the centroids.
    inertia_ : float
        Sum of the squared distances in feature space to the centroids that leave the point out.
    gamma_ : float
    support_vectors_ : list of ndarray, shape (p_k, d)
        The members of each cluster, or after :meth:`reduce` their representatives.
    weights_ : list of ndarray, shape (p_k,)
        Of the support vectors: multiplicity over the norm of the centroid (or the size of the cluster).
    n_iter_ : int
    converged_ : bool

    Examples
    --------
    >>> from sklearn.datasets import make_moons
    >>> X, y = make_moons(200, noise=0.05, random_state=0)
    >>> model = KernelKMeans(2, gamma=20.0, init=y).fit(X)
    >>> [len(part) for part in model.reduce(10).support_vectors_]
    [10, 10]
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        gamma: float | str | None = None,
        spherical: bool = True,
        init: Any = "k-means",
        self_similarity: float = 0.9,
        n_init: int = 1,
        max_iter: int = 100,
        memory: int = 2**31,
        random_state: Any = None,
        progress: bool = False,
    ):
        self.n_clusters = n_clusters
        self.gamma = gamma
        self.spherical = spherical
        self.init = init
        self.self_similarity = self_similarity
        self.n_init = n_init
        self.max_iter = max_iter
        self.memory = memory
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: Any = None) -> KernelKMeans:
        """Cluster points (N, d).

        Raises
        ------
        ValueError
            If there are fewer different points than clusters, or a parameter is out of range.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        self._check(X)
        random = check_random_state(self.random_state)
        points = X - X.mean(0)  # distances of points far from zero would lose digits
        rule = "self-similarity" if self.gamma is None else self.gamma
        if isinstance(rule, str):
            share = self.self_similarity if rule == "self-similarity" else None
            rule = kernel_gamma(points, rule, self.n_clusters, share=share, random_state=random)
        self.gamma_ = float(rule)
        starts = 1 if not isinstance(self.init, str) else self.n_init
        rows = _Kernel(points, self.gamma_, self.memory)
        best: tuple[float, Array, int, bool] | None = None
        from tqdm.auto import tqdm

        with tqdm(total=starts * self.max_iter, desc="kernel k-means", disable=not self.progress) as bar:
            for _ in range(starts):
                found = self._start(rows, self._labels(points, random), random, bar)
                if best is None or found[0] < best[0]:
                    best = found
        assert best is not None
        self.inertia_, self.labels_, self.n_iter_, self.converged_ = best
        members = [X[self.labels_ == k] for k in range(self.n_clusters)]
        if empty := [k for k, part in enumerate(members) if not len(part)]:
            raise ValueError(
                f"clusters {empty} are empty: X has {len(np.unique(X, axis=0))} different points for "
                f"n_clusters={self.n_clusters}"
            )
        self._support(members, [np.ones(len(part)) for part in members])
        return self

    def predict(self, X: Any) -> Array:
        """Clusters of points (N, d), by the centroids of all members (Eq. 6, paper 1), as the neuralised model does."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        scores = np.empty((len(X), self.n_clusters))
        center = self.support_vectors_[0].mean(0)  # distances of points far from zero would lose digits
        X = X - center
        for k, (part, weight) in enumerate(zip(self.support_vectors_, self.weights_, strict=True)):
            for block in _blocks(len(X), len(part)):
                squared = euclidean_distances(X[block], part - center, squared=True)
                scores[block, k] = _log_sum(np.log(weight) - self.gamma_ * squared)
        labels: Array = scores.argmax(1)
        return labels

    def reduce(self, p: int) -> KernelKMeans:
        """Represent each cluster by at most ``p`` support vectors: centers of k-means in it, weighted by their size.

        Returns
        -------
        KernelKMeans
            A fitted copy.
        """
        check_is_fitted(self)
        if p < 1:
            raise ValueError(f"p must be at least 1, got {p}")
        random = check_random_state(self.random_state)
        sets, counts = [], []
        for part in self.support_vectors_:
            points, sizes = quantize(part, p, random)
            sets.append(points)
            counts.append(sizes)
        reduced: KernelKMeans = clone(self)
        for name in ("gamma_", "labels_", "inertia_", "n_iter_", "converged_", "n_features_in_", "feature_names_in_"):
            if hasattr(self, name):
                setattr(reduced, name, getattr(self, name))
        reduced._support(sets, counts)
        return reduced

    def _support(self, sets: list[Array], counts: list[Array]) -> None:
        """Support vectors and their weights, from points and how many each represents."""
        self.support_vectors_, self.weights_ = sets, []
        for part, count in zip(sets, counts, strict=True):
            norm = count.sum()
            if self.spherical:
                part = part - part.mean(0)
                total = 0.0
                for block in _blocks(len(part), len(part)):
                    total += float(count[block] @ (rbf_kernel(part[block], part, gamma=self.gamma_) @ count))
                norm = np.sqrt(total)
            self.weights_.append(count / norm)

    def _check(self, X: Array) -> None:
        """Refuse parameters that are out of range."""
        if self.n_clusters < 1:
            raise ValueError(f"n_clusters must be at least 1, got {self.n_clusters}")
        if len(X) < self.n_clusters:
            raise ValueError(f"n_clusters must be at most n_samples={len(X)}, got {self.n_clusters}")
        if isinstance(self.gamma, str):
            if self.gamma not in RULES:
                raise ValueError(f"gamma must be a number above 0 or one of {list(RULES)}, got {self.gamma!r}")
        elif self.gamma is not None and not 0 < self.gamma < np.inf:
            raise ValueError(f"gamma must be a number above 0, got {self.gamma!r}")
        if not 0 < self.self_similarity < 1:
            raise ValueError(f"self_similarity must be between 0 and 1, got {self.self_similarity!r}")
        for name in ("n_init", "max_iter"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if isinstance(self.init, str) and self.init not in ("k-means", "random"):
            raise ValueError(f"init must be 'k-means', 'random' or labels, got {self.init!r}")

    def _labels(self, X: Array, random: Any) -> Array:
        """Labels to start from, 0 to K - 1."""
        if isinstance(self.init, str):
            if self.init == "random":
                return random.randint(self.n_clusters, size=len(X))
            return KMeans(self.n_clusters, n_init=1, random_state=random).fit(X).labels_
        given = np.asarray(self.init)
        names, labels = np.unique(given, return_inverse=True)
        if given.shape != (len(X),) or len(names) != self.n_clusters:
            raise ValueError(
                f"init must hold {self.n_clusters} different labels in shape ({len(X)},), "
                f"got {len(names)} in {given.shape}"
            )
        return labels

    def _start(self, kernel: _Kernel, labels: Array, random: Any, bar: Any) -> tuple[float, Array, int, bool]:
        """Iterate from labels. Returns the best inertia, its labels, the number of iterations and ``converged``.

        If a labelling repeats, the iteration stops and the best is returned.
        """
        best, seen = (np.inf, labels), set()
        for iteration in range(1, self.max_iter + 1):
            distance = self._distances(kernel, labels)
            inertia = float(distance[np.arange(len(labels)), labels].clip(max=2).sum())
            if inertia < best[0]:
                best = (inertia, labels)
            fresh = self._filled(distance, distance.argmin(1), random)
            bar.update(1)
            if (fresh == labels).all():
                return inertia, labels, iteration, True
            labels = fresh
            key = labels.astype(np.int32).tobytes()
            if key in seen:
                break
            seen.add(key)
        return (*best, iteration, False)

    def _distances(self, kernel: _Kernel, labels: Array) -> Array:
        """Squared distances in feature space to centroids that leave the point out (Appendix E, paper 2)."""
        member = np.zeros((len(labels), self.n_clusters), dtype=kernel.X.dtype)
        member[np.arange(len(labels)), labels] = 1
        sums = kernel.times(member)
        total = (member * sums).sum(0) - member * (2 * sums - 1)  # of all pairs without the point
        count = member.sum(0) - member
        sums = sums - member
        empty = count < 0.5
        if self.spherical:
            distance = 2 - 2 * sums / np.sqrt(np.where(empty, 1, total).clip(min=np.finfo(sums.dtype).tiny))
        else:
            size = np.where(empty, 1, count)
            distance = 1 - 2 * sums / size + total / size**2
        return np.where(empty, np.inf, distance)

    def _filled(self, distance: Array, labels: Array, random: Any) -> Array:
        """Give each empty cluster the point farthest from its own cluster, unless it is the only one there."""
        far = distance[np.arange(len(labels)), labels]
        for k in np.setdiff1d(np.arange(self.n_clusters), labels):
            count = np.bincount(labels, minlength=self.n_clusters)
            labels[np.where(count[labels] > 1, far, -np.inf).argmax()] = k
        return labels


class _Kernel:
    """The kernel matrix of points, kept if it fits, else computed block by block."""

    def __init__(self, X: Array, gamma: float, memory: int):
        self.X, self.gamma = X, gamma
        self._whole = rbf_kernel(X, gamma=gamma) if X.itemsize * len(X) ** 2 <= memory else None

    def times(self, right: Array) -> Array:
        """Product with (N, K)."""
        if self._whole is not None:
            product: Array = self._whole @ right
            return product
        out = np.empty_like(right)
        for block in _blocks(len(self.X), len(self.X)):
            out[block] = rbf_kernel(self.X[block], self.X, gamma=self.gamma) @ right
        return out


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows such that a block with so many columns is small."""
    size = max(1, BLOCK // max(1, columns))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def _log_sum(values: Array) -> Array:
    """Logarithm of the sum of the exponentials of each row."""
    top = values.max(1)
    result: Array = top + np.log(np.exp(values - top[:, None]).sum(1))
    return result
