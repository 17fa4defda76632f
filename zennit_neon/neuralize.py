"""From a clustering to a head: one small adapter per family of estimators."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from .affine import Affine, RowNorm
from .heads import Head, NeuralizedKMeans
from .kernel import NeuralizedKernelKMeans
from .softmax import NeuralizedSoftmax

__all__ = ["neuralize", "affine_step", "centers_of"]

Made = TypeVar("Made")
Adapters = dict[tuple[str, str], Callable[[Any], Made]]


def neuralize(clustering: Any) -> Head:
    """Rewrite a clustering as an equivalent neural network, without retraining (paper 1, Section II).

    Parameters
    ----------
    clustering
        One of

        - a fitted scikit-learn ``KMeans``, ``MiniBatchKMeans``, ``MeanShift``, ``AffinityPropagation`` (euclidean) or
          ``NearestCentroid`` (euclidean, uniform priors);
        - a fitted ``Pipeline`` that ends in one of them, whose other steps are affine (``StandardScaler``,
          ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler``, ``PCA``, ``TruncatedSVD``, feature selection) or a
          ``Normalizer``. Relevance then belongs to the features that go into the pipeline;
        - a fitted ``Birch`` (the nearest of its subclusters), or a ``GaussianMixture`` whose components have one
          covariance (``covariance_type="tied"``);
        - a fitted :class:`~zennit_neon.KernelKMeans`, best after ``reduce``;
        - a trained ``faiss.Kmeans``;
        - centroids: an array, a tensor, or a list of them, shape (K, d);
        - a ``torch.nn.Linear`` (or 1 x 1 convolution) that gives cluster logits; of a SCAN model with its
          ``cluster_head``, the head alone (:meth:`NeuralizedSoftmax.from_scan` chooses among several);
        - a module with ``cluster_centers``, ``centroids`` or ``centers`` (K, d), such as the Student-t assignment of
          DEC, which ranks clusters by distance;
        - a head, which is returned as it is;
        - anything that was registered with ``neuralize.register``.

    Returns
    -------
    Head
        ``head(x).argmax(1)`` equals ``clustering.predict(x)``.

    Raises
    ------
    ValueError
        If the estimator is not fitted, or can not be rewritten exactly; the message says why.
    TypeError
        If nothing is known about the type of ``clustering``.

    Examples
    --------
    >>> import torch
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = load_wine().data
    >>> pipeline = make_pipeline(StandardScaler(), KMeans(3, random_state=0)).fit(X)
    >>> head = neuralize(pipeline)
    >>> bool((head(torch.tensor(X)).argmax(1).numpy() == pipeline.predict(X)).all())
    True

    A class of one's own:

    >>> class Prototypes:
    ...     def __init__(self, points):
    ...         self.points = points
    >>> @neuralize.register(Prototypes)
    ... def _(clustering):
    ...     return NeuralizedKMeans(clustering.points)
    >>> neuralize(Prototypes([[0.0], [1.0]])).n_clusters
    2
    """
    return _to_head(clustering)


def affine_step(transformer: Any) -> Affine | RowNorm | None:
    """Write a fitted transformer as an affine map or a row norm; None for a step that does nothing.

    Raises
    ------
    ValueError
        If the step is neither; register one of your own with ``affine_step.register``.
    """
    return _to_step(transformer)


@functools.singledispatch
def _to_head(clustering: Any) -> Head:
    adapter = _lookup(clustering, _CLUSTERINGS)
    if adapter is not None:
        return adapter(clustering)
    for kind in type(clustering).__mro__:
        if (reason := _REFUSED.get(kind.__name__)) and kind.__module__.startswith("sklearn."):
            raise ValueError(f"{kind.__name__} can not be neuralised exactly: {reason}")
    if isinstance(clustering, (np.ndarray, Tensor, list, tuple)) or hasattr(clustering, "__array__"):
        return NeuralizedKMeans(clustering)
    raise TypeError(
        f"clustering must be a fitted clustering, a Pipeline that ends in one, centroids (K, d) or a head, "
        f"got {type(clustering).__name__}; known are {sorted({name for _, name in _CLUSTERINGS})}, and what is added "
        "with neuralize.register"
    )


@_to_head.register
def _(clustering: Head) -> Head:
    return clustering


@_to_head.register(nn.Linear)
@_to_head.register(nn.Conv2d)
def _(clustering: nn.Module) -> Head:
    return NeuralizedSoftmax(clustering)


@_to_head.register(nn.Module)
def _(clustering: nn.Module) -> Head:
    """Deep clusterings, by the names that their public implementations use."""
    centers = centers_of(clustering)
    if centers is not None:
        return NeuralizedKMeans(centers)
    if isinstance(clustering, nn.ModuleList) or hasattr(clustering, "cluster_head"):
        try:
            return NeuralizedSoftmax.from_scan(clustering)
        except ValueError as error:
            if "head must be chosen" in str(error):
                raise ValueError(f"{error}, with NeuralizedSoftmax.from_scan(..., head=...)") from None
            raise
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


@functools.singledispatch
def _to_step(transformer: Any) -> Affine | RowNorm | None:
    if transformer is None or (isinstance(transformer, str) and transformer == "passthrough"):
        return None
    adapter = _lookup(transformer, _STEPS)
    if adapter is None:
        raise ValueError(
            f"the step {type(transformer).__name__} is not known to be affine, so relevance can not be carried "
            f"through it exactly; known are {sorted({name for _, name in _STEPS})}, and what is added with "
            "affine_step.register"
        )
    return adapter(transformer)


neuralize.register = _to_head.register  # type: ignore[attr-defined]
affine_step.register = _to_step.register  # type: ignore[attr-defined]


def _lookup(estimator: Any, table: Adapters[Made]) -> Callable[[Any], Made] | None:
    """Adapter for the class of an estimator or the nearest base class; no library is imported for it."""
    keys = ((kind.__module__.partition(".")[0], kind.__name__) for kind in type(estimator).__mro__)
    return next((table[key] for key in keys if key in table), None)


def _fitted(estimator: Any, attribute: str) -> Any:
    """A fitted attribute of an estimator, or ``ValueError`` when it is not there yet."""
    value = getattr(estimator, attribute, None)
    if value is None:
        raise ValueError(f"{type(estimator).__name__} is not fitted: it has no {attribute}; call fit first")
    return value


def _names(estimator: Any) -> list[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


def _nearest_center(estimator: Any) -> NeuralizedKMeans:
    return NeuralizedKMeans(_fitted(estimator, "cluster_centers_"), feature_names=_names(estimator))


def _affinity_propagation(estimator: Any) -> NeuralizedKMeans:
    if estimator.affinity != "euclidean":
        raise ValueError(
            f"AffinityPropagation with affinity={estimator.affinity!r} has no distances to points: use 'euclidean'"
        )
    if len(_fitted(estimator, "cluster_centers_")) == 0:
        raise ValueError("AffinityPropagation did not converge: it has no cluster centers; change damping or max_iter")
    return _nearest_center(estimator)


def _nearest_centroid(estimator: Any) -> NeuralizedKMeans:
    centroids = _fitted(estimator, "centroids_")
    if estimator.metric != "euclidean":
        raise ValueError(f"NearestCentroid with metric={estimator.metric!r} is not linear: use 'euclidean'")
    priors = np.asarray(getattr(estimator, "class_prior_", np.full(len(centroids), 1 / len(centroids))))
    if not np.allclose(priors, priors[0]):
        raise ValueError(f"NearestCentroid with unequal priors {priors} does not predict the nearest centroid")
    return NeuralizedKMeans(centroids, labels=estimator.classes_.tolist(), feature_names=_names(estimator))


def _kernel_kmeans(estimator: Any) -> NeuralizedKernelKMeans:
    sets = _fitted(estimator, "support_vectors_")
    return NeuralizedKernelKMeans(sets, estimator.gamma_, estimator.weights_, feature_names=_names(estimator))


def _birch(estimator: Any) -> NeuralizedKernelKMeans:
    """The cluster of the nearest subcluster: support vectors with a minimum in place of a soft minimum."""
    centers, labels = _fitted(estimator, "subcluster_centers_"), np.asarray(_fitted(estimator, "subcluster_labels_"))
    names = np.unique(labels)
    sets = [centers[labels == name] for name in names]
    return NeuralizedKernelKMeans(sets, math.inf, labels=names.tolist(), feature_names=_names(estimator))


def _gaussian_mixture(estimator: Any) -> NeuralizedKernelKMeans:
    """Components with one covariance: distances in whitened coordinates, less the logarithm of the prior."""
    root = np.asarray(_fitted(estimator, "precisions_cholesky_"), dtype=np.float64)
    kind = estimator.covariance_type
    if kind != "tied":
        if not np.allclose(root, root[:1], rtol=1e-9, atol=0):
            raise ValueError(
                f"GaussianMixture with different covariances has clusters that are separated by quadrics; fit it with "
                f"covariance_type='tied' (got {kind!r})"
            )
        root = np.full(estimator.means_.shape[1], root[0]) if kind == "spherical" else root[0]
    whiten = Affine(root) if root.ndim == 1 else Affine(root.T)
    means = estimator.means_ * root if root.ndim == 1 else estimator.means_ @ root
    weights = estimator.weights_[:, None]
    return NeuralizedKernelKMeans(means[:, None], 0.5, weights, steps=[whiten], feature_names=_names(estimator))


def _faiss(estimator: Any) -> NeuralizedKMeans:
    return NeuralizedKMeans(_fitted(estimator, "centroids"))


def _pipeline(pipeline: Any) -> Head:
    steps = [step for name, transformer in pipeline.steps[:-1] if (step := _named_step(name, transformer)) is not None]
    head = neuralize(pipeline.steps[-1][1])
    head = head.after(steps) if steps else head
    names = _names(pipeline)
    head.feature_names = None if names is None else tuple(names)
    return head


def _named_step(name: str, transformer: Any) -> Affine | RowNorm | None:
    try:
        return affine_step(transformer)
    except ValueError as error:
        raise ValueError(f"step {name!r} of the Pipeline: {error}") from None


def _standard_scaler(step: Any) -> Affine:
    size = _fitted(step, "n_features_in_")
    scale = np.ones(size) if step.scale_ is None else step.scale_
    mean = np.zeros_like(scale) if not step.with_mean or step.mean_ is None else step.mean_
    return Affine(1 / scale, -mean / scale)


def _min_max_scaler(step: Any) -> Affine:
    if step.clip:
        raise ValueError("MinMaxScaler with clip=True is not affine outside of the range of its training data")
    return Affine(_fitted(step, "scale_"), step.min_)


def _max_abs_scaler(step: Any) -> Affine:
    if getattr(step, "clip", False):
        raise ValueError("MaxAbsScaler with clip=True is not affine outside of the range of its training data")
    return Affine(1 / _fitted(step, "scale_"))


def _robust_scaler(step: Any) -> Affine:
    size = _fitted(step, "n_features_in_")
    scale = np.ones(size) if step.scale_ is None else step.scale_
    center = np.zeros(size) if step.center_ is None else step.center_
    return Affine(1 / scale, -center / scale)


def _pca(step: Any) -> Affine:
    components = np.asarray(_fitted(step, "components_"), dtype=np.float64)
    scale = np.ones(len(components))
    if step.whiten:
        # as PCA.transform does: variances of 0 do not blow up
        scale = np.maximum(np.sqrt(step.explained_variance_), np.finfo(step.explained_variance_.dtype).eps)
    linear = components / scale[:, None]
    return Affine(linear, -(linear @ step.mean_), components.T * scale, step.mean_)


def _truncated_svd(step: Any) -> Affine:
    components = _fitted(step, "components_")
    return Affine(components, None, components.T)


def _normalizer(step: Any) -> RowNorm:
    return RowNorm(step.norm)


def _selector(step: Any) -> Affine:
    """Feature selection: rows of the identity."""
    _fitted(step, "n_features_in_")
    support = step.get_support()
    linear = np.eye(len(support))[support]
    return Affine(linear, None, linear.T)


def _function_transformer(step: Any) -> None:
    if step.func is not None:
        raise ValueError(f"FunctionTransformer applies {step.func!r}, of which nothing is known")


def _pipeline_step(step: Any) -> Affine | RowNorm | None:
    """A Pipeline of transformers within a Pipeline."""
    parts = [part for name, inner in step.steps if (part := _named_step(name, inner)) is not None]
    whole = parts[0] if parts else None
    for part in parts[1:]:
        if not isinstance(whole, Affine) or not isinstance(part, Affine):
            raise ValueError("a nested Pipeline must be affine; list its steps in the outer Pipeline")
        whole = whole.then(part)
    return whole


_CLUSTERINGS: Adapters[Head] = {
    ("sklearn", "KMeans"): _nearest_center,
    ("sklearn", "MiniBatchKMeans"): _nearest_center,
    ("sklearn", "MeanShift"): _nearest_center,
    ("sklearn", "AffinityPropagation"): _affinity_propagation,
    ("sklearn", "Birch"): _birch,
    ("sklearn", "GaussianMixture"): _gaussian_mixture,
    ("sklearn", "NearestCentroid"): _nearest_centroid,
    ("sklearn", "Pipeline"): _pipeline,
    ("faiss", "Kmeans"): _faiss,
    ("zennit_neon", "KernelKMeans"): _kernel_kmeans,
}

_STEPS: Adapters[Affine | RowNorm | None] = {
    ("sklearn", "StandardScaler"): _standard_scaler,
    ("sklearn", "MinMaxScaler"): _min_max_scaler,
    ("sklearn", "MaxAbsScaler"): _max_abs_scaler,
    ("sklearn", "RobustScaler"): _robust_scaler,
    ("sklearn", "PCA"): _pca,
    ("sklearn", "IncrementalPCA"): _pca,
    ("sklearn", "TruncatedSVD"): _truncated_svd,
    ("sklearn", "Normalizer"): _normalizer,
    ("sklearn", "SelectorMixin"): _selector,
    ("sklearn", "FunctionTransformer"): _function_transformer,
    ("sklearn", "Pipeline"): _pipeline_step,
}

_REFUSED = {
    "BisectingKMeans": "its predict walks a tree of splits, so a point is not always in the cluster of the nearest "
    "centroid. Use KMeans, or give its cluster_centers_ to explain the nearest centroid instead",
    "DBSCAN": "it has no rule for new points",
    "HDBSCAN": "it has no rule for new points",
    "OPTICS": "it has no rule for new points",
    "AgglomerativeClustering": "it has no rule for new points",
    "FeatureAgglomeration": "it clusters features, not points",
    "SpectralClustering": "it has no rule for new points",
    "BayesianGaussianMixture": "its clusters are separated by quadrics, not by the nearest centroid",
}
