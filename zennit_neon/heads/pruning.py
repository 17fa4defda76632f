"""The few support vectors that matter for given points, and how far the others could have moved the result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..functional.competitors import stiffness
from ..layer.base import EvidenceLayer, Prepared
from ..utils.model_state import exact
from ..utils.tables import Table
from .kernel import NeuralizedKernelKMeans

__all__ = ["Pruned", "prune"]


class Pruned(NamedTuple):
    """What :func:`prune` leaves, and what is lost at the points that it was made for."""

    #: The smaller network.
    head: NeuralizedKernelKMeans
    #: (N,): the evidence of no cluster differs by more from that of the full network.
    evidence_error: Tensor
    #: (N,): how much the relevance of the assigned cluster differs, the sum of absolute differences over features.
    relevance_error: Tensor


def prune(head: NeuralizedKernelKMeans, X: Any, tolerance: float = 1e-3, *, explicit: bool | None = None) -> Pruned:
    r"""Keep the support vectors that matter for some points (paper 1, Section III, on large support sets).

    For each point, and in each cluster, the support vectors with the largest shares
    :math:`q_j = \mathrm{softmax}_j(\log \pi_j - \gamma o_j)` are kept until what is left shares no more than
    ``tolerance``. The neurons of the explicit network grow with the square of the support vectors, so a network that
    is pruned for one point can be built, and looked into, where the full one cannot.

    Parameters
    ----------
    head : NeuralizedKernelKMeans
    X : ndarray, Tensor or DataFrame, shape (N, d)
        The points. What matters for one of them is kept for all.
    tolerance : float
        Share that may be left out, at least 0 and below 1.
    explicit : bool, optional
        Whether to build the four layers of the paper; as ``head`` does if not given.

    Returns
    -------
    Pruned
        ``head`` (with a stiffness, that of Eq. 3 over X if it had none), ``evidence_error`` and ``relevance_error``.

    Raises
    ------
    TypeError, ValueError
        If ``head`` is of another kind, or ``tolerance`` out of range, or X does not fit.

    Notes
    -----
    Let :math:`\epsilon_k` be the share left out of cluster k. Without it :math:`O_k` grows by
    :math:`-\log(1 - \epsilon_k) / \gamma`, so the evidence of every cluster changes by no more than the largest of
    them, and that is at most :math:`-\log(1 - \mathrm{tolerance}) / \gamma`.

    Examples
    --------
    >>> line = torch.linspace(0, 10, 101)[:, None]
    >>> head = NeuralizedKernelKMeans([line, line + 12], gamma=50.0)
    >>> pruned = prune(head, [[3.0]])
    >>> pruned.head.sizes, bool(pruned.evidence_error < 1e-4)
    ((7, 1), True)
    """
    if not isinstance(head, NeuralizedKernelKMeans):
        raise TypeError(f"head must be a NeuralizedKernelKMeans, whose support vectors can be left out, got {head!r}")
    if not 0 <= tolerance < 1:
        raise ValueError(f"tolerance must be at least 0 and below 1, got {tolerance}")
    table = Table(X)
    table.check_width(head.n_features)
    table.check_names(head.feature_names)
    if len(table.shape) != 2 or not len(table):
        raise ValueError(f"X must have shape (N, d) with at least one point, got {table.shape}")
    sizes = list(head.sizes)
    layer = head.evidence_layer
    kept = torch.zeros(sum(sizes), dtype=torch.bool, device=head.support.device)
    evidence = []
    with exact(), torch.no_grad():
        for _, prepared in _batches(head, table):
            evidence.append(layer.pool_competitors(prepared.scores).evidence)
            assert prepared.shares is not None
            kept |= torch.cat([_needed(part, tolerance) for part in prepared.shares.split(sizes, 1)], 1).any(0)
        beta = head.beta if head.beta is not None else stiffness(evidence)
        pruned = _reduced(head, kept, beta, head.explicit if explicit is None else explicit)
        errors = [_errors(head, pruned, *batch, kept) for batch in _batches(head, table)]
    return Pruned(pruned, *(torch.cat(parts) for parts in zip(*errors, strict=True)))


def _batches(head: NeuralizedKernelKMeans, table: Table) -> Iterator[tuple[Tensor, Prepared]]:
    """Batches of X, with scores and shares."""
    for place, x in table.batches(table.batch_size(head.width), False, "", head.support):
        prepared = head.evidence_layer.prepare(head.rows(x))
        table.check(place, prepared.scores)
        yield x, prepared


def _needed(shares: Tensor, tolerance: float) -> Tensor:
    """Which of the shares (M, p) have to be kept so that the others sum to no more than the tolerance."""
    ordered, index = shares.sort(1)
    return torch.zeros_like(shares, dtype=torch.bool).scatter(
        1, index, ordered.cumsum(1, dtype=torch.float64) > tolerance
    )


def _reduced(head: NeuralizedKernelKMeans, kept: Tensor, beta: float, explicit: bool) -> NeuralizedKernelKMeans:
    """The head with some of its support vectors, each with the weight that it had."""
    parts = kept.split(list(head.sizes))
    known = head.arguments()
    weights = known["weights"] or [torch.full((len(part),), 1 / len(part), dtype=torch.float64) for part in parts]
    return head.rebuilt(
        support_vectors=[rows[part] for rows, part in zip(known["support_vectors"], parts, strict=True)],
        weights=[values.to(part.device)[part] for values, part in zip(weights, parts, strict=True)],
        beta=beta,
        explicit=explicit,
    )


def _errors(
    head: NeuralizedKernelKMeans,
    pruned: NeuralizedKernelKMeans,
    x: Tensor,
    prepared: Prepared,
    kept: Tensor,
) -> tuple[Tensor, Tensor]:
    """Bound on the error of evidence, and the difference of relevance."""
    assert prepared.shares is not None
    lost = torch.stack([part.sum(1) for part in (prepared.shares.double() * ~kept).split(list(head.sizes), 1)], 1)
    growth = -torch.log1p(-lost) / head.gamma * (head.evidence_layer.stiffness if head.soft else 1.0)
    cluster = prepared.scores.argmax(1)
    layer = pruned.evidence_layer
    before = _relevance(head.evidence_layer, prepared, cluster, pruned.beta)
    after = _relevance(layer, layer.prepare(pruned.rows(x)), cluster, pruned.beta)
    return growth.amax(1), (after - before).abs().sum(1)


def _relevance(layer: EvidenceLayer, prepared: Prepared, cluster: Tensor, beta: float | None) -> Tensor:
    """Relevance of points for one cluster each."""
    passed = layer.coefficients_for(prepared.scores, cluster, beta=beta).coefficients
    return layer.relevance(prepared, passed, cluster)
