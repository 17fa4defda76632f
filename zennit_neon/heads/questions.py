"""Questions to a head and its answers in terms of labels; heads themselves use positions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..utils.arrays import Array
from ..utils.labels import NOISE, named, place_of, positions
from ..utils.model_state import say
from ..utils.tables import Table
from ..utils.validation import check_real
from .base import Head

__all__ = ["asked_of", "check_fidelity", "labels_of", "leave_out", "named_clusters"]


def asked_of(
    cluster: Any, competitor: Any, head: Head, shape: tuple[int, ...], index: Any = None
) -> tuple[Tensor | None, int | None]:
    """Positions of the clusters to explain (None for the assigned ones) and of the competitor, by their labels."""
    rival = None if competitor is None else place_of(competitor, head.labels, head.n_clusters, "competitor")
    chosen = None if cluster is None else positions(cluster, head.labels, head.n_clusters, "cluster", shape, index)
    if rival is not None and chosen is not None and chosen.numel() and bool((chosen == rival).all()):
        raise ValueError(f"competitor must be another cluster than the explained one, got {competitor!r} for both")
    return chosen, rival


def labels_of(head: Head) -> tuple[Any, ...]:
    """Labels of the clusters of a head: its names, or else their numbers."""
    return tuple(range(head.n_clusters)) if head.labels is None else head.labels


def named_clusters(own: Tensor, head: Head, table: Table) -> Any:
    """The clusters of points by their labels, as users see them."""
    found = named(own, head.labels)
    return table.plain(found.to(table.X.device) if table.is_tensor else found) if isinstance(found, Tensor) else found


def leave_out(points: Array | None, relevance: Tensor, evidence: Tensor, own: Tensor) -> None:
    """Take the explanation of some points away: they belong to no cluster."""
    if points is not None and points.any():
        where = torch.from_numpy(points)
        relevance[where.to(relevance.device)] = float("nan")
        evidence[where.to(evidence.device)] = float("nan")
        own[where] = NOISE


def check_fidelity(head: Head, least: float) -> None:
    """Warn if a head predicts few of the labels that it is fitted to."""
    if not 0 <= check_real(least, "min_fidelity", "a number from 0 to 1") <= 1:
        raise ValueError(f"min_fidelity must be a number from 0 to 1, got {least!r}")
    complaint = None if head.fidelity is None else head.fidelity.complaint(least, head.labels)
    if complaint is not None:
        say(complaint)
