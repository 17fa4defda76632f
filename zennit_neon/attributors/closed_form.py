"""From a table to relevance by the closed form of a head."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..functional.competitors import PooledCompetitors, stiffness
from ..heads.base import Head
from ..layer.base import Prepared
from ..utils.tables import Table
from .base import (
    Attribution,
    Calibration,
    Target,
    attribute_batches,
    coefficients_of,
    relevance_by_competitor,
)

__all__ = ["ClosedFormAttributor"]

#: Numbers of a calibration that are kept, at most (16 MB in float32).
KEPT = 2**22


class ClosedFormAttributor:
    """Relevance of the input of a head, in closed form; every location of (N, d, ...) is a point.

    Parameters
    ----------
    head : Head
    table : Table
        Of the features that the head takes.
    batch_size : int, optional
        By default few enough for the cache.
    progress : bool
        Show a progress bar.
    aggregate : callable, optional
        From relevance (M, m) of the numbers that the head takes to that of the columns (M, d) of the table, where the
        table is read as other numbers than it holds.
    """

    #: Of heads, which are asked about all competitors by default.
    competitor: int | None = None

    def __init__(
        self,
        head: Head,
        table: Table,
        batch_size: int | None = None,
        progress: bool = False,
        aggregate: Callable[[Tensor], Tensor] | None = None,
    ):
        self.head, self.table, self.aggregate = head, table, aggregate
        self.batch_size, self.progress = batch_size, progress

    @property
    def beta(self) -> float | None:
        """Stiffness of the head."""
        return self.head.beta

    @property
    def conserves(self) -> bool:
        """Whether relevance sums to evidence."""
        return bool(self.head.evidence_layer.conserves)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one number a point."""
        return _one_each(self.table.shape)

    def calibrate(self, keep: bool) -> Calibration:
        """Stiffness by Eq. 3 (paper 1) over the table."""
        kept: dict[int, PooledCompetitors] = {}
        layer = self.head.evidence_layer

        def evidence() -> Iterator[Tensor]:
            room = KEPT if keep else 0
            for place, x in self._batches("calibrate"):
                pooled = layer.pool_competitors(self._prepared(place, x).scores)
                room -= pooled.gap.numel()
                if room >= 0:
                    kept[place.start] = pooled
                yield pooled.evidence

        with torch.no_grad():
            return Calibration(stiffness(evidence()), kept)

    def attribute(
        self, target: Target, cluster: Tensor | None = None, calibration: Calibration | None = None
    ) -> Attribution:
        """Explain all points, for the assigned clusters unless others are given."""
        kept = {} if calibration is None or cluster is not None else calibration.pooled

        def explain(place: slice, x: Tensor, chosen: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self._explain(place, x, chosen, target, out, kept.get(place.start))

        with torch.no_grad():
            return attribute_batches(self.table, self.shape, self._batches("explain"), cluster, explain)

    def competitors(self, target: Target, cluster: Tensor, scores: Tensor | None = None) -> Tensor:
        """Relevance (N, K, ...) that flows through each competitor, computed anew."""
        found = self.table.empty((len(cluster), self.head.n_clusters, *cluster.shape[1:]))
        layer = self.head.evidence_layer
        with torch.no_grad():
            for place, x in self._batches("competitors"):
                part = self._prepared(place, x).scores
                passed, _, own = coefficients_of(layer, part, cluster[place].flatten().to(part.device), target)
                relevance = relevance_by_competitor(layer, passed, part, own, target)
                found[place] = relevance.view(*_one_each(x.shape), -1).movedim(-1, 1).to(found)
        return found

    def _batches(self, title: str) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X and their places."""
        size = self.table.batch_size(self.head.width) if self.batch_size is None else self.batch_size
        return self.table.batches(size, self.progress, title, next(self.head.buffers()))

    def _prepared(self, place: slice, x: Tensor) -> Prepared:
        """Points (M, d) of a batch as the evidence layer computes with them, and their scores (M, K)."""
        prepared = self.head.evidence_layer.prepare(self.head.rows(x))
        self.table.check(place, prepared.scores)
        return prepared

    def _explain(
        self,
        place: slice,
        x: Tensor,
        cluster: Tensor | None,
        target: Target,
        out: Tensor,
        pooled: PooledCompetitors | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Relevance of a batch (in ``out`` if it fits), evidence and cluster of its points."""
        layer = self.head.evidence_layer
        if pooled is None:
            prepared = self._prepared(place, x)
            passed, evidence, own = coefficients_of(layer, prepared.scores, cluster, target)
        else:
            prepared = None
            passed = layer.coefficients(pooled, target.beta)
            evidence, own = pooled.evidence[:, 0], pooled.cluster[:, 0]
        if target.through is not None:
            passed = layer.select_competitor(passed, target.through, own)
        points = self.head.rows(x) if prepared is None else prepared.points
        fits = self.aggregate is None and out.ndim == 2 and out.dtype == points.dtype and out.device == points.device
        room = out if fits else None
        if prepared is None:
            relevance = layer.redistribute(points, passed, own, room)
        else:
            relevance = layer.relevance(prepared, passed, own, room)
            if layer.conserves and cluster is not None and target.competitor is None and target.through is None:
                # large coefficients of nearly inactive competitors amplify rounding: the rest goes to the nearest
                missing = evidence - relevance.sum(1)
                passed = layer.coefficients_for(prepared.scores, cluster, beta=math.inf, relevance=missing).coefficients
                relevance += layer.relevance(prepared, passed, own)
        shape = _one_each(x.shape)
        if len(shape) > 1:
            relevance = relevance.view(*shape, -1).movedim(-1, 1)
        if self.aggregate is not None:
            relevance = self.aggregate(relevance)
        return relevance, evidence.view(shape), own.view(shape)


def _one_each(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of one number a point, for points (N, d, ...)."""
    return (shape[0], *shape[2:])
