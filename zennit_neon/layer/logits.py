"""Layers of clusterings on logits, such as SCAN: each competitor is a logit."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import functional
from .base import Scored, Stiff

__all__ = ["LogitContrast", "LogitEvidence"]


class _Logits(Scored):
    """Weights and biases of a linear cluster layer, as they are: there is no distance, and so no center."""

    bias: Tensor
    conserves = False
    shift_in_bias = True

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

    def linear_units(self) -> tuple[Tensor, Tensor]:
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
        return self.select_clusters(self.evidence(self.scores(self.centred(x))))
