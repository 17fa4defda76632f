"""Pools over competitors: the smallest contrast, or a soft minimum."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import Stiff

__all__ = ["MinPool", "SoftMinPool"]


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
