"""What explains the points of a table: the interface of attributors, and what they share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..functional.competitors import PooledCompetitors
from ..heads.base import Head
from ..layer.base import Coefficients, EvidenceLayer
from ..utils.tables import Table

__all__ = [
    "Attribution",
    "Attributor",
    "Calibration",
    "Target",
    "attribute_batches",
    "coefficients_of",
    "relevance_by_competitor",
]

#: Batches of a table and their places in it.
Batches = Iterable[tuple[slice, Tensor]]

#: From place, points, chosen clusters and room for relevance to relevance, evidence and cluster of a batch.
ExplainBatch = Callable[[slice, Tensor, Tensor | None, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True)
class Target:
    """What is to be explained of every point.

    Parameters
    ----------
    beta : float, optional
        Stiffness; not needed with a competitor.
    competitor : int, optional
        Why the cluster rather than this one? Otherwise, why the cluster rather than any other?
    through : int, optional
        Only the part of relevance that flows through this competitor.
    """

    beta: float | None
    competitor: int | None = None
    through: int | None = None


class Calibration(NamedTuple):
    """The stiffness of a table, and what the explanation of the assigned clusters would compute again."""

    beta: float
    #: Pooled competitors of some batches, by the place of their first row.
    pooled: dict[int, PooledCompetitors]


@dataclass(frozen=True)
class Attribution:
    """What an attributor has found out about the points of a table.

    Attributes
    ----------
    relevance : Tensor, shaped like X
    evidence, cluster : Tensor, one number a point
        Evidence of the explained cluster, and its position (int64, on the CPU).
    scores : Tensor, shape (N, K), optional
        At the head of a model, where another pass would be needed to compute them again.
    """

    relevance: Tensor
    evidence: Tensor
    cluster: Tensor
    scores: Tensor | None = field(default=None, repr=False)


class Attributor(Protocol):
    """From a table to relevance. Attributors keep no state of a call, so several threads may share one."""

    @property
    def head(self) -> Head:
        """The clustering."""

    @property
    def table(self) -> Table:
        """The points."""

    @property
    def beta(self) -> float | None:
        """Stiffness that is known without looking at the table."""

    @property
    def competitor(self) -> int | None:
        """Position of the competitor that is asked about unless another one is given."""

    @property
    def conserves(self) -> bool:
        """Whether relevance sums to evidence by the rules that are used."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one number a point."""

    def calibrate(self, keep: bool) -> Calibration:
        """Stiffness by Eq. 3 (paper 1) over the table.

        Parameters
        ----------
        keep : bool
            Whether the assigned clusters will be explained next, so that what is known of them may be worth its memory.
        """

    def attribute(
        self, target: Target, cluster: Tensor | None = None, calibration: Calibration | None = None
    ) -> Attribution:
        """Explain all points.

        Parameters
        ----------
        target : Target
        cluster : Tensor of int64, optional
            Positions of the clusters to explain, one a point; the assigned ones if not given.
        calibration : Calibration, optional
            Of the same table, if it was calibrated.
        """

    def competitors(self, target: Target, cluster: Tensor, scores: Tensor | None) -> Tensor:
        """Relevance (N, K, ...) that flows through each competitor.

        Parameters
        ----------
        target : Target
        cluster : Tensor of int64
            Positions of the explained clusters.
        scores : Tensor, optional
            Those of the :class:`Attribution`.
        """


def attribute_batches(
    table: Table, shape: tuple[int, ...], batches: Batches, cluster: Tensor | None, explain: ExplainBatch
) -> Attribution:
    """Explain a table batch by batch, into results of its type and precision."""
    relevance, evidence = table.empty(table.shape), table.empty(shape)
    own = torch.empty(shape, dtype=torch.int64)
    for place, x in batches:
        chosen = None if cluster is None else cluster[place].flatten().to(x.device)
        found = explain(place, x, chosen, relevance[place])
        for room, values in zip((relevance[place], evidence[place], own[place]), found, strict=True):
            if values.dtype != room.dtype:  # half types may overflow
                values = table.check(place, values.to(room))
            if values.data_ptr() != room.data_ptr():
                room.copy_(values)
    return Attribution(relevance, evidence, own)


def coefficients_of(layer: EvidenceLayer, scores: Tensor, cluster: Tensor | None, target: Target) -> Coefficients:
    """Coefficients (M, K), evidence and cluster of points (M,) with scores (M, K)."""
    return layer.coefficients_for(scores, cluster, beta=target.beta, competitor=target.competitor)


def relevance_by_competitor(
    layer: EvidenceLayer, coefficients: Tensor, scores: Tensor, cluster: Tensor, target: Target
) -> Tensor:
    """Relevance (M, K) that flows through each competitor."""
    shift = layer.shift if target.competitor is None else 0.0
    return layer.relevance_by_competitor(coefficients, scores, cluster, shift)
