"""Layers of neuralised kernel clusterings: clusters are sets of support vectors (paper 1, Section III)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional
from ..functional.pooling import soft_maximum
from .base import EvidenceLayer, Prepared
from .centroids import CentroidEvidence
from .contrast import ContrastLayer
from .pooling import SoftPooling

__all__ = ["LogMeanExpPool", "SupportContrast", "SupportEvidence"]

#: Numbers of the pairs of support vectors that are built at a time.
NUMBERS = 2**22


class SupportEvidence(EvidenceLayer):
    r"""All four layers of neuralised kernel k-means in one, linear in the number of support vectors (paper 1, Eq. 6).

    ``(N, d, ...)`` to ``(N, C, ...)``:

    .. math:: f_c = \min_{k \neq c} O_k - O_c, \qquad O_k = \mathrm{LME}^{-\gamma}_{j \in C_k}\{\|x - u_j\|^2\}

    Parameters
    ----------
    center : Tensor, shape (d,)
        Origin of the coordinates in which the layer computes.
    weight, root : Tensor, shape (P, d)
        The support vectors of all clusters, one cluster after the other (see :func:`zennit_neon.functional.scores`).
    sizes : sequence of int
        How many there are of each cluster.
    gamma : float
        Kernel parameter.
    log_weight : Tensor, shape (P,), optional
        Logarithm of the weight of each support vector; 1 / p for each of p if not given.
    mixing : bool
        Whether features mix between input and support vectors.
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest; all if not given.
    beta : float, optional
        Stiffness of the min-take-most rule (Eq. 2), and if ``soft`` that of the clustering.
    soft : bool
        Evidence is the logit of the probability of a cluster (Prop. 2, paper 2).
    conserve : bool
        All three pools conserve relevance (Eq. 9, paper 2), if ``soft``.
    """

    weight: Tensor
    root: Tensor
    log_weight: Tensor | None

    def __init__(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        sizes: Sequence[int],
        gamma: float,
        log_weight: Tensor | None = None,
        mixing: bool = False,
        clusters: Tensor | None = None,
        beta: float | None = None,
        soft: bool = False,
        conserve: bool = False,
    ):
        chosen = torch.arange(len(sizes), device=weight.device) if clusters is None else clusters
        pooling = SoftPooling(len(sizes), conserve) if soft else None
        super().__init__(len(sizes), chosen, beta, center=center, pooling=pooling)
        self.sizes, self.gamma, self.mixing = tuple(sizes), gamma, mixing
        self.register_buffer("weight", weight)
        self.register_buffer("root", root)
        self.register_buffer("log_weight", log_weight)

    @property
    def conserves(self) -> bool:
        """Whether no pool dissipates relevance: it has none to share, or conserves."""
        alone = math.isinf(self.gamma) or (max(self.sizes) == 1 and self.log_weight is None)
        return self.pooling.conserve if self.soft else alone

    @property
    def max_cluster_units(self) -> int:
        """Support vectors of a cluster, at most."""
        return max(self.sizes)

    def get_extra_state(self) -> dict[str, float | None]:
        """Stiffness and kernel parameter."""
        return {**super().get_extra_state(), "gamma": self.gamma}

    def set_extra_state(self, state: Any) -> None:
        """Stiffness and kernel parameter."""
        super().set_extra_state(state)
        self.gamma = state["gamma"]

    def scores(self, points: Tensor) -> Tensor:
        """Scores of all clusters, :math:`s_k = |x|^2 - O_k`: (N, d, ...) to (N, K, ...)."""
        return self._scaled(self.unscaled_scores(points))

    def _scaled(self, pooled: Tensor) -> Tensor:
        return pooled * self.stiffness if self.soft else pooled

    def unscaled_scores(self, points: Tensor) -> Tensor:
        """Scores as differences of distances, before the stiffness of a soft clustering."""
        return self._pooled(points)[0]

    def prepare(self, points: Tensor) -> Prepared:
        r"""Points with scores, and the share of each support vector in its cluster (M, P).

        .. math:: q_j = \mathrm{softmax}_j(\log \pi_j - \gamma o_j)
        """
        pooled, shares = self._pooled(points)
        return Prepared(points, self._scaled(pooled), shares)

    def _pooled(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of clusters, and the shares of their support vectors."""
        return soft_maximum(self._units(points), self.sizes, self.gamma, self.log_weight)

    def _units(self, points: Tensor) -> Tensor:
        """Linear units of the support vectors, :math:`|x|^2 - |x - u_j|^2`: (N, d, ...) to (N, P, ...)."""
        return functional.scores(points, self.weight.to(points), self.root.to(points))

    def redistribute(self, points: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        r"""Relevance of points (M, d), from coefficients (M, K) for the explained cluster (M,) of each.

        Soft take-most on both pools, dissipation (Eq. 10) and the midpoint rule for all pairs of support vectors at
        once: the activations that dissipation multiplies with are those that the midpoint rule divides by, so

        .. math:: R = \sum_k a_k \sum_{j \in C_k} q_{jk} (x - u_j)^2, \qquad \textstyle\sum_k a_k = 0

        Where pools conserve, nothing cancels, and the quotients of all pairs are built for some points at a time.
        """
        return self.relevance(self.prepare(points), coefficients, cluster, out)

    def relevance(self, prepared: Prepared, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """:meth:`redistribute` for prepared points, whose shares are known."""
        if self.pooling.conserve:
            return self._conserved(prepared.points, coefficients, cluster)
        points, shares = prepared.points, prepared.shares
        assert shares is not None
        weight, root = self.weight.to(points), self.root.to(points)
        spread, own = self._spread(shares, coefficients, cluster)
        relevance = functional.redistribute(points, spread, weight, root, None, out)
        if own is not None:
            relevance.addcmul_(own @ root, spread @ weight).addcmul_(own @ weight, spread @ root, value=-1)
        return relevance

    def _conserved(self, points: Tensor, coefficients: Tensor, cluster: Tensor) -> Tensor:
        """Relevance of points (M, d) by the midpoint rule, where all pools have conserved it: small quotients show."""
        kind, points, coefficients = points.dtype, points.double(), coefficients.double()
        weight, root = self.weight.to(points), self.root.to(points)
        scores, units = self.scores(points), self._units(points)
        spread, extra = torch.zeros_like(units), torch.zeros_like(points) if self.mixing else None
        for c in cluster.unique().tolist():
            own, members = self._members(c), (cluster == c).nonzero()[:, 0]
            width = (own.stop - own.start) * max(len(weight), weight.shape[1])
            for rows in members.split(max(1, NUMBERS // width)):
                activation = units[rows, own].unsqueeze(2) - units[rows].unsqueeze(1)
                flow = self._flows(points[rows], scores[rows], coefficients[rows], c)
                passed = functional.quotient(flow, activation)
                spread[rows] += passed.sum(1)
                spread[rows, own] -= passed.sum(2)
                if extra is not None:
                    extra[rows] = ((passed @ weight) * root[own] - (passed @ root) * weight[own]).sum(1)
        relevance = functional.redistribute(points, spread, weight, root)
        return (relevance if extra is None else relevance + extra).to(kind)

    def _members(self, cluster: int) -> slice:
        """Where the support vectors of a cluster are."""
        start = sum(self.sizes[:cluster])
        return slice(start, start + self.sizes[cluster])

    def _flows(self, points: Tensor, scores: Tensor, passed: Tensor, cluster: int) -> Tensor:
        """Relevance (M, p, P) of all pairs of support vectors of one cluster and of all, 0 within the cluster."""
        sizes, own = torch.tensor(self.sizes, device=scores.device), self._members(cluster)
        units, shares = self._units(points), self._pooled(points)[1]
        through = passed * (scores[:, cluster, None] - scores if self.pooling.conserve else 1.0)
        through[:, cluster] = 0
        through = shares * through.repeat_interleave(sizes, 1, output_size=units.shape[1])
        pairs = shares[:, own].unsqueeze(2) * through.unsqueeze(1)
        if self.pooling.conserve:
            return pairs
        scale = self.stiffness if self.soft else 1.0
        return pairs * (units[:, own].unsqueeze(2) - units.unsqueeze(1)) * scale

    def linear_units(self) -> tuple[Tensor, Tensor]:
        """Weight (P, d) and bias (P,) of the linear units; the stiffness of a soft clustering comes after the pools."""
        assert self.center is not None
        weight, root = self.weight.double(), self.root.double() + 2 * self.center.double()
        return 2 * weight, -(weight * root).sum(1)

    def relevance_of_pairs(
        self, points: Tensor, scores: Tensor, passed: Tensor, cluster: int, shift: float
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """As for one unit a cluster, for each support vector of the cluster and all those of others."""
        own, index = self._members(cluster), torch.arange(len(self.weight), device=scores.device)
        others = torch.cat([index[: own.start], index[own.stop :]])
        flow = self._flows(points, scores, passed, cluster)
        for i, unit in enumerate(range(own.start, own.stop)):
            yield unit, others, flow[:, i, others]

    def pool_units(self, units: Tensor) -> Tensor:
        """Scores (N, K) from linear units (N, P)."""
        return self._scaled(soft_maximum(units, self.sizes, self.gamma, self.log_weight)[0])

    def unit_coefficients(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (M, P) of the support vectors, and the shares (M, P) of the explained cluster's own.

        Raises
        ------
        ValueError
            If pools conserve: relevance is then no product of such coefficients.
        """
        if self.pooling.conserve:
            raise ValueError("words are explained through kernel heads that dissipate: build the head without conserve")
        return self._spread(soft_maximum(units, self.sizes, self.gamma, self.log_weight)[1], coefficients, cluster)

    def _spread(self, shares: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        sizes = torch.tensor(self.sizes, device=shares.device)
        coefficients = self._scaled(coefficients)
        if len(set(self.sizes)) == 1:
            spread = (shares.unflatten(1, (len(sizes), -1)) * coefficients.unsqueeze(2)).flatten(1)
        else:
            spread = shares * coefficients.repeat_interleave(sizes, 1, output_size=shares.shape[1])
        if not self.mixing:
            return spread, None
        owner = torch.arange(len(sizes), device=shares.device).repeat_interleave(sizes)
        return spread, shares * (owner == cluster[:, None])

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={len(self.sizes)}, support={len(self.weight)}, n_features={self.weight.shape[1]}"


class SupportContrast(ContrastLayer):
    r"""Detection layer of kernel k-means with every neuron explicit: ``(N, d, ...)`` to ``(N, P, P, ...)``.

    .. math:: h_{ij} = \|x - u_j\|^2 - \|x - u_i\|^2 \qquad (\text{layer 1})

    Parameters
    ----------
    center, weight, root, mixing
        As for :class:`SupportEvidence`.
    """

    evidence: CentroidEvidence

    def __init__(self, center: Tensor, weight: Tensor, root: Tensor, mixing: bool = False):
        super().__init__(CentroidEvidence(center, weight, root, mixing))

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the pairs."""
        values = self.evidence.scores(self.evidence.centred(x))
        return values.unsqueeze(2) - values.unsqueeze(1)

    def midpoint(self, points: Tensor, passed: Tensor) -> Tensor:
        """Relevance of points (M, d) by the midpoint rule, from that of the pairs over their activations (M, P, P)."""
        weight, root = self.evidence.weight.to(points), self.evidence.root.to(points)
        relevance = functional.redistribute(points, passed.sum(1) - passed.sum(2), weight, root)
        if self.evidence.mixing:
            relevance += ((passed @ weight) * root - (passed @ root) * weight).sum(1)
        return relevance


class LogMeanExpPool(nn.Module):
    r"""Soft maximum or minimum over the support vectors of each cluster (layers 2 and 3 of kernel k-means).

    Parameters
    ----------
    sizes : sequence of int
        How many support vectors each cluster has.
    sharpness : float
        :math:`+\gamma` pools the explained cluster, ``(N, P, P, ...)`` to ``(N, C, P, ...)``; :math:`-\gamma` its
        competitors, ``(N, C, P, ...)`` to ``(N, C, K - 1, ...)``.
    clusters : Tensor of int64, shape (C,)
        The explained clusters.
    log_weight : Tensor, shape (P,), optional
        Logarithm of the weight of each support vector.
    conserve : bool
        Whether relevance is not dissipated (Eq. 9, paper 2).
    """

    clusters: Tensor
    log_weight: Tensor | None

    def __init__(
        self,
        sizes: Sequence[int],
        sharpness: float,
        clusters: Tensor,
        log_weight: Tensor | None = None,
        conserve: bool = False,
    ):
        super().__init__()
        self.sizes, self.sharpness, self.conserve = tuple(sizes), sharpness, conserve
        self.register_buffer("clusters", clusters)
        self.register_buffer("log_weight", log_weight)

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled activations of all clusters, in the place of those of support vectors, and the shares."""
        if self.sharpness > 0:
            return soft_maximum(x, self.sizes, self.sharpness, self.log_weight)
        pooled, shares = soft_maximum(-x.transpose(1, 2), self.sizes, -self.sharpness, self.log_weight)
        return -pooled.transpose(1, 2), shares.transpose(1, 2)

    def expand_to_units(self, pooled: Tensor) -> Tensor:
        """Give each support vector the value of its cluster."""
        sizes = torch.tensor(self.sizes, device=pooled.device)
        return pooled.repeat_interleave(sizes, 1 if self.sharpness > 0 else 2, output_size=sum(self.sizes))

    def unpooled(self, relevance: Tensor) -> Tensor:
        """Relevance of the outputs, each support vector with that of its cluster."""
        if self.sharpness > 0:
            full = relevance.new_zeros(relevance.shape[0], len(self.sizes), *relevance.shape[2:])
            return self.expand_to_units(full.index_add(1, self.clusters, relevance))
        full = relevance.new_zeros(*relevance.shape[:2], len(self.sizes), *relevance.shape[3:])
        return self.expand_to_units(full.scatter(2, self.others(relevance), relevance))

    def forward(self, x: Tensor) -> Tensor:
        """Pooled activations."""
        pooled, _ = self.pooled(x)
        return pooled.index_select(1, self.clusters) if self.sharpness > 0 else pooled.gather(2, self.others(pooled))

    def others(self, pooled: Tensor) -> Tensor:
        """Index of the competitors of each cluster, to gather them from (N, C, K, ...)."""
        index = functional.competitor_index(len(self.sizes), self.clusters)
        index = index.view(1, *index.shape, *[1] * (pooled.ndim - 3))
        return index.expand(len(pooled), -1, -1, *pooled.shape[3:])

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={len(self.sizes)}, support={sum(self.sizes)}, sharpness={self.sharpness:g}"
