"""Propagation rules of NEON as Zennit hooks.

``MinTakeMost`` and ``Midpoint`` belong to the explicit layers of distances, ``SoftTakeMost`` and ``Detection`` to those
of probabilities and logits. ``ClosedForm`` does the work of a pool and the layer before it where the pairs are never
built. None of them touches a parameter.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import Hook

from . import functional
from .functional.soft import conserved_min_take_most, soft_min_take_most
from .layer.base import EvidenceLayer, Prepared
from .layer.linear_rules import for_points
from .layer.support import LogMeanExpPool, SupportContrast
from .utils.model_state import exact

#: Numbers of pairs of linear units that have relevance at a time.
NUMBERS = 2**22

__all__ = ["MinTakeMost", "MaxTakeMost", "SoftTakeMost", "Dissipate", "Midpoint", "Detection", "ClosedForm"]


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
        with exact():
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
        return functional.stiffness([positive])


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
        """(N, C, ...) to (N, C, K - 1, ...), or as for :class:`MaxTakeMost`."""
        contrasts = self.stored_tensors["input"]
        if isinstance(module, LogMeanExpPool):
            return _take_most(module, contrasts, relevance)
        if self.competitor is not None:
            return relevance.unsqueeze(2) * _against(self.competitor, module, contrasts)
        return functional.min_take_most(contrasts, relevance, self.stiffness(module))


class MaxTakeMost(_Rule):
    r"""Max-take-most for a :class:`~zennit_neon.layer.support.LogMeanExpPool` over the explained cluster (footnote 1).

    .. math:: R_{ijk} = \mathrm{softmax}_{i \in C_c}(\gamma h_{ijk})\, R_{jk}

    The stiffness is that of the pool. :class:`MinTakeMost` does the same for the pool over competitors.
    """

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, P, ...) to (N, P, P, ...)."""
        return _take_most(module, self.stored_tensors["input"], relevance)


def _take_most(pool: LogMeanExpPool, activations: Tensor, relevance: Tensor) -> Tensor:
    """Soft take-most through a log-mean-exp pool."""
    return pool.unpooled(relevance) * pool.pooled(activations)[1]


class Dissipate(_Rule):
    r"""A take-most rule of a :class:`~zennit_neon.layer.support.LogMeanExpPool`, then dissipation (Eq. 10, paper 1).

    .. math:: R_j \leftarrow R_j \frac{h_j}{h}

    with :math:`h` the pool's output: what lands on weakly activated neurons is not passed on. Over both pools of kernel
    k-means this is :math:`R_{ijk} \leftarrow R_{ijk} h_{ijk} / h_k`.

    Parameters
    ----------
    rule : MaxTakeMost or MinTakeMost
    """

    def __init__(self, rule: MaxTakeMost | MinTakeMost):
        super().__init__()
        self.rule = rule

    def _parameters(self) -> dict[str, Any]:
        return {"rule": self.rule}

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """As the rule."""
        activations = self.stored_tensors["input"]
        rule = self.rule.copy()
        rule.stored_tensors.update(self.stored_tensors)
        pooled = module.expand_to_units(module.pooled(activations)[0])
        return rule.propagate(module, relevance) * functional.quotient(activations, pooled)


def _against(competitor: int, module: Any, contrasts: Tensor) -> Tensor:
    """Which neurons (C, K - 1, ...) compare with one competitor."""
    chosen = functional.competitor_index(contrasts.shape[2] + 1, module.clusters) == competitor
    return chosen.view(*chosen.shape, *[1] * (contrasts.ndim - 3))


