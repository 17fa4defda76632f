"""Detection and pooling layers of neuralised clusterings: leaf modules, so that each can carry one rule.

All of them take features (or clusters) in dimension 1, as torch's convolutions do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from . import functional

__all__ = ["CentroidContrast", "CentroidEvidence", "MinPool", "UnitNorm"]


class _Stiffness(nn.Module):
    """A layer that pools over competitors and knows the stiffness of its rule.

    ``beta`` is state of the module (it travels with ``state_dict`` and pickle) but not a buffer: a half-precision
    copy of the model must not round it to 0.
    """

    def __init__(self, beta: float | None = None):
        super().__init__()
        self.beta = beta

    def get_extra_state(self) -> dict[str, float | None]:
        return {"beta": self.beta}

    def set_extra_state(self, state: Any) -> None:
        self.beta = state["beta"]


class _Centroids(nn.Module):
    """Weights and roots of the first layer, in centred coordinates (see :func:`zennit_neon.functional.scores`)."""

    center: Tensor
    weight: Tensor
    root: Tensor
    clusters: Tensor

    def _store(self, center: Tensor, weight: Tensor, root: Tensor, mixing: bool, clusters: Tensor | None) -> None:
        if clusters is None:
            clusters = torch.arange(len(weight))
        self.mixing = mixing
        self.register_buffer("center", center)
        self.register_buffer("weight", weight)
        self.register_buffer("root", root)
        self.register_buffer("clusters", clusters)

    def centred(self, x: Tensor) -> Tensor:
        """Points in the coordinates and the precision in which the layer computes; half types become float32."""
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        center = self.center.to(x)
        return x - (center if x.ndim == 2 else center.view(-1, *[1] * (x.ndim - 2)))

    def scores(self, centred: Tensor) -> Tensor:
        """Scores of all clusters, of which evidence is a difference: (N, d, ...) to (N, K, ...)."""
        return functional.scores(centred, self.weight.to(centred), self.root.to(centred))

    def redistribute(self, centred: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance of points (M, d), from coefficients (M, K) for the explained cluster (M,) of each."""
        weight, root = self.weight.to(centred), self.root.to(centred)
        return functional.redistribute(centred, coefficients, weight, root, cluster if self.mixing else None, out)

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={len(self.weight)}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"


class CentroidContrast(_Centroids):
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
    """

    def __init__(
        self, center: Tensor, weight: Tensor, root: Tensor, mixing: bool = False, clusters: Tensor | None = None
    ):
        super().__init__()
        self._store(center, weight, root, mixing, clusters)

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the pairs."""
        return functional.contrasts(self.scores(self.centred(x)), self.clusters)


class CentroidEvidence(_Centroids, _Stiffness):
    """Both layers of neuralised k-means in one, with the evidence of all clusters in O(N K d) (Prop. 1, paper 1).

    ``(N, d, ...)`` to ``(N, C, ...)``. Parameters as for :class:`CentroidContrast`, and ``beta``, the stiffness of
    the min-take-most rule (Eq. 2).
    """

    def __init__(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        mixing: bool = False,
        clusters: Tensor | None = None,
        beta: float | None = None,
    ):
        super().__init__(beta)
        self._store(center, weight, root, mixing, clusters)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        evidence = functional.evidence(self.scores(self.centred(x)))
        return evidence if len(self.clusters) == len(self.weight) else evidence.index_select(1, self.clusters)


class MinPool(_Stiffness):
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
    """

    center: Tensor | None
    linear: Tensor | None

    def __init__(self, order: str = "l2", center: Tensor | None = None, linear: Tensor | None = None):
        super().__init__()
        self.order = {"l2": 2.0, "l1": 1.0, "max": float("inf")}[order]
        self.register_buffer("center", center)
        self.register_buffer("linear", linear)

    def forward(self, x: Tensor) -> Tensor:
        """Scaled points, shaped like ``x``: (N, d, ...)."""
        shape = (-1, *[1] * (x.ndim - 2))
        if self.center is not None:
            x = x - self.center.to(x).view(shape)
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
