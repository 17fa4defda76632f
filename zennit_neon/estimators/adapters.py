"""Clusterings with an exact network: one small adapter per family of estimators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from torch import Tensor, nn

from ..exceptions import InexactError
from ..heads.affine import Affine
from ..heads.base import Head
from ..heads.hierarchy import NeuralizedHierarchy
from ..heads.kernel import NeuralizedKernelKMeans
from ..heads.kmeans import NeuralizedKMeans
from ..heads.softmax import NeuralizedSoftmax
from ..utils.arrays import is_sparse
from ..utils.registry import Registry
from .steps import fitted, steps_of

__all__ = ["centers_of", "register", "to_head"]

_REGISTRY: Registry[Head] = Registry()
register = _REGISTRY.register


def to_head(clustering: Any) -> Head:
    """The head of a clustering.

    Raises
    ------
    InexactError
        If there is no network that equals it.
    TypeError, ValueError
        If nothing is known about its type, or it is not fitted.
    """
    adapter = _REGISTRY.find(clustering)
    if adapter is not None:
        head = adapter(clustering)
        if not isinstance(head, Head):
            raise TypeError(
                f"the function that neuralize.register has for a {type(clustering).__name__} must return a head, such "
                f"as NeuralizedKMeans(points), got a {type(head).__name__}"
            )
        return head
    for kind in type(clustering).__mro__:
        if (reason := _REFUSED.get(kind.__name__)) and kind.__module__.startswith("sklearn."):
            refusal = ValueError if kind.__name__ == "FeatureAgglomeration" else InexactError
            raise refusal(f"{kind.__name__} cannot be neuralised exactly: {reason}")
    if isinstance(clustering, (np.ndarray, Tensor, list, tuple)) or hasattr(clustering, "__array__"):
        return NeuralizedKMeans(clustering, **_named_rows(clustering))
    if is_sparse(clustering):
        return NeuralizedKMeans(clustering)
    raise TypeError(
        f"clustering must be a fitted clustering, a Pipeline that ends in one, centroids (K, d) or a head, "
        f"got {type(clustering).__name__}; known are {_REGISTRY.names}, and what is added with "
        "neuralize.register"
    )


@_REGISTRY.register
def _(clustering: Head) -> Head:
    return clustering


@_REGISTRY.register(nn.Linear)
@_REGISTRY.register(nn.Conv2d)
def _(clustering: nn.Module) -> Head:
    return NeuralizedSoftmax(clustering)


@_REGISTRY.register(nn.Module)
def _(clustering: nn.Module) -> Head:
    """Deep clusterings, by the names that their public implementations use."""
    centers = centers_of(clustering)
    if centers is not None:
        return NeuralizedKMeans(centers)
    if isinstance(clustering, nn.ModuleList) or hasattr(clustering, "cluster_head"):
        return NeuralizedSoftmax.from_scan(clustering)
    inside = [name for name, module in clustering.named_modules() if centers_of(module) is not None]
    raise TypeError(
        f"clustering is a {type(clustering).__name__}, of which nothing is known: give its cluster layer "
        + (f"({inside[0]!r} has centroids)" if inside else "(a torch Linear), or its centroids (K, d)")
        + ", and put the layers before it into a trunk"
    )


def centers_of(module: nn.Module) -> Tensor | None:
    """Centroids (K, d) of a distance layer."""
    found = (getattr(module, name, None) for name in ("cluster_centers", "centroids", "centers"))
    return next((value for value in found if isinstance(value, Tensor) and value.ndim == 2), None)


def _names(estimator: Any) -> list[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def _named_rows(centroids: Any) -> dict[str, Any]:
    """Names of features and clusters that a DataFrame of centroids has."""
    columns, index = getattr(centroids, "columns", None), getattr(centroids, "index", None)
    if columns is None:
        return {}
    named = {"feature_names": list(columns)} if all(isinstance(name, str) for name in columns) else {}
    if index is None or list(index) == list(range(len(index))):
        return named
    return {**named, "labels": list(index)}


def _nearest_center(estimator: Any) -> NeuralizedKMeans:
    return NeuralizedKMeans(fitted(estimator, "cluster_centers_"), feature_names=_names(estimator))


def _affinity_propagation(estimator: Any) -> NeuralizedKMeans:
    if estimator.affinity != "euclidean":
        raise InexactError(
            f"AffinityPropagation with affinity={estimator.affinity!r} has no distances to points: use 'euclidean'"
        )
    if len(fitted(estimator, "cluster_centers_")) == 0:
        raise ValueError("AffinityPropagation did not converge: it has no cluster centers; change damping or max_iter")
    return _nearest_center(estimator)


def _nearest_centroid(estimator: Any) -> NeuralizedKMeans:
    centroids = fitted(estimator, "centroids_")
    if estimator.metric != "euclidean":
        raise InexactError(f"NearestCentroid with metric={estimator.metric!r} is not linear: use 'euclidean'")
    priors = np.asarray(getattr(estimator, "class_prior_", np.full(len(centroids), 1 / len(centroids))))
    if not np.allclose(priors, priors[0]):
        raise InexactError(f"NearestCentroid with unequal priors {priors} does not predict the nearest centroid")
    return NeuralizedKMeans(centroids, labels=estimator.classes_.tolist(), feature_names=_names(estimator))


def _kernel_kmeans(estimator: Any) -> NeuralizedKernelKMeans:
    sets = fitted(estimator, "support_vectors_")
    return NeuralizedKernelKMeans(sets, estimator.gamma_, estimator.weights_, feature_names=_names(estimator))


def _birch(estimator: Any) -> NeuralizedKernelKMeans:
    """The cluster of the nearest subcluster: support vectors with a minimum in place of a soft minimum."""
    centers, labels = fitted(estimator, "subcluster_centers_"), np.asarray(fitted(estimator, "subcluster_labels_"))
    names = np.unique(labels)
    sets = [centers[labels == name] for name in names]
    return NeuralizedKernelKMeans(sets, math.inf, labels=names.tolist(), feature_names=_names(estimator))


def _bisecting(estimator: Any) -> NeuralizedHierarchy:
    """The tree of splits that ``predict`` walks down."""
    tree = fitted(estimator, "_bisecting_tree")
    mean = getattr(estimator, "_X_mean", 0.0)
    centers: list[Any] = []
    paths: dict[int, list[tuple[int, bool]]] = {}
    waiting: list[tuple[Any, list[tuple[int, bool]]]] = [(tree, [])]
    while waiting:
        node, path = waiting.pop()
        if node.left is None:
            paths[node.label] = path
            continue
        split = len(centers) // 2
        centers += [node.left.center + mean, node.right.center + mean]
        waiting += [(node.left, [*path, (split, True)]), (node.right, [*path, (split, False)])]
    if len(paths) < 2:
        raise ValueError(f"a clustering needs at least 2 clusters to be explained, got {len(paths)}")
    return NeuralizedHierarchy(centers, [paths[k] for k in sorted(paths)], feature_names=_names(estimator))


def _gaussian_mixture(estimator: Any) -> NeuralizedKernelKMeans:
    """Components with one covariance: distances in whitened coordinates, less the logarithm of the prior."""
    root = np.asarray(fitted(estimator, "precisions_cholesky_"), dtype=np.float64)
    kind = estimator.covariance_type
    if kind != "tied":
        if not np.allclose(root, root[:1], rtol=1e-9, atol=0):
            raise InexactError(
                f"GaussianMixture with different covariances (covariance_type={kind!r}) has clusters that are "
                "separated by quadrics; covariance_type='tied' is exact"
            )
        root = np.full(estimator.means_.shape[1], root[0]) if kind == "spherical" else root[0]
    whiten = Affine(root) if root.ndim == 1 else Affine(root.T)
    means = estimator.means_ * root if root.ndim == 1 else estimator.means_ @ root
    weights = estimator.weights_[:, None]
    return NeuralizedKernelKMeans(means[:, None], 0.5, weights, steps=[whiten], feature_names=_names(estimator))


def _faiss(estimator: Any) -> NeuralizedKMeans:
    return NeuralizedKMeans(fitted(estimator, "centroids"))


def _pipeline(pipeline: Any) -> Head:
    steps = steps_of(pipeline)
    return to_head(pipeline.steps[-1][1]).with_preprocessing(steps, _names(pipeline))


for _name, _adapter in {
    "sklearn.KMeans": _nearest_center,
    "sklearn.MiniBatchKMeans": _nearest_center,
    "sklearn.MeanShift": _nearest_center,
    "sklearn.AffinityPropagation": _affinity_propagation,
    "sklearn.Birch": _birch,
    "sklearn.BisectingKMeans": _bisecting,
    "sklearn.GaussianMixture": _gaussian_mixture,
    "sklearn.NearestCentroid": _nearest_centroid,
    "sklearn.Pipeline": _pipeline,
    "faiss.Kmeans": _faiss,
    "zennit_neon.KernelKMeans": _kernel_kmeans,
}.items():
    _REGISTRY.register(_name, _adapter)

_REFUSED = {
    "FeatureAgglomeration": "it clusters features, not points",
    "DBSCAN": "it has no rule for new points",
    "HDBSCAN": "it has no rule for new points",
    "OPTICS": "it has no rule for new points",
    "AgglomerativeClustering": "it has no rule for new points",
    "SpectralClustering": "it has no rule for new points",
    "BayesianGaussianMixture": "its clusters are separated by quadrics, not by the nearest centroid",
}