class SoftTakeMost(_Rule):
    r"""Soft min-take-most with dissipation, for :class:`~zennit_neon.layer.SoftMinPool` (Prop. 7, paper 1).

    .. math:: R_k = \mathrm{softmax}_{k \neq c}(-h_k)\, \frac{h_k}{f_c}\, R_c

    A neuron at 0 cannot pass relevance on; what would land there is dissipated. Where the evidence itself is
    distributed, :math:`\log(K - 1)` minus the entropy of the shares gets lost. Pools of a head with ``conserve=True``
    leave dissipation out: :math:`R_k = \mathrm{softmax}_{k \neq c}(-h_k)\, R_c` (Eq. 9, paper 2).

    Parameters
    ----------
    competitor : int, optional
        The cluster through which all relevance flows instead; none flows where it is the explained cluster itself.
    """

    def __init__(self, competitor: int | None = None):
        super().__init__()
        self.competitor = competitor

    def _parameters(self) -> dict[str, Any]:
        return {"competitor": self.competitor}

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, ...) to (N, C, K - 1, ...)."""
        contrasts = self.stored_tensors["input"]
        if self.competitor is not None:
            return relevance.unsqueeze(2) * _against(self.competitor, module, contrasts)
        neurons, shift = module.neurons(contrasts)
        if module.conserve:
            return conserved_min_take_most(neurons, relevance)
        passed = soft_min_take_most(neurons, relevance)
        # a constant takes its part of what its neuron is given, and the layer below the rest
        return passed if shift == 0 else functional.quotient(passed, neurons) * (neurons - shift)


class Midpoint(_Rule):
    r"""Midpoint rule for :class:`~zennit_neon.layer.CentroidContrast` (Eq. 4, paper 1).

    .. math:: R_i = \sum_{k \neq c} \frac{(x_i - m_{ik}) w_{ik}}{h_{ck}} R_{ck}

    Conserves relevance. A neuron at exactly 0 (a point on the boundary) passes nothing on.

    Parameters
    ----------
    competitor : int, optional
        Has to be that of the rule for the pool: against one competitor alone, neurons of soft clusterings count without
        the constant that belongs to the pool.
    """

    def __init__(self, competitor: int | None = None):
        super().__init__()
        self.competitor = competitor

    def _parameters(self) -> dict[str, Any]:
        return {"competitor": self.competitor}

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, K - 1, ...) to (N, d, ...)."""
        x, layer = self.stored_tensors["input"], module.evidence
        shift = layer.shift if self.competitor is not None else 0.0
        passed = functional.quotient(relevance, self.stored_tensors["output"] - shift)
        points = layer.centred(_points(x))
        passed = passed.movedim((1, 2), (-2, -1)).flatten(0, -3)  # one row a point: (M, C, K - 1)
        if isinstance(module, SupportContrast):
            return _unpoints(module.midpoint(points, passed).to(x.dtype), x)
        competitor = functional.competitor_index(layer.n_clusters, module.clusters)
        total = torch.zeros_like(points)
        weights = passed.new_zeros(len(points), layer.n_clusters)
        for position, (cluster, others) in enumerate(zip(module.clusters, competitor, strict=True)):
            share = passed[:, position]
            weights[:, others] += share
            weights[:, cluster] -= share.sum(1)
            if layer.mixing:  # the rule depends on the explained cluster, not on the sum of coefficients alone
                total += layer.redistribute(points, weights, cluster.expand(len(points)))
                weights.zero_()
        if not layer.mixing:
            total = layer.redistribute(points, weights, module.clusters[:1].expand(len(points)))
        return _unpoints(total.to(x.dtype), x)


