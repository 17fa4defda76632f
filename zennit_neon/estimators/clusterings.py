"""From a clustering to a head: exactly where there is a network that equals it, else by the labels of its points."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from ..exceptions import InexactError, not_fitted
from ..functional.competitors import check_beta
from ..heads.affine import Affine, RowNorm
from ..heads.base import Head
from ..utils.arrays import Array, as_numpy
from ..utils.labels import Groups, are_labels, groups
from ..utils.tables import Table, as_table
from .adapters import register, to_head
from .agreement import check_same
from .steps import steps_of
from .surrogate import surrogate

__all__ = ["Neuralized", "neuralize_final_step", "neuralize", "neuralized"]

#: Fits a head to labels of points.
Fit = Callable[[Groups, Table], Head]


def neuralize(
    clustering: Any,
    X: Any = None,
    *,
    soft: bool = False,
    beta: float | None = None,
    support: int = 20,
    test_size: float = 1 / 3,
    random_state: Any = 0,
    progress: bool = False,
) -> Head:
    r"""Rewrite a clustering as an equivalent neural network, without retraining (paper 1, Section II).

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
    X : ndarray, Tensor, sparse matrix or DataFrame, shape (N, d), optional
        The points that were clustered. Not used where the network is exact. Labels with an index of their own are
        matched with that of a DataFrame.
    soft : bool
        Explain the probability of the cluster, proportional to :math:`\exp(-\beta o_k)` with the (soft minimum of)
        squared distances :math:`o_k`, in place of the hard assignment (Props. 1 and 2, paper 2). Clusters stay the
        same. For all clusterings that compare distances, so for all but ``BisectingKMeans`` and clusters on logits.
    beta : float, optional
        Stiffness of the soft clustering, or else of min-take-most (Eq. 2, paper 1); or call ``head.calibrate``.
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
        often it predicts the label of a held-out point, overall and per cluster. Noise is left out.

    Raises
    ------
    ValueError
        If the estimator is not fitted (scikit-learn's ``NotFittedError``), or cannot be rewritten exactly (the message
        says why) and X is not given, or labels and X do not fit.
    PrecisionError
        If a feature lies so far from zero that its numbers cannot tell the clusters apart.
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

    Your own class:

    >>> from zennit_neon import NeuralizedKMeans
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
    head = neuralized(
        clustering, X, support=support, test_size=test_size, random_state=random_state, progress=progress
    ).head
    return _stiffened(head, soft, beta)


def _stiffened(head: Head, soft: bool, beta: float | None) -> Head:
    """The same clustering with soft evidence, or another stiffness.

    A head that becomes soft does not keep its stiffness, which is that of min-take-most.
    """
    if beta is None and (not soft or head.soft):
        return head
    changes: dict[str, Any] = {} if beta is None and not soft else {"beta": beta}
    if not soft and not head.arguments():
        head = copy.deepcopy(head)
        head.beta = check_beta(beta)
        return head
    if soft and "soft" not in head.arguments():
        instead = {
            "NeuralizedSoftmax": "NeuralizedSoftmax(linear, threshold=0.5) explains the probability of a cluster layer",
            "NeuralizedHierarchy": "leaves of a tree compare the two sides of splits, and have no distances to all "
            "clusters: leave soft out",
        }
        name = type(head).__name__
        raise ValueError(
            f"soft=True is for clusterings that compare distances to all clusters, got one that becomes a {name}; "
            f"{instead.get(name, 'leave soft out')}"
        )
    return head.rebuilt(**changes, **({"soft": soft} if soft else {}))


neuralize.register = register  # type: ignore[attr-defined]


class Neuralized(NamedTuple):
    """A head, the labels that it is fitted to, and the points that were read on the way."""

    head: Head
    #: None where the head is exact.
    groups: Groups | None
    #: The points, of which noise with missing values is ignored; None if they were not read.
    table: Table | None

    @property
    def noise(self) -> Array | None:
        """Which points belong to no cluster, bool (N,); None if there is no noise."""
        return self.groups.noise if self.groups is not None and self.groups.noise.any() else None


def _without_noise(table: Table, found: Groups) -> Table:
    """A table in which noise that has missing or infinite values is ignored."""
    return table.ignoring(table.unreadable(found.noise)) if found.noise.any() else table


