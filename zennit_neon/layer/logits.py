"""Layers of clusterings on logits, such as SCAN: each competitor is a logit."""

from __future__ import annotations

import torch
from torch import Tensor

from .base import EvidenceLayer
from .contrast import ContrastLayer
from .pooling import SoftPooling

__all__ = ["LogitContrast", "LogitEvidence"]


class LogitEvidence(EvidenceLayer):
    r"""Both layers of a soft clustering on logits in one, in O(N K d) (Props. 6 and 7, paper 1).

    ``(N, d, ...)`` to ``(N, C, ...)``. Weights and biases are those of the linear cluster layer, as they are: there is
    no distance, and so no center.

    Parameters
    ----------
    weight : Tensor, shape (K, d)
    bias : Tensor, shape (K,)
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest; all if not given.
    shift : float, optional
        :math:`t = -\log(K - 1) + \log((1 - \theta)/\theta)` of Prop. 7; 0, and no soft pooling, if not given.
    beta : float, optional
        Stiffness of the min-take-most rule (Eq. 2), which soft pooling does not need.
    """

    weight: Tensor
    bias: Tensor
    shift_in_bias = True

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        clusters: Tensor | None = None,
        shift: float | None = None,
        beta: float | None = None,
    ):
        pooling = None if shift is None else SoftPooling(len(weight), shift=shift)
        super().__init__(len(weight), clusters, beta, pooling=pooling)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    @property
    def conserves(self) -> bool:
        """Relevance of the biases is not passed on."""
        return False

    def centred(self, x: Tensor) -> Tensor:
        """Points in float64, whatever the model is cast to: logits of 1e4 leave float32 few digits for differences."""
        return x.double()

    def scores(self, points: Tensor) -> Tensor:
        """Logits of all clusters: (N, d, ...) to (N, K, ...)."""
        weight, bias = self.weight.double(), self.bias.double()
        if points.ndim == 2:
            return torch.addmm(bias, points, weight.t())
        return (torch.matmul(weight, points.flatten(2)) + bias[:, None]).unflatten(2, points.shape[2:])

    def redistribute(self, points: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance of points (M, d) by LRP-0, from coefficients (M, K)."""
        return torch.mm(coefficients, self.weight.double(), out=out).mul_(points).neg_()

    def linear_units(self) -> tuple[Tensor, Tensor]:
        """Weight (K, d) and bias (K,) of the logits, in float64."""
        return self.weight.double(), self.bias.double()

    def pool_units(self, units: Tensor) -> Tensor:
        """Logits are scores."""
        return units

    def unit_coefficients(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients of logits are those of scores; features do not mix."""
        return coefficients, None

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={self.n_clusters}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"


class LogitContrast(ContrastLayer):
    r"""Detection layer of a soft clustering on logits, with every neuron explicit (Props. 6 and 7, paper 1).

    ``(N, d, ...)`` to ``(N, C, K - 1, ...)``: :math:`h_{ck} = (\mu_c - \mu_k) \cdot a + b_c - b_k + t`. Parameters as
    for :class:`LogitEvidence`.
    """

    def __init__(self, weight: Tensor, bias: Tensor, clusters: Tensor | None = None, shift: float | None = None):
        super().__init__(LogitEvidence(weight, bias, clusters, shift))
