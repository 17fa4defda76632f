"""Propagation rules of NEON as Zennit hooks.

``MinTakeMost`` and ``Midpoint`` belong to the explicit layers, ``ClosedForm`` does the work of both for the layers
that never build the pairs. None of them touches a parameter.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import Hook

from . import functional

__all__ = ["MinTakeMost", "Midpoint", "ClosedForm"]


class _Rule(Hook):
    """A hook that keeps its parameters when Zennit copies it and stores the tensors of its layer."""

    def copy(self) -> _Rule:
        """A fresh hook with the same parameters."""
        return type(self)(**self._parameters())

    def _parameters(self) -> dict[str, Any]:
        return {}

    def forward(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the rule needs for the backward pass."""
        self.stored_tensors["input"] = input[0]
        self.stored_tensors["output"] = output

    def backward(
        self, module: nn.Module, grad_input: tuple[Tensor | None, ...], grad_output: tuple[Tensor, ...]
    ) -> tuple[Tensor | None, ...]:
        """Replace the gradient with the relevance of the input."""
        relevance = self.propagate(module, grad_output[0])
        return tuple(relevance if grad is not None and grad.shape == relevance.shape else None for grad in grad_input)

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """Relevance of the module's input, given that of its output."""
        raise TypeError(f"{type(self).__name__} is a base class without a rule")


class _PoolingRule(_Rule):
    """A rule with a stiffness, its own or else that of the layer it is attached to."""

    def __init__(self, beta: float | None = None, competitor: int | None = None):
        super().__init__()
        self.beta = functional.check_beta(beta)
        self.competitor = competitor

    def _parameters(self) -> dict[str, Any]:
        return {"beta": self.beta, "competitor": self.competitor}

    def stiffness(self, module: Any) -> float:
        """The stiffness to use: of the rule, else of the layer, else Eq. 3 (paper 1) over the batch at hand.

        The last is the best that can be done without the data set, and warned about, as relevance then depends on
        what else is in the batch.
        """
        beta = self.beta if self.beta is not None else module.beta
        if beta is not None:
            return float(beta)
        evidence = self.stored_tensors["output"].detach()
        positive = evidence[evidence > 0].double()
        if not len(positive):
            raise ValueError("beta is not set, and no point of the batch has positive evidence to estimate it from")
        warnings.warn(
            "beta is not set, so it is estimated from this batch (Eq. 3); call head.calibrate(X), or give beta to the "
            "head or to Neon, for relevance that does not depend on the batch",
            stacklevel=2,
        )
        return 1 / float(positive.mean())


class MinTakeMost(_PoolingRule):
    r"""Min-take-most for :class:`~zennit_neon.layer.MinPool` (Eq. 2, paper 1).

    .. math:: R_{ck} = \mathrm{softmax}_{k \neq c}(-\beta h_{ck})\, R_c

    Parameters
    ----------
    beta : float, optional
        Stiffness; that of the layer (``head.calibrate``) if not given, else estimated from the batch.
    competitor : int, optional
        The cluster through which all relevance flows instead; none flows where it is the explained cluster itself.

    See Also
    --------
    zennit_neon.functional.min_take_most : what happens to competitors that are switched off.
    """

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, ...) to (N, C, K - 1, ...)."""
        contrasts = self.stored_tensors["input"]
        if self.competitor is None:
            return functional.min_take_most(contrasts, relevance, self.stiffness(module))
        chosen = functional.competitor_index(contrasts.shape[2] + 1, module.clusters) == self.competitor
        return relevance.unsqueeze(2) * chosen.view(*chosen.shape, *[1] * (contrasts.ndim - 3))


class Midpoint(_Rule):
    r"""Midpoint rule for :class:`~zennit_neon.layer.CentroidContrast` (Eq. 4, paper 1).

    .. math:: R_i = \sum_{k \neq c} \frac{(x_i - m_{ik}) w_{ik}}{h_{ck}} R_{ck}

    Conserves relevance. A neuron at exactly 0 (a point on the boundary) passes nothing on.
    """

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, K - 1, ...) to (N, d, ...)."""
        x = self.stored_tensors["input"]
        passed = functional.quotient(relevance, self.stored_tensors["output"])
        points = module.centred(_points(x))
        passed = passed.movedim((1, 2), (-2, -1)).flatten(0, -3)  # one row a point: (M, C, K - 1)
        competitor = functional.competitor_index(len(module.weight), module.clusters)
        total = torch.zeros_like(points)
        weights = passed.new_zeros(len(points), len(module.weight))
        for position, (cluster, others) in enumerate(zip(module.clusters, competitor, strict=True)):
            share = passed[:, position]
            weights[:, others] += share
            weights[:, cluster] -= share.sum(1)
            if module.mixing:  # the rule depends on the explained cluster, not on the sum of coefficients alone
                total += module.redistribute(points, weights, cluster.expand(len(points)))
                weights.zero_()
        if not module.mixing:
            total = module.redistribute(points, weights, module.clusters[:1].expand(len(points)))
        return _unpoints(total.to(x.dtype), x)


class ClosedForm(_PoolingRule):
    """Min-take-most and midpoint rule in closed form, for layers that compute evidence in one step.

    The same numbers as :class:`MinTakeMost` and :class:`Midpoint` on the explicit network, at the cost of the forward
    pass: two (M, K) x (K, d) products for M targets. A point with no relevance on its output costs nothing.

    Parameters
    ----------
    beta : float, optional
        Stiffness; that of the layer (``head.calibrate``) if not given, else estimated from the batch.
    competitor : int, optional
        The cluster through which all relevance flows instead; none flows where it is the explained cluster itself.
    """

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, ...) to (N, d, ...)."""
        x = self.stored_tensors["input"]
        points, targets = module.centred(_points(x)), _points(relevance)
        scores = module.scores(points)
        total = torch.zeros_like(points)
        row, column = targets.nonzero(as_tuple=True)
        beta = self.stiffness(module) if self.competitor is None and len(row) else 0.0
        # as many targets at a time as there are points: memory stays that of one cluster a point
        for rows, columns in zip(row.split(max(1, len(points))), column.split(max(1, len(points))), strict=True):
            target, cluster = targets[rows, columns], module.clusters[columns]
            if self.competitor is None:
                pooled = functional.contest(scores[rows], cluster)
                passed = functional.coefficients(pooled, beta, target)
            else:
                passed, contrast, _ = functional.versus(scores[rows], self.competitor, cluster)
                passed = passed * functional.quotient(target, contrast)[:, None]
            total.index_add_(0, rows, module.redistribute(points[rows], passed, cluster))
        return _unpoints(total.to(x.dtype), x)


def _points(x: Tensor) -> Tensor:
    """(N, C, ...) as one row a point: (M, C)."""
    return x if x.ndim == 2 else x.movedim(1, -1).reshape(-1, x.shape[1])


def _unpoints(points: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_points`."""
    if like.ndim == 2:
        return points
    return points.reshape(like.shape[0], *like.shape[2:], points.shape[1]).movedim(-1, 1)