class Detection(_Rule):
    r"""Any rule for linear layers on the neurons of a detection layer, in place of the midpoint rule.

    The layer has the weights :math:`w_{ck} = v_c - v_k` of pairs of linear units, of which those of one unit at a time
    are built. They work on the input of the layer as it is, without the center that is subtracted from it otherwise.

    Parameters
    ----------
    linear : zennit.core.Hook, optional
        Zennit's ``Epsilon``, ``ZPlus``, ``ZBox``, ``Gamma``, ... ; LRP-0 if not given.
    competitor : int, optional
        As for :class:`Midpoint`.
    """

    def __init__(self, linear: Hook | None = None, competitor: int | None = None):
        super().__init__()
        self.linear, self.competitor = linear, competitor

    def _parameters(self) -> dict[str, Any]:
        return {"linear": self.linear, "competitor": self.competitor}

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, K - 1, ...), or (N, P, P, ...) of support vectors, to (N, d, ...)."""
        x, layer = self.stored_tensors["input"], module.evidence
        shift = layer.shift if layer.shift_in_bias and self.competitor is None else 0.0
        if layer.shift and not layer.shift_in_bias:  # the constant of soft pooling is none of the linear layer's
            output = self.stored_tensors["output"]
            divisor = output if self.competitor is None else output - layer.shift
            relevance = functional.quotient(relevance, divisor) * (output - layer.shift)
        points = _points(x).double()
        pairs = relevance.movedim((1, 2), (-2, -1)).flatten(0, -3)
        index = torch.arange(layer.n_clusters, device=x.device)
        full = isinstance(module, SupportContrast)
        total = torch.zeros_like(points)
        for position, unit in enumerate(index.tolist() if full else module.clusters.tolist()):
            rows = pairs[:, position].any(1).nonzero()[:, 0]
            if len(rows):
                others = index if full else index[index != unit]
                total.index_add_(
                    0, rows, _detected(self.linear, layer, points[rows], pairs[rows, position], unit, others, shift)
                )
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
    linear : zennit.core.Hook, optional
        Rule for the linear layer of the head. If not given, distances have the midpoint rule, and logits LRP-0.
    """

    def __init__(self, beta: float | None = None, competitor: int | None = None, linear: Hook | None = None):
        super().__init__(beta, competitor)
        self.linear = linear

    def _parameters(self) -> dict[str, Any]:
        return {**super()._parameters(), "linear": self.linear}

    def propagate(self, module: Any, relevance: Tensor) -> Tensor:
        """(N, C, ...) to (N, d, ...)."""
        x = self.stored_tensors["input"]
        points, targets = module.centred(_points(x)), _points(relevance)
        prepared = module.prepare(points if self.linear is None else points.double())
        total = torch.zeros_like(prepared.points)
        row, column = targets.nonzero(as_tuple=True)
        if not len(row):
            return torch.zeros_like(x)
        beta = self.stiffness(module) if self.competitor is None and not module.soft else None
        if len(row) == len(points) and bool((row == torch.arange(len(row), device=row.device)).all()):
            return _unpoints(self._one_each(module, prepared, targets[row, column], column, beta).to(x.dtype), x)
        # as many targets at a time as there are points: memory stays that of one cluster a point
        for rows, columns in zip(row.split(max(1, len(points))), column.split(max(1, len(points))), strict=True):
            found = self._one_each(module, prepared.rows(rows), targets[rows, columns], columns, beta)
            total.index_add_(0, rows, found)
        return _unpoints(total.to(x.dtype), x)

    def _one_each(
        self, layer: EvidenceLayer, prepared: Prepared, target: Tensor, column: Tensor, beta: float | None
    ) -> Tensor:
        """Relevance of points with one target each."""
        passed, _, cluster = layer.coefficients_for(
            prepared.scores, layer.clusters[column], beta=beta, competitor=self.competitor, relevance=target
        )
        if self.linear is None:
            return layer.relevance(prepared, passed, cluster)
        return self._by_linear_rule(layer, self.linear, prepared, passed, cluster)

    def _by_linear_rule(
        self, layer: EvidenceLayer, linear: Hook, prepared: Prepared, passed: Tensor, cluster: Tensor
    ) -> Tensor:
        """Relevance of points from coefficients, by a rule for linear layers."""
        points, scores, _ = prepared
        shift = layer.shift if layer.shift_in_bias and self.competitor is None else 0.0
        inputs = points if layer.center is None else points + layer.center.to(points)
        total = torch.zeros_like(points)
        size = max(1, NUMBERS // (len(layer.linear_units()[0]) * layer.max_cluster_units))
        for c in cluster.unique().tolist():
            for rows in (cluster == c).nonzero()[:, 0].split(size):
                pairs_of_units = layer.relevance_of_pairs(points[rows], scores[rows], passed[rows], c, shift)
                for unit, others, pairs in pairs_of_units:
                    total[rows] += _detected(linear, layer, inputs[rows], pairs, unit, others, shift)
        return total


def _detected(
    linear: Hook | None, evidence: EvidenceLayer, points: Tensor, pairs: Tensor, unit: int, others: Tensor, shift: float
) -> Tensor:
    """Relevance of points (M, d) from that of the neurons (M, Q) of one unit, by a rule for linear layers."""
    layer = nn.Linear(1, 1)
    weight, bias = evidence.linear_units()
    layer.weight = nn.Parameter(weight[unit] - weight[others], requires_grad=False)
    layer.bias = nn.Parameter(bias[unit] - bias[others] + shift, requires_grad=False)
    if linear is None:
        return points * (functional.quotient(pairs, layer(points)) @ layer.weight)
    handles = (hook := for_points(linear, points.shape[1])).register(layer)
    try:
        with torch.enable_grad():
            x = points.detach().requires_grad_()
            (relevance,) = torch.autograd.grad(layer(x), x, pairs.to(x.dtype))
    finally:
        handles.remove()
        hook.remove()
    return relevance


def _points(x: Tensor) -> Tensor:
    """(N, C, ...) as one row a point: (M, C)."""
    return x if x.ndim == 2 else x.movedim(1, -1).reshape(-1, x.shape[1])


def _unpoints(points: Tensor, like: Tensor) -> Tensor:
    """Inverse of :func:`_points`."""
    if like.ndim == 2:
        return points
    return points.reshape(like.shape[0], *like.shape[2:], points.shape[1]).movedim(-1, 1)
