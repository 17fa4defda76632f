"""What layers have in common that know the scores of all clusters: how these compete, and what they weigh."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional
from ..functional.soft import conserved_coefficients, soft_coefficients, soft_evidence, soft_pool_competitors

__all__ = ["Centroids", "Scored", "Stiff", "is_split", "less"]


class Stiff(nn.Module):
    """A layer that pools over competitors and knows the stiffness of its rule.

    ``beta`` is state of the module (it travels with ``state_dict`` and pickle) but not a buffer: a half-precision
    copy of the model must not round it to 0.
    """

    def __init__(self, beta: float | None = None):
        super().__init__()
        self.beta = beta

    def get_extra_state(self) -> dict[str, float | None]:
        """The stiffness, which a state dict brings along."""
        return {"beta": self.beta}

    def set_extra_state(self, state: Any) -> None:
        """Take the stiffness of a state dict."""
        self.beta = state["beta"]


class Scored(nn.Module):
    """A layer that knows the scores of all clusters, and how they compete.

    Hard pooling takes the nearest competitor (Prop. 1 and 6, paper 1), soft pooling all of them (Prop. 7). ``shift``
    is the constant that soft pooling adds to every neuron. Soft pools dissipate relevance (paper 1), or conserve it
    (Eq. 9, paper 2) if ``conserve`` is set.
    """

    soft = False
    conserve = False
    shift = 0.0
    #: Whether relevance of the input sums to evidence: no biases, nothing dissipated.
    conserves = True
    weight: Tensor
    clusters: Tensor

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.weight)

    def evidence(self, scores: Tensor) -> Tensor:
        """Evidence (N, K, ...) from scores."""
        return soft_evidence(scores, self.threshold) if self.soft else functional.evidence(scores)

    @property
    def threshold(self) -> float:
        """What soft pooling adds to the logit of a probability: 0 for 1/2."""
        return 0.0 if self.conserve else self.shift + math.log(self.n_clusters - 1)

    def pool_competitors(self, scores: Tensor, cluster: Tensor | None = None) -> functional.PooledCompetitors:
        """Scores (M, K) of points, pooled for one cluster each."""
        if not self.soft:
            return functional.pool_competitors(scores, cluster)
        return soft_pool_competitors(scores, cluster, self.threshold)

    def coefficients(
        self, contest: functional.PooledCompetitors, beta: float | None, relevance: Tensor | None = None
    ) -> Tensor:
        """Coefficients (M, K) of the rule for the layer below; soft pooling needs no stiffness."""
        if self.soft:
            return (conserved_coefficients if self.conserve else soft_coefficients)(contest, relevance)
        assert beta is not None
        return functional.coefficients(contest, beta, relevance)

    def contrast_coefficients(
        self, scores: Tensor, competitor: int, cluster: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients, activation and cluster where one competitor alone counts."""
        self.check_competitor(competitor)
        return functional.contrast_coefficients(scores, competitor, cluster)

    def check_competitor(self, competitor: int) -> None:
        """``ValueError`` if there is no such cluster."""
        if not 0 <= competitor < self.n_clusters:
            raise ValueError(f"competitor must be from 0 to {self.n_clusters - 1}, got {competitor}")

    def select_competitor(self, passed: Tensor, competitor: int, cluster: Tensor) -> Tensor:
        """The part of coefficients that belongs to one competitor; none where it is the explained cluster."""
        part = passed[:, competitor] * (cluster != competitor)
        alone = torch.zeros_like(passed)
        alone[:, competitor] = part
        return alone.scatter_add_(1, cluster[:, None], -part[:, None])

    def relevance_by_competitor(self, passed: Tensor, scores: Tensor, cluster: Tensor, shift: float = 0.0) -> Tensor:
        """Relevance (M, K) through each competitor: coefficient times activation."""
        own = cluster[:, None]
        return passed * (scores.gather(1, own) - scores + shift).scatter(1, own, 0)

    def pool_units(self, units: Tensor) -> Tensor:
        """Scores (N, K) from the linear units (N, P) below them: the same where a cluster has one unit."""
        return units

    def unit_coefficients(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (M, P) of the linear units, and the part that is the own cluster's where features mix."""
        return coefficients, None

    def linear_units(self) -> tuple[Tensor, Tensor]:
        """Weight (P, d) and bias (P,) of the linear units, in float64 and the coordinates of the layer's input.

        A neuron of the first layer is the difference of two of them.
        """
        raise TypeError(f"{type(self).__name__} has no linear layer that compares clusters")

    #: Whether the constant of soft pooling belongs to the bias of the neurons.
    shift_in_bias = False

    @property
    def max_cluster_units(self) -> int:
        """Linear units of a cluster, at most."""
        return 1

    def relevance_of_pairs(
        self, centred: Tensor, scores: Tensor, passed: Tensor, cluster: int, shift: float
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Relevance of the neurons of one cluster, from coefficients (M, K) of points with their scores (M, K).

        Yields
        ------
        unit : int
            Linear unit of the cluster.
        others : Tensor of int64, shape (Q,)
            Units that it is compared with.
        relevance : Tensor, shape (M, Q)
        """
        others = functional.competitor_index(self.n_clusters, torch.tensor([cluster], device=scores.device))[0]
        yield cluster, others, passed[:, others] * (scores[:, cluster, None] - scores[:, others] + shift)

    def select_clusters(self, evidence: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        return evidence.index_select(1, self.clusters)


class Centroids(Scored, Stiff):
    """Weights and roots of the first layer, in centred coordinates (see :func:`zennit_neon.functional.scores`)."""

    center: Tensor
    root: Tensor

    def _store(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        mixing: bool,
        clusters: Tensor | None,
        soft: bool,
        conserve: bool = False,
    ) -> None:
        if clusters is None:
            clusters = torch.arange(len(weight))
        self.mixing = mixing
        self.register_buffer("center", center)
        self.register_buffer("weight", weight)
        self.register_buffer("root", root)
        self.register_buffer("clusters", clusters)
        self.split = is_split(center)
        if soft:
            self.soft, self.conserve, self.conserves = True, conserve, conserve
            self.shift = 0.0 if conserve else -math.log(self.n_clusters - 1)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module, but a center that is not to be rounded keeps its digits when the model is cast."""
        center = self.center
        super()._apply(fn, recurse)
        if self.split and self.center.dtype != center.dtype:
            self.center = center.to(self.center.device)
        return self

    def set_extra_state(self, state: Any) -> None:
        """Take the stiffness of a state dict; its center is here already."""
        super().set_extra_state(state)
        self.split = is_split(self.center)

    def centred(self, x: Tensor) -> Tensor:
        """Points in the coordinates and the precision in which the layer computes; half types become float32."""
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        return less(x, self.center, self.split)

    @property
    def stiffness(self) -> float:
        """Stiffness of a soft clustering.

        Raises
        ------
        ValueError
            If it was neither given nor calibrated.
        """
        if self.beta is None:
            raise ValueError(
                "this soft clustering has no stiffness beta yet: call head.calibrate(X, probability=0.9), or give "
                "beta= to the head"
            )
        return self.beta

    def scores(self, centred: Tensor) -> Tensor:
        """Scores of all clusters, of which evidence is a difference: (N, d, ...) to (N, K, ...)."""
        scores = self.unscaled_scores(centred)
        return scores * self.stiffness if self.soft else scores

    def unscaled_scores(self, centred: Tensor) -> Tensor:
        """Scores as differences of distances, before the stiffness of a soft clustering."""
        return functional.scores(centred, self.weight.to(centred), self.root.to(centred))

    def linear_units(self) -> tuple[Tensor, Tensor]:
        """Weight (P, d) and bias (P,) of the linear units, in float64 and the coordinates of the layer's input."""
        scale = self.stiffness if self.soft else 1.0
        weight, root = self.weight.double(), self.root.double() + 2 * self.center.double()
        return 2 * scale * weight, -scale * (weight * root).sum(1)

    def pool_units(self, units: Tensor) -> Tensor:
        r"""Scores (N, K) from linear units (N, P), :math:`2 v_m \cdot x - v_m \cdot \rho_m`."""
        return units * self.stiffness if self.soft else units

    def unit_coefficients(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Coefficients :math:`a` (M, P) of the linear units, and the part :math:`b` (M, P) that is the cluster's own.

        With them, :meth:`redistribute` is, feature by feature,
        :math:`R = a (v \odot \rho) - 2 x \odot a v + (b \rho) \odot (a v) - (b v) \odot (a \rho)`; the last two terms
        are 0, and :math:`b` is None, where features do not mix between input and clusters.
        """
        own = nn.functional.one_hot(cluster, len(self.weight)).to(units) if self.mixing else None
        return (coefficients * self.stiffness if self.soft else coefficients), own

    def redistribute(self, centred: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance of points (M, d), from coefficients (M, K) for the explained cluster (M,) of each."""
        weight, root = self.weight.to(centred), self.root.to(centred)
        coefficients = coefficients * self.stiffness if self.soft else coefficients
        return functional.redistribute(centred, coefficients, weight, root, cluster if self.mixing else None, out)

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={self.n_clusters}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"


def is_split(center: Tensor) -> bool:
    """Whether a center has more digits than float32."""
    return bool((center.float().to(center.dtype) != center).any())


def less(x: Tensor, center: Tensor, split: bool) -> Tensor:
    """Points (N, d, ...) less a center (d,), without rounding of the center, in the precision of the points."""
    shape = (-1, *[1] * (x.ndim - 2))
    upper = center.to(x)
    difference = x - upper.view(shape)
    if split and x.dtype != center.dtype:
        difference = difference - (center - upper.to(center.dtype)).to(x).view(shape)
    return difference
