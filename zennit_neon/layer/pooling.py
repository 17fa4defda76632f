"""How clusters compete: from their scores to evidence, and from evidence to coefficients of the layer below."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import functional

__all__ = ["Pooling", "SoftPooling"]


class Pooling:
    """Hard pooling: the nearest competitor decides (Props. 1 and 6, paper 1).

    The methods take *scores*: one for each cluster, of which evidence is a difference. A pooling that compares
    something else, as the splits of a tree, says so.

    Parameters
    ----------
    n_clusters : int
    """

    #: Whether all competitors are pooled, so that evidence is about a probability.
    soft = False
    #: Whether a soft pooling conserves relevance (Eq. 9, paper 2) in place of dissipating it (Prop. 7, paper 1).
    conserve = False
    #: The constant that soft pooling adds to every neuron.
    shift = 0.0

    def __init__(self, n_clusters: int):
        self.n_clusters = n_clusters

    def evidence(self, scores: Tensor) -> Tensor:
        """Evidence (N, K, ...) from scores (N, K, ...)."""
        return functional.evidence(scores)

    def pool_competitors(self, scores: Tensor, cluster: Tensor | None = None) -> functional.PooledCompetitors:
        """Scores (M, K) of points, pooled for one cluster each, the assigned one unless ``cluster`` (M,) is given."""
        return functional.pool_competitors(scores, cluster)

    def coefficients(
        self, pooled: functional.PooledCompetitors, beta: float | None, relevance: Tensor | None = None
    ) -> Tensor:
        """Coefficients (M, K) for the layer below, of the evidence or of ``relevance`` (M,)."""
        if beta is None:
            raise ValueError("min-take-most needs a stiffness: call head.calibrate(X), or give beta")
        return functional.coefficients(pooled, beta, relevance)

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

    def select_competitor(self, coefficients: Tensor, competitor: int, cluster: Tensor) -> Tensor:
        """The part of coefficients that belongs to one competitor; none where it is the explained cluster."""
        part = coefficients[:, competitor] * (cluster != competitor)
        alone = torch.zeros_like(coefficients)
        alone[:, competitor] = part
        return alone.scatter_add_(1, cluster[:, None], -part[:, None])

    def relevance_by_competitor(
        self, coefficients: Tensor, scores: Tensor, cluster: Tensor, shift: float = 0.0
    ) -> Tensor:
        """Relevance (M, K) through each competitor: coefficient times activation."""
        own = cluster[:, None]
        return coefficients * (scores.gather(1, own) - scores + shift).scatter(1, own, 0)


class SoftPooling(Pooling):
    """Soft pooling: all competitors count, and evidence is the logit of a probability (Prop. 7, paper 1).

    Parameters
    ----------
    n_clusters : int
    conserve : bool
        Conserve relevance (Eq. 9, paper 2) in place of dissipating it (Prop. 7, paper 1).
    shift : float, optional
        The constant in every neuron; by default that of a probability of 1/2: minus log(K - 1), or 0 with ``conserve``.
    """

    soft = True

    def __init__(self, n_clusters: int, conserve: bool = False, shift: float | None = None):
        super().__init__(n_clusters)
        self.conserve = conserve
        if shift is None:
            shift = 0.0 if conserve else -math.log(n_clusters - 1)
        self.shift = shift

    @property
    def threshold(self) -> float:
        """What is added to the logit of a probability: 0 for 1/2."""
        return 0.0 if self.conserve else self.shift + math.log(self.n_clusters - 1)

    def evidence(self, scores: Tensor) -> Tensor:
        """Evidence (N, K, ...) from scores (N, K, ...)."""
        return functional.soft_evidence(scores, self.threshold)

    def pool_competitors(self, scores: Tensor, cluster: Tensor | None = None) -> functional.PooledCompetitors:
        """Scores (M, K) of points, pooled for one cluster each, the assigned one unless ``cluster`` (M,) is given."""
        return functional.soft_pool_competitors(scores, cluster, self.threshold)

    def coefficients(
        self, pooled: functional.PooledCompetitors, beta: float | None, relevance: Tensor | None = None
    ) -> Tensor:
        """Coefficients (M, K) for the layer below; a soft pool needs no stiffness."""
        rule = functional.conserved_coefficients if self.conserve else functional.soft_coefficients
        return rule(pooled, relevance)
