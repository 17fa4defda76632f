"""Pools over competitors: the smallest contrast, or a soft minimum."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["MinPool", "SoftMinPool"]


class _Pool(nn.Module):
    """A pool that knows its clusters and its stiffness, which is no buffer: casting must not round it."""

    clusters: Tensor

    def __init__(self, clusters: Tensor, beta: float | None = None):
        super().__init__()
        self.beta = beta
        self.register_buffer("clusters", clusters)

    def get_extra_state(self) -> dict[str, float | None]:
        """The stiffness, which a state dict brings along."""
        return {"beta": self.beta}

    def set_extra_state(self, state: Any) -> None:
        """Take the stiffness of a state dict."""
        self.beta = state["beta"]


class MinPool(_Pool):
    """Minimum over the competitors, dimension 2: ``(N, C, K - 1, ...)`` to ``(N, C, ...)`` (Prop. 1, paper 1).

    Parameters
    ----------
    clusters : Tensor of int64, shape (C,)
        The cluster that each of the C outputs belongs to.
    beta : float, optional
        Stiffness of the min-take-most rule (Eq. 2).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Evidence from the activations of the pairs."""
        return x.amin(2)


class SoftMinPool(_Pool):
    r"""Soft minimum over the competitors, dimension 2: ``(N, C, K - 1, ...)`` to ``(N, C, ...)`` (Prop. 7, paper 1).

    .. math:: f_c = \mathrm{LME}^{-1}_k\{h_k\} = -\log \frac{1}{K - 1} \sum_k \exp(-h_k)

    Parameters
    ----------
    clusters : Tensor of int64, shape (C,)
        The cluster that each of the C outputs belongs to.
    scaled : bool
        Whether inputs are differences of distances, which the pool turns into :math:`\beta h_k - \log(K - 1)` itself.
    beta : float, optional
        Stiffness of the clustering, if ``scaled``.
    conserve : bool
        Whether relevance is conserved (Eq. 9, paper 2). The pool is then :math:`-\log \sum_k \exp(-h_k)`, of neurons
        without the constant.
    """

    def __init__(self, clusters: Tensor, scaled: bool = False, beta: float | None = None, conserve: bool = False):
        super().__init__(clusters, beta)
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
