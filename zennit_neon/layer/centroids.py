"""Layers of clusterings by centroids: detection, evidence, and distances as networks have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import functional
from .base import EvidenceLayer
from .contrast import ContrastLayer
from .pooling import SoftPooling

__all__ = ["CentroidContrast", "CentroidDistance", "CentroidEvidence"]


class CentroidEvidence(EvidenceLayer):
    r"""Both layers of neuralised k-means in one, with the evidence of all clusters in O(N K d) (Prop. 1, paper 1).

    ``(N, d, ...)`` to ``(N, C, ...)``: :math:`f_c = \min_{k \neq c} \|x - \mu_k\|^2 - \|x - \mu_c\|^2` for the C
    clusters of interest.

    Parameters
    ----------
    center : Tensor, shape (d,)
        Origin of the coordinates in which the layer computes.
    weight, root : Tensor, shape (K, d)
        See :func:`zennit_neon.functional.scores`.
    mixing : bool
        Whether features mix between input and clusters (:func:`zennit_neon.functional.redistribute`).
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest; all if not given.
    soft : bool
        Evidence is the logit of the probability of a cluster (Prop. 1, paper 2).
    beta : float, optional
        Stiffness of the min-take-most rule (Eq. 2), and if ``soft`` that of the clustering.
    conserve : bool
        The pool conserves relevance (Eq. 9, paper 2), if ``soft``.
    """

    weight: Tensor
    root: Tensor

    def __init__(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        mixing: bool = False,
        clusters: Tensor | None = None,
        soft: bool = False,
        beta: float | None = None,
        conserve: bool = False,
    ):
        pooling = SoftPooling(len(weight), conserve) if soft else None
        super().__init__(len(weight), clusters, beta, center=center, pooling=pooling)
        self.mixing = mixing
        self.register_buffer("weight", weight)
        self.register_buffer("root", root)

    def scores(self, points: Tensor) -> Tensor:
        """Scores of all clusters, differences of which are neurons: (N, d, ...) to (N, K, ...)."""
        return self.pool_units(self.unscaled_scores(points))

    def unscaled_scores(self, points: Tensor) -> Tensor:
        """Scores as differences of distances, before the stiffness of a soft clustering."""
        return functional.scores(points, self.weight.to(points), self.root.to(points))

    def redistribute(self, points: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance (M, d) of points by the midpoint rule (Eq. 4, paper 1)."""
        weight, root = self.weight.to(points), self.root.to(points)
        own = cluster if self.mixing else None
        return functional.redistribute(points, self.pool_units(coefficients), weight, root, own, out)

    def linear_units(self) -> tuple[Tensor, Tensor]:
        """Weight (K, d) and bias (K,) of the linear units, in float64 and the coordinates of the layer's input."""
        scale = self.stiffness if self.soft else 1.0
        assert self.center is not None
        weight, root = self.weight.double(), self.root.double() + 2 * self.center.double()
        return 2 * scale * weight, -scale * (weight * root).sum(1)

    def pool_units(self, units: Tensor) -> Tensor:
        r"""Scores (N, K) from linear units (N, K), :math:`2 v_k \cdot x - v_k \cdot \rho_k`."""
        return units * self.stiffness if self.soft else units

    def unit_coefficients(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Coefficients :math:`a` (M, K) of the linear units, and the part :math:`b` (M, K) that is the cluster's own.

        With them, :meth:`redistribute` is, feature by feature,
        :math:`R = a (v \odot \rho) - 2 x \odot a v + (b \rho) \odot (a v) - (b v) \odot (a \rho)`; the last two terms
        are 0, and :math:`b` is None, where features do not mix between input and clusters.
        """
        own = nn.functional.one_hot(cluster, len(self.weight)).to(units) if self.mixing else None
        return self.pool_units(coefficients), own

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={self.n_clusters}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"


class CentroidContrast(ContrastLayer):
    r"""Detection layer of neuralised k-means with every neuron explicit (Prop. 1, paper 1).

    ``(N, d, ...)`` to ``(N, C, K - 1, ...)``: :math:`h_{ck} = \|x - \mu_k\|^2 - \|x - \mu_c\|^2` for the C clusters
    of interest and their competitors. The weights of the pairs are differences of rows and are never stored.

    Parameters as for :class:`CentroidEvidence`. If ``soft``, neurons are :math:`\beta h_{ck} - \log(K - 1)` (or
    :math:`\beta h_{ck}` with ``conserve``), to be pooled by :class:`SoftMinPool` (Prop. 1, paper 2).
    """

    def __init__(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        mixing: bool = False,
        clusters: Tensor | None = None,
        soft: bool = False,
        beta: float | None = None,
        conserve: bool = False,
    ):
        super().__init__(CentroidEvidence(center, weight, root, mixing, clusters, soft, beta, conserve))


class CentroidDistance(nn.Module):
    r"""Distances to centroids, as a layer of a user's own model: ``(N, d, ...)`` to ``(N, K, ...)``.

    What many deep clusterings end in. :class:`zennit_neon.canonizers.KMeansCanonizer` replaces it with a neuralised
    head while a composite is attached.

    Parameters
    ----------
    centroids : Tensor, shape (K, d)
        Become a parameter, so that they can be trained.
    power : float
        Distances are raised to it; 2 for the squared distance.
    """

    def __init__(self, centroids: Tensor, power: float = 2.0):
        super().__init__()
        if not isinstance(centroids, Tensor) or centroids.ndim != 2:
            raise ValueError(
                f"centroids must be a Tensor of shape (K, d), got {getattr(centroids, 'shape', centroids)}"
            )
        self.centroids = nn.Parameter(centroids.detach().clone())
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """Distances of points to centroids."""
        points = x.movedim(1, -1)
        distance = torch.cdist(points.flatten(0, -2), self.centroids, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.pow(self.power).unflatten(0, points.shape[:-1]).movedim(-1, 1)

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={len(self.centroids)}, n_features={self.centroids.shape[1]}, power={self.power:g}"
