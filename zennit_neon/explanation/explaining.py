"""The function :func:`explain`, which answers why points are in their clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from zennit.core import Composite

from .. import functional
from ..attributors.base import Attributor, Target
from ..attributors.search import attributor_of
from ..attributors.through_model import ZennitAttributor
from ..heads.base import Head
from ..heads.questions import asked_of, check_fidelity, labels_of, leave_out, named_clusters
from ..heads.search import heads_of
from ..utils.labels import place_of
from ..utils.model_state import exact, unwrapped
from ..utils.tables import Table, as_table
from ..utils.validation import check_feature_names
from .result import Explanation

__all__ = ["explain"]


@exact()
def explain(
    model: Any,
    X: Any,
    *,
    cluster: Any = None,
    competitor: Any = None,
    beta: float | None = None,
    composite: Composite | None = None,
    feature_names: Sequence[str] | None = None,
    batch_size: int | None = None,
    min_fidelity: float = 0.9,
    progress: bool = False,
) -> Explanation:
    r"""Explain cluster assignments in terms of input features (paper 1, Section II).

    Parameters
    ----------
    model
        Anything that :func:`~zennit_neon.neuralize` takes (a fitted estimator or Pipeline, centroids, labels of X, a
        head), or a ``torch.nn.Module`` that ends in one head, together with ``composite``. The first steps of a
        Pipeline may also work column by column (``OneHotEncoder``, ``SimpleImputer``, ``PowerTransformer``, ...), with
        or without a ``ColumnTransformer``: the relevance of all numbers made of one column is summed.
    X : ndarray, Tensor, sparse matrix or table, shape (N, d) or (N, d, ...)
        Points to explain. Every location of (N, d, ...) is a point. Tables are DataFrames of pandas and polars, and
        Arrow tables; their columns have to be those of the fit, by name. They may hold text where a step of the
        Pipeline encodes or drops them. Sparse matrices are never made dense as a whole, but relevance is.
    cluster : label, or sequence of labels, optional
        Explain this cluster for every point (or one for each point); by default the one a point is assigned to. A label
        is what the clustering itself calls the cluster: a name or a number, as ``predict`` gives it.
    competitor : label, optional
        Explain why the cluster *rather than this one*: :math:`h_{ck}` alone, to which relevance then sums. Points
        whose cluster is the competitor itself get 0.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2). By default that of a ``Neon`` composite, else that of the head, else the
        inverse of the mean evidence over X (Eq. 3).
    composite : zennit.core.Composite, optional
        Rules for the layers before the head, where ``model`` has any: ``Neon(EpsilonPlus())`` or any Zennit
        composite, which ``Neon`` is then put around. A warning names the parts of the model that it has no rules for.
    feature_names : sequence of str, optional
        By default the columns of a DataFrame, or the names that the estimator was fitted with.
    batch_size : int, optional
        Rows of X at a time, which bounds the memory beyond input and output; by default few enough for the cache.
    min_fidelity : float
        Warn if a head that was fitted to labels reproduces a smaller share of those held out, overall or of a cluster.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Explanation

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.
    DisagreementError
        If the network gives points to other clusters than the estimator predicts (on up to 1,000 rows of X).
    PrecisionError
        If a feature lies so far from zero that its numbers cannot tell the clusters apart.

    Warns
    -----
    UserWarning
        If relevance passes parts of a model that ``composite`` has no rules for (layers without a rule, additions and
        products in ``forward``, ...), with the name of the module; and if far less or more than the evidence arrives
        at the input (``arrived``) although no rule has biases to lose it to.

    Notes
    -----
    Where ``model`` is a clustering that knows the labels of X (``DBSCAN``) or the labels themselves, noise belongs to
    no cluster: its ``cluster`` is -1, and evidence and relevance are NaN. ``cluster=`` explains such a point all the
    same, unless it has missing values: why (not) that cluster? All other points are explained for the cluster that the
    network gives them to, which is that of their label as often as ``fidelity`` says.

    For the assigned cluster, relevance sums to evidence in every row (with several support vectors a cluster, or soft
    pooling, some of it is dissipated). For another cluster (``cluster=``) it does as
    well, but a competitor that is about as far away as the cluster in question may carry large relevance of both
    signs: its neuron is nearly switched off while it takes its share, and the quotient of both is large. Below
    :math:`|h_{ck}| < \epsilon^{1/3} |f_c|` that share goes to the nearest competitor (:math:`\epsilon` is machine
    precision).

    Examples
    --------
    >>> import numpy as np
    >>> e = explain(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[0.5, 0.0], [2.0, 1.0]]))
    >>> e.cluster
    array([0, 1])
    >>> e.relevance
    array([[2., 0.],
           [4., 0.]])
    >>> e.evidence
    array([2., 4.])
    """
    given, model = model, unwrapped(model)
    if composite is not None and not isinstance(model, nn.Module):
        raise ValueError(f"composite is for torch modules, which have layers; got a {type(model).__name__}")
    is_trunk = composite is not None or (bool(heads_of(model)) and not isinstance(model, Head))
    attributor: Attributor
    noise = None
    if is_trunk:
        attributor = ZennitAttributor(given, composite, as_table(X, text=False), batch_size, progress)
    else:
        attributor, noise = attributor_of(model, X, batch_size, progress)
    head, table = attributor.head, attributor.table
    check_fidelity(head, min_fidelity)
    if competitor is None and attributor.competitor is not None:  # rules know clusters by their positions
        competitor = labels_of(head)[place_of(attributor.competitor, None, head.n_clusters, "competitor")]
    chosen, rival = asked_of(cluster, competitor, head, attributor.shape, table.index)
    stiff = functional.check_beta(beta)
    if stiff is not None and head.soft:
        raise ValueError(f"beta is part of a soft clustering, or not needed, and cannot be chosen here; got {beta}")
    stiff = attributor.beta if stiff is None else stiff
    names = _names(feature_names, table, head, is_trunk)
    calibration = None
    if stiff is None and rival is None and len(table) and not head.soft:
        calibration = attributor.calibrate(keep=chosen is None)
        stiff = calibration.beta
    target = Target(stiff, rival)
    found = attributor.attribute(target, chosen, calibration)
    leave_out(noise if chosen is None else table.ignored, found.relevance, found.evidence, found.cluster)
    return Explanation(
        relevance=table.like(found.relevance),
        evidence=table.plain(found.evidence),
        cluster=named_clusters(found.cluster, head, table),
        beta=stiff,
        feature_names=names,
        n_clusters=head.n_clusters,
        labels=labels_of(head),
        _positions=found.cluster,
        _scores=found.scores,
        _attributor=attributor,
        _target=target,
    )


#: Examples that doctest does not see after a decorator.
__test__ = {"explain": explain}


def _names(names: Sequence[str] | None, table: Table, head: Head, is_trunk: bool) -> list[str] | None:
    """Names of the features: given, of the table, of the head, or numbered."""
    width = table.shape[1]
    if names is not None:
        return list(check_feature_names(names, width))
    if table.names is not None:
        return table.names
    if head.feature_names is not None and not is_trunk:
        return list(head.feature_names)
    return [f"x{i}" for i in range(width)]