def neuralized(clustering: Any, X: Any = None, **options: Any) -> Neuralized:
    """As :func:`neuralize`, whose options it takes; with the labels, which are read or predicted once.

    ``X`` may also be a :class:`~zennit_neon.utils.tables.Table`.
    """
    fit: Fit = functools.partial(surrogate, **options)
    if are_labels(clustering):
        if X is None:
            raise ValueError(
                "clustering must have shape (K, d) if it is centroids, and needs the points if it is labels: "
                "neuralize(labels, X)"
            )
        return _fitted(clustering, as_table(X), fit)
    shape: tuple[int, ...] = getattr(clustering, "shape", ())
    if X is not None and len(shape) == 2 and shape[1] == 1:
        X = as_table(X)
        if shape[0] == len(X) and X.shape[1] > 1:
            raise ValueError(
                f"labels must have shape ({shape[0]},), one for each row of X, got {tuple(shape)}: give its only column"
            )
    try:
        return Neuralized(to_head(clustering), None, X if isinstance(X, Table) else None)
    except InexactError as error:
        if X is None:
            steps = "; explain(pipeline, X) takes steps that work column by column"
            raise ValueError(
                f"{error}. With the points, neuralize(clustering, X), its labels are explained through a network "
                f"whose fidelity to them is measured{steps if hasattr(clustering, 'steps') else ''}"
            ) from None
    except TypeError:
        if X is None or not hasattr(clustering, "labels_"):
            raise
    table = as_table(X)
    labels, last = _labels_of(clustering, table), _last(clustering)
    if hasattr(clustering, "steps"):
        try:
            return _behind_steps(clustering, table, labels, fit)
        except InexactError:
            pass  # in the space of the input then
    return _fitted(labels, table, fit, _is_hdbscan(last))


def neuralize_final_step(pipeline: Any, X: Any, steps: list[Affine | RowNorm], progress: bool = False) -> Neuralized:
    """The clustering at the end of a Pipeline, seen from before ``steps``, whatever comes before those."""
    table, last = as_table(X), pipeline.steps[-1][1]
    if not are_labels(last):
        try:
            return Neuralized(to_head(last).with_preprocessing(steps), None, table)
        except (InexactError, TypeError):
            pass  # by its labels then
    found = neuralized(last, pipeline[:-1].transform(as_numpy(table.X)), progress=progress)
    return Neuralized(found.head.with_preprocessing(steps), found.groups, table)


def _fitted(labels: Any, table: Table, fit: Fit, is_hdbscan: bool = False) -> Neuralized:
    """A head that is fitted to labels of points."""
    table.check_numbers()
    found = groups(labels, len(table), table.index, table.unreadable, is_hdbscan)
    table = _without_noise(table, found)
    return Neuralized(fit(found, table), found, table)


def _behind_steps(pipeline: Any, table: Table, labels: Any, fit: Fit) -> Neuralized:
    """Labels at the end of a Pipeline, explained in the space that was clustered and seen from its input."""
    last = pipeline.steps[-1][1]
    if len(pipeline.steps) == 1:
        return _behind_steps(last, table, labels, fit) if hasattr(last, "steps") else _fitted(labels, table, fit)
    steps = steps_of(pipeline)
    table.check_numbers()
    points = as_table(pipeline[:-1].transform(as_numpy(table.X)))
    inner = _behind_steps(last, points, labels, fit) if hasattr(last, "steps") else _fitted(labels, points, fit)
    assert inner.groups is not None
    assert inner.table is not None
    head, table = inner.head.with_preprocessing(steps, table.names), _without_noise(table, inner.groups)
    check_same(head, table, inner.head, inner.table)
    return Neuralized(head, inner.groups, table)


def _labels_of(clustering: Any, table: Table) -> Any:
    """Labels of points: predicted where the clustering can, else those that it was fitted with."""
    last = _last(clustering)
    known = getattr(last, "labels_", None)
    if hasattr(clustering, "predict"):
        try:
            return clustering.predict(as_numpy(table.X))
        except (AttributeError, ValueError):
            if known is None:
                raise
    if known is None:
        raise not_fitted(last, "labels_")
    if len(known) != len(table):
        raise ValueError(
            f"{type(last).__name__} has labels of {len(known)} points and no rule for others, but X has {len(table)}: "
            "give the points that it was fitted on to neuralize(clustering, X), and explain others with that head"
        )
    return known


def _last(clustering: Any) -> Any:
    """The clustering at the end of a Pipeline."""
    while hasattr(clustering, "steps"):
        clustering = clustering.steps[-1][1]
    return clustering


def _is_hdbscan(clustering: Any) -> bool:
    return any(kind.__name__ == "HDBSCAN" for kind in type(clustering).__mro__)
