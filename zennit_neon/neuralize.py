"""From a clustering to a head: one small adapter per family of estimators."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from .affine import Affine, InexactError, RowNorm
from .arrays import Table, plain
from .heads import Head, NeuralizedKMeans
from .hierarchy import NeuralizedHierarchy
from .kernel import NeuralizedKernelKMeans
from .softmax import NeuralizedSoftmax
from .steps import Adapters, fitted, lookup, steps_of
from .surrogate import groups, surrogate

__all__ = ["behind", "neuralize", "centers_of", "noise_of"]


def neuralize(
    clustering: Any,
    X: Any = None,
    *,
    support: int = 20,
    test_size: float = 1 / 3,
    random_state: Any = 0,
    progress: bool = False,
) -> Head:
    """Rewrite a clustering as an equivalent neural network, without retraining (paper 1, Section II).

    Where there is no equivalent network, and ``X`` is given, a kernel model is fitted to the labels of the points, and
    its agreement with them measured on points that were held out: ``head.fidelity``, which also says what kind of
    network was chosen (``head.fidelity.network``).

    Parameters
    ----------
    clustering
        One of

        - a fitted scikit-learn ``KMeans``, ``MiniBatchKMeans``, ``MeanShift``, ``AffinityPropagation`` (euclidean) or
          ``NearestCentroid`` (euclidean, uniform priors);
        - a fitted ``Pipeline`` that ends in one of them, whose other steps are affine (``StandardScaler``,
          ``MinMaxScaler``, ``MaxAbsScaler``, ``RobustScaler``, ``PCA``, ``TruncatedSVD``, feature selection, a
          ``ColumnTransformer`` of these) or a ``Normalizer``. Relevance then belongs to the features that go into the
          pipeline;
        - a fitted ``Birch`` (the nearest of its subclusters), ``BisectingKMeans`` (all splits on the way to a leaf), or
          a ``GaussianMixture`` whose components have one covariance (``covariance_type="tied"``);
        - a fitted :class:`~zennit_neon.KernelKMeans`, best after ``reduce``;
        - a trained ``faiss.Kmeans``;
        - centroids: an array, a tensor, or a list of them, shape (K, d);
        - a ``torch.nn.Linear`` (or 1 x 1 convolution) that gives cluster logits; of a SCAN model with its
          ``cluster_head``, the head alone (:meth:`NeuralizedSoftmax.from_scan` chooses among several);
        - a module with ``cluster_centers``, ``centroids`` or ``centers`` (K, d), such as the Student-t assignment of
          DEC, which ranks clusters by distance;
        - a head, which is returned as it is;
        - anything that was registered with ``neuralize.register``;
        - with ``X``, any other fitted clustering that has labels of these points (``DBSCAN``, ``HDBSCAN``, ``OPTICS``,
          ``AgglomerativeClustering``, ``SpectralClustering``, ...) or predicts them (``GaussianMixture`` with several
          covariances), a Pipeline with any steps that ends in one, or the labels themselves, shape (N,): whole
          numbers, of which -1 means noise, or names.
    X : ndarray, Tensor or DataFrame, shape (N, d), optional
        The points that were clustered. Not used where the network is exact.
    support : int
        Support vectors of a cluster that is known by its labels, at most; class means are used where they do as well.
    test_size : float
        Share of the points of such a cluster that is held out to measure fidelity.
    random_state : int, RandomState or None
        Of the split, and of the fit to labels.
    progress : bool
        Show a progress bar of the fit to labels.

    Returns
    -------
    Head
        ``head(x).argmax(1)`` equals ``clustering.predict(x)`` if ``head.fidelity`` is None. Otherwise that tells how
        often it gives back the label of a held-out point, overall and per cluster. Noise takes no part.

    Raises
    ------
    ValueError
        If the estimator is not fitted, or can not be rewritten exactly (the message says why) and X is not given, or
        labels and X do not fit.
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

    A clustering without a rule for new points:

    >>> from sklearn.cluster import DBSCAN
    >>> from sklearn.datasets import make_moons
    >>> X, _ = make_moons(300, noise=0.05, random_state=0)
    >>> head = neuralize(DBSCAN(eps=0.2).fit(X), X)
    >>> head.fidelity
    Fidelity(1.000 of 100 held-out points; by cluster 1.00, 1.00; up to 20 support vectors a cluster, raw features)
    """
    fit = functools.partial(
        surrogate, support=support, test_size=test_size, random_state=random_state, progress=progress
    )
    if _are_labels(clustering):
        if X is None:
            raise ValueError(
                "clustering must have shape (K, d) if it is centroids, and needs the points if it is labels: "
                "neuralize(labels, X)"
            )
        return fit(clustering, X)
    try:
        return _to_head(clustering)
    except InexactError as error:
        if X is None:
            raise ValueError(
                f"{error}. With the points, neuralize(clustering, X), its labels are explained through a network "
                "whose fidelity to them is measured"
                + (
                    "; explain(pipeline, X) takes steps that work column by column"
                    if hasattr(clustering, "steps")
                    else ""
                )
            ) from None
    except TypeError:
        if X is None or not hasattr(clustering, "labels_"):
            raise
    if hasattr(clustering, "steps"):
        try:
            return _pipeline_surrogate(clustering, X, fit)
        except InexactError:
            pass  # in the space of the input then
    return fit(_labels_of(clustering, X), X)


def noise_of(clustering: Any, X: Any) -> np.ndarray[Any, Any] | None:
    """Points (N,) that a clustering gives to no cluster (label -1, or missing); None if there are none.

    Only for a clustering of labels, of which :func:`neuralize` made a head with fidelity.
    """
    labels = clustering if _are_labels(clustering) else _labels_of(clustering, X)
    noise: np.ndarray[Any, Any] = groups(labels, len(X))[0] < 0
    return noise if noise.any() else None


def _are_labels(clustering: Any) -> bool:
    """Whether something is a one-dimensional array, series or list of single values."""
    if isinstance(clustering, (list, tuple)):
        return bool(clustering) and all(isinstance(part, (str, bool)) or np.ndim(part) == 0 for part in clustering)
    return hasattr(clustering, "__array__") and getattr(clustering, "ndim", None) == 1


def _labels_of(clustering: Any, X: Any) -> Any:
    """Labels of points: predicted where the clustering can, else those that it was fitted with."""
    rows = plain(X)
    last = clustering
    while hasattr(last, "steps"):
        last = last.steps[-1][1]
    known = getattr(last, "labels_", None)
    if hasattr(clustering, "predict"):
        try:
            return clustering.predict(rows)
        except (AttributeError, ValueError):
            if known is None:
                raise
    if known is None:
        raise ValueError(f"{type(last).__name__} is not fitted: it has no labels_; call fit first")
    if len(known) != len(rows):
        raise ValueError(
            f"{type(last).__name__} has labels of {len(known)} points and no rule for others, but X has {len(rows)}: "
            "give the points that it was fitted on to neuralize(clustering, X), and explain others with that head"
        )
    return known


def _pipeline_surrogate(pipeline: Any, X: Any, fit: Callable[[Any, Any], Head]) -> Head:
    """Labels at the end of a Pipeline, explained in the space that was clustered and seen from its input."""
    steps = steps_of(pipeline)
    rows = plain(X)
    points = rows if len(pipeline.steps) == 1 else pipeline[:-1].transform(rows)
    last = pipeline.steps[-1][1]
    head = _pipeline_surrogate(last, points, fit) if hasattr(last, "steps") else fit(_labels_of(pipeline, X), points)
    head = head.after(steps) if steps else head
    names = Table(X).names
    head.feature_names = None if names is None else tuple(names)
    return head


def behind(pipeline: Any, X: Any, steps: list[Affine | RowNorm], progress: bool = False) -> Head:
    """The clustering at the end of a Pipeline, seen from before ``steps``, whatever comes before those."""
    last = pipeline.steps[-1][1]
    try:
        head = _to_head(last)
    except (InexactError, TypeError):
        points = pipeline[:-1].transform(plain(X))
        head = neuralize(last, points.toarray() if hasattr(points, "toarray") else points, progress=progress)
    head = head.after(steps)
    head.feature_names = None
    return head


@functools.singledispatch
def _to_head(clustering: Any) -> Head:
    adapter = lookup(clustering, _CLUSTERINGS)
    if adapter is not None:
        return adapter(clustering)
    for kind in type(clustering).__mro__:
        if (reason := _REFUSED.get(kind.__name__)) and kind.__module__.startswith("sklearn."):
            refusal = ValueError if kind.__name__ == "FeatureAgglomeration" else InexactError
            raise refusal(f"{kind.__name__} can not be neuralised exactly: {reason}")
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


neuralize.register = _to_head.register  # type: ignore[attr-defined]


def _names(estimator: Any) -> list[str] | None:
    names = getattr(estimator, "feature_names_in_", None)
    return None if names is None else [str(name) for name in names]


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
    head = _to_head(pipeline.steps[-1][1])
    head = head.after(steps) if steps else head
    names = _names(pipeline)
    head.feature_names = None if names is None else tuple(names)
    return head


_CLUSTERINGS: Adapters[Head] = {
    ("sklearn", "KMeans"): _nearest_center,
    ("sklearn", "MiniBatchKMeans"): _nearest_center,
    ("sklearn", "MeanShift"): _nearest_center,
    ("sklearn", "AffinityPropagation"): _affinity_propagation,
    ("sklearn", "Birch"): _birch,
    ("sklearn", "BisectingKMeans"): _bisecting,
    ("sklearn", "GaussianMixture"): _gaussian_mixture,
    ("sklearn", "NearestCentroid"): _nearest_centroid,
    ("sklearn", "Pipeline"): _pipeline,
    ("faiss", "Kmeans"): _faiss,
    ("zennit_neon", "KernelKMeans"): _kernel_kmeans,
}

_REFUSED = {
    "FeatureAgglomeration": "it clusters features, not points",
    "DBSCAN": "it has no rule for new points",
    "HDBSCAN": "it has no rule for new points",
    "OPTICS": "it has no rule for new points",
    "AgglomerativeClustering": "it has no rule for new points",
    "SpectralClustering": "it has no rule for new points",
    "BayesianGaussianMixture": "its clusters are separated by quadrics, not by the nearest centroid",
}
