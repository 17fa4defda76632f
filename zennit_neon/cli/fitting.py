"""Clusterings by their name, for the command line: standardise a table, and fit one with sensible defaults."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cluster.elbow import elbow
from ..exceptions import NoElbowError
from ..utils.arrays import Array

if TYPE_CHECKING:
    import pandas

__all__ = ["MODELS", "Options", "fit"]

#: Names of the clusterings that can be asked for.
MODELS = ("kmeans", "kernel", "dbscan", "hdbscan", "agglomerative", "spectral")

#: Those that find their number of clusters themselves.
BY_DENSITY = ("dbscan", "hdbscan")


@dataclass(frozen=True)
class Options:
    """What can be chosen of a clustering.

    Parameters
    ----------
    clusters : int, optional
        Number of clusters; by the elbow of the inertia of k-means if not given.
    eps : float, optional
        Radius of DBSCAN; by the knee of the distances to the neighbour of order ``min_samples`` if not given.
    min_samples : int
        Points in the neighbourhood of a core point (DBSCAN, HDBSCAN).
    min_cluster_size : int, optional
        Smallest cluster of HDBSCAN; one in fifty points, and no fewer than 5, if not given.
    support : int
        Support vectors of a cluster, for kernel k-means.
    seed : int
    """

    clusters: int | None = None
    eps: float | None = None
    min_samples: int = 5
    min_cluster_size: int | None = None
    support: int = 20
    seed: int = 0


def fit(frame: pandas.DataFrame, model: str, options: Options, progress: bool = False) -> tuple[Any, str]:
    """Standardise a table and cluster it.

    Parameters
    ----------
    frame : DataFrame, shape (N, d)
    model : str
        One of ``MODELS``.
    options : Options
    progress : bool
        Show progress bars.

    Returns
    -------
    pipeline : sklearn.pipeline.Pipeline
        Fitted; kernel k-means reduced to its support vectors.
    description : str
        What was chosen, in words.

    Raises
    ------
    ValueError
        If an option is out of range, not one of this model, or no clusters come out.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(frame, model, options)
    points = StandardScaler().fit_transform(frame)
    count, how = options.clusters, ""
    if count is None and model not in BY_DENSITY:
        try:
            count, how = elbow(points, random_state=options.seed), " by the elbow"
        except NoElbowError as error:
            raise NoElbowError(error.reason, "give --clusters K") from None
    clustering, name = _build(points, model, count, options, progress)
    pipeline = make_pipeline(StandardScaler(), clustering)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # that is what clusters are
        try:
            pipeline.fit(frame)
        except ConvergenceWarning:
            raise ValueError(f"{model} finds fewer than {count} different clusters; use a smaller --clusters") from None
    found = len({int(label) for label in clustering.labels_ if label >= 0})
    if found < 2:
        change = "--eps or --min-samples" if model == "dbscan" else "--min-cluster-size or --min-samples"
        what = "no cluster" if found == 0 else "one cluster"
        raise ValueError(f"{name} finds {what}, and two are needed to explain one; change {change}")
    if model == "kernel":
        pipeline = make_pipeline(pipeline.steps[0][1], clustering.reduce(options.support))
    return pipeline, f"{found} clusters{how} ({name})"


def _check(frame: pandas.DataFrame, model: str, options: Options) -> None:
    """Refuse options that make no sense for a model."""
    if model not in MODELS:
        raise ValueError(f"--model must be one of {', '.join(MODELS)}, got {model!r}")
    different = len(frame.drop_duplicates())
    if options.clusters is not None:
        if model in BY_DENSITY:
            raise ValueError(f"--clusters is not an option of {model}, which finds the number of clusters itself")
        if not 2 <= options.clusters <= different:
            raise ValueError(
                f"--clusters must be from 2 to the number of different rows, {different}, got {options.clusters}"
            )
    if options.eps is not None and model != "dbscan":
        raise ValueError(f"--eps is an option of dbscan, not of {model}")
    if options.eps is not None and not options.eps > 0:
        raise ValueError(f"--eps must be above 0, got {options.eps}")
    if options.min_cluster_size is not None and model != "hdbscan":
        raise ValueError(f"--min-cluster-size is an option of hdbscan, not of {model}")
    if model in BY_DENSITY and len(frame) <= options.min_samples:
        raise ValueError(f"--min-samples must be below the number of rows, {len(frame)}, got {options.min_samples}")


def _build(points: Array, model: str, count: int | None, options: Options, progress: bool) -> tuple[Any, str]:
    """An estimator that is not fitted, and its name with what was chosen."""
    from sklearn import cluster

    if model == "kernel":
        from ..cluster import KernelKMeans

        return KernelKMeans(count or 2, random_state=options.seed, progress=progress), "kernel k-means"
    if model == "dbscan":
        eps = options.eps if options.eps is not None else _radius(points, options.min_samples)
        return cluster.DBSCAN(eps=eps, min_samples=options.min_samples), f"DBSCAN with eps {eps:.4g}"
    if model == "hdbscan":
        size = options.min_cluster_size or max(5, len(points) // 50)
        found = cluster.HDBSCAN(min_cluster_size=size, min_samples=options.min_samples, copy=True)
        return found, f"HDBSCAN of at least {size} points"
    if model == "agglomerative":
        return cluster.AgglomerativeClustering(count), "agglomerative clustering"
    if model == "spectral":
        found = cluster.SpectralClustering(
            count,
            affinity="nearest_neighbors",
            n_neighbors=min(10, len(points) - 1),
            random_state=options.seed,
            assign_labels="cluster_qr",
        )
        return found, "spectral clustering"
    return cluster.KMeans(count, n_init=10, random_state=options.seed), "k-means"


def _radius(points: Array, order: int) -> float:
    """Where the sorted distances to neighbours begin to rise steeply, or below that if it makes one cluster."""
    from kneed import KneeLocator
    from sklearn.cluster import DBSCAN
    from sklearn.neighbors import NearestNeighbors

    distance = np.sort(NearestNeighbors(n_neighbors=order).fit(points).kneighbors()[0][:, -1])
    if distance[0] == distance[-1]:
        raise ValueError("all points have their neighbours at the same distance; give --eps")
    knee = KneeLocator(range(len(distance)), distance, curve="convex", direction="increasing").knee
    start = len(distance) - 1 if knee is None else int(knee)
    for place in np.linspace(start, 0, 20).astype(int):
        radius = float(distance[place])
        if radius > 0 and DBSCAN(eps=radius, min_samples=order).fit(points).labels_.max() >= 1:
            return radius
    raise ValueError("no radius below the knee of the distances between neighbours gives two clusters; give --eps")
