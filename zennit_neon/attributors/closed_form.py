"""From a table to relevance by the closed form of a head."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..estimators.agreement import check_predictions
from ..estimators.clusterings import neuralize_final_step, neuralized
from ..estimators.columns import encode
from ..functional.competitors import PooledCompetitors, stiffness
from ..heads.base import Head
from ..layer.base import Coefficients, Prepared
from ..utils.arrays import Array, as_numpy
from ..utils.labels import are_labels
from ..utils.tables import Columns, Table

__all__ = ["ClosedFormAttributor", "Encoded", "Question", "attributor_of"]

#: What calibration keeps so that it is not computed twice (numbers; 16 MB in float32).
KEPT = 2**22


@dataclass(frozen=True)
class Question:
    """What is asked of every point.

    Parameters
    ----------
    beta : float, optional
        Stiffness; not needed with a competitor.
    competitor : int, optional
        Why the cluster rather than this one? Otherwise, why the cluster rather than any other?
    through : int, optional
        Only the part of the answer that flows through this competitor.
    """

    beta: float | None
    competitor: int | None = None
    through: int | None = None


class ClosedFormAttributor:
    """Relevance of the input of a head, in closed form; every location of (N, d, ...) is a point."""

    def __init__(self, head: Head, table: Table, batch_size: int | None = None, progress: bool = False):
        self.head, self.table = head, table
        self.batch_size, self.progress = batch_size, progress
        self._kept: dict[int, PooledCompetitors] = {}
        self.check()

    def check(self) -> None:
        """Refuse a table that the head cannot take."""
        self.table.check_width(self.head.n_features)
        self.table.check_names(self.head.feature_names)

    @property
    def beta(self) -> float | None:
        """Stiffness that is known without looking at the table."""
        return self.head.beta

    @property
    def conserves(self) -> bool:
        """Whether relevance sums to evidence."""
        return bool(self.head.evidence_layer.conserves)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one number a point."""
        return self.shape_of(self.table.shape)

    def shape_of(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one number a point, for inputs of shape ``x``."""
        return (x[0], *x[2:])

    def batches(self, title: str) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X and their places."""
        size = self.table.batch_size(self.head.width) if self.batch_size is None else self.batch_size
        return self.table.batches(size, self.progress, title, next(self.head.buffers()))

    def calibrate(self, keep: bool) -> float:
        """Stiffness by Eq. 3 (paper 1) over the table; ``keep`` what explaining the assigned clusters needs again."""
        with torch.no_grad():
            return stiffness(self._evidence(KEPT if keep else 0))

    def _evidence(self, room: int) -> Iterator[Tensor]:
        """Evidence of the assigned clusters, batch by batch; as much as there is room for is kept."""
        for place, x in self.batches("calibrate"):
            pooled = self.head.evidence_layer.pool_competitors(self._prepared(place, x).scores)
            room -= pooled.gap.numel()
            if room >= 0:
                self._kept[place.start] = pooled
            yield pooled.evidence

    def relevance(self, question: Question, chosen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Relevance like X, evidence, and cluster of each point: the chosen, or else the assigned one."""
        relevance, evidence = self.table.empty(self.table.shape), self.table.empty(self.shape)
        cluster = torch.empty(self.shape, dtype=torch.int64)
        with torch.no_grad(), self._attached(question):
            for place, x in self.batches("explain"):
                part = None if chosen is None else chosen[place].flatten().to(x.device)
                found = self._explain(place, x, part, question, relevance[place])
                for room, values in zip((relevance[place], evidence[place], cluster[place]), found, strict=True):
                    if values.dtype != room.dtype:  # half types may overflow
                        values = self.table.check(place, values.to(room))
                    if values.data_ptr() != room.data_ptr():
                        room.copy_(values)
        return relevance, evidence, cluster

    def shares(self, question: Question, cluster: Tensor) -> Tensor:
        """Relevance (N, K, ...) that flows through each competitor."""
        shares = self.table.empty((len(cluster), self.head.n_clusters, *cluster.shape[1:]))
        with torch.no_grad():
            for place, x in self.batches("competitors"):
                scores = self._prepared(place, x).scores
                passed, _, own = self._coefficients(scores, cluster[place].flatten().to(scores.device), question)
                flow = self._flow(passed, scores, own, question)
                shares[place] = flow.view(*self.shape_of(x.shape), -1).movedim(-1, 1).to(shares)
        return shares

    def _prepared(self, place: slice, x: Tensor) -> Prepared:
        """Points (M, d) of a batch as the evidence layer computes with them, and their scores (M, K)."""
        prepared = self.head.evidence_layer.prepare(self.head.rows(x))
        self.table.check(place, prepared.scores)
        return prepared

    def _coefficients(self, scores: Tensor, cluster: Tensor | None, question: Question) -> Coefficients:
        """Coefficients, evidence and cluster of points, for all competitors or for one."""
        layer = self.head.evidence_layer
        return layer.coefficients_for(scores, cluster, beta=question.beta, competitor=question.competitor)

    def _flow(self, passed: Tensor, scores: Tensor, cluster: Tensor, question: Question) -> Tensor:
        """Relevance (M, K) through each competitor: coefficient times activation."""
        layer = self.head.evidence_layer
        return layer.relevance_by_competitor(
            passed, scores, cluster, layer.shift if question.competitor is None else 0.0
        )

    @contextlib.contextmanager
    def _attached(self, question: Question) -> Iterator[None]:
        """Nothing has to be attached."""
        yield

    def _explain(
        self, place: slice, x: Tensor, cluster: Tensor | None, question: Question, out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Relevance like ``x`` (in ``out`` if it fits), evidence and cluster of its points."""
        layer = self.head.evidence_layer
        pooled = self._kept.pop(place.start, None) if cluster is None else None
        if pooled is None:
            prepared = self._prepared(place, x)
            passed, evidence, own = self._coefficients(prepared.scores, cluster, question)
        else:
            prepared = None
            passed = layer.coefficients(pooled, question.beta)
            evidence, own = pooled.evidence[:, 0], pooled.cluster[:, 0]
        if question.through is not None:
            passed = layer.select_competitor(passed, question.through, own)
        points = self.head.rows(x) if prepared is None else prepared.points
        fits = out.ndim == 2 and out.dtype == points.dtype and out.device == points.device
        room = out if fits else None
        if prepared is None:
            relevance = layer.redistribute(points, passed, own, room)
        else:
            relevance = layer.relevance(prepared, passed, own, room)
            if layer.conserves and cluster is not None and question.competitor is None and question.through is None:
                # large coefficients of nearly inactive competitors amplify rounding: the rest goes to the nearest
                missing = evidence - relevance.sum(1)
                passed = layer.coefficients_for(prepared.scores, cluster, beta=math.inf, relevance=missing).coefficients
                relevance += layer.relevance(prepared, passed, own)
        shape = self.shape_of(x.shape)
        if len(shape) > 1:
            relevance = relevance.view(*shape, -1).movedim(-1, 1)
        return relevance, evidence.view(shape), own.view(shape)


class Encoded(ClosedFormAttributor):
    """Relevance of the columns of a table that are encoded, column by column, before they reach the head."""

    table: Columns

    def check(self) -> None:
        """The estimator that encodes the table has to know whether it can."""

    def _explain(
        self, place: slice, x: Tensor, cluster: Tensor | None, question: Question, out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        relevance, evidence, own = super()._explain(place, x, cluster, question, x.new_empty(0))
        return self.table.pooled(relevance), evidence, own


def attributor_of(
    model: Any, X: Any, batch_size: int | None, progress: bool
) -> tuple[ClosedFormAttributor, Array | None]:
    """The closed form of a clustering, behind an encoding of the columns of X where its Pipeline begins with one.

    And which points are noise, if the head stands for labels of them.
    """
    is_estimator = not isinstance(model, nn.Module) and not are_labels(model)
    is_pipeline = is_estimator and hasattr(model, "steps")
    encoded = encode(model, as_numpy(X)) if is_pipeline and len(getattr(X, "shape", ())) == 2 else None
    if encoded is None:
        found = neuralized(model, X, progress=progress)
        table = found.table(X)
        route = ClosedFormAttributor(found.head, table, batch_size, progress)
    else:
        encoding, steps = encoded
        table = columns = Columns(X, encoding)
        columns.check_names(getattr(model, "feature_names_in_", None))
        found = neuralize_final_step(model, X, steps, progress)
        route = Encoded(found.head, columns, batch_size, progress)
    if is_estimator and found.groups is None:
        check_predictions(found.head, table, model)
    return route, None if found.groups is None or not found.groups.noise.any() else found.groups.noise
