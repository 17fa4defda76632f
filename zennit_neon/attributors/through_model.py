"""From a table to relevance through a whole model: Zennit's rules below the head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import Composite

from ..composites import Neon
from ..heads.search import find_head
from ..layer.base import Prepared
from ..utils.tables import Table
from .closed_form import ClosedFormAttributor, Question
from .session import Session, plain_session, session, total

__all__ = ["ModelAttributor"]


class ModelAttributor(ClosedFormAttributor):
    """Relevance of the input of a model that ends in a head, by Zennit's rules below the head.

    Parameters
    ----------
    model : torch.nn.Module
    composite : zennit.core.Composite, optional
        Not needed by a model without parameters before the head.
    table, batch_size, progress
        As for :class:`~zennit_neon.attributors.closed_form.ClosedFormAttributor`.
    """

    def __init__(
        self,
        model: nn.Module,
        composite: Composite | None,
        table: Table,
        batch_size: int | None = None,
        progress: bool = False,
    ):
        head = find_head(model)
        if composite is None and any(True for _ in model.parameters()):
            raise ValueError(
                "model has layers before the head, so say how relevance passes them: composite=Neon(EpsilonPlus()) "
                "or another Zennit composite"
            )
        super().__init__(head, table, batch_size, progress)
        self.model: nn.Module | None = model
        rules = composite if isinstance(composite, Neon) else Neon(composite)
        self.composite: Neon | None = rules
        if rules.beta is not None and self.head.soft:
            raise ValueError(
                f"beta is part of a soft clustering, or not needed, and cannot be chosen by a composite; got "
                f"Neon(beta={rules.beta:g})"
            )
        state = [*model.parameters(), *model.buffers()]
        self._like = next((part for part in state if part.dtype.is_floating_point), None)
        self._scores_of: Tensor | None = None
        self._session: Session | None = None
        self._entered: list[Tensor] = []
        self._said: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Results can be pickled, models and composites often cannot."""
        return {**vars(self), "model": None, "composite": None, "_like": None, "_session": None, "_entered": []}

    @property
    def beta(self) -> float | None:
        """Stiffness of the composite, else that of the head."""
        own = None if self.composite is None else self.composite.beta
        return self.head.beta if own is None else own

    @property
    def competitor(self) -> int | None:
        """The competitor of the composite."""
        return None if self.composite is None else self.composite.competitor

    @property
    def conserves(self) -> bool:
        """The rules of the layers below may lose some."""
        return False

    def check(self) -> None:
        """The trunk has to know whether it can take the table."""

    def shape_of(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """One point a row."""
        return (x[0],)

    def batches(self, title: str) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X on the device and in the precision of the model, and their places."""
        numbers = torch.Size(self.table.shape[1:]).numel()
        size = max(16, 2**18 // max(1, numbers)) if self.batch_size is None else self.batch_size
        return self.table.batches(size, self.progress, title, self._like, cast=True)

    def calibrate(self, keep: bool) -> float:
        """Stiffness by Eq. 3 (paper 1) over the table."""
        with plain_session(self._live_model()) as plain:
            return ClosedFormAttributor.calibrate(self._within(plain), keep)

    def relevance(self, question: Question, chosen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Relevance like X, evidence, and cluster of each point: the chosen, or else the assigned one."""
        model, composite = self._live_model(), self.composite
        assert composite is not None
        competitor = question.competitor if question.through is None else question.through
        with session(model, composite.replaced(question.beta, competitor), said=self._said) as running:
            worker = self._within(running)
            relevance, evidence, own = ClosedFormAttributor.relevance(worker, question, chosen)
            if question.through is None:
                self._scores_of = worker._scores_of
                running.conclude(*_totals(relevance, evidence))
        return relevance, evidence, own

    def shares(self, question: Question, cluster: Tensor) -> Tensor:
        """Relevance (N, K) that flows through each competitor, from what was kept of the scores of the head."""
        shares = self.table.empty((len(cluster), self.head.n_clusters))
        if self._scores_of is None:  # there were no points
            return shares
        with torch.no_grad():
            size = max(1, 2**20 // max(1, self._scores_of.shape[1]))
            for start in range(0, len(cluster), size):
                place = slice(start, start + size)
                scores = self._scores_of[place].to(self.head.clusters.device)
                passed, _, own = self._coefficients(scores, cluster[place].to(scores.device), question)
                shares[place] = self._flow(passed, scores, own, question).to(shares)
        return shares

    def _live_model(self) -> nn.Module:
        """The model; ``ValueError`` where it is gone."""
        if self.model is None:
            raise ValueError(
                "this explanation was pickled, which keeps its results but not the model and the composite: call "
                "explain(model, X, composite=...) again to look through a competitor"
            )
        return self.model

    def _within(self, running: Session) -> ModelAttributor:
        """The same route on the twin of a session: several threads may ask one explanation."""
        worker = object.__new__(type(self))
        vars(worker).update(vars(self))
        worker._session, worker._entered, worker._kept, worker._scores_of = running, [], {}, None
        worker.head = running.head
        return worker

    def _run(self, x: Tensor) -> Tensor:
        """One forward pass, with a note of what enters the head."""
        assert self._session is not None
        self._entered.clear()
        with self.head.register_forward_pre_hook(lambda _, inputs: self._entered.append(inputs[0])):
            output: Tensor = self._session(x)
        return output

    def _prepared(self, place: slice, x: Tensor) -> Prepared:
        """As for a head, of what the trunk makes of ``x``."""
        with torch.no_grad():
            self._run(x)
        return self._heard(place)

    def _heard(self, place: slice) -> Prepared:
        """Points that entered the head in the last forward pass, and their scores."""
        entered = self._entered.pop().detach()
        if entered.ndim != 2:
            raise ValueError(
                f"the head gives evidence for every location of {tuple(entered.shape)}, but explain needs one cluster "
                "a row; ClusterGradient of zennit_neon.attribution explains the clusters of all locations"
            )
        return super()._prepared(place, entered)

    def _keep(self, place: slice, scores: Tensor) -> None:
        """Scores at the head, for :meth:`shares`."""
        if self._scores_of is None:
            self._scores_of = torch.empty((len(self.table), *scores.shape[1:]), dtype=scores.dtype)
        self._scores_of[place] = scores

    def _explain(
        self, place: slice, x: Tensor, cluster: Tensor | None, question: Question, out: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass of Zennit's rules, seeded with the evidence of the explained cluster."""
        with torch.enable_grad():
            x = x.detach().clone().requires_grad_() if x.is_inference() else x.detach().requires_grad_()
            output = self._run(x)
            scores = self._heard(place).scores
            self._keep(place, scores)
            passed, amount, own = self._coefficients(scores, cluster, question)
            evidence = amount
            if question.through is not None:  # the rules then see one neuron, without the constant of soft pooling
                layer = self.head.evidence_layer
                shift = layer.shift if layer.shift_in_bias and question.competitor is None else 0.0
                amount = layer.relevance_by_competitor(passed, scores, own, shift)[:, question.through]
            column = own[:, None] == self.head.clusters.to(own.device)
            if not bool(column.any(1).all()):
                raise ValueError(
                    f"some points are assigned to clusters that the head does not put out "
                    f"(its clusters are {self.head.clusters.tolist()}); give cluster="
                )
            seed = column.to(output.dtype) * amount[:, None].to(output.dtype)
            (relevance,) = torch.autograd.grad(output, x, seed)
        return relevance.detach(), evidence, own


def _totals(relevance: Tensor, evidence: Tensor) -> tuple[float, float]:
    """Relevance and evidence of all points, each with the sign of its evidence."""
    if not len(evidence):
        return 0.0, 0.0
    sums = relevance.reshape(len(relevance), -1).sum(1, dtype=torch.float64)
    sign = evidence.sign().to(sums)
    return total(sums * sign), total(evidence.abs())
