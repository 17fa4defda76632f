"""The layer of a clustering that walks a tree: each split compares two centers, and a leaf wins all on its path."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional
from ..functional.competitors import PooledCompetitors
from .base import EvidenceLayer, Prepared
from .pooling import Pooling

__all__ = ["PathEvidence", "PathPooling"]

#: Path of each leaf: splits from the root down, and whether the leaf is on their first side.
Paths = Sequence[Sequence[tuple[int, bool]]]


class PathPooling(nn.Module, Pooling):
    """Hard pooling over the splits on the path to each leaf, in place of all competitors.

    What it calls scores are the activations (N, K - 1, ...) of the splits, positive on the first side of each. Columns
    of coefficients (M, K) are splits as well; that of the explained leaf is inserted at its own place.

    Parameters
    ----------
    paths : sequence of sequences of (int, bool)
        For each leaf the splits from the root of the tree, and whether it is on their first side.
    dtype : torch.dtype
    device : torch.device
    """

    path: Tensor
    turn: Tensor
    side: Tensor
    meeting: Tensor
    twins: Tensor

    def __init__(self, paths: Paths, dtype: torch.dtype, device: torch.device):
        super().__init__()
        self.n_clusters = count = len(paths)
        side = torch.zeros(count, count - 1, dtype=dtype)
        meeting = torch.zeros(count, count, dtype=torch.int64)
        members: dict[tuple[int, bool], list[int]] = {}
        for leaf, path in enumerate(paths):
            for split, first in path:
                side[leaf, split] = 1.0 if first else -1.0
                members.setdefault((split, first), []).append(leaf)
        twins = torch.ones(count, count, dtype=dtype)
        for (split, first), leaves in members.items():
            others = torch.tensor(members[split, not first])
            meeting[torch.tensor(leaves)[:, None], others] = split
            twins[torch.tensor(leaves)[:, None], others] = len(others)
        depth = max(map(len, paths))
        steps = [[path[min(level, len(path) - 1)] for path in paths] for level in range(depth)]
        self.register_buffer("path", torch.tensor([[split for split, _ in level] for level in steps], device=device))
        turn = [[1.0 if first else -1.0 for _, first in level] for level in steps]
        self.register_buffer("turn", torch.tensor(turn, dtype=dtype, device=device))  # (depth, K), as is path
        self.register_buffer("side", side.to(device))  # (K, K - 1): 1 or -1 on the path of a leaf, else 0
        self.register_buffer("meeting", meeting.to(device))  # (K, K): the split at which two leaves part
        self.register_buffer("twins", twins.to(device))  # (K, K): leaves on the side of the second of them

    def evidence(self, scores: Tensor) -> Tensor:
        """Evidence of the leaves (N, K, ...) from the activations of the splits (N, K - 1, ...)."""
        shape = (-1, *[1] * (scores.ndim - 2))
        steps = zip(self.path, self.turn.to(scores), strict=True)
        along = (scores.index_select(1, split) * turn.view(shape) for split, turn in steps)
        return functools.reduce(torch.minimum, along)

    def pool_competitors(self, scores: Tensor, cluster: Tensor | None = None) -> PooledCompetitors:
        """Splits (M, K - 1) of points, pooled over the path to one leaf each."""
        cluster = self.evidence(scores).argmax(1) if cluster is None else cluster
        side = self.side.to(scores)[cluster]
        own, pooled = cluster[:, None], torch.where(side == 0, torch.inf, side * scores).amin(1, keepdim=True)
        gap = torch.where(side == 0, -torch.inf, pooled - side * scores)
        all_columns = gap.new_full((len(gap), self.n_clusters), -torch.inf)
        return PooledCompetitors(all_columns.scatter(1, self.columns(own), gap), pooled, own)

    def contrast_coefficients(
        self, scores: Tensor, competitor: int, cluster: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients that explain one split, that at which the leaf and its competitor part."""
        self.check_competitor(competitor)
        cluster = self.evidence(scores).argmax(1) if cluster is None else cluster
        other = torch.full_like(cluster, competitor)
        passed = scores.new_zeros(len(scores), self.n_clusters)
        contrast = self._activations(scores, cluster[:, None], other[:, None])[:, 0]
        return self._add(passed, cluster, other, (cluster != competitor).to(scores)), contrast, cluster

    def select_competitor(self, coefficients: Tensor, competitor: int, cluster: Tensor) -> Tensor:
        """The part of coefficients that belongs to one competitor: that of their split, shared by its other side."""
        other = torch.full_like(cluster, competitor)
        part = coefficients.gather(1, self._column(cluster, other)[:, None])[:, 0]
        part = part / self.twins.to(coefficients)[cluster, competitor] * (cluster != competitor)
        return self._add(torch.zeros_like(coefficients), cluster, other, part)

    def relevance_by_competitor(
        self, coefficients: Tensor, scores: Tensor, cluster: Tensor, shift: float = 0.0
    ) -> Tensor:
        """Relevance (M, K) through each competitor; the leaves on the other side of a split share what flows there."""
        own = cluster[:, None]
        other = torch.arange(self.n_clusters, device=own.device).expand(len(own), -1)
        amount = coefficients.gather(1, self._column(own, other)) / self.twins.to(coefficients)[cluster]
        return (amount * self._activations(scores, own, other)).scatter(1, own, 0)

    def columns(self, own: Tensor) -> Tensor:
        """Columns (M, K - 1) of the splits: that of the leaf (M, 1) itself is left out."""
        index = torch.arange(self.n_clusters - 1, device=own.device)
        return index + (index >= own)

    def _column(self, own: Tensor, other: Tensor) -> Tensor:
        """Columns of the splits at which leaves part."""
        split = self.meeting[own, other]
        return split + (split >= own)

    def _activations(self, scores: Tensor, own: Tensor, other: Tensor) -> Tensor:
        """Activations of the splits at which leaves part; 0 where both are the same."""
        split = self.meeting[own, other]
        values = scores.gather(1, split) * self.side.to(scores)[own, split]
        return torch.where(own == other, 0, values)

    def _add(self, coefficients: Tensor, cluster: Tensor, other: Tensor, part: Tensor) -> Tensor:
        """Coefficients with ``part`` at the split at which two leaves part."""
        coefficients.scatter_(1, self._column(cluster, other)[:, None], part[:, None])
        return coefficients.scatter_(1, cluster[:, None], -part[:, None])


