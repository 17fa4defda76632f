"""The two ways from a batch of points to relevance: the closed form of a head, or Zennit through a whole model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from zennit.attribution import Gradient
from zennit.core import Composite

from . import functional
from .arrays import Table
from .composites import Neon
from .heads import Head

__all__ = ["Closed", "Trunk"]

#: Scores that are kept from calibration so that they are not computed twice (numbers; 64 MB in float32).
KEPT_SCORES = 2**24


class Closed:
    """Relevance of the input of a head, in closed form; every location of (N, d, ...) is a point."""

    def __init__(self, head: Head):
        self.head = head
        self._kept: dict[int, Tensor] = {}

    def shape_of(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one number a point, for inputs of shape ``x``."""
        return (x[0], *x[2:])

    def check(self, table: Table) -> None:
        """Refuse a table that the head can not take."""
        table.check_width(self.head.n_features)

    def batches(
        self, table: Table, batch_size: int | None, progress: bool, title: str
    ) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X."""
        size = table.batch_size(self.head.n_clusters) if batch_size is None else batch_size
        return table.batches(size, progress, title, next(self.head.buffers()))

    def scores(self, table: Table, place: slice, x: Tensor, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Points (M, d) of a batch as they enter the evidence layer, and their scores (M, K)."""
        points = self.head.rows(x)
        scores = self._kept.pop(place.start, None)
        if scores is None:
            scores = table.check(place, self.head.evidence_layer.scores(points))
        if keep and sum(part.numel() for part in self._kept.values()) + scores.numel() <= KEPT_SCORES:
            self._kept[place.start] = scores
        return points, scores

    def coefficients(
        self, scores: Tensor, cluster: Tensor | None, competitor: int | None, beta: float | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients, evidence and cluster of points, for all competitors or for one."""
        flat = None if cluster is None else cluster.flatten().to(scores.device)
        if competitor is not None:
            return functional.versus(scores, competitor, flat)
        assert beta is not None
        return functional.coefficients(scores, beta, flat)

    @contextlib.contextmanager
    def attached(self, beta: float | None, competitor: int | None) -> Iterator[None]:
        """Nothing has to be attached."""
        yield

    def explain(
        self,
        table: Table,
        place: slice,
        x: Tensor,
        cluster: Tensor | None,
        competitor: int | None,
        beta: float | None,
        through: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Relevance like ``x``, evidence and cluster of its points; ``through`` one competitor only, if given."""
        points, scores = self.scores(table, place, x)
        own = cluster is None
        passed, evidence, cluster = self.coefficients(scores, cluster, competitor, beta)
        if through is not None:
            part = passed[:, through] * (cluster != through)
            passed = torch.zeros_like(passed)
            passed[:, through] = part
            passed.scatter_add_(1, cluster[:, None], -part[:, None])
        redistribute = self.head.evidence_layer.redistribute
        relevance = redistribute(points, passed, cluster)
        if not own and competitor is None and through is None:
            # large coefficients of nearly inactive competitors amplify rounding: what is missing goes to the nearest
            missing = functional.coefficients(scores, math.inf, cluster, evidence - relevance.sum(1))[0]
            relevance += redistribute(points, missing, cluster)
        shape = self.shape_of(x.shape)
        if len(shape) > 1:
            relevance = relevance.view(*shape, -1).movedim(-1, 1)
        return relevance, evidence.view(shape), cluster.view(shape)

    def shares(
        self, table: Table, place: slice, x: Tensor, cluster: Tensor, competitor: int | None, beta: float | None
    ) -> Tensor:
        """Relevance (N, K, ...) that flows through each competitor."""
        _, scores = self.scores(table, place, x)
        passed, _, chosen = self.coefficients(scores, cluster, competitor, beta)
        return _flow(passed, scores, chosen).view(*self.shape_of(x.shape), -1).movedim(-1, 1)


def _flow(passed: Tensor, scores: Tensor, cluster: Tensor) -> Tensor:
    """Relevance (M, K) through each competitor: coefficient times activation."""
    return passed * (scores.gather(1, cluster[:, None]) - scores)


class Trunk(Closed):
    """Relevance of the input of a model that ends in a head, by Zennit's rules below the head."""

    def __init__(self, model: nn.Module, composite: Composite | None):
        heads = [module for module in model.modules() if isinstance(module, Head)]
        if len(heads) != 1:
            raise ValueError(
                f"model must be a clustering, or a torch module with one neuralised head; this {type(model).__name__} "
                f"has {len(heads)}: put zennit_neon.neuralize(...) at its end"
            )
        if composite is None:
            raise ValueError(
                "model has layers before the head, so say how relevance passes them: composite=Neon(EpsilonPlus()) "
                "or another Zennit composite"
            )
        super().__init__(heads[0])
        self.model = model
        self.composite = composite if isinstance(composite, Neon) else Neon(composite)
        self._entered: list[Tensor] = []

    def shape_of(self, x: tuple[int, ...]) -> tuple[int, ...]:
        """One point a row."""
        return (x[0],)

    def check(self, table: Table) -> None:
        """The trunk has to know whether it can take the table."""

    def batches(
        self, table: Table, batch_size: int | None, progress: bool, title: str
    ) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X on the device and in the precision of the model."""
        numbers = torch.Size(table.shape[1:]).numel()
        state = [*self.model.parameters(), *self.model.buffers()]
        like = next((part for part in state if part.dtype.is_floating_point), None)
        size = max(16, 2**18 // max(1, numbers)) if batch_size is None else batch_size
        return table.batches(size, progress, title, like, cast=True)

    def scores(self, table: Table, place: slice, x: Tensor, keep: bool = False) -> tuple[Tensor, Tensor]:
        """As for a head, of what the trunk makes of ``x``."""
        with self._listening(), torch.no_grad():
            self.model(x)
        return self._scores(table, place)

    def _scores(self, table: Table, place: slice) -> tuple[Tensor, Tensor]:
        points = self._entered.pop().detach()
        self._entered.clear()
        if points.ndim != 2:
            raise ValueError(
                f"the head gives evidence for every location of {tuple(points.shape)}, but explain needs one cluster "
                "a row; use a zennit Attributor to choose what to explain"
            )
        points = self.head.points(points)
        return points, table.check(place, self.head.evidence_layer.scores(points))

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """Evaluation mode, and a note of what enters the head; both undone at the end."""
        training = [module for module in self.model.modules() if module.training]
        handle = self.head.register_forward_pre_hook(lambda _, inputs: self._entered.append(inputs[0]))
        try:
            self.model.eval()
            yield
        finally:
            handle.remove()
            for module in training:
                module.training = True

    @contextlib.contextmanager
    def attached(self, beta: float | None, competitor: int | None) -> Iterator[None]:
        """The composite, for a loop over batches."""
        with Gradient(self.model, self.composite.replaced(beta, competitor)) as self._attributor, self._listening():
            yield

    def explain(
        self,
        table: Table,
        place: slice,
        x: Tensor,
        cluster: Tensor | None,
        competitor: int | None,
        beta: float | None,
        through: int | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One pass of Zennit, seeded with the evidence of the explained cluster."""
        found: list[Tensor] = []

        def seed(output: Tensor) -> Tensor:
            _, scores = self._scores(table, place)
            passed, evidence, chosen = self.coefficients(scores, cluster, competitor, beta)
            found.extend((evidence, chosen))
            amount = evidence
            if through is not None:
                amount = _flow(passed, scores, chosen)[:, through]
            column = chosen[:, None] == self.head.clusters.to(chosen.device)
            if not bool(column.any(1).all()):
                raise ValueError(
                    f"some points are assigned to clusters that the head does not put out "
                    f"(its clusters are {self.head.clusters.tolist()}); give cluster="
                )
            return column.to(output.dtype) * amount[:, None].to(output.dtype)

        with torch.enable_grad():
            _, relevance = self._attributor(x, seed)
        return relevance.detach(), *found
