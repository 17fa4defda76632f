"""Layers of clusterings by centroids: detection, evidence, and distances as networks have them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import functional
from .base import Centroids

__all__ = ["CentroidContrast", "CentroidDistance", "CentroidEvidence"]


class CentroidContrast(Centroids):
    r"""Detection layer of neuralised k-means with every neuron explicit (Prop. 1, paper 1).

    ``(N, d, ...)`` to ``(N, C, K - 1, ...)``: :math:`h_{ck} = \|x - \mu_k\|^2 - \|x - \mu_c\|^2` for the C clusters
    of interest and their competitors. The weights of the pairs are differences of rows and are never stored.

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
        Neurons are :math:`\beta h_{ck} - \log(K - 1)`, to be pooled by :class:`SoftMinPool` (Prop. 1, paper 2).
    beta : float, optional
        Stiffness of the soft clustering.
    conserve : bool
        The pool conserves relevance (Eq. 9, paper 2). Neurons are then :math:`\beta h_{ck}`.
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
        super().__init__(beta)
        self._store(center, weight, root, mixing, clusters, soft, conserve)

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the pairs."""
        return functional.contrasts(self.scores(self.centred(x)), self.clusters) + self.shift


class CentroidEvidence(Centroids):
    """Both layers of neuralised k-means in one, with the evidence of all clusters in O(N K d) (Prop. 1, paper 1).

    ``(N, d, ...)`` to ``(N, C, ...)``. Parameters as for :class:`CentroidContrast`; ``beta`` is the stiffness of the
    min-take-most rule (Eq. 2), and if ``soft`` that of the clustering, the logit of which is evidence.
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
        super().__init__(beta)
        self._store(center, weight, root, mixing, clusters, soft, conserve)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        return self.select_clusters(self.evidence(self.scores(self.centred(x))))


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
