"""The layer that a neuralised clustering is built around: scores of all clusters, and their relevance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..functional.competitors import PooledCompetitors, competitor_index, quotient
from .pooling import Pooling

__all__ = ["Coefficients", "EvidenceLayer", "Prepared", "is_split", "less"]


class Prepared(NamedTuple):
    """Points, and what is computed of them once for all that is asked."""

    #: (M, d) or (N, d, ...), as the layer computes with them.
    points: Tensor
    #: What competes: scores (M, K) of the clusters, or activations (M, K - 1) of the splits of a tree.
    scores: Tensor
    #: (M, P): what a layer of its own needs for relevance, as the share of each support vector in its cluster.
    shares: Tensor | None = None

    def rows(self, index: Tensor) -> Prepared:
        """The same for some of the points, in any order."""
        return Prepared(*(None if part is None else part[index] for part in self))  # type: ignore[arg-type]


class Coefficients(NamedTuple):
    """What is redistributed to the features of M points, and for what."""

    #: (M, K)
    coefficients: Tensor
    #: (M,): evidence of the explained cluster, or the activation against one competitor.
    evidence: Tensor
    #: (M,) int64: the explained cluster.
    cluster: Tensor


class EvidenceLayer(nn.Module, ABC):
    """Evidence of all clusters in one layer: ``(N, d, ...)`` to ``(N, C, ...)`` for the C clusters of interest.

    Your own clustering needs two methods:

    - :meth:`scores`: one number for each cluster, of which evidence is a difference;
    - :meth:`redistribute`: from coefficients of the scores to relevance of the features.

    Everything else has defaults: clusters compete by hard pooling, points are computed with as they come (half types in
    float32, less ``center``), and whatever holds for some layers only (linear units) is refused with a reason. Register
    what the layer computes with as buffers. Zennit's ``Neon``, ``explain``, ``ClusterGradient`` and Captum's methods
    then know the layer; see the how-to "Bring your own clustering".

    Parameters
    ----------
    n_clusters : int
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest: the outputs, in this order; all if not given.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2, paper 1), or of a soft clustering.
    center : Tensor, shape (d,), optional
        Subtracted from points first, so that data far from zero cost no digits. The layer then computes in coordinates
        around it.
    pooling : Pooling, optional
        How clusters compete; the nearest competitor decides if not given.
    """

    clusters: Tensor
    center: Tensor | None

    #: Whether the constant of soft pooling belongs to the bias of the neurons.
    shift_in_bias = False

    def __init__(
        self,
        n_clusters: int,
        clusters: Tensor | None = None,
        beta: float | None = None,
        *,
        center: Tensor | None = None,
        pooling: Pooling | None = None,
    ):
        super().__init__()
        self.n_clusters, self.beta = n_clusters, beta
        self.pooling = Pooling(n_clusters) if pooling is None else pooling
        self.register_buffer("center", center)
        self.register_buffer("clusters", torch.arange(n_clusters) if clusters is None else clusters)
        self._split = center is not None and is_split(center)

    @abstractmethod
    def scores(self, points: Tensor) -> Tensor:
        """Scores of all clusters: (N, d, ...) to (N, K, ...), in the precision of the points.

        Evidence is the score of a cluster less the largest other one, so the largest score is that of the assigned
        cluster. Points are those that :meth:`centred` returns.
        """

    @abstractmethod
    def redistribute(self, points: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        r"""Relevance (M, d) of points (M, d) from coefficients :math:`a` (M, K) of the scores.

        Rows of coefficients sum to zero, and relevance sums over features to :math:`-\sum_k a_k s_k`, if the layer
        conserves. ``cluster`` (M,) is the explained one, and ``out`` (M, d) may be used for the result.
        """

    def centred(self, x: Tensor) -> Tensor:
        """Points as the layer computes with them: less the center, in their precision; half types become float32."""
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        return x if self.center is None else less(x, self.center, self._split)

    def prepare(self, points: Tensor) -> Prepared:
        """Points with what competes on them, and what :meth:`relevance` needs again."""
        scores = self.scores(points)
        shape = (len(points), self.n_clusters, *points.shape[2:])
        if not isinstance(scores, Tensor) or not scores.is_floating_point() or scores.shape != shape:
            raise TypeError(
                f"{type(self).__name__}.scores must return a floating point tensor (N, K, ...) of shape {shape} for "
                f"points {tuple(points.shape)}, got {described(scores)}"
            )
        return Prepared(points, scores)

    def relevance(self, prepared: Prepared, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """:meth:`redistribute` for prepared points, of which nothing is computed twice."""
        relevance = self.redistribute(prepared.points, coefficients, cluster, out)
        if type(self).__module__.partition(".")[0] != __name__.partition(".")[0]:
            self._check_relevance(relevance, prepared, coefficients)
        return relevance

    def _check_relevance(self, relevance: Any, prepared: Prepared, coefficients: Tensor) -> None:
        """Refuse relevance of a third party's layer that has another shape, or another sum than it is said to have."""
        name, shape = type(self).__name__, prepared.points.shape
        if not isinstance(relevance, Tensor) or relevance.shape != shape:
            raise TypeError(
                f"{name}.redistribute must return a tensor (M, d) of shape {tuple(shape)}, got {described(relevance)}"
            )
        if not self.conserves:
            return
        terms, kind = coefficients.double() * prepared.scores.double(), prepared.scores.dtype
        missing = (relevance.sum(1, dtype=torch.float64) + terms.sum(1)).abs()
        if bool((missing > torch.finfo(kind).eps ** 0.5 * (terms.abs().sum(1) + relevance.abs().sum(1))).any()):
            raise ValueError(
                f"{name}.redistribute must return relevance that sums over features to "
                f"-(coefficients * scores).sum(1), but {float(missing.max()):.3g} is missing or too much; "
                "if some is lost on purpose, set conserves = False in the class"
            )

    def forward(self, x: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        return self.evidence(self.prepare(self.centred(x)).scores).index_select(1, self.clusters)

    @property
    def conserves(self) -> bool:
        """Whether relevance of the input sums to evidence: no biases, nothing dissipated."""
        return self.pooling.conserve or not self.pooling.soft

    @property
    def soft(self) -> bool:
        """Whether all competitors are pooled."""
        return self.pooling.soft

    @property
    def shift(self) -> float:
        """The constant that soft pooling adds to every neuron."""
        return self.pooling.shift

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

    # How clusters compete, as their pooling has it.

    def evidence(self, scores: Tensor) -> Tensor:
        """Evidence (N, K, ...) from what competes."""
        return self.pooling.evidence(scores)

    def pool_competitors(self, scores: Tensor, cluster: Tensor | None = None) -> PooledCompetitors:
        """What competes, pooled for one cluster of each point."""
        return self.pooling.pool_competitors(scores, cluster)

    def coefficients(self, pooled: PooledCompetitors, beta: float | None, relevance: Tensor | None = None) -> Tensor:
        """Coefficients (M, K) for :meth:`redistribute`."""
        return self.pooling.coefficients(pooled, beta, relevance)

    def contrast_coefficients(
        self, scores: Tensor, competitor: int, cluster: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients, activation and cluster where one competitor alone counts."""
        return self.pooling.contrast_coefficients(scores, competitor, cluster)

    def coefficients_for(
        self,
        scores: Tensor,
        cluster: Tensor | None = None,
        *,
        beta: float | None = None,
        competitor: int | None = None,
        relevance: Tensor | None = None,
    ) -> Coefficients:
        """Coefficients that explain one cluster of each point, against all competitors or against one.

        Parameters
        ----------
        scores : Tensor, shape (M, K)
            What competes.
        cluster : Tensor of int64, shape (M,), optional
            The assigned cluster if not given.
        beta : float, optional
            Stiffness; not needed against one competitor, or by soft pooling.
        competitor : int, optional
            All relevance flows through this one; none where it is the explained cluster itself.
        relevance : Tensor, shape (M,), optional
            What to distribute; the evidence if not given.
        """
        if competitor is None:
            pooled = self.pool_competitors(scores, cluster)
            passed = self.coefficients(pooled, beta, relevance)
            return Coefficients(passed, pooled.evidence[:, 0], pooled.cluster[:, 0])
        passed, contrast, cluster = self.contrast_coefficients(scores, competitor, cluster)
        if relevance is not None:
            passed = passed * quotient(relevance, contrast)[:, None]
        return Coefficients(passed, contrast, cluster)

    def select_competitor(self, coefficients: Tensor, competitor: int, cluster: Tensor) -> Tensor:
        """The part of coefficients (M, K) that belongs to one competitor."""
        return self.pooling.select_competitor(coefficients, competitor, cluster)

    def relevance_by_competitor(
        self, coefficients: Tensor, scores: Tensor, cluster: Tensor, shift: float = 0.0
    ) -> Tensor:
        """Relevance (M, K) through each competitor."""
        return self.pooling.relevance_by_competitor(coefficients, scores, cluster, shift)

    # Abilities of layers whose scores are pooled from linear units: rules on these units, and words of texts.

    def linear_units(self) -> tuple[Tensor, Tensor]:
        """Weight (P, d) and bias (P,) of the linear units, in float64 and the coordinates of the layer's input.

        A neuron of the first layer is the difference of two of them.
        """
        raise self._without_units()

    def pool_units(self, units: Tensor) -> Tensor:
        """What competes, from the linear units (N, P)."""
        raise self._without_units()

    def unit_coefficients(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (M, P) of the linear units, and the part that is the own cluster's where features mix."""
        raise self._without_units()

    def _without_units(self) -> TypeError:
        return TypeError(
            f"{type(self).__name__} has no linear units to compare clusters by, which rules for linear layers "
            "(head_rule) and explanations of words work on"
        )

    @property
    def max_cluster_units(self) -> int:
        """Linear units of a cluster, at most."""
        return 1

    def relevance_of_pairs(
        self, points: Tensor, scores: Tensor, coefficients: Tensor, cluster: int, shift: float
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
        others = competitor_index(self.n_clusters, torch.tensor([cluster], device=scores.device))[0]
        yield cluster, others, coefficients[:, others] * (scores[:, cluster, None] - scores[:, others] + shift)

    # State: the stiffness is no buffer, as a half-precision copy of the model must not round it to 0.

    def get_extra_state(self) -> dict[str, float | None]:
        """The stiffness, which a state dict brings along."""
        return {"beta": self.beta}

    def set_extra_state(self, state: Any) -> None:
        """Take the stiffness of a state dict; its center is here already."""
        self.beta = state["beta"]
        self._split = self.center is not None and is_split(self.center)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module, but a center that is not to be rounded keeps its digits when the model is cast."""
        center = self.center
        super()._apply(fn, recurse)
        if center is not None and self.center is not None and self._split and self.center.dtype != center.dtype:
            self.center = center.to(self.center.device)
        return self

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={self.n_clusters}, outputs={len(self.clusters)}"


def described(value: Any) -> str:
    """What came in place of a tensor, for messages."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


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