class PathEvidence(EvidenceLayer):
    r"""Linear layer and min-pool over the path to each leaf in one, in O(N K d): ``(N, d, ...)`` to ``(N, C, ...)``.

    .. math:: f_c = \min_{s \in \mathrm{path}(c)} h_{cs}, \qquad h_{cs} = \|x - \nu_s'\|^2 - \|x - \nu_s\|^2

    where a split :math:`s` of the path has the center :math:`\nu_s` on the side of the leaf, and :math:`\nu_s'` on the
    other. The splits compete (:class:`PathPooling`): :meth:`prepare` gives their activations.

    Parameters
    ----------
    center : Tensor, shape (d,)
        Origin of the coordinates in which the layer computes.
    weight, root : Tensor, shape (2 (K - 1), d)
        The centers of both sides of the splits, one split after the other (see :func:`zennit_neon.functional.scores`).
    paths : sequence of sequences of (int, bool)
        For each leaf the splits from the root of the tree, and whether it is on their first side.
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest; all if not given.
    beta : float, optional
        Stiffness of the min-take-most rule (Eq. 2).
    """

    pooling: PathPooling
    weight: Tensor
    root: Tensor

    def __init__(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        paths: Paths,
        clusters: Tensor | None = None,
        beta: float | None = None,
    ):
        clusters = torch.arange(len(paths), device=weight.device) if clusters is None else clusters
        pooling = PathPooling(paths, weight.dtype, weight.device)
        super().__init__(len(paths), clusters, beta, center=center, pooling=pooling)
        self.register_buffer("weight", weight[::2] - weight[1::2])
        self.register_buffer("root", root[::2] + root[1::2])

    def splits(self, points: Tensor) -> Tensor:
        """Activations of the splits, positive on the first side of each: (N, d, ...) to (N, K - 1, ...)."""
        return functional.scores(points, self.weight.to(points), self.root.to(points))

    def scores(self, points: Tensor) -> Tensor:
        """Evidence where it is negative, and 0 for the leaf of the point: the largest score, ahead by its evidence."""
        return self.evidence(self.splits(points)).clamp(max=0)

    def prepare(self, points: Tensor) -> Prepared:
        """Points with the activations of the splits."""
        return Prepared(points, self.splits(points))

    def redistribute(self, points: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance of points (M, d) by the midpoint rule, from coefficients (M, K) for the explained leaf (M,)."""
        passed, _ = self.unit_coefficients(points, coefficients, cluster)
        return functional.redistribute(points, passed, self.weight.to(points), self.root.to(points), None, out)

    def pool_units(self, units: Tensor) -> Tensor:
        """The linear units are the splits."""
        return units

    def unit_coefficients(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (M, K - 1) of the splits; their roots are midpoints already, so there is no part of its own."""
        columns = self.pooling.columns(cluster[:, None])
        return -coefficients.gather(1, columns) * self.pooling.side.to(coefficients)[cluster], None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As for any module; up to release 0.1 the tensors of the pooling were this layer's own."""
        for name in ("path", "turn", "side", "meeting", "twins"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}pooling.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={self.n_clusters}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"
