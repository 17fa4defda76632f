"""From a table to relevance through a whole model: Zennit's rules below the head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import Composite

from ..composites import Neon
from ..functional.competitors import stiffness
from ..heads.base import Head
from ..heads.search import find_head
from ..utils.tables import Table
from .base import Attribution, Calibration, Target, attribute_batches, coefficients_of, relevance_by_competitor
from .session import Session, plain_session, session, total

__all__ = ["ZennitAttributor"]


class ZennitAttributor:
    """Relevance of the input of a model that ends in a head, by Zennit's rules below the head; one point a row.

    Parameters
    ----------
    model : torch.nn.Module
    composite : zennit.core.Composite, optional
        Not needed by a model without parameters before the head.
    table : Table
    batch_size : int, optional
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If the model has not exactly one head, or needs a composite.
    """

    #: The rules of the layers below may lose some.
    conserves = False

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | None,
        table: Table,
        batch_size: int | None = None,
        progress: bool = False,
    ):
        self.head: Head = find_head(model)
        if composite is None and any(True for _ in model.parameters()):
            raise ValueError(
                "model has layers before the head, so say how relevance passes them: composite=Neon(EpsilonPlus()) "
                "or another Zennit composite"
            )
        rules = composite if isinstance(composite, Neon) else Neon(composite)
        if rules.beta is not None and self.head.soft:
            raise ValueError(
                f"beta is part of a soft clustering, or not needed, and cannot be chosen by a composite; got "
                f"Neon(beta={rules.beta:g})"
            )
        self.model: nn.Module | None = model
        self.composite: Neon | None = rules
        self.table, self.batch_size, self.progress = table, batch_size, progress
        self.beta: float | None = self.head.beta if rules.beta is None else rules.beta
        self.competitor: int | None = rules.competitor
        state = [*model.parameters(), *model.buffers()]
        self._like = next((part for part in state if part.dtype.is_floating_point), None)
        #: Kinds of warnings that were given, which later calls do not repeat.
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Results can be pickled, models and composites often cannot."""
        return {**vars(self), "model": None, "composite": None, "_like": None}

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one number a point."""
        return (len(self.table),)

    def calibrate(self, keep: bool) -> Calibration:
        """Stiffness by Eq. 3 (paper 1) over the table; nothing is kept, as all is needed again with its graph."""
        with plain_session(self._live_model()) as running, torch.no_grad():
            layer = running.head.evidence_layer
            entered = ((place, running.with_head_input(x)[1]) for place, x in self._batches("calibrate"))
            scores = (self._scores(running, place, part) for place, part in entered)
            return Calibration(stiffness(layer.pool_competitors(part).evidence for part in scores), {})

    def attribute(
        self, target: Target, cluster: Tensor | None = None, calibration: Calibration | None = None
    ) -> Attribution:
        """Explain all points, for the assigned clusters unless others are given; scores at the head are kept."""
        model, composite = self._live_model(), self.composite
        assert composite is not None
        scores: list[Tensor] = []
        competitor = target.competitor if target.through is None else target.through
        with session(model, composite.replaced(target.beta, competitor), said=self._said) as running:

            def explain(place: slice, x: Tensor, chosen: Tensor | None, out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                relevance, evidence, own, part = self._explain(running, place, x, chosen, target)
                if target.through is None:
                    scores.append(part.cpu())
                return relevance, evidence, own

            with torch.no_grad():
                found = attribute_batches(self.table, self.shape, self._batches("explain"), cluster, explain)
            if target.through is None:
                running.conclude(*_totals(found.relevance, found.evidence))
        return Attribution(found.relevance, found.evidence, found.cluster, torch.cat(scores) if scores else None)

    def competitors(self, target: Target, cluster: Tensor, scores: Tensor | None) -> Tensor:
        """Relevance (N, K) that flows through each competitor, from the scores at the head."""
        found, layer = self.table.empty((len(cluster), self.head.n_clusters)), self.head.evidence_layer
        if scores is None:  # there were no points
            return found
        size = max(1, 2**20 // max(1, scores.shape[1]))
        with torch.no_grad():
            for start in range(0, len(cluster), size):
                place = slice(start, start + size)
                part = scores[place].to(self.head.clusters.device)
                passed, _, own = coefficients_of(layer, part, cluster[place].to(part.device), target)
                found[place] = relevance_by_competitor(layer, passed, part, own, target).to(found)
        return found

    def _live_model(self) -> nn.Module:
        """The model; ``ValueError`` where it is gone."""
        if self.model is None:
            raise ValueError(
                "this explanation was pickled, which keeps its results but not the model and the composite: call "
                "explain(model, X, composite=...) again to look through a competitor"
            )
        return self.model

    def _batches(self, title: str) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X on the device and in the precision of the model, and their places."""
        numbers = torch.Size(self.table.shape[1:]).numel()
        size = max(16, 2**18 // max(1, numbers)) if self.batch_size is None else self.batch_size
        return self.table.batches(size, self.progress, title, self._like, cast=True)

    def _scores(self, running: Session, place: slice, entered: Tensor) -> Tensor:
        """Scores (M, K) of what has entered the head."""
        if entered.ndim != 2:
            raise ValueError(
                f"the head gives evidence for every location of {tuple(entered.shape)}, but explain needs one cluster "
                "a row; ClusterGradient of zennit_neon.attribution explains the clusters of all locations"
            )
        head = running.head
        return self.table.check(place, head.evidence_layer.prepare(head.rows(entered)).scores)

    def _explain(
        self, running: Session, place: slice, x: Tensor, cluster: Tensor | None, target: Target
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """One pass of Zennit's rules, seeded with the evidence of the explained cluster; and the scores at the head."""
        layer, clusters = running.head.evidence_layer, running.head.clusters
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_() if x.is_inference() else x.detach().requires_grad_()
            output, entered = running.with_head_input(x)
            scores = self._scores(running, place, entered)
            passed, evidence, own = coefficients_of(layer, scores, cluster, target)
            amount = evidence
            if target.through is not None:  # the rules then see one neuron, without the constant of soft pooling
                shift = layer.shift if layer.shift_in_bias and target.competitor is None else 0.0
                amount = layer.relevance_by_competitor(passed, scores, own, shift)[:, target.through]
            column = own[:, None] == clusters.to(own.device)
            if not bool(column.any(1).all()):
                raise ValueError(
                    f"some points are assigned to clusters that the head does not put out "
                    f"(its clusters are {clusters.tolist()}); give cluster="
                )
            seed = column.to(output.dtype) * amount[:, None].to(output.dtype)
            (relevance,) = torch.autograd.grad(output, x, seed)
        return relevance.detach(), evidence, own, scores


def _totals(relevance: Tensor, evidence: Tensor) -> tuple[float, float]:
    """Relevance and evidence of all points, each with the sign of its evidence."""
    if not len(evidence):
        return 0.0, 0.0
    sums = relevance.reshape(len(relevance), -1).sum(1, dtype=torch.float64)
    sign = evidence.sign().to(sums)
    return total(sums * sign), total(evidence.abs())
