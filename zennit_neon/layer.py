"""Detection and pooling layers of neuralised clusterings: leaf modules, so that each can carry one rule.

All of them take features (or clusters) in dimension 1, as torch's convolutions do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import functional
from .scored import Centroids, Scored, Stiff, is_split, less

__all__ = [
    "CentroidContrast",
    "CentroidDistance",
    "CentroidEvidence",
    "ClippedReLU",
    "LogitContrast",
    "LogitEvidence",
    "MinPool",
    "SoftMinPool",
    "UnitNorm",
]


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
        return self.chosen(self.evidence(self.scores(self.centred(x))))


class _Logits(Scored):
    """Weights and biases of a linear cluster layer, as they are: there is no distance, and so no center."""

    bias: Tensor
    conserves = False
    shifted = True

    def _store(self, weight: Tensor, bias: Tensor, clusters: Tensor | None, shift: float | None) -> None:
        if clusters is None:
            clusters = torch.arange(len(weight))
        if shift is not None:
            self.soft, self.shift = True, shift
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("clusters", clusters)

    def centred(self, x: Tensor) -> Tensor:
        """Points in float64, whatever the model is cast to: logits of 1e4 leave float32 few digits for differences."""
        return x.double()

    def scores(self, centred: Tensor) -> Tensor:
        """Logits of all clusters: (N, d, ...) to (N, K, ...)."""
        weight, bias = self.weight.double(), self.bias.double()
        if centred.ndim == 2:
            return torch.addmm(bias, centred, weight.t())
        return (torch.matmul(weight, centred.flatten(2)) + bias[:, None]).unflatten(2, centred.shape[2:])

    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight (K, d) and bias (K,) of the logits, in float64."""
        return self.weight.double(), self.bias.double()

    def redistribute(self, centred: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance of points (M, d) by LRP-0, from coefficients (M, K)."""
        return torch.mm(coefficients, self.weight.double(), out=out).mul_(centred).neg_()

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={len(self.weight)}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"


class LogitContrast(_Logits):
    r"""Detection layer of a soft clustering on logits, with every neuron explicit (Props. 6 and 7, paper 1).

    ``(N, d, ...)`` to ``(N, C, K - 1, ...)``: :math:`h_{ck} = (\mu_c - \mu_k) \cdot a + b_c - b_k + t`.

    Parameters
    ----------
    weight : Tensor, shape (K, d)
    bias : Tensor, shape (K,)
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest; all if not given.
    shift : float, optional
        :math:`t = -\log(K - 1) + \log((1 - \theta)/\theta)` of Prop. 7; 0, and no soft pooling, if not given.
    """

    def __init__(self, weight: Tensor, bias: Tensor, clusters: Tensor | None = None, shift: float | None = None):
        super().__init__()
        self._store(weight, bias, clusters, shift)

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the pairs."""
        return functional.contrasts(self.scores(self.centred(x)), self.clusters) + self.shift


class LogitEvidence(_Logits, Stiff):
    """Both layers of a soft clustering on logits in one, in O(N K d) (Props. 6 and 7, paper 1).

    ``(N, d, ...)`` to ``(N, C, ...)``. Parameters as for :class:`LogitContrast`, and ``beta``, the stiffness of the
    min-take-most rule (Eq. 2), which soft pooling does not need.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        clusters: Tensor | None = None,
        shift: float | None = None,
        beta: float | None = None,
    ):
        super().__init__(beta)
        self._store(weight, bias, clusters, shift)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        return self.chosen(self.evidence(self.scores(self.centred(x))))


class MinPool(Stiff):
    """Minimum over the competitors, dimension 2: ``(N, C, K - 1, ...)`` to ``(N, C, ...)`` (Prop. 1, paper 1).

    Parameters
    ----------
    clusters : Tensor of int64, shape (C,)
        The cluster that each of the C outputs stands for.
    beta : float, optional
        Stiffness of the min-take-most rule (Eq. 2).
    """

    clusters: Tensor

    def __init__(self, clusters: Tensor, beta: float | None = None):
        super().__init__(beta)
        self.register_buffer("clusters", clusters)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence from the activations of the pairs."""
        return x.amin(2)


class SoftMinPool(Stiff):
    r"""Soft minimum over the competitors, dimension 2: ``(N, C, K - 1, ...)`` to ``(N, C, ...)`` (Prop. 7, paper 1).

    .. math:: f_c = \mathrm{LME}^{-1}_k\{h_k\} = -\log \frac{1}{K - 1} \sum_k \exp(-h_k)

    Parameters
    ----------
    clusters : Tensor of int64, shape (C,)
        The cluster that each of the C outputs stands for.
    scaled : bool
        Whether inputs are differences of distances, which the pool turns into :math:`\beta h_k - \log(K - 1)` itself.
    beta : float, optional
        Stiffness of the clustering, if ``scaled``.
    conserve : bool
        Whether relevance is conserved (Eq. 9, paper 2). The pool is then :math:`-\log \sum_k \exp(-h_k)`, of neurons
        without the constant.
    """

    clusters: Tensor

    def __init__(self, clusters: Tensor, scaled: bool = False, beta: float | None = None, conserve: bool = False):
        super().__init__(beta)
        self.register_buffer("clusters", clusters)
        self.scaled, self.conserve = scaled, conserve

    def neurons(self, x: Tensor) -> tuple[Tensor, float]:
        """What is pooled, and the constant in it that no layer below accounts for."""
        if not self.scaled:
            return x, 0.0
        assert self.beta is not None
        shift = 0.0 if self.conserve else -math.log(x.shape[2])
        return self.beta * x + shift, shift

    def forward(self, x: Tensor) -> Tensor:
        """Evidence from the activations of the pairs."""
        neurons, _ = self.neurons(x)
        pooled = -torch.logsumexp(-neurons, 2)
        return pooled if self.conserve else math.log(x.shape[2]) + pooled


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


class UnitNorm(nn.Module):
    """Division of each point by its norm; a point of norm 0 stays 0.

    The gradient is that of the true function. In propagation the scale counts as a constant, as in both papers, so
    that relevance passes feature by feature (Zennit's ``Pass``, which ``Neon`` puts here).

    Parameters
    ----------
    order : {"l2", "l1", "max"}
    center : Tensor, shape (d,), optional
        Subtracted first.
    linear : Tensor, shape (d,) or (p, d), optional
        The norm is that of ``linear`` applied to the point.
    lift : Tensor, shape (d,), optional
        Subtracted second; what a center cannot hold that is large beside it.
    """

    center: Tensor | None
    linear: Tensor | None
    lift: Tensor | None

    def __init__(
        self,
        order: str = "l2",
        center: Tensor | None = None,
        linear: Tensor | None = None,
        lift: Tensor | None = None,
    ):
        super().__init__()
        self.order = {"l2": 2.0, "l1": 1.0, "max": float("inf")}[order]
        self.register_buffer("center", center)
        self.register_buffer("linear", linear)
        self.register_buffer("lift", lift)
        self.split = center is not None and is_split(center)

    @property
    def origin(self) -> Tensor | None:
        """The point that is mapped to 0, (d,)."""
        return self.center if self.center is None or self.lift is None else self.center + self.lift

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module, but a center that is not to be rounded keeps its digits when the model is cast."""
        center = self.center
        super()._apply(fn, recurse)
        if center is not None and self.center is not None and self.split and self.center.dtype != center.dtype:
            self.center = center.to(self.center.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Scaled points, shaped like ``x``: (N, d, ...)."""
        shape = (-1, *[1] * (x.ndim - 2))
        if self.center is not None:
            x = less(x, self.center, self.split)
        if self.lift is not None:
            x = x - self.lift.to(x).view(shape)
        if self.linear is None:
            image = x
        elif self.linear.ndim == 1:
            image = x * self.linear.to(x).view(shape)
        else:
            image = torch.einsum("pd,nd...->np...", self.linear.to(x), x)
        norm = torch.linalg.vector_norm(image, self.order, dim=1, keepdim=True)
        return x / torch.where(norm == 0, 1, norm)

    def extra_repr(self) -> str:
        """Order for ``print``."""
        return f"order={self.order:g}"


class ClippedReLU(nn.ReLU):
    r"""The rectifier of the deep model of paper 2: :math:`\max(0, x) - 0.75 \max(0, x - 1)`.

    Its slope falls to a quarter above 1, which draws points together into clusters. Zennit's types know it as an
    activation, so that relevance passes it under any composite as it passes a ReLU.

    Examples
    --------
    >>> ClippedReLU()(torch.tensor([-2.0, 0.5, 1.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Activations, shaped like ``x``."""
        return torch.where(x > 1, 0.25 * x + 0.75, x.clamp(min=0))
